"""Scores of probes as lines over layers, a panel a concept, and as dots, a row a concept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import plotly.graph_objects as go
from plotly.graph_objects import Figure

from interp.report import Estimate
from interp.viz.probe_scores import FLOORS, Part, Place, Read, labelled, looks, over_control, plain, pooled
from interp.viz.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, Series, add_line, bounds, finish, interval, small_multiples

MOST_PANELS = 12
"""With more of them, panels are small."""
MOST_TICKS = 14
MOST_BARS, BOLD = 4, 2.4
"""In small panels: of more lines than so many, only those of such a width show their intervals."""
SEEDS = "Means over seeds; bars reach over the 95 % bootstrap intervals, resampled by puzzle or document, of all seeds."
ONE_SEED = "Bars are 95 % bootstrap intervals, resampled by puzzle or document."
DOTS = "Faint dots are single seeds."
_READER_COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
_READER_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross")

Panels = Mapping[str, Mapping[int, Read]]
"""What was measured, by title and layer."""
Row = tuple[str, int]
"""A concept and a layer."""
Value = Callable[[Read, str], Estimate]
"""What is shown of a place, given the field of a series."""


def panels_of(part: Part, places: Sequence[Place]) -> dict[str, dict[int, Read]]:
    """Returns what was measured of each concept by the reader of its best place; apart for each component where there are several."""
    reader = {concept: name for concept, name, _, _ in places}
    several = len({point.split(".")[-1] for *_, point in part.places}) > 1
    found: dict[str, dict[int, Read]] = {}
    for (concept, name, layer, point), read in sorted(part.places.items(), key=lambda item: item[0][2]):
        if reader.get(concept) == name:
            found.setdefault(f"{concept}, {point.split('.')[-1]}" if several else concept, {})[layer] = read
    return found


def intervals_of(reads: Sequence[Read]) -> str:
    """Returns the sentence that says what is drawn and what bars are."""
    return SEEDS if any(len(read) > 1 for read in reads) else ONE_SEED


def layers_figure(panels: Panels, series: Sequence[Series], value: Value, *, title: str, unit: str, caption: str) -> Figure:
    """Returns one panel a concept: a line a series over layers, with every seed's own value beside the mean.

    Args:
        panels: What was measured, by title and layer.
        series: The lines.
        value: What a line shows of a place, given the field of its series.
        title: Heading.
        unit: Of the vertical axis.
        caption: What stands below, before what the intervals are.
    """
    wide, tall = (3, 290) if len(panels) <= MOST_PANELS else (4, 230)
    wide = min(wide, len(panels))
    figure, places = small_multiples([plain(name, 108 // wide) for name in panels], wide=wide)
    for place, (name, by_layer) in zip(places, panels.items(), strict=True):
        for line in series:
            own = {layer: value(read, line.field) for layer, read in by_layer.items() if line.field in read[0].scores}
            add_line(figure, place, list(own), list(own.values()), line, f"{plain(name)}, layer %{{x}}: {unit}")
        _add_seeds(figure, place, by_layer, series, value)
    _list_each_once(figure, series)
    if len(panels) > MOST_PANELS:
        _make_small(figure, series)
    layers = sorted({layer for by_layer in panels.values() for layer in by_layer})
    figure.update_xaxes(title_text="layer", range=[layers[0] - 0.5, layers[-1] + 0.5])
    step = -(-len(layers) // (MOST_TICKS if wide < 4 else MOST_TICKS // 2))
    figure.update_xaxes(tickvals=layers[::step], tickangle=0)
    ends = [end for trace in figure.select_traces({"mode": "lines+markers"}) for low, high, _ in trace.customdata for end in (low, high)]
    room = 0.04 * (max(ends) - min(ends))
    figure.update_yaxes(range=[min(ends) - room, max(ends) + room])
    figure.update_yaxes(title_text=unit, col=1)
    said = intervals_of([read for by_layer in panels.values() for read in by_layer.values()])
    said += f" {DOTS}" if said == SEEDS else ""
    return finish(figure, title, f"{caption} {said}", height=80 + tall * places[-1][0], legend_rows=1 + (len(series) - 1) // 4)


def _add_seeds(figure: Figure, place: tuple[int, int], by_layer: Mapping[int, Read], series: Sequence[Series], value: Value) -> None:
    """Adds each seed's own values to a panel, where there are several."""
    dots = [
        (layer, value([entry], line.field).value, line.color, entry.seed)
        for layer, read in by_layer.items()
        for entry in (read if len(read) > 1 else ())
        for line in series
        if line.field in entry.scores
    ]
    if not dots:
        return
    x, y, colors, seeds = zip(*dots, strict=True)
    figure.add_scatter(
        x=x,
        y=y,
        customdata=seeds,
        mode="markers",
        marker={"size": 5, "color": colors, "opacity": 0.45},
        hovertemplate="seed %{customdata}: %{y:.3f}<extra></extra>",
        meta="seeds",
        showlegend=False,
        row=place[0],
        col=place[1],
    )


def _make_small(figure: Figure, series: Sequence[Series]) -> None:
    """Makes markers small, and leaves the intervals of thin lines, of the many, to the hover text."""
    figure.update_traces(marker_size=5, selector={"mode": "lines+markers"})
    for line in series if len(series) > MOST_BARS else ():
        if line.width < BOLD:
            figure.update_traces(error_y_visible=False, selector={"meta": line.field})


