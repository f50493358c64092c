"""Calibration of a reader by how much of the canvas is unwritten: probabilities that mean it, and thresholds of a stated false-alarm rate.

A reader's score drifts while a run goes on: the same score means less, or more, when little is left to write. So scores are rescaled and
claims are made by bands of the share of the canvas that is unwritten. What a calibration promises it promises of *unwritten* places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from interp.scoring import FEWEST, Said

BANDS = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Upper ends of bands of the share of unwritten positions; a band holds its lower end."""
ALPHA = 0.01
"""The false-alarm rate that is asked for."""
LEAST = 0.5
"""No head is claimed below: a claim is likelier than not, however rarely it would be wrong."""
_ITERATIONS, _HALVINGS = 100, 20


class CalibrationError(ValueError):
    """Sites that no reader can be calibrated on."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a reader's scores mean, by band of the share of unwritten positions and head (or one column for all heads).

    A head is *claimed* where its probability is above its threshold; of an exclusive concept only the likeliest head can be.
    A *false alarm* of a head is a claim of it where it is false, as a share of the places where it is false. Of an exclusive concept it is
    a claim of any wrong head, as a share of all places: each of them offers one claim. Truth is that of the sites it was measured on: for
    ``digit`` the digit that the run ends with (``harvest_runs``), or the solution's (any other harvest).
    """

    bands: tuple[float, ...]
    """Upper ends, rising, the last 1."""
    scale: Float[Tensor, "band head"]
    offset: Float[Tensor, "band head"]
    """Log odds are scale * score + offset."""
    threshold: Float[Tensor, "band head"]
    """On probabilities."""
    pooled: Bool[Tensor, "band head"]
    """Whether a head had too few sites of its own, and has what all heads of the band have together."""
    alpha: float
    """The false-alarm rate that the thresholds were set for."""
    false_alarm: Float[Tensor, "band head"]
    """As found on boards that nothing was fitted on; NaN where there was no place to raise one."""
    recall: Float[Tensor, "band head"]
    """Share of the places where a head is true at which it is claimed, on the same boards; NaN where there was none."""
    boards: int
    """How many boards these two rest on."""

    def band(self, share: Float[Tensor, "*row"]) -> Int[Tensor, "*row"]:
        """Returns which band each share of unwritten positions lies in."""
        return torch.bucketize(share.contiguous(), torch.tensor(self.bands[:-1], dtype=share.dtype), right=True)

    def logits(self, scores: Float[Tensor, "*row head"], share: Float[Tensor, "*row"]) -> Float[Tensor, "*row head"]:
        """Returns calibrated log odds."""
        band = self.band(share)
        return scores * self.scale[band] + self.offset[band]

    def claims(
        self, probabilities: Float[Tensor, "*row head"], share: Float[Tensor, "*row"], *, exclusive: bool
    ) -> Bool[Tensor, "*row head"]:
        """Returns which heads are claimed, given calibrated probabilities; none where they are NaN."""
        claimed = probabilities > self.threshold[self.band(share)]
        return claimed & (probabilities == probabilities.amax(-1, keepdim=True)) if exclusive else claimed


UNCALIBRATED = Calibration(
    bands=(1.0,),
    scale=torch.ones(1, 1),
    offset=torch.zeros(1, 1),
    threshold=torch.full((1, 1), LEAST),
    pooled=torch.zeros(1, 1, dtype=torch.bool),
    alpha=math.nan,
    false_alarm=torch.full((1, 1), math.nan),
    recall=torch.full((1, 1), math.nan),
    boards=0,
)
"""Scores are taken for log odds, claims are what is likelier than not, and of false alarms nothing is known."""


