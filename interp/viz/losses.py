"""The loss of one training or several over the steps, from their logs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from plotly.graph_objects import Figure, Scatter

from interp.viz.style import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, finish

COLORS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
WINDOW = 25
"""Steps over which the loss is averaged."""


def read_losses(folder: Path) -> tuple[list[int], list[float]]:
    """Returns the steps of a training's log and their losses in nats."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line["step"] for line in lines], [line["loss"] for line in lines]


def loss_figure(folders: Sequence[Path]) -> Figure:
    """Returns the loss of each training by step, a running mean over 25 steps; logarithmic, since it falls over orders of magnitude."""
    figure = Figure()
    for index, folder in enumerate(folders):
        steps, losses = read_losses(folder)
        window = min(WINDOW, len(losses))
        smooth = np.convolve(losses, np.ones(window) / window, mode="valid") if window else np.array([])
        line = {"color": COLORS[index % len(COLORS)], "width": 1.6}
        figure.add_trace(Scatter(x=steps[window - 1 :], y=smooth, mode="lines", name=folder.name, line=line))
    figure.update_yaxes(type="log", title_text="loss (nats a token)")
    figure.update_xaxes(title_text="step")
    return finish(figure, "Training loss", f"Mean over {WINDOW} steps.", height=420, legend_rows=1)


def write_losses(folders: Sequence[Path], path: Path) -> None:
    """Writes the figure as one page that opens without a network."""
    loss_figure(folders).write_html(path, include_plotlyjs=True)
