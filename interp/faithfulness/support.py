"""What each kind of statement has earned by the causal test, and the test as one of the battery."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.concepts import Concept, Sites, labels_of
from interp.faithfulness.base import Case, FaithfulnessError, FaithfulnessTest
from interp.faithfulness.claims import claims_of, middle_calls
from interp.faithfulness.doses import FLOORS, Directions, directions_of
from interp.faithfulness.statements import CONCEPT_OF, FLIPPED, PUSH, USED, Arm, How, statement_statistics
from interp.harvest import activations_at
from interp.narration import Support, narrate
from interp.reading import Reader, read
from interp.report import Estimate
from interp.statistics import Coordinate, Statistic
from models.hookpoints import HookPoint, resid_post
from models.tasks.sudoku.generator import Puzzles
from models.tasks.sudoku.task import MASK_ID, SOLUTION, SUDOKU
from probes.linear import fit_mass_mean

MOST = 16
"""At most so many boards a kind of statement and third of the run."""
OF_READERS, OF_MEANS = "readers", "class means"
"""Where directions come from: the readers given, at their hook points; the model's own class means, after every layer."""


def _exceeds(statistic: Statistic, panel: Mapping[str, Coordinate], least: float) -> bool:
    """Returns whether a push of natural length is above every control, interval from interval, and reaches ``least``."""
    found = {str(one.at["push"]): one.estimate for one in statistic.values if {**panel, "dose": 100}.items() <= one.at.items()}
    push = found[PUSH]
    return push.n >= FEWEST and push.value >= least and push.low > max([0.0, *(found[name].high for name in FLOORS if name in found)])


FEWEST = 5
"""Fewer boards earn a kind nothing."""
DECISIVE = 0.5
"""The least share of flips at the natural length that is called decisive."""


def support(statistics: Sequence[Statistic]) -> dict[str, Support]:
    """Returns what each kind of statement has earned, from its dose-response on boards that nothing was chosen on.

    ``decisive``: at the natural length most cells take the digit pushed towards, and the interval lies above that of every control of
    equal length. ``used``: what the rules demand elsewhere happens in the same call, its interval above 0 and above every control's.
    A kind may be used without deciding its own cell: a reason is read where nothing need be written. Else ``readable``.
    """
    statistic = next(one for one in statistics if one.name == "statement_doses")
    found: dict[str, Support] = {}
    for kind in dict.fromkeys(str(one.at["kind"]) for one in statistic.values):
        used = _exceeds(statistic, {"kind": kind, "outcome": USED}, 0.0)
        decisive = _exceeds(statistic, {"kind": kind, "outcome": FLIPPED}, DECISIVE)
        found[kind] = "used" if used else "decisive" if decisive else "readable"
    return found


def statement_findings(statistics: Sequence[Statistic]) -> list[str]:
    """Returns in sentences, for each kind, what the push did on boards that nothing was chosen on, beside its strongest control."""
    return list(_sentences(next(one for one in statistics if one.name == "statement_doses"), support(statistics)))


def _sentences(statistic: Statistic, earned: Mapping[str, Support]) -> Iterator[str]:
    for kind in dict.fromkeys(str(one.at["kind"]) for one in statistic.values):
        said = []
        for outcome in (FLIPPED, USED):
            at: dict[str, Coordinate] = {"kind": kind, "outcome": outcome, "dose": 100}
            push = statistic.at(**at, push=PUSH)
            floor = max((statistic.at(**at, push=name) for name in FLOORS), key=lambda one: one.high)
            said.append(f"{outcome} {_shown(push)} (strongest control {_shown(floor)})")
        yield f"{kind}: a push of natural length: {'; '.join(said)}; n = {push.n} boards. Earned: {earned[kind]}."


def _shown(one: Estimate) -> str:
    return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"


def _sites(case: Case, puzzles: Puzzles) -> Sites:
    """Returns every unwritten cell of the boards with even numbers in the calls that are tested."""
    truth, parts = SUDOKU.encode(puzzles), []
    for step in middle_calls(case.run):
        tokens = torch.from_numpy(case.run.tokens(step - 1))
        sample, cell = torch.nonzero((tokens[:, SOLUTION] == MASK_ID) & (torch.arange(len(tokens)) % 2 == 0)[:, None], as_tuple=True)
        parts.append((tokens[sample], truth[sample], cell + SOLUTION.start, sample))
    seen, truth, position, sample = (torch.cat(column) for column in zip(*parts, strict=True))
    return Sites.unwritten(seen, truth, position, sample, torch.zeros(len(sample)))


def _means(concept: Concept, x: Float[Tensor, "row d_model"], y: Bool[Tensor, "row head"]) -> Directions:
    return directions_of(fit_mass_mean(x, y, heads=concept.heads, fitted_on="the runs tested"), x, y)


def arms_of(case: Case, puzzles: Puzzles, readers: Mapping[str, Reader]) -> dict[str, Arm]:
    """Returns the directions of the model's own class means after every layer, and those of readers where they read.

    Lengths, and the class means themselves, are of the boards with even numbers in the calls tested.
    """
    sites = _sites(case, puzzles)
    points = sorted({resid_post(layer) for layer in range(case.model.n_layers)} | {reader.point for reader in readers.values()})
    canvases, row = torch.unique(sites.seen, dim=0, return_inverse=True)
    found = activations_at(case.model, canvases, row, sites.position, points)
    means: dict[tuple[str, HookPoint], Directions] = {}
    given: dict[tuple[str, HookPoint], Directions] = {}
    for reader in readers.values():
        concept = reader.concept
        labels = labels_of(concept, sites)
        means |= {(concept.name, point): _means(concept, found[point], labels) for point in points}
        given[concept.name, reader.point] = directions_of(reader.probe, found[reader.point], labels)
    return {OF_MEANS: means, OF_READERS: given}


def _measure(case: Case) -> list[Statistic]:
    asked = sorted(set(CONCEPT_OF.values()))
    if case.puzzles is None or case.readers is None or not set(asked) <= set(case.readers):
        have = ", ".join(case.readers or ()) or "none"
        raise FaithfulnessError(f"the readers are {have}; statements are tested with boards and readers of {', '.join(asked)}")
    readers = {name: case.readers[name] for name in asked}
    statements = narrate(read(case.model, case.run, readers), case.puzzles.solutions)
    claims = claims_of(case.model, case.run, statements, tuple(CONCEPT_OF), most=MOST, seed=case.seed)
    how = How(seed=case.seed, on_step=case.on_step)
    return statement_statistics(case.model, case.run, claims, arms_of(case, case.puzzles, readers), how)


STATEMENTS = FaithfulnessTest(
    title="Is what a statement claims used, or only readable?",
    about=(
        "What a statement claims is pushed out, and another digit in, where it is read, in one call. A faithful reason is used: what the "
        "rules demand of other cells happens in the same call, beyond every push of equal length along random directions, along the same "
        "concept's directions of other digits, or at a far cell."
    ),
    measure=_measure,
    findings=statement_findings,
    needs_truth=True,
    needs_readers=True,
)
