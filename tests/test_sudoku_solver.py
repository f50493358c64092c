"""The solver against boards whose solutions are known, a plain backtracker, and what must be true of any solver."""

import time
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.tasks.sudoku.board import PuzzleError, format_board, parse_board
from models.tasks.sudoku.solver import search, solve

# Boards with one solution. Sources: Gordon Royle's list of 17-clue boards (1), Wikipedia's "Sudoku solving algorithms" (a board against
# row-by-row backtracking, 2), A. Inkala 2012 (3), github.com/norvig/pytudes, MIT (4), github.com/t-dillon/tdoku, BSD-2 (5, 6).
SOLVED = [
    (
        "000000010400000000020000000000050407008000300001090000300400200050100000000806000",
        "693784512487512936125963874932651487568247391741398625319475268856129743274836159",
    ),
    (
        "..............3.85..1.2.......5.7.....4...1...9.......5......73..2.1........4...9",
        "987654321246173985351928746128537694634892157795461832519286473472319568863745219",
    ),
    (
        "8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4..",
        "812753649943682175675491283154237896369845721287169534521974368438526917796318452",
    ),
    (
        "4.....8.5.3..........7......2.....6.....8.4......1.......6.3.7.5..2.....1.4......",
        "417369825632158947958724316825437169791586432346912758289643571573291684164875293",
    ),
    (
        "........8..3...4...9..2..6.....79.......612...6.5.2.7...8...5...1.....2.4.5.....3",
        "621943758783615492594728361142879635357461289869532174238197546916354827475286913",
    ),
    (
        "..6..1....5..3....9..4....7..1....2..3..9....4..5....13.....68....3..2....2..8..3",
        "826971354754836192913425867571643928238197546469582731347219685185364279692758413",
    ),
]

# No solution although nothing clashes. The first took Norvig's solver 24 minutes (norvig.com/sudoku.html), the others are tdoku's.
IMPOSSIBLE = [
    ".....5.8....6.1.43..........1.5........1.6...3.......553.....61........4.........",
    "1...5.2.9..7.......6.......2...........5.1..2....2.39.3.4.9...15...1...3...8...4.",
    "....9..5..1.....3...23..7....35...7.8.....2.......64...9..1.....8..6......54....7",
]

# Boards of tdoku with the number of their solutions.
SEVERAL = [
    ("8.........59.......76.........832765...476198...951243....9.516...6.4982......437", 9),
    ("8.........95.......67.........472968...913245...856137....9.716...6.8492......583", 3),
    ("8.........59.......67..........3.265...4.6198......437...753916...891742...624583", 13),
    ("8.........59.......76.........978245...653198...412736...591......836.1....724.8.", 601),
    ("...4......5..8.2.6.....3...2...4....3......1...5.3.8.25...6.3.8..6....95..8......", 847),
]

DIGITS = np.arange(1, 10, dtype=np.int8)


def keeps_the_rules(board: list[int]) -> bool:
    rows = [board[9 * r : 9 * r + 9] for r in range(9)]
    columns = [board[c::9] for c in range(9)]
    boxes = [[board[9 * (r + i) + c + j] for i in range(3) for j in range(3)] for r in (0, 3, 6) for c in (0, 3, 6)]
    return all(sorted(unit) == list(range(1, 10)) for unit in rows + columns + boxes)


def completions(board: list[int]) -> int:
    """Returns the number of completions, by trying every digit in every empty cell in order."""
    if 0 not in board:
        return 1
    cell = board.index(0)
    r, c = divmod(cell, 9)
    box = 27 * (r // 3) + 3 * (c // 3)
    seen = {*board[9 * r : 9 * r + 9], *board[c::9], *(board[box + 9 * i + j] for i in range(3) for j in range(3))}
    return sum(completions([*board[:cell], digit, *board[cell + 1 :]]) for digit in range(1, 10) if digit not in seen)


@pytest.mark.parametrize(("puzzle", "solution"), SOLVED)
def test_known_solutions_are_found_fast(puzzle: str, solution: str) -> None:
    board = parse_board(puzzle)
    solve(board)  # compiled
    start = time.perf_counter()
    assert format_board(solve(board)) == solution
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize("puzzle", IMPOSSIBLE)
def test_impossible_boards_have_no_completion(puzzle: str) -> None:
    found = search(parse_board(puzzle))
    assert (found.count, found.first) == (0, None)
    with pytest.raises(PuzzleError, match="impossible board"):
        solve(parse_board(puzzle))


@pytest.mark.parametrize(("puzzle", "count"), SEVERAL)
def test_all_completions_are_counted_up_to_the_limit(puzzle: str, count: int) -> None:
    board = parse_board(puzzle)
    assert search(board, limit=count + 1).count == count
    assert search(board, limit=count - 1).count == count - 1
    assert search(board).count == 2
    with pytest.raises(PuzzleError, match="more than one solution"):
        solve(board)


def test_the_board_is_left_as_it_was() -> None:
    board = parse_board(SOLVED[0][0])
    solve(board)
    assert (board == parse_board(SOLVED[0][0])).all()


def test_the_empty_board_can_be_filled() -> None:
    found = search(np.zeros(81, dtype=np.int8), limit=1)
    assert found.first is not None
    assert keeps_the_rules(found.first.tolist())


def test_a_full_board_is_its_own_completion() -> None:
    board = parse_board(SOLVED[0][1])
    assert (solve(board) == board).all()


@pytest.mark.parametrize(("first", "second"), [(0, 8), (0, 72), (0, 20), (40, 50)])
def test_clashing_givens_are_named(first: int, second: int) -> None:
    board = np.zeros(81, dtype=np.int8)
    board[[first, second]] = 7
    with pytest.raises(PuzzleError) as caught:
        solve(board)
    for cell in (first, second):
        assert f"r{cell // 9 + 1}c{cell % 9 + 1}" in str(caught.value)
    assert search(board).count == 0


@given(st.sampled_from(SOLVED), st.sets(st.integers(0, 80), max_size=30))
@settings(max_examples=60)
def test_counts_agree_with_plain_backtracking(pair: tuple[str, str], emptied: set[int]) -> None:
    board = parse_board(pair[1])
    board[list(emptied)] = 0
    found = search(board, limit=10_000)
    assert found.count == completions(board.tolist())
    assert found.first is not None
    assert keeps_the_rules(found.first.tolist())
    assert (found.first == board)[board > 0].all()


@given(st.sampled_from(SOLVED), st.sampled_from(list(permutations(range(1, 10), 2))))
@settings(max_examples=40)
def test_without_two_digits_the_completions_come_in_pairs(pair: tuple[str, str], digits: tuple[int, int]) -> None:
    board = parse_board(pair[1])
    board[np.isin(board, digits)] = 0
    count = search(board, limit=10_000).count
    assert count >= 2
    assert count & (count - 1) == 0  # each loop of alternating cells swaps by itself, so the count is a power of 2


@given(st.sampled_from(SOLVED), st.permutations(list(range(9))))
@settings(max_examples=30)
def test_solving_commutes_with_relabelling(pair: tuple[str, str], order: list[int]) -> None:
    relabel = np.concatenate([[0], DIGITS[order]]).astype(np.int8)
    assert (solve(relabel[parse_board(pair[0])]) == relabel[parse_board(pair[1])]).all()
