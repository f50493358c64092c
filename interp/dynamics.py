"""Figures of how a denoising run went, from its trajectory alone: how fast, in which order, how steadily, how surely, how early.

No network runs here. Steps count network calls; step 0 is the canvas before the first. "Writable" is neither prompt nor padding. Figures
are one a sample where that makes sense, and NaN where a sample has nothing to measure; the mean over samples is the caller's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Real
from scipy.stats import kendalltau, rankdata

from models.trajectory import State, Trajectory


class DynamicsError(ValueError):
    """A trajectory that lacks what a figure needs, or a reference that does not fit it."""


def writable(trajectory: Trajectory) -> Bool[np.ndarray, "batch pos"]:
    """Returns which positions a run may write."""
    first = trajectory.data["state"].values[:, 0]
    return (first != State.PROMPT) & (first != State.PADDING)


def commit_steps(trajectory: Trajectory) -> Float[np.ndarray, "batch pos"]:
    """Returns the step that wrote the final token; NaN where none did: prompt, padding, never written, or in place from the start."""
    steps = trajectory.data["commit_step"].values
    return np.where(writable(trajectory) & (steps > 0), steps, np.nan)


def final_tokens(trajectory: Trajectory) -> Int[np.ndarray, "batch pos"]:
    """Returns the tokens a run ended with where it may write, and -1 everywhere else and where it wrote none."""
    return np.where(writable(trajectory) & (trajectory.data["commit_step"].values >= 0), trajectory.tokens(-1), -1)


def finalised_curve(trajectory: Trajectory) -> Float[np.ndarray, "batch step"]:
    """Returns the share of the writable positions that have their final token and keep it, by step; it never falls."""
    steps = trajectory.data["commit_step"].values[:, None]
    return _share((steps >= 0) & (steps <= np.arange(trajectory.n_steps + 1)[:, None]), writable(trajectory))


def written_curve(trajectory: Trajectory) -> Float[np.ndarray, "batch step"]:
    """Returns the share of the writable positions that have any token in place, final or not, by step."""
    return _share(_in_place(trajectory), writable(trajectory))


def finalisation_ranks(trajectory: Trajectory) -> Float[np.ndarray, "batch pos"]:
    """Returns the rank of each position in the order of ``commit_steps``, 1 the first, ties averaged; NaN where these are."""
    return rankdata(commit_steps(trajectory), axis=1, nan_policy="omit")


def tau_b(order: Real[np.ndarray, " pos"], reference: Real[np.ndarray, " pos"]) -> float:
    """Returns Kendall's tau-b (1945) of two orders, -1 to 1; NaN where either says nothing: fewer than two positions, or all tied.

    Positions where either is NaN or negative do not count.
    """
    counted = (order >= 0) & (reference >= 0)
    return float(kendalltau(order[counted], reference[counted]).statistic) if counted.sum() > 1 else math.nan


def order_agreement(trajectory: Trajectory, reference: Real[np.ndarray, "batch pos"]) -> Float[np.ndarray, " batch"]:
    """Returns ``tau_b`` between when positions were finalised and a reference order, such as a solver's; NaN or negative is undefined."""
    _check_fits(trajectory, reference, "reference")
    return np.array([tau_b(*pair) for pair in zip(commit_steps(trajectory), reference, strict=True)])


def left_to_right(trajectory: Trajectory) -> Float[np.ndarray, " batch"]:
    """Returns ``order_agreement`` with the order of the positions: 1 is an autoregressive model's (2601.15593)."""
    shape = trajectory.data["commit_step"].shape
    return order_agreement(trajectory, np.broadcast_to(np.arange(shape[1]), shape))


def locality(trajectory: Trajectory) -> Float[np.ndarray, " batch"]:
    """Returns how far apart positions finalised one after the other lie, as a ratio to a random order of the same positions.

    Mean of abs(p[k+1] - p[k]) over the order of ``commit_steps``, divided by the mean distance of two different positions, which is its
    expectation under a random order: 1 is global, near 0 local (left to right over N neighbouring positions: 3 / (N + 1)). Positions
    finalised in one step have no order among them: the mean is over all orders of each step's, exactly. A ratio of our own.
    """
    return np.array([_locality(steps) for steps in commit_steps(trajectory)])


