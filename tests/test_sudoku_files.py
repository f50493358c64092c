"""Puzzle files: what is read, and how each bad file is named."""

from pathlib import Path

import pytest

from models.tasks.sudoku.board import PuzzleError, format_board
from models.tasks.sudoku.files import read_puzzles
from models.tasks.sudoku.generator import Puzzles, generate

PUZZLES = generate(4, "hidden_singles", seed=9)
LINES = [format_board(board) for board in PUZZLES.givens]
SOLUTIONS = [format_board(board) for board in PUZZLES.solutions]
CSV = ["quizzes,solutions", *(f"{line.replace('.', '0')},{solution}" for line, solution in zip(LINES, SOLUTIONS, strict=True))]
MANY = "8.........59.......76.........832765...476198...951243....9.516...6.4982......437"


def written(folder: Path, *lines: str, end: str = "\n", encoding: str = "utf-8") -> Path:
    path = folder / "boards.txt"
    path.write_bytes((end.join(lines) + end).encode(encoding))
    return path


def same(found: Puzzles, expected: Puzzles) -> bool:
    return len(found) == len(expected) and bool((found.givens == expected.givens).all() and (found.solutions == expected.solutions).all())


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("lines", [LINES, CSV], ids=["lines", "csv"])
def test_lines_and_csv_read_alike(tmp_path: Path, lines: list[str], end: str, encoding: str) -> None:
    path = written(tmp_path, *lines, end=end, encoding=encoding)
    assert same(read_puzzles(path), PUZZLES)
    assert same(read_puzzles(path, limit=2), PUZZLES[:2])


def test_blank_lines_and_comments_are_skipped_and_counted(tmp_path: Path) -> None:
    assert same(read_puzzles(written(tmp_path, "# boards", "", LINES[0], "   ", *LINES[1:])), PUZZLES)
    with pytest.raises(PuzzleError, match=r"boards\.txt, line 4: .*80 characters"):
        read_puzzles(written(tmp_path, "# boards", "", LINES[0], LINES[1][:-1]))


def test_what_lies_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    assert len(read_puzzles(written(tmp_path, LINES[0], "rubbish"), limit=1)) == 1


CLASHING = SOLUTIONS[0][:1] * 2 + SOLUTIONS[0][2:]
OTHER = SOLUTIONS[1]


@pytest.mark.parametrize(
    ("lines", "line", "message"),
    [
        ([LINES[0], "x" + LINES[1][1:]], 2, "character 1 of the puzzle is 'x'"),
        ([LINES[0], f'"{LINES[1]}"', LINES[2]], 2, "character 1 of the puzzle is '\"'"),
        ([LINES[0], f"{LINES[1]},{SOLUTIONS[1]}"], 2, "2 columns"),
        ([CSV[0], CSV[1], LINES[1]], 3, "1 columns"),
        ([MANY], 1, "more than one solution"),
        (["11" + "." * 79], 1, "r1c1 and r1c2 both hold 1"),
        ([CSV[0], f"{LINES[0]},{CLASHING}"], 2, "keeps the rules"),
        ([CSV[0], f"{LINES[0]},{LINES[0]}"], 2, "not a full board"),
        ([CSV[0], f"{LINES[0]},{OTHER}"], 2, "changes a given cell"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, lines: list[str], line: int, message: str) -> None:
    path = written(tmp_path, *lines)
    with pytest.raises(PuzzleError) as caught:
        read_puzzles(path)
    assert str(caught.value).startswith(f"{path}, line {line}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"# nothing\n", b"quizzes,solutions\n"])
def test_a_file_without_puzzles_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.txt"
    path.write_bytes(content)
    with pytest.raises(PuzzleError, match=r"empty\.txt holds no puzzle"):
        read_puzzles(path)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\xff\xfe", b"\x00" * 200_000, bytes(range(256)) * 4])
def test_a_binary_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with pytest.raises(PuzzleError, match=r"picture\.png"):
        read_puzzles(path)


def test_a_missing_file_or_a_folder_is_an_os_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        read_puzzles(tmp_path / "absent.txt")
    with pytest.raises(OSError, match=tmp_path.name):
        read_puzzles(tmp_path)
