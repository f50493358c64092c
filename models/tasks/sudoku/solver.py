"""Exact solving, and the parallel waves in which singles fill a board.

The search branches on whatever has the fewest choices, a cell's digits or a unit's places for a digit, so
naked and hidden singles are never guessed. Compiled by numba: a board takes some tens of microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int8
from numba import njit

from models.tasks.sudoku.board import N_CELLS, PEERS, UNITS, UNITS_OF, PuzzleError, cell_name, conflicts


@dataclass(frozen=True)
class Solutions:
    """What a search found. ``count`` stops at the limit it was given; ``first`` is a board if ``count`` > 0."""

    count: int
    first: Int8[np.ndarray, " cell"] | None


@njit(cache=True)
def _popcount(bits: int) -> int:
    count = 0
    while bits:
        bits &= bits - 1
        count += 1
    return count


@njit(cache=True)
def _candidates(board: np.ndarray, used: np.ndarray, cell: int) -> int:
    """Returns the candidate digits of a cell as bits; 0 for a written cell."""
    if board[cell] > 0:
        return 0
    units = UNITS_OF[cell]
    return int(0x1FF & ~(used[units[0]] | used[units[1]] | used[units[2]]))


@njit(cache=True)
def _used_digits(board: np.ndarray) -> np.ndarray:
    """Returns for each unit the digits it holds, as bits."""
    used = np.zeros(27, dtype=np.int64)
    for cell in range(N_CELLS):
        if board[cell] > 0:
            for unit in UNITS_OF[cell]:
                used[unit] |= 1 << (board[cell] - 1)
    return used


@njit(cache=True)
def _places(unit: int, candidates: np.ndarray) -> tuple[int, int, int]:
    """Returns how many places a unit has for each digit: bits 0, 1 and 2 of nine counts, one bit a digit, where 7 stands for 7 or more."""
    low, middle, high = 0, 0, 0
    for cell in UNITS[unit]:
        bits = candidates[cell]
        full = low & middle & high
        carry = low & bits
        low ^= bits
        carried = middle & carry
        middle ^= carry
        high ^= carried
        low, middle, high = low | full, middle | full, high | full
    return low, middle, high


@njit(cache=True)
def _best_branch(board: np.ndarray, used: np.ndarray, cells: np.ndarray, digits: np.ndarray) -> int:
    """Writes the (cell, digit) choices of the smallest branching into ``cells, digits``; returns how many, -1 if full."""
    best = 10
    empty = False
    candidates = np.zeros(N_CELLS, dtype=np.int64)
    for cell in range(N_CELLS):
        if board[cell] > 0:
            continue
        empty = True
        bits = _candidates(board, used, cell)
        candidates[cell] = bits
        size = _popcount(bits)
        if size < best:
            best = size
            place = 0
            for digit in range(9):
                if bits >> digit & 1:
                    cells[place], digits[place] = cell, digit + 1
                    place += 1
            if best <= 1:
                return best
    if not empty:
        return -1
    for unit in range(27):
        low, middle, high = _places(unit, candidates)
        missing = 0x1FF & ~used[unit]
        few = missing & ~middle & ~high
        for size in range(2, min(best, 7)):
            if few:
                break
            few = missing & ~((low ^ (-(size & 1))) | (middle ^ (-(size >> 1 & 1))) | (high ^ (-(size >> 2 & 1))))
        if not few:
            continue
        digit = 0
        while not few >> digit & 1:
            digit += 1
        best = 0
        for cell in UNITS[unit]:
            if candidates[cell] >> digit & 1:
                cells[best], digits[best] = cell, digit + 1
                best += 1
        if best <= 1:
            return best
    return best


@njit(cache=True)
def _search(board: np.ndarray, limit: int, shuffle: bool, first: np.ndarray, tally: np.ndarray | None) -> int:
    """Counts completions of ``board`` up to ``limit``, depth-first with its own stack.

    Leaves the first in ``first``, and adds to ``tally[cell, digit]``, unless it is None, how many hold a digit in a cell.
    """
    used = _used_digits(board)
    stack_cells = np.zeros((82, 9), dtype=np.int64)
    stack_digits = np.zeros((82, 9), dtype=np.int64)
    size = np.zeros(82, dtype=np.int64)
    tried = np.zeros(82, dtype=np.int64)
    depth, found, fresh = 0, 0, True
    while depth >= 0:
        if fresh:
            size[depth] = _best_branch(board, used, stack_cells[depth], stack_digits[depth])
            tried[depth] = 0
            if size[depth] == -1:
                if found == 0:
                    first[:] = board
                found += 1
                if tally is not None:
                    for cell in range(N_CELLS):
                        tally[cell, board[cell] - 1] += 1
                if found == limit:
                    return found
                size[depth] = 0
            elif shuffle:
                for last in range(size[depth] - 1, 0, -1):
                    other = np.random.randint(0, last + 1)
                    a, b = stack_cells[depth, last], stack_digits[depth, last]
                    stack_cells[depth, last], stack_digits[depth, last] = stack_cells[depth, other], stack_digits[depth, other]
                    stack_cells[depth, other], stack_digits[depth, other] = a, b
        if tried[depth] > 0:
            cell, digit = stack_cells[depth, tried[depth] - 1], stack_digits[depth, tried[depth] - 1]
            board[cell] = 0
            for unit in UNITS_OF[cell]:
                used[unit] &= ~(1 << (digit - 1))
        if tried[depth] == size[depth]:
            depth -= 1
            fresh = False
            continue
        cell, digit = stack_cells[depth, tried[depth]], stack_digits[depth, tried[depth]]
        tried[depth] += 1
        board[cell] = digit
        for unit in UNITS_OF[cell]:
            used[unit] |= 1 << (digit - 1)
        depth += 1
        fresh = True
    return found


@njit(cache=True)
def _fill_waves(board: np.ndarray, hidden: bool, waves: np.ndarray) -> bool:
    """Fills ``board`` in parallel waves of singles, in place; returns whether it became full."""
    used = _used_digits(board)
    cells = np.zeros(N_CELLS, dtype=np.int64)
    digits = np.zeros(N_CELLS, dtype=np.int64)
    for wave in range(1, N_CELLS + 1):
        found = 0
        left = 0
        for cell in range(N_CELLS):
            if board[cell] > 0:
                continue
            left += 1
            bits = _candidates(board, used, cell)
            single = bits if _popcount(bits) == 1 else 0
            if hidden and single == 0:
                for unit in UNITS_OF[cell]:
                    others = 0
                    for other in UNITS[unit]:
                        if other != cell:
                            others |= _candidates(board, used, other)
                    alone = bits & ~others
                    if _popcount(alone) == 1:
                        single = alone
                        break
            if single:
                cells[found] = cell
                digit = 1
                while not single & 1:
                    single >>= 1
                    digit += 1
                digits[found] = digit
                found += 1
        if left == 0:
            return True
        if found == 0:
            return False
        for index in range(found):
            board[cells[index]] = digits[index]
            waves[cells[index]] = wave
            for unit in UNITS_OF[cells[index]]:
                used[unit] |= 1 << (digits[index] - 1)
    return False


def search(board: Int8[np.ndarray, " cell"], limit: int = 2) -> Solutions:
    """Returns how many completions a board has, counted up to ``limit``, and the first of them."""
    if conflicts(board[None])[0].any():
        return Solutions(0, None)
    first = np.zeros(N_CELLS, dtype=np.int8)
    count = _search(board.astype(np.int8), limit, False, first, None)
    return Solutions(count, first if count else None)


def solve(board: Int8[np.ndarray, " cell"]) -> Int8[np.ndarray, " cell"]:
    """Returns the only completion of a board.

    Raises:
        PuzzleError: Where no completion exists (naming two cells that clash, if any do) or more than one.
    """
    clash = conflicts(board[None])[0]
    if clash.any():
        cell = int(np.flatnonzero(clash)[0])
        peer = next(int(peer) for peer in PEERS[cell] if board[peer] == board[cell])
        raise PuzzleError(f"impossible board: {cell_name(cell)} and {cell_name(peer)} both hold {board[cell]} in one unit")
    found = search(board)
    if found.first is None:
        raise PuzzleError("impossible board: no way of filling the empty cells keeps the rules")
    if found.count > 1:
        raise PuzzleError("the board has more than one solution; a puzzle has exactly one (add givens)")
    return found.first


def single_waves(board: Int8[np.ndarray, " cell"], *, hidden: bool) -> Int8[np.ndarray, " cell"]:
    """Returns for each cell the parallel wave in which singles fill it: 0 for a given, -1 where they never do.

    In each wave every cell whose digit follows at once (its only candidate or, with ``hidden``, also a unit's only
    place for a digit) is written together. The count of waves measures how deep the deduction is.
    """
    waves = np.where(board > 0, 0, -1).astype(np.int8)
    _fill_waves(board.astype(np.int8), hidden, waves)
    return waves
