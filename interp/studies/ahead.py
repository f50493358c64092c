"""Whether a causal model holds an answer before it writes it: probes for the cells that come later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.concepts import INPUT_FEATURES, Sites
from interp.concepts.sudoku import DIGITS
from interp.harvest import activations_at
from interp.report import Estimate
from interp.scoring import estimate
from interp.statistics import Measured, Statistic
from interp.transfer import shuffled_weights
from models.hookpoints import HookPoint, resid_post
from models.language_model import LanguageModel
from models.left_to_right import write_left_to_right
from models.tasks.sudoku.generator import Puzzles
from models.tasks.sudoku.task import MASK_ID, SUDOKU
from probes.controls import shuffle_labels
from probes.linear import fit_logistic
from probes.metrics import bootstrap_mean

AHEAD = (0, 1, 2, 4, 8, 16)
"""How many unwritten cells later the cell that is asked for comes; 0 is the one about to be written."""
BATCH = 200
PROBE, INPUT, SHUFFLED, UNTRAINED, WRITTEN = "probe", "input only", "shuffled labels", "untrained network", "the model, writing on"


@dataclass(frozen=True)
class Later:
    """Places from which a causal model is about to write a cell, and the cells it comes to later."""

    sequences: Int[Tensor, "board pos"]
    """The solved boards."""
    board: Int[Tensor, " row"]
    prefix: Int[Tensor, "row pos"]
    """The sequence with every cell from the one about to be written on hidden."""
    target: Int[Tensor, "row ahead"]
    """The unwritten token so many unwritten tokens ahead (``AHEAD``); the first is the one about to be written."""
    digit: Int[Tensor, "row ahead"]
    """The solution's digit there."""


def later_cells(puzzles: Puzzles, per_board: int, seed: int) -> Later:
    """Returns at most ``per_board`` places a board, drawn where even the farthest cell exists, so that all distances share them."""
    sequences, asked = SUDOKU.encode(puzzles), SUDOKU.prompt(puzzles) == MASK_ID
    generator = torch.Generator().manual_seed(seed)
    rows: list[int] = []
    targets: list[Tensor] = []
    for row, places in enumerate(asked):
        cells = torch.nonzero(places).flatten()
        for start in torch.randperm(max(0, len(cells) - AHEAD[-1]), generator=generator)[:per_board].tolist():
            rows.append(row)
            targets.append(cells[start + torch.tensor(AHEAD)])
    board, target = torch.tensor(rows), torch.stack(targets)
    hidden = asked[board] & (torch.arange(sequences.shape[1]) >= target[:, :1])
    return Later(sequences, board, sequences[board].masked_fill(hidden, MASK_ID), target, sequences[board].gather(1, target))


def activations_before(model: LanguageModel, later: Later, points: list[HookPoint]) -> dict[HookPoint, Float[Tensor, "row d_model"]]:
    """Returns a causal model's activations where it is about to write; it sees nothing of what comes after in the whole sequence."""
    return activations_at(model, later.sequences, later.board, later.target[:, 0], points)


def written_later(model: LanguageModel, later: Later) -> Bool[Tensor, "row ahead"]:
    """Returns whether the model, left to write on from each place, gets the later cells right."""
    beyond = torch.arange(later.prefix.shape[1]) > later.target[:, -1:]
    begun = torch.where(beyond, later.sequences[later.board], later.prefix)  # what nobody asks for need not be written
    right = torch.empty_like(later.target, dtype=torch.bool)
    for rows in later.target[:, 0].argsort().split(BATCH):
        written = torch.from_numpy(write_left_to_right(model, begun[rows]).tokens(-1))
        right[rows] = written.gather(1, later.target[rows]) == later.digit[rows]
    return right


def peers_of(later: Later, index: int) -> Float[Tensor, "row feature"]:
    """Returns what is visible of the peers of the cell ``AHEAD[index]`` cells ahead, one-hot."""
    sites = Sites.unwritten(later.prefix, later.prefix, later.target[:, index], later.board, torch.zeros(len(later.board)))
    return torch.from_numpy(INPUT_FEATURES["sudoku"](sites))


