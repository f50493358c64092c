"""Activations of a model at places of the canvases it is shown, with what was visible from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.canvases import Source, Whole, canvases_of, check_source, default_source, drawn_places
from interp.concepts import Kind, Sites
from interp.corpus import Corpus
from models.hookpoints import HookPoint, HookPointError
from models.language_model import LanguageModel

BATCH = 64


class HarvestError(ValueError):
    """A harvest that cannot be made."""


@dataclass(frozen=True)
class Harvest:
    """Activations at sites: ``activations[point]`` has one row a site."""

    sites: Sites
    activations: dict[HookPoint, Float[Tensor, "row d_model"]]

    def rows(self, keep: Int[Tensor, " kept"] | Bool[Tensor, " row"]) -> Harvest:
        """Returns some of the rows."""
        return Harvest(self.sites.rows(keep), {point: values[keep] for point, values in self.activations.items()})

    def at_mask_rate(self, rate: float) -> Harvest:
        """Returns the rows harvested at the nominal mask rate ``rate``."""
        return self.rows(self.sites.mask_rate == torch.tensor(rate))


@torch.no_grad()
def activations_at(
    model: LanguageModel,
    canvases: Int[Tensor, "batch pos"],
    rows: Int[Tensor, " row"],
    positions: Int[Tensor, " row"],
    points: Sequence[HookPoint],
    on_batch: Callable[[int, int], None] = lambda done, total: None,
    *,
    dtype: torch.dtype = torch.float32,
) -> dict[HookPoint, Float[Tensor, "row d_model"]]:
    """Returns the activations from which ``model``, reading ``canvases[rows]``, predicts the tokens at ``positions``.

    One forward pass a canvas serves all points, and ends at the last of them. It is computed in the model's own precision, whatever
    ``dtype`` the activations are kept in.

    Raises:
        HookPointError: Where the model lacks a point, or one is not of the width of the residual stream.
        HarvestError: On a position that the model does not predict, or a number too great for ``dtype``.
    """
    shift = model.facts.logit_shift
    if len(positions) and int(positions.min()) < shift:
        raise HarvestError(f"position {int(positions.min())} cannot be read: with its logit shift, {model.name} predicts from {shift} on")
    found = {point: torch.empty(len(rows), model.d_model, dtype=dtype) for point in points}
    for start in range(0, len(canvases), BATCH):
        stop = min(start + BATCH, len(canvases))
        here = torch.nonzero((rows >= start) & (rows < stop)).flatten()
        if len(here):
            read = model.activations(canvases[start:stop], points, rows[here] - start, positions[here] - shift)
            for point, values in read.items():
                if values.shape[1:] != (model.d_model,):
                    raise HookPointError(f"{point} has {list(values.shape[1:])} numbers a position; a harvest reads {model.d_model}")
                found[point][here] = values.to("cpu", dtype)
        on_batch(stop, len(canvases))
    _check_finite(found, dtype)
    return found


ALL = "all"
"""In place of the name of a hook point: every one that is read with no library."""


def points_of(model: LanguageModel, names: Sequence[str]) -> tuple[HookPoint, ...]:
    """Returns hook points by name; a component alone is that of every layer, ``all`` is every one that is read with no library.

    Raises:
        HookPointError: Where the model lacks one, or one is not of the width of the residual stream.
    """
    points: dict[HookPoint, None] = {}
    for name in names:
        if name == ALL:
            points |= dict.fromkeys(model.plain_points)
            continue
        try:
            one = HookPoint.parse(name)
        except HookPointError:
            known = model.plain_points[-1]
            said = f"one is such as {known}, {known.component} for every layer's, or {ALL}"
            raise HookPointError(f"{name!r} names no hook point; {said}") from None
        every = [HookPoint(layer, name) for layer in range(model.n_layers)] if one.layer is None else [one]
        known_points = model.plain_points if {one, *every} & set(model.plain_points) else model.hook_points
        points |= dict.fromkeys([one] if one in known_points else every)
    check_points(model, tuple(points))
    return tuple(points)


def check_points(model: LanguageModel, points: Sequence[HookPoint]) -> None:
    """Raises HookPointError where a model lacks a hook point, or one is not of the width of its residual stream."""
    two = torch.zeros(1, 2, dtype=torch.long)
    activations_at(model, two, two[0, :1], two[0, 1:] + 1, points)


def _check_finite(found: dict[HookPoint, Tensor], dtype: torch.dtype) -> None:
    """Raises HarvestError where half precision could not hold a number."""
    broken = [str(point) for point, values in found.items() if dtype == torch.float16 and not torch.isfinite(values).all()]
    if broken:
        raise HarvestError(f"{broken[0]} holds numbers beyond 65504, which float16 cannot; keep it in float32")


@dataclass(frozen=True)
class Plan:
    """What to read of a corpus: all that determines the sites, besides the corpus and the model."""

    canvases: Source
    kinds: tuple[Kind, ...] = (Kind.MASKED,)
    """The kinds of positions to read."""
    sites_per_canvas: int = 8
    """At most so many sites of each kind are kept of each canvas."""
    seed: int = 0
    """Reproduces masks and draws, with the number of each sequence in its corpus."""

    def __post_init__(self) -> None:
        if self.sites_per_canvas < 1:
            raise HarvestError(f"sites_per_canvas is {self.sites_per_canvas}; it must be at least 1")

    @property
    def most(self) -> int:
        """At most so many sites of each kind are kept of one forward pass."""
        return self.sites_per_canvas * (self.canvases.worth if isinstance(self.canvases, Whole) else 1)


def harvest_parts(
    model: LanguageModel,
    corpus: Corpus,
    points: Sequence[HookPoint],
    plan: Plan,
    *,
    first: int = 0,
    stop: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Harvest]:
    """Yields the harvest of the sequences from ``first`` up to ``stop``, some at a time: the rows that the whole harvest has of them."""
    check_source(model, plan.canvases, plan.kinds, corpus)
    end = len(corpus) if stop is None else stop
    for start in range(first, end, BATCH):
        sequences = corpus.rows(torch.arange(start, min(start + BATCH, end)))
        canvases = canvases_of(model, sequences, plan.canvases, plan.seed, start)
        rows, positions = drawn_places(canvases, plan.kinds, plan.most, plan.seed, model.facts.logit_shift)
        sites = canvases.sites(rows, positions, model.task)
        yield Harvest(sites, activations_at(model, canvases.tokens, rows, positions, points, dtype=dtype))


def harvest(
    model: LanguageModel,
    corpus: Corpus,
    points: Sequence[HookPoint],
    *,
    canvases: Source | None = None,
    kinds: Sequence[Kind] = (Kind.MASKED,),
    sites_per_canvas: int = 8,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    on_sequence: Callable[[int, int], None] = lambda done, total: None,
) -> Harvest:
    """Returns activations at ``points``, read where the tokens of drawn positions are predicted; ``interp.store`` does the same to disk.

    The rows come sequence after sequence, and those of a sequence depend on no other.

    Args:
        model: Either twin.
        corpus: Whole sequences, and what is asked for in them.
        points: Hook points of the residual width; one forward pass serves all.
        canvases: What the model is shown. None is masks at ``MASK_RATES`` for a masked model, and whole sequences for a causal one.
        kinds: The kinds of positions to read.
        sites_per_canvas: At most so many sites of each kind are kept of each canvas (a whole sequence counts as ``Whole.worth`` of them).
        seed: Reproduces masks and draws.
        dtype: What activations are kept in: float32, float16 or bfloat16.
        on_sequence: Told (sequences done, total).

    Raises:
        HookPointError: Where the model lacks a point.
        CanvasError: On canvases that the model cannot read, or that have no positions of a kind.
    """
    plan = Plan(default_source(model) if canvases is None else canvases, tuple(kinds), sites_per_canvas, seed)
    parts = []
    for found in harvest_parts(model, corpus, points, plan, dtype=dtype):
        parts.append(found)
        on_sequence(min(len(parts) * BATCH, len(corpus)), len(corpus))
    sites = Sites(*(torch.cat([getattr(one.sites, column.name) for one in parts]) for column in fields(Sites)))
    return Harvest(sites, {point: torch.cat([one.activations.pop(point) for one in parts]) for point in points})
