"""Scores of probes as heatmaps: by way of moving them, and by slice of the sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from interp.concepts import Kind
from interp.report import CEILING, CONTROLS, ProbeEntry
from interp.sweeps.summary import by_place
from interp.viz.probe_lines import MOST_PANELS
from interp.viz.probe_scores import Part, Place, Read, calibration, kept, labelled, moved_modes, plain, pooled, short
from interp.viz.style import finish

MOST_WORDS = 1500
"""Cells of a figure up to which each says its number, if it has room."""
MOST_ROWS = 40
LOWEST = 0.4
"""The AUC with the darkest colour, and all below it."""
AUC_COLORS: dict[str, Any] = {"colorscale": "Cividis", "cmin": LOWEST, "cmax": 1, "colorbar": {"title": {"text": "AUC"}}}
PAGE, ROW = 980, 26
"""Pixels: of the width of a figure, and of the height of a row."""
CELL, TICK, GAP = 30, 26, 8
"""Pixels: the least width of a cell that says its number, of a place on the axis with its name, and of a cell with a gap beside it."""
MEASURES = {"auc": "AUC", "accuracy": "accuracy", "exact": "sites wholly right", "calibration": "expected calibration error"}
Axis = Literal["mask_rate", "step", "kind"]
AXES: dict[Axis, str] = {"mask_rate": "mask rate", "step": "step (network call)", "kind": "kind of position"}


@dataclass(frozen=True)
class Cell:
    """A place in a heatmap."""

    color: float | None
    words: str
    hover: str


@dataclass(frozen=True)
class Grid:
    """One heatmap: title, names of rows from the top and of columns, all as ``plain`` makes them, and the cells, a list a row."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[Cell]]


