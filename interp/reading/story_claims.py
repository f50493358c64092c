"""When a reading of a text as a whole may be claimed, at a stated rate of false alarms, and how long before it was written.

A call's log odds are held against those of other runs *in the same call*, where just as much is unwritten: a reader that drifts with the
share unwritten, or merely favours a head, gains nothing by it. Whatever is fitted is fitted on the other half of the runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from probes.linear import fit_logistic

ALPHA = 0.05
"""Of the pairs of a run and a head that its text does not show in the end, so many may be claimed, in whatever call."""
BANDS = 4
"""Log odds are calibrated by quarter of the run."""
FEWEST_TRUE = 3
"""So many heads that are yet to be shown must be true in the runs that are calibrated on."""


@dataclass(frozen=True, eq=False)
class Claims:
    """What a reader claims of some runs."""

    probability: Float[np.ndarray, "run step head"]
    """Calibrated, that the text will show it; NaN where there is nothing to calibrate on, and at step 0."""
    first: Int[np.ndarray, "run head"]
    """The first call that claims it; one more than the last step where none does."""
    shown: Int[np.ndarray, "run head"]
    """The step from which on the canvas shows it to the end; one more than the last step where it does not."""
    threshold: Float[np.ndarray, " run"]
    """From which probability on it is claimed: that of the other half of the runs."""

    @property
    def true(self) -> Bool[np.ndarray, "run head"]:
        """What is true in the end and was not shown by the prompt."""
        return (self.shown > 0) & (self.shown < self.probability.shape[1])

    @property
    def false(self) -> Bool[np.ndarray, "run head"]:
        """What was read and is not true in the end."""
        return (self.shown == self.probability.shape[1]) & np.isfinite(self.probability).any(1)

    @property
    def lead(self) -> Float[np.ndarray, "run head"]:
        """How many calls before it was written each true head was claimed, 0 where it was not; NaN where it is not true."""
        return np.where(self.true, np.maximum(self.shown - self.first, 0), np.nan)

    @property
    def claimed_before(self) -> Bool[np.ndarray, "run head"]:
        """Which heads were claimed by a call before the one that wrote them."""
        return self.first < self.shown


def moments(scores: Float[np.ndarray, " row *rest"]) -> tuple[Float[np.ndarray, "*rest"], Float[np.ndarray, "*rest"]]:
    """Returns the mean and the spread of what was read, over the first axis; a spread is never quite 0, and infinite where all is NaN."""
    scores = scores.astype(np.float64)  # or the rounding of equal scores would be told apart
    there = np.isfinite(scores)
    n = there.sum(0)
    mean = np.where(there, scores, 0.0).sum(0) / np.maximum(n, 1)
    spread = np.sqrt(np.where(there, (scores - mean) ** 2, 0.0).sum(0) / np.maximum(n, 1))
    return mean, np.where(n > 0, np.maximum(spread, 1e-6), np.inf)


def standardised(scores: Float[np.ndarray, "run step head"], on: Bool[np.ndarray, " run"]) -> Float[np.ndarray, "run step head"]:
    """Returns each call's log odds of each head less their mean, over their spread, among the runs ``on``; 0 where nothing was read.

    A run that is one of them is held against the others alone, as any new run is: or it would stand out less than a new one does.
    """
    mean, spread = moments(scores[on])
    away = scores - mean
    own = on[:, None, None] & np.isfinite(scores)
    n = np.isfinite(scores[on]).sum(0)
    rest = np.maximum(n - own, 1)
    left = np.where(own, away * n / rest, away)
    with np.errstate(invalid="ignore"):  # an infinite spread, where nothing was read
        square = np.where(own, n * (spread**2 - np.nan_to_num(away) ** 2 / rest) / rest, spread**2)
    return np.nan_to_num(left / np.sqrt(np.maximum(square, 1e-12)))


def still_open(shown: Int[np.ndarray, "run head"], steps: int) -> Bool[np.ndarray, "run step head"]:
    """Returns which heads the canvas that each call saw did not show to the end yet; step 0 is no call."""
    step = np.arange(steps + 1)[None, :, None]
    return (shown[:, None] >= step) & (step > 0)


def fit_platt(
    z: Float[np.ndarray, "run step head"],
    true: Bool[np.ndarray, "run head"],
    counted: Bool[np.ndarray, "run step head"],
    band: Int[np.ndarray, "run step"],
) -> Float[np.ndarray, "band two"] | None:
    """Returns Platt's (1999) scale and offset, one pair for all heads and a band; None where there is too little to fit them on.

    ``counted`` says what is fitted on; a band in which all or none of that is true takes the numbers of all bands.
    """
    if (counted.any(1) & true).sum() < FEWEST_TRUE or not (counted.any(1) & ~true).any():
        return None
    said = np.broadcast_to(true[:, None], z.shape)
    found = np.zeros((BANDS, 2), np.float32)
    for one in range(BANDS):
        here = counted & (band == one)[..., None]
        rows = here if len(np.unique(said[here])) == 2 else counted
        x, y = torch.from_numpy(z[rows]).float()[:, None], torch.from_numpy(said[rows])[:, None]
        probe = fit_logistic(x, y, heads=("true",), fitted_on="runs")
        found[one] = probe.weight.item(), probe.bias.item()
    return found


def probabilities(
    z: Float[np.ndarray, "run step head"], scale: Float[np.ndarray, "run step #head"], offset: Float[np.ndarray, "run step #head"]
) -> Float[np.ndarray, "run step head"]:
    """Returns probabilities by Platt's scale and offset of each call; NaN at step 0, which is no call."""
    found = 1 / (1 + np.exp(-(scale * z + offset)))
    found[:, 0] = np.nan
    return found


