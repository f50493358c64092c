"""Narration over planted readings: perfect readers give a sound account, wrong ones are called out, nothing is read off the board."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from planted_runs import perfect_reading, reading_of, run_of, wave_run

from interp.narration import JUSTIFICATIONS, UNREASONED, Statement, everything, lead_steps, line_a_step, narrate, to_jsonl
from interp.reading import Reading
from interp.verdict import judge
from models.tasks.sudoku.board import UNITS, cell_name
from models.tasks.sudoku.generator import generate
from models.tasks.sudoku.solver import single_waves
from models.tasks.sudoku.task import SOLUTION, SUDOKU

OF_WRITING = (*JUSTIFICATIONS, *UNREASONED)


def rescored(reading: Reading, **values: float) -> Reading:
    """Returns the reading with the same number read everywhere, by concept."""
    scores = {name: reading.scores[name].copy(data=np.where(np.isnan(reading.scores[name]), np.nan, one)) for name, one in values.items()}
    return replace(reading, scores=scores)


def of_kind(statements: list[Statement], kind: str) -> list[Statement]:
    return [statement for statement in statements if statement.kind == kind]


Told = tuple[Reading, list[Statement]]
NAKED = generate(3, "naked_singles", seed=11)
HIDDEN = generate(3, "hidden_singles", seed=11)


@pytest.fixture(scope="module")
def naked() -> Told:
    reading = perfect_reading(wave_run(NAKED), NAKED)
    return reading, narrate(reading)


@pytest.fixture(scope="module")
def hidden() -> Told:
    reading = perfect_reading(wave_run(HIDDEN), HIDDEN)
    return reading, narrate(reading)


def test_on_naked_single_boards_a_perfect_reader_justifies_every_cell_soundly(naked: Told) -> None:
    reading, statements = naked
    written = [statement for statement in statements if statement.kind in OF_WRITING]
    assert len(written) == (NAKED.givens == 0).sum()
    assert {statement.kind for statement in written} <= {"only_candidate", "only_place"}
    assert all(statement.sound for statement in written)
    entry = judge(reading, statements, [], seed=0)
    assert entry.coverage.value == 1.0
    assert entry.sound.value == 1.0
    assert entry.sound.n == 3
    assert entry.revised == 0.0


def test_hidden_singles_are_told_with_the_unit_that_leaves_one_place(hidden: Told) -> None:
    places = of_kind(hidden[1], "only_place")
    assert places
    for statement in places:
        assert statement.sound
        assert f"only place for {statement.value} in " in statement.text
        kind, _, number = statement.text.split(" in ")[1].split(" (")[0].partition(" ")
        unit = ("row", "column", "box").index(kind) * 9 + int(number) - 1
        assert statement.positions[0] - SOLUTION.start in UNITS[unit]
        assert statement.places == (cell_name(statement.positions[0] - SOLUTION.start),)
        assert statement.evidence[0].place == statement.places[0]
        assert statement.evidence[0].position == statement.positions[0]


def test_the_account_comes_from_the_readers_and_not_from_the_board() -> None:
    """Readers that know nothing justify nothing, however plain the board is; readers that exclude everything are contradicted by it."""
    reading = perfect_reading(wave_run(NAKED[:1]), NAKED[:1])
    blank = narrate(rescored(reading, candidates=0.6, digit=0.4))
    assert {statement.kind for statement in blank} == {"unexplained", "next"}
    assert all(statement.sound is None for statement in blank)
    never = narrate(rescored(reading, candidates=0.01, digit=0.01))
    assert {statement.kind for statement in never} == {"excluded", "next"}
    assert not any(statement.sound for statement in never)


def test_a_reading_of_other_boards_is_called_out(naked: Told) -> None:
    """The same scores shifted to another board's place keep their form and lose their soundness."""
    reading, statements = naked
    shifted = {name: values.copy(data=np.roll(values.values, 1, axis=0)) for name, values in reading.scores.items()}
    right = judge(reading, statements, [], seed=0)
    wrong = replace(reading, scores=shifted)
    wrong_statements = [one for one in narrate(wrong) if not any(np.isnan(item.probability) for item in one.evidence)]
    assert judge(wrong, wrong_statements, [], seed=0).sound.high < right.sound.low


