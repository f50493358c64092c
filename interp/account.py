"""A trajectory told as a pseudo chain of thought: readers made, statements written and graded, a page drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int8

from interp.boards import mixed_boards
from interp.grading import verdict_of
from interp.narration import Statement, Support, narrate, to_jsonl, with_support
from interp.reading import Reader, Reading, ReadingError, load_readers, puzzle_readers, read
from interp.transfer import Twins
from interp.verdict import MEASURES
from interp.viz.page import render_trace_page, write_page
from interp.viz.sudoku_view import board_traces
from models.language_model import LanguageModel
from models.load import load
from models.tasks.sudoku.board import N_CELLS
from models.tasks.sudoku.generator import RUNGS
from models.tasks.sudoku.solver import solve
from models.tasks.sudoku.task import SUDOKU
from models.trajectory import Trajectory

Tell = Callable[[str, int, int], None]
FITTED, CALIBRATED = 300, 100
"""Boards that readers are fitted and calibrated on."""
CAUSAL = {"sudoku": "sudoku-ar", "stories": "stories-ar"}
"""By task, the bundled causal twin."""


@dataclass(frozen=True)
class Account:
    """A reading and what it says."""

    reading: Reading
    solutions: Int8[np.ndarray, "sample cell"]
    statements: list[Statement]

    @property
    def trajectory(self) -> Trajectory:
        """The run that it tells."""
        return self.reading.trajectory


def fit_readers(ar: str, diffusion: LanguageModel, *, seed: int = 0, tell: Tell = lambda stage, done, total: None) -> dict[str, Reader]:
    """Returns readers of the narrated concepts, learned on a causal twin and calibrated on runs of the diffusion twin.

    Args:
        ar: The causal twin, a bundled name or a folder.
        diffusion: The diffusion twin.
        seed: Of boards, masks and draws.
        tell: Told (stage, done, total).
    """
    tell("fit readers", 0, 1)
    boards = mixed_boards(FITTED + CALIBRATED, seed, RUNGS)
    found = puzzle_readers(Twins(load(ar), diffusion), boards, FITTED, sources=("ar",), seed=seed)["ar"]
    tell("fit readers", 1, 1)
    return found


def readers_for(
    model: LanguageModel, folder: Path | None, ar: str | None, *, seed: int = 0, tell: Tell = lambda stage, done, total: None
) -> dict[str, Reader]:
    """Returns the readers of a folder, or new ones learned on a causal twin (None: the bundled one of the task)."""
    return load_readers(folder, model) if folder else fit_readers(ar or CAUSAL[model.facts.task], model, seed=seed, tell=tell)


def solutions_of(trajectory: Trajectory) -> Int8[np.ndarray, "sample cell"]:
    """Returns the only solution of each board of a sudoku trajectory; raises PuzzleError where a board has not exactly one."""
    return np.stack([solve(board.astype(np.int8)) for board in trajectory.tokens(0)[:, :N_CELLS]])


def account_of(
    model: LanguageModel,
    trajectory: Trajectory,
    readers: Mapping[str, Reader],
    *,
    support: Mapping[str, Support] | None = None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Account:
    """Returns the account of a sudoku trajectory; its boards are solved for grading.

    Args:
        model: The model of the trajectory.
        trajectory: What is told.
        readers: Readers of the model, by concept.
        support: By kind of statement, what a causal test has shown (``interp.faithfulness.support``).
        on_step: Told (calls read, calls).

    Raises:
        ReadingError: Where trajectory, readers and model do not belong together.
        PuzzleError: Where a board has not exactly one solution.
    """
    missing = [name for name in ("candidates", "digit") if name not in readers]
    if missing:
        raise ReadingError(f"there is no reader of {', '.join(missing)}; boards are told from readers of candidates and digit")
    solutions = solutions_of(trajectory)
    reading = read(model, trajectory, readers, on_step)
    return Account(reading, solutions, with_support(narrate(reading, solutions), support or {}))


def verdict_lines(account: Account, seed: int = 0) -> dict[str, str]:
    """Returns what is known of how far an account can be believed, by what is asked; shares with 95 % intervals over samples."""
    truth = account.trajectory.tokens(-1).copy()
    truth[:, SUDOKU.target] = account.solutions
    verdict = verdict_of(account.trajectory, account.statements, truth)
    found = {}
    for name, one in MEASURES.items():
        tally = verdict.get((name, ""))
        if tally is not None and tally.of.any():
            said = tally.estimate(seed)
            form = ".1f" if one.unit == "calls" else ".1%"
            found[one.title] = f"{said.value:{form}} [{said.low:{form}}, {said.high:{form}}] {one.unit}, n = {said.n}"
    return found


def write_account(account: Account, folder: Path) -> None:
    """Writes ``reading.jsonl`` and the standalone page ``index.html``."""
    traces = board_traces(account.reading, account.solutions, account.statements)
    write_page(render_trace_page(traces, "A denoising run, step by step"), folder / "index.html")
    (folder / "reading.jsonl").write_text(to_jsonl(account.statements), encoding="utf-8")
