"""Harvests on disk: shards of Arrow that ``datasets.load_from_disk`` opens and SAELens trains on, one row a site.

Each shard is a function of the settings and its number, and appears whole or not at all. So a harvest that was killed goes on where it was,
and ends up the same as one that was not.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.canvases import Decoded, Masked, Source, check_source, default_source, stated_source
from interp.concepts import Kind, Sites
from interp.corpus import Corpus
from interp.harvest import BATCH, Harvest, Plan, activations_at, harvest_parts
from interp.shards import (
    DTYPES,
    INFO_NAME,
    RECORD_NAME,
    STATE_NAME,
    HarvestRecord,
    StoreError,
    batch_of,
    features_of,
    read_column,
    read_record,
    write_json,
    write_whole,
)
from models.hookpoints import HookPoint, HookPointError
from models.language_model import LanguageModel

MOST_BYTES, MOST_CANVASES = 256 * 2**20, 8192
"""What a shard is made of at most (but for one sequence, at least)."""


def _corpus_hash(corpus: Corpus) -> str:
    digest = hashlib.sha256()
    for values in (corpus.sequences.long(), corpus.asked, corpus.group.long()):
        digest.update(values.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _canvases_of_a_sequence(source: Source, corpus: Corpus) -> int:
    """Returns how many canvases a sequence makes at most, but for a policy that takes back what it wrote."""
    if isinstance(source, Decoded):
        return math.ceil((source.decoding.steps or int(corpus.asked.sum(1).max())) / source.every)
    return len(source.rates) if isinstance(source, Masked) else 1


def _record(model: LanguageModel, corpus: Corpus, points: Sequence[HookPoint], plan: Plan, dtype: str) -> HarvestRecord:
    """Returns the record of a harvest that is to be made; shards hold whole batches of sequences where they hold several."""
    lowest, highest = int(corpus.sequences.min()), len(model.task.vocabulary) - 1
    tokens = np.result_type(np.min_scalar_type(lowest), np.min_scalar_type(highest))
    width = corpus.sequences.shape[1]
    row_bytes = len(points) * model.d_model * DTYPES[dtype].itemsize + 2 * width * tokens.itemsize + 64
    canvases = _canvases_of_a_sequence(plan.canvases, corpus)
    sequences = min(MOST_BYTES // (row_bytes * plan.most * len(plan.kinds) * canvases), MOST_CANVASES // canvases)
    return HarvestRecord(
        model=model.name,
        fingerprint=model.fingerprint,
        task=model.task.name,
        corpus=_corpus_hash(corpus),
        n_sequences=len(corpus),
        n_positions=width,
        points=tuple(map(str, points)),
        d_model=model.d_model,
        dtype=dtype,  # type: ignore[arg-type]
        tokens=tokens.name,
        canvases=json.loads(json.dumps(stated_source(plan.canvases))),
        kinds=tuple(kind.name.lower() for kind in plan.kinds),
        sites_per_canvas=plan.sites_per_canvas,
        seed=plan.seed,
        sequences_per_shard=max(1, sequences // BATCH * BATCH or sequences),
    )


def _check_same(folder: Path, wanted: HarvestRecord) -> None:
    """Raises StoreError where a folder holds a harvest of something else; the model's name and the size of shards may differ."""
    held, asked = read_record(folder).model_dump(), wanted.model_dump()
    for part in (held, asked):
        part |= {f"canvases' {name}": value for name, value in part.pop("canvases").items()}
        del part["model"], part["sequences_per_shard"]
    for name in {**held, **asked}:
        if held.get(name) != asked.get(name):
            was, now = (_shown(part.get(name)) for part in (held, asked))
            raise StoreError(f"{folder} holds a harvest whose {name} was {was} and is now {now}; choose another folder")


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _shards_there(folder: Path, record: HarvestRecord) -> list[str]:
    return [name for name in map(record.shard, range(record.n_shards)) if (folder / name).is_file()]


