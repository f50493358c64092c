"""The look that the figures share: colours, lines with their intervals, small multiples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from interp.report import Estimate

BLUE, SKY, GREEN, ORANGE, VERMILION, PURPLE, GREY = "#0a7abf", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7", "#8a8f98"
"""Okabe and Ito's palette; blue and grey a little lighter, so that they read on dark too."""
GRID = "rgba(128,128,128,0.22)"
ERROR = "#6b7078"
"""Of the intervals on bars: it reads on every colour, on light and dark."""
PATTERNS = {"dot": ".", "dash": "/", "dashdot": "x", "longdash": "\\", "longdashdot": "+"}
"""The pattern of a bar that stands for a line of such dashes."""


@dataclass(frozen=True)
class Series:
    """One line of a figure: the field of the report it draws, and how, told apart by dash and marker as well as by colour."""

    field: str
    label: str
    color: str
    dash: str
    symbol: str
    width: float = 1.6


def interval(estimates: Sequence[Estimate]) -> dict[str, Any]:
    """Returns plotly's error bars for 95 % intervals."""
    above = [max(0.0, estimate.high - estimate.value) for estimate in estimates]
    below = [max(0.0, estimate.value - estimate.low) for estimate in estimates]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1, "width": 3}


def bounds(estimates: Sequence[Estimate]) -> list[tuple[float, float, int]]:
    """Returns low, high and n of each estimate, for the hover text."""
    return [(estimate.low, estimate.high, estimate.n) for estimate in estimates]


def finish(figure: Figure, title: str, caption: str, *, height: int, legend_rows: int = 0) -> Figure:
    """Returns the figure with the shared look: no fill, light grid, horizontal legend above the panels."""
    figure.update_layout(
        title={"text": title},
        meta={"caption": caption},
        template="none",
        height=height + 24 * legend_rows,
        margin={"l": 64, "r": 20, "t": 44 + 24 * legend_rows, "b": 56},
        font={"size": 13},
        hovermode="closest",
        legend={"orientation": "h", "x": 0, "xanchor": "left", "yref": "container", "y": 0.995, "yanchor": "top", "font": {"size": 12}},
    )
    axes = {"gridcolor": GRID, "zeroline": False, "automargin": True, "title_font_size": 13, "title_standoff": 8}
    figure.update_xaxes(axes)
    figure.update_yaxes(axes)
    figure.update_annotations(font_size=13)
    return figure


def small_multiples(titles: Sequence[str], *, wide: int = 3, spacing: float = 0.06) -> tuple[Figure, list[tuple[int, int]]]:
    """Returns an empty figure with one panel a title, and the (row, column) of each."""
    columns = min(wide, len(titles))
    rows = -(-len(titles) // columns)
    gap = 0.32 / rows  # room for the axis title of one panel above the title of the next
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=list(titles), horizontal_spacing=spacing, vertical_spacing=gap)
    return figure, [(index // columns + 1, index % columns + 1) for index in range(len(titles))]


def _hover(hover: str) -> str:
    return f"{hover} %{{y:.3f}} [%{{customdata[0]:.3f}}, %{{customdata[1]:.3f}}], n %{{customdata[2]}}"


def add_line(
    figure: Figure, place: tuple[int, int], x: Sequence[str | int | float], estimates: Sequence[Estimate], series: Series, hover: str
) -> None:
    """Adds a line with its intervals to a panel; only the first panel lists it in the legend."""
    figure.add_scatter(
        x=list(x),
        y=[estimate.value for estimate in estimates],
        error_y=interval(estimates),
        customdata=bounds(estimates),
        hovertemplate=_hover(hover),
        mode="lines+markers",
        line={"color": series.color, "dash": series.dash, "width": series.width},
        marker={"symbol": series.symbol, "size": 8},
        name=series.label,
        legendgroup=series.label,
        meta=series.field,
        showlegend=place == (1, 1),
        row=place[0],
        col=place[1],
    )


def add_bars(
    figure: Figure, place: tuple[int, int], x: Sequence[str | int | float], estimates: Sequence[Estimate], series: Series, hover: str
) -> None:
    """Adds bars with their intervals to a panel, as ``add_line`` adds lines."""
    figure.add_bar(
        x=list(x),
        y=[estimate.value for estimate in estimates],
        error_y=interval(estimates) | {"color": ERROR},
        customdata=bounds(estimates),
        hovertemplate=_hover(hover),
        marker={
            "color": series.color,
            "pattern": {
                "shape": PATTERNS.get(series.dash, ""),
                "fillmode": "overlay",
                "fgcolor": "#ffffff",
                "fgopacity": 0.6,
                "solidity": 0.2,
            },
        },
        name=series.label,
        legendgroup=series.label,
        meta=series.field,
        showlegend=place == (1, 1),
        row=place[0],
        col=place[1],
    )