def threshold_of(
    probability: Float[np.ndarray, "run step head"],
    counted: Bool[np.ndarray, "run step head"],
    false: Bool[np.ndarray, "run head"],
    alpha: float = ALPHA,
) -> float:
    """Returns the probability that a share ``alpha`` of new false pairs of run and head exceed in any of their calls that count.

    Of n false pairs it is the ceil((n + 1) (1 - alpha))-th (split conformal prediction: Vovk et al. 2005); infinite where n is too small.
    """
    highest = np.sort(np.where(counted, probability, -np.inf).max(1)[false])
    rank = int(np.ceil((len(highest) + 1) * (1 - alpha)))
    return float(highest[rank - 1]) if rank <= len(highest) else float("inf")


def first_claim(probability: Float[np.ndarray, "run step head"], threshold: Float[np.ndarray, " run"]) -> Int[np.ndarray, "run head"]:
    """Returns the first step whose probability is above the run's threshold; one more than the last step where none is."""
    above = np.nan_to_num(probability, nan=-np.inf) > threshold[:, None, None]
    return np.where(above.any(1), above.argmax(1), probability.shape[1])


def claims(
    scores: Float[np.ndarray, "run step head"], shown: Int[np.ndarray, "run head"], *, alpha: float = ALPHA, calibrate: bool = True
) -> Claims | None:
    """Returns what a reader claims of each run, calibrated on every other one, the even on the odd and the odd on the even.

    The threshold is the probability that a share ``alpha`` of the false pairs of run and head exceed in any of their calls, in the other
    half. None where either half has too few true heads that the prompt does not show.

    Args:
        scores: Log odds by call; NaN at step 0 and where nothing was read.
        shown: See ``interp.reading.story_facts.first_shown``.
        alpha: The rate of false alarms.
        calibrate: False takes the scores for probabilities, and claims above one half.
    """
    runs, steps = len(scores), scores.shape[1] - 1
    if not calibrate:
        half = np.full(runs, 0.5)
        return Claims(scores, first_claim(scores, half), shown, half)
    true, false, counted = (shown > 0) & (shown <= steps), shown == steps + 1, still_open(shown, steps)
    probability, threshold = np.full(scores.shape, np.nan), np.full(runs, np.nan)
    odd = np.arange(runs) % 2 == 1
    band = np.broadcast_to(np.minimum(np.maximum(np.arange(steps + 1) - 1, 0) * BANDS // max(steps, 1), BANDS - 1), scores.shape[:2])
    for fit in (odd, ~odd):
        z = standardised(scores, fit)
        platt = fit_platt(z, true, counted & fit[:, None, None], band)
        if platt is None:
            return None
        found = probabilities(z, platt[band, :1], platt[band, 1:])
        probability[~fit] = found[~fit]
        threshold[~fit] = threshold_of(found[fit], counted[fit], false[fit], alpha)
    return Claims(probability, first_claim(probability, threshold), shown, threshold)
