"""What readers find in a denoising run, at every step and position.

Between steps a masked diffusion model without a cache carries nothing but tokens. So a reading needs no recorded activations: it runs the
model again on the canvases the trajectory recorded, which is exactly what each call saw; only where a call's activations were edited must
they have been recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.dynamics import writable
from interp.harvest import BATCH, activations_at
from interp.reading.readers import Reader, ReadingError
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from models.recorder import Channel, Record
from models.tasks.base import PuzzleTask
from models.trajectory import State, Trajectory


@runtime_checkable
class Readable(Protocol):
    """What can be followed through a run: a probe, a lens, some latents of an SAE."""

    @property
    def name(self) -> str:
        """What it is and where it reads."""
        ...

    @property
    def point(self) -> HookPoint:
        """The hook point it reads."""
        ...

    @property
    def heads(self) -> tuple[str, ...]:
        """What each number says."""
        ...

    @property
    def reads(self) -> str:
        """Fingerprint of the model it reads."""
        ...

    def probabilities(self, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row head"]:
        """Returns one number a head for each activation."""
        ...


@dataclass(frozen=True)
class Reading:
    """What was read in a trajectory: probabilities of every concept's heads (of latents: their activations).

    ``scores[name]`` has the dims ``sample, step, position, head``: step s is what the readers found inside network call s (NaN at step 0
    and after a sample's last call), position is that of the token about to be predicted, only where the trajectory could write.
    """

    trajectory: Trajectory
    readers: Mapping[str, Readable]
    scores: dict[str, xr.DataArray]

    @cached_property
    def unwritten(self) -> Float[np.ndarray, "sample step"]:
        """The share of the writable positions that were unwritten in what each call read; NaN at step 0."""
        return unwritten_share(self.trajectory)

    def reader(self, name: str) -> Reader:
        """Returns the reader of this name that has a concept and thresholds.

        Raises:
            ReadingError: Where it has none: a lens, or latents.
        """
        reader = self.readers[name]
        if not isinstance(reader, Reader):
            raise ReadingError(f"{reader.name} has no thresholds; only probes made by `reader_sets`, `best_reader` or `random_reader` have")
        return reader

    def readable(self, name: str) -> xr.DataArray:
        """Returns where each head is claimed, at its reader's threshold for how much is unwritten, over the dims of ``scores``.

        Thresholds are those of unwritten positions. Nothing is claimed where nothing was read.

        Raises:
            ReadingError: Where the reader has no thresholds.
        """
        reader, scores = self.reader(name), self.scores[name]
        share = torch.from_numpy(np.nan_to_num(self.unwritten))[..., None].expand(scores.shape[:3])
        return scores.copy(data=reader.claims(torch.from_numpy(scores.values), share).numpy())

    def false_alarm(self, name: str) -> xr.DataArray:
        """Returns the false-alarm rate of a claim (see ``Calibration``), as measured on held-out boards, over (sample, step, head).

        Raises:
            ReadingError: Where the reader has no thresholds.
        """
        calibration, scores = self.reader(name).calibration, self.scores[name]
        rate = calibration.false_alarm[calibration.band(torch.from_numpy(np.nan_to_num(self.unwritten)))].numpy()
        rate = np.where(np.isnan(self.unwritten)[..., None], np.nan, np.broadcast_to(rate, (*rate.shape[:2], scores.sizes["head"])))
        return scores.isel(position=0, drop=True).copy(data=rate.astype(np.float32))


def unwritten_share(trajectory: Trajectory) -> Float[np.ndarray, "sample step"]:
    """Returns the share of the writable positions that were unwritten in the canvas each step's call read; NaN at step 0."""
    may, states = writable(trajectory), trajectory.data["state"].values
    empty = np.isin(states, (State.MASKED, State.REMASKED)) & may[:, None]
    share = (empty.sum(2) / np.maximum(may.sum(1), 1)[:, None]).astype(np.float32)
    return np.concatenate([np.full_like(share[:, :1], np.nan), share[:, :-1]], axis=1)


def recording(readers: Mapping[str, Readable], *, store: Path | None = None) -> Record:
    """Returns what a run must keep, so that its steered or patched calls can be read: the activations at the readers' hook points."""
    points = {reader.point for reader in readers.values()}
    return Record(channels={str(point): Channel(point) for point in sorted(points)}, store=store)


def check_model(model: LanguageModel, trajectory: Trajectory) -> None:
    """Raises ReadingError where the trajectory is of another model, or of another tool."""
    if not trajectory.fingerprint:
        raise ReadingError(
            f"the trace is of another tool ({trajectory.policy}, model {trajectory.model!r}) and cannot be read; "
            f"`denoscope trace {model.name} --out FILE.zarr` records one that can"
        )
    if trajectory.fingerprint != model.fingerprint:
        raise ReadingError(f"the trajectory is of {trajectory.fingerprint}, and {model.name} is {model.fingerprint}; trace it again")


def _edited_calls(trajectory: Trajectory) -> Bool[np.ndarray, " step"]:
    """Returns in which calls, by step, activations may have been patched or steered: to show the canvas again would not do."""
    edited = np.zeros(trajectory.n_steps + 1, bool)
    spans = pairwise([*(int(one["step"]) for one in trajectory.surgery), trajectory.n_steps])
    for one, (start, following) in zip(trajectory.surgery, spans, strict=True):
        edited[start + 1 : following + 1] |= bool(one.get("steered"))
        edited[start + 1 : start + 2] |= bool(one.get("patched"))
    return edited


def _check_readable(model: LanguageModel, trajectory: Trajectory, readers: Mapping[str, Readable]) -> None:
    check_model(model, trajectory)
    for reader in readers.values():
        if reader.reads != model.fingerprint:
            raise ReadingError(f"{reader.name} reads {reader.reads}, and the model is {model.fingerprint}")
    edited = np.flatnonzero(_edited_calls(trajectory))
    missing = {str(reader.point) for reader in readers.values()} - set(trajectory.channels)
    if len(edited) and missing:
        raise ReadingError(
            f"the activations of call {edited[0]} were patched or steered, and {min(missing)} was not recorded; make the run again with "
            "record=recording(readers), which keeps it: denoise(..., record=...) or resume(..., record=...)"
        )


def _batches(trajectory: Trajectory) -> Iterator[tuple[Int[np.ndarray, " canvas"], Int[np.ndarray, " canvas"], int]]:
    """Yields (sample, step) of calls, some at a time, of samples of one length; and that length."""
    called = np.arange(trajectory.n_steps + 1)[None] <= trajectory.last_step[:, None]
    called[:, 0] = False
    lengths = (trajectory.tokens(0) >= 0).sum(1)
    for length in np.unique(lengths):
        step, sample = np.nonzero((called & (lengths == length)[:, None]).T)
        for start in range(0, len(step), BATCH):
            yield sample[start : start + BATCH], step[start : start + BATCH], int(length)


def _positions(model: LanguageModel, trajectory: Trajectory) -> Int[np.ndarray, " pos"]:
    """Returns the positions of a puzzle's answer; of a text, those that any sample may write and the model predicts."""
    if isinstance(model.task, PuzzleTask):
        return np.arange(model.task.length)[model.task.target]
    places = np.flatnonzero(writable(trajectory).any(0))
    return places[places >= model.facts.logit_shift]


@torch.no_grad()
def read(
    model: LanguageModel,
    trajectory: Trajectory,
    readers: Mapping[str, Readable],
    on_call: Callable[[int, int], None] = lambda done, total: None,
) -> Reading:
    """Returns what the readers find in every network call of a trajectory; one pass serves all of them.

    A call whose activations were patched or steered is read from what was recorded of it (in half precision), see ``recording``.

    Args:
        model: The model that ran.
        trajectory: Of ``denoise``.
        readers: By any name; ``readers`` of one concept at several layers have names such as "digit @ 3".
        on_call: Told (calls read, total), over all samples.

    Raises:
        ReadingError: Where the trajectory is of another model, a reader reads another one, or an edited call was not recorded.
    """
    _check_readable(model, trajectory, readers)
    positions, share, edited = _positions(model, trajectory), unwritten_share(trajectory), _edited_calls(trajectory)
    scores = {name: _empty_scores(trajectory, reader, positions) for name, reader in readers.items()}
    points = sorted({reader.point for reader in readers.values()})
    batches = list(_batches(trajectory))
    done, total = 0, sum(len(step) for _, step, _ in batches)
    tokens = trajectory.data["token"].values
    for sample, step, length in batches:
        here = np.flatnonzero(positions < length)
        places = positions[here]
        rows = torch.arange(len(step)).repeat_interleave(len(places))
        canvases = torch.from_numpy(tokens[sample, step - 1, :length]).long()
        found = activations_at(model, canvases, rows, torch.from_numpy(places).repeat(len(step)), points)
        if edited[step].any():
            _recorded(trajectory, found, sample, step, places, edited[step])
        shares = torch.from_numpy(share[sample, step])[rows]
        for name, reader in readers.items():
            x = found[reader.point]
            said = reader.probabilities(x, shares) if isinstance(reader, Reader) else reader.probabilities(x)
            scores[name].values[sample[:, None], step[:, None], here] = said.view(len(step), len(places), -1).float().cpu().numpy()
        done += len(step)
        on_call(done, total)
    return Reading(trajectory, dict(readers), scores)


def _empty_scores(trajectory: Trajectory, reader: Readable, positions: Int[np.ndarray, " pos"]) -> xr.DataArray:
    data, heads = trajectory.data, list(reader.heads)
    shape = (trajectory.n_samples, trajectory.n_steps + 1, len(positions), len(heads))
    coords = {"sample": data["sample"].values, "step": data["step"].values, "position": positions, "head": heads}
    return xr.DataArray(np.full(shape, np.nan, np.float32), dims=tuple(coords), coords=coords)


def _recorded(
    trajectory: Trajectory,
    found: dict[HookPoint, Tensor],
    sample: Int[np.ndarray, " canvas"],
    step: Int[np.ndarray, " canvas"],
    places: Int[np.ndarray, " pos"],
    edited: Bool[np.ndarray, " canvas"],
) -> None:
    """Puts what was recorded of edited calls in place of what the network does there on its own."""
    for point, values in found.items():
        kept = trajectory.channel(str(point))
        for index in np.flatnonzero(edited):
            own = kept.isel(sample=int(sample[index]), step=int(step[index])).values[places].astype(np.float32)
            values.view(len(step), len(places), -1)[index] = torch.from_numpy(own)


def readings(
    model: LanguageModel, trajectory: Trajectory, readers: Mapping[str, Readable], *, samples_at_once: int = 16
) -> Iterator[Reading]:
    """Yields the readings of some samples at a time, each with its part of the trajectory: memory for these only.

    Nine heads at 81 cells take 3 kB a step: 16 boards of 50 steps 2.3 MB a reader.
    """
    for start in range(0, trajectory.n_samples, samples_at_once):
        yield read(model, trajectory.select(range(start, min(start + samples_at_once, trajectory.n_samples))), readers)