def _list_shards(folder: Path, record: HarvestRecord) -> None:
    """Writes what ``datasets.load_from_disk`` must be told: the columns, and the shards that are there."""
    there = _shards_there(folder, record)
    about = f"activations of {record.model} ({record.fingerprint}), harvested by denoscope"
    write_json(folder / INFO_NAME, {"description": about, "features": features_of(record).to_dict()})
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in there],
        "_fingerprint": hashlib.sha256(f"{record.model_dump_json()} {there}".encode()).hexdigest()[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    write_json(folder / STATE_NAME, state)


def _prepared(folder: Path, record: HarvestRecord) -> HarvestRecord:
    """Returns the record of a harvest that is begun, or gone on with, in a folder."""
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} exists and is no folder; choose another one")
    if (folder / RECORD_NAME).exists():
        _check_same(folder, record)
        return read_record(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise StoreError(f"{folder} holds other files (no {RECORD_NAME}); choose an empty or new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be made: {error.strerror}; choose another one") from None
    write_json(folder / RECORD_NAME, record.model_dump())
    return record


def _write_shard(folder: Path, record: HarvestRecord, number: int, parts: Iterator[Harvest], on_part: Callable[[int], None]) -> None:
    """Writes a shard, of which no more than a part is ever in memory.

    Raises:
        OSError: Where it cannot be written, saying what is kept.
    """
    import pyarrow as pa

    features = features_of(record)

    def write(file: Any) -> None:
        with pa.ipc.new_stream(file, features.arrow_schema) as stream:
            for done, part in enumerate(parts, start=1):
                stream.write_batch(batch_of(part, features))
                on_part(done)

    try:
        write_whole(folder / record.shard(number), write)
        _list_shards(folder, record)
    except OSError as error:
        kept = f"{len(_shards_there(folder, record))} of {record.n_shards} shards are kept, and the same call goes on from there"
        raise OSError(error.errno, f"{error.strerror or error}; {kept}", str(folder)) from None


def harvest_to(
    folder: Path,
    model: LanguageModel,
    corpus: Corpus,
    points: Sequence[HookPoint],
    *,
    canvases: Source | None = None,
    kinds: Sequence[Kind] = (Kind.MASKED,),
    sites_per_canvas: int = 8,
    seed: int = 0,
    dtype: str = "float32",
    on_sequence: Callable[[int, int], None] = lambda done, total: None,
) -> Stored:
    """Returns a harvest that is written to a folder shard by shard; if one was begun there with the same settings, it goes on.

    The columns are the hook points, each ``[1, d_model]``, ``token_ids`` (the token at the place), and those of ``Sites``.

    Args:
        folder: New, empty, or of the harvest to go on with.
        model: See ``interp.harvest.harvest``, here and below.
        corpus: Whole sequences, and what is asked for in them.
        points: Hook points of the residual width.
        canvases: What the model is shown.
        kinds: The kinds of positions to read.
        sites_per_canvas: At most so many sites of each kind are kept of each canvas.
        seed: Reproduces masks and draws.
        dtype: What activations are kept in: float32 or float16.
        on_sequence: Told (sequences done, total).

    Raises:
        StoreError: Where the folder holds something else, or a harvest of another model, corpus or setting.
        OSError: Where the disk is full; the shards that are whole are kept.
    """
    if dtype not in DTYPES:
        raise StoreError(f"activations cannot be stored as {dtype!r}; choose from {', '.join(DTYPES)} (Arrow has no bfloat16)")
    plan = Plan(default_source(model) if canvases is None else canvases, tuple(kinds), sites_per_canvas, seed)
    check_source(model, plan.canvases, plan.kinds, corpus)
    somewhere = torch.zeros(1, dtype=torch.long)
    activations_at(model, corpus.sequences[:1], somewhere, somewhere + model.facts.logit_shift, points)  # a wrong point, before the work
    record = _prepared(folder, _record(model, corpus, points, plan, dtype))
    for number in range(record.n_shards):
        first = number * record.sequences_per_shard
        stop = min(first + record.sequences_per_shard, len(corpus))
        if not (folder / record.shard(number)).is_file():
            parts = harvest_parts(model, corpus, points, plan, first=first, stop=stop, dtype=DTYPES[dtype])

            def tell(done: int, first: int = first, stop: int = stop) -> None:
                on_sequence(min(first + done * BATCH, stop), len(corpus))

            _write_shard(folder, record, number, parts, tell)
        on_sequence(stop, len(corpus))
    _list_shards(folder, record)
    return open_harvest(folder)


@dataclass(frozen=True)
class Stored:
    """A whole harvest on disk; nothing of it is in memory until it is asked for."""

    folder: Path
    record: HarvestRecord

    @property
    def points(self) -> tuple[HookPoint, ...]:
        """The hook points that were read."""
        return tuple(map(HookPoint.parse, self.record.points))

    @cached_property
    def sites(self) -> Sites:
        """All sites, in memory."""
        columns = {column.name: np.concatenate(list(self._column(column.name))) for column in fields(Sites)}
        kept = ("mask_rate", "next")
        return Sites(**{name: torch.from_numpy(values if name in kept else values.astype(np.int64)) for name, values in columns.items()})

    def __len__(self) -> int:
        return sum(len(values) for values in self._column("position"))

    def _column(self, name: str) -> Iterator[np.ndarray]:
        widths = dict.fromkeys(self.record.points, self.record.d_model) | dict.fromkeys(("seen", "truth"), self.record.n_positions)
        for number in range(self.record.n_shards):
            yield from read_column(self.folder / self.record.shard(number), name, widths.get(name))

    def chunks(self, point: HookPoint, rows_per_chunk: int) -> Iterator[Float[Tensor, "row d_model"]]:
        """Yields a point's activations in order, in float32, so many rows at a time; the rest of the column stays on disk.

        Raises:
            HookPointError: Where the harvest lacks the point.
            StoreError: On chunks of no rows.
        """
        if point not in self.points:
            raise HookPointError(f"{self.folder} has no {point}; choose from {', '.join(self.record.points)}")
        if rows_per_chunk < 1:
            raise StoreError(f"rows_per_chunk is {rows_per_chunk}; it must be at least 1")
        waiting = np.empty((0, self.record.d_model), self.record.dtype)
        for values in self._column(str(point)):
            waiting = np.concatenate([waiting, values])
            whole = len(waiting) - len(waiting) % rows_per_chunk
            for start in range(0, whole, rows_per_chunk):
                yield torch.from_numpy(waiting[start : start + rows_per_chunk]).float()
            waiting = waiting[whole:]
        if len(waiting):
            yield torch.from_numpy(waiting).float()

    def shard(self, number: int, points: Sequence[HookPoint]) -> dict[HookPoint, Float[Tensor, "row d_model"]]:
        """Returns a shard's activations at some points, in float32."""
        path = self.folder / self.record.shard(number)
        columns = {point: np.concatenate(list(read_column(path, str(point), self.record.d_model))) for point in points}
        return {point: torch.from_numpy(values).float() for point, values in columns.items()}

    def load(self, points: Sequence[HookPoint]) -> Harvest:
        """Returns the sites and the activations at some points, in float32, in memory."""
        none = torch.empty(0, self.record.d_model)
        return Harvest(self.sites, {point: torch.cat([none, *self.chunks(point, len(self.sites) or 1)]) for point in points})


def open_harvest(folder: Path) -> Stored:
    """Returns the harvest that a folder holds.

    Raises:
        StoreError: Where there is none, or it was not finished.
    """
    record = read_record(folder)
    there = _shards_there(folder, record)
    if len(there) < record.n_shards:
        raise StoreError(
            f"{folder} holds {len(there)} of the {record.n_shards} shards of a harvest that was not finished; "
            "the command or call that began it goes on with it"
        )
    return Stored(folder, record)
