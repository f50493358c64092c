"""Narration over planted readings: perfect readers give a sound account, wrong ones are called out, nothing is read off the board."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from interp.concepts import CONCEPTS
from interp.concepts.sudoku import DIGITS, candidate_sets
from interp.narration import Statement, lead_steps, narrate, summary_lines, to_jsonl
from interp.reading import Reader, Reading
from interp.verdict import judge
from models.hookpoints import resid_post
from models.recorder import Recorder
from models.tasks.sudoku.board import UNITS, cell_name
from models.tasks.sudoku.generator import Puzzles, generate
from models.tasks.sudoku.solver import single_waves
from models.tasks.sudoku.task import MASK_ID, SOLUTION, SUDOKU
from models.trajectory import Trajectory
from probes.linear import LinearProbe

ATTRIBUTES = {"model": "planted", "fingerprint": "planted:0", "task": "sudoku", "policy": "waves", "options": "{}", "seed": 0}


def wave_trajectory(puzzles: Puzzles) -> Trajectory:
    """One call a wave of singles: what a perfect propagator would write."""
    prompts = SUDOKU.prompt(puzzles).numpy()
    truth = SUDOKU.encode(puzzles).numpy()
    waves = np.stack([single_waves(board, hidden=True) for board in puzzles.givens])
    recorder = Recorder(prompts, prompts == MASK_ID, MASK_ID)
    for step in range(1, waves.max() + 1):
        rows = np.flatnonzero(waves.max(1) >= step)
        canvas = prompts.copy()
        written = waves <= step
        canvas[:, SOLUTION] = np.where(written, truth[:, SOLUTION], prompts[:, SOLUTION])
        spoken = {name: np.full((len(rows), prompts.shape[1]), 0.9, np.float32) for name in ("confidence", "margin", "entropy")}
        recorder.add(rows, canvas[rows], {"proposal": truth[rows], **spoken})
    return recorder.finish(ATTRIBUTES)


def reader(name: str) -> Reader:
    probe = LinearProbe(torch.zeros(9, 4), torch.zeros(9), DIGITS, "logistic", "ar:0")
    return Reader(CONCEPTS[name], resid_post(3), probe, "planted:0", 1.0)


def planted_reading(puzzles: Puzzles, *, sure: float = 0.98) -> Reading:
    """Candidates read as the rules have them; the digit of the solution reads as decided from the first call on."""
    trajectory = wave_trajectory(puzzles)
    steps = trajectory.n_steps + 1
    shape = (len(puzzles), steps, 81, 9)
    candidates, digits = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    for step in range(1, steps):
        allowed = candidate_sets(SUDOKU.boards(trajectory.tokens(step - 1)))
        candidates[:, step] = np.where(allowed, sure, 1 - sure)
        digits[:, step] = np.where(np.arange(1, 10) == puzzles.solutions[..., None], sure, 0.05)
    dims = ("sample", "step", "position", "head")
    scores = {"candidates": xr.DataArray(candidates, dims=dims), "digit": xr.DataArray(digits, dims=dims)}
    return Reading(trajectory, {name: reader(name) for name in scores}, scores)


def of_kind(statements: list[Statement], kind: str) -> list[Statement]:
    return [statement for statement in statements if statement.kind == kind]


NAKED = generate(3, "naked_singles", seed=11)
HIDDEN = generate(3, "hidden_singles", seed=11)


def test_on_naked_single_boards_a_perfect_reader_justifies_every_cell_soundly() -> None:
    puzzles = Puzzles(NAKED.givens, NAKED.solutions)
    reading = planted_reading(puzzles)
    statements = narrate(reading, puzzles.solutions)
    written = [statement for statement in statements if statement.kind != "decided"]
    assert len(written) == (puzzles.givens == 0).sum()
    assert {statement.kind for statement in written} <= {"only_candidate", "only_place"}
    assert all(statement.sound for statement in written)
    entry = judge(reading, statements, [], seed=0)
    assert entry.coverage.value == 1.0
    assert entry.sound.value == 1.0
    assert entry.sound.n == 3
    assert entry.revised == 0.0


def test_hidden_singles_are_told_with_the_unit_that_leaves_one_place() -> None:
    statements = narrate(planted_reading(HIDDEN), HIDDEN.solutions)
    places = of_kind(statements, "only_place")
    assert places
    for statement in places:
        assert statement.sound
        assert f"only place for {statement.digit} in " in statement.text
        kind, _, number = statement.text.split(" in ")[1].split(" (")[0].partition(" ")
        unit = ("row", "column", "box").index(kind) * 9 + int(number) - 1
        assert statement.cells[0] in UNITS[unit]
        assert statement.evidence[0].cell == cell_name(statement.cells[0])


def test_the_account_comes_from_the_readers_and_not_from_the_board() -> None:
    """Readers that know nothing justify nothing, however plain the board is; readers that exclude everything are contradicted by it."""
    reading = planted_reading(NAKED)
    blank = {name: values.copy(data=np.where(np.isnan(values), np.nan, 0.6)) for name, values in reading.scores.items()}
    statements = narrate(replace(reading, scores=blank), NAKED.solutions)
    assert {statement.kind for statement in statements} == {"unexplained"}
    assert all(statement.sound is None for statement in statements)
    never = {name: values.copy(data=np.where(np.isnan(values), np.nan, 0.01)) for name, values in reading.scores.items()}
    statements = narrate(replace(reading, scores=never), NAKED.solutions)
    assert {statement.kind for statement in statements} == {"excluded"}
    assert not any(statement.sound for statement in statements)


def test_a_reading_of_other_boards_is_called_out() -> None:
    """The same scores shifted to another board's place keep their form and lose their soundness."""
    reading = planted_reading(NAKED)
    shifted = {name: values.copy(data=np.roll(values.values, 1, axis=0)) for name, values in reading.scores.items()}
    right = judge(reading, narrate(reading, NAKED.solutions), [], seed=0)
    wrong = replace(reading, scores=shifted)
    wrong_statements = [
        statement for statement in narrate(wrong, NAKED.solutions) if not any(np.isnan(item.probability) for item in statement.evidence)
    ]
    assert judge(wrong, wrong_statements, [], seed=0).sound.high < right.sound.low


