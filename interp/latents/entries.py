"""What a dashboard says of an SAE and of some of its latents, as values that JSON can hold."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from interp.report import Entry, Estimate, Share

Band = Literal["top", "middle", "low"]
Axis = Literal["mask_rate", "kind", "step"]
Fate = Literal["alive", "shifted", "dead", "born", "silent"]
READABLE = 0.6
"""A concept is named in a description where the interval of its AUC lies above this."""
PRECISE = 2.0
"""So many times its share of all places must a head have where the latent fires for that to be said."""
PEAKED = 2.0
"""A mask rate is named where the latent fires so many times as often there as overall."""


class Histogram(Entry):
    """Counts between edges, one edge more than counts."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class Context(Entry):
    """A place where a latent fires, in the canvas that was seen from it."""

    band: Band = Field(description="`top`: the largest of its sequence; `middle`, `low`: about the median, in the lowest fifth of values.")
    value: float
    group: int = Field(description="The puzzle or document.")
    position: int = Field(description="The token whose prediction was read.")
    mask_rate: float
    kind: str
    step: int = Field(description="The network call of a denoising run, from 1; 0 outside a run.")
    tokens: tuple[str, ...] = Field(description="What was visible, empty where hidden: 81 cells, or the text around the place.")
    truth: tuple[str, ...]
    states: str = Field(description="A letter a token: g given, w written or visible, m masked or not yet seen.")
    values: tuple[float | None, ...] = Field(description="Of the latent where each token is predicted; null where it is not read.")
    place: int | None = Field(description="Which of these tokens was read; null where it is none of them.")


class Slice(Entry):
    """How a latent fires on a part of the places."""

    axis: Axis
    at: str
    rate: Estimate = Field(description="Share of places at which it fires.")
    mean: float | None = Field(description="Mean value where it fires; null where it never does.")
    rows: int


class ConceptFit(Entry):
    """The head that a latent predicts best, chosen on half of the puzzles or documents and scored on the others."""

    concept: str
    head: str
    chosen: float = Field(description="AUC on the half on which it was the best of all heads.")
    auc: Estimate = Field(description="AUC on the other half, with the latent's value as the score.")
    matched: Estimate | None = Field(description="The same, comparing only places of one fifth of mask rates; null where none has both.")
    precision: Estimate | None = Field(description="Share of the places where it fires at which the head is true; null where it does not.")
    recall: Share = Field(description="Share of the places where the head is true at which the latent fires.")
    base: Share = Field(description="Share of all places at which the head is true.")


class Effect(Entry):
    """What a latent's direction does to a token's logit by the direct path, against the mean over the vocabulary."""

    token: str
    effect: float


class OtherReading(Entry):
    """The same latent on the other model."""

    rate: Share
    mean: float | None = Field(description="Mean value where it fires; null where it never does.")
    fate: Fate
    auc: Estimate | None = Field(description="Of the head that the latent predicts best at home; null where that cannot be scored.")


class LatentEntry(Entry):
    """One latent."""

    latent: int
    sampled: bool = Field(description="Whether it was drawn at random from the alive; if not, it was asked for.")
    about: str = Field(description="A sentence made from the figures.")
    rate: Estimate = Field(description="Share of places at which it fires.")
    mean: float | None = Field(description="Mean value where it fires; null where it never does.")
    most: float
    values: Histogram = Field(description="Of its values above 0.")
    contexts: tuple[Context, ...]
    promotes: tuple[Effect, ...] = Field(description="The largest effect first.")
    suppresses: tuple[Effect, ...] = Field(description="The most negative effect first.")
    concept: ConceptFit | None
    slices: tuple[Slice, ...]
    other: OtherReading | None


class SaeSummary(Entry):
    """An SAE on the activations of one model, and some of its latents: ``summary.json``."""

    schema_version: Literal[1] = 1
    model: str
    hook_point: str
    architecture: str
    fitted_on: str
    d_in: int
    d_sae: int
    layout: Literal["board", "text"]
    causal: bool = Field(description="Whether a place sees only what comes before it.")
    in_runs: bool = Field(description="Whether the places are of denoising runs, and so have steps.")
    rows: int
    groups: int = Field(description="Puzzles or documents.")
    l0: float = Field(description="Mean number of latents that fire at a place.")
    fvu: Estimate = Field(description="Fraction of variance unexplained, 0 is perfect.")
    dead: Share = Field(description="Share of latents that fire at none of these places.")
    dense: Share = Field(description="Share of latents that fire at more than a tenth of them.")
    density: Histogram = Field(description="Of log10 of the share of places at which a latent fires, over latents that are not dead.")
    heads: int = Field(description="Heads of concepts from which each latent's best was chosen.")
    concepts: tuple[str, ...]
    other: str | None = Field(description="The other model, where there is one.")
    fates: dict[Fate, int] = Field(description="Of all latents on the other model; empty without one.")
    latents: tuple[LatentEntry, ...]


def percent(share: float) -> str:
    """Returns a share as text, with two digits that count."""
    return f"{100 * share:.2g} %" if 0 < share < 0.1 else f"{100 * share:.0f} %"


def head_name(fit: ConceptFit) -> str:
    """Returns a concept and its head as text."""
    return f"{fit.concept.replace('_', ' ')}: {fit.head}"


def about(rate: Estimate, fit: ConceptFit | None, promotes: tuple[Effect, ...], slices: tuple[Slice, ...]) -> str:
    """Returns a sentence from a latent's figures: how often it fires, what it predicts, what it pushes, and when."""
    if rate.value == 0:
        return "never fires here"
    said = [f"fires at {percent(rate.value)} of places"]
    if fit is not None and fit.auc.low > READABLE:
        said.append(f"best predicts {head_name(fit)} (AUC {fit.auc.value:.2f})")
    elif fit is not None:
        said.append(f"predicts no head that was asked (best: {head_name(fit)}, AUC {fit.auc.value:.2f})")
    if fit is not None and fit.precision is not None and fit.precision.low > PRECISE * fit.base:
        said.append(f"{head_name(fit)} is true at {percent(fit.precision.value)} of the places where it fires, {percent(fit.base)} of all")
    said.append(f"pushes {', '.join(repr(one.token) for one in promotes[:3])}")
    rates = [one for one in slices if one.axis == "mask_rate"]
    peak = max(rates, key=lambda one: one.rate.value)
    if len(rates) > 1 and peak.rate.low > PEAKED * rate.value:
        said.append(f"fires most at {peak.at} masked")
    return "; ".join(said)
