"""Eliminations by name, on any grid of candidates: what was set aside, where, and what it rests on.

A grid is ``[cell, digit]``, true where a digit is still possible in an unwritten cell; it need not be that of a board, and may contradict
itself. Where `eliminations` fills boards as fast as it can, here each step is a value that can be told, and checked on another grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from models.tasks.sudoku.board import N_CELLS, UNITS, UNITS_OF, unit_name

Grid = Bool[np.ndarray, "cell digit"]
Technique = Literal["locked", "naked", "hidden"]

_BIT = 1 << np.arange(9)
_COUNT = np.array([bits.bit_count() for bits in range(512)])
_SUBSETS = [subset for size in (2, 3) for subset in combinations(range(9), size)]
_MEMBERS = np.array([sum(1 << thing for thing in subset) for subset in _SUBSETS])
_SIZES = np.array([len(subset) for subset in _SUBSETS])
_IN_SUBSET = (_MEMBERS[:, None] & _BIT) > 0
_CROSSINGS = [(a, b) for a in range(27) for b in range(27) if a != b and len(np.intersect1d(UNITS[a], UNITS[b])) == 3]
_SHARED = np.stack([np.intersect1d(UNITS[a], UNITS[b]) for a, b in _CROSSINGS])
_FIRST = np.stack([np.setdiff1d(UNITS[a], UNITS[b]) for a, b in _CROSSINGS])
_SECOND = np.stack([np.setdiff1d(UNITS[b], UNITS[a]) for a, b in _CROSSINGS])


@dataclass(frozen=True)
class Elimination:
    """Digits that must stand in certain cells of a unit, so that other candidates go."""

    technique: Technique
    """``locked``: a unit's places for one digit all lie in another unit too. ``naked``: k cells of a unit hold k digits between them.
    ``hidden``: k digits of a unit have k places between them."""
    unit: int
    digits: tuple[int, ...]
    cells: tuple[int, ...]
    """Where the digits must stand; for ``locked`` the three cells that both units share."""
    clears: int
    """The unit that loses the digits outside ``cells``; for ``hidden``, where ``cells`` lose all other digits, the unit itself."""

    def __str__(self) -> str:
        digits = ", ".join(map(str, self.digits))
        if self.technique == "locked":
            return f"{digits} of {unit_name(self.unit)} locked in {unit_name(self.clears)}"
        size = {2: "pair", 3: "triple"}[len(self.digits)]
        return f"{'hidden ' if self.technique == 'hidden' else ''}{size} {digits} in {unit_name(self.unit)}"

    def rests_on(self) -> Grid:
        """Returns the candidates that must be absent for it to hold."""
        grid = np.zeros((N_CELLS, 9), dtype=bool)
        digits = np.array(self.digits) - 1
        if self.technique == "naked":
            grid[list(self.cells)] = True
            grid[np.ix_(np.array(self.cells), digits)] = False
        else:
            grid[np.ix_(np.setdiff1d(UNITS[self.unit], self.cells), digits)] = True
        return grid

    def removes(self) -> Grid:
        """Returns the candidates that it excludes."""
        grid = np.zeros((N_CELLS, 9), dtype=bool)
        digits = np.array(self.digits) - 1
        if self.technique == "hidden":
            grid[list(self.cells)] = True
            grid[np.ix_(np.array(self.cells), digits)] = False
        else:
            grid[np.ix_(np.setdiff1d(UNITS[self.clears], self.cells), digits)] = True
        return grid

    def holds(self, grid: Grid) -> bool:
        """Returns whether the pattern is there: nothing that it rests on is a candidate, and each digit and cell takes part."""
        part = grid[np.ix_(np.array(self.cells), np.array(self.digits) - 1)]
        each = part.any() if self.technique == "locked" else part.any(axis=0).all() and part.any(axis=1).all()
        return bool(each and not (grid & self.rests_on()).any())


def _locked(grid: Grid) -> list[Elimination]:
    inside, outside, cleared = (grid[cells].any(axis=1) for cells in (_SHARED, _FIRST, _SECOND))
    return [
        Elimination("locked", _CROSSINGS[crossing][0], (int(digit) + 1,), tuple(_SHARED[crossing].tolist()), _CROSSINGS[crossing][1])
        for crossing, digit in zip(*np.nonzero(inside & ~outside & cleared), strict=True)
    ]


def _subsets(places: Int[np.ndarray, "unit thing"]) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """Returns (unit, things, places) wherever 2 or 3 things of a unit have as many places between them that other things want too."""
    there = (places > 0) @ _IN_SUBSET.T.astype(int) == _SIZES
    union = np.bitwise_or.reduce(np.where(_IN_SUBSET, places[:, None], 0), axis=2)
    others = np.bitwise_or.reduce(np.where(_IN_SUBSET, 0, places[:, None]), axis=2)
    found = there & (_COUNT[union] == _SIZES) & ((others & union) > 0)
    return [
        (int(unit), _SUBSETS[subset], tuple(np.flatnonzero(union[unit, subset] & _BIT).tolist()))
        for unit, subset in zip(*np.nonzero(found), strict=True)
    ]


def eliminations(grid: Grid) -> list[Elimination]:
    """Returns every elimination that the grid allows and that excludes something, smallest first: locked candidates, pairs, triples."""
    by_unit = grid[UNITS]
    found = _locked(grid)
    for unit, things, places in _subsets(by_unit @ _BIT):
        found.append(Elimination("naked", unit, tuple(d + 1 for d in places), tuple(UNITS[unit][list(things)].tolist()), unit))
    for unit, things, places in _subsets(by_unit.transpose(0, 2, 1) @ _BIT):
        found.append(Elimination("hidden", unit, tuple(d + 1 for d in things), tuple(UNITS[unit][list(places)].tolist()), unit))
    return sorted(found, key=lambda step: len(step.digits))


def removed(steps: list[Elimination] | tuple[Elimination, ...], grid: Grid) -> Grid:
    """Returns the candidates of the grid that these eliminations exclude between them."""
    gone = np.zeros_like(grid)
    for step in steps:
        gone |= step.removes()
    return gone & grid


@dataclass(frozen=True)
class Deduction:
    """Why a cell can hold nothing else: eliminations in rounds, each round on what the earlier ones left, then a single."""

    cell: int
    digit: int
    unit: int | None
    """The unit in which the digit has no other place; None where the cell has no other candidate."""
    rounds: tuple[tuple[Elimination, ...], ...] = ()

    @property
    def steps(self) -> tuple[Elimination, ...]:
        """All its eliminations, in order."""
        return tuple(step for steps in self.rounds for step in steps)

    def rivals(self) -> Grid:
        """Returns the candidates that must be gone in the end."""
        grid = np.zeros((N_CELLS, 9), dtype=bool)
        if self.unit is None:
            grid[self.cell] = True
        else:
            grid[UNITS[self.unit], self.digit - 1] = True
        grid[self.cell, self.digit - 1] = False
        return grid

    def rests_on(self, grid: Grid) -> Grid:
        """Returns the candidates whose absence from the grid it rests on."""
        absent = self.rivals()
        for step in self.steps:
            absent |= step.rests_on()
        return absent & ~grid

    def holds(self, grid: Grid) -> bool:
        """Returns whether every step of it can be taken on this grid, and the single then stands there."""
        for steps in self.rounds:
            if not all(step.holds(grid) for step in steps):
                return False
            grid = grid & ~removed(steps, grid)
        return bool(grid[self.cell, self.digit - 1] and not (grid & self.rivals()).any())


def singles(grid: Grid, cell: int, digit: int) -> list[Deduction]:
    """Returns the deductions without elimination: its only candidate, and the units in which it is the only place.

    A unit with no other unwritten cell does not count: it says nothing about candidates.
    """
    if not grid[cell, digit - 1]:
        return []
    others = [(unit, UNITS[unit][UNITS[unit] != cell]) for unit in UNITS_OF[cell].tolist()]
    places = [Deduction(cell, digit, unit) for unit, cells in others if grid[cells].any() and not grid[cells, digit - 1].any()]
    return [Deduction(cell, digit, None), *places] if grid[cell].sum() == 1 else places


def _needed(rounds: list[list[Elimination]], goal: Deduction, grid: Grid) -> Deduction:
    """Returns the goal with those eliminations alone that it needs: a small cover of each round, from the last to the first."""
    wanted = goal.rivals() & grid
    kept: list[tuple[Elimination, ...]] = []
    for number in reversed(range(len(rounds))):
        before = grid.copy()
        for steps in rounds[:number]:
            before &= ~removed(steps, before)
        chosen, open_ = [], wanted & before
        while open_.any():
            best = max(rounds[number], key=lambda step: int((step.removes() & open_).sum()))
            chosen.append(best)
            open_ &= ~best.removes()
        wanted &= ~before
        for step in chosen:
            wanted |= step.rests_on() & grid
        kept.insert(0, tuple(chosen))
    return Deduction(goal.cell, goal.digit, goal.unit, tuple(steps for steps in kept if steps))


def deduce(grid: Grid, cell: int, digit: int, depth: int) -> Deduction | None:
    """Returns a deduction that writes the digit after the fewest rounds of eliminations, at most ``depth``; None where there is none."""
    left, rounds = grid, list[list[Elimination]]()
    while True:
        if found := singles(left, cell, digit):
            return _needed(rounds, found[0], grid)
        steps = eliminations(left) if len(rounds) < depth and left[cell, digit - 1] else []
        if not steps:
            return None
        rounds.append(steps)
        left = left & ~removed(steps, left)
