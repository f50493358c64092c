"""Readers of puzzle files: one puzzle a line, or the ``quizzes,solutions`` CSV of the Kaggle set."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Int8

from models.tasks.sudoku.board import PuzzleError, conflicts, parse_board
from models.tasks.sudoku.generator import Puzzles
from models.tasks.sudoku.solver import solve

_CSV_HEADER = "quizzes,solutions"


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields (line number, [puzzle] or [puzzle, solution]); blank lines and lines that begin with # are skipped."""
    try:
        with path.open(encoding="utf-8-sig") as lines:
            columns = 1
            for number, line in enumerate(lines, start=1):
                text = line.strip()
                if number == 1 and text.replace(" ", "") == _CSV_HEADER:
                    columns = 2
                elif text and not text.startswith("#"):
                    row = text.split(",")
                    if len(row) != columns:
                        rule = "a puzzle and its solution (its header is quizzes,solutions)" if columns == 2 else "one puzzle a line"
                        raise PuzzleError(f"{path}, line {number}: {len(row)} columns; this file needs {rule}")
                    yield number, row
    except UnicodeDecodeError as error:
        raise PuzzleError(f"{path} is not a text file ({error.reason} at byte {error.start})") from None


def _checked(givens: Int8[np.ndarray, " cell"], solution: Int8[np.ndarray, " cell"]) -> None:
    if not solution.all() or conflicts(solution[None]).any():
        raise PuzzleError("the given solution is not a full board that keeps the rules")
    if (solution != givens)[givens > 0].any():
        raise PuzzleError("the given solution changes a given cell")


def read_puzzles(path: Path, limit: int | None = None) -> Puzzles:
    """Returns the first ``limit`` puzzles of a file with their solutions, solving those that come without one.

    Raises:
        PuzzleError: Naming file and line, on a bad line, an impossible board, one with several solutions, or no puzzle at all.
        OSError: Where the file cannot be read.
    """
    givens, solutions = [], []
    for number, row in islice(_rows(path), limit):
        try:
            board = parse_board(row[0])
            solution = solve(board)
            if len(row) == 2:
                stated = parse_board(row[1])
                _checked(board, stated)
        except PuzzleError as error:
            raise PuzzleError(f"{path}, line {number}: {error}") from None
        givens.append(board)
        solutions.append(solution)
    if not givens:
        raise PuzzleError(f"{path} holds no puzzle; it needs one a line (81 characters), or a CSV headed quizzes,solutions")
    return Puzzles(np.stack(givens), np.stack(solutions))
