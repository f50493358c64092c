"""Unseen sudoku boards of several kinds, mixed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.tasks.sudoku.generator import Puzzles, Rung, generate


def mixed_boards(n: int, seed: int, rungs: Sequence[Rung] = ("naked_singles", "hidden_singles")) -> Puzzles:
    """Returns boards of the test stream, each rung in its turn."""
    parts = [generate(-(-n // len(rungs)), rung, seed=seed) for rung in rungs]
    turn = np.arange(n)
    order = turn // len(rungs) + turn % len(rungs) * len(parts[0])
    return Puzzles(*(np.concatenate([getattr(part, name) for part in parts])[order] for name in ("givens", "solutions")))
