"""Which concept a latent predicts: the AUC of its values for every head at once, and a check on groups that did not choose the head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from interp.concepts import Concept, Sites, labels_of
from interp.latents.entries import ConceptFit
from interp.report import Estimate
from interp.scoring import estimate, rate_bin
from probes.metrics import bootstrap_auc, bootstrap_mean

RAREST = 10
"""A head is asked where at least so many places of either class are in both halves."""
RESAMPLES = 300
_ROWS = 8192
"""Rows whose labels are held as numbers at once."""


def _midranks(values: Float[Tensor, "row latent"]) -> Float64[Tensor, "row latent"]:
    """Returns the rank of each value in its column, from 1, where equal values share the mean of their ranks."""
    ranks = torch.empty(values.shape, dtype=torch.float64)
    for column in range(values.shape[1]):
        _, place, count = torch.unique(values[:, column], return_inverse=True, return_counts=True)
        last = count.cumsum(0).double()
        ranks[:, column] = (last - (count.double() - 1) / 2)[place]
    return ranks


def auc_table(values: Float[Tensor, "row latent"], labels: Bool[Tensor, "row head"]) -> Float64[Tensor, "latent head"]:
    """Returns the area under the ROC curve of each latent's values for each head; ties count half, NaN for a head with one class only.

    From the sum of the ranks of true rows (Mann & Whitney 1947), which is one matrix product for all pairs.
    """
    ranks = _midranks(values)
    summed = torch.zeros(values.shape[1], labels.shape[1], dtype=torch.float64)
    for rank, label in zip(ranks.split(_ROWS), labels.split(_ROWS), strict=True):
        summed += rank.T @ label.double()
    n_true = labels.sum(0).double()
    return (summed - n_true * (n_true + 1) / 2) / (n_true * (len(labels) - n_true))


@dataclass(frozen=True, eq=False)
class Asked:
    """All heads of some concepts at some places, and which half of the places chooses among them."""

    names: tuple[tuple[str, str], ...]
    """Concept and head."""
    labels: Bool[Tensor, "row head"]
    chooses: Bool[Tensor, " row"]
    """Half of the groups choose, the others score."""
    groups: Int[Tensor, " row"]
    strata: Int[Tensor, " row"]
    """Fifth of mask rates."""

    def rows(self, keep: Bool[Tensor, " row"]) -> Asked:
        """Returns what is asked at some of the places."""
        return Asked(self.names, self.labels[keep], self.chooses[keep], self.groups[keep], self.strata[keep])


def choosing_groups(groups: Int[Tensor, " row"], seed: int) -> frozenset[int]:
    """Returns half of the groups, drawn at random."""
    names = torch.unique(groups)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    return frozenset(names[order[: len(names) // 2]].tolist())


def asked_of(concepts: Sequence[Concept], sites: Sites, choosing: frozenset[int]) -> Asked:
    """Returns the ground truth of all heads of ``concepts``.

    Raises:
        ConceptError: Where a concept has no truth at a site.
    """
    labels = torch.cat([labels_of(concept, sites) for concept in concepts], dim=1) if concepts else torch.zeros(len(sites), 0).bool()
    names = tuple((concept.name, head) for concept in concepts for head in concept.heads)
    chooses = torch.isin(sites.group, torch.tensor(sorted(choosing), dtype=sites.group.dtype))
    return Asked(names, labels, chooses, sites.group, rate_bin(sites.mask_rate))


def score(values: Float[Tensor, " row"], asked: Asked, head: int, seed: int) -> tuple[Estimate | None, Estimate | None]:
    """Returns the AUC of a latent's values for a head, over all pairs of places and within fifths of mask rates; None where undefined."""
    ranked, labels = values[:, None], asked.labels[:, head, None]
    told = [bootstrap_auc(ranked, labels, asked.groups, strata=strata, n_resamples=RESAMPLES, seed=seed) for strata in (None, asked.strata)]
    plain, matched = (estimate(one) if all(map(math.isfinite, (one.value, one.low, one.high))) else None for one in told)
    return plain, matched


def best_heads(values: Float[Tensor, "row latent"], asked: Asked, seed: int) -> Mapping[int, tuple[int, ConceptFit]]:
    """Returns by column the head it predicts best (its index, and how well on the other half); columns for which none can be asked lack.

    The best of many heads is good by luck on the places that chose it, so it is scored on groups that had no say.
    """
    halves = asked.rows(asked.chooses), asked.rows(~asked.chooses)
    enough = torch.stack([torch.minimum(half.labels.sum(0), (~half.labels).sum(0)) >= RAREST for half in halves]).all(0)
    heads = torch.nonzero(enough).flatten()
    if not len(heads):
        return {}
    table, found = auc_table(values[asked.chooses], halves[0].labels[:, heads]), {}
    for column, areas in enumerate(table):
        place = int(areas.argmax())
        head = int(heads[place])
        fit = _fit(values[~asked.chooses, column], halves[1], head, float(areas[place]), seed)
        if fit is not None:
            found[column] = head, fit
    return found


def _fit(values: Float[Tensor, " row"], asked: Asked, head: int, chosen: float, seed: int) -> ConceptFit | None:
    area, matched = score(values, asked, head, seed)
    if area is None:
        return None
    true, fires = asked.labels[:, head], values > 0
    return ConceptFit(
        concept=asked.names[head][0],
        head=asked.names[head][1],
        chosen=chosen,
        auc=area,
        matched=matched,
        precision=estimate(bootstrap_mean(true[fires], asked.groups[fires], n_resamples=RESAMPLES, seed=seed)) if fires.any() else None,
        recall=float(fires[true].double().mean()),
        base=float(true.double().mean()),
    )
