"""What each kind of statement has earned by the causal test, and the test as one of the battery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.concepts import Concept, Sites, labels_of
from interp.faithfulness.base import Case, FaithfulnessError, FaithfulnessTest
from interp.faithfulness.claims import CONCEPT_OF, PARTS, Claims, candidates_of, claims_of, middle_calls
from interp.faithfulness.doses import FLOORS, OTHER_CONCEPT, RANDOM, Arm, Directions, directions_of, patterns_of
from interp.faithfulness.statements import statement_statistics
from interp.faithfulness.trials import PUSH, How
from interp.harvest import activations_at
from interp.narration import Support, narrate
from interp.reading import Reader, Reading, read
from interp.reading.readers import SOURCES, Source
from interp.report import Estimate
from interp.scoring import estimate
from interp.statistics import Coordinate, Measured, Statistic
from models.hookpoints import HookPoint, resid_post
from models.tasks.sudoku.generator import Puzzles
from models.tasks.sudoku.task import MASK_ID, SOLUTION, SUDOKU
from probes.fitters import FITTERS
from probes.metrics import bootstrap_mean

MOST = 16
"""At most so many boards a kind of statement and third of the run."""
OF_SOURCE: dict[Source, str] = {"ar": "AR-trained", "diffusion": "native", "random": "random"}
PATTERNS, WEIGHTS = "patterns", "weights"
"""Where directions come from: what varies with what readers say, at their hook points, and their weights themselves; ..."""
FITS = ("mass_mean",)
"""... and fits to the diffusion model itself, after every layer."""
FEWEST = 5
"""Fewer boards earn a kind nothing."""
DECISIVE = 0.5
"""The least share of flips at the natural length that is called decisive."""
AIM, FEW = 0.95, 0.02
"""The share of flips that the smallest dose is asked for, and that of random directions that it must stay below."""


def _named(statistics: Sequence[Statistic], name: str) -> Statistic:
    return next(one for one in statistics if one.name == name)


def _arms(statistic: Statistic, kind: str) -> tuple[str, ...]:
    """Returns where directions for a kind come from; the first is what it is judged by."""
    return tuple(dict.fromkeys(str(one.at["directions"]) for one in statistic.values if one.at["kind"] == kind))


def _kinds(statistic: Statistic) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(one.at["kind"]) for one in statistic.values))


def _pushes(statistic: Statistic, at: Mapping[str, Coordinate], dose: int = 100) -> dict[str, Measured]:
    """Returns what was measured at a dose, by push."""
    return {str(one.at["push"]): one for one in statistic.values if {**at, "dose": dose}.items() <= one.at.items()}


def _exceeds(found: Mapping[str, Measured], least: float) -> bool:
    """Returns whether a push of natural length is above every control, interval from interval, and reaches ``least``."""
    push = found[PUSH].estimate
    return push.n >= FEWEST and push.value >= least and push.low > max([0.0, *(found[name].estimate.high for name in FLOORS)])


def support(statistics: Sequence[Statistic]) -> dict[str, Support]:
    """Returns what each kind of statement has earned, from its dose-response on boards that nothing was chosen on.

    A kind is judged by the readers that its account rests on (by their patterns: weights say how to read, and need not act), at the
    layers that they read, and not by the model's own directions beside them. ``decisive``: at the natural length most cells take the
    digit pushed towards, and the interval lies above that of every control of equal length that does not say what the claim says.
    ``used``: what the rules demand elsewhere happens in the same call, its interval above 0 and above every such control's. A kind may
    be used without deciding its own cell: a reason is read where nothing need be written. Else ``readable``. Other directions for the
    same digits are no bar: what they do, ``statement_findings`` says.
    """
    flips, use = _named(statistics, "statement_doses"), _named(statistics, "statement_use_doses")
    found: dict[str, Support] = {}
    for kind in _kinds(flips):
        at = {"kind": kind, "directions": _arms(flips, kind)[0]}
        decisive = _exceeds(_pushes(flips, at), DECISIVE)
        found[kind] = "used" if _exceeds(_pushes(use, at), 0.0) else "decisive" if decisive else "readable"
    return found


def statement_findings(statistics: Sequence[Statistic]) -> list[str]:
    """Returns in sentences, for each kind, what pushes did on boards that nothing was chosen on, beside their strongest controls."""
    flips, use, earned = _named(statistics, "statement_doses"), _named(statistics, "statement_use_doses"), support(statistics)
    parts = _named(statistics, "statement_parts")
    found = []
    for kind in _kinds(flips):
        said = []
        for arm in _arms(flips, kind):
            at = {"kind": kind, "directions": arm}
            flipped = f"the cell says the other digit: {_beside(_pushes(flips, at))}, {_least_dose(flips, at)}"
            used = f"use in the call over use once written: {_beside(_pushes(use, at))}, {_when(parts, at)}"
            said.append(f"{arm}: {flipped}; {used}.")
        n = max(one.estimate.n for one in flips.values if one.at["kind"] == kind)
        said.append(f"Judged by {_arms(flips, kind)[0]}. Earned: {earned[kind]}.")
        found.append(f"{kind}, pushed by its natural length on {n} boards. {' '.join(said)}")
    return found


def _beside(found: Mapping[str, Measured]) -> str:
    """Returns a push, the layer it was made after, its strongest control, and whether another concept's directions do as much."""
    push = found[PUSH]
    control = max(FLOORS, key=lambda name: found[name].estimate.high)
    text = f"{_shown(push.estimate)} after layer {push.at['layer']} (strongest control, {control}: {_shown(found[control].estimate)}"
    if OTHER_CONCEPT in found:
        rival = found[OTHER_CONCEPT].estimate
        verdict = "less" if rival.high < push.estimate.low else "more" if rival.low > push.estimate.high else "as much"
        text += f"; {OTHER_CONCEPT} do {verdict}: {_shown(rival)}"
    return f"{text})"