def _locality(steps: Float[np.ndarray, " pos"]) -> float:
    places = np.flatnonzero(np.isfinite(steps))
    if len(places) < 2:
        return math.nan
    distance = np.abs(places[:, None] - places)
    _, group, n = np.unique(steps[places], return_inverse=True, return_counts=True)
    member = np.eye(len(n))[group]
    between = member.T @ distance @ member
    # A step of n positions has n - 1 neighbours in any order of its own, and one across to the next step: its last and the next's first.
    within = (np.diag(between) / n).sum()
    across = (np.diag(between, 1) / (n[:-1] * n[1:])).sum()
    return float((within + across) / (len(places) - 1) / (distance.sum() / (len(places) * (len(places) - 1))))


def parallelism(trajectory: Trajectory) -> Float[np.ndarray, " batch"]:
    """Returns tokens finalised a step, over the steps that finalise any (average finalisation parallelism, 2601.15593); 1 is one by one."""
    each = (steps[np.isfinite(steps)] for steps in commit_steps(trajectory))
    return np.array([len(steps) / len(np.unique(steps)) if len(steps) else np.nan for steps in each])


@dataclass(frozen=True)
class Census:
    """How often each position changed its mind; 0 everywhere in a run that revises nothing and proposes the same throughout."""

    rewritten: Int[np.ndarray, "batch pos"]
    """Times a written token gave way to another one, at once or after it was masked."""
    remasked: Int[np.ndarray, "batch pos"]
    """Times a written position was masked again."""
    flipped: Int[np.ndarray, "batch pos"]
    """Times the proposal changed from a call to the next before the position was first written."""


@dataclass(frozen=True)
class Turns:
    """Changes of one token to another, by whether the two are right, summed over the positions of a sample that have a right answer."""

    right_to_wrong: Int[np.ndarray, " batch"]
    wrong_to_right: Int[np.ndarray, " batch"]
    wrong_to_wrong: Int[np.ndarray, " batch"]


def census(trajectory: Trajectory) -> Census:
    """Returns how often each position was rewritten and masked again, and its proposal flipped."""
    stood = _in_place(trajectory)
    masked_again = stood[:, :-1] & (trajectory.data["state"].values[:, 1:] == State.REMASKED)
    rewritten, flipped = (_changed(_history(trajectory, of)).sum(axis=1) for of in ("written", "proposed"))
    return Census(rewritten, masked_again.sum(axis=1), flipped)


def turns(trajectory: Trajectory, solution: Int[np.ndarray, "batch pos"], of: Literal["written", "proposed"] = "written") -> Turns:
    """Returns the changes that ``census`` counts as rewritten (or, of what was proposed, as flipped) by right and wrong.

    Overwritten right answers are the temporal oscillation of 2508.09138. Positions where ``solution`` is -1 do not count.
    """
    _check_fits(trajectory, solution, "solution")
    history, right = _history(trajectory, of), solution[:, None]
    changed = _changed(history) & (right >= 0)
    was, becomes = history[:, :-1] == right, history[:, 1:] == right
    return Turns(*((changed & kind).sum(axis=(1, 2)) for kind in (was, becomes, ~was & ~becomes)))


@dataclass(frozen=True)
class Rated:
    """Final tokens with the confidence their call had and whether they are right; one row each."""

    confidence: Float[np.ndarray, " row"]
    right: Bool[np.ndarray, " row"]
    sample: Int[np.ndarray, " row"]
    """Which sample a row is of: what a bootstrap resamples."""


@dataclass(frozen=True)
class Reliability:
    """A reliability table: what was said and what came true, by bin of confidence, least sure first; NaN where a bin is empty."""

    n: Int[np.ndarray, " bin"]
    confidence: Float[np.ndarray, " bin"]
    """Mean confidence."""
    right: Float[np.ndarray, " bin"]
    """Share that is right."""

    @property
    def error(self) -> float:
        """Expected calibration error: sum over bins of n / N times abs(right - confidence), 0 to 1 (Naeini et al. 2015; 1706.04599)."""
        return float(np.nansum(self.n * np.abs(self.right - self.confidence)) / self.n.sum())


