"""What the trace viewer shows of one sample, as plain values: no plotly, no HTML, no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr
from jaxtyping import Float32, Float64, Int32, Shaped, UInt8

from interp.narration import Statement
from interp.viz.statement_view import StatementView, statement_views
from models.tasks import TASKS
from models.tasks.sudoku.board import N_CELLS
from models.tasks.sudoku.task import SOLUTION, SUDOKU
from models.trajectory import Trajectory
from models.trajectory_store import SPOKEN

MOST_SAMPLES = 16
MOST_CELLS = 2**19
"""Steps times positions of all samples shown together; a page stays below some 16 MB."""
MOST_FEATURES = 24
"""Features shown of a channel that has more: those that vary most."""

Spelling = Callable[[int], str]
"""The text of a token id."""


class ViewError(ValueError):
    """A sample or a tokenizer that is not there."""


@dataclass(frozen=True, eq=False)
class ChannelView:
    """A quantity that was recorded beside what the model said."""

    name: str
    values: Float32[np.ndarray, "step pos feature"]
    """NaN where not recorded."""
    features: tuple[str, ...]
    """A label for each feature; empty where the quantity is one number a position."""
    n_features: int
    """How many were recorded, of which these are shown."""


@dataclass(frozen=True, eq=False)
class TraceView:
    """One sample from the canvas before the first call to the last. Tokens are -1 where there is none, numbers are NaN."""

    sample: int
    """Counted from 0."""
    n_samples: int
    """How many the trajectory has."""
    model: str
    policy: str
    layout: Literal["board", "text"]
    """``board``: 81 positions, the cells of a sudoku; ``text``: a sequence."""
    tokens: Int32[np.ndarray, "step pos"]
    states: UInt8[np.ndarray, "step pos"]
    """See ``models.trajectory.State``."""
    proposals: Int32[np.ndarray, "step pos"]
    confidence: Float32[np.ndarray, "step pos"]
    margin: Float32[np.ndarray, "step pos"]
    entropy: Float32[np.ndarray, "step pos"]
    """In nats."""
    commit_step: Int32[np.ndarray, " pos"]
    top_tokens: Int32[np.ndarray, "step pos rank"]
    """Best first; no ranks where they were not recorded."""
    top_probabilities: Float32[np.ndarray, "step pos rank"]
    channels: tuple[ChannelView, ...]
    texts: Mapping[int, str]
    """The text of every token that occurs."""
    statements: tuple[StatementView, ...] = ()
    """What was said of the sample."""

    @property
    def n_steps(self) -> int:
        """Returns the number of network calls."""
        return len(self.tokens) - 1


def spelling(trajectory: Trajectory, tokenizer: Path | None = None) -> Spelling:
    """Returns how tokens are spelled: by a tokenizer's folder, else by the vocabulary of the trajectory's task, else as ``#id``.

    Raises:
        ViewError: Where the folder holds no ``tokenizer.json``.
    """
    if tokenizer is not None:
        return _tokenizer_spelling(tokenizer)
    vocabulary = TASKS[trajectory.task].vocabulary if trajectory.task in TASKS else ()
    return lambda token: vocabulary[token] if token < len(vocabulary) else f"#{token}"


def _tokenizer_spelling(folder: Path) -> Spelling:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ViewError(f"{folder} holds no tokenizer.json; give the folder that the model's tokenizer was saved in")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ViewError(f"{path} is no tokenizer: {error}") from None

    def spell(token: int) -> str:
        piece = tokenizer.id_to_token(token)
        if piece is None:
            return f"#{token}"
        text: str = tokenizer.decode([token], skip_special_tokens=False) or piece
        return f" {text}" if piece.startswith("▁") and not text.startswith(" ") else text  # which decoding one token alone drops

    return spell


def _moments(values: xr.DataArray) -> Float64[np.ndarray, "3 feature"]:
    """Returns count, sum and sum of squares of each feature of a vector channel over all that was recorded of it."""
    n = values.shape[-1]
    found = np.zeros((3, n))
    for sample in range(values.sizes["sample"]):
        numbers = values.isel(sample=sample).values.astype(np.float64).reshape(-1, n)
        found += [(~np.isnan(numbers)).sum(axis=0), np.nansum(numbers, axis=0), np.nansum(numbers**2, axis=0)]
    return found


def strongest_features(trajectories: Sequence[Trajectory]) -> dict[str, tuple[int, ...]]:
    """Returns, by vector channel, which features to show: all, or those whose values vary most over all trajectories that have them."""
    found: dict[str, Float64[np.ndarray, "3 feature"]] = {}
    for trajectory in trajectories:
        for name in trajectory.channels:
            values = trajectory.channel(name)
            if values.ndim == 4:
                n = values.shape[-1]
                own = _moments(values) if n > MOST_FEATURES else np.zeros((3, n))
                found[name] = found[name] + own if name in found and found[name].shape == own.shape else own
    chosen = {}
    for name, (count, total, squares) in found.items():
        variance = squares / np.maximum(count, 1) - (total / np.maximum(count, 1)) ** 2
        chosen[name] = tuple(sorted(np.argsort(-variance, kind="stable")[:MOST_FEATURES].tolist()))
    return chosen


def _channel(name: str, values: xr.DataArray, sample: int, window: tuple[slice, slice], features: tuple[int, ...]) -> ChannelView:
    own = values.isel(sample=sample, step=window[0], position=window[1])
    numbers = np.asarray(own.values, dtype=np.float32)
    if numbers.ndim == 2:
        return ChannelView(name, numbers[..., None], (), 1)
    labels = tuple(str(label) for label in own[own.dims[-1]].values[list(features)])
    return ChannelView(name, numbers[..., list(features)], labels, numbers.shape[-1])


def _window(trajectory: Trajectory, sample: int) -> tuple[slice, slice]:
    """Returns the steps and positions that a sample has; of a sudoku only its solution half."""
    steps = slice(0, int(trajectory.last_step[sample]) + 1)
    first = trajectory.tokens(0)[sample]
    if trajectory.task == SUDOKU.name and len(first) == SUDOKU.length:
        return steps, SOLUTION
    return steps, slice(0, int(np.flatnonzero(first >= 0).max(initial=-1)) + 1)


def _tops(data: xr.Dataset, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    if "top_token" not in data:
        return np.empty((*shape, 0), np.int32), np.empty((*shape, 0), np.float32)
    return data["top_token"].values, data["top_probability"].values


def _check_sample(trajectory: Trajectory, sample: int) -> None:
    n = trajectory.n_samples
    if not 0 <= sample < n:
        raise ViewError(f"there is no sample {sample}; the trajectory has {n}, 0 to {n - 1}")


def trace_views(
    trajectory: Trajectory,
    samples: tuple[int, ...],
    spell: Spelling,
    features: Mapping[str, tuple[int, ...]],
    statements: Sequence[Statement] = (),
) -> Iterator[TraceView]:
    """Yields what there is to show of each of some samples (see ``trace_view``), ``features`` of vector channels."""
    channels = {name: trajectory.channel(name) for name in trajectory.channels}
    for sample in samples:
        _check_sample(trajectory, sample)
        window = _window(trajectory, sample)
        data = trajectory.data.isel(sample=sample, step=window[0], position=window[1])
        tokens, proposals = (data[name].values for name in ("token", "proposal"))
        top_tokens, top_probabilities = _tops(data, tokens.shape)
        spoken: dict[str, Shaped[np.ndarray, "step pos"]] = {name: data[name].values for name in SPOKEN}
        occurring = np.unique(np.concatenate([tokens.ravel(), proposals.ravel(), top_tokens.ravel()]))
        yield TraceView(
            sample=sample,
            n_samples=trajectory.n_samples,
            model=trajectory.model,
            policy=trajectory.policy,
            layout="board" if window[1] == SOLUTION and tokens.shape[1] == N_CELLS else "text",
            tokens=tokens,
            states=data["state"].values,
            proposals=proposals,
            commit_step=data["commit_step"].values,
            top_tokens=top_tokens,
            top_probabilities=top_probabilities,
            channels=tuple(_channel(name, values, sample, window, features.get(name, ())) for name, values in channels.items()),
            texts={token: spell(token) for token in occurring.tolist() if token >= 0},
            statements=statement_views(statements, sample, window[1]),
            **spoken,
        )


def trace_view(trajectory: Trajectory, sample: int, spell: Spelling | None = None) -> TraceView:
    """Returns what there is to show of a sample: the steps it took, the positions it has, and the texts of the tokens in it.

    Args:
        trajectory: A run.
        sample: Counted from 0.
        spell: Says the text of a token; by default ``spelling(trajectory)``.

    Raises:
        ViewError: Where there is no such sample.
    """
    return next(trace_views(trajectory, (sample,), spell or spelling(trajectory), strongest_features([trajectory])))


def shown_samples(trajectories: tuple[Trajectory, ...], sample: int | None) -> tuple[int, ...]:
    """Returns the samples to show: the one asked for, or the first ones that all trajectories have, as many as a page can take.

    Raises:
        ViewError: Where one of them does not have the sample asked for.
    """
    if sample is not None:
        for trajectory in trajectories:
            _check_sample(trajectory, sample)
        return (sample,)
    cells = sum((one.n_steps + 1) * one.data.sizes["position"] for one in trajectories)
    most = min(MOST_SAMPLES, max(1, MOST_CELLS // cells))
    return tuple(range(min(most, *(one.n_samples for one in trajectories))))
