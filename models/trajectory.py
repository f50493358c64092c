"""What happened while a model denoised: one labelled array a quantity, saved as Zarr.

Step 0 is the canvas before the first network call; step s >= 1 is the canvas after call s. So the canvas that call s *read* is
``token`` at step s-1, and what it *said* (proposal, confidence, margin, entropy) stands at step s. Samples that finish early keep their
last canvas; what the calls they did not need would have said is NaN (-1 for integers).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from jaxtyping import Int

from models.numerals import GREATEST, whole

if TYPE_CHECKING:
    from models.decoding import Decoding
    from models.surgery import Moment

FORMAT_VERSION = 2
SPOKEN = ("confidence", "margin", "entropy")
CHANNEL = "channel."
"""What the names of recorded channels begin with."""
CLOCKS = ("clock", "block", "stable")
_VARIABLES = ("token", "proposal", "state", *CLOCKS, "commit_step", "calls", *SPOKEN)
_ATTRIBUTES = ("model", "fingerprint", "task", "policy", "options", "seed")
_DIGEST = "digest"
"""The attribute that holds a hash of all values: Zarr reads a chunk that is gone as a chunk of fill values, without a word."""
SURGERY = "surgery"
"""The attribute that lists, as JSON, what was done to a run on its way."""
_SLICE = 32
"""Steps read at a time where all are read."""


class TrajectoryError(ValueError):
    """A path that holds no whole trajectory, or cannot take one."""


class State(IntEnum):
    """What a position is at a step."""

    PROMPT = 0
    MASKED = 1
    """Never written so far."""
    COMMITTED = 2
    REVISED = 3
    """Written, where another token was written before."""
    REMASKED = 4
    """Masked again after it was written."""
    PADDING = 5
    """Beyond the end of a sample shorter than others; its token is -1."""


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
    stepped = data[[name for name, variable in data.data_vars.items() if "step" in variable.dims]]
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


def _stored_digest(path: Path) -> object:
    return _attributes(path).get(_DIGEST)


@dataclass(frozen=True)
class Trajectory:
    """A denoising run of one or more samples.

    ``data`` has the dims ``sample, step, position`` and the variables ``token``, ``proposal``, ``state`` (see ``State``),
    ``confidence``, ``margin`` (probabilities), ``entropy`` (nats), all over (sample, step, position); ``commit_step`` over (sample,
    position): the step that wrote the position's final token, 0 for the prompt, -1 if never; ``calls`` over (sample): in how many network
    calls it took part; over (sample, step) ``clock``: steps of the budget used up in the current block, ``block``: which
    block that is, ``stable``: calls in a row with the same proposals. If recorded, ``top_token`` and ``top_probability`` over (sample,
    step, position, rank), best first, and channels, ``channel.NAME``, in half precision. ``data.attrs`` names model, fingerprint, task,
    policy, options (JSON), seed, and, if there was any, the surgery it went through.
    """

    data: xr.Dataset
    stored: tuple[Path, str] | None = None
    """The folder that its channels are read from when they are asked for, and the hash of what it held; None where all is in memory."""

    @property
    def model(self) -> str:
        """Name of the model that ran."""
        return str(self.data.attrs["model"])

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the model that ran."""
        return str(self.data.attrs["fingerprint"])

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.data.attrs["task"])

    @property
    def policy(self) -> str:
        """Name of the unmasking policy."""
        return str(self.data.attrs["policy"])

    @property
    def decoding(self) -> Decoding:
        """How it was asked for.

        Raises:
            TrajectoryError: Where it was not made by ``denoise``.
        """
        from models.decoding import decoding_from

        return decoding_from(self.policy, json.loads(self.data.attrs["options"]), int(self.data.attrs["seed"]))

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the recorded channels."""
        return tuple(str(name).removeprefix(CHANNEL) for name in self.data if str(name).startswith(CHANNEL))

    def channel(self, name: str) -> xr.DataArray:
        """Returns a recorded channel over (sample, step, position[, feature]).

        Raises:
            TrajectoryError: Where there is none of that name.
        """
        if name not in self.channels:
            raise TrajectoryError(f"no channel {name!r} was recorded; choose from {', '.join(self.channels) or 'none'}")
        self._check_stored(name)
        return self.data[CHANNEL + name]

    def _check_stored(self, channel: str) -> None:
        if self.stored is not None and _stored_digest(self.stored[0]) != self.stored[1]:
            raise TrajectoryError(f"{self.stored[0]} no longer holds the trajectory whose channel {channel!r} is asked for; load it again")

    def steps(self, first: int, last: int) -> xr.Dataset:
        """Returns all about the steps ``first`` to ``last``, channels too, in memory.

        Raises:
            TrajectoryError: Where its channels are no longer there.
        """
        for name in self.channels:
            self._check_stored(name)
        stepped = [name for name, values in self.data.data_vars.items() if "step" in values.dims]
        return self.data[stepped].isel(step=slice(first, last + 1)).load()

    @property
    def surgery(self) -> list[dict[str, Any]]:
        """What was done to the run on its way, first things first (see ``models.surgery``)."""
        found: list[dict[str, Any]] = json.loads(self.data.attrs.get(SURGERY, "[]"))
        return found

    def at(self, step: int) -> Moment:
        """Returns the state of the run after a step (negative: from the end), to edit, branch or resume.

        Raises:
            TrajectoryError: On a step that is not there.
        """
        from models.surgery import Moment

        return Moment(self, self._step(step))

    def _step(self, step: object) -> int:
        """Returns the number of a step that may be counted from the end."""
        found = whole("step", step, TrajectoryError, least=-GREATEST)
        if not -self.n_steps - 1 <= found <= self.n_steps:
            raise TrajectoryError(f"there is no step {found}; the trajectory has steps 0 to {self.n_steps}")
        return found % (self.n_steps + 1)

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return int(self.data.sizes["sample"])

    @property
    def n_steps(self) -> int:
        """Number of steps after the first canvas: network calls of the run."""
        return int(self.data.sizes["step"]) - 1

    @property
    def calls(self) -> Int[np.ndarray, " batch"]:
        """How many network calls each sample took part in: its steps, but those between its end and an edit that reopened it."""
        return self.data["calls"].values

    @property
    def last_step(self) -> Int[np.ndarray, " batch"]:
        """The last step in which anything happened to each sample: a network call, or an edit by hand."""
        token, proposal = self.data["token"].values, self.data["proposal"].values
        changed = np.diff(token, axis=1, prepend=token[:, :1]) != 0
        happened = ((proposal >= 0) | changed).any(2)
        latest = np.where(happened, np.arange(happened.shape[1]), 0).max(1)
        return np.maximum(latest, self.calls)

    def tokens(self, step: int) -> Int[np.ndarray, "batch pos"]:
        """Returns the canvases after ``step``; -1 is the last.

        Raises:
            TrajectoryError: On a step that is not there.
        """
        return self.data["token"].isel(step=self._step(step)).values.astype(np.int64)

    def save(self, path: Path | str) -> None:
        """Writes the trajectory as Zarr, whole or not at all; a trajectory already there is replaced.

        Raises:
            TrajectoryError: Where ``path`` is something else, or cannot be written.
        """
        with writing(Path(path)) as folder:
            stream = TrajectoryStream(folder)
            stepped = [name for name, values in self.data.data_vars.items() if "step" in values.dims]
            for first in range(0, self.data.sizes["step"], _SLICE):
                stream.append(self.data[stepped].drop_vars("step").isel(step=slice(first, first + _SLICE)))
            stream.finish(self.data.drop_vars(stepped))

    @classmethod
    def load(cls, path: Path | str) -> Trajectory:
        """Returns the trajectory saved at ``path``, in memory but for its channels.

        Raises:
            TrajectoryError: Where there is none, it is of a newer format, or a part of it is missing.
        """
        path = Path(path)
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
        return cls(data.assign(in_memory), (path.resolve(), found))


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
