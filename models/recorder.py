"""What is kept of a denoising run, and the recorder that keeps it: in memory, or streamed to a Zarr folder step by step."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from models.backends import Edit
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from models.network import PADDING
from models.numerals import whole, wholes
from models.trajectory import State, Trajectory
from models.trajectory_store import CHANNEL, CLOCKS, FORMAT_VERSION, SPOKEN, TrajectoryError, TrajectoryStream

FLUSHED_STEPS = 32
"""Steps held in memory before they are written to the store."""
_OVER_STEPS = ("sample", "step", "position")


@dataclass(frozen=True)
class Channel:
    """One quantity read from the activations of a network call."""

    point: HookPoint
    read: Callable[[Float[Tensor, "batch pos d_model"]], Tensor] = field(default=lambda activation: activation)
    """Makes one number a position of an activation, or a vector: a probe, an SAE's encoder; the activation itself unless given."""
    positions: tuple[int, ...] | None = None
    """Only there; None is everywhere."""
    steps: Container[int] | None = None
    """Only in these calls, counted from 1; None is in all."""

    def __post_init__(self) -> None:
        check_point(self.point)
        if not callable(self.read):
            raise TrajectoryError(f"read is {self.read!r}; it must be a function of an activation")
        if self.positions is not None:
            object.__setattr__(self, "positions", wholes("positions", self.positions, TrajectoryError))
        if not isinstance(self.steps, Container | None) or isinstance(self.steps, str):
            raise TrajectoryError(f"steps are {self.steps!r}; they must be a list or range of calls, or None for all")


@dataclass(frozen=True)
class Record:
    """What is kept besides tokens, proposals, states, confidence, margin and entropy."""

    top_k: int = 0
    """So many most probable tokens of each position, with their probabilities."""
    channels: Mapping[str, Channel] = field(default_factory=dict)
    """By name. What stands at position p is read where the network predicts token p, whatever its logit shift."""
    store: Path | None = None
    """A Zarr folder to stream to, so that channels are never in memory but for some steps; None keeps the run in memory."""

    def __post_init__(self) -> None:
        if self.store is not None:
            if not isinstance(self.store, str | Path):
                raise TrajectoryError(f"store is {self.store!r}; it must be a path, or None for none")
            object.__setattr__(self, "store", Path(self.store))
        object.__setattr__(self, "top_k", whole("top_k", self.top_k, TrajectoryError))
        if not isinstance(self.channels, Mapping):
            raise TrajectoryError(f"channels are {self.channels!r}; they must be a mapping of names to Channels")
        for name, one in self.channels.items():
            if not isinstance(name, str) or not name or "/" in name:
                raise TrajectoryError(f"a channel is named {name!r}; a name must have no '/' and not be empty")
            if not isinstance(one, Channel):
                raise TrajectoryError(f"the channel {name!r} is {one!r}; it must be a Channel")


def check_point(point: object) -> None:
    """Raises TrajectoryError on what is no hook point."""
    if not isinstance(point, HookPoint):
        raise TrajectoryError(f"point is {point!r}; it must be a HookPoint, such as models.hookpoints.resid_post(3)")


def forms(record: Record, model: LanguageModel, tokens: Int[Tensor, "batch pos"]) -> dict[str, np.ndarray]:
    """Returns arrays of the shape and kind of what is kept of a call besides what always is; for channels the network reads one sample.

    Raises:
        TrajectoryError: On a channel that does not give each position one number or vector, or is about a position that is not there.
    """
    shape = tuple(tokens.shape)
    found: dict[str, np.ndarray] = {}
    if record.top_k:
        found = {"top_token": np.zeros((*shape, record.top_k), np.int32), "top_probability": np.zeros((*shape, record.top_k), np.float32)}
    if record.channels:
        _, cache = model.run_with_cache(tokens[:1, : int((tokens[0] >= 0).sum())], {one.point for one in record.channels.values()})
    for name, one in record.channels.items():
        beyond = [position for position in one.positions or () if position >= shape[1]]
        if beyond:
            raise TrajectoryError(f"the channel {name!r} is about position {beyond[0]}; there are positions 0 to {shape[1] - 1}")
        values = _placed(name, one, cache[one.point], model.facts.logit_shift)
        found[CHANNEL + name] = np.zeros((*shape, *values.shape[2:]), np.float16)
    return found


