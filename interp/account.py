"""A trajectory told as a pseudo chain of thought: readers made, statements written, a page drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int8

from interp.boards import mixed_boards
from interp.concepts import CONCEPTS
from interp.corpus import puzzle_corpus
from interp.narration import Statement, narrate, to_jsonl
from interp.reading import Reader, Reading, best_reader, read
from interp.transfer import Twins, collect
from interp.viz.page import render_trace_page, write_page
from interp.viz.sudoku_view import board_traces
from models.hookpoints import resid_post
from models.language_model import LanguageModel
from models.load import load
from models.tasks.sudoku.board import N_CELLS
from models.tasks.sudoku.solver import solve
from models.trajectory import Trajectory

NARRATED = ("candidates", "digit")
"""The concepts that statements are made of."""


@dataclass(frozen=True)
class Account:
    """A reading and what it says."""

    reading: Reading
    solutions: Int8[np.ndarray, "sample cell"]
    statements: list[Statement]


def fit_readers(
    ar: str,
    diffusion: LanguageModel,
    *,
    sizes: tuple[int, int] = (300, 100),
    seed: int = 0,
    tell: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> dict[str, Reader]:
    """Returns readers of the narrated concepts, learned on a causal twin and calibrated on the diffusion twin.

    Args:
        ar: The causal twin, a bundled name or a folder.
        diffusion: The diffusion twin.
        sizes: Boards to fit on, and others to calibrate on.
        seed: Of boards and masks.
        tell: Told (stage, done, total).
    """
    twins = Twins(load(ar), diffusion)
    boards = mixed_boards(sum(sizes), seed)
    points = [resid_post(layer) for layer in range(diffusion.n_layers)]
    tell("fit readers", 0, len(NARRATED) + 1)
    fit, test = (puzzle_corpus(diffusion.task, part) for part in (boards[: sizes[0]], boards[sizes[0] :]))
    data = collect(twins, fit, test, points, untrained=False, seed=seed)
    readers: dict[str, Reader] = {}
    for name in NARRATED:
        tell("fit readers", len(readers) + 1, len(NARRATED) + 1)
        readers[name] = best_reader(data, CONCEPTS[name], points)
    tell("fit readers", len(NARRATED) + 1, len(NARRATED) + 1)
    return readers


def solutions_of(trajectory: Trajectory) -> Int8[np.ndarray, "sample cell"]:
    """Returns the only solution of each board of a sudoku trajectory; raises PuzzleError where a board has not exactly one."""
    return np.stack([solve(board.astype(np.int8)) for board in trajectory.tokens(0)[:, :N_CELLS]])


def account_of(
    model: LanguageModel,
    trajectory: Trajectory,
    readers: Mapping[str, Reader],
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Account:
    """Returns the account of a sudoku trajectory; its boards are solved for grading.

    Raises:
        ReadingError: Where trajectory, readers and model do not belong together.
        PuzzleError: Where a board has not exactly one solution.
    """
    solutions = solutions_of(trajectory)
    reading = read(model, trajectory, readers, on_step)
    return Account(reading, solutions, narrate(reading, solutions))


def write_account(account: Account, folder: Path) -> None:
    """Writes ``reading.jsonl`` and the standalone page ``index.html``."""
    traces = board_traces(account.reading, account.solutions, account.statements)
    write_page(render_trace_page(traces, "A denoising run, step by step"), folder / "index.html")
    (folder / "reading.jsonl").write_text(to_jsonl(account.statements), encoding="utf-8")
