"""The symmetries of sudoku: 9! relabellings x 2 transpositions x 6^8 row and column permutations.

Each maps a puzzle to a puzzle and its solution to that puzzle's solution (Russell and Jarvis, 2006), so each is
an exact augmentation, and a relabelling is an exact paraphrase.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int8


@dataclass(frozen=True)
class Symmetries:
    """One symmetry a board: ``digits[b, d]`` is what d becomes, ``cells[b, i]`` where the new cell i was before."""

    digits: Int8[np.ndarray, "board 10"]
    cells: Int[np.ndarray, "board cell"]

    def apply(self, boards: Int8[np.ndarray, "board cell"]) -> Int8[np.ndarray, "board cell"]:
        """Returns the transformed boards; empty cells stay empty."""
        moved = np.take_along_axis(boards, self.cells, axis=1)
        return np.take_along_axis(self.digits, moved.astype(np.int64), axis=1)


def _shuffled(rng: np.random.Generator, n: int, size: int) -> Int[np.ndarray, "n size"]:
    return rng.random((n, size)).argsort(axis=1)


def _line_order(rng: np.random.Generator, n: int) -> Int[np.ndarray, "n 9"]:
    """Returns orders of nine lines that keep the three bands together."""
    bands = _shuffled(rng, n, 3)
    within = np.stack([_shuffled(rng, n, 3) for _ in range(3)], axis=1)
    return (bands[:, :, None] * 3 + within).reshape(n, 9)


def random_relabellings(rng: np.random.Generator, n: int) -> Symmetries:
    """Returns ``n`` uniform relabellings of the digits that leave every cell where it is."""
    zeros = np.zeros((n, 1), dtype=np.int8)
    digits = np.concatenate([zeros, (_shuffled(rng, n, 9) + 1).astype(np.int8)], axis=1)
    return Symmetries(digits, np.tile(np.arange(81), (n, 1)))


def random_symmetries(rng: np.random.Generator, n: int) -> Symmetries:
    """Returns ``n`` uniform draws from the whole group."""
    rows, columns = _line_order(rng, n), _line_order(rng, n)
    cells = rows[:, :, None] * 9 + columns[:, None, :]
    transpose = rng.random(n) < 0.5
    cells = np.where(transpose[:, None, None], cells.transpose(0, 2, 1), cells).reshape(n, 81)
    return Symmetries(random_relabellings(rng, n).digits, cells)
