"""Eliminations told from read candidates alone, graded on the true ones; and accounts that belong to another call or another board."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from planted_runs import perfect_reading, run_of

from interp.concepts.sudoku import candidate_sets
from interp.narration import JUSTIFICATIONS, Statement, narrate
from interp.reading import Reading
from models.tasks.sudoku.deductions import Deduction, deduce
from models.tasks.sudoku.generator import Puzzles, generate
from models.tasks.sudoku.task import SOLUTION, SUDOKU

BOARDS = generate(12, "eliminations", seed=11)
CALLS = 16


def found() -> tuple[Puzzles, Deduction]:
    """Returns a board, and a cell of it that takes one round of eliminations and no single writes."""
    for number in range(len(BOARDS)):
        puzzles = BOARDS[number : number + 1]
        grid = candidate_sets(puzzles.givens)[0]
        for cell in np.flatnonzero(puzzles.givens[0] == 0).tolist():
            reason = deduce(grid, cell, int(puzzles.solutions[0, cell]), 1)
            if reason is not None and reason.rounds:
                return puzzles, reason
    raise AssertionError("no board needs an elimination first")


PUZZLES, REASON = found()


def wrote_it() -> Reading:
    """Returns a perfect reading of the run whose one call writes that cell."""
    prompt = SUDOKU.prompt(PUZZLES).numpy()
    written = prompt.copy()
    written[0, SOLUTION.start + REASON.cell] = REASON.digit
    return perfect_reading(run_of([prompt, written]), PUZZLES)


def reason_told(reading: Reading) -> Statement:
    (told,) = [one for one in narrate(reading) if one.step == 1 and one.positions == (SOLUTION.start + REASON.cell,) and one.kind != "next"]
    return told


def reread(reading: Reading, places: np.ndarray, probability: float) -> Reading:
    """Returns the reading with another number read of these (cell, digit) candidates."""
    values = reading.scores["candidates"].values.copy()
    values[0, 1][places] = probability
    return replace(reading, scores={**reading.scores, "candidates": reading.scores["candidates"].copy(data=values)})


def test_an_elimination_is_named_and_sound_where_the_rules_have_it() -> None:
    told = reason_told(wrote_it())
    assert told.kind == "elimination"
    assert told.sound
    assert all(str(step) in told.text for step in REASON.steps)
    assert " once set aside: " in told.text


def test_an_elimination_is_not_told_where_a_candidate_that_it_rests_on_absent_is_read() -> None:
    """Every other route is closed too: with all of them read as possible there is nothing left to reason from."""
    told = reason_told(reread(wrote_it(), np.ones((81, 9), dtype=bool), 0.9))
    assert told.kind == "guess"
    assert told.sound is None


def test_a_reason_read_where_the_rules_have_none_is_unsound() -> None:
    """The reader misses every other candidate of the cell: it says so plainly, and the board says otherwise."""
    missed = np.zeros((81, 9), dtype=bool)
    missed[REASON.cell] = True
    missed[REASON.cell, REASON.digit - 1] = False
    told = reason_told(reread(wrote_it(), missed, 0.02))
    assert told.kind == "only_candidate"
    assert told.sound is False


def test_a_doubtful_digit_may_be_written_for_a_reason_and_an_excluded_one_may_not() -> None:
    own = np.zeros((81, 9), dtype=bool)
    own[REASON.cell, REASON.digit - 1] = True
    assert reason_told(reread(wrote_it(), own, 0.2)).kind == "elimination"
    excluded = reason_told(reread(wrote_it(), own, 0.05))
    assert (excluded.kind, excluded.sound) == ("excluded", False)


def test_the_reasons_of_one_call_do_not_pass_for_those_of_another() -> None:
    """A run of one naked single a call, read rightly, then with its calls read in the reverse order."""
    puzzles = generate(1, "naked_singles", seed=12)
    canvases = [SUDOKU.prompt(puzzles).numpy()]
    for _ in range(CALLS):
        canvases.append(canvases[-1].copy())
        cell = np.flatnonzero(candidate_sets(SUDOKU.boards(canvases[-1]))[0].sum(axis=1) == 1)[0]
        canvases[-1][0, SOLUTION.start + cell] = puzzles.solutions[0, cell]
    reading = perfect_reading(run_of(canvases), puzzles)
    values = reading.scores["candidates"].values.copy()
    values[0, 1:] = values[0, :0:-1]
    other = replace(reading, scores={**reading.scores, "candidates": reading.scores["candidates"].copy(data=values)})

    def sound(told: Reading) -> float:
        return sum(bool(one.sound) for one in narrate(told) if one.kind in JUSTIFICATIONS) / CALLS

    assert sound(reading) == 1.0
    assert sound(other) < 0.5