def _list_each_once(figure: Figure, series: Sequence[Series]) -> None:
    """Lists every line in the legend, also one that the first panel lacks."""
    for line in series:
        figure.update_traces(showlegend=False, selector={"meta": line.field})
        next(figure.select_traces({"meta": line.field})).showlegend = True


def dots_figure(rows: Mapping[Row, Mapping[str, Estimate]], series: Sequence[Series], *, title: str, unit: str, caption: str) -> Figure:
    """Returns one row a concept and layer: a dot a series, with its interval, a little below the one before.

    Args:
        rows: Estimates by row and field of the series; a row may lack some.
        series: The dots.
        title: Heading.
        unit: Of the horizontal axis.
        caption: What stands below.
    """
    figure = go.Figure()
    names = list(rows)
    for index, line in enumerate(series):
        found = [(row, name, rows[name][line.field]) for row, name in enumerate(names) if line.field in rows[name]]
        estimates = [estimate for *_, estimate in found]
        shift = (index + 0.5) / len(series) - 0.5
        figure.add_scatter(
            x=[estimate.value for estimate in estimates],
            y=[row + 0.7 * shift for row, *_ in found],
            error_x=interval(estimates),
            customdata=[[labelled(*name), *edges] for (_, name, _), edges in zip(found, bounds(estimates), strict=True)],
            hovertemplate="%{customdata[0]}: %{x:.3f} [%{customdata[1]:.3f}, %{customdata[2]:.3f}], n %{customdata[3]}",
            mode="markers",
            marker={"symbol": line.symbol, "size": 8, "color": line.color},
            name=line.label,
            meta=line.field,
        )
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=[labelled(*name) for name in names], range=[len(names) - 0.5, -0.5], showgrid=False
    )
    between = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "line": {"color": GREY, "width": 0.5}}
    figure.update_layout(shapes=[between | {"y0": row - 0.5, "y1": row - 0.5} for row in range(1, len(names))])
    figure.update_xaxes(title_text=unit)
    tall = max(28, 9 * len(series))
    return finish(figure, title, caption, height=100 + tall * len(names), legend_rows=1 + (len(series) - 1) // 4)


def auc_figure(part: Part, places: Sequence[Place], *, title: str, caption: str) -> Figure:
    """Returns every score's AUC over layers; as dots where there is one layer alone."""
    panels, series = panels_of(part, places), looks(part.names)
    return _by_layer(panels, series, pooled, title=title, unit="AUC, mean over heads", caption=caption)


def selectivity_figure(part: Part, places: Sequence[Place]) -> Figure:
    """Returns over layers how far the run's own probes lie above each of their controls (Hewitt and Liang 2019)."""
    series = [
        Series("shuffled", "over shuffled labels", BLUE, "solid", "circle", 2.4),
        Series("untrained", "over the untrained network", PURPLE, "dash", "diamond"),
        Series("input_only", "over visible tokens alone", ORANGE, "dashdot", "square"),
    ]
    caption = (
        "AUC of the probe minus that of its control. Over shuffled labels it is the selectivity of Hewitt and Liang (2019): what labels "
        "add to what a probe of this size fits to any. Over the untrained network: what training adds to random features. Over visible "
        "tokens: what the network adds to one look at its input; at or below 0, the input alone says as much. Intervals of the "
        "differences take both sides as independent, which makes them rather too wide (Newcombe 1998)."
    )
    title = f"Selectivity on {plain(part.name)}"
    return _by_layer(panels_of(part, places), series, over_control, title=title, unit="difference of AUC", caption=caption)


def _by_layer(panels: Panels, series: Sequence[Series], value: Value, *, title: str, unit: str, caption: str) -> Figure:
    if len({layer for by_layer in panels.values() for layer in by_layer}) > 1:
        return layers_figure(panels, series, value, title=title, unit=unit, caption=caption)
    reads = {(name, layer): read for name, by_layer in panels.items() for layer, read in by_layer.items()}
    rows = {name: {one.field: value(read, one.field) for one in series if one.field in read[0].scores} for name, read in reads.items()}
    return dots_figure(rows, series, title=title, unit=unit, caption=f"{caption} {intervals_of(list(reads.values()))}")


def readers_figure(part: Part, places: Sequence[Place], name: str) -> Figure:
    """Returns the AUC of every reader's score of this name at each concept's best place, beside the floors of the first reader."""
    readers = list(dict.fromkeys(reader for _, reader, _, _ in part.places))
    series = [
        Series(reader, plain(reader), _READER_COLORS[index % 6], "solid", _READER_SYMBOLS[index % 6])
        for index, reader in enumerate(readers)
    ]
    rows: dict[Row, dict[str, Estimate]] = {}
    for concept, _, layer, point in places:
        found = {reader: part.places[concept, reader, layer, point] for reader in readers if (concept, reader, layer, point) in part.places}
        floor = [pooled(read, control) for read in found.values() for control in FLOORS]
        rows[concept, layer] = {reader: pooled(read, name) for reader, read in found.items()} | {
            "floor": max(floor, key=lambda one: one.value)
        }
    series.append(Series("floor", "highest floor of any reader", GREY, "dot", "x"))
    caption = (
        "Ways of fitting a probe, at the layer where the first one reads best. Grey: the highest of the floors (shuffled labels, untrained "
        f"network) of any of these readers. {intervals_of(list(part.places.values()))}"
    )
    return dots_figure(rows, series, title=f"Readers compared on {plain(part.name)}", unit="AUC, mean over heads", caption=caption)
