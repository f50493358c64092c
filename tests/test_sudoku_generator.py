"""Generated boards and waves of singles, against a plain-python deduction that shares no code with the package."""

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.tasks.sudoku.board import parse_board
from models.tasks.sudoku.eliminations import fill_by_eliminations
from models.tasks.sudoku.generator import RUNGS, Puzzles, Rung, board_seeds, generate, grade
from models.tasks.sudoku.solver import search, single_waves

ROWS = [[9 * r + c for c in range(9)] for r in range(9)]
COLUMNS = [[9 * r + c for r in range(9)] for c in range(9)]
BOXES = [[9 * (3 * (b // 3) + i) + 3 * (b % 3) + j for i in range(3) for j in range(3)] for b in range(9)]
HARDEST = parse_board("8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4..")

MANY_RUNGS = [pool[index : index + 1] for pool in (generate(4, rung, seed=8) for rung in RUNGS) for index in range(4)]


def deduced(board: dict[int, int], hidden: bool) -> dict[int, int]:
    """Returns the digits of the empty cells that one look at the board settles: naked singles, and hidden ones if asked."""
    units = ROWS + COLUMNS + BOXES
    taken = {cell: {board[other] for unit in units if cell in unit for other in unit if other in board} for cell in range(81)}
    candidates = {cell: set(range(1, 10)) - taken[cell] for cell in range(81) if cell not in board}
    found = {cell: min(digits) for cell, digits in candidates.items() if len(digits) == 1}
    if hidden:
        for unit in units:
            for digit in range(1, 10):
                places = [cell for cell in unit if digit in candidates.get(cell, ())]
                if len(places) == 1:
                    found[places[0]] = digit
    return found


def waves_of(givens: np.ndarray, hidden: bool) -> list[int]:
    """Returns the wave in which each cell is filled: 0 for a given, -1 for never."""
    board = {cell: int(digit) for cell, digit in enumerate(givens) if digit}
    waves = [0 if cell in board else -1 for cell in range(81)]
    wave = 0
    while found := deduced(board, hidden):
        wave += 1
        board |= found
        for cell in found:
            waves[cell] = wave
    return waves


@pytest.fixture(scope="module", params=RUNGS)
def sample(request: pytest.FixtureRequest) -> tuple[Rung, Puzzles]:
    return request.param, generate(60, request.param, seed=3)


def test_every_board_has_the_one_stated_solution(sample: tuple[Rung, Puzzles]) -> None:
    _, puzzles = sample
    for givens, solution in zip(puzzles.givens, puzzles.solutions, strict=True):
        found = search(givens)
        assert found.count == 1
        assert (found.first == solution).all()
        assert (solution == givens)[givens > 0].all()
        for unit in ROWS + COLUMNS + BOXES:
            assert sorted(solution[unit].tolist()) == list(range(1, 10))


def test_every_board_is_on_its_rung_and_needs_it(sample: tuple[Rung, Puzzles]) -> None:
    rung, puzzles = sample
    for givens in puzzles.givens:
        naked = -1 not in waves_of(givens, hidden=False)
        hidden = -1 not in waves_of(givens, hidden=True)
        assert {"naked_singles": naked, "hidden_singles": hidden and not naked}.get(rung, not hidden)
        assert (fill_by_eliminations(givens) > 0).all() == (rung != "guessing")
        assert grade(givens) == rung


def test_the_number_of_givens_stays_in_range(sample: tuple[Rung, Puzzles]) -> None:
    counts = (sample[1].givens > 0).sum(axis=1)
    assert counts.min() >= 22
    assert counts.max() <= 37


def test_another_range_of_givens_is_kept() -> None:
    counts = (generate(30, "hidden_singles", givens_range=(34, 36)).givens > 0).sum(axis=1)
    assert set(counts.tolist()) == {34, 35, 36}


@pytest.mark.parametrize(("rung", "most"), [("naked_singles", 24), ("hidden_singles", 21), ("eliminations", 21), ("guessing", 21)])
def test_sparse_boards_have_one_solution_no_spare_given_and_their_rung(rung: Rung, most: int) -> None:
    sparse = generate(6, rung, seed=3, givens_range=(17, most))
    assert (sparse.givens > 0).sum(axis=1).max() <= most
    assert len({tuple(solution) for solution in sparse.solutions.tolist()}) == 6
    for givens, solution in zip(sparse.givens, sparse.solutions, strict=True):
        assert search(givens).count == 1
        assert (search(givens).first == solution).all()
        assert grade(givens) == rung
    assert (generate(2, rung, seed=3, givens_range=(17, most)).givens == sparse.givens[:2]).all()


@pytest.mark.parametrize("hidden", [False, True])
def test_waves_are_those_of_the_plain_deduction(sample: tuple[Rung, Puzzles], hidden: bool) -> None:
    for givens in sample[1].givens[:30]:
        assert single_waves(givens, hidden=hidden).tolist() == waves_of(givens, hidden)


@given(st.integers(0, 15), st.sets(st.integers(0, 80), max_size=20))
@settings(max_examples=40)
def test_more_givens_never_delay_a_wave(index: int, revealed: set[int]) -> None:
    puzzle = MANY_RUNGS[index]
    more = puzzle.givens[0].copy()
    more[list(revealed)] = puzzle.solutions[0][list(revealed)]
    before, after = (np.where(w < 0, 99, w) for w in (single_waves(puzzle.givens[0], hidden=True), single_waves(more, hidden=True)))
    assert (after <= before).all()


def test_a_board_that_singles_cannot_start_has_no_waves() -> None:
    assert set(single_waves(HARDEST, hidden=True).tolist()) == {0, -1}
    assert grade(HARDEST) == "guessing"


def test_the_first_boards_do_not_depend_on_how_many_are_drawn(sample: tuple[Rung, Puzzles]) -> None:
    rung, puzzles = sample
    for m in (0, 1, 17):
        fewer = generate(m, rung, seed=3)
        assert len(fewer) == m
        assert (fewer.givens == puzzles.givens[:m]).all()
        assert (fewer.solutions == puzzles.solutions[:m]).all()


def test_boards_do_not_repeat_and_seeds_differ(sample: tuple[Rung, Puzzles]) -> None:
    rung, puzzles = sample
    other = generate(60, rung, seed=4)
    assert len({tuple(row) for row in np.concatenate([puzzles.givens, other.givens]).tolist()}) == 120


@pytest.mark.parametrize("train_seed", [0, 3])
def test_train_and_test_share_no_board(train_seed: int) -> None:
    train = {tuple(row) for rung in RUNGS for row in generate(300, rung, seed=train_seed, split="train").givens.tolist()}
    test = {tuple(row) for rung in RUNGS for row in generate(300, rung, seed=3, split="test").givens.tolist()}
    assert not train & test


def test_train_and_test_share_no_board_seed_even_among_very_many() -> None:
    train = np.concatenate([board_seeds(300_000, rung, seed=0, split="train") for rung in RUNGS])
    for seed in (0, 1):
        test = np.concatenate([board_seeds(100_000, rung, seed=seed, split="test") for rung in RUNGS])
        assert not np.isin(test, train).any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rung": "easy"}, ["'easy'", "naked_singles", "eliminations", "guessing"]),
        ({"split": "valid"}, ["'valid'", "train", "test"]),
        ({"givens_range": (16, 30)}, ["(16, 30)", "17"]),
        ({"givens_range": (33, 30)}, ["(33, 30)"]),
        ({"givens_range": (17, 19), "rung": "guessing"}, ["19", "20", "guessing"]),
        ({"givens_range": (17, 22)}, ["22", "23", "naked_singles"]),
    ],
)
def test_bad_arguments_are_named_with_the_choices(arguments: dict, words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"choose|must") as caught:
        inspect.unwrap(generate)(1, **arguments)  # behind the type check, which would refuse them first
    assert all(word in str(caught.value) for word in words)


def test_puzzles_must_agree_in_shape() -> None:
    with pytest.raises((ValueError, TypeError), match="solutions"):
        Puzzles(np.zeros((2, 81), dtype=np.int8), np.zeros((1, 81), dtype=np.int8))
