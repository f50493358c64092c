"""Boards with one solution, by the hardest technique they need, reproducible from a seed.

A full grid is drawn at random, then cells are emptied in random order for as long as the board stays on its
rung of the ladder, down to a number of givens drawn for that board. Emptying alone seldom gets below 24 givens: sparse
boards are found by walking from puzzle to puzzle, one given taken away and another put in its place. The ``train``
stream draws boards from even seeds and the ``test`` stream from odd ones, so whatever the seed of a run, no board is in
both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int8, UInt32
from numba import njit

from models.tasks.sudoku.board import N_CELLS, PuzzleError
from models.tasks.sudoku.eliminations import _fill_by_eliminations
from models.tasks.sudoku.solver import _fill_waves, _search

Rung = Literal["naked_singles", "hidden_singles", "eliminations", "guessing"]
Split = Literal["train", "test"]
RUNGS: tuple[Rung, ...] = get_args(Rung)
"""The ladder, easiest first: the hardest rule a board needs. ``eliminations`` are locked candidates, pairs, triples, X-wings,
swordfish and XY-wings; ``guessing`` is what none of these solves."""
GIVENS = (22, 37)
"""The fewest and most givens that a board aims at, unless told."""
REACHED_BY_EMPTYING = 28
"""Where a range of givens ends below this, its boards are searched for by walking."""
FEWEST_MOST: dict[Rung, int] = {"naked_singles": 23, "hidden_singles": 20, "eliminations": 20, "guessing": 20}
"""The lowest end of a range of givens that a walk reaches within a second or so."""
WALK_STEPS = 300
_COMPLETIONS = 100
"""A step that leaves so many completions of the board is not worth searching."""
_SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Puzzles:
    """Boards and their only solutions, both ``[board, cell]`` with 0 where a cell is empty."""

    givens: Int8[np.ndarray, "board cell"]
    solutions: Int8[np.ndarray, "board cell"]

    def __post_init__(self) -> None:
        if self.givens.shape != self.solutions.shape:
            raise ValueError(f"givens have shape {self.givens.shape} and solutions {self.solutions.shape}; they must agree")

    def __len__(self) -> int:
        return len(self.givens)

    def __getitem__(self, index: slice | np.ndarray) -> Puzzles:
        return Puzzles(self.givens[index], self.solutions[index])


@njit(cache=True)
def _stays_on_rung(board: np.ndarray, rung: int) -> bool:
    copy = board.copy()
    waves = np.zeros(N_CELLS, dtype=np.int8)
    if rung < 2:
        return bool(_fill_waves(copy, rung == 1, waves))
    return bool(_search(copy, 2, False, waves, None) == 1)


@njit(cache=True)
def _rung(board: np.ndarray) -> int:
    """Returns the rung, counted from 0, of a board that has one solution."""
    waves = np.zeros(N_CELLS, dtype=np.int8)
    for hidden in (False, True):
        if _fill_waves(board.copy(), hidden, waves):
            return int(hidden)
    return 2 if _fill_by_eliminations(board.copy()) else 3


@njit(cache=True)
def _empty(board: np.ndarray, rung: int, target: int) -> int:
    """Empties cells in random order while the board stays on its rung, down to ``target`` givens; returns how many are left."""
    left = 0
    for cell in range(N_CELLS):
        left += board[cell] > 0
    for cell in np.random.permutation(N_CELLS):
        if left == target:
            break
        digit = board[cell]
        if digit == 0:
            continue
        board[cell] = 0
        if _stays_on_rung(board, rung):
            left -= 1
        else:
            board[cell] = digit
    return left


@njit(cache=True)
def _exchange(board: np.ndarray, tally: np.ndarray) -> bool:
    """Takes a random given away and puts one in another cell that again leaves one solution; returns whether there is any."""
    cells = np.flatnonzero(board)
    taken = cells[np.random.randint(len(cells))]
    board[taken] = 0
    tally[:] = 0
    if _search(board.copy(), _COMPLETIONS, False, board.copy(), tally) == _COMPLETIONS:
        return False
    settling = 0
    chosen = 0
    for place in range(N_CELLS * 9):
        if tally[place // 9, place % 9] == 1 and place // 9 != taken:
            settling += 1
            if np.random.randint(settling) == 0:
                chosen = place
    board[chosen // 9] = chosen % 9 + 1
    return settling > 0


@njit(cache=True)
def _walk(givens: np.ndarray, rung: int, target: int, most: int) -> bool:
    """Exchanges givens, and empties what can be emptied, until ``target`` are left (or ``most``, late); returns whether they are."""
    tally = np.zeros((N_CELLS, 9), dtype=np.int64)
    for step in range(2 * WALK_STEPS):
        if np.count_nonzero(givens) <= (target if step < WALK_STEPS else most) and _rung(givens) == rung:
            return True
        board = givens.copy()
        if _exchange(board, tally) and _stays_on_rung(board, rung):
            _empty(board, rung, target)
            givens[:] = board
    return False


@njit(cache=True)
def _generate_one(seed: int, rung: int, fewest: int, most: int, givens: np.ndarray, solution: np.ndarray) -> None:
    np.random.seed(seed)
    while True:
        _search(np.zeros(N_CELLS, dtype=np.int8), 1, True, solution, None)
        givens[:] = solution
        target = np.random.randint(fewest, most + 1)
        left = _empty(givens, rung, target)
        if most < REACHED_BY_EMPTYING:
            if _walk(givens, rung, target, most):
                _search(givens.copy(), 1, False, solution, None)
                return
        elif left <= most and _rung(givens) == rung:
            return


def board_seeds(n: int, rung: Rung, *, seed: int, split: Split) -> UInt32[np.ndarray, " board"]:
    """Returns the seed of each of ``n`` boards: even ones in ``train``, odd ones in ``test``."""
    sequence = np.random.SeedSequence((seed, _SPLITS.index(split), RUNGS.index(rung)))
    return sequence.generate_state(n) & np.uint32(0xFFFFFFFE) | np.uint32(_SPLITS.index(split))


def generate(
    n: int,
    rung: Rung = "naked_singles",
    *,
    seed: int = 0,
    split: Split = "test",
    givens_range: tuple[int, int] = GIVENS,
) -> Puzzles:
    """Returns ``n`` puzzles whose hardest needed technique is ``rung``; the first ``m`` of them do not depend on ``n``.

    Args:
        n: How many.
        rung: One of ``RUNGS``.
        seed: Reproduces the same boards.
        split: ``train`` for learning, ``test`` for measuring: streams that share no board.
        givens_range: Each board draws the number of givens it aims at from here; one that cannot be emptied so far
            without leaving its rung keeps more, up to the upper end. Ranges that end below 28 take longer, up to a second a board.

    Raises:
        PuzzleError: On an unknown rung or split, naming the choices, or an impossible range of givens.
    """
    for value, choices in ((rung, RUNGS), (split, _SPLITS)):
        if value not in choices:
            raise PuzzleError(f"unknown {value!r}; choose from {', '.join(choices)}")
    fewest, most = givens_range
    if not 17 <= fewest <= most <= 80:
        raise PuzzleError(f"givens_range is {givens_range}; it must rise and lie within 17 to 80 (no puzzle has fewer than 17)")
    if most < FEWEST_MOST[rung]:
        raise PuzzleError(f"givens_range ends at {most}; for {rung} it must reach {FEWEST_MOST[rung]}: sparser boards are rare")
    givens = np.zeros((n, N_CELLS), dtype=np.int8)
    solutions = np.zeros((n, N_CELLS), dtype=np.int8)
    for index, board_seed in enumerate(board_seeds(n, rung, seed=seed, split=split)):
        _generate_one(int(board_seed), RUNGS.index(rung), fewest, most, givens[index], solutions[index])
    return Puzzles(givens, solutions)


def grade(board: Int8[np.ndarray, " cell"]) -> Rung:
    """Returns the rung of a board that has one solution."""
    return RUNGS[_rung(board.astype(np.int8))]