def rated(trajectory: Trajectory, solution: Int[np.ndarray, "batch pos"]) -> Rated:
    """Returns every final token that a call wrote, with the call's confidence; positions where ``solution`` is -1 are left out."""
    _check_fits(trajectory, solution, "solution")
    steps = commit_steps(trajectory)
    at = np.nan_to_num(steps).astype(np.intp)[:, None]
    confidence = np.take_along_axis(trajectory.data["confidence"].values, at, axis=1)[:, 0].astype(np.float64)
    rows = np.isfinite(steps) & np.isfinite(confidence) & (solution >= 0)
    return Rated(confidence[rows], (trajectory.tokens(-1) == solution)[rows], np.nonzero(rows)[0])


def reliability(
    confidence: Float[np.ndarray, " row"], right: Bool[np.ndarray, " row"], *, n_bins: int = 10, bins: Literal["width", "mass"] = "width"
) -> Reliability:
    """Returns the reliability table of probabilities.

    Bins of equal width hold (k / n_bins, (k + 1) / n_bins], the first also 0 (1706.04599); bins of equal mass hold as many rows each as
    ties allow, which share a bin whatever their order (1904.01685).

    Raises:
        DynamicsError: Where there is no row, no bin, or a confidence outside 0 to 1.
    """
    if n_bins < 1 or not len(confidence) or not ((confidence >= 0) & (confidence <= 1)).all():
        raise DynamicsError(f"{n_bins} bins for {len(confidence)} confidences; both must be at least 1, and confidences in 0 to 1")
    if bins == "width":
        index = np.searchsorted(np.linspace(0, 1, n_bins + 1)[1:-1], confidence)
    else:
        index = ((rankdata(confidence) - 0.5) / len(confidence) * n_bins).astype(np.intp)
    n, said, came = (np.bincount(index, weights, n_bins) for weights in (None, confidence, right))
    return Reliability(n, *(np.divide(sums, n, out=np.full(n_bins, np.nan), where=n > 0) for sums in (said, came)))


def brier(confidence: Float[np.ndarray, " row"], right: Bool[np.ndarray, " row"]) -> float:
    """Returns the mean squared distance of the confidence from 1 where right and 0 where wrong (Brier, 1950), 0 to 1."""
    return float(np.mean((confidence - right) ** 2))


@dataclass(frozen=True)
class EarlyAnswer:
    """How much of an answer stood or was proposed by each step; NaN at steps when nothing was said of an unwritten position (as step 0)."""

    positions: Float[np.ndarray, "batch step"]
    """Share of the positions that are as in the answer."""
    whole: Float[np.ndarray, "batch step"]
    """1 where all are, else 0."""

    @property
    def first(self) -> Int[np.ndarray, " batch"]:
        """The first step with the whole answer, which later ones may lose again; -1 for none."""
        there = self.whole == 1
        return np.where(there.any(axis=1), there.argmax(axis=1), -1)


def completed(trajectory: Trajectory) -> Int[np.ndarray, "batch step pos"]:
    """Returns each canvas with its unwritten positions as the step's call proposed them, -1 where it did not.

    A sample that finished early keeps its last.
    """
    unwritten = np.isin(trajectory.data["state"].values, (State.MASKED, State.REMASKED))
    whole = np.where(unwritten, trajectory.data["proposal"].values, trajectory.data["token"].values)
    last = np.minimum(np.arange(trajectory.n_steps + 1), trajectory.last_step[:, None])
    return np.take_along_axis(whole, last[:, :, None], axis=1)


