"""Activations of a model where it is about to predict a token, with what was visible from there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.concepts import Sites
from models.hookpoints import HookPoint
from models.language_model import LanguageModel

BATCH = 64
MASK_RATES = (0.1, 0.3, 0.5, 0.7, 0.9)


class HarvestError(ValueError):
    """A harvest that cannot be made."""


@dataclass(frozen=True)
class Harvest:
    """Activations at sites: ``activations[point]`` has one row a site."""

    sites: Sites
    activations: dict[HookPoint, Float[Tensor, "row d_model"]]

    def at_mask_rate(self, rate: float) -> Harvest:
        """Returns the rows harvested at the nominal mask rate ``rate``."""
        keep = self.sites.mask_rate == torch.tensor(rate)
        return replace(self, sites=self.sites.rows(keep), activations={point: values[keep] for point, values in self.activations.items()})


def mask_canvas(
    sequences: Int[Tensor, "batch pos"],
    asked: Bool[Tensor, "batch pos"],
    rates: Float[Tensor, " batch"],
    mask_token_id: int,
    generator: torch.Generator,
) -> Int[Tensor, "batch pos"]:
    """Returns the sequences with a share ``rates`` of their asked-for positions masked: exactly so many, at least one, drawn uniformly.

    Raises:
        HarvestError: On a rate outside 0 to 1.
    """
    if not ((rates > 0) & (rates <= 1)).all():
        wrong = rates[~((rates > 0) & (rates <= 1))][0].item()
        raise HarvestError(f"a mask rate is {wrong:g}; it must be greater than 0 and at most 1")
    chance = torch.rand(sequences.shape, generator=generator).masked_fill(~asked, torch.inf)
    rank = chance.argsort(1).argsort(1)
    count = (asked.sum(1) * rates).round().clamp(min=1)
    return sequences.masked_fill((rank < count[:, None]) & asked, mask_token_id)


def _draw(positions: Bool[Tensor, "batch pos"], most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns (row, position) of at most ``most`` drawn positions a row."""
    chance = torch.rand(positions.shape, generator=generator).masked_fill(~positions, torch.inf)
    rank = chance.argsort(1).argsort(1)
    rows, places = torch.nonzero((rank < most) & positions, as_tuple=True)
    return rows, places


def _causal_view(
    sequences: Int[Tensor, "row pos"], asked: Bool[Tensor, "row pos"], position: Int[Tensor, " row"], mask_token_id: int
) -> Int[Tensor, "row pos"]:
    """Returns each sequence as a causal model sees it when it predicts ``position``: what is asked for from there on is hidden."""
    hidden = asked & (torch.arange(sequences.shape[1]) >= position[:, None])
    return sequences.masked_fill(hidden, mask_token_id)


@torch.no_grad()
def activations_at(
    model: LanguageModel,
    canvases: Int[Tensor, "batch pos"],
    rows: Int[Tensor, " row"],
    positions: Int[Tensor, " row"],
    points: Sequence[HookPoint],
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> dict[HookPoint, Float[Tensor, "row d_model"]]:
    """Returns the activations from which ``model``, reading ``canvases[rows]``, predicts the tokens at ``positions``.

    One forward pass a canvas serves all points.

    Raises:
        HookPointError: Where the model lacks a point.
    """
    found = {point: torch.empty(len(rows), model.d_model) for point in points}
    for start in range(0, len(canvases), BATCH):
        stop = min(start + BATCH, len(canvases))
        here = torch.nonzero((rows >= start) & (rows < stop)).flatten()
        if len(here):
            _, cache = model.run_with_cache(canvases[start:stop], points)
            for point in points:
                found[point][here] = cache[point][rows[here] - start, positions[here] - model.facts.logit_shift].cpu()
        on_batch(stop, len(canvases))
    return found


def harvest(
    model: LanguageModel,
    sequences: Int[Tensor, "batch pos"],
    asked: Bool[Tensor, "batch pos"],
    points: Sequence[HookPoint],
    *,
    mask_rates: Sequence[float] = MASK_RATES,
    sites_per_canvas: int = 8,
    seed: int = 0,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> Harvest:
    """Returns activations at ``points``, read where the tokens asked for are predicted.

    A causal model reads each whole sequence once; its sites are drawn over it, and their mask rate is the share that comes after. A masked
    model reads each sequence once at every mask rate; its sites are masked positions, and their mask rate is the nominal one.

    Args:
        model: Either twin.
        sequences: Whole sequences.
        asked: Where the answer is asked for; everything else is prompt and always visible.
        points: Hook points of the residual width; one forward pass serves all.
        mask_rates: Shares of the asked-for positions to mask, each greater than 0 and at most 1.
        sites_per_canvas: At most so many sites are kept of each forward pass (and, for a causal model, of each rate).
        seed: Reproduces masks and draws.
        on_batch: Told (canvases done, total).

    Raises:
        HookPointError: Where the model lacks a point.
        HarvestError: On a mask rate outside 0 to 1.
    """
    generator = torch.Generator().manual_seed(seed)
    mask_id = model.task.mask_token_id
    if model.facts.objective == "masked":
        rate = torch.tensor(list(mask_rates)).repeat_interleave(len(sequences))
        sample = torch.arange(len(sequences)).repeat(len(mask_rates))
        canvases = mask_canvas(sequences[sample], asked[sample], rate, mask_id, generator)
        rows, positions = _draw(canvases == mask_id, sites_per_canvas, generator)
        seen, site_rate = canvases[rows], rate[rows]
    else:
        sample, canvases = torch.arange(len(sequences)), sequences
        rows, positions = _draw(asked, sites_per_canvas * len(mask_rates), generator)
        seen = _causal_view(sequences[rows], asked[rows], positions, mask_id)
        site_rate = (seen == mask_id).sum(1) / asked[rows].sum(1)
    sites = Sites.unwritten(seen, sequences[sample[rows]], positions, sample[rows], site_rate)
    return Harvest(sites, activations_at(model, canvases, rows, positions, points, on_batch))
