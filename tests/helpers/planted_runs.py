"""Runs made by hand: what is written when is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.recorder import Recorder
from models.tasks.sudoku.generator import Puzzles
from models.tasks.sudoku.solver import single_waves
from models.tasks.sudoku.task import MASK_ID, SOLUTION, SUDOKU
from models.trajectory import Trajectory

ATTRIBUTES = {"model": "planted", "fingerprint": "planted:0", "task": "sudoku", "policy": "waves", "options": "{}", "seed": 0}


def run_of(canvases: Sequence[np.ndarray], calls: np.ndarray | None = None, confidence: float = 0.9) -> Trajectory:
    """Returns the run that goes through these canvases, [batch, pos] each; ``calls`` of each sample, all of them unless given."""
    first = np.asarray(canvases[0], dtype=np.int64)
    recorder = Recorder(first, first == MASK_ID, MASK_ID)
    for step, canvas in enumerate(canvases[1:], start=1):
        rows = np.flatnonzero(np.full(len(first), len(canvases)) >= step if calls is None else calls >= step)
        spoken = {name: np.full((len(rows), first.shape[1]), confidence, np.float32) for name in ("confidence", "margin", "entropy")}
        recorder.add(rows, np.asarray(canvas, dtype=np.int64)[rows], {"proposal": np.asarray(canvases[-1], dtype=np.int64)[rows], **spoken})
    return recorder.finish(ATTRIBUTES)


def wave_run(puzzles: Puzzles) -> Trajectory:
    """Returns the run of a perfect propagator: one call a wave of naked and hidden singles."""
    prompts, truth = SUDOKU.prompt(puzzles).numpy(), SUDOKU.encode(puzzles).numpy()
    waves = np.stack([single_waves(board, hidden=True) for board in puzzles.givens])
    canvases = [prompts]
    for step in range(1, waves.max() + 1):
        canvases.append(prompts.copy())
        canvases[-1][:, SOLUTION] = np.where(waves <= step, truth[:, SOLUTION], prompts[:, SOLUTION])
    return run_of(canvases, waves.max(1))
