"""Claims over whole runs: what stands claimed is what the events say, whatever is written, revised and taken back in between."""

from __future__ import annotations

import numpy as np
import pytest
from planted_runs import reading_of, run_of

from interp.narration import Claims, claims_of, events
from interp.narration.sudoku import SPOKEN
from models.tasks.sudoku.generator import Puzzles, generate
from models.tasks.sudoku.task import MASK_ID, SOLUTION, SUDOKU

SOLVED = generate(1, seed=11).solutions
OPEN = 3
"""The first cells are left to write; the others are given."""
CALLS = 12


def drawn_claims(seed: int) -> Claims:
    """Returns claims at random on a run that writes, revises and remasks at random."""
    rng = np.random.default_rng(seed)
    givens = SOLVED.copy()
    givens[0, :OPEN] = 0
    canvases = [SUDOKU.prompt(Puzzles(givens, SOLVED)).numpy()]
    for _ in range(CALLS):
        canvases.append(canvases[0].copy())
        canvases[-1][0, SOLUTION.start : SOLUTION.start + OPEN] = np.where(rng.random(OPEN) < 0.5, rng.integers(1, 10, OPEN), MASK_ID)
    scores = np.full((1, CALLS + 1, 81, 9), 0.1)
    likeliest = rng.integers(9, size=(CALLS + 1, OPEN))
    np.put_along_axis(scores[0, :, :OPEN], likeliest[..., None], rng.random((CALLS + 1, OPEN, 1)), axis=-1)
    scores[:, 0] = np.nan
    return claims_of(reading_of(run_of(canvases), digit=scores), "digit", SPOKEN)


@pytest.mark.parametrize("seed", range(5))
def test_what_stands_claimed_can_be_followed_from_event_to_event(seed: int) -> None:
    found = drawn_claims(seed)
    happened = list(events(found))
    standing: dict[int, str | None] = {}
    for step in range(1, CALLS + 1):
        here = [one for one in happened if one.step == step]
        for one in here:
            if one.kind in ("lost", "contradicted", "committed"):
                standing.pop(one.position, None)
        standing |= {one.position: one.head for one in here if one.kind == "decided"}
        open_ = found.open[0, step - 1] & found.open[0, step] & found.claimed[0, step].any(axis=-1)
        assert standing == {SOLUTION.start + cell: found.heads[found.claimed[0, step, cell].argmax()] for cell in np.flatnonzero(open_)}


@pytest.mark.parametrize("seed", range(5))
def test_a_lead_ends_where_the_position_is_written(seed: int) -> None:
    found = drawn_claims(seed)
    for one in events(found):
        if one.kind in ("readable", "decided", "lost", "next"):
            cell = one.position - SOLUTION.start
            until = found.open[0, one.step :, cell]
            assert not until.all() if one.lead is not None else until.all()
            assert one.lead is None or (until[: one.lead].all() and not until[one.lead])
