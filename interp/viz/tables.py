"""The tables of a report: what reads better as numbers than as a picture."""

from __future__ import annotations

from interp.report import Estimate, EvaluationEntry, ReadingEntry, Report
from interp.viz.page import Table

_INTERVALS = "Brackets hold 95 % bootstrap intervals, resampled by puzzle."


def _share(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def evaluation_table(evaluation: list[EvaluationEntry]) -> Table:
    """Returns how well each twin solves unseen boards, a row a model and policy."""
    columns = ("model, policy", "boards", "solved", "valid", "cells right", "calls a board", "n")
    rows = tuple(
        (
            f"{entry.model}, {entry.policy}",
            entry.boards.replace("_", " "),
            _share(entry.exact),
            _share(entry.valid),
            _share(entry.cells),
            f"{entry.steps:.1f}",
            str(entry.n),
        )
        for entry in evaluation
    )
    return Table("Solving unseen boards", columns, rows, _INTERVALS)


def reading_table(reading: ReadingEntry) -> Table:
    """Returns the statements by kind: how many, and how many a symbolic solver confirms."""
    rows = [
        (kind.replace("_", " "), str(number), _share(reading.sound_by_kind[kind]) if kind in reading.sound_by_kind else "not checkable")
        for kind, number in sorted(reading.statements.items())
    ]
    rows.append(("all", str(sum(reading.statements.values())), _share(reading.sound)))
    rows.append(("control: random directions", str(reading.random_reader_statements), _share(reading.random_reader_sound)))
    lead = reading.lead_steps
    note = (
        f"Reader: {reading.reader}; {reading.boards} boards, policy {reading.policy}. {_share(reading.coverage)} of the written cells are "
        f"justified by a statement; a digit is readable {lead.value:.1f} [{lead.low:.1f}, {lead.high:.1f}] steps before it is written; "
        f"{100 * reading.revised:.1f} % were later changed. {_INTERVALS}"
    )
    return Table("The pseudo chain of thought", ("statement", "number", "sound"), tuple(rows), note)


def seconds_table(seconds: dict[str, float]) -> Table:
    """Returns the wall-clock time of each stage."""
    return Table("Time", ("stage", "seconds"), tuple((stage.replace("_", " "), f"{value:.1f}") for stage, value in seconds.items()))


def report_tables(report: Report) -> list[Table]:
    """Returns the tables of a report, in page order."""
    return [evaluation_table(report.evaluation), reading_table(report.reading), seconds_table(report.seconds)]