def _least_dose(flips: Statistic, at: Mapping[str, Coordinate]) -> str:
    """Returns the smallest dose that does what is aimed at."""
    doses = sorted({int(one.at["dose"]) for one in flips.values})
    for dose in doses:
        found = {name: one.estimate.value for name, one in _pushes(flips, at, dose).items()}
        if found[PUSH] >= AIM and found[RANDOM] < FEW:
            return f"{AIM:.0%} from dose {dose / 100:g} on"
    return f"{AIM:.0%} (random below {FEW:.0%}) at no dose up to {doses[-1] / 100:g}"


def _when(parts: Statistic, at: Mapping[str, Coordinate]) -> str:
    """Returns the use by third of the run."""
    values = [one for one in parts.values if {**at, "push": PUSH}.items() <= one.at.items()]
    return ", ".join(f"{one.at['part']} {one.estimate.value:.2f}" for one in values)


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


def _fitted(concept: Concept, fit: str, x: Float[Tensor, "row d_model"], y: Bool[Tensor, "row head"]) -> Directions:
    return directions_of(FITTERS[fit](x, y, heads=concept.heads, fitted_on="the runs tested"), x, y)


def arms_of(case: Case, puzzles: Puzzles, readers: Mapping[str, Reader], fits: Sequence[str] = FITS) -> dict[str, Arm]:
    """Returns the patterns of readers where they read, their weights there, then native fits after every layer, by origin.

    Lengths, and the native fits themselves, are of the boards with even numbers in the calls tested. Several readers of one concept may
    read at several hook points.
    """
    sites = _sites(case, puzzles)
    points = sorted({resid_post(layer) for layer in range(case.model.n_layers)} | {reader.point for reader in readers.values()})
    canvases, row = torch.unique(sites.seen, dim=0, return_inverse=True)
    found = activations_at(case.model, canvases, row, sites.position, points)
    concepts = {reader.concept.name: reader.concept for reader in readers.values()}
    labels = {name: labels_of(concept, sites) for name, concept in concepts.items()}
    arms: dict[str, dict[tuple[str, HookPoint], Directions]] = {}
    ordered = sorted(readers.values(), key=lambda one: SOURCES.index(one.source))
    for form, made in ((PATTERNS, patterns_of), (WEIGHTS, directions_of)):
        for reader in ordered:
            name, point = reader.concept.name, reader.point
            arms.setdefault(f"{OF_SOURCE[reader.source]} {form}", {})[name, point] = made(reader.probe, found[point], labels[name])
    for fit in fits:
        arms[f"native {fit}"] = {
            (name, point): _fitted(concept, fit, found[point], labels[name]) for name, concept in concepts.items() for point in points
        }
    return dict(arms)


