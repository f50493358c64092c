"""What happened while a model denoised: one labelled array a quantity, saved as Zarr.

Step 0 is the canvas before the first network call; step s >= 1 is the canvas after call s. So the canvas that call s *read* is
``token`` at step s-1, and what it *said* (proposal, confidence, margin, entropy) stands at step s. Samples that finish early keep their
last canvas; what the calls they did not need would have said is NaN (proposal -1).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Int, UInt8

FORMAT_VERSION = 1
_SPOKEN = {"confidence": np.float32, "margin": np.float32, "entropy": np.float32}
_VARIABLES = ("token", "proposal", "state", "commit_step", "calls", *_SPOKEN)
_ATTRIBUTES = ("model", "fingerprint", "task", "policy", "options", "seed")
_DIGEST = "digest"
"""The attribute that holds a hash of all values: Zarr reads a chunk that is gone as a chunk of fill values, without a word."""


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


def _digest(data: xr.Dataset) -> str:
    """Returns a hash of the variables' values."""
    digest = hashlib.sha256()
    for name in _VARIABLES:
        values = np.ascontiguousarray(data[name].values)
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()[:16]


def _is_trajectory(path: Path) -> bool:
    """Returns whether a path is a Zarr folder that a trajectory's ``save`` made."""
    try:
        attributes = json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"]
        return {"format_version", *_ATTRIBUTES} <= set(attributes)
    except (OSError, ValueError, KeyError, TypeError):
        return False


@dataclass(frozen=True)
class Trajectory:
    """A denoising run of one or more samples.

    ``data`` has the dims ``sample, step, position`` and the variables ``token``, ``proposal``, ``state`` (see ``State``),
    ``confidence``, ``margin`` (probabilities), ``entropy`` (nats), all over (sample, step, position); ``commit_step`` over (sample,
    position): the step that wrote the position's final token, 0 for the prompt, -1 if never; ``calls`` over (sample): network calls used.
    ``data.attrs`` names model, fingerprint, task, policy, options, seed.
    """

    data: xr.Dataset

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
    def n_samples(self) -> int:
        """Number of samples."""
        return int(self.data.sizes["sample"])

    @property
    def n_steps(self) -> int:
        """Number of network calls of the longest sample."""
        return int(self.data.sizes["step"]) - 1

    @property
    def calls(self) -> Int[np.ndarray, " batch"]:
        """Network calls each sample used."""
        return self.data["calls"].values

    def tokens(self, step: int) -> Int[np.ndarray, "batch pos"]:
        """Returns the canvases after ``step``; -1 is the last."""
        return self.data["token"].isel(step=step).values.astype(np.int64)

    def save(self, path: Path) -> None:
        """Writes the trajectory as Zarr, whole or not at all; a trajectory already there is replaced.

        Raises:
            TrajectoryError: Where ``path`` is something else, or cannot be written.
        """
        check_free(path)
        path = path.resolve()
        partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # consolidated metadata is no part of the Zarr 3 specification yet
                self.data.assign_attrs({_DIGEST: _digest(self.data)}).to_zarr(partial, mode="w", zarr_format=3, consolidated=False)
            if path.exists():
                shutil.rmtree(path)
            partial.rename(path)
        except OSError as error:
            raise TrajectoryError(f"the trajectory could not be written to {path}: {error.strerror or error}") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @classmethod
    def load(cls, path: Path) -> Trajectory:
        """Returns the trajectory saved at ``path``, in memory.

        Raises:
            TrajectoryError: Where there is none, it is of a newer format, or a part of it is missing.
        """
        if not (path / "zarr.json").is_file():
            raise TrajectoryError(f"{path} is no trajectory (a Zarr folder as `denoscope trace` writes it)")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is wrong is said once, by us
                data = xr.open_zarr(path, consolidated=False).load()
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            raise TrajectoryError(f"{path} is damaged and cannot be read: {' '.join(str(error).split())}") from None
        version = data.attrs.get("format_version")
        if version != FORMAT_VERSION:
            raise TrajectoryError(f"{path} has format_version {version!r}; this version of denoscope reads {FORMAT_VERSION}")
        missing = [name for name in _VARIABLES if name not in data] + [name for name in _ATTRIBUTES if name not in data.attrs]
        if missing:
            raise TrajectoryError(f"{path} is cut short: it lacks {', '.join(missing)}")
        if data.attrs.pop(_DIGEST, None) != _digest(data):
            raise TrajectoryError(f"{path} is damaged: its values are not those that were saved (a chunk is missing or was changed)")
        return cls(data)


