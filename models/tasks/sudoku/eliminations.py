"""Deduction beyond singles, with no guess: locked candidates, pairs and triples, X-wings and swordfish, XY-wings.

Pairs, triples, X-wings and swordfish are one rule read in three directions: if ``k`` things have only ``k`` places among
them, no other thing goes there. Things and places are cells and digits (naked subsets), digits and cells (hidden subsets),
or a digit's rows and columns (X-wing for two, swordfish for three).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int8
from numba import njit

from models.tasks.sudoku.board import N_CELLS, PEERS, UNITS
from models.tasks.sudoku.solver import _candidates, _fill_waves, _popcount, _used_digits

_CROSSINGS = [(a, b) for a in range(27) for b in range(27) if a != b and len(np.intersect1d(UNITS[a], UNITS[b])) == 3]
_SHARED = np.stack([np.intersect1d(UNITS[a], UNITS[b]) for a, b in _CROSSINGS])
"""``[crossing, 3]``: the cells that a box shares with a line; each pair of units occurs in both orders."""
_ONLY_FIRST = np.stack([np.setdiff1d(UNITS[a], UNITS[b]) for a, b in _CROSSINGS])
_ONLY_SECOND = np.stack([np.setdiff1d(UNITS[b], UNITS[a]) for a, b in _CROSSINGS])


@njit(cache=True)
def _all_candidates(board: np.ndarray) -> np.ndarray:
    used = _used_digits(board)
    bits = np.zeros(N_CELLS, dtype=np.int64)
    for cell in range(N_CELLS):
        bits[cell] = _candidates(board, used, cell)
    return bits


@njit(cache=True)
def _lock(bits: np.ndarray) -> bool:
    """Removes digits that a unit must place where it crosses another from the rest of that other; returns whether any went."""
    changed = False
    for crossing in range(len(_SHARED)):
        inside = bits[_SHARED[crossing, 0]] | bits[_SHARED[crossing, 1]] | bits[_SHARED[crossing, 2]]
        for cell in _ONLY_FIRST[crossing]:
            inside &= ~bits[cell]
        for cell in _ONLY_SECOND[crossing]:
            if bits[cell] & inside:
                bits[cell] &= ~inside
                changed = True
    return changed


@njit(cache=True)
def _reduce(places: np.ndarray) -> bool:
    """Applies the rule of ``k`` things in ``k`` places to ``places[thing]`` (bits), for k of 2 and 3, in place."""
    changed = False
    for a in range(9):
        for b in range(a + 1, 9):
            for c in range(b, 9):
                size = 2 if c == b else 3
                if places[a] == 0 or places[b] == 0 or places[c] == 0:
                    continue
                union = places[a] | places[b] | places[c]
                if _popcount(union) != size:
                    continue
                for other in range(9):
                    if other not in (a, b, c) and places[other] & union:
                        places[other] &= ~union
                        changed = True
    return changed


@njit(cache=True)
def _transposed(places: np.ndarray) -> np.ndarray:
    result = np.zeros(9, dtype=np.int64)
    for thing in range(9):
        for place in range(9):
            if places[thing] >> place & 1:
                result[place] |= 1 << thing
    return result


@njit(cache=True)
def _subsets(bits: np.ndarray) -> bool:
    """Naked and hidden pairs and triples, in every unit."""
    changed = False
    for unit in range(27):
        cells = UNITS[unit]
        by_cell = bits[cells]
        found = _reduce(by_cell)
        by_digit = _transposed(by_cell)
        if _reduce(by_digit):
            found = True
            by_cell = _transposed(by_digit)
        if found:
            bits[cells] = by_cell
            changed = True
    return changed


@njit(cache=True)
def _fish(bits: np.ndarray) -> bool:
    """X-wings and swordfish, of every digit, over rows and over columns."""
    changed = False
    for digit in range(9):
        rows = np.zeros(9, dtype=np.int64)
        for cell in range(N_CELLS):
            if bits[cell] >> digit & 1:
                rows[cell // 9] |= 1 << cell % 9
        found = _reduce(rows)
        columns = _transposed(rows)
        if _reduce(columns):
            found = True
            rows = _transposed(columns)
        if found:
            changed = True
            for cell in range(N_CELLS):
                if not rows[cell // 9] >> cell % 9 & 1:
                    bits[cell] &= ~(1 << digit)
    return changed


@njit(cache=True)
def _xy_wing(bits: np.ndarray) -> bool:
    """A cell of two digits and two of its peers, which share one digit each with it: whichever it is, one of them holds the third."""
    changed = False
    for pivot in range(N_CELLS):
        if _popcount(bits[pivot]) != 2:
            continue
        for first in PEERS[pivot]:
            if _popcount(bits[first]) != 2 or _popcount(bits[first] & bits[pivot]) != 1:
                continue
            third = bits[first] & ~bits[pivot]
            other_wing = bits[pivot] & ~bits[first] | third
            for second in PEERS[pivot]:
                if second <= first or bits[second] != other_wing:
                    continue
                for cell in PEERS[first]:
                    if bits[cell] & third and cell != pivot and cell != second and (PEERS[second] == cell).any():
                        bits[cell] &= ~third
                        changed = True
    return changed


@njit(cache=True)
def _write_singles(board: np.ndarray, bits: np.ndarray) -> bool:
    """Writes one wave of naked and hidden singles of the candidates ``bits`` into ``board``; returns whether any was there."""
    found = False
    for cell in range(N_CELLS):
        single = bits[cell]
        if _popcount(single) != 1:
            continue
        digit = 0
        while not single >> digit & 1:
            digit += 1
        board[cell] = digit + 1
        bits[cell] = 0
        for peer in PEERS[cell]:
            bits[peer] &= ~single
        found = True
    for unit in range(27):
        cells = UNITS[unit]
        by_digit = _transposed(bits[cells])
        for digit in range(9):
            if _popcount(by_digit[digit]) == 1:
                place = 0
                while not by_digit[digit] >> place & 1:
                    place += 1
                bits[cells[place]] = 1 << digit
                found = True
    return found


@njit(cache=True)
def _fill_by_eliminations(board: np.ndarray) -> bool:
    """Fills ``board`` as far as deduction goes, in place, the easiest rule first; returns whether it became full."""
    if _fill_waves(board, True, np.zeros(N_CELLS, dtype=np.int8)):
        return True
    bits = _all_candidates(board)
    while _write_singles(board, bits) or _lock(bits) or _subsets(bits) or _fish(bits) or _xy_wing(bits):
        pass
    return bool((board > 0).all())


def fill_by_eliminations(board: Int8[np.ndarray, " cell"]) -> Int8[np.ndarray, " cell"]:
    """Returns the board filled as far as singles and eliminations go, 0 where they do not settle a cell."""
    filled = board.astype(np.int8)
    _fill_by_eliminations(filled)
    return filled
