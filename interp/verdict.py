"""How far accounts of runs can be believed: figures of several accounts side by side, and what one costs against another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from interp.grading import LEADS, Tally, Verdict
from interp.narration import JUSTIFICATIONS, UNREASONED, Statement, lead_steps
from interp.reading import Reading
from interp.report import Estimate, ReadingEntry
from interp.scoring import estimate
from interp.statistics import Coordinate, Measured, Role, Statistic
from models.trajectory import State
from probes.metrics import bootstrap_mean, resample_counts

RESAMPLES = 1000


@dataclass(frozen=True)
class Measure:
    """What one figure of a verdict is."""

    title: str
    unit: str
    about: str


MEASURES: dict[str, Measure] = {
    "sound": Measure("Are the reasons sound?", "share of reasons", "The rules confirm the reason on the board that the call saw."),
    "coverage": Measure("How much is explained?", "share of writings", "Every writing of an unwritten cell counts; a reason names it."),
    "explained": Measure(
        "How much is explained soundly?",
        "share of writings",
        "A reason that the rules confirm names it. The rules alone set the ceiling: there is not always such a reason.",
    ),
    "supported": Measure(
        "How much of what is said is shown to be used?", "share of tested statements", "A causal test found their kind used by the rest."
    ),
    "decided_run": Measure(
        "Is what is called decided written?", "share of claims", "Against what the run ends with; said before the cell is written."
    ),
    "decided_truth": Measure("Is what is called decided true?", "share of claims", "Against the solution; said before the writing."),
    "decided_recall": Measure(
        "How much was called before it was written?",
        "share of writings",
        "Of the last writings, from call 2 on: the digit was claimed before.",
    ),
    "lead": Measure("How long before?", "calls", "From the first claim of the digit to its writing; 0 where it was never claimed."),
    "next_precision": Measure(
        "Does it know what comes next?", "share of claims", "Cells claimed for the next call (as many as this call wrote) that it writes."
    ),
    "next_recall": Measure("How much of what comes next does it know?", "share of writings", "The same claims, of the cells written."),
    "revisions_seen": Measure(
        "Are changes seen coming?", "share of changes", "A doubt about the written digit was said before it was changed or taken back."
    ),
    "idle_doubts": Measure("Are there idle doubts?", "share of final cells", "A doubt was said about a digit that stayed to the end."),
}
"""Every measure of a verdict; details of lead time come under ``BY_LEAD``."""
BY_LEAD = ("decided_run", "decided_truth")


@dataclass(frozen=True)
class Graded:
    """A verdict and where it was made."""

    at: Mapping[str, Coordinate]
    verdict: Verdict


@dataclass(frozen=True)
class Layout:
    """The axes of a table of verdicts."""

    panels: tuple[str, ...]
    lines: tuple[str, ...]
    x: str
    roles: Mapping[str, Role]
    how: str
    """How everything was measured, said with every figure."""


def _statistic(name: str, one: Measure, layout: Layout, values: list[Measured], **axes: object) -> Statistic:
    drawn = {"panels": layout.panels, "lines": layout.lines, "x": layout.x, **axes}
    present = {str(value.at[axis]) for value in values for axis in layout.lines}
    roles = {line: role for line, role in layout.roles.items() if line in present}
    about = f"{one.about} {layout.how}"
    return Statistic.model_validate(
        {"name": name, "title": one.title, "about": about, "unit": one.unit, "values": values, "roles": roles, **drawn}
    )


def verdicts(graded: Sequence[Graded], layout: Layout, seed: int) -> list[Statistic]:
    """Returns a statistic for every measure that has a value, then precision by lead time; where a verdict says nothing it is left out."""
    found = []
    for name, one in MEASURES.items():
        values = [
            Measured(at=dict(each.at), estimate=each.verdict[name, ""].estimate(seed))
            for each in graded
            if (name, "") in each.verdict and each.verdict[name, ""].of.any()
        ]
        if values:
            found.append(_statistic(name, one, layout, values))
    for name in BY_LEAD:
        values = [
            Measured(at={**each.at, "lead": band}, estimate=each.verdict[name, band].estimate(seed))
            for band in LEADS
            for each in graded
            if each.verdict[name, band].of.any()
        ]
        if values:
            found.append(_statistic(f"{name}_by_lead", MEASURES[name], layout, values, panels=(*layout.panels, layout.x), x="lead"))
    return found


def difference(one: Tally, other: Tally, seed: int) -> Estimate:
    """Returns how much higher a figure is in one account than in another of the same samples; the interval resamples samples, in pairs."""
    counts = resample_counts(len(one.of), RESAMPLES, torch.Generator().manual_seed(seed)).double().numpy()
    resampled = _ratio(one, counts) - _ratio(other, counts)
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    value = float(one.hits.sum() / one.of.sum() - other.hits.sum() / other.of.sum())
    n = int(((one.of > 0) | (other.of > 0)).sum())
    return Estimate(value=value, low=float(low), high=float(high), n=n)


def _ratio(one: Tally, counts: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return (one.hits @ counts) / (one.of @ counts)


def _share_sound(statements: Sequence[Statement], seed: int) -> Estimate:
    """Returns the share of the gradable statements that the rules confirm; NaN of n 0 where there are none."""
    graded = [statement for statement in statements if statement.sound is not None]
    if not graded:
        return Estimate(value=float("nan"), low=float("nan"), high=float("nan"), n=0)
    values = torch.tensor([bool(statement.sound) for statement in graded])
    return estimate(bootstrap_mean(values, torch.tensor([statement.sample for statement in graded]), seed=seed))


def judge(reading: Reading, statements: Sequence[Statement], control: Sequence[Statement], *, seed: int = 0) -> ReadingEntry:
    """Returns the report's verdict on an account, beside that of the random-direction ``control``. Intervals resample boards."""
    by_kind: dict[str, list[Statement]] = {}
    for statement in statements:
        by_kind.setdefault(statement.kind, []).append(statement)
    written = [statement for statement in statements if statement.kind in (*JUSTIFICATIONS, *UNREASONED)]
    explained = torch.tensor([statement.kind in JUSTIFICATIONS for statement in written])
    leads, samples = lead_steps(reading)
    states = reading.trajectory.data["state"].values
    writable = states[:, 0] == State.MASKED
    revised = (states == State.REVISED).any(axis=1) & writable
    return ReadingEntry(
        reader="; ".join(reader.name for reader in reading.readers.values()),
        boards=reading.trajectory.n_samples,
        policy=reading.trajectory.policy,
        statements={kind: len(members) for kind, members in by_kind.items()},
        sound=_share_sound(statements, seed),
        sound_by_kind={
            kind: _share_sound(members, seed) for kind, members in by_kind.items() if any(one.sound is not None for one in members)
        },
        random_reader_sound=_share_sound(control, seed),
        random_reader_statements=len(control),
        coverage=estimate(bootstrap_mean(explained, torch.tensor([statement.sample for statement in written]), seed=seed)),
        lead_steps=estimate(bootstrap_mean(torch.from_numpy(leads), torch.from_numpy(samples), seed=seed)),
        revised=float(revised.sum() / writable.sum()),
    )