def platt(scores: Float[Tensor, "row head"], labels: Bool[Tensor, "row head"]) -> tuple[Float[Tensor, " head"], Float[Tensor, " head"]]:
    """Returns scale and offset that make log odds of each head's scores, in float64 (Platt 1999).

    They minimise cross-entropy with Platt's targets, (n1 + 1) / (n1 + 2) and 1 / (n0 + 2) in place of 1 and 0, so that they are finite
    where scores separate the classes: by Newton's method with step halving (Lin, Lin & Weng 2007), all heads at once.
    """
    scores, true = scores.double(), labels.double()
    n_true, n_false = true.sum(0), (1 - true).sum(0)
    target = torch.where(labels, (n_true + 1) / (n_true + 2), 1 / (n_false + 2))
    mean, spread = scores.mean(0), scores.std(0, correction=0).clamp_min(1e-12)
    z = (scores - mean) / spread
    slope, bias = torch.zeros_like(mean), torch.log((n_true + 1) / (n_false + 1))

    def loss(slope: Tensor, bias: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(slope * z + bias, target, reduction="none").mean(0)

    now = loss(slope, bias)
    for _ in range(_ITERATIONS):
        said = torch.sigmoid(slope * z + bias)
        wrong, weight = said - target, said * (1 - said)
        by_slope, by_bias = (wrong * z).mean(0), wrong.mean(0)
        aa, ab, bb = (weight * z * z).mean(0) + 1e-12, (weight * z).mean(0), weight.mean(0) + 1e-12
        determinant = aa * bb - ab * ab
        step_slope, step_bias = (bb * by_slope - ab * by_bias) / determinant, (aa * by_bias - ab * by_slope) / determinant
        length = torch.ones_like(now)
        for _ in range(_HALVINGS):
            worse = loss(slope - length * step_slope, bias - length * step_bias) > now
            length = torch.where(worse, length / 2, length)
        slope, bias = slope - length * step_slope, bias - length * step_bias
        before, now = now, loss(slope, bias)
        if bool(((before - now).abs() < 1e-12).all()):
            break
    return slope / spread, bias - slope * mean / spread


def threshold_for(wrong: Float[Tensor, " claim"], places: int, alpha: float) -> float:
    """Returns the lowest threshold above which at most alpha (places + 1) - 1 of the wrong claims lie, and ``LEAST`` at the least.

    With the one more that a new place would add, the rate is at most alpha on exchangeable places (Vovk et al. 2005). Where the places are
    too few for that, none of the wrong claims lies above.
    """
    allowed = max(0, math.floor(alpha * (places + 1)) - 1)
    above = wrong.sort(descending=True).values
    return max(LEAST, float(above[allowed])) if len(above) > allowed else LEAST


def _band_of(said: Said, alpha: float, *, exclusive: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns scale, offset, threshold and whether they are pooled, a head, for the sites of one band."""
    labels, scores = said.labels, said.logits
    scale, offset = platt(scores, labels)
    few = torch.minimum(labels.sum(0), (~labels).sum(0)) < FEWEST
    all_scale, all_offset = platt(scores.reshape(-1, 1), labels.reshape(-1, 1))
    scale, offset = torch.where(few, all_scale, scale).float(), torch.where(few, all_offset, offset).float()
    probabilities = torch.sigmoid(scores * scale + offset)
    if exclusive:
        likeliest = probabilities.max(1)
        wrong = likeliest.values[~labels.gather(1, likeliest.indices[:, None])[:, 0]]
        return scale, offset, torch.full_like(scale, threshold_for(wrong, len(labels), alpha)), few
    few |= (~labels).sum(0) < math.ceil(1 / alpha) - 1
    pooled = threshold_for(probabilities[~labels], int((~labels).sum()), alpha)
    own = [threshold_for(column[~true], int((~true).sum()), alpha) for column, true in zip(probabilities.T, labels.T, strict=True)]
    return scale, offset, torch.where(few, pooled, torch.tensor(own)), few


def fit_calibration(said: Said, *, exclusive: bool, alpha: float = ALPHA, bands: tuple[float, ...] = BANDS) -> Calibration:
    """Returns the calibration of a reader by what it says at labelled sites; its rates are not known yet (see ``measured``).

    A head with fewer than 10 true or 10 false sites in a band takes scale and offset from the scores of all heads there, taken together;
    and its threshold too, as does one with too few false sites (1 / alpha - 1) to tell its own.

    Args:
        said: Scores, labels and sites, all of them unwritten places.
        exclusive: Whether the heads are classes.
        alpha: The false-alarm rate to set thresholds for.
        bands: Upper ends of the bands of the share of unwritten positions, the last 1; ``(1.0,)`` is one for all.

    Raises:
        CalibrationError: On bands or an alpha that are none, or a band with too few sites; it is named.
    """
    if not bands or bands[-1] != 1 or list(bands) != sorted({band for band in bands if band > 0}) or not 0 < alpha < 1:
        raise CalibrationError(f"bands are {bands} and alpha is {alpha}; bands must rise from above 0 to 1, and alpha lie between 0 and 1")
    blank = replace(UNCALIBRATED, bands=bands)
    band, found = blank.band(said.sites.mask_rate), []
    for index, end in enumerate(bands):
        here = said.rows(band == index)
        counts = int(here.labels.sum()), int((~here.labels).sum())
        if min(counts) < FEWEST:
            raise CalibrationError(
                f"canvases up to {end:.0%} unwritten have {len(here.labels)} sites with {counts[0]} true and {counts[1]} false heads; "
                f"a band needs {FEWEST} of either: give more boards, or fewer bands than {bands}"
            )
        found.append(_band_of(here, alpha, exclusive=exclusive))
    scale, offset, threshold, pooled = (torch.stack(column) for column in zip(*found, strict=True))
    unknown = torch.full_like(scale, math.nan)
    return Calibration(bands, scale, offset, threshold, pooled, alpha, unknown, unknown, 0)


def measured(calibration: Calibration, said: Said, *, exclusive: bool) -> Calibration:
    """Returns the calibration with its false-alarm rate and recall as they are on other boards."""
    share = said.sites.mask_rate
    claims = calibration.claims(torch.sigmoid(calibration.logits(said.logits, share)), share, exclusive=exclusive)
    band = functional.one_hot(calibration.band(share), len(calibration.bands)).double().T  # [band, row]
    true, false = said.labels.double(), (~said.labels).double()
    wrong = (claims & ~said.labels).double()
    if exclusive:
        wrong, false = wrong.sum(1, keepdim=True).expand_as(true), torch.ones_like(true)
    return replace(
        calibration,
        false_alarm=(band @ wrong / (band @ false)).float(),
        recall=(band @ (claims & said.labels).double() / (band @ true)).float(),
        boards=len(torch.unique(said.sites.group)),
    )
