"""Concept labels against plain re-derivations of the rules."""

from __future__ import annotations

import numpy as np
import torch

from interp.concepts import CONCEPTS, Sites
from interp.concepts.sudoku import candidate_sets, hidden_single_units, peer_tokens, visible_cells
from models.tasks.sudoku.board import N_CELLS
from models.tasks.sudoku.generator import generate
from models.tasks.sudoku.task import MASK_ID, SOLUTION, SUDOKU


def units_of(cell: int) -> list[list[int]]:
    row, column = divmod(cell, 9)
    corner = row // 3 * 27 + column // 3 * 3
    return [
        [9 * row + k for k in range(9)],
        [9 * k + column for k in range(9)],
        [corner + 9 * (k // 3) + k % 3 for k in range(9)],
    ]


def plain_candidates(board: list[int], cell: int) -> set[int]:
    if board[cell]:
        return set()
    return set(range(1, 10)) - {board[other] for unit in units_of(cell) for other in unit}


def sites_of(n: int = 12, seed: int = 3) -> Sites:
    """Boards with a random part of the cells written, and one unwritten cell each."""
    puzzles = generate(n, "hidden_singles", seed=seed)
    truth = SUDOKU.encode(puzzles)
    seen = SUDOKU.prompt(puzzles)
    rng = np.random.default_rng(seed)
    position = []
    for row in range(n):
        asked = np.flatnonzero(puzzles.givens[row] == 0)
        written = rng.permutation(asked)[: len(asked) // 2]
        seen[row, SOLUTION.start + written] = truth[row, SOLUTION.start + written]
        position.append(SOLUTION.start + rng.choice(np.setdiff1d(asked, written)))
    return Sites.unwritten(seen, truth, torch.tensor(position), torch.arange(n), torch.full((n,), 0.5))


def boards_and_cells(sites: Sites) -> list[tuple[list[int], int]]:
    boards = []
    for row, position in zip(sites.seen.tolist(), sites.position.tolist(), strict=True):
        givens, solution = row[:N_CELLS], row[SOLUTION]
        boards.append(
            (
                [given or (token if token != MASK_ID else 0) for given, token in zip(givens, solution, strict=True)],
                position - SOLUTION.start,
            )
        )
    return boards


def test_visible_board_joins_givens_and_written_cells() -> None:
    sites = sites_of()
    boards, cells = visible_cells(sites)
    assert [(board.tolist(), int(cell)) for board, cell in zip(boards, cells, strict=True)] == boards_and_cells(sites)


def test_candidates_are_what_no_unit_holds() -> None:
    sites = sites_of()
    labels = CONCEPTS["candidates"].labels(sites)
    for row, (board, cell) in enumerate(boards_and_cells(sites)):
        assert {digit for digit in range(1, 10) if labels[row, digit - 1]} == plain_candidates(board, cell)
        assert labels[row].any()


def test_digit_is_the_solution() -> None:
    sites = sites_of()
    labels = CONCEPTS["digit"].labels(sites)
    assert (labels.sum(1) == 1).all()
    assert (labels.argmax(1) + 1 == sites.truth[torch.arange(len(sites)), sites.position].numpy()).all()


def test_units_name_the_digits_of_row_column_and_box() -> None:
    sites = sites_of()
    labels = CONCEPTS["units"].labels(sites).reshape(len(sites), 3, 9)
    for row, (board, cell) in enumerate(boards_and_cells(sites)):
        for kind, unit in enumerate(units_of(cell)):
            assert {digit for digit in range(1, 10) if labels[row, kind, digit - 1]} == {board[other] for other in unit} - {0}


def test_technique_is_naked_or_else_hidden() -> None:
    sites = sites_of(40, seed=5)
    labels = CONCEPTS["technique"].labels(sites)
    for row, (board, cell) in enumerate(boards_and_cells(sites)):
        own = plain_candidates(board, cell)
        hidden = any(
            all(digit not in plain_candidates(board, other) for other in unit if other != cell) for unit in units_of(cell) for digit in own
        )
        assert labels[row].tolist() == [len(own) == 1, hidden and len(own) != 1]
    assert labels.any(0).all()
    assert not labels.any(1).all()


def test_hidden_single_units_are_where_a_digit_has_one_place() -> None:
    board = generate(1, "hidden_singles", seed=9).givens
    found = hidden_single_units(candidate_sets(board))[0]
    for cell in range(N_CELLS):
        for digit in range(1, 10):
            for kind, unit in enumerate(units_of(cell)):
                places = [other for other in unit if digit in plain_candidates(board[0].tolist(), other)]
                assert found[cell, digit - 1, kind] == (places == [cell])


def test_peer_tokens_decide_candidates_without_a_network() -> None:
    """The baseline's features hold the answer: a digit is a candidate exactly where no peer's one-hot names it."""
    sites = sites_of()
    features = peer_tokens(sites).reshape(len(sites), 20, 10)
    assert (features.sum(2) == 1).all()
    assert (~features[:, :, 1:].any(1) == CONCEPTS["candidates"].labels(sites)).all()