def capture(record: Record, step: int, logit_shift: int, found: dict[str, Tensor]) -> dict[HookPoint, Edit]:
    """Returns hooks that change nothing, and leave in ``found`` what the channels want of a call.

    Whether there are any depends on the call's number alone: a hooked network may round otherwise than a bare one.
    """
    wanted = {name: one for name, one in record.channels.items() if one.steps is None or step in one.steps}

    def edit(point: HookPoint) -> Edit:
        def keep(activation: Tensor) -> None:
            for name, one in wanted.items():
                if one.point == point:
                    found[CHANNEL + name] = _placed(name, one, activation, logit_shift)

        return keep

    return {point: edit(point) for point in {one.point for one in wanted.values()}}


def _placed(name: str, channel: Channel, activation: Tensor, logit_shift: int) -> Float[Tensor, "batch pos ..."]:
    """Returns what a channel reads at the positions it is about; NaN elsewhere."""
    if channel.point.by_head:
        raise TrajectoryError(
            f"the channel {name!r} is of {channel.point}, which is of pairs of positions by head; a channel is of positions"
        )
    values = channel.read(activation)
    if not isinstance(values, Tensor):
        raise TrajectoryError(f"the channel {name!r} reads a {type(values).__name__} from {channel.point}; it must be a tensor")
    values = values.detach().to(activation.device)
    if values.ndim not in (2, 3) or values.shape[:2] != activation.shape[:2]:
        raise TrajectoryError(
            f"the channel {name!r} reads {tuple(values.shape)} from {tuple(activation.shape)} at {channel.point}; "
            "it must be one number, or one vector, for each sample and position"
        )
    kept = torch.full_like(values, torch.nan, dtype=torch.float16)
    about = range(logit_shift, values.shape[1]) if channel.positions is None else channel.positions
    places = [position for position in about if logit_shift <= position < values.shape[1]]
    own = values[:, [position - logit_shift for position in places]]
    kept[:, places] = own.to(torch.float16)
    if torch.isinf(kept[:, places]).any() and torch.isfinite(own).all():
        largest = float(own.abs().max())
        raise TrajectoryError(f"the channel {name!r} reads {largest:g} at {channel.point}; it is kept in float16, to 65504: scale it")
    return kept


def _nothing(values: np.ndarray) -> int | float:
    """Returns what stands where nothing was said."""
    return -1 if np.issubdtype(values.dtype, np.integer) else np.nan


