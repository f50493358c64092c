"""Boards with a known number of solutions, reproducible from a seed.

A full grid is drawn at random and emptied in random order, never beyond the number of solutions that is asked for, until it has just that
many. A cell that holds one digit in all of them can be given again without a solution lost: so boards are made as easy as one likes.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from models.tasks.sudoku.board import N_CELLS, PuzzleError
from models.tasks.sudoku.generator import Puzzles
from models.tasks.sudoku.solver import _search

MOST_SOLUTIONS = 256
GIVENS = 60


@njit(cache=True)
def _emptied(board: np.ndarray, solutions: int, most: int) -> bool:
    """Empties cells in random order down to ``most`` givens and just so many solutions; returns whether that was reached."""
    left = N_CELLS
    first = np.zeros(N_CELLS, dtype=np.int8)
    for cell in np.random.permutation(N_CELLS):
        digit = board[cell]
        board[cell] = 0
        count = _search(board.copy(), solutions + 1, False, first, None)
        if count > solutions:
            board[cell] = digit
            continue
        left -= 1
        if count == solutions and left <= most:
            return True
    return False


@njit(cache=True)
def _refill(board: np.ndarray, solution: np.ndarray, solutions: int, target: int) -> None:
    """Gives random cells again that hold one digit in every solution, up to ``target`` givens or as far as there are any."""
    tally = np.zeros((N_CELLS, 9), dtype=np.int64)
    first = np.zeros(N_CELLS, dtype=np.int8)
    _search(board.copy(), solutions + 1, False, first, tally)
    left = np.count_nonzero(board)
    for cell in np.random.permutation(N_CELLS):
        if left >= target:
            return
        if board[cell] == 0 and tally[cell, solution[cell] - 1] == solutions:
            board[cell] = solution[cell]
            left += 1


@njit(cache=True)
def _generate_one(seed: int, solutions: int, target: int, givens: np.ndarray, solution: np.ndarray) -> None:
    np.random.seed(seed)
    while True:
        _search(np.zeros(N_CELLS, dtype=np.int8), 1, True, solution, None)
        givens[:] = solution
        if _emptied(givens, solutions, target):
            _refill(givens, solution, solutions, target)
            return


def many_solved(n: int, solutions: int, *, seed: int = 0, givens: int = GIVENS) -> Puzzles:
    """Returns ``n`` boards with exactly so many solutions each, and one of them; the first ``m`` do not depend on ``n``.

    Their seeds are odd like those of the test stream (see ``generator.board_seeds``).

    Args:
        n: How many.
        solutions: Of every board, from 2 to ``MOST_SOLUTIONS``.
        seed: Reproduces the same boards.
        givens: How many a board has; fewer where more would cost a solution.

    Raises:
        PuzzleError: On a number of solutions or givens that cannot be had.
    """
    if not 2 <= solutions <= MOST_SOLUTIONS:
        raise PuzzleError(f"solutions is {solutions}; a board here has 2 to {MOST_SOLUTIONS}")
    if not 30 <= givens <= 77:
        raise PuzzleError(f"givens is {givens}; it must lie within 30 to 77 (with two solutions, four cells differ at least)")
    boards, answers = (np.zeros((n, N_CELLS), dtype=np.int8) for _ in range(2))
    seeds = np.random.SeedSequence((seed, solutions, givens)).generate_state(n) | np.uint32(1)
    for index, board_seed in enumerate(seeds):
        _generate_one(int(board_seed), solutions, givens, boards[index], answers[index])
    return Puzzles(boards, answers)
