"""Dashboards: what an SAE's latents fire on, predict and push, streamed over a harvest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.concepts import Concept, Kind, Sites
from interp.harvest import Harvest
from interp.latents.concepts import Asked, asked_of, best_heads, choosing_groups, score
from interp.latents.contexts import columns, contexts_of, is_board, places_to_show
from interp.latents.entries import Axis, ConceptFit, Effect, Fate, Histogram, LatentEntry, OtherReading, SaeSummary, Slice, about
from interp.report import Estimate
from interp.scoring import RATE_WIDTH, estimate, rate_bin
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from probes.metrics import bootstrap_mean
from probes.saes.quality import STATES, FeatureStates, Firing, evaluate_sae, feature_table, firing

if TYPE_CHECKING:
    from sae_lens import SAE

BINS = 24
RESAMPLES = 300
EFFECTS = 6
"""Tokens named at either end of a latent's effects."""


class DashboardError(ValueError):
    """A dashboard that cannot be made."""


@dataclass(frozen=True)
class Shown:
    """Which latents are described, and how much of each."""

    sampled: int = 20
    """So many latents that fire at all are drawn at random: what they are like is what the SAE is like."""
    latents: tuple[int, ...] = ()
    """Latents described besides, in this order, before the drawn ones."""
    contexts: int = 8
    """Places shown where a latent is largest; some of lower values come beside them."""


@dataclass(frozen=True, eq=False)
class Other:
    """The same SAE, or what was made of it, on another model: best at the same places of the same canvases."""

    model: str
    sae: SAE[Any]
    harvest: Harvest
    point: HookPoint


@torch.no_grad()
def logit_effects(model: LanguageModel, directions: Float[Tensor, "latent d_model"]) -> Float[Tensor, "latent vocab"]:
    """Returns what directions of the residual stream do to the logits by the direct path, over the mean of the vocabulary.

    The final norm is linear but for its division by the size of the residual stream, which is one positive number a place and changes no
    order. Here that size is the direction's own: these are the logits of a stream that held nothing else.

    Raises:
        DashboardError: Where the model has no final norm or unembedding of its own.
    """
    inner, head = model.module.base_model, model.module.get_output_embeddings()
    norms = [part for part in inner.children() if "norm" in type(part).__name__.lower()]
    if not norms or head is None:
        raise DashboardError(f"{model.name} lacks a final norm or an unembedding; logit effects need both")
    unit = directions.to(model.device, torch.float32)
    unit = unit / unit.square().mean(1, keepdim=True).sqrt().clamp_min(torch.finfo(unit.dtype).tiny)
    pushed = (norms[-1](unit) - norms[-1](torch.zeros_like(unit))) @ head.weight.float().T
    return (pushed - pushed.mean(1, keepdim=True)).cpu()


def _ends(model: LanguageModel, effects: Float[Tensor, " vocab"]) -> tuple[tuple[Effect, ...], tuple[Effect, ...]]:
    """Returns the tokens with the largest and with the most negative effects, the mask token aside, which is never written."""
    words = model.task.vocabulary
    named = [(words[token] if token < len(words) else f"#{token}", float(effect)) for token, effect in enumerate(effects)]
    if model.facts.mask_token_id is not None:
        del named[model.facts.mask_token_id]
    ranked = sorted(named, key=lambda one: -one[1])
    n = min(EFFECTS, len(ranked) // 2)
    top, bottom = ranked[:n], ranked[: -n - 1 : -1]
    return tuple(Effect(token=token, effect=value) for token, value in top), tuple(Effect(token=token, effect=v) for token, v in bottom)


def _histogram(values: np.ndarray, low: float, high: float) -> Histogram:
    counts, edges = np.histogram(values, BINS, (low, high))
    return Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))


def _density(found: Firing) -> Histogram:
    rates = found.rate[found.rate > 0].double().log10().numpy()
    return _histogram(rates, min(-1.0, float(np.floor(np.log10(1 / found.n)))), 0.0)


def _parts(sites: Sites) -> Iterator[tuple[Axis, str, Bool[Tensor, " row"]]]:
    """Yields the fifths of mask rates, the kinds and the network calls that the places are of."""
    bins = rate_bin(sites.mask_rate)
    for one in torch.unique(bins).tolist():
        yield "mask_rate", f"{100 * one * RATE_WIDTH:.0f} to {100 * (one + 1) * RATE_WIDTH:.0f} %", bins == one
    for kind in torch.unique(sites.kind).tolist():
        yield "kind", Kind(kind).name.lower(), sites.kind == kind
    for step in torch.unique(sites.step[sites.step > 0]).tolist():
        yield "step", str(step), sites.step == step


def _rate(values: Float[Tensor, " row"], groups: Int[Tensor, " row"], seed: int) -> Estimate:
    return estimate(bootstrap_mean(values > 0, groups, n_resamples=RESAMPLES, seed=seed))


def _mean(values: Float[Tensor, " row"]) -> float | None:
    """Returns the mean of the values above 0."""
    above = values[values > 0]
    return float(above.double().mean()) if len(above) else None


def _slices(values: Float[Tensor, " row"], sites: Sites, seed: int) -> tuple[Slice, ...]:
    return tuple(
        Slice(axis=axis, at=at, rate=_rate(values[keep], sites.group[keep], seed), mean=_mean(values[keep]), rows=int(keep.sum()))
        for axis, at, keep in _parts(sites)
    )


