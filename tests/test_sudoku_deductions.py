"""Eliminations by name: each on a grid made by hand, sound on every board, and dual to one another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.concepts.sudoku import candidate_sets
from models.tasks.sudoku.board import UNITS
from models.tasks.sudoku.deductions import Deduction, Elimination, Grid, deduce, eliminations, removed, singles
from models.tasks.sudoku.generator import RUNGS, Puzzles, generate

BOARDS = [generate(2, rung, seed=23) for rung in RUNGS]
ROW = 0
"""Of the grids below; its cells are 0 to 8."""


def grid_of(row: dict[int, set[int]]) -> Grid:
    """Returns a grid in which everything is possible but in some cells of the first row."""
    grid = np.ones((81, 9), dtype=bool)
    for cell, digits in row.items():
        grid[cell] = np.isin(np.arange(1, 10), list(digits))
    return grid


def without(grid: Grid, digits: set[int], cells: range) -> Grid:
    """Returns the grid without some digits in some cells."""
    left = grid.copy()
    left[np.ix_(list(cells), [digit - 1 for digit in digits])] = False
    return left


EVERYTHING = grid_of({})
HIDDEN_PAIR = without(without(EVERYTHING, {1, 2}, range(1, 4)), {1, 2}, range(5, 9))
CASES = [
    (grid_of({0: {1, 2}, 4: {1, 2}}), Elimination("naked", ROW, (1, 2), (0, 4), ROW), "pair 1, 2 in row 1"),
    (grid_of({0: {1, 2}, 4: {2, 3}, 7: {1, 3}}), Elimination("naked", ROW, (1, 2, 3), (0, 4, 7), ROW), "triple 1, 2, 3 in row 1"),
    (HIDDEN_PAIR, Elimination("hidden", ROW, (1, 2), (0, 4), ROW), "hidden pair 1, 2 in row 1"),
    (without(EVERYTHING, {5}, range(3, 9)), Elimination("locked", ROW, (5,), (0, 1, 2), 18), "5 of row 1 locked in box 1"),
]


@pytest.mark.parametrize(("grid", "step", "text"), CASES, ids=[text for *_, text in CASES])
def test_an_elimination_is_found_told_and_takes_away_what_it_says(grid: Grid, step: Elimination, text: str) -> None:
    assert step in eliminations(grid)
    assert str(step) == text
    assert step.holds(grid)
    assert not step.holds(EVERYTHING)
    gone = removed([step], grid)
    assert gone.any()
    if step.technique == "naked":
        assert set(np.flatnonzero(gone.any(axis=1)).tolist()) == set(UNITS[ROW].tolist()) - set(step.cells)
        assert set((np.flatnonzero(gone.any(axis=0)) + 1).tolist()) == set(step.digits)
    elif step.technique == "hidden":
        assert set(np.flatnonzero(gone.any(axis=1)).tolist()) == set(step.cells)
        assert set((np.flatnonzero(gone.any(axis=0)) + 1).tolist()) == set(range(1, 10)) - set(step.digits)
    else:
        assert set(np.flatnonzero(gone.any(axis=1)).tolist()) == {9, 10, 11, 18, 19, 20}
        assert (np.flatnonzero(gone.any(axis=0)) + 1).tolist() == list(step.digits)


@pytest.mark.parametrize(("grid", "step", "text"), CASES, ids=[text for *_, text in CASES])
def test_one_more_candidate_of_those_it_rests_on_breaks_it(grid: Grid, step: Elimination, text: str) -> None:
    for cell, digit in np.argwhere(step.rests_on()):
        assert not grid[cell, digit]
        broken = grid.copy()
        broken[cell, digit] = True
        assert not step.holds(broken)


def test_everything_possible_allows_nothing() -> None:
    assert eliminations(EVERYTHING) == []
    assert deduce(EVERYTHING, 0, 1, 3) is None


@given(st.data())
def test_naked_and_hidden_subsets_are_one_rule_with_cells_and_digits_exchanged(data: st.DataObject) -> None:
    """In one unit, cells that hold k digits between them leave the other digits the other cells: swap the two to see the other."""
    rows = data.draw(st.lists(st.sets(st.integers(0, 8), min_size=1, max_size=4), min_size=9, max_size=9))
    own = np.array([np.isin(np.arange(9), list(row)) for row in rows])

    def of_unit(matrix: np.ndarray, technique: str) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
        grid = np.zeros((81, 9), dtype=bool)
        grid[UNITS[ROW]] = matrix
        steps = [step for step in eliminations(grid) if step.technique == technique and step.unit == ROW]
        return {(tuple(digit - 1 for digit in step.digits), step.cells) for step in steps}

    assert of_unit(own, "naked") == {(cells, digits) for digits, cells in of_unit(own.T, "hidden")}


@given(st.integers(0, len(RUNGS) - 1), st.integers(0, 1), st.sets(st.integers(0, 80)), st.integers(1, 3))
def test_no_elimination_removes_the_digit_of_the_solution(rung: int, row: int, filled: set[int], depth: int) -> None:
    """On any board on the way to its solution, round after round."""
    puzzles = BOARDS[rung]
    solution, cells = puzzles.solutions[row], np.isin(np.arange(81), list(filled))
    board = np.where(cells, solution, puzzles.givens[row])
    grid = candidate_sets(board[None])[0] & (board == 0)[:, None]
    for _ in range(depth):
        gone = removed(eliminations(grid), grid)
        assert not gone[np.arange(81), solution - 1].any()
        grid &= ~gone


def test_singles_come_with_the_unit_that_leaves_one_place() -> None:
    grid = without(EVERYTHING, {7}, range(1, 9))
    assert singles(grid, 0, 7) == [Deduction(0, 7, ROW)]
    assert singles(grid_of({0: {7}}), 0, 7) == [Deduction(0, 7, None)]
    assert singles(grid, 0, 6) == []
    alone = np.zeros((81, 9), dtype=bool)
    alone[0, 6] = True
    assert singles(alone, 0, 7) == [Deduction(0, 7, None)], "a unit with no other unwritten cell says nothing"


def test_a_deduction_holds_no_step_that_it_does_not_need() -> None:
    """A pair leaves a cell its only candidate; a second pair, elsewhere, has nothing to do with it."""
    grid = grid_of({0: {1, 2}, 4: {1, 2}, 8: {1, 9}})
    grid[[72, 76]] = np.isin(np.arange(1, 10), (3, 4))
    found = deduce(grid, 8, 9, 1)
    assert found == Deduction(8, 9, None, ((Elimination("naked", ROW, (1, 2), (0, 4), ROW),),))
    assert found.holds(grid)
    assert deduce(grid, 8, 9, 0) is None
    assert {(0, 2), (4, 8), (8, 1)} <= {(int(cell), int(digit)) for cell, digit in np.argwhere(found.rests_on(grid))}
    grid[0, 4] = True
    assert not found.holds(grid)


@pytest.mark.parametrize("puzzles", BOARDS, ids=RUNGS)
def test_what_is_deduced_from_a_board_is_its_solution_and_holds_there(puzzles: Puzzles) -> None:
    board, solution = puzzles.givens[0], puzzles.solutions[0]
    grid = candidate_sets(board[None])[0] & (board == 0)[:, None]
    for cell in np.flatnonzero(board == 0)[::4].tolist():
        for digit in range(1, 10):
            found = deduce(grid, cell, digit, 2)
            if found is not None:
                assert digit == solution[cell]
                assert found.holds(grid)
