"""How runs of sudoku are told: readers of candidates and digits, statements that the rules grade, a page of boards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int8

from interp.boards import mixed_boards
from interp.clock import Progress
from interp.grading import verdict_of
from interp.narration import Statement, Support, narrate, with_support
from interp.reading import Reader, Reading, ReadingError, load_readers, puzzle_readers, read, save_readers
from interp.tellers.base import OnStep, Teller
from interp.transfer import Twins
from interp.verdict import MEASURES
from interp.viz.page import render_trace_page
from interp.viz.sudoku_view import board_traces
from models.language_model import LanguageModel
from models.load import load
from models.tasks.sudoku.board import N_CELLS
from models.tasks.sudoku.generator import RUNGS
from models.tasks.sudoku.solver import solve
from models.tasks.sudoku.task import SUDOKU
from models.trajectory import Trajectory

FITTED, CALIBRATED = 300, 100
"""Boards that readers are fitted and calibrated on."""


@dataclass(frozen=True)
class BoardAccount:
    """A reading of boards and what it says."""

    reading: Reading
    solutions: Int8[np.ndarray, "sample cell"]
    statements: list[Statement]

    @property
    def trajectory(self) -> Trajectory:
        """The run that it tells."""
        return self.reading.trajectory


def solutions_of(trajectory: Trajectory) -> Int8[np.ndarray, "sample cell"]:
    """Returns the only solution of each board of a sudoku trajectory; raises PuzzleError where a board has not exactly one."""
    return np.stack([solve(board.astype(np.int8)) for board in trajectory.tokens(0)[:, :N_CELLS]])


def _fit(ar: str, diffusion: LanguageModel, seed: int, tell: Progress) -> dict[str, Reader]:
    """Returns readers of the narrated concepts, learned on a causal twin and calibrated on runs of the diffusion twin."""
    tell("fit readers", 0, 1)
    boards = mixed_boards(FITTED + CALIBRATED, seed, RUNGS)
    found = puzzle_readers(Twins(load(ar), diffusion), boards, FITTED, sources=("ar",), seed=seed)["ar"]
    tell("fit readers", 1, 1)
    return found


def _tell(
    model: LanguageModel, trajectory: Trajectory, readers: Mapping[str, Reader], support: Mapping[str, Support], on_step: OnStep
) -> BoardAccount:
    """Returns the account; the boards are solved for grading."""
    missing = [name for name in ("candidates", "digit") if name not in readers]
    if missing:
        raise ReadingError(f"there is no reader of {', '.join(missing)}; boards are told from readers of candidates and digit")
    solutions = solutions_of(trajectory)
    reading = read(model, trajectory, readers, on_step)
    return BoardAccount(reading, solutions, with_support(narrate(reading), support))


def _verdict(account: BoardAccount, seed: int) -> dict[str, str]:
    truth = account.trajectory.tokens(-1).copy()
    truth[:, SUDOKU.target] = account.solutions
    earned = {one.kind: one.support for one in account.statements if one.support != "readable"}
    verdict = verdict_of(account.trajectory, account.statements, truth, support=earned or None)
    found = {}
    for name, one in MEASURES.items():
        tally = verdict.get((name, ""))
        if tally is not None and tally.of.any():
            said = tally.estimate(seed)
            form = ".1f" if one.unit == "calls" else ".1%"
            found[one.title] = f"{said.value:{form}} [{said.low:{form}}, {said.high:{form}}] {one.unit}, n = {said.n}"
    return found


def _draw(account: BoardAccount) -> str:
    traces = board_traces(account.reading, account.solutions, account.statements)
    return render_trace_page(traces, "A denoising run, step by step")


BOARDS: Teller[Mapping[str, Reader], BoardAccount] = Teller(
    causal="sudoku-ar", fit=_fit, save=save_readers, load=load_readers, tell=_tell, verdict=_verdict, draw=_draw
)
