"""All tests of faithfulness, run on the same runs of a model, and their report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from interp.clock import Clock
from interp.faithfulness.base import Case, FaithfulnessError, FaithfulnessTest
from interp.faithfulness.corruption import CORRUPTION
from interp.faithfulness.early import EARLY
from interp.faithfulness.filler import FILLER
from interp.faithfulness.paraphrase import PARAPHRASE
from interp.faithfulness.patching import PATCHING
from interp.faithfulness.restart import RESTART
from interp.faithfulness.simulatability import SIMULATABILITY
from interp.faithfulness.support import STATEMENTS, support
from interp.narration import Support
from interp.report import Entry
from interp.statistics import Statistic
from models.language_model import LanguageModel
from models.trajectory_store import TrajectoryError

TESTS: dict[str, FaithfulnessTest] = {
    "early": EARLY,
    "corruption": CORRUPTION,
    "paraphrase": PARAPHRASE,
    "restart": RESTART,
    "filler": FILLER,
    "patching": PATCHING,
    "statements": STATEMENTS,
    "simulatability": SIMULATABILITY,
}


class TestEntry(Entry):
    """What one test measured, or why it was not made."""

    __test__ = False
    name: str
    title: str
    about: str
    skipped: str | None = Field(default=None, description="Why it was not made; null where it was.")
    findings: list[str] = Field(description="What the statistics say, in sentences, whichever way they came out.")
    statistics: list[Statistic]


class FaithfulnessReport(Entry):
    """All that the battery measured on some runs."""

    schema_version: Literal[1] = 1
    model: str
    fingerprint: str
    task: str
    policy: str
    n: int = Field(description="Runs: boards or prompts.")
    calls: float = Field(description="Network calls a run, mean.")
    seed: int
    tests: list[TestEntry]
    seconds: dict[str, float] = Field(description="Wall-clock seconds by test, and `total`.")

    def of(self, name: str) -> TestEntry:
        """Returns what one test measured.

        Raises:
            FaithfulnessError: Where it is not in the report.
        """
        for one in self.tests:
            if one.name == name:
                return one
        raise FaithfulnessError(f"the report has no test {name!r}; it has {', '.join(one.name for one in self.tests)}")


def _skipped(case: Case, test: FaithfulnessTest) -> str | None:
    """Returns why a test cannot be made of what is known; None where it can."""
    if test.needs_truth and case.puzzles is None:
        return "the truth of these runs is not known"
    if test.needs_readers and not case.readers:
        return "no readers were given"
    return None


def _entry(name: str, test: FaithfulnessTest, case: Case) -> TestEntry:
    skipped, statistics, said = _skipped(case, test), [], []
    if skipped is None:
        try:
            statistics = test.measure(case)
        except FaithfulnessError as error:
            skipped = str(error)
        else:
            said = test.findings(statistics)
            if test.with_truth and case.puzzles is None:
                said.append(f"Left out: {test.with_truth}; the truth of these runs is not known.")
    return TestEntry(name=name, title=test.title, about=test.about, skipped=skipped, findings=said, statistics=statistics)


def check_tests(names: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the names of tests, all of them where none are given; raises FaithfulnessError, with the choices, on another."""
    for name in names or ():
        if name not in TESTS:
            raise FaithfulnessError(f"unknown test {name!r}; choose from {', '.join(TESTS)}")
    return tuple(names or TESTS)


def support_of(report: FaithfulnessReport, model: LanguageModel) -> dict[str, Support]:
    """Returns what each kind of statement has earned by a report's causal test.

    Raises:
        FaithfulnessError: Where the report is of another model, or has no such test.
    """
    if report.fingerprint != model.fingerprint:
        raise FaithfulnessError(f"the report is of {report.model} ({report.fingerprint}), and the model is {model.fingerprint}")
    entry = report.of("statements")
    if entry.skipped is not None:
        raise FaithfulnessError(f"the report's causal test was skipped: {entry.skipped}")
    return support(entry.statistics)


def run_battery(case: Case, names: Sequence[str] | None = None, clock: Clock | None = None) -> FaithfulnessReport:
    """Returns what the tests measure on the same runs.

    Args:
        case: The runs.
        names: Of ``TESTS``; None is all.
        clock: Told (test, done, total).

    Raises:
        FaithfulnessError: On a test that does not exist, or boards that are not the runs'.
        TrajectoryError: On runs of another model.
    """
    names = check_tests(names)
    if case.puzzles is not None and len(case.puzzles) != case.run.n_samples:
        raise FaithfulnessError(f"{len(case.puzzles)} boards for {case.run.n_samples} runs; they must be the runs' own, one each")
    if case.model.fingerprint != case.run.fingerprint:
        raise TrajectoryError(
            f"the runs are of {case.run.model} ({case.run.fingerprint}), not of {case.model.name} ({case.model.fingerprint})"
        )
    started, clock, entries = time.monotonic(), clock or Clock(), []
    for name in names:
        with clock.stage(name) as tell:
            entries.append(_entry(name, TESTS[name], replace(case, on_step=tell)))
    return FaithfulnessReport(
        model=case.model.name,
        fingerprint=case.model.fingerprint,
        task=case.run.task,
        policy=case.run.policy,
        n=case.run.n_samples,
        calls=round(float(case.run.calls.mean()), 2),
        seed=case.seed,
        tests=entries,
        seconds={**clock.seconds, "total": round(time.monotonic() - started, 2)},
    )


def write_battery(report: FaithfulnessReport, path: Path) -> None:
    """Writes a report as JSON."""
    path.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_battery(path: Path) -> FaithfulnessReport:
    """Returns a report; raises pydantic's ValidationError where it does not fit the schema."""
    return FaithfulnessReport.model_validate_json(path.read_text(encoding="utf-8"))