def _chosen(found: Firing, shown: Shown, seed: int) -> Int[Tensor, " latent"]:
    """Returns the latents asked for, then those drawn from the others that fire."""
    d_sae = len(found.rate)
    wrong = [latent for latent in shown.latents if not 0 <= latent < d_sae]
    if wrong:
        raise DashboardError(f"there is no latent {wrong[0]}; this SAE has 0 to {d_sae - 1}")
    asked = list(dict.fromkeys(shown.latents))
    alive = found.rate > 0
    alive[asked] = False
    left = torch.nonzero(alive).flatten()
    drawn = left[torch.randperm(len(left), generator=torch.Generator().manual_seed(seed))[: shown.sampled]]
    return torch.tensor([*asked, *drawn.sort().values.tolist()], dtype=torch.long)


@dataclass(frozen=True, eq=False)
class _Elsewhere:
    """The described latents on the other model."""

    table: FeatureStates
    latents: Int[Tensor, " latent"]
    values: Float[Tensor, "row latent"]
    asked: Asked

    def reading(self, column: int, head: int | None, seed: int) -> OtherReading:
        """Returns how a latent does there; a head is scored on the groups that did not choose it."""
        values, state = self.values[:, column], int(self.table.state[self.latents[column]])
        fate: Fate = STATES[state]  # type: ignore[assignment]
        kept = ~self.asked.chooses
        area = None if head is None or not kept.any() else score(values[kept], self.asked.rows(kept), head, seed)[0]
        return OtherReading(rate=float((values > 0).double().mean()), mean=_mean(values), fate=fate, auc=area)


def _elsewhere(
    other: Other, home: Firing, latents: Int[Tensor, " latent"], concepts: Sequence[Concept], choosing: frozenset[int]
) -> _Elsewhere:
    activations = other.harvest.activations[other.point]
    table = feature_table(home, firing(other.sae, activations))
    return _Elsewhere(table, latents, columns(other.sae, activations, latents), asked_of(concepts, other.harvest.sites, choosing))


def describe_latents(
    sae: SAE[Any],
    model: LanguageModel,
    harvest: Harvest,
    point: HookPoint,
    *,
    concepts: Sequence[Concept],
    shown: Shown = Shown(),
    other: Other | None = None,
    seed: int = 0,
    on_latent: Callable[[int, int], None] = lambda done, total: None,
) -> SaeSummary:
    """Returns what an SAE does at the places of a harvest, with some of its latents described.

    Rows are encoded in blocks, three times over; of all rows only the described latents are kept.

    Args:
        sae: Reads and writes raw activations.
        model: What the harvest was made on; it reads the canvases that are shown once more, so that every token has its value.
        harvest: Places, with activations at ``point``.
        point: What the SAE reads.
        concepts: What latents are compared with, at every place of the harvest.
        shown: Which latents.
        other: The SAE on another model; the concept that a latent predicts best is scored there too.
        seed: Of the draw of latents and places, the halves and the intervals.
        on_latent: Told (latents done, latents to describe).

    Raises:
        ProbeError: On activations of another width, or that do not vary.
        ConceptError: Where a concept has no truth at a place.
        DashboardError: On a latent that is not there.
    """
    activations, sites = harvest.activations[point], harvest.sites
    quality, home = evaluate_sae(sae, activations, sites.group, seed=seed), firing(sae, activations)
    latents, choosing = _chosen(home, shown, seed), choosing_groups(sites.group, seed)
    values, asked = columns(sae, activations, latents), asked_of(concepts, sites, choosing)
    best = best_heads(values, asked, seed)
    away = None if other is None else _elsewhere(other, home, latents, concepts, choosing)
    effects = logit_effects(model, sae.W_dec[latents])
    entries = []
    for column, latent in enumerate(latents.tolist()):
        head, fit = best.get(column, (None, None))
        places = places_to_show(values[:, column], sites.group, shown.contexts, np.random.default_rng((seed, latent)))
        entries.append(
            _entry(
                latent,
                values[:, column],
                sites,
                _ends(model, effects[column]),
                fit,
                sampled=latent not in shown.latents,
                contexts=contexts_of(sae, latent, model, harvest, point, places),
                other=None if away is None else away.reading(column, head, seed),
                seed=seed,
            )
        )
        on_latent(column + 1, len(latents))
    return SaeSummary(
        model=model.name,
        hook_point=str(point),
        architecture=str(sae.cfg.architecture()),
        fitted_on=str(sae.cfg.metadata.fitted_on or ""),
        d_in=sae.cfg.d_in,
        d_sae=sae.cfg.d_sae,
        layout="board" if is_board(model) else "text",
        causal=model.facts.objective == "causal",
        in_runs=bool((sites.step > 0).any()),
        rows=len(sites),
        groups=len(torch.unique(sites.group)),
        l0=quality.l0,
        fvu=estimate(quality.fvu),
        dead=quality.dead,
        dense=quality.dense,
        density=_density(home),
        heads=len(asked.names),
        concepts=tuple(concept.name for concept in concepts),
        other=None if other is None else other.model,
        fates={} if away is None else _counts(away.table),
        latents=tuple(entries),
    )


def _counts(table: FeatureStates) -> dict[Fate, int]:
    counts: dict[Any, int] = table.counts
    return counts


def _entry(
    latent: int,
    values: Float[Tensor, " row"],
    sites: Sites,
    ends: tuple[tuple[Effect, ...], tuple[Effect, ...]],
    fit: ConceptFit | None,
    *,
    seed: int,
    **more: Any,
) -> LatentEntry:
    rate, slices, most = _rate(values, sites.group, seed), _slices(values, sites, seed), float(values.max())
    return LatentEntry(
        latent=latent,
        about=about(rate, fit, ends[0], slices),
        rate=rate,
        mean=_mean(values),
        most=most,
        values=_histogram(values[values > 0].numpy(), 0.0, most or 1.0),
        promotes=ends[0],
        suppresses=ends[1],
        concept=fit,
        slices=slices,
        **more,
    )
