"""How well scores rank labels, with intervals that resample groups (puzzles, documents) and never single rows of one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

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


def auc(scores: Float[Tensor, "row head"], labels: Bool[Tensor, "row head"]) -> Float[Tensor, " head"]:
    """Returns the area under the ROC curve a head, in float64: the chance that a true row outscores a false one, ties half.

    Mann & Whitney (1947), from midranks. NaN for a head with one class only.
    """
    _check_ranked(scores, labels)
    columns = scores.T.contiguous()
    ordered = columns.sort(dim=1).values
    midranks = (torch.searchsorted(ordered, columns) + torch.searchsorted(ordered, columns, right=True) + 1) / 2
    true = labels.T.double()
    positives = true.sum(1)
    negatives = true.shape[1] - positives
    above = (midranks.double() * true).sum(1) - positives * (positives + 1) / 2
    return above / (positives * negatives)


def resample_counts(n_groups: int, n_resamples: int, generator: torch.Generator) -> Float[Tensor, "group resample"]:
    """Returns how often each group was drawn in each bootstrap resample of ``n_groups`` draws with replacement."""
    drawn = torch.randint(n_groups, (n_groups, n_resamples), generator=generator)
    return torch.zeros(n_groups, n_resamples).scatter_add_(0, drawn, torch.ones(1).expand(n_groups, n_resamples))


def weighted_auc(
    scores: Float[Tensor, " row"], labels: Bool[Tensor, " row"], groups: Int[Tensor, " row"], counts: Float[Tensor, "group resample"]
) -> Float[Tensor, " resample"]:
    """Returns one head's AUC in each resample, where row i counts ``counts[groups[i]]`` times. NaN where a class is missing.

    The scores are ranked once: what a resample changes is only how much false weight lies below each true row.
    """
    false_scores, order = scores[~labels].sort()
    false_weight, true_weight = counts[groups[~labels][order]], counts[groups[labels]]
    below = torch.cat([torch.zeros_like(counts[:1]), false_weight.cumsum(0)])
    first = torch.searchsorted(false_scores, scores[labels].contiguous())
    last = torch.searchsorted(false_scores, scores[labels].contiguous(), right=True)
    won = (true_weight * (below[first] + below[last])).sum(0, dtype=torch.float64) / 2
    return won / (true_weight.sum(0, dtype=torch.float64) * below[-1].double())


def bootstrap_auc(
    scores: Float[Tensor, "row head"],
    labels: Bool[Tensor, "row head"],
    groups: Int[Tensor, " row"],
    *,
    n_resamples: int = 200,
    seed: int,
) -> Interval:
    """Returns the macro AUC (mean over heads that have both classes) with its 95 % percentile interval, resampled by group.

    A resample in which a head lost a class averages the other heads. Where no head has both classes the three values are NaN.

    Args:
        scores: Of the probe; only their order within a head counts.
        labels: Ground truth.
        groups: Which puzzle or document each row is of, any integers.
        n_resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """
    value = float(auc(scores, labels).nanmean())
    scores, labels = scores.cpu(), labels.cpu()
    members, index = _group_index(groups, len(scores))
    generator = torch.Generator().manual_seed(seed)
    step = max(1, CHUNK // max(len(scores), 1))
    macro = []
    for start in range(0, n_resamples, step):
        counts = resample_counts(members, min(step, n_resamples - start), generator)
        each = [weighted_auc(scores[:, head], labels[:, head], index, counts) for head in range(scores.shape[1])]
        macro.append(torch.stack(each).nanmean(0))
    return _percentiles(value, torch.cat(macro), members)


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
    members, index = (len(values), torch.arange(len(values))) if groups is None else _group_index(groups, len(values))
    value = float(values.mean())
    if bool(((values == 0) | (values == 1)).all()) and (members == len(values) or value in (0.0, 1.0)):
        return _wilson(value, members)
    if bool((values == values[0]).all()):
        return Interval(float(values[0]), float(values[0]), float(values[0]), members)
    sums = torch.zeros(members, dtype=torch.float64).index_add_(0, index, values)
    sizes = torch.bincount(index, minlength=members).double()
    generator = torch.Generator().manual_seed(seed)
    step = max(1, CHUNK // members)
    means = []
    for start in range(0, n_resamples, step):
        drawn = torch.randint(members, (min(step, n_resamples - start), members), generator=generator)
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    return _percentiles(value, torch.cat(means), members)


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
