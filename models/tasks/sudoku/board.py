"""The 9x9 board: cells, units, peers, and its one-line text form.

A board is 81 small integers in row-major order, 0 where a cell is empty. Cells are named ``r4c7``
(row 4, column 7, counted from 1), units ``row 4``, ``column 7`` and ``box 6``.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int8

N_CELLS = 81

_ROW, _COLUMN = np.divmod(np.arange(N_CELLS), 9)
_BOX = _ROW // 3 * 3 + _COLUMN // 3

UNITS_OF = np.stack([_ROW, 9 + _COLUMN, 18 + _BOX], axis=1)
"""``[cell, 3]``: the row (0-8), column (9-17) and box (18-26) that hold each cell."""

UNITS = np.stack([np.flatnonzero(np.equal(UNITS_OF, unit).any(axis=1)) for unit in range(27)])
"""``[unit, 9]``: the cells of each unit."""

_SHARES_UNIT = (UNITS_OF[:, None] == UNITS_OF[None]).any(axis=2) & ~np.eye(N_CELLS, dtype=bool)
PEERS = np.stack([np.flatnonzero(row) for row in _SHARES_UNIT])
"""``[cell, 20]``: the cells that share a unit with each cell."""


class PuzzleError(ValueError):
    """A text that is no puzzle, or a puzzle without exactly one solution."""


def cell_name(cell: int) -> str:
    """Returns the name of a cell, such as ``r4c7``."""
    return f"r{cell // 9 + 1}c{cell % 9 + 1}"


def unit_name(unit: int) -> str:
    """Returns the name of a unit, such as ``box 6``."""
    return f"{('row', 'column', 'box')[unit // 9]} {unit % 9 + 1}"


def parse_board(line: str) -> Int8[np.ndarray, " cell"]:
    """Returns the board written in ``line``: 81 characters, ``1``-``9``, and ``0`` or ``.`` for empty.

    Raises:
        PuzzleError: On another length (which is named) or another character (named with its place).
    """
    text = line.strip()
    for place, character in enumerate(text, start=1):
        if character not in ".0123456789":
            raise PuzzleError(
                f"character {place} of the puzzle is {character!r}; a puzzle has only the digits 1-9, and 0 or . where it is empty"
            )
    if len(text) != N_CELLS:
        raise PuzzleError(
            f"the puzzle has {len(text)} characters; a puzzle has exactly 81 (one a cell, row by row, 0 or . where it is empty)"
        )
    return np.array([0 if character == "." else int(character) for character in text], dtype=np.int8)


def format_board(board: Int8[np.ndarray, " cell"]) -> str:
    """Returns the board as 81 characters, ``.`` where it is empty."""
    return "".join("." if digit == 0 else str(digit) for digit in board)


def conflicts(boards: Int8[np.ndarray, "board cell"]) -> Bool[np.ndarray, "board cell"]:
    """Returns which written cells repeat a digit of one of their peers."""
    same = boards[:, :, None] == boards[:, PEERS]
    return same.any(axis=2) & (boards > 0)
