"""Sudoku concepts of a cell or of the whole board, computed from the board that is visible from the site.

What is asked of a cell that is already written is asked as if it were unwritten: its candidates are what its peers leave it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int, Int8, Int16

from interp.concepts.base import Concept, ConceptError, Kind, Sites
from models.tasks.sudoku.board import N_CELLS, PEERS, UNITS, UNITS_OF, cell_name
from models.tasks.sudoku.generator import RUNGS, grade
from models.tasks.sudoku.solver import single_waves
from models.tasks.sudoku.task import MASK_ID, SOLUTION, SUDOKU

DIGITS = tuple(str(digit) for digit in range(1, 10))
UNIT_KINDS = ("row", "column", "box")
CACHED_BOARDS = 50_000
_BITS = np.array([0, *(1 << digit for digit in range(9))], dtype=np.int16)
"""A digit as a bit; 0 for an unwritten cell."""
_ANY_DIGIT = np.int16(0x1FF)


def visible_boards(sites: Sites) -> Int8[np.ndarray, "row cell"]:
    """Returns for each site the board visible from it: givens and written cells; 0 elsewhere."""
    givens = sites.seen[:, :N_CELLS].numpy().astype(np.int8)
    written = SUDOKU.boards(sites.seen)
    return np.where(written > 0, written, givens)


def cells_of(sites: Sites) -> Int[np.ndarray, " row"]:
    """Returns the cell of each site.

    Raises:
        ConceptError: Naming the position, where one lies outside the answer and so is no cell.
    """
    position = sites.position.numpy()
    outside = (position < SOLUTION.start) | (position >= SOLUTION.stop)
    if outside.any():
        raise ConceptError(
            f"position {position[outside][0]} is no cell of the answer; "
            f"a cell's concept is asked at positions {SOLUTION.start} to {SOLUTION.stop - 1}"
        )
    return position - SOLUTION.start


def visible_cells(sites: Sites) -> tuple[Int8[np.ndarray, "row cell"], Int[np.ndarray, " row"]]:
    """Returns for each site the board visible from it and its cell."""
    return visible_boards(sites), cells_of(sites)


def _emptied(sites: Sites) -> tuple[Int8[np.ndarray, "row cell"], Int[np.ndarray, " row"]]:
    """Returns for each site the board visible from it, its own cell unwritten, and that cell."""
    boards, cells = visible_cells(sites)
    boards[np.arange(len(cells)), cells] = 0
    return boards, cells


def _held(boards: Int8[np.ndarray, "board cell"]) -> Int16[np.ndarray, "board unit"]:
    """Returns the digits that each of the 27 units holds, as bits."""
    held: np.ndarray = np.bitwise_or.reduce(_BITS[boards][:, UNITS], axis=2)
    return held


def _candidate_bits(boards: Int8[np.ndarray, "board cell"]) -> Int16[np.ndarray, "board cell"]:
    """Returns the digits that no unit of an unwritten cell holds, as bits; none for a written cell."""
    held = _held(boards)
    row, column, box = (held[:, UNITS_OF[:, kind]] for kind in range(3))
    free: np.ndarray = np.where(boards == 0, _ANY_DIGIT & ~(row | column | box), 0).astype(np.int16)
    return free


def _digits(bits: Int16[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape digit"]:
    """Returns bits as nine truths each."""
    return (bits[..., None] & _BITS[1:]) > 0


def candidate_sets(boards: Int8[np.ndarray, "board cell"]) -> Bool[np.ndarray, "board cell digit"]:
    """Returns the digits that no unit of an unwritten cell holds yet; none for a written cell."""
    return _digits(_candidate_bits(boards))


def _left_by_peers(sites: Sites) -> Bool[np.ndarray, "row digit"]:
    """Returns the digits that no peer of each site's cell holds."""
    boards, cells = visible_cells(sites)
    held = np.bitwise_or.reduce(_BITS[boards[np.arange(len(cells))[:, None], PEERS[cells]]], axis=1)
    return _digits((_ANY_DIGIT & ~held).astype(np.int16))


def _true_digit(sites: Sites) -> Bool[np.ndarray, "row head"]:
    cells = cells_of(sites)
    return sites.truth.numpy()[np.arange(len(cells)), SOLUTION.start + cells][:, None] == np.arange(1, 10)


def _units(sites: Sites) -> Bool[np.ndarray, "row head"]:
    boards, cells = visible_cells(sites)
    return _digits(_held(boards)[np.arange(len(cells))[:, None], UNITS_OF[cells]]).reshape(len(cells), -1)


def _technique(sites: Sites) -> Bool[np.ndarray, "row head"]:
    boards, cells = _emptied(sites)
    row, bits = np.arange(len(cells)), _candidate_bits(boards)
    own, unit_cells = bits[row, cells], UNITS[UNITS_OF[cells]]
    neighbours = np.where(unit_cells == cells[:, None, None], 0, bits[row[:, None, None], unit_cells])
    alone = own[:, None] & ~np.bitwise_or.reduce(neighbours, axis=2)
    naked = (own > 0) & (own & (own - 1) == 0)
    return np.stack([naked, alone.any(axis=1) & ~naked], axis=1)


def _conflict(sites: Sites) -> Bool[np.ndarray, "row head"]:
    boards, cells = visible_cells(sites)
    digits = np.sort(boards[np.arange(len(cells))[:, None, None], UNITS[UNITS_OF[cells]]], axis=2)
    return ((digits[..., 1:] == digits[..., :-1]) & (digits[..., 1:] > 0)).any(axis=2)