def _add_grid(figure: Figure, place: tuple[int, int], grid: Grid, *, room: float, words: bool) -> None:
    figure.add_heatmap(
        z=[[cell.color for cell in row] for row in grid.cells],
        text=[[cell.words for cell in row] for row in grid.cells] if words else None,
        customdata=[[cell.hover for cell in row] for row in grid.cells],
        texttemplate="%{text}" if words else None,
        textfont={"size": 11},
        hovertemplate="%{customdata}<extra></extra>",
        coloraxis="coloraxis",
        xgap=min(1, room // GAP),
        ygap=1,
        row=place[0],
        col=place[1],
    )
    step = ceil(TICK / room)
    ticks = {"tickvals": list(range(0, len(grid.columns), step)), "ticktext": list(grid.columns[::step])}
    figure.update_xaxes(ticks, row=place[0], col=place[1])
    names = grid.rows if place[1] == 1 else ()
    step = -(-max(1, len(names)) // MOST_ROWS)
    ticks = {"tickvals": list(range(0, len(names), step)), "ticktext": list(names[::step])}
    figure.update_yaxes(ticks | {"autorange": "reversed"}, row=place[0], col=place[1])


def grids_figure(
    grids: Sequence[Grid], colors: dict[str, Any], *, wide: int, title: str, caption: str, x_title: str = "", y_title: str = ""
) -> Figure:
    """Returns heatmaps of as many rows and columns each on one scale of colours; those side by side name their rows once.

    Args:
        grids: The heatmaps.
        colors: Plotly's colour axis.
        wide: How many stand side by side.
        title: Heading.
        caption: What stands below.
        x_title: Of the horizontal axes.
        y_title: Of the vertical axes.
    """
    wide = min(wide, len(grids))
    rows, columns = -(-len(grids) // wide), max(len(grid.columns) for grid in grids)
    room = PAGE / wide / columns  # pixels of a cell's width
    slanted = 7 * max(len(name) for grid in grids for name in grid.columns) > room * ceil(TICK / room)
    words = room >= CELL and columns * sum(len(grid.rows) for grid in grids) <= MOST_WORDS
    gap, tall = 125 if slanted else 100, ROW * max(4, *(len(grid.rows) for grid in grids))
    inner = rows * tall + (rows - 1) * gap
    figure = make_subplots(
        rows=rows,
        cols=wide,
        subplot_titles=[grid.title for grid in grids],
        horizontal_spacing=0.03,
        vertical_spacing=gap / inner if rows > 1 else None,
    )
    for index, grid in enumerate(grids):
        _add_grid(figure, (index // wide + 1, index % wide + 1), grid, room=room, words=words)
    figure.update_xaxes(title_text=x_title, showgrid=False, tickangle=-35 if slanted else 0)
    figure.update_yaxes(showgrid=False)
    figure.update_yaxes(title_text=y_title, col=1)
    bar = {"thickness": 14, "len": min(inner, 260), "lenmode": "pixels", "y": 1, "yanchor": "top", "ypad": 0}
    figure.update_layout(coloraxis=colors | {"colorbar": colors["colorbar"] | bar})
    return finish(figure, title, caption, height=104 + (40 if slanted else 0) + inner)


def kept_figure(part: Part, places: Sequence[Place]) -> Figure:
    """Returns a heatmap of concepts by ways of moving: the share of the ceiling's AUC over the floor that is kept."""
    ways = moved_modes(part.names)

    def cell(place: Place, way: str) -> Cell:
        read = part.places[place]
        value = kept(read, way) if way in read[0].scores else None
        said = "nothing to keep" if value is None else f"{value:.1%} kept"
        return Cell(value, "" if value is None else f"{value:.0%}", f"{plain(place[0])}, layer {place[2]}, {short(way)}: {said}")

    grid = Grid("", _named(places), [short(way) for way in ways], [[cell(place, way) for way in ways] for place in places])
    caption = (
        "AUC over the higher floor (shuffled labels, untrained network), as a share of what the probe fitted there has over it: 100 % is "
        "as good as fitted there, 0 % no better than the floor. At the layer where the probe reads its own model best, so that no score of "
        "the other decides. Blank: the probe fitted there does not beat its floors in every seed, or this reader has no such way. Means "
        "over seeds."
    )
    colors = {"colorscale": "Cividis", "cmin": 0, "cmax": 1, "colorbar": {"title": {"text": "kept"}, "tickformat": ".0%"}}
    return grids_figure([grid], colors, wide=1, title=f"What is kept on {plain(part.name)}", caption=caption)


def _named(places: Sequence[Place]) -> list[str]:
    return [labelled(concept, layer) for concept, _, layer, _ in places]


def _measured(read: Read, way: str, measure: str) -> float:
    return calibration(read, way) if measure == "calibration" else pooled(read, way, measure).value


def measures_figure(part: Part, places: Sequence[Place]) -> Figure:
    """Returns a heatmap a measure, of concepts by ways of moving; the colour is what is lost against the probe that was fitted there."""
    ways = [name for name in part.names if name not in CONTROLS]

    def cell(place: Place, way: str, measure: str) -> Cell:
        read, sign = part.places[place], -1 if measure == "calibration" else 1
        if way not in read[0].scores:
            return Cell(None, "", "no such way for this reader")
        value, ceiling = _measured(read, way, measure), _measured(read, CEILING, measure)
        said = f"{plain(place[0])}, layer {place[2]}, {short(way)}: {MEASURES[measure]} {value:.3f}, fitted there {ceiling:.3f}"
        return Cell(round(sign * (value - ceiling), 4), f"{value:.2f}", said)

    grids = [
        Grid(name, _named(places), [short(way) for way in ways], [[cell(place, way, measure) for way in ways] for place in places])
        for measure, name in MEASURES.items()
    ]
    caption = (
        "Numbers are scores; colours are how far they lie from the probe fitted there, orange for worse. Where AUC keeps its colour and "
        "the others do not, the order of sites is still read right and only thresholds have drifted: probabilities are off until they "
        "are set anew. Accuracy is of heads at p = .5; a site is wholly right when all its heads are, or the likeliest of exclusive ones."
    )
    limit = max(0.1, *(abs(cell.color or 0.0) for grid in grids for row in grid.cells for cell in row))
    colors = {"colorscale": "PuOr", "cmin": -limit, "cmax": limit, "colorbar": {"title": {"text": "against<br>fitted there"}}}
    return grids_figure(grids, colors, wide=2, title=f"Thresholds and calibration on {plain(part.name)}", caption=caption)


_CAPTIONS: dict[Axis, str] = {
    "mask_rate": "Apart for each share of masked positions: a probe that knew only how far denoising had come would be at .5 within a "
    "column. Means over seeds; blank where too few puzzles or documents, or one class alone, are left.",
    "step": "Apart for each network call of the model's own runs: a fall to the left says that what is read comes late. Means over seeds; "
    "blank where too few puzzles or documents, or one class alone, are left.",
    "kind": "Apart for positions still masked, just written, and settled. Means over seeds; blank where too few puzzles or documents, or "
    "one class alone, are left.",
}


Slices = Mapping[Any, Mapping[Place, Read]]
"""What was measured in each slice along one axis."""


def _slices(entries: Sequence[ProbeEntry], axis: Axis) -> Slices:
    values = {getattr(entry, axis) for entry in entries} - {None}
    order = sorted(values, key=lambda value: Kind[value.upper()] if axis == "kind" else value)
    return {value: by_place(entry for entry in entries if getattr(entry, axis) == value) for value in order}


def _sources(part: Part, axis: Axis) -> dict[str, tuple[str, Slices]]:
    """Returns by title of a panel which score it shows, of which slices."""
    sliced = _slices(part.entries, axis)
    if CEILING in part.names:
        return {"zero-shot": ("zero_shot", sliced), "fitted there": (CEILING, sliced)}
    apart = [
        entry.model_copy(update={"mask_rate": entry.fitted_at, "fitted_at": None})
        for entry in part.entries
        if entry.fitted_at and entry.kind is None and entry.step is None
    ]
    if axis == "mask_rate" and apart:
        return {"fitted on all rates": ("source", sliced), "fitted on this rate": ("source", _slices(apart, axis))}
    return {"": ("source", sliced)}


def _slice_grid(title: str, rows: Mapping[str, Place], axis: Axis, name: str, sliced: Slices) -> Grid:
    cells = [
        [
            auc_cell(found.get(place, ()), name, f"{place[0]}, layer {place[2]}, {AXES[axis]} {_column(value)}")
            for value, found in sliced.items()
        ]
        for place in rows.values()
    ]
    return Grid(title, list(rows), [_column(value) for value in sliced], cells)


def _column(value: float | int | str) -> str:
    return f"{value:.0%}" if isinstance(value, float) else str(value)


def auc_cell(read: Read, name: str, where: str) -> Cell:
    """Returns a score's AUC over seeds as a cell; an empty one where it was not scored."""
    read = [entry for entry in read if name in entry.scores]
    if not read:
        return Cell(None, "", f"{plain(where)}: not scored")
    auc = pooled(read, name)
    return Cell(auc.value, f"{auc.value:.2f}", f"{plain(where)}: AUC {auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}], n {auc.n}")


def _layers_of(part: Part, place: Place, layers: Sequence[int]) -> dict[str, Place]:
    """Returns by layer, from the top, where a concept was read like at its best place."""
    component = place[3].split(".")[-1]
    found = {one[2]: one for one in part.places if one[:2] == place[:2] and one[3].split(".")[-1] == component}
    return {str(layer): found.get(layer, (*place[:2], layer, "")) for layer in reversed(layers)}


def slices_figure(part: Part, places: Sequence[Place], axis: Axis) -> Figure | None:
    """Returns heatmaps of AUC by layer and slice of the sites, zero-shot beside the ceiling where probes were moved; None without slices.

    A panel a concept with rows by layer; where there are many concepts, or one layer, one panel with rows by concept.
    """
    sources = _sources(part, axis)
    if not any(sliced for _, sliced in sources.values()):
        return None
    layers = sorted({layer for _, _, layer, _ in part.places})
    if len(places) > MOST_PANELS or len(layers) == 1:
        rows = dict(zip(_named(places), places, strict=True))
        wide, y_title = 2, ""
        grids = [_slice_grid(title, rows, axis, *source) for title, source in sources.items()]
    else:
        wide, y_title = 3 if len(sources) == 1 else 4, "layer"
        grids = [
            _slice_grid(
                "<br>".join(part for part in (plain(place[0], 100 // wide), title) if part), _layers_of(part, place, layers), axis, *source
            )
            for place in places
            for title, source in sources.items()
        ]
    title = f"AUC by {AXES[axis]} on {plain(part.name)}"
    return grids_figure(grids, AUC_COLORS, wide=wide, title=title, caption=_CAPTIONS[axis], x_title=AXES[axis], y_title=y_title)