def _as_claimed(kind: str, reading: Reading, claims: Claims) -> Bool[np.ndarray, " claim"]:
    """Returns which claims are read, above the threshold, in the call and at the place where they are tested."""
    sample, step, cell, digit = (column.numpy() for column in (claims.sample, claims.step, claims.cell, claims.stated))
    said = reading.readable(CONCEPT_OF[kind]).values[sample, step, cell]
    stated = said[np.arange(len(digit)), digit - 1]
    return stated & (said.sum(1) == 1) if kind == "only_candidate" else stated if kind == "decided" else ~stated


def _wrongly(kind: str, reading: Reading, step: int) -> Float[np.ndarray, " sample"]:
    """Returns the share of the places of a call at which a claim of a kind is false and is read all the same; NaN where there is none."""
    run = reading.trajectory
    said, tokens = reading.readable(CONCEPT_OF[kind]).values[:, step], torch.from_numpy(run.tokens(step - 1))
    free = tokens[:, SOLUTION].numpy() == MASK_ID
    if kind == "decided":
        end = run.tokens(-1)[:, SOLUTION]
        false, read_there = free, (said & (np.arange(1, 10) != end[..., None])).any(2)
    else:
        candidates = candidates_of(tokens)
        if kind == "only_candidate":
            false, read_there = free & (candidates.sum(2) > 1), said.sum(2) == 1
        else:
            false, read_there = free[..., None] & candidates, ~said
    n = false.reshape(len(false), -1).sum(1)
    return (false & read_there).reshape(len(false), -1).sum(1) / np.where(n > 0, n, np.nan)


READ_TRUE, READ_FALSE = "read where it is stated", "read where it is false"


def readable_statistic(reading: Reading, claims: Mapping[str, Claims], seed: int) -> Statistic:
    """Returns how often claims are read in the calls they are tested in, by kind and third of the run, beside false alarms."""
    values = []
    for kind, some in claims.items():
        read_at = torch.from_numpy(_as_claimed(kind, reading, some))
        for part, name in enumerate(PARTS):
            keep = some.part == part
            if not keep.any():
                continue
            false = torch.from_numpy(_wrongly(kind, reading, int(some.step[keep][0])))
            for line, shares in ((READ_TRUE, read_at[keep]), (READ_FALSE, false[torch.isfinite(false)])):
                if len(shares):
                    at: dict[str, Coordinate] = {"kind": kind, "claim": line, "part": name}
                    values.append(Measured(at=at, estimate=estimate(bootstrap_mean(shares, seed=seed))))
    return Statistic(
        name="statement_readable",
        title="Is what a statement claims read in the call it is tested in?",
        about=(
            "Nothing is pushed. Share of the statements tested whose claim is above its reader's threshold in that call, at the place that "
            "is pushed: a digit (decided), one digit alone (only_candidate), or a digit as excluded (reasons that rest on other cells). "
            "Beside it, the mean over boards of the share of places at which that claim is false but read: unwritten cells that end with "
            "another digit, that have several candidates, or have that candidate. Intervals resample boards."
        ),
        unit="share",
        panels=("kind",),
        lines=("claim",),
        x="part",
        roles={READ_FALSE: "floor"},
        values=values,
    )


def _measure(case: Case) -> list[Statistic]:
    asked = sorted(set(CONCEPT_OF.values()))
    if case.puzzles is None or case.readers is None or not set(asked) <= set(case.readers):
        have = ", ".join(case.readers or ()) or "none"
        raise FaithfulnessError(f"the readers are {have}; statements are tested with boards and readers of {', '.join(asked)}")
    reading = read(case.model, case.run, {name: case.readers[name] for name in asked})
    claims = claims_of(case.model, case.run, narrate(reading), tuple(CONCEPT_OF), most=MOST, seed=case.seed)
    pushed_by = {name: reader for name, reader in case.readers.items() if reader.concept.name in asked}
    how = How(seed=case.seed, on_step=case.on_step)
    found = statement_statistics(case.model, case.run, claims, arms_of(case, case.puzzles, pushed_by), how)
    return [readable_statistic(reading, claims, case.seed), *found]


STATEMENTS = FaithfulnessTest(
    title="Is what a statement claims used, or only readable?",
    about=(
        "What a statement claims is pushed out, and another digit in, where it is read, in one call. A faithful reason is used: what the "
        "rules demand of other cells happens in the same call, beyond every push of equal length along random directions, along the same "
        "concept's directions of other digits, or at a far cell. Directions are those of the readers given; native ones stand beside them."
    ),
    measure=_measure,
    findings=statement_findings,
    needs_truth=True,
    needs_readers=True,
)
