"""How well scores rank labels, with intervals that resample groups (puzzles, documents) and never single rows of one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from probes.errors import ProbeError, check_finite

CHUNK = 4_000_000
"""Most values that a resampling step holds at once."""
Z_95 = 1.959964


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    """Independent units it rests on: groups, not rows."""


def _check_ranked(scores: Float[Tensor, "row head"], labels: Bool[Tensor, "row head"]) -> None:
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise ProbeError(f"scores {tuple(scores.shape)} and labels {tuple(labels.shape)}; both must be [row, head]")
    if bool(torch.isnan(scores).any()):
        raise ProbeError("scores hold NaN; NaN has no rank")


def _placements(scores: Float[Tensor, "row head"], labels: Bool[Tensor, "row head"]) -> Float[Tensor, "row head"]:
    """Returns of each true row the share of the false rows that it outscores, of each false row the share of true rows above it.

    Ties count half; float64. NaN for a head with one class only.
    """
    ordered, order = scores.T.sort(dim=1)
    true = labels.T.gather(1, order)
    first, last = _ties(ordered)
    counted = functional.pad(true.cumsum(1), (1, 0))
    n_true = counted[:, -1:].double()
    n_false = true.shape[1] - n_true
    below_true = (counted.gather(1, first) + counted.gather(1, last + 1)).double() / 2
    below_all = (first + last + 1).double() / 2
    placed = torch.where(true, (below_all - below_true) / n_false, 1 - below_true / n_true).masked_fill((n_true * n_false) == 0, torch.nan)
    return torch.empty_like(placed).scatter_(1, order, placed).T


def _ties(ordered: Float[Tensor, "head row"]) -> tuple[Int[Tensor, "head row"], Int[Tensor, "head row"]]:
    """Returns where the run of equal values that each value of sorted rows is in begins and ends."""
    place = torch.arange(ordered.shape[1], device=ordered.device).expand(ordered.shape)
    new = functional.pad(ordered[:, 1:] != ordered[:, :-1], (1, 1), value=True)
    first = torch.where(new[:, :-1], place, 0).cummax(1).values
    last = torch.where(new[:, 1:], place, ordered.shape[1]).flip(1).cummin(1).values.flip(1)
    return first, last


def auc(scores: Float[Tensor, "row head"], labels: Bool[Tensor, "row head"]) -> Float[Tensor, " head"]:
    """Returns the area under the ROC curve a head, in float64: the chance that a true row outscores a false one, ties half.

    Mann & Whitney (1947), as a mean of placements. NaN for a head with one class only.
    """
    _check_ranked(scores, labels)
    placements, true = _placements(scores, labels), labels.double()
    return (placements * true).sum(0) / true.sum(0)


def resample_counts(n_groups: int, n_resamples: int, generator: torch.Generator) -> Float[Tensor, "group resample"]:
    """Returns how often each group was drawn in each bootstrap resample of ``n_groups`` draws with replacement."""
    drawn = torch.randint(n_groups, (n_groups, n_resamples), generator=generator)
    return torch.zeros(n_groups, n_resamples).scatter_add_(0, drawn, torch.ones(1).expand(n_groups, n_resamples))


@dataclass(frozen=True)
class _Stratum:
    """One stratum's placements, summed by group, of true rows and of false rows."""

    won: tuple[Float[Tensor, "head group"], Float[Tensor, "head group"]]
    rows: tuple[Float[Tensor, "head group"], Float[Tensor, "head group"]]
    auc: Float[Tensor, " head"]
    pairs: Float[Tensor, " head"]
    """(true, false) pairs; 0 where the stratum has one class only."""

    def resampled(self, counts: Float[Tensor, "group resample"]) -> Float[Tensor, "head resample"]:
        """Returns the AUC in each resample to first order: mean placement of its true rows + of its false rows - AUC."""
        true, false = (won @ counts / (rows @ counts) for won, rows in zip(self.won, self.rows, strict=True))
        return true + false - self.auc[:, None]


