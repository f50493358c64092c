"""A simulator of a run: what the next call writes in each unwritten cell, foretold from what is visible, said or told.

It is a conditional logit (McFadden 1974) over what may happen to a cell in the next call: nothing, or one of nine digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.concepts.sudoku import candidate_sets
from interp.grading import Tally
from interp.narration import Statement
from models.tasks.sudoku.board import N_CELLS, UNITS, UNITS_OF
from models.tasks.sudoku.task import MASK_ID, SOLUTION
from models.trajectory import Trajectory

CALLS = 12
"""At most so many calls of each run are simulated, spread evenly."""
PENALTY = 1e-3


@dataclass(frozen=True)
class Told:
    """What an account says of every unwritten cell after each call."""

    digit: Int[np.ndarray, "sample step cell"]
    """What it calls decided; 0 where it says nothing."""
    odds: Float[np.ndarray, "sample step cell"]
    """The log odds it said so with."""
    upcoming: Bool[np.ndarray, "sample step cell"]
    """Whether it says that the next call writes the cell."""

    def of_others(self) -> Told:
        """Returns what is told of the sample before: the control of an account of another run."""
        return Told(*(np.roll(getattr(self, name), 1, axis=0) for name in ("digit", "odds", "upcoming")))


@dataclass(frozen=True)
class Places:
    """Unwritten cells before calls that are to be foretold."""

    sample: Int[np.ndarray, " row"]
    step: Int[np.ndarray, " row"]
    """The last call that is known."""
    cell: Int[np.ndarray, " row"]
    outcome: Int[np.ndarray, " row"]
    """The digit that the next call writes there; 0 where it writes nothing."""


def places_of(trajectory: Trajectory, first: int = 1, last: int | None = None) -> Places:
    """Returns the unwritten cells after at most ``CALLS`` calls of each sample, spread evenly over the calls ``first`` to ``last``."""
    boards = _boards(trajectory)
    found = []
    for sample, calls in enumerate(trajectory.last_step):
        end = min(int(calls) - 1, last or int(calls))
        if end < first:
            continue
        for step in np.unique(np.linspace(first, end, CALLS).round().astype(int)):
            cells = np.flatnonzero(boards[sample, step] == 0)
            found.append(np.stack([np.full_like(cells, sample), np.full_like(cells, step), cells, boards[sample, step + 1, cells]]))
    return Places(*np.concatenate(found, axis=1).astype(np.int64)) if found else Places(*np.zeros((4, 0), dtype=np.int64))


def _boards(trajectory: Trajectory) -> Int[np.ndarray, "sample step cell"]:
    tokens = trajectory.data["token"].values[:, :, SOLUTION].astype(np.int64)
    return np.where(tokens == MASK_ID, 0, tokens)


def told(trajectory: Trajectory, statements: Sequence[Statement]) -> Told:
    """Returns what statements say of each cell: ``decided`` stands until ``lost`` or another digit is decided, ``next`` for one call."""
    digit = np.zeros((trajectory.n_samples, trajectory.n_steps + 1, N_CELLS), dtype=np.int64)
    odds, upcoming = np.zeros(digit.shape), np.zeros(digit.shape, dtype=bool)
    for one in sorted(statements, key=lambda one: (one.step, one.kind == "decided")):
        cells = np.array(one.positions, dtype=np.int64) - SOLUTION.start
        if one.kind in ("decided", "lost"):
            claimed = one.kind == "decided"
            digit[one.sample, one.step :, cells] = int(one.value) if claimed else 0
            odds[one.sample, one.step :, cells] = _log_odds(np.array(one.evidence[0].probability)) if claimed else 0
        elif one.kind == "next":
            upcoming[one.sample, one.step, cells] = True
    return Told(digit, odds, upcoming)


def _log_odds(probability: np.ndarray) -> np.ndarray:
    kept = np.clip(probability, 1e-4, 1 - 1e-4)
    return np.asarray(np.log(kept / (1 - kept)))


def _visible(trajectory: Trajectory, places: Places) -> list[np.ndarray]:
    """Returns what the visible tokens tell of each option of each place, [row, digit] each: the rate of writing, and the rules' say."""
    boards = _boards(trajectory)
    seen, at = np.unique(np.stack([places.sample, places.step]), axis=1, return_inverse=True)
    canvases = boards[seen[0], seen[1]].astype(np.int8)
    before = boards[seen[0], seen[1] - 1]
    rate = np.maximum(((before == 0) & (canvases > 0)).sum(1), 1) / np.maximum((canvases == 0).sum(1), 1)
    allowed = candidate_sets(canvases) & (canvases == 0)[:, :, None]
    in_unit = allowed[:, UNITS].sum(2)
    at = at.reshape(-1)
    own = allowed[at, places.cell]
    alone = (own.sum(1, keepdims=True) == 1) & own
    only = own & (in_unit[at[:, None], UNITS_OF[places.cell]] == 1).any(1)
    spread = own / np.maximum(own.sum(1, keepdims=True), 1)
    constant = np.ones(own.shape)
    return [constant, constant * _log_odds(np.minimum(rate, 1))[at, None], own, alone, only, alone & only, spread]


