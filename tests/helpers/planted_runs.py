"""Runs made by hand: what is written when is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from interp.concepts import CONCEPTS
from interp.concepts.sudoku import DIGITS, candidate_sets
from interp.reading import Reader, Reading
from models.hookpoints import resid_post
from models.recorder import Recorder
from models.tasks.sudoku.generator import Puzzles
from models.tasks.sudoku.solver import single_waves
from models.tasks.sudoku.task import MASK_ID, SOLUTION, SUDOKU
from models.trajectory import Trajectory
from probes.linear import LinearProbe

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


def planted_reader(name: str) -> Reader:
    """Returns a reader of nine heads, for its name and its claims: what is likelier than not."""
    probe = LinearProbe(torch.zeros(9, 4), torch.zeros(9), DIGITS, "logistic", "ar:0")
    return Reader(CONCEPTS[name], resid_post(3), probe, "planted:0", 1.0)


def reading_of(run: Trajectory, **scores: np.ndarray) -> Reading:
    """Returns a reading in which these numbers, [sample, step, cell, digit] each, were read of each concept."""
    dims, cells = ("sample", "step", "position", "head"), np.arange(SOLUTION.start, SOLUTION.stop)
    found = {name: xr.DataArray(values.astype(np.float32), dims=dims, coords={"position": cells}) for name, values in scores.items()}
    return Reading(run, {name: planted_reader(name) for name in scores}, found)


def perfect_reading(run: Trajectory, puzzles: Puzzles, sure: float = 0.98) -> Reading:
    """Returns a reading of the candidates as the rules have them, and of the solution as decided from the first call on."""
    shape = (len(puzzles), run.n_steps + 1, 81, 9)
    candidates, digits = np.full(shape, np.nan), np.full(shape, np.nan)
    for step in range(1, run.n_steps + 1):
        rows = run.calls >= step
        allowed = candidate_sets(SUDOKU.boards(run.tokens(step - 1)))
        candidates[rows, step] = np.where(allowed, sure, 1 - sure)[rows]
        digits[rows, step] = np.where(np.arange(1, 10) == puzzles.solutions[..., None], sure, 0.05)[rows]
    return reading_of(run, candidates=candidates, digit=digits)
