"""Are statements about a run merely readable, do they decide the cell's own output, or does the rest of the network use them?

What a statement claims is changed where it is read, in one call, and three things are looked at: the cell's own digit in that call, what
the rules demand of other cells in that call, and the rest of the run, in which nothing is pushed any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.faithfulness.aftermath import after_statistic
from interp.faithfulness.claims import PARTS, Claims
from interp.faithfulness.doses import (
    DOSES,
    FLOORS,
    OUTPUT,
    RANDOM,
    Directions,
    Effect,
    Nudge,
    averaged,
    controls,
    pushed,
    swap,
    unembedding,
    written,
)
from interp.report import Estimate
from interp.scoring import estimate
from interp.statistics import Coordinate, Measured, Role, Statistic
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from models.trajectory import Trajectory
from probes.metrics import bootstrap_mean, bootstrap_ratio

CONCEPT_OF = {"decided": "digit", "only_candidate": "candidates", "only_place": "candidates", "elimination": "candidates"}
"""Kinds of statements that can be tested, and the concept whose reader they rest on."""
WRITTEN = "the digit written"
FLIPPED, USED = "own digit becomes the other", "use in the call over use once written"
"""The outcomes of the dose-response."""

Arm = Mapping[tuple[str, HookPoint], Directions]
"""Directions of one origin, by concept and hook point."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """The effect of one push on all claims of a kind."""

    line: str
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
    arms: tuple[str, ...]
    """The lines that are no controls."""

    def at(self, line: str, point: HookPoint, dose: float) -> Effect | None:
        """Returns the effect of one push; None where it was not made."""
        found = [one.effect for one in self.outcomes if (one.line, one.point, one.dose) == (line, point, dose)]
        return found[0] if found else None

    def choice(self, outcome: str) -> tuple[str, HookPoint]:
        """Returns the arm and hook point whose push has most of an outcome, over all doses, on the boards with even numbers."""
        chosen_on = self.claims.sample % 2 == 0
        scores: dict[tuple[str, HookPoint], float] = {}
        for one in self.outcomes:
            if one.line in self.arms:
                quantity = one.effect.flipped if outcome == FLIPPED else one.effect.use
                scores[one.line, one.point] = scores.get((one.line, one.point), 0.0) + float(quantity[chosen_on].mean())
        return max(scores, key=lambda place: scores[place])


@dataclass(frozen=True)
class How:
    """How claims are tested."""

    doses: tuple[float, ...] = DOSES
    """Must have 1, the natural length, at which controls are compared."""
    draws: int = 2
    """Random directions that are averaged over."""
    seed: int = 0
    on_step: Callable[[int, int], None] = field(default=lambda done, total: None)


def push_claims(model: LanguageModel, kind: str, claims: Claims, arms: Mapping[str, Arm], how: How) -> Tested:
    """Returns the effects of pushing claims along each arm's directions, at every hook point and dose that it has, beside controls.

    Controls are as long as the longest arm's push at the hook point.
    """
    concept = CONCEPT_OF[kind]
    points = sorted({point for arm in arms.values() for name, point in arm if name == concept})
    output, outcomes = unembedding(model), []
    for point in points:
        present = {name: arm[concept, point] for name, arm in arms.items() if (concept, point) in arm}
        floors = controls(list(present.values()), output, claims, draws=how.draws, seed=how.seed)
        for dose in how.doses:
            nudges = {name: [Nudge(swap(directions.vectors, claims), claims.cell)] for name, directions in present.items()}
            nudges |= floors if dose == 1 else {RANDOM: floors[RANDOM][:1]}
            for line, several in nudges.items():
                effect = averaged([pushed(model, claims, point, one, dose) for one in several])
                outcomes.append(Outcome(line, point, dose, effect))
    return Tested(kind, claims, written(model, claims), outcomes, tuple(arms))


def _mean(values: Tensor, claims: Claims, keep: Bool[Tensor, " claim"], seed: int) -> Estimate | None:
    keep = keep & torch.isfinite(values)
    return estimate(bootstrap_mean(values[keep], claims.sample[keep], seed=seed)) if keep.any() else None


def _measured(at: Mapping[str, Coordinate], found: Estimate | None) -> list[Measured]:
    return [] if found is None else [Measured(at=dict(at), estimate=found)]


def _by_layer(tested: Sequence[Tested], quantity: Callable[[Effect], Tensor], seed: int, *, reference: bool) -> list[Measured]:
    """Returns a quantity of every push of natural length, and (if asked) of the digit written."""
    values: list[Measured] = []
    for one in tested:
        every = torch.ones(len(one.claims), dtype=torch.bool)
        for outcome in one.outcomes:
            at: dict[str, Coordinate] = {"kind": one.kind, "push": outcome.line, "layer": outcome.point.layer or 0}
            if outcome.dose == 1:
                values += _measured(at, _mean(quantity(outcome.effect), one.claims, every, seed))
        for layer in sorted({outcome.point.layer or 0 for outcome in one.outcomes}) if reference else ():
            at = {"kind": one.kind, "push": WRITTEN, "layer": layer}
            values += _measured(at, _mean(quantity(one.written), one.claims, every, seed))
    return values


def _roles(values: Sequence[Measured]) -> dict[str, Role]:
    lines = {str(one.at["push"]) for one in values}
    floors: dict[str, Role] = {name: "floor" for name in FLOORS if name in lines}
    return floors | {name: "reference" for name in (OUTPUT, WRITTEN) if name in lines}


def layer_statistics(tested: Sequence[Tested], seed: int) -> list[Statistic]:
    """Returns, by kind and layer, what pushes of natural length do: to the cell itself, to what the rules bind to it, to forced cells."""
    asked: tuple[tuple[str, str, str, str, Callable[[Effect], Tensor], bool], ...] = (
        ("statement_flips", "Does a claim decide the cell's own digit?", ABOUT_FLIPS, "share of cells", lambda one: one.flipped, False),
        ("statement_use", "Do other cells use a claim within the call?", ABOUT_USE, "nats", lambda one: one.use, True),
        ("statement_forced", "Does a forced cell follow a claim?", ABOUT_FORCED, "nats", lambda one: one.consequence, True),
    )
    found = []
    for name, title, about, unit, quantity, reference in asked:
        values = _by_layer(tested, quantity, seed, reference=reference)
        if values:
            found.append(
                Statistic(
                    name=name,
                    title=title,
                    about=f"{PUSHED} {about}",
                    unit=unit,
                    panels=("kind",),
                    lines=("push",),
                    x="layer",
                    roles=_roles(values),
                    values=values,
                )
            )
    return found


def _ratio(effect: Effect, one: Tested, keep: Bool[Tensor, " claim"], seed: int) -> Estimate | None:
    """Returns the use within the call as a share of the use once the digit is written."""
    if not keep.any():
        return None
    return estimate(bootstrap_ratio(effect.use[keep], one.written.use[keep], one.claims.sample[keep], seed=seed))


def dose_statistic(tested: Sequence[Tested], seed: int) -> Statistic:
    """Returns the dose-response of each kind and outcome, at the arm and layer that have most of it on other boards."""
    values: list[Measured] = []
    places = []
    for one in tested:
        reported = one.claims.sample % 2 == 1
        for name in (FLIPPED, USED):
            arm, point = one.choice(name)
            places.append(f"{one.kind}, {name}: {arm}, layer {point.layer}")
            for outcome in one.outcomes:
                if outcome.point != point or outcome.line not in (arm, *FLOORS, OUTPUT):
                    continue
                mean = _mean(outcome.effect.flipped, one.claims, reported, seed)
                found = mean if name == FLIPPED else _ratio(outcome.effect, one, reported, seed)
                line = PUSH if outcome.line == arm else outcome.line
                values += _measured({"kind": one.kind, "outcome": name, "push": line, "dose": round(outcome.dose * 100)}, found)
    return Statistic(
        name="statement_doses",
        title="How long must a push be?",
        about=f"{PUSHED} {ABOUT_DOSES} Chosen: {'; '.join(places)}.",
        unit="share",
        panels=("kind", "outcome"),
        lines=("push",),
        x="dose",
        log_x=True,
        roles=_roles(values),
        values=values,
    )


PUSH = "along the claim"


def part_statistic(tested: Sequence[Tested], seed: int) -> Statistic:
    """Returns how much of the use comes within the call, by third of the run, at the arm and layer chosen on other boards."""
    values: list[Measured] = []
    for one in tested:
        arm, point = one.choice(USED)
        for part, name in enumerate(PARTS):
            keep = (one.claims.part == part) & (one.claims.sample % 2 == 1)
            for line in (arm, *FLOORS):
                effect = one.at(line, point, 1.0)
                if effect is not None:
                    at = {"kind": one.kind, "push": PUSH if line == arm else line, "part": name}
                    values += _measured(at, _ratio(effect, one, keep, seed))
    return Statistic(
        name="statement_parts",
        title="When do other cells use a claim before it is written?",
        about=f"{PUSHED} {ABOUT_PARTS}",
        unit="use in the call over use once written",
        panels=("kind",),
        lines=("push",),
        x="part",
        roles=_roles(values),
        values=values,
    )


PUSHED = (
    "What a statement claims is pushed out, and another digit in, at the position where it is read, in one call. A push of length 1 is as "
    "long as the classes' means are apart along the reader's directions. Controls are as long as the longest push at the layer: random "
    "directions; the same concept's directions for two digits that the claim is not about; the push itself at an unwritten cell that "
    "shares no unit. For comparison, the direction that the output reads. One claim a board and third of the run; intervals resample "
    "boards."
)
ABOUT_FLIPS = "Share of cells whose likeliest digit becomes the one pushed towards, in the same call."
ABOUT_USE = (
    "What the rules demand in the same call: for a claim about its own cell, that unwritten cells of its units lose the digit pushed "
    "towards and win the one pushed out; for a reason read at another cell, that the named cell loses the digit pushed in there. Less the "
    "same on unwritten cells that share no unit. For comparison, writing that digit into the cell instead."
)
ABOUT_FORCED = (
    "Unwritten cells of the claim's units with two candidates, one of them the digit pushed towards: how far the log-probability of the "
    "other candidate rises over it, in the same call. For comparison, writing that digit into the cell instead."
)
ABOUT_DOSES = (
    "Directions and layer are those with most of the outcome over all doses on boards with even numbers; the figures are of those with odd "
    "numbers. "
    "Doses are in hundredths of the natural length. Controls other than a random direction were made at 100 only."
)
ABOUT_PARTS = "Directions and layer (of most use) were chosen on boards with even numbers; the figures are of those with odd numbers."


def statement_statistics(
    model: LanguageModel, run: Trajectory, claims: Mapping[str, Claims], arms: Mapping[str, Arm], how: How
) -> list[Statistic]:
    """Returns everything that the statement-level causal test measures.

    Args:
        model: The model of the run.
        run: What the claims are about.
        claims: By kind (``CONCEPT_OF``); how the run goes on after a push is measured for the first.
        arms: Where directions come from, such as probes of the causal twin or native ones.
        how: Doses, draws and seed.
    """
    tested = []
    for done, (kind, some) in enumerate(claims.items()):
        how.on_step(done, len(claims) + 1)
        tested.append(push_claims(model, kind, some, arms, how))
    how.on_step(len(claims), len(claims) + 1)
    found = [*layer_statistics(tested, how.seed), dose_statistic(tested, how.seed), part_statistic(tested, how.seed)]
    arm, point = tested[0].choice(FLIPPED)
    directions = arms[arm][CONCEPT_OF[tested[0].kind], point].vectors
    found.append(after_statistic(model, run, tested[0].claims, point, directions, how.seed))
    how.on_step(len(claims) + 1, len(claims) + 1)
    return found