def test_decided_is_said_once_before_the_cell_is_written_and_graded_by_what_the_run_ends_with(hidden: Told) -> None:
    reading, decided = hidden[0], of_kind(hidden[1], "decided")
    waves = np.stack([single_waves(board, hidden=True) for board in HIDDEN.givens])
    assert len(decided) == (waves > 1).sum()
    assert len({(statement.sample, statement.positions) for statement in decided}) == len(decided)
    assert all(statement.sound for statement in decided)
    other = {**reading.scores, "digit": reading.scores["digit"].copy(data=np.roll(reading.scores["digit"].values, 1, axis=-1))}
    mistaken = of_kind(narrate(replace(reading, scores=other)), "decided")
    assert len(mistaken) == len(decided)
    assert not any(statement.sound for statement in mistaken)


def test_lead_is_the_steps_between_readable_and_written(naked: Told) -> None:
    reading = naked[0]
    leads, samples = lead_steps(reading)
    waves = np.stack([single_waves(board, hidden=True) for board in NAKED.givens])
    assert sorted(leads) == sorted((waves[waves > 0] - 1).tolist())
    assert set(samples) == {0, 1, 2}
    never = reading.scores["digit"].copy(data=np.zeros_like(reading.scores["digit"].values))
    assert not lead_steps(replace(reading, scores={**reading.scores, "digit": never}))[0].any()


def test_a_revision_is_told_with_what_was_written_in_its_units_since() -> None:
    """The first call writes a 4, the second a peer of the cell, the third a 6 in the place of the 4."""
    puzzles = NAKED[:1]
    prompt = SUDOKU.prompt(puzzles).numpy()
    free = np.flatnonzero(puzzles.givens[0] == 0).tolist()
    cell, peer = next((one, other) for one in free for other in free if one < other and one // 9 == other // 9)
    canvases = [prompt]
    for place, digit in ((cell, 4), (peer, 1), (cell, 6)):
        canvases.append(canvases[-1].copy())
        canvases[-1][0, SOLUTION.start + place] = digit
    unread = np.full((1, 4, 81, 9), 0.4)
    (told,) = of_kind(narrate(reading_of(run_of(canvases), candidates=unread, digit=unread)), "revised")
    assert told.text == f"{cell_name(cell)}: 4 -> 6, after {cell_name(peer)} = 1 was written"
    assert (told.step, told.places, told.value, told.sound) == (3, (cell_name(cell),), "6", None)


def test_what_a_run_never_writes_is_not_said_to_be_rightly_decided() -> None:
    """A run that ends unfinished: the claim of a cell that stays empty does not hold, whatever digit it names."""
    run = wave_run(HIDDEN[:1])
    canvases = [run.tokens(step).copy() for step in (0, 1)]
    reading = perfect_reading(run_of(canvases), HIDDEN[:1])
    empty = np.flatnonzero(SUDOKU.boards(canvases[-1])[0] == 0)
    for digit in (1, 9):
        values = reading.scores["digit"].values.copy()
        values[0, 1] = np.where(np.arange(1, 10) == digit, 0.9, 0.0)
        claimed = replace(reading, scores={**reading.scores, "digit": reading.scores["digit"].copy(data=values)})
        decided = of_kind(narrate(claimed), "decided")
        assert {one.positions[0] - SOLUTION.start for one in decided} == set(empty.tolist())
        assert not any(one.sound for one in decided)
        assert {one.lead for one in decided} == {None}


def test_jsonl_and_the_terminal_tell_the_same_statements(hidden: Told) -> None:
    statements = hidden[1]
    lines = [json.loads(line) for line in to_jsonl(statements).splitlines()]
    assert [line["text"] for line in lines] == [statement.text for statement in statements]
    told = list(everything(statements))
    assert len(told) == len(statements)
    for statement in statements:
        assert any(line.startswith(f"step {statement.step}: {statement.text}") for line in told)
    first = of_kind(statements, "decided")[0]
    assert any(f"{first.places[0]} = {first.value}" in line for line in line_a_step(statements) if "decided: " in line)


def test_no_checkable_statement_is_told_apart_from_none_sound(naked: Told) -> None:
    reading, statements = naked
    assert np.isnan(judge(reading, statements, [], seed=0).random_reader_sound.value)
    assert pytest.approx(1.0) == judge(reading, statements, statements).random_reader_sound.value
