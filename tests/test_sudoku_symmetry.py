"""The symmetry group: it maps puzzles to puzzles, has 9! x 2 x 6^8 elements, and is drawn from uniformly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from models.tasks.sudoku.board import UNITS, conflicts
from models.tasks.sudoku.generator import generate
from models.tasks.sudoku.solver import single_waves, solve
from models.tasks.sudoku.symmetry import Symmetries, random_relabellings, random_symmetries

DRAWS = 60_000
P_VALUE = 1e-4


@pytest.fixture(scope="module")
def drawn() -> Symmetries:
    return random_symmetries(np.random.default_rng(0), DRAWS)


def parts(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (transposed, row order, column order) of cell maps; undoing the parts is how the map is known to be one."""
    grid = cells.reshape(-1, 9, 9)
    transposed = grid[:, 0, 0] // 9 != grid[:, 0, 1] // 9
    upright = np.where(transposed[:, None, None], grid.transpose(0, 2, 1), grid)
    rows, columns = upright[:, :, 0] // 9, upright[:, 0, :] % 9
    assert (upright == rows[:, :, None] * 9 + columns[:, None, :]).all()
    return transposed, rows, columns


def order_number(orders: np.ndarray) -> np.ndarray:
    """Returns a number for each order of nine lines."""
    return orders @ 9 ** np.arange(9)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["naked_singles", "hidden_singles", "eliminations", "guessing"]))
@settings(max_examples=30)
def test_puzzle_and_solution_stay_puzzle_and_solution(seed: int, rung: str) -> None:
    puzzles = generate(8, rung, seed=1)
    symmetry = random_symmetries(np.random.default_rng(seed), 8)
    givens, solutions = symmetry.apply(puzzles.givens), symmetry.apply(puzzles.solutions)
    assert not conflicts(solutions).any()
    assert ((givens > 0).sum(axis=1) == (puzzles.givens > 0).sum(axis=1)).all()
    for board, solution in zip(givens, solutions, strict=True):
        assert (solve(board) == solution).all()


def test_the_depth_of_the_deduction_is_unchanged() -> None:
    puzzles = generate(20, "hidden_singles", seed=1)
    moved = random_symmetries(np.random.default_rng(5), 20).apply(puzzles.givens)
    for before, after in zip(puzzles.givens, moved, strict=True):
        waves = [np.sort(single_waves(board, hidden=True)) for board in (before, after)]
        assert (waves[0] == waves[1]).all()


def test_every_map_is_a_bijection_of_cells_that_keeps_the_units(drawn: Symmetries) -> None:
    assert (np.sort(drawn.cells, axis=1) == np.arange(81)).all()
    units = {frozenset(unit) for unit in UNITS.tolist()}
    for cells in drawn.cells[:200]:
        assert {frozenset(cells[unit].tolist()) for unit in UNITS} == units


def test_there_are_2_x_6_to_the_8_cell_maps(drawn: Symmetries) -> None:
    # A map is a transposition or none, an order of rows and one of columns (`parts` undoes it, so different triples are different
    # maps); there are 6^4 orders of lines that keep bands together, and every one is drawn: 2 * 6^4 * 6^4 = 2 * 6^8.
    transposed, rows, columns = parts(drawn.cells)
    assert len(np.unique(transposed)) == 2
    assert len(np.unique(order_number(rows))) == len(np.unique(order_number(columns))) == 6**4
    for orders in (rows, columns):
        assert (np.ptp(orders.reshape(-1, 3, 3) // 3, axis=2) == 0).all()
    distinct = len(np.unique(drawn.cells, axis=0))
    expected = DRAWS * (DRAWS - 1) / 2 / (2 * 6**8)
    assert abs(DRAWS - distinct - expected) < 5 * expected**0.5


def test_cell_maps_are_uniform(drawn: Symmetries) -> None:
    transposed, rows, columns = parts(drawn.cells)
    assert chisquare(np.bincount(transposed.astype(int))).pvalue > P_VALUE
    for orders in (rows, columns):
        assert chisquare(np.unique(order_number(orders), return_counts=True)[1]).pvalue > P_VALUE
    together = transposed * 81 + rows[:, 0] * 9 + columns[:, 0]
    assert chisquare(np.bincount(together, minlength=162)).pvalue > P_VALUE


def test_relabellings_are_uniform_and_keep_empty_cells_and_places(drawn: Symmetries) -> None:
    for symmetry in (drawn, random_relabellings(np.random.default_rng(1), DRAWS)):
        assert (symmetry.digits[:, 0] == 0).all()
        assert (np.sort(symmetry.digits[:, 1:], axis=1) == np.arange(1, 10)).all()
        for digit in range(1, 10):
            assert chisquare(np.bincount(symmetry.digits[:, digit], minlength=10)[1:]).pvalue > P_VALUE
    assert (random_relabellings(np.random.default_rng(1), 5).cells == np.arange(81)).all()


def test_a_generator_in_the_same_state_draws_the_same() -> None:
    first, second = (random_symmetries(np.random.default_rng(7), 3) for _ in range(2))
    assert (first.cells == second.cells).all()
    assert (first.digits == second.digits).all()
