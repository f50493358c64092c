"""The page of an SAE: what its latents fire on, predict and push, each with where it was seen."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.graph_objects import Figure

from interp.latents.entries import Context, LatentEntry, SaeSummary, Slice, head_name, percent
from interp.viz.page import Table, figure_payload, plotly_source, safe_json
from interp.viz.style import BLUE, GREEN, ORANGE, PURPLE, VERMILION, finish
from models.tasks.sudoku.board import N_CELLS, cell_name

INTRO = (
    "A sparse autoencoder writes an activation as a sum of few directions; each direction with its value is a latent. Here latents are "
    "shown as they are on {model} at {point}: the places where they fire, what they predict, and which tokens they push. A place is a "
    "token to be predicted, whether or not it is already visible there."
)
NONE = "-"
"""In place of a number that is not there."""
BANDS = {"top": "Where it is largest", "middle": "About its median", "low": "In the lowest fifth of its values"}
AXES = {"mask_rate": "Fires, by mask rate", "kind": "Fires, by kind of place", "step": "Fires, by network call"}
FATES = {"alive": GREEN, "shifted": ORANGE, "dead": VERMILION, "born": PURPLE, "silent": BLUE}
HEATS = 5
MOST_NAMES = 8
"""Bars up to which each says its name."""
_INLINE = ("page.css", "sae.css", "figures.js", "sae.js")
"""Files of ``templates/`` that stand in the page as they are, in variables such as ``sae_css``."""


def heat(value: float | None, most: float) -> int:
    """Returns a colour for a value: 0 for none, 1 to 5 up to the largest."""
    return 0 if value is None or value <= 0 or most <= 0 else min(HEATS, 1 + int(HEATS * value / most))


def visible(token: str) -> str:
    """Returns a token with its line breaks and blank edges made visible where it would else be lost."""
    shown = token.replace("\n", "⏎")
    return "␣" * len(shown) if shown and not shown.strip() else shown or "∅"


def tip(context: Context, place: int) -> str:
    """Returns what pointing at a token tells."""
    value = context.values[place]
    hidden = f", hidden: {visible(context.truth[place])}" if context.states[place] == "m" else ""
    return f"{'unseen' if value is None else format(value, '.3g')}{hidden}"


def short(one: Slice, place: int, count: int) -> str:
    """Returns the name below a bar; of many bars only the first and last have one."""
    name = one.at.replace(" to ", "-").replace(" %", "")
    return name if count <= MOST_NAMES or place in (0, count - 1) else ""


def density_figure(summary: SaeSummary) -> Figure:
    """Returns a histogram of how often latents fire, those described marked below."""
    edges, counts = summary.density.edges, summary.density.counts
    middle = [(low + high) / 2 for low, high in pairwise(edges)]
    figure = go.Figure()
    figure.add_bar(
        x=middle,
        y=list(counts),
        width=(edges[1] - edges[0]) * 0.94,
        marker={"color": BLUE},
        name="all latents",
        customdata=[[percent(10**low), percent(10**high)] for low, high in pairwise(edges)],
        hovertemplate="%{y} latents fire at %{customdata[0]} to %{customdata[1]} of places<extra></extra>",
    )
    ticks = list(range(round(edges[0]), 1))
    figure.update_xaxes(
        title_text="share of places at which a latent fires", tickvals=ticks, ticktext=[percent(10.0**tick) for tick in ticks]
    )
    figure.update_yaxes(title_text="latents", rangemode="tozero")
    never = round(summary.dead * summary.d_sae)
    caption = (
        f"{summary.d_sae - never} of {summary.d_sae} latents, on a logarithmic scale; the other {never} fire at none of {summary.rows:,} "
        f"places. {percent(summary.dense)} of latents fire at more than a tenth of places."
    )
    return finish(figure, "How often latents fire", caption, height=320)


def described_figure(summary: SaeSummary) -> Figure:
    """Returns the described latents by how often they fire and how well they predict their best concept."""
    figure = go.Figure()
    by_fate: dict[str, list[LatentEntry]] = {}
    for latent in summary.latents:
        if latent.concept is not None and latent.rate.value > 0:
            by_fate.setdefault(latent.other.fate if latent.other else "", []).append(latent)
    for fate, latents in by_fate.items():
        fits = [latent.concept for latent in latents if latent.concept is not None]
        figure.add_scatter(
            x=[latent.rate.value for latent in latents],
            y=[fit.auc.value for fit in fits],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [fit.auc.high - fit.auc.value for fit in fits],
                "arrayminus": [fit.auc.value - fit.auc.low for fit in fits],
                "thickness": 1,
                "width": 3,
            },
            mode="markers",
            marker={"size": 9, "color": FATES.get(fate, BLUE)},
            name=f"{fate} on {summary.other}" if fate else "described latents",
            text=[f"latent {latent.latent}: {head_name(fit)}" for latent, fit in zip(latents, fits, strict=True)],
            hovertemplate="%{text}<br>AUC %{y:.3f}, fires at %{x:.2%}<extra></extra>",
        )
    figure.update_xaxes(title_text="share of places at which it fires", type="log", tickformat="~%", dtick=1)
    figure.update_yaxes(title_text="AUC of its best concept")
    caption = (
        f"The described latents; the best of {summary.heads} heads was chosen on half of the {_units(summary)} and is scored on the "
        "others, with 95 % intervals. .5 is chance. A latent that fires rarely ranks few places, and so lies near .5 even where it is "
        "precise: its card says how often the concept is true where it fires."
    )
    return finish(figure, "What the described latents predict", caption, height=360, legend_rows=1 if summary.other else 0)


def _units(summary: SaeSummary) -> str:
    return "puzzles" if summary.layout == "board" else "documents"


def _facts(summary: SaeSummary) -> list[tuple[str, str, str]]:
    """Returns name, value and note of what the head of the page lists."""
    fvu = summary.fvu
    facts = [
        ("model", summary.model, ""),
        ("fitted on", summary.fitted_on or "not stated", ""),
        ("architecture", summary.architecture, f"{summary.d_sae} latents of {summary.d_in} dimensions"),
        ("places", f"{summary.rows:,}", f"in {summary.groups} {_units(summary)}"),
        ("variance unexplained", f"{fvu.value:.3f}", f"[{fvu.low:.3f}, {fvu.high:.3f}]"),
        ("latents at a place (L0)", f"{summary.l0:.1f}", ""),
        ("dead here", percent(summary.dead), f"dense: {percent(summary.dense)}"),
    ]
    if summary.other:
        facts.append((f"on {summary.other}", ", ".join(f"{count} {fate}" for fate, count in summary.fates.items()), "of all latents"))
    return facts


def _choice(summary: SaeSummary) -> str:
    drawn = sum(latent.sampled for latent in summary.latents)
    asked = len(summary.latents) - drawn
    also = f", and {asked} that were asked for (marked *)" if asked else ""
    return (
        f"{drawn} latents drawn at random from all that fire{also}: none was picked because it reads well. The best concept of each is the "
        f"best of {summary.heads} heads ({', '.join(name.replace('_', ' ') for name in summary.concepts) or 'none'}) on half of the "
        f"{_units(summary)}; its AUC is that on the other half. A click on a heading sorts."
    )


def _legend(summary: SaeSummary) -> str:
    if summary.layout == "board":
        seen = "Bold on grey: given. Blue: written. Empty: masked."
    else:
        hidden = "not yet seen" if summary.causal else "masked"
        seen = f"Dotted and slanted: {hidden} there, in the words of the reference text."
    later = " Later places have no colour, as they do not come into it." if summary.causal else ""
    return (
        f"Framed: the place that is read. {seen} The stronger a token's orange, the larger the latent where that token is predicted, up to "
        f"its largest.{later} All examples of a latent are of different {_units(summary)}. Logit effects are those of the decoder row "
        "alone, through the final norm to the unembedding, against the mean over the vocabulary; at a place they are divided by the size "
        "of the residual stream, which changes no order."
    )


def _where(summary: SaeSummary, context: Context) -> str:
    """Returns where a context is, in words."""
    if summary.layout == "board" and context.place is not None and len(context.tokens) == N_CELLS:
        place = cell_name(context.place)
    else:
        place = f"position {context.position}"
    call = f", call {context.step}" if context.step else ""
    kind = "" if context.kind == "masked" else f", {context.kind}"
    return f"{place}{kind}, {percent(context.mask_rate)} masked{call}"


def _row(latent: LatentEntry) -> dict[str, Any]:
    """Returns a row of the table: texts, and the keys they are sorted by."""
    fit, other = latent.concept, latent.other
    cells: list[tuple[str, str | float]] = [
        (percent(latent.rate.value), latent.rate.value),
        (NONE if latent.mean is None else f"{latent.mean:.3g}", "" if latent.mean is None else latent.mean),
        (head_name(fit) if fit else NONE, head_name(fit) if fit else ""),
        (f"{fit.auc.value:.2f}" if fit else NONE, fit.auc.value if fit else ""),
        (percent(fit.precision.value) if fit and fit.precision else NONE, fit.precision.value if fit and fit.precision else ""),
        (" ".join(visible(one.token) for one in latent.promotes[:3]), latent.promotes[0].token if latent.promotes else ""),
    ]
    if other is not None:
        cells += [(percent(other.rate), other.rate), (other.fate, other.fate)]
    return {"latent": latent.latent, "sampled": latent.sampled, "cells": cells}


def _columns(summary: SaeSummary) -> list[str]:
    there = [f"fires on {summary.other}", "state there"] if summary.other else []
    return ["latent", "fires", "mean there", "best predicts", "AUC", "true where it fires", "pushes", *there]


def sae_page(summary: SaeSummary, *, figures: Sequence[Figure] = (), tables: Sequence[Table] = ()) -> str:
    """Returns one standalone HTML page of an SAE: its figures, a table of latents that sorts and searches, and a card for each.

    Args:
        summary: See ``interp.latents.dashboard.describe_latents``.
        figures: Shown first, such as its quality between floor and ceiling.
        tables: Shown below the figures.
    """
    loader = PackageLoader("interp.viz", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(heat=heat, visible=visible, tip=tip, short=short, percent=percent, head_name=head_name)
    sources = {name.replace(".", "_"): Markup(loader.get_source(environment, name)[0]) for name in _INLINE}
    drawn = [*figures, density_figure(summary)]
    if any(latent.concept is not None for latent in summary.latents):
        drawn.append(described_figure(summary))
    payloads = [figure_payload(figure) for figure in drawn]
    return environment.get_template("sae.html.jinja").render(
        title=f"SAE of {summary.hook_point} on {summary.model}",
        intro=INTRO.format(model=summary.model, point=summary.hook_point),
        summary=summary,
        facts=_facts(summary),
        choice=_choice(summary),
        legend=_legend(summary),
        units=_units(summary),
        columns=_columns(summary),
        rows=[_row(latent) for latent in summary.latents],
        bands=BANDS.items(),
        axes=AXES.items(),
        where=lambda context: _where(summary, context),
        tables=list(tables),
        figures=payloads,
        figures_json=safe_json([{"data": payload["data"], "layout": payload["layout"]} for payload in payloads]),
        plotly=plotly_source(),
        **sources,
    )
