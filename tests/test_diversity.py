"""How different answers are: identical and unlike ones, hand-worked cases, brute force and what uniform draws come to."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.diversity import (
    DiversityError,
    bag_similarity,
    bleu,
    differing,
    distinct_classes,
    distinct_n,
    evenness,
    expected_coverage,
    expected_evenness,
    self_bleu,
    vendi_score,
)
from models.tasks.sudoku.board import UNITS, PuzzleError
from models.tasks.sudoku.generator import board_seeds
from models.tasks.sudoku.many import many_solved
from models.tasks.sudoku.solver import search
from models.tasks.sudoku.task import SUDOKU

TEXTS = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=12), min_size=2, max_size=6)


def completions(board: list[int]) -> list[tuple[int, ...]]:
    """Returns every completion, by trying each digit in each empty cell in reading order."""
    if 0 not in board:
        return [tuple(board)]
    cell = board.index(0)
    row, column = divmod(cell, 9)
    near = {
        board[9 * r + c] for r in range(9) for c in range(9) if r == row or c == column or (r // 3 == row // 3 and c // 3 == column // 3)
    }
    found = []
    for digit in set(range(1, 10)) - near:
        found += completions([*board[:cell], digit, *board[cell + 1 :]])
    return found


@pytest.mark.parametrize(("solutions", "givens"), [(2, 60), (3, 60), (4, 40), (8, 60), (16, 60)])
def test_boards_have_exactly_so_many_solutions_by_brute_force(solutions: int, givens: int) -> None:
    boards = many_solved(4, solutions, seed=5, givens=givens)
    for board, solution in zip(boards.givens, boards.solutions, strict=True):
        found = completions(board.tolist())
        assert len(set(found)) == len(found) == solutions
        assert tuple(solution.tolist()) in found
        assert search(board, limit=100).count == solutions
        assert all(len({one[cell] for cell in unit}) == 9 for one in found for unit in UNITS)
    verdicts = SUDOKU.verify(SUDOKU.encode(boards), boards)
    assert verdicts.valid.all()


def test_no_board_has_more_givens_than_asked_or_fewer_than_it_could() -> None:
    boards = many_solved(6, 16, givens=60)
    for board in boards.givens:
        n_given = int((board > 0).sum())
        found = np.array(completions(board.tolist()))
        spare = ((found == found[0]).all(0) & (board == 0)).sum()
        assert n_given == 60 or (n_given < 60 and spare == 0)


def test_first_boards_do_not_depend_on_how_many_and_seeds_differ() -> None:
    few, many, other = many_solved(2, 4, seed=1), many_solved(5, 4, seed=1), many_solved(5, 4, seed=2)
    assert (many.givens[:2] == few.givens).all()
    assert len({board.tobytes() for board in np.concatenate([many.givens, other.givens])}) == 10


def test_no_board_is_of_a_training_seed() -> None:
    assert (board_seeds(100, "guessing", seed=0, split="train") % 2 == 0).all()
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.tasks.sudoku.many._generate_one", lambda seed, *rest: asked.append(seed))
        many_solved(50, 4)
    assert all(seed % 2 for seed in asked)
    assert len(set(asked)) == 50


@pytest.mark.parametrize(
    "arguments", [{"solutions": 1}, {"solutions": 300}, {"solutions": 4, "givens": 20}, {"solutions": 4, "givens": 80}]
)
def test_impossible_boards_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(PuzzleError, match=str(list(arguments.values())[-1])):
        many_solved(1, **arguments)


@pytest.mark.parametrize(("draws", "kinds"), [(1, 2), (4, 2), (3, 3), (5, 3)])
def test_expected_coverage_and_evenness_are_the_means_over_all_sequences(draws: int, kinds: int) -> None:
    each = [np.bincount(one, minlength=kinds) for one in itertools.product(range(kinds), repeat=draws)]
    assert expected_coverage(draws, kinds) == pytest.approx(np.mean([(one > 0).mean() for one in each]))
    assert expected_evenness(draws, kinds) == pytest.approx(np.mean([evenness(one, kinds) for one in each]))
    if draws > 1:
        assert np.mean([differing(one) for one in each]) == pytest.approx(1 - 1 / kinds)


def test_expected_coverage_of_draws_that_miss() -> None:
    each = [len({one for one in draw if one < 2}) / 2 for draw in itertools.product(range(4), repeat=3)]
    assert expected_coverage(3, 2, share=0.5) == pytest.approx(np.mean(each))
    assert expected_coverage(3, 2, share=0.0) == 0


def test_evenness_of_alike_one_kind_and_none() -> None:
    assert evenness(np.array([3, 3, 3, 0]), 3) == pytest.approx(1)
    assert evenness(np.array([7]), 4) == 0
    assert math.isnan(evenness(np.array([], dtype=int), 4))
    assert math.isnan(expected_evenness(0, 4))
    assert math.isnan(differing(np.array([1])))
    assert differing(np.array([2, 2])) == pytest.approx(4 / 6)


def test_distinct_n_by_hand() -> None:
    texts = [[1, 2, 1, 2], [1, 2, 3]]
    assert distinct_n(texts, 1) == pytest.approx(3 / 7)
    assert distinct_n(texts, 2) == pytest.approx(3 / 5)
    assert distinct_n(texts, 3) == pytest.approx(1)
    assert math.isnan(distinct_n([[1]], 2))


def test_bleu_by_hand() -> None:
    text, references = [1, 1, 2, 3], [[1, 2, 3, 4, 5], [1, 1, 9]]
    # Unigrams: 1 twice in the second reference, 2, 3: 4 of 4. Bigrams 11, 12, 23: 3 + 1 of 3 + 1. Trigrams 112, 123: 1 + 1 of 2 + 1.
    # Fourgrams: 0 + 1 of 1 + 1. Lengths 5 and 3 are as near to 4: the shorter counts, no penalty.
    assert bleu(text, references) == pytest.approx((1 * 1 * 2 / 3 * 1 / 2) ** 0.25)
    assert bleu(text, references[:1]) == pytest.approx((3 / 4 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25 * math.exp(1 - 5 / 4))
    assert bleu([7, 8], references) == 0


@given(TEXTS)
@settings(max_examples=60, deadline=None)
def test_all_figures_stay_in_their_bounds_and_ignore_order(texts: list[list[int]]) -> None:
    similarity = bag_similarity(texts)
    n = len(texts)
    assert 1 - 1e-9 <= vendi_score(similarity) <= n + 1e-9
    assert 0 <= self_bleu(texts) <= 1 + 1e-9
    assert 1 <= distinct_classes(similarity, 0.5) <= distinct_classes(similarity, 0.9) <= n
    assert vendi_score(bag_similarity(texts[::-1])) == pytest.approx(vendi_score(similarity))
    assert self_bleu(texts[::-1]) == pytest.approx(self_bleu(texts))


@pytest.mark.parametrize("n", [2, 5])
def test_the_same_text_n_times_is_one_and_texts_that_share_nothing_are_n(n: int) -> None:
    same, apart = [[1, 2, 3, 4, 5]] * n, [[5 * one + place for place in range(5)] for one in range(n)]
    assert vendi_score(bag_similarity(same)) == pytest.approx(1)
    assert vendi_score(bag_similarity(apart)) == pytest.approx(n)
    assert (distinct_classes(bag_similarity(same), 0.99), distinct_classes(bag_similarity(apart), 0.01)) == (1, n)
    assert self_bleu(same) == pytest.approx(1)
    assert self_bleu(apart) == 0
    assert distinct_n(same, 2) == pytest.approx(1 / n)


def test_vendi_of_two_by_its_eigenvalues() -> None:
    high, low = (1 + 0.6) / 2, (1 - 0.6) / 2
    expected = math.exp(-high * math.log(high) - low * math.log(low))
    assert vendi_score(np.array([[1.0, 0.6], [0.6, 1.0]])) == pytest.approx(expected)


def test_an_item_joins_the_first_class_whose_first_member_is_like_it() -> None:
    chain = np.array([[1.0, 0.8, 0.1], [0.8, 1.0, 0.8], [0.1, 0.8, 1.0]])
    assert distinct_classes(chain, 0.7) == 2


def test_empty_texts_are_refused() -> None:
    for figure in (self_bleu, bag_similarity):
        with pytest.raises(DiversityError):
            figure([[1, 2], []])
    with pytest.raises(DiversityError, match="0 references"):
        self_bleu([[1]])