class Recorder:
    """Collects a run step by step and turns it into a ``Trajectory``."""

    def __init__(
        self,
        initial: Int[np.ndarray, "batch pos"],
        writable: Bool[np.ndarray, "batch pos"],
        mask_token_id: int,
        *,
        sample_ids: Int[np.ndarray, " batch"] | None = None,
        stream: TrajectoryStream | None = None,
    ) -> None:
        self._writable, self._mask = writable, mask_token_id
        self._samples = np.arange(len(initial)) if sample_ids is None else sample_ids
        self._stream = stream
        self._steps: list[dict[str, np.ndarray]] = []
        self._known: dict[str, np.ndarray] = {}
        """What every variable holds in a step that says nothing."""
        self._n_steps = 0
        self._tokens = initial.astype(np.int32)
        self._last_written = np.full_like(self._tokens, mask_token_id)
        self._changed = np.zeros(writable.shape, bool)
        self._since = np.zeros(writable.shape, np.int32)
        self._calls = np.zeros(len(initial), np.int32)
        self._blank = np.where(initial == PADDING, State.PADDING, State.PROMPT).astype(np.uint8)
        self._clocks: Mapping[str, np.ndarray] = {name: np.zeros(len(initial), np.int32) for name in CLOCKS}
        nowhere = np.full(initial.shape, np.nan, np.float32)
        self._keep(self._clocks, {"proposal": np.full(initial.shape, -1, np.int32), **dict.fromkeys(SPOKEN, nowhere)})

    def add(
        self,
        rows: Int[np.ndarray, " row"],
        tokens: Int[np.ndarray, "row pos"],
        spoken: Mapping[str, np.ndarray],
        clocks: Mapping[str, Int[np.ndarray, " batch"]] | None = None,
        edited: Int[np.ndarray, "batch pos"] | None = None,
    ) -> None:
        """Adds a step in which the samples ``rows`` made a network call; the others stay as they were.

        Args:
            rows: Which.
            tokens: Their canvases after the step.
            spoken: What the call said, by variable, each ``[row, pos, ...]``; it is kept where the run may write.
            clocks: ``CLOCKS`` of all samples after the step; zeros, unless given.
            edited: The canvases of the others, where these were changed by hand.
        """
        before = self._tokens
        self._tokens = before.copy() if edited is None else edited.astype(np.int32)
        self._tokens[rows] = tokens
        self._n_steps += 1
        self._since = np.where(self._tokens == before, self._since, self._n_steps)
        self._calls[rows] += 1
        whole = {}
        for name, values in spoken.items():
            whole[name] = np.full((len(before), *values.shape[1:]), _nothing(values), values.dtype)
            kept = self._writable[rows].reshape(*values.shape[:2], *(1 for _ in values.shape[2:]))
            whole[name][rows] = np.where(kept, values, _nothing(values))
        self.expect(whole)
        if self._stream is not None and len(self._steps) >= FLUSHED_STEPS:
            self._stream.append(self._dataset())
            self._steps = []
        self._keep(clocks or self._clocks, whole)

    def copy_from(self, trajectory: Trajectory, until: int, tokens: Int[np.ndarray, "batch pos"]) -> None:
        """Takes over the steps of a trajectory after its first, up to and with ``until``, where the canvases are ``tokens`` instead."""
        for first in range(1, until + 1, FLUSHED_STEPS):
            last = min(first + FLUSHED_STEPS - 1, until)
            some = trajectory.steps(first, last)
            for step in range(first, last + 1):
                data = {str(name): values.values[:, step - first] for name, values in some.data_vars.items()}
                rows = np.flatnonzero((data["proposal"] >= 0).any(1))
                spoken = {name: values[rows] for name, values in data.items() if name not in ("token", "state", *CLOCKS)}
                canvases = tokens if step == until else data["token"]
                self.add(rows, canvases[rows], spoken, {name: data[name] for name in CLOCKS}, edited=canvases)

    def expect(self, values: Mapping[str, np.ndarray]) -> None:
        """Makes known the shape and kind of variables over (sample, position, ...); a stream must know all before its first steps go out.

        Raises:
            TrajectoryError: On a variable that has had another shape so far.
        """
        for name, one in values.items():
            known = self._known.setdefault(name, np.full_like(one, _nothing(one)))
            if known.shape != one.shape:
                ours, theirs = (" by ".join(map(str, shape[2:])) or "one" for shape in (known.shape, one.shape))
                raise TrajectoryError(f"{name} has {theirs} numbers a position in some steps and {ours} in others; keep as many in all")

    def _keep(self, clocks: Mapping[str, np.ndarray], spoken: Mapping[str, np.ndarray]) -> None:
        self.expect(spoken)
        self._steps.append({"token": self._tokens, "state": self._states(), **dict(clocks), **spoken})

    def _states(self) -> UInt8[np.ndarray, "batch pos"]:
        masked, written = (self._writable & where for where in (self._tokens == self._mask, self._tokens != self._mask))
        blank = self._last_written == self._mask
        self._changed |= written & ~blank & (self._tokens != self._last_written)
        self._last_written[written] = self._tokens[written]
        state = self._blank.copy()
        state[masked] = np.where(blank, State.MASKED, State.REMASKED)[masked]
        state[written] = np.where(self._changed, State.REVISED, State.COMMITTED)[written]
        return state

    def _dataset(self) -> xr.Dataset:
        """Returns the steps in memory as a dataset; what a step did not say (the canvas before the first call, say) is NaN, or -1."""
        variables = {}
        for name in {**self._known, **self._steps[0]}:
            stacked = np.stack([step[name] if name in step else self._known[name] for step in self._steps], axis=1)
            own = {"top_token": ("rank",), "top_probability": ("rank",)}.get(name, (f"{name.removeprefix(CHANNEL)}.feature",))
            dims = ("sample", "step") if stacked.ndim == 2 else (*_OVER_STEPS, *own)[: stacked.ndim]
            variables[name] = (dims, stacked, {"units": "nats"} if name == "entropy" else {})
        return xr.Dataset(variables, coords={"sample": self._samples})

    def finish(self, attributes: Mapping[str, object]) -> Trajectory:
        """Returns the trajectory recorded so far."""
        rest = self._rest(attributes)
        return Trajectory(self._dataset().assign(rest.variables).assign_attrs(rest.attrs))

    def finish_stream(self, attributes: Mapping[str, object]) -> None:
        """Writes what is left to the stream, which is then a whole trajectory."""
        assert self._stream is not None
        self._stream.append(self._dataset())
        self._stream.finish(self._rest(attributes))

    def _rest(self, attributes: Mapping[str, object]) -> xr.Dataset:
        commit = np.where(self._writable, self._since, 0)
        commit = np.where(self._writable & (self._tokens == self._mask), -1, commit).astype(np.int32)
        rest = xr.Dataset({"commit_step": (("sample", "position"), commit), "calls": (("sample",), self._calls)}, {"sample": self._samples})
        return rest.assign_coords(step=np.arange(self._n_steps + 1)).assign_attrs({"format_version": FORMAT_VERSION, **attributes})
