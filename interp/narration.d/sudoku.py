"""The pseudo chain of thought of a sudoku trajectory: statements from templates, each with its evidence, each checked by the rules.

A statement comes from what the readers found and what the policy wrote, never from the board; the rules only grade it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Int8

from interp.concepts.sudoku import candidate_sets
from interp.reading import Reading
from models.tasks.sudoku.board import N_CELLS, UNITS, UNITS_OF, cell_name, unit_name
from models.tasks.sudoku.task import SOLUTION, SUDOKU

Kind = Literal["only_candidate", "only_place", "excluded", "unexplained", "decided", "revised"]

READABLE = 0.9
"""A digit reads as decided from this probability on."""
POSSIBLE = 0.5
"""A digit reads as a candidate from this probability on."""


@dataclass(frozen=True)
class Evidence:
    """One number a statement rests on."""

    reader: str
    cell: str
    head: str
    probability: float


@dataclass(frozen=True)
class Statement:
    """One line of the account of a run."""

    sample: int
    step: int
    """The network call it is about, counted from 1."""
    kind: Kind
    text: str
    cells: tuple[int, ...]
    digit: int
    evidence: tuple[Evidence, ...]
    sound: bool | None
    """Whether the rules of sudoku confirm it; None where they have no say."""


@dataclass(frozen=True)
class _Call:
    """One network call of one sample: the board it read, what it wrote, what was read in it."""

    sample: int
    step: int
    before: Int8[np.ndarray, " cell"]
    after: Int8[np.ndarray, " cell"]
    candidates: Float[np.ndarray, "cell digit"]
    digits: Float[np.ndarray, "cell digit"]
    solution: Int8[np.ndarray, " cell"]
    candidate_reader: str
    digit_reader: str

    def evidence(self, cell: int, digit: int) -> Evidence:
        return Evidence(self.candidate_reader, cell_name(cell), str(digit), round(float(self.candidates[cell, digit - 1]), 4))


def _calls(reading: Reading, solutions: Int8[np.ndarray, "sample cell"]) -> Iterator[_Call]:
    names = {concept: reading.readers[concept].name for concept in ("candidates", "digit")}
    trajectory = reading.trajectory
    boards = np.stack([SUDOKU.boards(trajectory.tokens(step)) for step in range(trajectory.n_steps + 1)])
    last = trajectory.last_step
    for sample in range(trajectory.n_samples):
        for step in range(1, int(last[sample]) + 1):
            yield _Call(
                sample,
                step,
                boards[step - 1, sample],
                boards[step, sample],
                reading.scores["candidates"].values[sample, step],
                reading.scores["digit"].values[sample, step],
                solutions[sample],
                names["candidates"],
                names["digit"],
            )


def _only_place(call: _Call, cell: int, digit: int) -> tuple[int, float] | None:
    """Returns the unit in which every other unwritten cell reads as excluding the digit, and how surely; None where there is none.

    A unit with no other unwritten cell does not count: that says nothing about what was read.
    """
    best: tuple[int, float] | None = None
    for unit in UNITS_OF[cell]:
        others = [int(other) for other in UNITS[unit] if other != cell and call.before[other] == 0]
        if not others:
            continue
        likeliest = max(float(call.candidates[other, digit - 1]) for other in others)
        if likeliest < POSSIBLE and (best is None or 1 - likeliest > best[1]):
            best = int(unit), 1 - likeliest
    return best


def _justify(call: _Call, cell: int) -> Statement:
    """Returns the statement of why a cell was written, as the candidate reader has it."""
    digit = int(call.after[cell])
    read = [other for other in range(1, 10) if call.candidates[cell, other - 1] >= POSSIBLE]
    name, truth = cell_name(cell), candidate_sets(call.before[None])[0]
    allowed = truth[cell, digit - 1]

    def statement(kind: Kind, why: str, evidence: tuple[Evidence, ...], sound: bool | None) -> Statement:
        return Statement(call.sample, call.step, kind, f"{name} = {digit}: {why}", (cell,), digit, evidence, sound)

    own = call.evidence(cell, digit)
    if read == [digit]:
        others = [call.evidence(cell, other) for other in range(1, 10) if other != digit]
        runner_up = max(others, key=lambda evidence: evidence.probability)
        sure = min(own.probability, 1 - runner_up.probability)
        sound = bool(allowed and truth[cell].sum() == 1)
        return statement("only_candidate", f"only candidate left (p {sure:.2f})", (own, runner_up), sound)
    if digit in read and (place := _only_place(call, cell, digit)) is not None:
        unit, sure = place
        cells = [int(other) for other in UNITS[unit] if other != cell and call.before[other] == 0]
        sound = bool(allowed and truth[UNITS[unit], digit - 1].sum() == 1)
        why = f"only place for {digit} in {unit_name(unit)} (p {sure:.2f})"
        return statement("only_place", why, (own, *(call.evidence(other, digit) for other in cells)), sound)
    if digit not in read:
        why = f"written although {digit} reads as excluded (p {1 - own.probability:.2f})"
        return statement("excluded", why, (own,), bool(not allowed))
    why = f"no readable reason; {', '.join(map(str, read))} read as possible"
    return statement("unexplained", why, tuple(call.evidence(cell, other) for other in read), None)


def _revision(call: _Call, cell: int) -> Statement:
    old, new = int(call.before[cell]), int(call.after[cell])
    what = f"{old} -> {new}" if new else f"{old} taken back"
    return Statement(call.sample, call.step, "revised", f"{cell_name(cell)}: {what}", (cell,), new, (), None)


def _decided(call: _Call, cell: int) -> Statement:
    digit = int(call.digits[cell].argmax()) + 1
    sure = float(call.digits[cell].max())
    evidence = (Evidence(call.digit_reader, cell_name(cell), str(digit), round(sure, 4)),)
    text = f"{cell_name(cell)} = {digit} already decided, not yet written (p {sure:.2f})"
    return Statement(call.sample, call.step, "decided", text, (cell,), digit, evidence, digit == int(call.solution[cell]))


def narrate(reading: Reading, solutions: Int8[np.ndarray, "sample cell"]) -> list[Statement]:
    """Returns the statements of every sample, in the order of its steps.

    Kinds: ``only_candidate`` and ``only_place`` justify a cell that was written; ``excluded`` and ``unexplained`` say that no justification
    was read; ``decided`` names a digit readable in a cell before anything was written there, said once a cell and digit; ``revised``
    tells a change of a written cell.

    Args:
        reading: With the concepts ``candidates`` and ``digit``.
        solutions: Used for grading only.
    """
    statements: list[Statement] = []
    said: set[tuple[int, int, int]] = set()
    for call in _calls(reading, solutions):
        for cell in range(N_CELLS):
            if call.before[cell] > 0:
                if call.after[cell] != call.before[cell]:
                    statements.append(_revision(call, cell))
            elif call.after[cell] > 0:
                statements.append(_justify(call, cell))
            elif call.digits[cell].max() >= READABLE:
                decided = _decided(call, cell)
                if (key := (call.sample, cell, decided.digit)) not in said:
                    said.add(key)
                    statements.append(decided)
    return statements


def lead_steps(reading: Reading) -> tuple[Float[np.ndarray, " cell"], Int[np.ndarray, " cell"]]:
    """Returns, for every cell written, how many steps before its writing its final digit first read as decided; and its sample.

    0 where it never did before.
    """
    trajectory, leads, samples = reading.trajectory, [], []
    final, commit = SUDOKU.boards(trajectory.tokens(-1)), trajectory.data["commit_step"].values[:, SOLUTION]
    read = reading.scores["digit"].values
    for sample, cell in zip(*np.nonzero(commit > 0), strict=True):
        step = int(commit[sample, cell])
        sure = read[sample, 1 : step + 1, cell]
        right = (sure.argmax(axis=1) == final[sample, cell] - 1) & (sure.max(axis=1) >= READABLE)
        leads.append(step - 1 - int(right.argmax()) if right.any() else 0)
        samples.append(int(sample))
    return np.array(leads, dtype=float), np.array(samples)


def summary_lines(statements: Iterable[Statement]) -> Iterator[str]:
    """Yields the account a line a statement, as a terminal shows it; ``decided`` statements of a step share one line."""
    ordered = list(statements)
    for sample, step in dict.fromkeys((statement.sample, statement.step) for statement in ordered):
        here = [statement for statement in ordered if (statement.sample, statement.step) == (sample, step)]
        decided = [statement for statement in here if statement.kind == "decided"]
        for statement in here:
            if statement.kind != "decided":
                yield f"step {step}: {statement.text}"
        if decided:
            named = ", ".join(f"{cell_name(statement.cells[0])}={statement.digit}" for statement in decided)
            yield f"step {step}: {len(decided)} unwritten cell{'s' if len(decided) > 1 else ''} newly decided: {named}"


def to_jsonl(statements: Iterable[Statement]) -> str:
    """Returns one JSON object a line: the fields of ``Statement`` with cells by name."""
    lines = ({**asdict(statement), "cells": [cell_name(cell) for cell in statement.cells]} for statement in statements)
    return "".join(json.dumps(line) + "\n" for line in lines)