def check_free(path: Path) -> None:
    """Raises TrajectoryError where a trajectory cannot be saved: the path is something else, or lies inside a file."""
    if path.exists() and not _is_trajectory(path):
        raise TrajectoryError(f"{path} exists and is no trajectory; choose another path")
    standing = next(parent for parent in path.absolute().parents if parent.exists())
    if not standing.is_dir():
        raise TrajectoryError(f"the trajectory cannot be written to {path}: {standing} is no folder")


@dataclass
class Recorder:
    """Collects a run step by step and turns it into a ``Trajectory``."""

    initial: Int[np.ndarray, "batch pos"]
    writable: np.ndarray
    """Where the run may write, ``[batch, pos]``; everything else is prompt."""
    mask_token_id: int

    def __post_init__(self) -> None:
        self._tokens = [self.initial.astype(np.int32)]
        self._proposals = [np.full(self.initial.shape, -1, np.int32)]
        self._spoken: dict[str, list[np.ndarray]] = {name: [np.full(self.initial.shape, np.nan, kind)] for name, kind in _SPOKEN.items()}
        self._calls = np.zeros(len(self.initial), np.int32)

    def add(
        self,
        rows: Int[np.ndarray, " row"],
        tokens: Int[np.ndarray, "row pos"],
        proposals: Int[np.ndarray, "row pos"],
        spoken: Mapping[str, np.ndarray],
    ) -> None:
        """Adds a step in which the samples ``rows`` made a network call; the others stay as they were."""
        canvas = self._tokens[-1].copy()
        canvas[rows] = tokens
        self._tokens.append(canvas)
        self._proposals.append(np.full_like(self._proposals[0], -1))
        self._proposals[-1][rows] = np.where(self.writable[rows], proposals, -1)
        for name, values in spoken.items():
            self._spoken[name].append(np.full_like(self._spoken[name][0], np.nan))
            self._spoken[name][-1][rows] = np.where(self.writable[rows], values, np.nan)
        self._calls[rows] += 1

    def _states(self, tokens: Int[np.ndarray, "step batch pos"]) -> UInt8[np.ndarray, "step batch pos"]:
        states = np.full(tokens.shape, State.PROMPT, np.uint8)
        changed = np.zeros(self.writable.shape, bool)
        last_written = np.full_like(tokens[0], self.mask_token_id)
        for canvas, state in zip(tokens, states, strict=True):
            masked, written = (self.writable & where for where in (canvas == self.mask_token_id, canvas != self.mask_token_id))
            blank = last_written == self.mask_token_id
            changed |= written & ~blank & (canvas != last_written)
            last_written[written] = canvas[written]
            state[masked] = np.where(blank, State.MASKED, State.REMASKED)[masked]
            state[written] = np.where(changed, State.REVISED, State.COMMITTED)[written]
        return states

    def finish(self, attributes: Mapping[str, object]) -> Trajectory:
        """Returns the trajectory recorded so far."""
        tokens = np.stack(self._tokens)
        settled = np.cumprod((tokens == tokens[-1])[::-1], axis=0)[::-1]
        commit = np.where(self.writable, settled.argmax(axis=0), 0)
        commit = np.where(self.writable & (tokens[-1] == self.mask_token_id), -1, commit).astype(np.int32)
        over_steps = ("sample", "step", "position")
        data = xr.Dataset(
            {
                "token": (over_steps, tokens.swapaxes(0, 1)),
                "proposal": (over_steps, np.stack(self._proposals, axis=1)),
                "state": (over_steps, self._states(tokens).swapaxes(0, 1)),
                **{name: (over_steps, np.stack(values, axis=1)) for name, values in self._spoken.items()},
                "commit_step": (("sample", "position"), commit),
                "calls": (("sample",), self._calls),
            },
            coords={"step": np.arange(len(tokens))},
            attrs={"format_version": FORMAT_VERSION, **attributes},
        )
        data["entropy"].attrs["units"] = "nats"
        return Trajectory(data)
