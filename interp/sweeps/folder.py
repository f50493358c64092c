"""A sweep's folder: in each unit the probes, under ``probes/READER/CONCEPT``, and their entries."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from interp.report import ProbeEntry
from interp.runs.folder import Run, open_run, read_entries, write_table
from interp.sweeps.config import SweepConfig

ESTIMATES = ("auc", "matched", "accuracy", "exact")


class SweepRun(Run):
    """What a folder of probes is of."""

    command: ClassVar[str] = "denoscope probe train"
    config: SweepConfig


def probe_folder(place: Path, reader: str, concept: str, fitted_at: float | None = None) -> Path:
    """Returns where a concept's probe is in the folder of a seed and hook point."""
    return place / "probes" / (reader if fitted_at is None else f"{reader}@{fitted_at:g}") / concept


def rows_of(run: SweepRun, entries: Iterable[ProbeEntry]) -> list[dict[str, Any]]:
    """Returns the entries as a long table, a row a score."""
    table = []
    for entry in entries:
        place = entry.model_dump(exclude={"scores", "heads", "left_out"})
        for name, scores in entry.scores.items():
            row = {"model": run.model, "moved_to": run.moved_to, "policy": run.policy, **place, "heads": len(entry.heads), "score": name}
            row |= {"calibration": scores.calibration, "n": scores.auc.n}
            for figure in ESTIMATES:
                estimate = getattr(scores, figure)
                row |= {figure: estimate.value, f"{figure}_low": estimate.low, f"{figure}_high": estimate.high}
            table.append(row)
    return table


def write_results(folder: Path) -> Path:
    """Writes the table of a sweep's folder and returns its path.

    Raises:
        RunError: Where nothing is finished.
    """
    return write_table(folder, rows_of(open_run(folder, SweepRun), read_entries(folder, ProbeEntry)))
