"""From a reading of sudoku boards to what the board viewer shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int8

from interp.narration import Statement
from interp.reading import Reading
from interp.viz.board_trace import BoardStep, BoardTrace
from interp.viz.statement_view import statement_views
from models.tasks.sudoku.board import N_CELLS
from models.tasks.sudoku.task import SOLUTION, SUDOKU


def _numbers(values: Float[np.ndarray, " cell"]) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(value) else round(float(value), 4) for value in values)


def _pencil(values: Float[np.ndarray, "cell digit"], unwritten: np.ndarray) -> tuple[tuple[float, ...], ...]:
    shown = np.where(unwritten[:, None], np.nan_to_num(values), 0.0).round(3)
    return tuple(tuple(row) for row in shown.tolist())


def _board_step(boards: Int8[np.ndarray, "step cell"], step: int, confidence: np.ndarray, pencil: np.ndarray) -> BoardStep:
    now, before = boards[step], boards[max(step - 1, 0)]
    changed = np.flatnonzero(now != before)
    return BoardStep(
        digits=tuple(now.tolist()),
        written=tuple(cell for cell in changed.tolist() if now[cell] > 0),
        revised=tuple(cell for cell in changed.tolist() if before[cell] > 0),
        confidence=_numbers(confidence[step]),
        pencil=_pencil(pencil[step], before == 0) if step else None,
    )


def board_traces(
    reading: Reading, solutions: Int8[np.ndarray, "sample cell"], statements: Sequence[Statement], samples: Sequence[int] | None = None
) -> list[BoardTrace]:
    """Returns one view a sample (all of them unless ``samples`` picks some), with the candidate reader's pencil marks."""
    trajectory = reading.trajectory
    boards = np.stack([SUDOKU.boards(trajectory.tokens(step)) for step in range(trajectory.n_steps + 1)], axis=1)
    views, last = [], trajectory.last_step
    for sample in range(trajectory.n_samples) if samples is None else samples:
        confidence = trajectory.data["confidence"].values[sample][:, SOLUTION]
        pencil = reading.scores["candidates"].values[sample]
        givens = trajectory.tokens(0)[sample, :N_CELLS]
        views.append(
            BoardTrace(
                title=f"Board {sample + 1}: {int((givens > 0).sum())} givens, {trajectory.calls[sample]} calls",
                model=trajectory.model,
                policy=trajectory.policy,
                givens=tuple(givens.tolist()),
                solution=tuple(solutions[sample].tolist()),
                steps=tuple(_board_step(boards[sample], step, confidence, pencil) for step in range(int(last[sample]) + 1)),
                statements=statement_views(statements, sample, SOLUTION),
            )
        )
    return views
