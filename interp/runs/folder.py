"""A run's folder: its settings, what is finished of it, and all figures in one table.

``run.json`` says what it is of. Each seed and hook point is a unit, a folder of its own, which appears whole when it is finished, with
``entries.json`` in it. ``results.parquet`` has a row for every score.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from interp.report import Entry
from interp.runs.config import CorpusConfig, RunConfig
from interp.runs.settings import RunError
from interp.shards import write_whole
from models.hookpoints import HookPoint

RUN, ENTRIES, RESULTS, MOVED = "run.json", "entries.json", "results.parquet", "moved"

E = TypeVar("E", bound=Entry)
R = TypeVar("R", bound="Run")


class Run(Entry):
    """What a folder of results is of."""

    command: ClassVar[str]
    """What makes such a folder."""

    schema_version: Literal[1] = 1
    config: RunConfig
    model: str
    fingerprint: str
    contents: str = Field(description="A hash of the files that the corpus reads.")
    moved_to: str | None = Field(default=None, description="The model that readers were moved to; null where they were fitted.")
    moved_fingerprint: str | None = None
    policy: str | None = Field(
        default=None, description="Where readers are scored in runs of the model they were moved to: by which policy."
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
        RunError: Where the folder holds something else, or another run (naming what differs).
    """
    path = folder / RUN
    if path.exists():
        found = open_run(folder, type(run))
        if found != run:
            old, new = ({**one.model_dump(mode="json"), **one.config.model_dump(mode="json")} for one in (found, run))
            name = next(name for name in new if name != "config" and old[name] != new[name])
            raise RunError(
                f"{folder} is a run with {name} {old[name]!r}, and {new[name]!r} is asked for; choose another folder, or remove it"
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} exists and is no run (no {RUN}); choose an empty or new --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, run.model_dump_json(indent=2) + "\n")


def open_run(folder: Path, kind: type[R]) -> R:
    """Returns what a run's folder is of.

    Raises:
        RunError: Where it is no folder of a run, or one of another version.
    """
    path = folder / RUN
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError:
        raise RunError(f"{folder} is no run (it has no {RUN}); `{kind.command}` makes one") from None
    except ValidationError as error:
        first = error.errors()[0]
        said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise RunError(f"{path} is not as it should be: {said}; `{kind.command}` makes such a folder") from None


def write_text(path: Path, text: str) -> None:
    """Writes a file that is either there whole or not at all."""
    write_whole(path, lambda file: file.write(text.encode()))


def unit_folder(folder: Path, seed: int, point: HookPoint) -> Path:
    """Returns where the results of one seed and hook point are."""
    return folder / f"seed-{seed}" / str(point)


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


def write_entries(entries: Sequence[Entry], folder: Path) -> None:
    """Writes the entries of one unit."""
    write_text(folder / ENTRIES, json.dumps([entry.model_dump(mode="json") for entry in entries], indent=1))


def read_entries(folder: Path, kind: type[E]) -> list[E]:
    """Returns the entries of everything that is finished in a run's folder, by seed and hook point.

    Raises:
        RunError: Where a file is not as it should be.
    """
    found: list[E] = []
    reader = TypeAdapter(list[kind])  # type: ignore[valid-type]
    for path in sorted(folder.glob(f"seed-*/[!.]*/{ENTRIES}")):
        try:
            found += reader.validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            raise RunError(f"{path} is not as it should be ({first['msg']}); remove its folder and resume") from None
    return found


def write_table(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes ``results.parquet``, a row for every score of everything that is finished, and returns its path.

    Raises:
        RunError: Where nothing is.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not rows:
        raise RunError(f"nothing of {folder} is finished; go on with the command that began it")
    path, names = folder / RESULTS, dict.fromkeys(name for row in rows for name in row)
    table = pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])  # it takes the columns of the first alone
    write_whole(path, lambda file: pq.write_table(table, file))
    return path


Tell = Callable[[str, int, int], None]
"""Told (stage, done, total)."""


def settings_of(run: Run) -> str:
    """Returns the settings of a run as JSON, for people."""
    return json.dumps(run.config.model_dump(mode="json", exclude_defaults=True), ensure_ascii=False)
