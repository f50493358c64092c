"""Sudoku as text: ``[81 givens][SEP][81 solution cells]``, one token a cell, only solution cells ever masked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Int, Int8
from torch import Tensor

from models.tasks.base import Batch, TaskError, TrainingData, Verdicts
from models.tasks.sudoku.board import N_CELLS, conflicts, format_board, parse_board
from models.tasks.sudoku.files import read_puzzles
from models.tasks.sudoku.generator import GIVENS, RUNGS, Puzzles, Rung, generate
from models.tasks.sudoku.solver import solve
from models.tasks.sudoku.symmetry import random_symmetries

SEPARATOR_ID = 10
MASK_ID = 11
SOLUTION = slice(N_CELLS + 1, 2 * N_CELLS + 1)
"""The positions of the solution half."""

TRAINING_MIX: dict[Rung, float] = {"naked_singles": 0.2, "hidden_singles": 0.3, "eliminations": 0.25, "guessing": 0.25}
TRAINING_EXAMPLES = 100_000
TRAINING_GIVENS = (17, 34)
"""Half of the boards aim at fewer givens than can be had, and so keep none that they could do without."""
SPARSE_MIX: dict[Rung, float] = {"hidden_singles": 0.5, "eliminations": 0.3, "guessing": 0.2}
SPARSE_GIVENS = (17, 21)
SPARSE = 0.4
"""The share of training boards drawn from the sparse ones, where any are asked for."""
THINNED = 0.15
"""The share of training boards that lose more givens, down to 17 at the fewest, and with them their only solution: so the network meets
canvases as empty as the hardest puzzles', and learns which cells are certain on them."""


def _kept(rng: np.random.Generator, givens: Int8[np.ndarray, "board cell"]) -> Bool[np.ndarray, "board cell"]:
    """Returns which givens to keep: all of most boards, a random subset of at least 17 of the share ``THINNED``."""
    count = (givens > 0).sum(axis=1)
    left = np.where(rng.random(len(givens)) < THINNED, rng.integers(17, np.maximum(count, 17) + 1), count)
    rank = np.argsort(np.argsort(np.where(givens > 0, rng.random(givens.shape), 2.0), axis=1), axis=1)
    return rank < left[:, None]


def _pool(n_examples: int, mix: Mapping[str, float], givens: tuple[int, int], seed: int) -> Puzzles:
    """Returns boards of the train stream, and no fewer than one for each rung of the mix."""
    pools = [
        generate(max(1, round(n_examples * share)), cast("Rung", rung), seed=seed, split="train", givens_range=givens)
        for rung, share in mix.items()
    ]
    return Puzzles(np.concatenate([p.givens for p in pools]), np.concatenate([p.solutions for p in pools]))


def _training_pools(data: TrainingData, seed: int) -> tuple[Puzzles, Puzzles | None]:
    """Returns the boards to learn from, and the sparse ones to learn from beside them."""
    mix = data.mix or {str(rung): share for rung, share in TRAINING_MIX.items()}
    pool = _pool(data.examples or TRAINING_EXAMPLES, mix, data.givens or TRAINING_GIVENS, seed)
    return pool, _pool(data.sparse, cast("Mapping[str, float]", SPARSE_MIX), SPARSE_GIVENS, seed) if data.sparse else None


def _drawn(rng: np.random.Generator, n: int, pool: Puzzles, sparse: Puzzles | None) -> Puzzles:
    boards = pool[rng.integers(0, len(pool), n)]
    if sparse is None:
        return boards
    others, swapped = sparse[rng.integers(0, len(sparse), n)], (rng.random(n) < SPARSE)[:, None]
    return Puzzles(np.where(swapped, others.givens, boards.givens), np.where(swapped, others.solutions, boards.solutions))


class Sudoku:
    """The sudoku task (see ``models.tasks.base.PuzzleTask``)."""

    name: str = "sudoku"
    vocabulary: tuple[str, ...] = (*"0123456789", "[SEP]", "[MASK]")
    mask_token_id: int = MASK_ID
    hidden_token_id: int = MASK_ID
    levels: tuple[str, ...] = RUNGS
    length: int = 2 * N_CELLS + 1
    target: slice = SOLUTION

    def generate(self, n: int, level: str, *, givens: tuple[int, int] | None = None, seed: int = 0) -> Puzzles:
        """Returns puzzles of the test stream on a rung of the ladder (see ``generator.generate``)."""
        return generate(n, cast("Rung", level), seed=seed, givens_range=givens or GIVENS)

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

    def training_batches(self, data: TrainingData, batch: int, seed: int, first_step: int = 0) -> Iterator[Batch]:
        """Yields endless batches of freshly transformed training boards; every cell of the solution is learned.

        Raises:
            TaskError: On files, which it does not learn from, or a mix that names no rungs or does not add up to 1.
        """
        if data.files:
            raise TaskError("sudoku is learned from generated boards: give a number of examples or a mix, and no files")
        mix = data.mix
        if mix and not (set(mix) <= set(RUNGS) and min(mix.values()) >= 0 and math.isclose(sum(mix.values()), 1, abs_tol=1e-6)):
            raise TaskError(f"the mix is {dict(mix)}; it must give shares that add up to 1 to some of {', '.join(RUNGS)}")
        pool, sparse = _training_pools(data, seed)
        target = torch.zeros(batch, self.length, dtype=torch.bool)
        target[:, SOLUTION] = True
        step = first_step
        while True:
            rng = np.random.default_rng((seed, step))
            drawn = _drawn(rng, batch, pool, sparse)
            symmetry = random_symmetries(rng, batch)
            givens = np.where(_kept(rng, drawn.givens), drawn.givens, 0)
            yield Batch(self.encode(Puzzles(symmetry.apply(givens), symmetry.apply(drawn.solutions))), target)
            step += 1


SUDOKU = Sudoku()