def test_decided_is_said_once_before_the_cell_is_written_and_graded_by_the_solution() -> None:
    reading = planted_reading(HIDDEN)
    wrong = HIDDEN.solutions.copy()
    wrong[:] = wrong % 9 + 1
    decided = of_kind(narrate(reading, HIDDEN.solutions), "decided")
    waves = np.stack([single_waves(board, hidden=True) for board in HIDDEN.givens])
    assert len(decided) == (waves > 1).sum()
    assert len({(statement.sample, statement.cells) for statement in decided}) == len(decided)
    assert all(statement.sound for statement in decided)
    assert not any(statement.sound for statement in of_kind(narrate(reading, wrong), "decided"))


def test_lead_is_the_steps_between_readable_and_written() -> None:
    reading = planted_reading(NAKED)
    leads, samples = lead_steps(reading)
    waves = np.stack([single_waves(board, hidden=True) for board in NAKED.givens])
    assert sorted(leads) == sorted((waves[waves > 0] - 1).tolist())
    assert set(samples) == {0, 1, 2}
    never = reading.scores["digit"].copy(data=np.zeros_like(reading.scores["digit"].values))
    assert not lead_steps(replace(reading, scores={**reading.scores, "digit": never}))[0].any()


def test_a_revision_is_told() -> None:
    puzzles = NAKED[:1]
    prompt = SUDOKU.prompt(puzzles).numpy()
    cell = int(np.flatnonzero(puzzles.givens[0] == 0)[0])
    first, second = prompt.copy(), prompt.copy()
    first[0, SOLUTION.start + cell], second[0, SOLUTION.start + cell] = 4, 6
    recorder = Recorder(prompt, prompt == MASK_ID, MASK_ID)
    spoken = {name: np.zeros(prompt.shape, np.float32) for name in ("confidence", "margin", "entropy")}
    for canvas in (first, second):
        recorder.add(np.array([0]), canvas, {"proposal": canvas, **spoken})
    trajectory = recorder.finish(ATTRIBUTES)
    scores = {
        name: xr.DataArray(np.full((1, 3, 81, 9), 0.6, np.float32), dims=("sample", "step", "position", "head"))
        for name in ("candidates", "digit")
    }
    statements = narrate(Reading(trajectory, {name: reader(name) for name in scores}, scores), puzzles.solutions)
    assert [statement.text for statement in of_kind(statements, "revised")] == [f"{cell_name(cell)}: 4 -> 6"]


def test_jsonl_and_the_terminal_tell_the_same_statements() -> None:
    statements = narrate(planted_reading(HIDDEN), HIDDEN.solutions)
    lines = [json.loads(line) for line in to_jsonl(statements).splitlines()]
    assert [line["text"] for line in lines] == [statement.text for statement in statements]
    assert set(lines[0]) == {"sample", "step", "kind", "text", "cells", "digit", "evidence", "sound"}
    told = list(summary_lines(statements))
    for statement in statements:
        assert statement.kind == "decided" or f"step {statement.step}: {statement.text}" in told
    first = of_kind(statements, "decided")[0]
    assert any(f"{cell_name(first.cells[0])}={first.digit}" in line for line in told if "newly decided" in line)


def test_no_checkable_statement_is_told_apart_from_none_sound() -> None:
    reading = planted_reading(NAKED)
    assert np.isnan(judge(reading, narrate(reading, NAKED.solutions), [], seed=0).random_reader_sound.value)
    assert (
        pytest.approx(1.0) == judge(reading, narrate(reading, NAKED.solutions), narrate(reading, NAKED.solutions)).random_reader_sound.value
    )
