"""What the board viewer shows, as plain values: no plotly, no HTML, no model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from interp.viz.statement_view import StatementView
from models.tasks.sudoku.board import N_CELLS, cell_name

N_DIGITS = 9


def _check_length(name: str, values: Sequence[object], length: int) -> None:
    if len(values) != length:
        raise ValueError(f"{name} has {len(values)} values; it must have {length}")


def _check_digits(name: str, digits: Sequence[int], lowest: int) -> None:
    _check_length(name, digits, N_CELLS)
    for cell, digit in enumerate(digits):
        if not lowest <= digit <= N_DIGITS:
            raise ValueError(f"{name} has {digit} at {cell_name(cell)}; choose from {lowest} to {N_DIGITS}")


def _check_cells(name: str, cells: Iterable[int]) -> None:
    for cell in cells:
        if not 0 <= cell < N_CELLS:
            raise ValueError(f"{name} names cell {cell}; cells are 0 to {N_CELLS - 1}")


def _check_probability(name: str, value: float) -> None:
    if not -1e-6 <= value <= 1 + 1e-6:
        raise ValueError(f"{name} is {value}; a probability lies in 0 to 1")


@dataclass(frozen=True)
class BoardStep:
    """The board after one network call, with what was read inside that call."""

    digits: tuple[int, ...]
    """81 digits, 0 where not written."""
    written: tuple[int, ...]
    """Cells written in this call."""
    revised: tuple[int, ...]
    """Cells that held another digit before this call."""
    confidence: tuple[float | None, ...]
    """81: top probability that the network gave this cell in this call; None where given or not known."""
    pencil: tuple[tuple[float, ...], ...] | None
    """81 x 9: probability, as the moved probe reads it, that a digit is a candidate; shown only for cells unwritten before the call."""

    def __post_init__(self) -> None:
        _check_digits("digits", self.digits, 0)
        _check_cells("written", self.written)
        _check_cells("revised", self.revised)
        _check_length("confidence", self.confidence, N_CELLS)
        for cell, confidence in enumerate(self.confidence):
            if confidence is not None:
                _check_probability(f"confidence at {cell_name(cell)}", confidence)
        if self.pencil is None:
            return
        _check_length("pencil", self.pencil, N_CELLS)
        for cell, marks in enumerate(self.pencil):
            _check_length(f"pencil at {cell_name(cell)}", marks, N_DIGITS)
            for mark in marks:
                _check_probability(f"pencil at {cell_name(cell)}", mark)


@dataclass(frozen=True)
class BoardTrace:
    """One board from its givens to the last call."""

    title: str
    model: str
    policy: str
    givens: tuple[int, ...]
    solution: tuple[int, ...]
    steps: tuple[BoardStep, ...]
    """Index 0 is the board before the first call."""
    statements: tuple[StatementView, ...]

    def __post_init__(self) -> None:
        _check_digits("givens", self.givens, 0)
        _check_digits("solution", self.solution, 1)
        if not self.steps:
            raise ValueError("a trace has no steps; it needs at least the board before the first call")
        for index, step in enumerate(self.steps):
            for cell, given in enumerate(self.givens):
                if given and step.digits[cell] != given:
                    raise ValueError(
                        f"step {index} has {step.digits[cell]} at {cell_name(cell)}, where {given} is given; givens never change"
                    )
        for statement in self.statements:
            _check_cells("a statement", statement.places)
            if not 0 <= statement.step < len(self.steps):
                raise ValueError(f"a statement is of step {statement.step}; this trace has steps 0 to {len(self.steps) - 1}")

    @property
    def n_steps(self) -> int:
        """Returns the number of network calls."""
        return len(self.steps) - 1

    def unwritten_before(self, step: int) -> tuple[bool, ...]:
        """Returns for each cell whether it was empty when call ``step`` began (for step 0: on the board as given)."""
        return tuple(digit == 0 for digit in self.steps[max(step - 1, 0)].digits)

    def first_written(self, cell: int) -> int | None:
        """Returns the first call that wrote a cell, or None where it is given or was never written."""
        return next((index for index, step in enumerate(self.steps) if cell in step.written), None)