def early_answer(
    trajectory: Trajectory, answer: Int[np.ndarray, "batch pos"] | None = None, among: Bool[np.ndarray, "batch pos"] | None = None
) -> EarlyAnswer:
    """Returns how early the answer is there, in the sense of Prophet (2508.19982): written, or proposed for what is unwritten.

    Its figure, the share of samples decodable by step s, is the mean of ``whole`` over samples, or of ``first <= s``.

    Args:
        trajectory: With proposals.
        answer: What to compare with, -1 where there is none; None is what the run itself ended with.
        among: Positions that count, such as those of the final number of a solution; None is all writable ones.
    """
    answer = final_tokens(trajectory) if answer is None else answer
    among = writable(trajectory) if among is None else among
    _check_fits(trajectory, answer, "answer")
    _check_fits(trajectory, among, "among")
    counted, canvases = among & (answer >= 0), completed(trajectory)
    unsaid = ((canvases < 0) & counted[:, None]).any(axis=2)
    positions = np.where(unsaid, np.nan, _share(canvases == answer[:, None], counted))
    return EarlyAnswer(positions, np.where(np.isnan(positions), np.nan, positions == 1))


def area_over(curve: Float[np.ndarray, "batch step"], calls: Int[np.ndarray, " batch"]) -> Float[np.ndarray, " batch"]:
    """Returns the area over a curve: the mean of 1 - curve over the steps 1 to ``calls`` of each sample, 0 to 1.

    Of ``EarlyAnswer.whole`` it is the share of the calls that left the answer open, as AOC in early answering (Lanham et al.,
    2307.13702): 0 where the first call had it. NaN where the curve is NaN on the way, or there is no call.
    """
    step = np.arange(curve.shape[1])
    open_ = np.where((step >= 1) & (step <= calls[:, None]), 1 - curve, 0).sum(axis=1)
    return np.divide(open_, calls, out=np.full(len(curve), np.nan), where=calls > 0)


def final_ranks(trajectory: Trajectory) -> Int[np.ndarray, "batch step pos"]:
    """Returns the rank of the final token among the k most probable recorded, 0 the best, k not among them; -1 where nothing was said.

    Raises:
        DynamicsError: Where they were not recorded.
    """
    if "top_token" not in trajectory.data:
        raise DynamicsError("the most probable tokens were not recorded; denoise with a `Record` whose `top_k` is 1 or greater")
    top, final = trajectory.data["top_token"].values, final_tokens(trajectory)[:, None]
    found = top == final[..., None]
    ranks = np.where(found.any(axis=3), found.argmax(axis=3), top.shape[3])
    return np.where((top[..., 0] >= 0) & (final >= 0), ranks, -1)


def _check_fits(trajectory: Trajectory, given: np.ndarray, name: str) -> None:
    shape = trajectory.data["commit_step"].shape
    if given.shape != shape:
        raise DynamicsError(f"the {name} has shape {given.shape}; the trajectory has {shape} (samples, positions)")


def _share(marks: Bool[np.ndarray, "batch step pos"], among: Bool[np.ndarray, "batch pos"]) -> Float[np.ndarray, "batch step"]:
    """Returns the share of the positions ``among`` that are marked; NaN where there are none."""
    n = among.sum(axis=1)
    return (marks & among[:, None]).sum(axis=2) / np.where(n > 0, n, np.nan)[:, None]


def _in_place(trajectory: Trajectory) -> Bool[np.ndarray, "batch step pos"]:
    return np.isin(trajectory.data["state"].values, (State.COMMITTED, State.REVISED))


def _history(trajectory: Trajectory, of: str) -> Int[np.ndarray, "batch step pos"]:
    """Returns the token last written (or last proposed to a position never written) by each step; -1 where there was none so far."""
    if of == "written":
        values = np.where(_in_place(trajectory), trajectory.data["token"].values, -1)
    else:
        values = trajectory.data["proposal"].values.copy()
        values[:, 1:][trajectory.data["state"].values[:, :-1] != State.MASKED] = -1
    last = np.maximum.accumulate(np.where(values >= 0, np.arange(values.shape[1])[:, None], 0), axis=1)
    return np.take_along_axis(values, last, axis=1)


def _changed(history: Int[np.ndarray, "batch step pos"]) -> Bool[np.ndarray, "batch change pos"]:
    return (history[:, :-1] >= 0) & (history[:, 1:] != history[:, :-1])
