"""A sweep's folder: its settings, what is finished of it, and all figures in one table.

``run.json`` says what it is of. Each seed and hook point is a folder of its own, which appears whole when it is finished: ``entries.json``
and, under ``probes/READER/CONCEPT``, the probes. ``results.parquet`` has a row for every score.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from interp.report import Entry, ProbeEntry
from interp.shards import write_whole
from interp.sweeps.config import CorpusConfig, SweepConfig, SweepError
from models.hookpoints import HookPoint

RUN, ENTRIES, RESULTS, MOVED = "run.json", "entries.json", "results.parquet", "moved"
ESTIMATES = ("auc", "matched", "accuracy", "exact")
_ENTRIES = TypeAdapter(list[ProbeEntry])


class Run(Entry):
    """What a folder of results is of."""

    schema_version: Literal[1] = 1
    config: SweepConfig
    model: str
    fingerprint: str
    contents: str = Field(description="A hash of the files that the corpus reads.")
    moved_to: str | None = Field(default=None, description="The model that the sweep's probes were moved to; null where they were fitted.")
    moved_fingerprint: str | None = None
    policy: str | None = Field(
        default=None, description="Where probes are scored in runs of the model they were moved to: by which policy."
    )


def contents_of(corpus: CorpusConfig) -> str:
    """Returns a hash of the files that a corpus reads: what was fitted on one half of them is not to be scored on another's."""
    digest = hashlib.sha256()
    for path in corpus.read:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def begin(folder: Path, run: Run) -> None:
    """Makes the folder of a run, or checks that it is this run's.

    Raises:
        SweepError: Where the folder holds something else, or another run (naming what differs).
    """
    path = folder / RUN
    if path.exists():
        found = open_run(folder)
        if found != run:
            old, new = ({**one.model_dump(mode="json"), **one.config.model_dump(mode="json")} for one in (found, run))
            name = next(name for name in new if name != "config" and old[name] != new[name])
            raise SweepError(
                f"{folder} is a run with {name} {old[name]!r}, and {new[name]!r} is asked for; choose another folder, or remove it"
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SweepError(f"{folder} exists and is no run (no {RUN}); choose an empty or new --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, run.model_dump_json(indent=2) + "\n")


def open_run(folder: Path) -> Run:
    """Returns what a run's folder is of.

    Raises:
        SweepError: Where it is no folder of a run, or one of another version.
    """
    path = folder / RUN
    try:
        return Run.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError:
        raise SweepError(f"{folder} is no run (it has no {RUN}); `denoscope probe train` makes one") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise SweepError(f"{path} is not as it should be: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def write_text(path: Path, text: str) -> None:
    """Writes a file that is either there whole or not at all."""
    write_whole(path, lambda file: file.write(text.encode()))


def unit_folder(folder: Path, seed: int, point: HookPoint) -> Path:
    """Returns where the results of one seed and hook point are."""
    return folder / f"seed-{seed}" / str(point)


def probe_folder(place: Path, reader: str, concept: str, fitted_at: float | None = None) -> Path:
    """Returns where a concept's probe is in the folder of a seed and hook point."""
    return place / "probes" / (reader if fitted_at is None else f"{reader}@{fitted_at:g}") / concept


def finished(folder: Path, seed: int, point: HookPoint) -> bool:
    """Returns whether one seed and hook point are done."""
    return (unit_folder(folder, seed, point) / ENTRIES).exists()


@contextmanager
def unit(folder: Path, seed: int, point: HookPoint) -> Iterator[Path]:
    """Yields a folder that becomes that of one seed and hook point when the block ends well; what a killed process left is removed."""
    target = unit_folder(folder, seed, point)
    for left in target.parent.glob(f".{target.name}.partial-*"):
        shutil.rmtree(left, ignore_errors=True)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_entries(entries: Iterable[ProbeEntry], folder: Path) -> None:
    """Writes the entries of one unit."""
    write_text(folder / ENTRIES, _ENTRIES.dump_json(list(entries), indent=1).decode())


def read_entries(folder: Path) -> list[ProbeEntry]:
    """Returns the entries of everything that is finished in a run's folder, by seed and hook point.

    Raises:
        SweepError: Where a file is not as it should be.
    """
    found: list[ProbeEntry] = []
    for path in sorted(folder.glob(f"seed-*/[!.]*/{ENTRIES}")):
        try:
            found += _ENTRIES.validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            raise SweepError(f"{path} is not as it should be ({first['msg']}); remove its folder and resume") from None
    return found


def rows_of(run: Run, entries: Iterable[ProbeEntry]) -> list[dict[str, Any]]:
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
    """Writes ``results.parquet``, a row for every score of everything that is finished, and returns its path.

    Raises:
        SweepError: Where nothing is.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = rows_of(open_run(folder), read_entries(folder))
    if not rows:
        raise SweepError(f"nothing of {folder} is finished; go on with the command that began it")
    path = folder / RESULTS
    write_whole(path, lambda file: pq.write_table(pa.Table.from_pylist(rows), file))
    return path


Tell = Callable[[str, int, int], None]
"""Told (stage, done, total)."""


def settings_of(run: Run) -> str:
    """Returns the settings of a run as JSON, for people."""
    return json.dumps(run.config.model_dump(mode="json", exclude_defaults=True), ensure_ascii=False)