def _said(trajectory: Trajectory, places: Places) -> list[np.ndarray]:
    """Returns what the last call's proposals and confidences tell of each option of each place."""
    data = {name: trajectory.data[name].values[:, :, SOLUTION] for name in ("proposal", "confidence", "margin", "entropy")}
    row = places.sample, places.step, places.cell
    proposed = data["proposal"][row][:, None] == np.arange(1, 10)
    first = _surest(trajectory, data["confidence"])[row][:, None]
    odds = _log_odds(data["confidence"][row])[:, None]
    margin, entropy = (np.broadcast_to(data[name][row][:, None], proposed.shape) for name in ("margin", "entropy"))
    return [proposed, proposed * odds, proposed & first, np.broadcast_to(first, proposed.shape), margin, entropy]


def _surest(trajectory: Trajectory, confidence: Float[np.ndarray, "sample step cell"]) -> Bool[np.ndarray, "sample step cell"]:
    """Returns the unwritten cells that each call was surest of, as many as it wrote."""
    boards = _boards(trajectory)
    wrote = ((boards[:, :-1] == 0) & (boards[:, 1:] > 0)).sum(2, keepdims=True)
    many = np.concatenate([np.zeros_like(wrote[:, :1]), wrote], axis=1)
    order = np.argsort(np.where(boards == 0, -confidence, np.inf), axis=2, kind="stable")
    return (np.argsort(order, axis=2) < many) & (boards == 0)


def _account(account: Told, places: Places) -> list[np.ndarray]:
    """Returns what an account tells of each option of each place."""
    row = places.sample, places.step, places.cell
    claimed = account.digit[row][:, None] == np.arange(1, 10)
    any_claim = np.broadcast_to(account.digit[row][:, None] > 0, claimed.shape)
    upcoming = np.broadcast_to(account.upcoming[row][:, None], claimed.shape)
    return [claimed, claimed * account.odds[row][:, None], any_claim, upcoming, upcoming & claimed]


def features(
    trajectory: Trajectory, places: Places, account: Told | None = None, *, confidences: bool = False
) -> Float[Tensor, "row digit feature"]:
    """Returns what a simulator is shown of each digit of each place: visible tokens, and, if asked for, confidences and an account."""
    columns = _visible(trajectory, places)
    if confidences:
        columns = columns + _said(trajectory, places)
    if account is not None:
        columns = columns + _account(account, places)
    return torch.from_numpy(np.stack(columns, axis=-1).astype(np.float64))


def fit_simulator(shown: Float[Tensor, "row digit feature"], outcome: Int[Tensor, " row"]) -> Float[Tensor, " feature"]:
    """Returns the weights of a conditional logit, with a small L2 penalty on each feature at its own scale; doing nothing has utility 0."""
    scale = shown.flatten(0, 1).pow(2).mean(0).sqrt().clamp_min(1e-6)
    weights = torch.zeros(shown.shape[-1], dtype=shown.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -_log_probabilities(shown / scale, weights).gather(1, outcome[:, None]).mean() + PENALTY * weights.pow(2).sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weights.detach() / scale


def _log_probabilities(shown: Float[Tensor, "row digit feature"], weights: Float[Tensor, " feature"]) -> Float[Tensor, "row outcome"]:
    utilities = shown @ weights
    return torch.cat([torch.zeros(len(utilities), 1, dtype=utilities.dtype), utilities], dim=1).log_softmax(1)


def foretold(
    shown: Float[Tensor, "row digit feature"], places: Places, weights: Float[Tensor, " feature"], samples: int
) -> tuple[Tally, Tally]:
    """Returns, by sample, the bits a cell that a simulator needs to be told what happened, and how much of what was written it named.

    It names, of each call, as many (cell, digit) pairs as were written, the likeliest.
    """
    logs = _log_probabilities(shown, weights).numpy()
    bits = -logs[np.arange(len(logs)), places.outcome] / np.log(2)
    written = places.outcome > 0
    call = places.sample * (places.step.max() + 1) + places.step
    best = logs[:, 1:].max(1)
    order = np.lexsort((-best, call))
    first = np.searchsorted(call[order], call[order])
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order)) - first
    _, at = np.unique(call, return_inverse=True)
    named = rank < np.bincount(at, weights=written)[at]
    hit = named & (logs[:, 1:].argmax(1) + 1 == places.outcome)

    def by_sample(values: np.ndarray) -> Float[np.ndarray, " sample"]:
        return np.bincount(places.sample, weights=values, minlength=samples)

    return Tally(by_sample(bits), by_sample(np.ones(len(bits)))), Tally(by_sample(hit), by_sample(written))
