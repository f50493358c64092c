"""A folder of SAEs: in each unit the SAE of a hook point and seed, as SAELens reads it, beside that of the untrained network."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from interp.report import SaeEntry
from interp.runs.folder import Run, open_run, read_entries, write_table
from interp.saes.config import SaeConfig

OWN, UNTRAINED, NATIVE, CROSSCODER = "sae", "untrained", "native", "crosscoder"
"""Folders of a unit."""
TRAINING = ".training"
"""The checkpoint of SAEs that are being trained; gone when they are finished."""


class SaeRun(Run):
    """What a folder of SAEs is of."""

    command: ClassVar[str] = "denoscope sae train"
    config: SaeConfig


def rows_of(run: SaeRun, entries: Iterable[SaeEntry]) -> list[dict[str, Any]]:
    """Returns the entries as a long table, a row a score."""
    table = []
    for entry in entries:
        place = entry.model_dump(include={"hook_point", "layer", "architecture", "d_sae", "seed", "mask_rate", "kind", "step"})
        for score, scores in entry.scores.items():
            row = {"model": run.model, "moved_to": run.moved_to, **place, "score": score}
            row |= {"fvu": scores.fvu.value, "fvu_low": scores.fvu.low, "fvu_high": scores.fvu.high, "n": scores.fvu.n, "rows": scores.n}
            row |= {"l0": scores.l0, "dead": scores.dead, "dense": scores.dense}
            for name, spliced in (("", scores.spliced), ("bound ", scores.bound)):
                row |= {f"{name}{figure}": spliced and getattr(spliced, figure).value for figure in ("delta", "recovered", "kl")}
            table.append(row | {f"probing {what}": value for what, value in scores.probing.items()})
    return table


def write_results(folder: Path) -> Path:
    """Writes the table of a folder of SAEs and returns its path.

    Raises:
        RunError: Where nothing is finished.
    """
    return write_table(folder, rows_of(open_run(folder, SaeRun), read_entries(folder, SaeEntry)))
