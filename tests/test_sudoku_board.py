"""The board: its units and peers, its text form, and clashes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.tasks.sudoku.board import PEERS, UNITS, UNITS_OF, PuzzleError, cell_name, conflicts, format_board, parse_board, unit_name

BOARDS = st.lists(st.integers(0, 9), min_size=81, max_size=81)


def clashing(board: list[int]) -> list[bool]:
    """Returns which cells repeat a digit, by comparing all pairs."""

    def sees(a: int, b: int) -> bool:
        (r, c), (s, d) = divmod(a, 9), divmod(b, 9)
        return a != b and (r == s or c == d or (r // 3, c // 3) == (s // 3, d // 3))

    return [board[a] > 0 and any(board[a] == board[b] and sees(a, b) for b in range(81)) for a in range(81)]


def test_units_are_27_lines_of_9_and_each_cell_is_in_3() -> None:
    assert UNITS.shape == (27, 9)
    assert UNITS_OF.shape == (81, 3)
    assert (np.bincount(UNITS.ravel()) == 3).all()
    assert all(cell in UNITS[unit] for cell in range(81) for unit in UNITS_OF[cell])


def test_peers_are_symmetric_and_20() -> None:
    assert PEERS.shape == (81, 20)
    seen = {(a, int(b)) for a in range(81) for b in PEERS[a]}
    assert seen == {(b, a) for a, b in seen}
    assert all(a != b for a, b in seen)


def test_names_count_from_one() -> None:
    assert [cell_name(cell) for cell in (0, 8, 9, 80)] == ["r1c1", "r1c9", "r2c1", "r9c9"]
    assert [unit_name(unit) for unit in (0, 8, 9, 17, 18, 26)] == ["row 1", "row 9", "column 1", "column 9", "box 1", "box 9"]
    assert cell_name(int(UNITS[22][0])) == "r4c4"  # box 5, the middle one


@given(BOARDS)
def test_text_round_trip(digits: list[int]) -> None:
    board = np.array(digits, dtype=np.int8)
    text = format_board(board)
    assert len(text) == 81
    assert (parse_board(text) == board).all()
    assert (parse_board(text.replace(".", "0") + "\n") == board).all()


@given(BOARDS)
def test_conflicts_are_the_clashing_pairs(digits: list[int]) -> None:
    assert conflicts(np.array([digits], dtype=np.int8))[0].tolist() == clashing(digits)


@pytest.mark.parametrize("length", [0, 1, 80, 82, 162])
def test_another_length_is_named(length: int) -> None:
    with pytest.raises(PuzzleError, match=rf"has {length} characters; .* exactly 81"):
        parse_board("1" * length)


@pytest.mark.parametrize("place", [1, 40, 81])
@pytest.mark.parametrize("character", ["x", "-", "²", "٣", "\x00"])
def test_another_character_is_named_with_its_place(place: int, character: str) -> None:
    text = "." * (place - 1) + character + "." * (81 - place)
    with pytest.raises(PuzzleError) as caught:
        parse_board(text)
    assert f"character {place} " in str(caught.value)
    assert repr(character) in str(caught.value)
