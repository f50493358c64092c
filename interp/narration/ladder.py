"""Why a cell was written: the easiest rule of sudoku that a grid of read candidates gives, and how it is told and graded."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float

from models.tasks.sudoku.board import unit_name
from models.tasks.sudoku.deductions import Deduction, Grid, deduce, singles

Justification = Literal["only_candidate", "only_place", "elimination"]
JUSTIFICATIONS: tuple[Justification, ...] = get_args(Justification)
"""Kinds of statement that give a reason for what was written."""
UNREASONED = ("excluded", "guess", "unexplained")
"""Kinds of statement that say that none was read."""

POSSIBLE = 0.5
"""A digit reads as a candidate from this probability on: here a claim that it is absent counts as much as one that it is there, so this is
no threshold of a false-alarm rate."""
EXCLUDED = 0.1
"""The digit that was written reads as excluded below this probability; between here and ``POSSIBLE`` the reader does not say."""
DEPTH = 1
"""Rounds of eliminations. On 80 boards of all rungs a second and a third would explain .7 % more of what was written, in longer words."""

Read = Float[np.ndarray, "cell digit"]
Unwritten = Bool[np.ndarray, " cell"]


def _grid(read: Read, unwritten: Unwritten, cell: int, digit: int) -> Grid:
    """Returns the candidates as read, for the question why a digit went into a cell."""
    grid = (read >= POSSIBLE) & unwritten[:, None]
    grid[cell, digit - 1] = read[cell, digit - 1] >= EXCLUDED
    return grid


def sureness(reason: Deduction, read: Read, unwritten: Unwritten) -> float:
    """Returns how surely the most doubtful of all that a reason rests on was read."""
    return 1 - max((float(read[cell, digit]) for cell, digit in rests_on(reason, read, unwritten)), default=0.0)


def rests_on(reason: Deduction, read: Read, unwritten: Unwritten) -> list[tuple[int, int]]:
    """Returns the (cell, digit - 1) whose absence a reason rests on, the most doubtful first."""
    absent = reason.rests_on(_grid(read, unwritten, reason.cell, reason.digit)) & unwritten[:, None]
    return sorted(((int(cell), int(digit)) for cell, digit in np.argwhere(absent)), key=lambda place: -read[place])


def reason_for(read: Read, unwritten: Unwritten, cell: int, digit: int) -> Deduction | None:
    """Returns why a digit went into a cell, from the read candidates alone: a single, or one after eliminations; None where there is none.

    The only candidate goes before the only place, of several the one that is read the surest.
    """
    grid = _grid(read, unwritten, cell, digit)
    found = singles(grid, cell, digit)
    if not found:
        return deduce(grid, cell, digit, DEPTH)
    return found[0] if found[0].unit is None else max(found, key=lambda reason: sureness(reason, read, unwritten))


def kind_of(reason: Deduction) -> Justification:
    """Returns the kind of statement that tells a reason."""
    if reason.rounds:
        return "elimination"
    return "only_candidate" if reason.unit is None else "only_place"


def in_words(reason: Deduction) -> str:
    """Returns a reason as a clause."""
    single = "only candidate left" if reason.unit is None else f"only place for {reason.digit} in {unit_name(reason.unit)}"
    return f"{single} once set aside: {'; '.join(map(str, reason.steps))}" if reason.rounds else single
