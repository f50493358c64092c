"""What happened while a model denoised: one labelled array a quantity, saved as Zarr.

Step 0 is the canvas before the first network call; step s >= 1 is the canvas after call s. So the canvas that call s *read* is
``token`` at step s-1, and what it *said* (proposal, confidence, margin, entropy) stands at step s. Samples that finish early keep their
last canvas; what the calls they did not need would have said is NaN (-1 for integers).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from jaxtyping import Int

from models.numerals import GREATEST, whole
from models.trajectory_store import CHANNEL, TrajectoryError, read_stored, steps_of, stored_digest, write_stored

if TYPE_CHECKING:
    from models.decoding import Decoding
    from models.surgery import Moment

SURGERY = "surgery"
"""The attribute that lists, as JSON, what was done to a run on its way."""


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
        if self.stored is not None and stored_digest(self.stored[0]) != self.stored[1]:
            raise TrajectoryError(f"{self.stored[0]} no longer holds the trajectory whose channel {channel!r} is asked for; load it again")

    def steps(self, first: int, last: int) -> xr.Dataset:
        """Returns all about the steps ``first`` to ``last``, channels too, in memory.

        Raises:
            TrajectoryError: Where its channels are no longer there.
        """
        for name in self.channels:
            self._check_stored(name)
        return self.data[steps_of(self.data)].isel(step=slice(first, last + 1)).load()

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

    def select(self, samples: Sequence[int]) -> Trajectory:
        """Returns the run of some samples, by row, with all its steps.

        Raises:
            TrajectoryError: On a row that is not there.
        """
        wrong = [row for row in samples if not 0 <= row < self.n_samples]
        if wrong:
            raise TrajectoryError(f"there is no sample {wrong[0]}; the trajectory has samples 0 to {self.n_samples - 1}")
        return replace(self, data=self.data.isel(sample=list(samples)))

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
        write_stored(self.data, Path(path))

    @classmethod
    def load(cls, path: Path | str) -> Trajectory:
        """Returns the trajectory saved at ``path``, in memory but for its channels.

        Raises:
            TrajectoryError: Where there is none, it is of a newer format, or a part of it is missing.
        """
        path = Path(path)
        data, found = read_stored(path)
        return cls(data, (path.resolve(), found))
