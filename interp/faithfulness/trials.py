"""Claims pushed out where they are read, at several doses, along the directions of several origins, beside controls as long."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Bool
from torch import Tensor

from interp.faithfulness.claims import CONCEPT_OF, Claims
from interp.faithfulness.doses import DOSES, RANDOM, Arm, Directions, Effect, Nudge, averaged, controls, pushed, swap, unembedding, written
from models.hookpoints import HookPoint
from models.language_model import LanguageModel

PUSH = "along the claim"
Asked = Literal["flips", "use"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """The effect of one push on all claims of a kind."""

    arm: str
    """Whose directions; of a control, whose push it is as long as."""
    push: str
    point: HookPoint
    dose: float
    effect: Effect


@dataclass(frozen=True, eq=False)
class Tested:
    """All pushes of the claims of one kind."""

    kind: str
    claims: Claims
    written: Effect
    outcomes: list[Outcome]

    @property
    def arms(self) -> tuple[str, ...]:
        """Where the directions come from."""
        return tuple(dict.fromkeys(one.arm for one in self.outcomes))

    @property
    def reported(self) -> Bool[Tensor, " claim"]:
        """Which claims are of boards that nothing was chosen on."""
        return self.claims.sample % 2 == 1

    def choice(self, arm: str, asked: Asked) -> HookPoint:
        """Returns the hook point where an arm's push flips most cells, or is used most, over all doses, on the boards with even numbers."""
        scores: dict[HookPoint, float] = {}
        for one in self.outcomes:
            if (one.arm, one.push) == (arm, PUSH):
                quantity = one.effect.flipped if asked == "flips" else one.effect.use
                scores[one.point] = scores.get(one.point, 0.0) + float(quantity[~self.reported].mean())
        return max(scores, key=lambda point: scores[point])

    def of(self, arm: str, point: HookPoint) -> Iterator[Outcome]:
        """Yields an arm's pushes, and their controls, at a hook point."""
        yield from (one for one in self.outcomes if (one.arm, one.point) == (arm, point))


@dataclass(frozen=True)
class How:
    """How claims are tested."""

    doses: tuple[float, ...] = DOSES
    """Must have 1, the natural length, at which all controls are made."""
    draws: int = 2
    """Random directions that are averaged over."""
    seed: int = 0
    on_step: Callable[[int, int], None] = field(default=lambda done, total: None)


def _rival(concept: str, name: str, point: HookPoint, arms: Mapping[str, Arm]) -> Directions | None:
    """Returns another concept's directions at a hook point, of the same arm if it has them; None where nobody does."""
    for arm in (arms[name], *arms.values()):
        for other in sorted(set(CONCEPT_OF.values()) - {concept}):
            if (other, point) in arm:
                return arm[other, point]
    return None


def push_claims(model: LanguageModel, kind: str, claims: Claims, arms: Mapping[str, Arm], how: How) -> Tested:
    """Returns the effects of pushing claims along each arm's directions, at every hook point and dose that it has, beside controls.

    All controls are made at the natural length; at other doses random directions, where the arm flips most and where it is used most.
    """
    concept, output = CONCEPT_OF[kind], unembedding(model)
    tested = Tested(kind, claims, written(model, claims), [])

    def push(arm: str, name: str, point: HookPoint, dose: float, several: Sequence[Nudge]) -> None:
        effect = averaged([pushed(model, claims, point, one, dose) for one in several])
        tested.outcomes.append(Outcome(arm, name, point, dose, effect))

    for arm, directions in arms.items():
        randoms: dict[HookPoint, list[Nudge]] = {}
        for point in sorted(point for name, point in directions if name == concept):
            here, rival = directions[concept, point], _rival(concept, arm, point, arms)
            for dose in how.doses:
                push(arm, PUSH, point, dose, [Nudge(swap(here.vectors, claims), claims.cell)])
            floors = controls(here, rival, output, claims, draws=how.draws, seed=how.seed)
            for name, several in floors.items():
                push(arm, name, point, 1.0, several)
            randoms[point] = floors[RANDOM][:1]
        for point in {tested.choice(arm, "flips"), tested.choice(arm, "use")} if randoms else ():
            for dose in set(how.doses) - {1.0}:
                push(arm, RANDOM, point, dose, randoms[point])
    return tested
