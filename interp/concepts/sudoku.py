"""Sudoku concepts of an unwritten cell, computed from the board that is visible from it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int, Int8

from interp.concepts.base import Concept, Sites
from models.tasks.sudoku.board import N_CELLS, PEERS, UNITS, UNITS_OF
from models.tasks.sudoku.task import SOLUTION, SUDOKU

DIGITS = tuple(str(digit) for digit in range(1, 10))


def visible_cells(sites: Sites) -> tuple[Int8[np.ndarray, "row cell"], Int[np.ndarray, " row"]]:
    """Returns for each site the board visible from it (givens and written cells; 0 elsewhere) and its cell."""
    givens = sites.seen[:, :N_CELLS].numpy().astype(np.int8)
    written = SUDOKU.boards(sites.seen)
    return np.where(written > 0, written, givens), (sites.position - SOLUTION.start).numpy()


def unit_digits(boards: Int8[np.ndarray, "board cell"]) -> Bool[np.ndarray, "board unit digit"]:
    """Returns which digits each of the 27 units holds."""
    return (boards[:, UNITS][..., None] == np.arange(1, 10)).any(axis=2)


def candidate_sets(boards: Int8[np.ndarray, "board cell"]) -> Bool[np.ndarray, "board cell digit"]:
    """Returns the digits that no unit of an unwritten cell holds yet; none for a written cell."""
    held = unit_digits(boards)[:, UNITS_OF].any(axis=2)
    return ~held & (boards == 0)[:, :, None]


def hidden_single_units(candidates: Bool[np.ndarray, "board cell digit"]) -> Bool[np.ndarray, "board cell digit unit_kind"]:
    """Returns where a cell is the only place for a digit in its row, column, box (the last axis, in this order)."""
    places = candidates[:, UNITS].sum(axis=2)
    return (places[:, UNITS_OF] == 1).transpose(0, 1, 3, 2) & candidates[..., None]


def _of_cell(values: np.ndarray, cells: Int[np.ndarray, " row"]) -> np.ndarray:
    picked: np.ndarray = values[np.arange(len(cells)), cells]
    return picked


def _candidates(sites: Sites) -> Bool[np.ndarray, "row head"]:
    boards, cells = visible_cells(sites)
    return _of_cell(candidate_sets(boards), cells)


def _digit(sites: Sites) -> Bool[np.ndarray, "row head"]:
    true_token = sites.truth.gather(1, sites.position[:, None]).numpy()
    return true_token == np.arange(1, 10)


def _units(sites: Sites) -> Bool[np.ndarray, "row head"]:
    boards, cells = visible_cells(sites)
    held = unit_digits(boards)
    return held[np.arange(len(cells))[:, None], UNITS_OF[cells]].reshape(len(cells), -1)


def _technique(sites: Sites) -> Bool[np.ndarray, "row head"]:
    boards, cells = visible_cells(sites)
    candidates = candidate_sets(boards)
    naked = _of_cell(candidates, cells).sum(axis=1) == 1
    hidden = _of_cell(hidden_single_units(candidates), cells).any(axis=(1, 2))
    return np.stack([naked, hidden & ~naked], axis=1)


SUDOKU_CONCEPTS = (
    Concept("candidates", "sudoku", DIGITS, _candidates, "which digits no row, column or box of the cell holds yet"),
    Concept("digit", "sudoku", DIGITS, _digit, "the digit of the solution"),
    Concept(
        "units",
        "sudoku",
        tuple(f"{unit} holds {digit}" for unit in ("row", "column", "box") for digit in DIGITS),
        _units,
        "which digits the cell's row, column and box hold",
    ),
    Concept(
        "technique",
        "sudoku",
        ("naked single", "hidden single"),
        _technique,
        "what would justify writing the cell now: its only candidate, or (failing that) a unit's only place for a digit",
    ),
)


def peer_tokens(sites: Sites) -> Float[np.ndarray, "row feature"]:
    """Returns the visible digits of the cell's 20 peers, one-hot: what one layer of attention could look up without thinking."""
    boards, cells = visible_cells(sites)
    peers = boards[np.arange(len(cells))[:, None], PEERS[cells]]
    return (peers[..., None] == np.arange(10)).reshape(len(cells), -1).astype(np.float32)
