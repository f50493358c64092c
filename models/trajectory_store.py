"""Trajectories on disk: a Zarr folder with a hash over all that it holds, read and written some steps at a time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

FORMAT_VERSION = 2
SPOKEN = ("confidence", "margin", "entropy")
CHANNEL = "channel."
"""What the names of recorded channels begin with."""
CLOCKS = ("clock", "block", "stable")
_VARIABLES = ("token", "proposal", "state", *CLOCKS, "commit_step", "calls", *SPOKEN)
_ATTRIBUTES = ("model", "fingerprint", "task", "policy", "options", "seed")
_DIGEST = "digest"
"""The attribute that holds a hash of all values: Zarr reads a chunk that is gone as a chunk of fill values, without a word."""
_SLICE = 32
"""Steps read at a time where all are read."""


class TrajectoryError(ValueError):
    """A path that holds no whole trajectory, or cannot take one."""


class _Digest:
    """A hash of variables' values, fed step by step."""

    def __init__(self) -> None:
        self._found: dict[str, hashlib._Hash] = {}

    def feed(self, data: xr.Dataset) -> None:
        """Takes in a dataset, or its next steps."""
        for name, variable in data.data_vars.items():
            digest = self._found.setdefault(str(name), hashlib.sha256())
            values = np.moveaxis(variable.values, variable.dims.index("step"), 0) if "step" in variable.dims else variable.values[None]
            for slab in values:
                digest.update(f"{slab.dtype.str} {slab.shape}".encode())
                digest.update(np.ascontiguousarray(slab).tobytes())

    def text(self, rest: xr.Dataset) -> str:
        """Returns the hash of everything so far, and of the samples' ids and the attributes."""
        parts = [f"{name} {digest.hexdigest()}" for name, digest in sorted(self._found.items())]
        attributes = {str(name): value for name, value in rest.attrs.items() if name != _DIGEST}
        parts += [str(rest["sample"].values.tolist()), json.dumps(attributes, sort_keys=True, default=str)]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def _digest(data: xr.Dataset) -> str:
    """Returns a hash of the variables' values, reading some steps at a time."""
    digest = _Digest()
    rest = data.drop_dims("step")
    digest.feed(rest)
    stepped = data[steps_of(data)]
    for first in range(0, data.sizes["step"], _SLICE):
        digest.feed(stepped.isel(step=slice(first, first + _SLICE)))
    return digest.text(rest)


def _attributes(path: Path) -> dict[str, Any]:
    """Returns the attributes of a Zarr folder; none where it is none."""
    try:
        return dict(json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _is_trajectory(path: Path) -> bool:
    """Returns whether a path is a Zarr folder that a trajectory's ``save`` made."""
    return {"format_version", *_ATTRIBUTES} <= set(_attributes(path))


def stored_digest(path: Path) -> object:
    """Returns the hash of what a folder holds, as it is stated there."""
    return _attributes(path).get(_DIGEST)


def steps_of(data: xr.Dataset) -> list[str]:
    """Returns the names of the variables over steps."""
    return [str(name) for name, values in data.data_vars.items() if "step" in values.dims]


def check_free(path: Path) -> None:
    """Raises TrajectoryError where a trajectory cannot be saved: the path is something else, or lies inside a file."""
    if path.exists() and not _is_trajectory(path):
        raise TrajectoryError(f"{path} exists and is no trajectory; choose another path")
    standing = next(parent for parent in path.absolute().parents if parent.exists())
    if not standing.is_dir():
        raise TrajectoryError(f"the trajectory cannot be written to {path}: {standing} is no folder")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Says in one line of ours what Zarr says of a damaged folder in many ways."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise TrajectoryError(f"{path} is damaged and cannot be read: {' '.join(str(error).split())}") from None


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yields a folder to write to, which becomes ``path`` when the block ends well, and is gone when it does not.

    Raises:
        TrajectoryError: Where ``path`` is something else, or cannot be written.
    """
    check_free(path)
    whole = path.resolve()
    partial, aside = (whole.with_name(f".{whole.name}.{kind}-{os.getpid()}") for kind in ("partial", "replaced"))
    try:
        whole.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if whole.exists():
            whole.rename(aside)
        try:
            partial.rename(whole)
        except OSError:
            aside.rename(whole)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise TrajectoryError(f"the trajectory could not be written to {path}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class TrajectoryStream:
    """Writes a trajectory into a Zarr folder some steps at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._digest = folder, _Digest()
        self._how: dict[str, Any] = {"mode": "w"}

    def append(self, steps: xr.Dataset) -> None:
        """Adds the next steps."""
        self._digest.feed(steps)
        self._write(steps)
        self._how = {"append_dim": "step"}

    def finish(self, rest: xr.Dataset) -> None:
        """Adds what has no steps, and the attributes."""
        self._how = {"mode": "a"}
        self._digest.feed(rest)
        self._write(rest.assign_attrs({_DIGEST: self._digest.text(rest)}))

    def _write(self, data: xr.Dataset) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # consolidated metadata is no part of the Zarr 3 specification yet
            data.to_zarr(self._folder, zarr_format=3, consolidated=False, **self._how)


def write_stored(data: xr.Dataset, path: Path) -> None:
    """Writes a trajectory's data, whole or not at all; a trajectory already there is replaced.

    Raises:
        TrajectoryError: Where ``path`` is something else, or cannot be written.
    """
    with writing(path) as folder:
        stream, stepped = TrajectoryStream(folder), steps_of(data)
        for first in range(0, data.sizes["step"], _SLICE):
            stream.append(data[stepped].drop_vars("step").isel(step=slice(first, first + _SLICE)))
        stream.finish(data.drop_vars(stepped))


def read_stored(path: Path) -> tuple[xr.Dataset, str]:
    """Returns a trajectory's data, in memory but for its channels, and the hash of all that the folder holds.

    Raises:
        TrajectoryError: Where there is none, it is of a newer format, or a part of it is missing.
    """
    if not (path / "zarr.json").is_file():
        raise TrajectoryError(f"{path} is no trajectory (a Zarr folder as `denoscope trace` writes it)")
    with _readable(path):
        data = xr.open_zarr(path, consolidated=False, chunks=None)
    version = data.attrs.get("format_version")
    if version != FORMAT_VERSION:
        raise TrajectoryError(f"{path} has format_version {version!r}; this version of denoscope reads {FORMAT_VERSION}")
    missing = [name for name in _VARIABLES if name not in data] + [name for name in _ATTRIBUTES if name not in data.attrs]
    if missing:
        raise TrajectoryError(f"{path} is cut short: it lacks {', '.join(missing)}")
    with _readable(path):
        found = _digest(data)
        in_memory = {name: values.load() for name, values in data.variables.items() if not str(name).startswith(CHANNEL)}
    if data.attrs.pop(_DIGEST, None) != found:
        raise TrajectoryError(f"{path} is damaged: its values are not those that were saved (a chunk is missing or was changed)")
    return data.assign(in_memory), found
