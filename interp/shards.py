"""The layout of a harvest on disk: its record, the columns of a shard, and how files are written whole and read a part at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from interp.concepts import Sites
from interp.harvest import Harvest

if TYPE_CHECKING:
    from datasets import Features

FORMAT_VERSION = 1
RECORD_NAME, STATE_NAME, INFO_NAME = "harvest.json", "state.json", "dataset_info.json"
DTYPES = {"float32": torch.float32, "float16": torch.float16}
_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""What an Arrow stream that was not cut short ends with."""


class StoreError(ValueError):
    """A folder that is no whole harvest, or cannot take one."""


class HarvestRecord(BaseModel):
    """``harvest.json``: what is, or will be, in the folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = 1
    model: str
    fingerprint: str
    task: str
    corpus: str
    """A hash of the sequences, of what is asked for in them, and of their groups."""
    n_sequences: int
    n_positions: int
    points: tuple[str, ...]
    d_model: int
    dtype: Literal["float32", "float16"]
    tokens: str
    """The NumPy type of the columns that hold tokens."""
    canvases: dict[str, Any]
    kinds: tuple[str, ...]
    sites_per_canvas: int
    seed: int
    sequences_per_shard: int

    @property
    def n_shards(self) -> int:
        """How many shards a whole harvest has."""
        return -(-self.n_sequences // self.sequences_per_shard)

    def shard(self, number: int) -> str:
        """Returns the file name of a shard."""
        return f"shard-{number:05d}-of-{self.n_shards:05d}.arrow"


def read_record(folder: Path) -> HarvestRecord:
    """Returns what a folder says it holds; raises StoreError where it is no harvest's."""
    path = folder / RECORD_NAME
    if not path.is_file():
        raise StoreError(f"{folder} is no harvest (it has no {RECORD_NAME}); `denoscope harvest` makes one")
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        if stated.get("format_version") != FORMAT_VERSION:
            raise StoreError(f"{path} has format_version {stated.get('format_version')!r}; this version reads {FORMAT_VERSION}")
        return HarvestRecord.model_validate(stated)
    except (ValidationError, json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise StoreError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from None


def features_of(record: HarvestRecord) -> Features:
    """Returns the columns of a harvest, as ``datasets`` types them: one row a site."""
    from datasets import Array2D, Features, List, Value

    tokens = List(Value(record.tokens), length=record.n_positions)
    return Features(
        {
            **{point: Array2D((1, record.d_model), record.dtype) for point in record.points},
            "token_ids": List(Value("int32"), length=1),
            "sample": Value("int32"),
            "group": Value("int64"),
            "position": Value("int32"),
            "mask_rate": Value("float32"),
            "step": Value("int32"),
            "kind": Value("uint8"),
            "next": Value("bool"),
            "seen": tokens,
            "truth": tokens,
        }
    )


def batch_of(part: Harvest, features: Features) -> Any:
    """Returns a harvest as an Arrow record batch of these columns."""
    import pyarrow as pa

    sites, schema = part.sites, features.arrow_schema
    columns = {str(point): values for point, values in part.activations.items()}
    columns |= {column.name: getattr(sites, column.name) for column in fields(Sites)}
    columns["token_ids"] = sites.seen[torch.arange(len(sites)), sites.position][:, None]

    def array(name: str) -> Any:
        values, kind = columns[name].contiguous().numpy(), schema.field(name).type
        if pa.types.is_fixed_size_list(kind):
            flat = pa.array(values.reshape(-1).astype(kind.value_type.to_pandas_dtype()), type=kind.value_type)
            return pa.FixedSizeListArray.from_arrays(flat, kind.list_size)
        if values.ndim == 1:
            return pa.array(values.astype(kind.to_pandas_dtype()), type=kind)
        each, width = np.arange(len(values) + 1, dtype=np.int32), values.shape[1]
        rows = pa.ListArray.from_arrays(each * width, pa.array(values.reshape(-1)))
        return pa.ExtensionArray.from_storage(kind, pa.ListArray.from_arrays(each, rows))

    return pa.RecordBatch.from_arrays([array(name) for name in schema.names], schema=schema)


def write_whole(path: Path, write: Callable[[Any], None]) -> None:
    """Writes a file that appears whole, or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a JSON file that appears whole, or not at all."""
    write_whole(path, lambda file: file.write((json.dumps(value, indent=2) + "\n").encode()))


def read_column(path: Path, name: str, width: int | None) -> Iterator[np.ndarray]:
    """Yields a column of a shard, memory-mapped, some rows at a time: [row], or [row, width] where a row has several numbers.

    Raises:
        StoreError: Where the shard is damaged.
    """
    import pyarrow as pa

    again = "delete it, and what made it makes it again"
    try:
        with path.open("rb") as file:
            file.seek(-len(_END), os.SEEK_END)
            if file.read() != _END:
                raise StoreError(f"{path} is cut short; {again}")
        with pa.memory_map(str(path)) as mapped, pa.ipc.open_stream(mapped) as stream:
            for batch in stream:
                values = _flat(batch.column(name))
                yield values if width is None else values.reshape(-1, width)
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"{path} is damaged ({' '.join(str(error).split())[:100]}); {again}") from None


def _flat(column: Any) -> np.ndarray:
    """Returns the numbers of an Arrow column, without a copy but for booleans."""
    import pyarrow as pa

    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    while pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    return column.to_numpy(zero_copy_only=not pa.types.is_boolean(column.type))
