"""The figures of a report: pure functions from its parts to plotly figures; every score stands beside its floor and its ceiling.

``layout.meta["caption"]`` holds the sentence that the page sets below a figure; ``layout.title`` is its heading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import plotly.graph_objects as go
from plotly.graph_objects import Figure

from interp.report import CEILING, CONTROLS, FaithfulnessEntry, ProbeEntry, Report, SaeEntry, SaeScores, over_all_sites
from interp.viz.board_trace import BoardTrace
from interp.viz.probe_grids import AUC_COLORS, Grid, auc_cell, grids_figure
from interp.viz.probe_lines import layers_figure
from interp.viz.probe_scores import looks, plain, pooled
from interp.viz.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, Series, add_line, finish, small_multiples
from models.tasks.sudoku.board import cell_name

LAYER_COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
LAYER_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross")

DRAWN = ("source", "zero_shot", "mean_shift", "ridge_affine", CEILING, *CONTROLS)
"""The scores of probes that are drawn."""


def _rate(rate: str | float) -> str:
    return f"{100 * float(rate):g} %"


def _panels(probes: Iterable[ProbeEntry]) -> dict[str, list[ProbeEntry]]:
    """Returns the entries by concept, by concept and component where several components were read, each ordered by layer."""
    found = sorted(probes, key=lambda entry: entry.layer)
    if not found:
        raise ValueError("no probe entries; a probe figure needs at least one")
    several = len({entry.hook_point.split(".")[-1] for entry in found}) > 1
    panels: dict[str, list[ProbeEntry]] = {}
    for entry in found:
        panels.setdefault(f"{entry.concept}, {entry.hook_point.split('.')[-1]}" if several else entry.concept, []).append(entry)
    return panels


def probe_transfer_figure(probes: Iterable[ProbeEntry]) -> Figure:
    """Returns one panel a concept: AUC by layer of the moved probe, between its floors and its ceiling."""
    panels = {name: {entry.layer: [entry] for entry in entries} for name, entries in _panels(over_all_sites(probes)).items()}
    caption = (
        "Probes fitted on the causal twin and scored on unseen puzzles. Read the thick vermilion line (zero-shot on the diffusion twin) "
        "against the green ceiling, the two grey floors and the sky-blue baseline, which sees the board but no network. 0.5 is chance. A "
        "click in the legend hides a line."
    )
    title, unit = "Probes moved from the causal twin", "AUC, mean over heads"
    return layers_figure(panels, looks(DRAWN), pooled, title=title, unit=unit, caption=caption)


def mask_rate_figure(probes: Iterable[ProbeEntry]) -> Figure:
    """Returns one heatmap a concept: zero-shot AUC by layer and by the share of masked cells."""
    grids = []
    for name, entries in _panels(entry for entry in probes if entry.mask_rate is not None).items():
        found = {(entry.layer, entry.mask_rate or 0.0): entry for entry in entries}
        layers, rates = sorted({layer for layer, _ in found}, reverse=True), sorted({rate for _, rate in found})
        cells = [
            [
                auc_cell(
                    [found[layer, rate]] if (layer, rate) in found else [], "zero_shot", f"{name}, layer {layer}, {_rate(rate)} masked"
                )
                for rate in rates
            ]
            for layer in layers
        ]
        grids.append(Grid(plain(name, 36), [str(layer) for layer in layers], [_rate(rate) for rate in rates], cells))
    caption = (
        "The same zero-shot score, apart for each share of masked cells: a probe that only knew how far denoising had come could not keep "
        "its score within one column. Blank where too few puzzles, or one class alone, are left."
    )
    title = "Zero-shot score by mask rate"
    return grids_figure(grids, AUC_COLORS, wide=3, title=title, caption=caption, x_title="share of cells masked", y_title="layer")


def sae_figure(saes: Sequence[SaeEntry]) -> Figure:
    """Returns bars of the variance that SAEs leave unexplained: ceiling, causal twin, diffusion twin by mask rate, moved, floors."""
    (sae,) = over_all_sites(saes)
    by_rate = {entry.mask_rate: entry.scores["zero_shot"] for entry in saes if entry.mask_rate is not None}
    bars: list[tuple[str, SaeScores, str, str]] = [
        ("ceiling: SAE of<br>diffusion twin", sae.scores["native"], GREEN, "/"),
        ("causal twin", sae.scores["source"], BLUE, ""),
        ("diffusion,<br>all mask rates", sae.scores["zero_shot"], VERMILION, ""),
        *((f"diffusion,<br>{_rate(rate)} masked", scores, ORANGE, "") for rate, scores in by_rate.items()),
        ("matched<br>in mean, size", sae.scores["matched"], PURPLE, ""),
        ("stitched by<br>affine maps", sae.scores["stitched"], PURPLE, "."),
        ("floor: turned<br>at random", sae.scores["rotated"], GREY, "x"),
        ("floor: SAE of<br>untrained", sae.scores["untrained"], GREY, "-"),
    ]
    scores = [score for _, score, _, _ in bars]
    figure = go.Figure(
        go.Bar(
            x=[label for label, _, _, _ in bars],
            y=[score.fvu.value for score in scores],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [score.fvu.high - score.fvu.value for score in scores],
                "arrayminus": [score.fvu.value - score.fvu.low for score in scores],
                "thickness": 1,
            },
            customdata=[[score.l0, 100 * score.dead, score.n] for score in scores],
            marker={
                "color": [color for _, _, color, _ in bars],
                "pattern": {"shape": [shape for _, _, _, shape in bars], "solidity": 0.25},
            },
            text=[f"{score.fvu.value:.2f}" for score in scores],
            textposition="outside",
            cliponaxis=False,
            hovertemplate=(
                "%{x}<br>FVU %{y:.3f}<br>%{customdata[0]:.1f} active latents, %{customdata[1]:.1f} % dead<br>"
                "%{customdata[2]} activations<extra></extra>"
            ),
        )
    )
    figure.update_yaxes(title_text="fraction of variance unexplained", rangemode="tozero")
    figure.update_xaxes(title_text="activations it reconstructs", type="category")
    caption = (
        f"One {sae.architecture} SAE ({sae.d_sae} latents of {sae.d_in} dimensions, {sae.training_activations:,} activations of the causal "
        f"twin at {sae.hook_point}), measured on both twins; lower is better, 0 is perfect. Point at a bar for active and dead latents."
    )
    return finish(figure, "One sparse autoencoder on both twins", caption, height=420)


FAITHFULNESS_PANELS = (
    ("own_cell_flipped", "own cell takes the pushed digit", "share of cells"),
    ("unit_moved", "same row, column or box", "change of log p (nats)"),
    ("elsewhere_moved", "elsewhere on the board", "change of log p (nats)"),
    ("final_changed", "other cells' final digits", "share that differs"),
)


def faithfulness_figure(entries: Sequence[FaithfulnessEntry]) -> Figure:
    """Returns four panels by dose, a line a layer: what a push along the probe changes, against a random push of the same length."""
    if not entries:
        raise ValueError("no faithfulness entries; the figure needs at least one")
    points = sorted({(entry.layer, entry.hook_point) for entry in entries})
    figure, places = small_multiples([title for _, title, _ in FAITHFULNESS_PANELS], wide=2, spacing=0.12)
    for index, (layer, hook_point) in enumerate(points):
        own = sorted((entry for entry in entries if entry.hook_point == hook_point), key=lambda entry: entry.dose)
        color, symbol = LAYER_COLORS[index % 6], LAYER_SYMBOLS[index % 6]
        for place, (field, _, unit) in zip(places, FAITHFULNESS_PANELS, strict=True):
            for series in (
                Series(field, f"layer {layer}, along the probe", color, "solid", symbol, 2.4),
                Series(f"{field}_random", f"layer {layer}, random push", color, "dot", f"{symbol}-open", 1.4),
            ):
                estimates = [getattr(entry, series.field) for entry in own]
                add_line(figure, place, [entry.dose for entry in own], estimates, series, f"dose %{{x}}: {unit}")
            figure.update_yaxes(title_text=unit, rangemode="tozero", row=place[0], col=place[1])
    doses = sorted({entry.dose for entry in entries})
    figure.update_xaxes(title_text="dose (1 = distance between class means)", tickvals=doses)
    caption = (
        "At one unwritten cell the activations are pushed from the model's own digit towards an excluded one, along the moved probe "
        "(solid) or a random direction of the same length (dotted); then the model goes on. A faithful reading changes its own cell and "
        "units more than the random push does, and elsewhere less. Bars are 95 % bootstrap intervals by puzzle."
    )
    return finish(figure, "Does acting on what was read change what is written?", caption, height=680, legend_rows=1 + len(points) // 2)


EVENT_MARKS = {"written, right": ("circle", "#ffffff"), "written, wrong": ("x", VERMILION), "changed": ("diamond", SKY)}


def _cells_of(trace: BoardTrace, step: int, event: str) -> list[int]:
    now = trace.steps[step]
    if event == "changed":
        return list(now.revised)
    return [
        cell
        for cell in now.written
        if cell not in now.revised and (now.digits[cell] == trace.solution[cell]) == (event == "written, right")
    ]


def confidence_figure(trace: BoardTrace) -> Figure:
    """Returns the network's confidence by cell and step, cells in the order in which they were written, with marks where that happened."""
    cells = [cell for cell in range(81) if trace.givens[cell] == 0]
    cells.sort(key=lambda cell: (trace.first_written(cell) or len(trace.steps), cell))
    steps = range(1, len(trace.steps))
    names = [cell_name(cell) for cell in cells]
    figure = go.Figure()
    figure.add_heatmap(
        x=list(steps),
        y=names,
        z=[[trace.steps[step].confidence[cell] for step in steps] for cell in cells],
        colorscale="Cividis",
        zmin=0,
        zmax=1,
        colorbar={"title": {"text": "top<br>probability"}, "thickness": 14},
        hovertemplate="%{y}, step %{x}: top probability %{z:.2f}<extra></extra>",
    )
    for name, (symbol, color) in EVENT_MARKS.items():
        found = [(step, cell_name(cell)) for step in steps for cell in _cells_of(trace, step, name)]
        figure.add_scatter(
            x=[step for step, _ in found],
            y=[cell for _, cell in found],
            mode="markers",
            marker={"symbol": symbol, "size": 9, "color": color, "line": {"width": 1.5, "color": "#1d2126"}},
            name=name,
            hovertemplate=f"%{{y}} {name} in step %{{x}}<extra></extra>",
        )
    figure.update_xaxes(title_text="step (network call)", range=[0.5, len(trace.steps) - 0.5])
    figure.update_yaxes(title_text="cell, in order of writing", type="category", categoryorder="array", categoryarray=names)
    figure.update_yaxes(range=[len(cells) - 0.5, -0.5], tickfont_size=9, dtick=1 if len(cells) <= 60 else 2)
    caption = (
        f"{trace.title}: {trace.model}, policy {trace.policy}. Marks show where a cell was written; a row that is bright long before its "
        "mark was decided early."
    )
    return finish(figure, "Confidence before and after writing", caption, height=160 + 12 * len(cells), legend_rows=1)


REPORT_FIGURES: dict[str, Callable[[Report], Figure]] = {
    "probe_transfer": lambda report: probe_transfer_figure(report.probes),
    "mask_rate": lambda report: mask_rate_figure(report.probes),
    "saes": lambda report: sae_figure(report.saes),
    "faithfulness": lambda report: faithfulness_figure(report.faithfulness),
}
"""The figures of a report, in page order."""