def _stratum(scores: Float[Tensor, "row head"], labels: Bool[Tensor, "row head"], index: Int[Tensor, " row"], members: int) -> _Stratum:
    placements = _placements(scores, labels)

    def by_group(values: Float[Tensor, "row head"]) -> Float[Tensor, "head group"]:
        return torch.zeros(members, values.shape[1], dtype=torch.float64).index_add_(0, index, values).T

    classes = [labels.double(), (~labels).double()]
    won, rows = (tuple(by_group(column) for column in columns) for columns in ([placements * one for one in classes], classes))
    n_true, n_false = (column.sum(1) for column in rows)
    return _Stratum((won[0], won[1]), (rows[0], rows[1]), won[0].sum(1) / n_true, n_true * n_false)


def bootstrap_auc(
    scores: Float[Tensor, "row head"],
    labels: Bool[Tensor, "row head"],
    groups: Int[Tensor, " row"],
    *,
    strata: Int[Tensor, " row"] | None = None,
    n_resamples: int = 1000,
    seed: int,
) -> Interval:
    """Returns the macro AUC (mean over heads that have both classes) with its 95 % percentile interval, resampled by group.

    What is resampled is the AUC's first-order form, the mean placement of true rows plus that of false rows: the bootstrap of the
    clustered variance of DeLong et al. (1988) and Obuchowski (1997). A resample in which a head lost a class averages the other heads.
    Where no head has both classes the three values are NaN.

    With ``strata`` only rows of one stratum are compared, each stratum weighted by its (true, false) pairs: nothing that merely tells
    the strata apart can score. This is what matched resampling would give, without throwing rows away.

    Args:
        scores: Of the probe; only their order within a head (and stratum) counts.
        labels: Ground truth.
        groups: Which puzzle or document each row is of, any integers.
        strata: Which stratum each row is of, any integers; None is one for all.
        n_resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """
    _check_ranked(scores, labels)
    scores, labels = scores.cpu(), labels.cpu()
    members, index = _group_index(groups, len(scores))
    parts = [slice(None)] if strata is None else [strata == stratum for stratum in torch.unique(strata)]
    found = [_stratum(scores[part], labels[part], index[part], members) for part in parts]
    pairs = torch.stack([one.pairs for one in found])[:, :, None]

    def macro(counts: Float[Tensor, "group resample"]) -> Float[Tensor, " resample"]:
        values = torch.stack([one.resampled(counts.double()) for one in found])
        weights = torch.where(torch.isfinite(values), pairs, 0.0)
        each = (values.nan_to_num() * weights).sum(0) / weights.sum(0)
        return each.nanmean(0).clamp(0, 1)

    generator = torch.Generator().manual_seed(seed)
    value = float(macro(torch.ones(members, 1)))
    return _percentiles(value, macro(resample_counts(members, n_resamples, generator)), members)


def bootstrap_mean(
    values: Shaped[Tensor, " row"], groups: Int[Tensor, " row"] | None = None, *, n_resamples: int = 1000, seed: int
) -> Interval:
    """Returns the mean of the rows with its 95 % percentile interval, resampled by group as a ratio of sums.

    A bootstrap of a share that came out as exactly 0 or 1 has no width, which claims certainty. So when all values are 0 or 1,
    and either every group is one row or they are all equal, the interval is Wilson's (1927) with n = the number of groups.

    Args:
        values: Numbers or truth values.
        groups: Which puzzle or document each row is of; None makes each row its own.
        n_resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """
    if values.ndim != 1:
        raise ProbeError(f"values have shape {tuple(values.shape)}; they must be [row]")
    values = values.detach().cpu().double()
    check_finite(values, "values")
    members = len(values) if groups is None else _group_index(groups, len(values))[0]
    value = float(values.mean())
    if bool(((values == 0) | (values == 1)).all()) and (members == len(values) or value in (0.0, 1.0)):
        return _wilson(value, members)
    if bool((values == values[0]).all()):
        return Interval(float(values[0]), float(values[0]), float(values[0]), members)
    return bootstrap_ratio(values, torch.ones_like(values), groups, n_resamples=n_resamples, seed=seed)


