"""When a reading of a single run may be claimed: what other runs read, kept.

The runs of a study are held against one another call by call (`interp.reading.story_claims`). A single trace has no others, so the same
numbers are fitted on runs made for it, by quarter of the window that is written, and kept with the readers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.reading.stories import MOVED, TOKENS, StoryReaders, StoryReading
from interp.reading.story_claims import ALPHA, BANDS, Claims, first_claim, fit_platt, moments, probabilities, still_open, threshold_of
from interp.reading.story_facts import FACTS, first_shown, instructed
from models.tasks.stories.task import MASK_ID
from models.trajectory import Trajectory

CLAIMING = (MOVED, TOKENS)
"""The readers that claim: the account's, and the one of visible tokens that it is held against."""


@dataclass(frozen=True, eq=False)
class StoryThresholds:
    """What makes a claim of one reader's log odds, head by head, by quarter of the window that is written (``BANDS``)."""

    mean: Float[Tensor, "band head"]
    """Of the log odds over runs, whatever is true of them; taken away."""
    spread: Float[Tensor, "band head"]
    scale: Float[Tensor, "band head"]
    """Platt's (1999) numbers, the same for all heads of a fact; a negative scale, of a reader that knows nothing, is 0."""
    offset: Float[Tensor, "band head"]
    threshold: Float[Tensor, " head"]
    """Claimed above this probability; infinite where too few runs came to show a head of the fact."""
    false_alarm: float
    """The share of false pairs of run and head that passed it in any call, of the runs it was fitted on."""
    runs: int
    """How many runs that were."""

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors by name."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("false_alarm", "runs")}


@dataclass(frozen=True)
class ToldReaders:
    """Readers of stories that can tell a single run."""

    readers: StoryReaders
    thresholds: Mapping[str, StoryThresholds]
    """By reader (``CLAIMING``)."""


def layers_told() -> list[int]:
    """Returns the layers that the facts are read at, each at its own."""
    return sorted({fact.layer for fact in FACTS.values()})


def _own_layers(reading: StoryReading, reader: str) -> Float[np.ndarray, "run step head"]:
    """Returns the log odds of each head at the layer of its fact; NaN where nothing was read, or nothing is left to claim."""
    scores, facts = reading.scores[reader], _fact_of_heads(reading)
    layer = [scores["layer"].values.tolist().index(-1 if reader == TOKENS else FACTS[name].layer) for name in facts]
    found = scores.values[:, :, layer, range(len(layer))].copy()
    settled = instructed(reading.trajectory.data["token"].values)
    asked = np.array([FACTS[name].of_instruction for name in facts], dtype=bool)
    found[:, 1:][settled[:, :-1, None] & asked] = np.nan
    return found


def _fact_of_heads(reading: StoryReading) -> list[str]:
    return [name for name, heads in reading.readers.heads.items() for _ in heads]


def _band(trajectory: Trajectory) -> Int[np.ndarray, "run step"]:
    """Returns the quarter of the window that was written before each call."""
    tokens = trajectory.data["token"].values
    written = (tokens != MASK_ID).mean(axis=2)
    before = np.concatenate([written[:, :1], written[:, :-1]], axis=1)
    return np.minimum((before * BANDS).astype(int), BANDS - 1)


def _moments(
    scores: Float[np.ndarray, "run step head"], band: Int[np.ndarray, "run step"]
) -> tuple[Float[np.ndarray, "band head"], Float[np.ndarray, "band head"]]:
    """Returns the mean and the spread of what was read in each quarter of the window."""
    mean, spread = zip(*(moments(scores[band == one]) for one in range(BANDS)), strict=True)
    return np.stack(mean), np.stack(spread)


def _left_out(scores: Float[np.ndarray, "run step head"], band: Int[np.ndarray, "run step"]) -> Float[np.ndarray, "run step head"]:
    """Returns each run's log odds standardised by the other runs, as any new run's are; 0 where nothing was read."""
    z = np.zeros(scores.shape)
    for run in range(len(scores)):
        others = np.arange(len(scores)) != run
        mean, spread = _moments(scores[others], band[others])
        z[run] = np.nan_to_num((scores[run] - mean[band[run]]) / spread[band[run]])
    return z


def fit_story_thresholds(readings: Sequence[StoryReading], reader: str = MOVED, *, alpha: float = ALPHA) -> StoryThresholds:
    """Returns thresholds that a share ``alpha`` of false heads pass in runs made for it, none of which is to be told.

    Args:
        readings: Of the same readers, and of runs of equally many calls.
        reader: Which of them is to claim.
        alpha: The rate of false alarms: of pairs of a run and a head that its text does not show in the end, in whatever call. A few runs
            can hold it only roughly.
    """
    scores, shown, band = (
        np.concatenate(parts)
        for parts in (
            [_own_layers(one, reader) for one in readings],
            [first_shown(one.shown.values) for one in readings],
            [_band(one.trajectory) for one in readings],
        )
    )
    heads, steps = scores.shape[2], scores.shape[1] - 1
    mean, spread = _moments(scores, band)
    z = _left_out(scores, band)
    counted = still_open(shown, steps) & np.isfinite(scores)
    true, false = (shown > 0) & (shown <= steps), (shown == steps + 1) & counted.any(1)
    scale, offset, threshold = np.zeros((BANDS, heads)), np.zeros((BANDS, heads)), np.full(heads, np.inf)
    passed = []
    for name in readings[0].readers.heads:
        own = readings[0].columns(name)
        platt = fit_platt(z[..., own], true[:, own], counted[..., own], band)
        if platt is None:
            continue
        scale[:, own], offset[:, own] = np.maximum(platt[:, :1], 0), platt[:, 1:]
        found = probabilities(z[..., own], scale[band][..., own], offset[band][..., own])
        threshold[own] = threshold_of(found, counted[..., own], false[:, own], alpha)
        passed.append((np.where(counted[..., own], found, -np.inf).max(1) > threshold[own])[false[:, own]])
    rate = float(np.concatenate(passed).mean()) if passed else 0.0
    tensors = (torch.from_numpy(one.astype(np.float32)) for one in (mean, spread, scale, offset, threshold))
    away, over, steep, base, limit = tensors
    return StoryThresholds(away, over, steep, base, limit, rate, len(scores))


def claims_of_story(reading: StoryReading, thresholds: StoryThresholds, reader: str = MOVED) -> dict[str, Claims]:
    """Returns what a reader claims of each run, by fact; facts that too few runs came to show claim nothing."""
    scores, band = _own_layers(reading, reader), _band(reading.trajectory)
    mean, spread, scale, offset, threshold = (one.numpy() for one in thresholds.tensors().values())
    probability = probabilities(np.nan_to_num((scores - mean[band]) / spread[band]), scale[band], offset[band])
    probability[~np.isfinite(scores)] = np.nan
    shown = first_shown(reading.shown.values)
    found = {}
    for name in reading.readers.heads:
        own = reading.columns(name)
        if not own:
            continue
        limit = np.full(len(scores), threshold[own[0]])
        found[name] = Claims(probability[..., own], first_claim(probability[..., own], limit), shown[:, own], limit)
    return found