def read_digit(
    fit: tuple[Float[Tensor, "row feature"], Int[Tensor, " row"]],
    test: tuple[Float[Tensor, "other feature"], Int[Tensor, " other"]],
    boards: Int[Tensor, " other"],
    seed: int,
) -> Estimate:
    """Returns how often the likeliest of nine logistic heads, fitted on (features, digits), is the digit of unseen boards."""
    digits = torch.arange(1, len(DIGITS) + 1)
    probe = fit_logistic(fit[0], fit[1][:, None] == digits, heads=DIGITS, fitted_on="cells ahead")
    right = digits[probe.scores(test[0]).argmax(1)] == test[1]
    return estimate(bootstrap_mean(right, boards, seed=seed))


@dataclass(frozen=True)
class Readable:
    """A model's activations at two sets of places on disjoint boards, to fit on and to test on, and what else they are held against."""

    fit: Later
    test: Later
    activations: dict[HookPoint, tuple[Float[Tensor, "row d_model"], Float[Tensor, "other d_model"]]]
    untrained: dict[HookPoint, tuple[Float[Tensor, "row d_model"], Float[Tensor, "other d_model"]]]
    """Of a network whose weights are shuffled."""
    written: Bool[Tensor, "other ahead"]
    """Whether the model gets the later cells of the test places right."""


def readable(model: LanguageModel, fit: Later, test: Later, seed: int) -> Readable:
    """Returns what is to be read of a causal model, and its floors."""
    points = [resid_post(layer) for layer in range(model.n_layers)]
    found = []
    for network in (model, shuffled_weights(model, seed)):
        parts = [activations_before(network, part, points) for part in (fit, test)]
        found.append({point: (parts[0][point], parts[1][point]) for point in points})
    return Readable(fit, test, found[0], found[1], written_later(model, test))


def _read_one(data: Readable, index: int, seed: int) -> Iterator[tuple[str, int, Estimate]]:
    """Yields (reader, layer, estimate) for the cell ``AHEAD[index]`` cells ahead."""
    fit, test = data.fit.digit[:, index], data.test.digit[:, index]
    boards = data.test.board
    visible = read_digit((peers_of(data.fit, index), fit), (peers_of(data.test, index), test), boards, seed)
    written = estimate(bootstrap_mean(data.written[:, index], boards, seed=seed))
    for point in data.activations:
        (x, x_test), (floor, floor_test) = data.activations[point], data.untrained[point]
        layer = int(point.layer or 0)
        yield PROBE, layer, read_digit((x, fit), (x_test, test), boards, seed)
        yield SHUFFLED, layer, read_digit((x, shuffle_labels(fit, seed)), (x_test, test), boards, seed)
        yield UNTRAINED, layer, read_digit((floor, fit), (floor_test, test), boards, seed)
        yield INPUT, layer, visible
        yield WRITTEN, layer, written


def ahead_values(name: str, data: Readable, seed: int, on_ahead: Callable[[int, int], None] = lambda done, total: None) -> list[Measured]:
    """Returns what each reader makes of the cells ahead of one model, by distance and layer."""
    values = []
    for index, ahead in enumerate(AHEAD):
        for reader, layer, found in _read_one(data, index, seed):
            values.append(Measured(at={"model": name, "cells_ahead": ahead, "reader": reader, "layer": layer}, estimate=found))
        on_ahead(index + 1, len(AHEAD))
    return values


def ahead_statistic(values: list[Measured]) -> Statistic:
    """Returns the statistic of such values."""
    about = (
        "A causal model has read the puzzle and the true solution up to some cell, which it is about to write. Linear probes on its "
        "residual stream there, after each layer, are asked for the digit of that cell (0 ahead) and of unwritten cells that it comes to "
        "later; the places are the same for all distances, and boards to fit and to test on are disjoint. Chance is 1/9. Floors: labels "
        "of other rows, and a network with shuffled weights. Baseline: the same reader on the visible digits of the asked cell's peers, "
        "without a network. Reference: how often the model, left to write on from there, gets that cell right itself; a probe above it "
        "reads what the model does not bring to paper; one below means that the model works the cell out later, or holds it in no form "
        "that one linear probe reads at all places."
    )
    return Statistic(
        name="ahead",
        title="Does the left-to-right twin hold an answer before it writes it?",
        about=about,
        unit="share of cells right",
        panels=("model", "cells_ahead"),
        lines=("reader",),
        x="layer",
        roles={SHUFFLED: "floor", UNTRAINED: "floor", INPUT: "floor", WRITTEN: "reference"},
        values=values,
    )
