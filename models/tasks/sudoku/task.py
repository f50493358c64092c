"""Sudoku as text: ``[81 givens][SEP][81 solution cells]``, one token a cell, only solution cells ever masked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Int, Int8
from torch import Tensor

from models.tasks.base import Verdicts
from models.tasks.sudoku.board import N_CELLS, conflicts, format_board, parse_board
from models.tasks.sudoku.files import read_puzzles
from models.tasks.sudoku.generator import RUNGS, Puzzles, Rung, generate
from models.tasks.sudoku.solver import solve
from models.tasks.sudoku.symmetry import random_symmetries

SEPARATOR_ID = 10
MASK_ID = 11
SOLUTION = slice(N_CELLS + 1, 2 * N_CELLS + 1)
"""The positions of the solution half."""

TRAINING_MIX: dict[Rung, float] = {"naked_singles": 0.7, "hidden_singles": 0.2, "harder": 0.1}


class Sudoku:
    """The sudoku task (see ``models.tasks.base.Task``)."""

    name: str = "sudoku"
    vocabulary: tuple[str, ...] = (*"0123456789", "[SEP]", "[MASK]")
    mask_token_id: int = MASK_ID
    levels: tuple[str, ...] = RUNGS
    length: int = 2 * N_CELLS + 1
    target: slice = SOLUTION

    def generate(self, n: int, level: str, *, seed: int = 0) -> Puzzles:
        """Returns puzzles of the test stream on a rung of the ladder (see ``generator.generate``)."""
        return generate(n, cast("Rung", level), seed=seed)

    def texts(self, examples: Puzzles) -> list[str]:
        """Returns each puzzle as 81 characters."""
        return [format_board(board) for board in examples.givens]

    def read(self, path: Path, limit: int | None = None) -> Puzzles:
        """Returns the puzzles of a file (see ``read_puzzles``)."""
        return read_puzzles(path, limit)

    def parse(self, text: str) -> Puzzles:
        """Returns one puzzle from its 81 characters, solved; raises PuzzleError where it has not exactly one solution."""
        board = parse_board(text)
        return Puzzles(board[None], solve(board)[None])

    def encode(self, puzzles: Puzzles) -> Int[Tensor, "batch pos"]:
        """Returns whole sequences, solution written."""
        separator = np.full((len(puzzles), 1), SEPARATOR_ID)
        return torch.from_numpy(np.concatenate([puzzles.givens, separator, puzzles.solutions], axis=1).astype(np.int64))

    def prompt(self, puzzles: Puzzles) -> Int[Tensor, "batch pos"]:
        """Returns sequences whose solution half holds the givens, and the mask token in every other cell."""
        tokens = self.encode(puzzles)
        tokens[:, SOLUTION] = torch.from_numpy(np.where(puzzles.givens == 0, MASK_ID, puzzles.givens).astype(np.int64))
        return tokens

    def boards(self, tokens: Int[Tensor, "batch pos"] | Int[np.ndarray, "batch pos"]) -> Int8[np.ndarray, "batch cell"]:
        """Returns the boards written in the solution halves, 0 where the token is no digit (masked, say)."""
        cells = np.asarray(tokens)[:, SOLUTION]
        return np.where(cells <= 9, cells, 0).astype(np.int8)

    def verify(self, tokens: Int[Tensor, "batch pos"], puzzles: Puzzles) -> Verdicts:
        """Returns whether each answer is the solution (exact), keeps all rules and givens (valid), and its share of right cells."""
        boards = self.boards(tokens)
        right = boards == puzzles.solutions
        asked = puzzles.givens == 0
        valid = (boards > 0).all(axis=1) & ~conflicts(boards).any(axis=1) & (right | asked).all(axis=1)
        cells = 1 - (~right & asked).sum(axis=1) / np.maximum(asked.sum(axis=1), 1)
        return Verdicts(exact=right.all(axis=1), valid=valid, cells=cells)

    def training_sequences(self, n_examples: int, batch: int, seed: int, first_step: int = 0) -> Iterator[Int[Tensor, "batch pos"]]:
        """Yields endless batches of freshly transformed training boards; step s depends on ``seed`` and s alone."""
        pools = [generate(max(1, round(n_examples * share)), rung, seed=seed, split="train") for rung, share in TRAINING_MIX.items()]
        pool = Puzzles(np.concatenate([p.givens for p in pools]), np.concatenate([p.solutions for p in pools]))
        step = first_step
        while True:
            rng = np.random.default_rng((seed, step))
            drawn = pool[rng.integers(0, len(pool), batch)]
            symmetry = random_symmetries(rng, batch)
            yield self.encode(Puzzles(symmetry.apply(drawn.givens), symmetry.apply(drawn.solutions)))
            step += 1


SUDOKU = Sudoku()
