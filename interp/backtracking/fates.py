"""Whether a revision is foreseen: written tokens of a denoising run, what was said of them call by call, and what became of them.

No network runs here. Arrays over (sample, step, position) hold at step s what call s read: the tokens that stood when it began. A score
read in call s that tells of a change that call s itself makes foresees nothing: the policy decides by the very same call. So what comes
later is kept apart, and asked only of tokens that call s leaves standing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from interp.scoring import FEWEST_GROUPS
from models.trajectory import State, Trajectory
from probes.metrics import Interval, bootstrap_mean, bootstrap_ratio

NOW, NEXT, LATER = "this call", "next call", "later"
MENDED, SPOILED = "later, wrong to right", "later, right to wrong"
ASKED = (NOW, NEXT, LATER, MENDED, SPOILED)
FALSE_ALARMS = 0.05
_AT_ONCE = 256


class BacktrackingError(ValueError):
    """A question that is not asked of written tokens, or scores that do not fit a run."""


@dataclass(frozen=True)
class Fates:
    """What becomes of the written tokens that each call of a run reads; false, 0 or -1 where there is none."""

    token: Int[np.ndarray, "batch step pos"]
    """What call s reads."""
    standing: Bool[np.ndarray, "batch step pos"]
    """Whether it is a token that the run wrote."""
    end: Int[np.ndarray, "batch step pos"]
    """The call, s or a later one, that changes or masks it; 0 where none does."""
    becomes: Int[np.ndarray, "batch step pos"]
    """What is written there next, once it is taken back."""

    def only(self, positions: slice) -> Fates:
        """Returns those of some positions."""
        return Fates(*(getattr(self, column.name)[:, :, positions] for column in fields(Fates)))

    @property
    def step(self) -> Int[np.ndarray, "step 1"]:
        """The number of each call, ready to be compared with ``end``."""
        return np.arange(self.end.shape[1])[:, None]


def fates(trajectory: Trajectory) -> Fates:
    """Returns what becomes of every token that a run writes."""
    data = trajectory.data
    token, state = data["token"].values.astype(np.int64), data["state"].values
    in_place = np.isin(state, (State.COMMITTED, State.REVISED))
    standing, end, becomes = np.zeros_like(in_place), np.zeros_like(token), np.full_like(token, -1)
    ends, next_written = np.zeros_like(token[:, 0]), np.where(in_place[:, -1], token[:, -1], -1)
    after = next_written.copy()
    for step in range(trajectory.n_steps, 0, -1):
        standing[:, step] = in_place[:, step - 1] & (step <= trajectory.last_step)[:, None]
        changed = standing[:, step] & (token[:, step] != token[:, step - 1])
        ends, after = np.where(changed, step, ends), np.where(changed, next_written, after)
        end[:, step] = np.where(standing[:, step], ends, 0)
        becomes[:, step] = np.where(end[:, step] > 0, after, -1)
        ends = np.where(in_place[:, step - 1], ends, 0)
        next_written = np.where(in_place[:, step - 1], token[:, step - 1], next_written)
    return Fates(np.concatenate([token[:, :1], token[:, :-1]], axis=1), standing, end, becomes)


def revisions(
    found: Fates, solution: Int[np.ndarray, "batch pos"], asked: str
) -> tuple[Bool[np.ndarray, "batch step pos"], Bool[np.ndarray, "batch step pos"]]:
    """Returns which readings of written tokens a question compares, and of which of them it is true.

    What is asked of later calls is asked of tokens that this call leaves standing. A mend or a spoiling is told from tokens that stay to
    the end, right or wrong.

    Args:
        found: Of ``fates``.
        solution: The right token of each position.
        asked: One of ``ASKED``.

    Raises:
        BacktrackingError: On another question.
    """
    if asked not in ASKED:
        raise BacktrackingError(f"no question {asked!r}; choose from {', '.join(ASKED)}")
    stays = found.standing & (found.end != found.step)
    if asked == NOW:
        return found.standing, found.standing & ~stays
    if asked == NEXT:
        return stays, stays & (found.end == found.step + 1)
    later = stays & (found.end > 0)
    if asked == LATER:
        return stays, later
    was, will = found.token == solution[:, None], found.becomes == solution[:, None]
    kind = later & (will & ~was if asked == MENDED else was & ~will & (found.becomes >= 0))
    return stays & ((found.end == 0) | kind), kind


def doubt_at_writing(trajectory: Trajectory) -> Float[np.ndarray, "batch step pos"]:
    """Returns 1 less the confidence that each token a call reads was written with; 1 where it was not proposed but drawn."""
    token, proposal, confidence = (trajectory.data[name].values for name in ("token", "proposal", "confidence"))
    found = np.ones(token.shape)
    for step in range(1, trajectory.n_steps):
        own = np.where(token[:, step] == proposal[:, step], 1 - confidence[:, step], 1.0)
        found[:, step + 1] = np.where(token[:, step] == token[:, step - 1], found[:, step], own)
    return found


def outscored(
    scores: Float[np.ndarray, "row cell"], labels: Bool[np.ndarray, "row cell"], among: Bool[np.ndarray, "row cell"]
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """Returns for each row how many pairs of a true and a false cell the true one outscores, ties half, and how many pairs there are."""
    won, pairs = np.zeros(len(scores)), (labels & among).sum(1) * (~labels & among).sum(1).astype(float)
    for rows in np.array_split(np.flatnonzero(pairs), max(1, int((pairs > 0).sum()) // _AT_ONCE)):
        one, true, false = scores[rows], (labels & among)[rows], (~labels & among)[rows]
        above = (one[:, :, None] > one[:, None]) + 0.5 * (one[:, :, None] == one[:, None])
        won[rows] = np.einsum("rt,rtf,rf->r", true.astype(float), above, false.astype(float))
    return won, pairs


def within(
    scores: Float[np.ndarray, "row cell"],
    labels: Bool[np.ndarray, "row cell"],
    among: Bool[np.ndarray, "row cell"],
    groups: Int[np.ndarray, " row"],
    *,
    seed: int,
) -> Interval | None:
    """Returns the AUC over pairs of cells of one row, with its 95 % interval resampled by group; None of fewer than 5 groups with pairs.

    A row is a canvas, so nothing can score that merely tells boards, calls or shares unwritten apart. It is ``bootstrap_auc`` with the
    rows as strata; n counts the groups that have pairs.
    """
    won, pairs = outscored(scores, labels, among)
    counted = pairs > 0
    if len(np.unique(groups[counted])) < FEWEST_GROUPS:
        return None
    columns = (torch.from_numpy(one[counted]) for one in (won, pairs, groups))
    return bootstrap_ratio(*columns, seed=seed)


def foresight(
    found: Fates, solution: Int[np.ndarray, "batch pos"], scores: Float[np.ndarray, "batch step pos"], asked: str, seed: int
) -> Interval | None:
    """Returns how well scores of written tokens tell which are taken back: the AUC among the tokens that one call reads (``within``)."""
    _check_fits(found, scores)
    among, true = revisions(found, solution, asked)
    groups = np.repeat(np.arange(len(scores)), scores.shape[1])
    scores, true, among = (values.reshape(len(groups), -1) for values in (scores, true, among))
    return within(scores, true, among, groups, seed=seed)


@dataclass(frozen=True)
class Alarms:
    """What an alarm does that goes off in at most ``FALSE_ALARMS`` of the readings of tokens that stay to the end.

    Each is a mean over its cases with an interval by sample.
    """

    precision: Interval | None
    """Share of the alarms, about tokens that the call leaves standing, whose token a later call takes back; None where there are none."""
    coming: Interval
    """Share of the revisions before which the alarm was on in the call before, if not earlier."""
    lead: Interval
    """Calls before a revision in which the alarm was on without a break, 0 for a revision that was not seen coming."""


def alarms(found: Fates, scores: Float[np.ndarray, "batch step pos"], seed: int) -> Alarms | None:
    """Returns how an alarm at a fixed rate of false alarms does; None where fewer than 5 samples take anything back, or nothing is kept.

    The level is the lowest that the readings of tokens kept to the end exceed in at most that share: it is set on this very run.
    """
    _check_fits(found, scores)
    kept = found.standing & (found.end == 0)
    taken = found.standing & (found.end == found.step)
    if not kept.any() or taken.any((1, 2)).sum() < FEWEST_GROUPS:
        return None
    on = found.standing & (scores > np.quantile(scores[kept], 1 - FALSE_ALARMS, method="higher"))
    stays = found.standing & (found.end != found.step)
    alarmed = stays & on
    ahead = _unbroken(on, stays)
    lead = np.zeros_like(ahead)
    lead[:, 1:] = np.where(stays[:, :-1], ahead[:, :-1], 0)
    sample = np.nonzero(taken)[0]

    def mean(values: np.ndarray, rows: np.ndarray) -> Interval:
        return bootstrap_mean(torch.from_numpy(values.astype(float)), torch.from_numpy(rows), seed=seed)

    precision = mean((found.end > 0)[alarmed], np.nonzero(alarmed)[0]) if alarmed.any() else None
    return Alarms(precision, mean(lead[taken] > 0, sample), mean(lead[taken], sample))


def _unbroken(on: Bool[np.ndarray, "batch step pos"], stays: Bool[np.ndarray, "batch step pos"]) -> Int[np.ndarray, "batch step pos"]:
    """Returns for how many calls in a row, up to each, the alarm has been on about one and the same token."""
    count = np.zeros(on.shape, dtype=np.int64)
    for step in range(1, on.shape[1]):
        count[:, step] = on[:, step] * (1 + np.where(stays[:, step - 1], count[:, step - 1], 0))
    return count


def _check_fits(found: Fates, scores: np.ndarray) -> None:
    if scores.shape != found.end.shape:
        raise BacktrackingError(f"scores have shape {scores.shape}; the run has {found.end.shape} (samples, steps with 0, positions)")
    if np.isnan(scores[found.standing]).any():
        raise BacktrackingError("the score of a written token is NaN; every token that a call reads needs one")