def _n_candidates(sites: Sites) -> Bool[np.ndarray, "row head"]:
    return np.clip(_left_by_peers(sites).sum(axis=1), 1, 4)[:, None] == np.arange(1, 5)


@lru_cache(CACHED_BOARDS)
def _waves(board: bytes) -> Int8[np.ndarray, " cell"]:
    return single_waves(np.frombuffer(board, dtype=np.int8), hidden=True)


def _depth(sites: Sites) -> Bool[np.ndarray, "row head"]:
    boards, cells = _emptied(sites)
    waves = np.array([_waves(board.tobytes())[cell] for board, cell in zip(boards, cells, strict=True)], dtype=np.int8)
    return np.where(waves < 0, 4, np.minimum(waves, 3))[:, None] == np.arange(1, 5)


@lru_cache(CACHED_BOARDS)
def _rung(givens: bytes) -> int:
    return RUNGS.index(grade(np.frombuffer(givens, dtype=np.int8)))


def _difficulty(sites: Sites) -> Bool[np.ndarray, "row head"]:
    givens = sites.seen[:, :N_CELLS].numpy().astype(np.int8)
    return np.array([_rung(board.tobytes()) for board in givens])[:, None] == np.arange(len(RUNGS))


def _board_candidates(sites: Sites) -> Bool[np.ndarray, "row head"]:
    return candidate_sets(visible_boards(sites)).reshape(len(sites), -1)


def _next(sites: Sites) -> Bool[np.ndarray, "row head"]:
    return sites.next.numpy()[:, None]


def _wrong(sites: Sites) -> Bool[np.ndarray, "row head"]:
    cells_of(sites)
    row, position = np.arange(len(sites)), sites.position.numpy()
    token, kind = sites.seen.numpy()[row, position], sites.kind.numpy()
    undefined = ~np.isin(kind, (Kind.COMMITTED, Kind.SETTLED)) | (token == MASK_ID)
    if undefined.any():
        first = int(undefined.argmax())
        raise ConceptError(
            f"position {position[first]} ({Kind(int(kind[first])).name.lower()}) holds no written digit; "
            "whether one is wrong is asked where it is committed or settled, and visible"
        )
    return (token != sites.truth.numpy()[row, position])[:, None]


def peer_tokens(sites: Sites) -> Float[np.ndarray, "row feature"]:
    """Returns the visible digits of the cell and its 20 peers, one-hot: what one layer of attention could look up without thinking."""
    boards, cells = visible_cells(sites)
    near = boards[np.arange(len(cells))[:, None], np.concatenate([cells[:, None], PEERS[cells]], axis=1)]
    return (near[..., None] == np.arange(10)).reshape(len(cells), -1).astype(np.float32)


def rule_breaks(sites: Sites) -> Float[np.ndarray, "row feature"]:
    """Returns ``peer_tokens``, which of the cell's units show its digit again, and how many digits its peers leave it, one-hot.

    That is what the rules say of a written digit at one glance, spelled out, since no linear reader can compare two cells itself.
    """
    boards, cells = visible_cells(sites)
    own = boards[np.arange(len(cells)), cells]
    again = (boards[np.arange(len(cells))[:, None, None], UNITS[UNITS_OF[cells]]] == own[:, None, None]).sum(axis=2) > 1
    left = _left_by_peers(sites).sum(axis=1)[:, None] == np.arange(10)
    return np.concatenate([peer_tokens(sites), again & (own > 0)[:, None], left], axis=1).astype(np.float32)


def board_tokens(sites: Sites) -> Float[np.ndarray, "row feature"]:
    """Returns the visible digits of all 81 cells, one-hot: what is given to a reader of concepts of the whole board."""
    return (visible_boards(sites)[..., None] == np.arange(10)).reshape(len(sites), -1).astype(np.float32)


SUDOKU_CONCEPTS = (
    Concept("candidates", "sudoku", DIGITS, _left_by_peers, "which digits no other cell of the cell's row, column and box holds yet"),
    Concept("digit", "sudoku", DIGITS, _true_digit, "the digit of the solution", exclusive=True),
    Concept(
        "units",
        "sudoku",
        tuple(f"{unit} holds {digit}" for unit in UNIT_KINDS for digit in DIGITS),
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
    Concept(
        "n_candidates",
        "sudoku",
        ("at most 1", "2", "3", "4 or more"),
        _n_candidates,
        "how many candidates the cell has (none only where the board contradicts itself)",
        exclusive=True,
    ),
    Concept(
        "depth",
        "sudoku",
        ("1", "2", "3 or more", "not by singles"),
        _depth,
        "in which wave naked and hidden singles fill the cell, if all of a wave are written together",
        exclusive=True,
    ),
    Concept("conflict", "sudoku", UNIT_KINDS, _conflict, "which of the cell's units show some digit twice", by_default=False),
    Concept(
        "difficulty",
        "sudoku",
        RUNGS,
        _difficulty,
        "the hardest rule that the puzzle needs, from its givens alone",
        exclusive=True,
        features=board_tokens,
    ),
    Concept(
        "board_candidates",
        "sudoku",
        tuple(f"{cell_name(cell)}={digit}" for cell in range(N_CELLS) for digit in DIGITS),
        _board_candidates,
        "the candidates of every unwritten cell of the visible board, from wherever it is read; none of a written cell",
        features=board_tokens,
        by_default=False,
    ),
    Concept(
        "wrong",
        "sudoku",
        ("wrong",),
        _wrong,
        "whether the digit written in the cell is not the solution's; only where one is written",
        features=rule_breaks,
        by_default=False,
    ),
    Concept("next", "sudoku", ("written by this call",), _next, "whether the call that reads it writes the position", of_a_run=True),
)