def bootstrap_ratio(
    parts: Float[Tensor, " row"],
    wholes: Float[Tensor, " row"],
    groups: Int[Tensor, " row"] | None = None,
    *,
    n_resamples: int = 1000,
    seed: int,
) -> Interval:
    """Returns sum of parts / sum of wholes with its 95 % percentile interval, resampled by group.

    Args:
        parts: What is counted, such as the squared error of each row.
        wholes: What it is a share of.
        groups: Which puzzle or document each row is of; None makes each row its own.
        n_resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """
    parts, wholes = parts.detach().cpu().double(), wholes.detach().cpu().double()
    members, index = (len(parts), torch.arange(len(parts))) if groups is None else _group_index(groups, len(parts))
    above, below = (torch.zeros(members, dtype=torch.float64).index_add_(0, index, column) for column in (parts, wholes))
    generator = torch.Generator().manual_seed(seed)
    step = max(1, CHUNK // members)
    ratios = []
    for start in range(0, n_resamples, step):
        drawn = torch.randint(members, (min(step, n_resamples - start), members), generator=generator)
        ratios.append(above[drawn].sum(1) / below[drawn].sum(1))
    return _percentiles(float(parts.sum() / wholes.sum()), torch.cat(ratios), members)


def calibration_error(
    probabilities: Float[Tensor, "row head"], labels: Bool[Tensor, "row head"], *, n_bins: int = 15
) -> Float[Tensor, " head"]:
    """Returns the expected calibration error a head, in float64, 0 to 1: the mean over rows of abs(share true - mean said) of their bin.

    Naeini et al. (2015), with bins of equal mass, as far as ties allow, which share a bin (Nixon et al. 1904.01685). It is above 0 for
    the true probabilities of few rows, as each bin's share scatters.

    Raises:
        ProbeError: On shapes that do not fit, values outside 0 to 1, no row, or no bin.
    """
    _check_ranked(probabilities, labels)
    check_finite(probabilities, "probabilities")
    if n_bins < 1 or not ((probabilities >= 0) & (probabilities <= 1)).all():
        low, high = probabilities.min().item(), probabilities.max().item()
        raise ProbeError(f"{n_bins} bins for values from {low:g} to {high:g}; give at least 1 bin, and probabilities from 0 to 1")
    rows = len(probabilities)
    said, order = probabilities.T.sort(dim=1)
    first, last = _ties(said)
    excess = labels.T.gather(1, order).double() - said.double()
    sums = torch.zeros(len(said), n_bins, dtype=torch.float64, device=said.device)
    return sums.scatter_add_(1, ((first + last + 1) / 2 / rows * n_bins).long(), excess).abs().sum(1) / rows


def _group_index(groups: Int[Tensor, " row"], rows: int) -> tuple[int, Int[Tensor, " row"]]:
    """Returns how many groups there are, and each row's group as 0, 1, ..."""
    if tuple(groups.shape) != (rows,):
        raise ProbeError(f"groups have shape {tuple(groups.shape)}; they must be one integer for each of {rows} rows")
    names, index = torch.unique(groups.cpu(), return_inverse=True)
    return len(names), index


def _percentiles(value: float, resampled: Float[Tensor, " resample"], n: int) -> Interval:
    low, high = torch.nanquantile(resampled, torch.tensor([0.025, 0.975], dtype=resampled.dtype)).tolist()
    return Interval(value, low, high, n)


def _wilson(share: float, n: int) -> Interval:
    z2 = Z_95**2 / n
    middle, half = (share + z2 / 2) / (1 + z2), math.sqrt(z2 * share * (1 - share) + z2**2 / 4) / (1 + z2)
    return Interval(share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)), n)
