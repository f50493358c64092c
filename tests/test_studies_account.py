"""The study of accounts: every arm is told and graded, on boards that no reader was fitted on, and chunks change nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.boards import mixed_boards
from interp.grading import Tally, Verdict
from interp.reading import Reader, puzzle_readers
from interp.report import Estimate
from interp.statistics import Measured, Statistic
from interp.studies import STUDIES, StudyError, StudyReport, account, run_study
from interp.studies.account import ACCOUNT, ALL, ARMS, Arms, Asked, Sizes, findings, fit_narrator, graded
from interp.transfer import Twins
from models.decoding import Decoding
from models.language_model import LanguageModel
from models.load import load
from models.tasks.sudoku.generator import RUNGS, Puzzles

SIZES = Sizes(boards=4, fitted=8, calibrated=8, baseline=2, at_once=3)
SOME = ("random", "low_confidence")


def few_calls(policy: str, *, seed: int) -> Decoding:
    """A random model writes no better in fifty calls."""
    return Decoding(policy, steps=6, seed=seed)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory, tiny_module: Callable[..., Any]) -> list[str]:
    """Folders of a random causal and a random masked model."""
    folders = []
    for name, regime in (("left-to-right", "causal"), ("any-order", "full")):
        folders.append(tmp_path_factory.mktemp("twins") / name)
        tiny_module(regime).save_pretrained(folders[-1])
    return [str(folder) for folder in folders]


@pytest.fixture(scope="module")
def models(names: list[str]) -> list[LanguageModel]:
    return [load(name) for name in names]


@pytest.fixture(scope="module")
def arms(models: list[LanguageModel]) -> Arms:
    return Arms(models[1], puzzle_readers(Twins(*models), mixed_boards(16, 5, RUNGS), 8))


@pytest.fixture(scope="module")
def report(names: list[str]) -> StudyReport:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(account, "POLICIES", SOME)
        patch.setattr(account, "Decoding", few_calls)
        return run_study("account", replace(ACCOUNT, sizes={"small": SIZES}), models=names, seed=3)


def test_every_arm_is_graded_on_every_policy_and_kind_of_board(report: StudyReport) -> None:
    coverage = next(one for one in report.statistics if one.name == "coverage")
    found = {(value.at["boards"], value.at["account"], value.at["policy"]) for value in coverage.values}
    assert found == {(kind, arm, policy) for kind in (ALL, *RUNGS) for arm in ARMS for policy in SOME}
    assert coverage.at(boards=ALL, account="board", policy="random").n == SIZES.boards
    assert coverage.at(boards="guessing", account="board", policy="random").n == 1
    assert coverage.roles == account.ROLES


def test_the_rules_are_sound_wherever_they_give_a_reason(report: StudyReport) -> None:
    sound = next(one for one in report.statistics if one.name == "sound")
    ruled = [value.estimate.value for value in sound.values if value.at["account"] == "board"]
    assert ruled
    assert set(ruled) == {1.0}


def test_what_is_gained_is_told_against_every_other_account(report: StudyReport) -> None:
    shares, calls = report.statistics[-2:]
    assert (shares.name, calls.name) == ("gain", "gain_calls")
    for gain in (shares, calls):
        assert {value.at["than"] for value in gain.values} <= set(account.COMPARED)
        assert {value.at["policy"] for value in gain.values} == set(SOME)
    assert {value.at["measure"] for value in calls.values} == {"lead"}
    assert 0 < len(report.findings) <= len(SOME) * len(account.TOPICS) + 1


def test_boards_in_chunks_are_told_as_boards_at_once(arms: Arms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "Decoding", few_calls)
    puzzles = mixed_boards(4, 7, RUNGS)
    narrator = fit_narrator(arms, puzzles[:2], "random", 0)
    one, other = (graded(arms, narrator, Asked("random", puzzles, at_once, 0)) for at_once in (1, 4))
    for arm in ARMS:
        for key, tally in one[arm].items():
            assert (tally.hits == other[arm][key].hits).all(), (arm, key)
            assert (tally.of == other[arm][key].of).all(), (arm, key)


def test_measured_boards_are_in_no_fit(names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Puzzles] = {}

    def fit(twins: Twins, puzzles: Puzzles, n_fitted: int, *, seed: int) -> dict[str, dict[str, Reader]]:
        seen["fit"] = puzzles
        return {}

    def narrator(arms: Arms, puzzles: Puzzles, policy: str, seed: int) -> None:
        seen["narrator"] = puzzles

    def grade(arms: Arms, narrator: None, asked: Asked, on_board: Callable[[int], None]) -> dict[str, Verdict]:
        seen["measured"] = asked.puzzles
        return {arm: {("coverage", ""): Tally(np.ones(4), np.ones(4))} for arm in ARMS}

    for name, one in (("puzzle_readers", fit), ("fit_narrator", narrator), ("graded", grade)):
        monkeypatch.setattr(account, name, one)
    monkeypatch.setattr("interp.verdict.BY_LEAD", ())
    run_study("account", replace(ACCOUNT, sizes={"small": SIZES}), models=names)
    boards = {name: {board.tobytes() for board in puzzles.givens} for name, puzzles in seen.items()}
    assert len(boards["measured"]) == SIZES.boards
    assert not boards["measured"] & boards["fit"]
    assert boards["narrator"] <= boards["fit"]


def planted(low: float, high: float) -> list[Statistic]:
    """Returns one figure of the moved readers, and how it differs from two others."""

    def statistic(name: str, panels: tuple[str, ...], lines: tuple[str, ...], x: str, values: list[Measured]) -> Statistic:
        return Statistic(name=name, title="T", about="A", unit="share", panels=panels, lines=lines, x=x, values=values)

    told = [
        Measured(at={"boards": kind, "account": "ar", "policy": "mgdm"}, estimate=Estimate(value=value, low=0.89, high=0.93, n=9))
        for kind, value in ((ALL, 0.912), ("guessing", 0.5))
    ]
    gains = [
        Measured(at={"policy": "mgdm", "than": than, "measure": "coverage"}, estimate=Estimate(value=-0.01, low=low, high=high, n=9))
        for than in ("diffusion", "tokens")
    ]
    return [
        statistic("coverage", ("boards",), ("account",), "policy", told),
        statistic("gain", ("policy",), ("than",), "measure", gains),
    ]


@pytest.mark.parametrize(("low", "high", "mark"), [(-0.03, 0.01, ""), (-0.03, -0.005, "*"), (0.01, 0.03, "*")])
def test_findings_mark_where_two_accounts_can_be_told_apart(low: float, high: float, mark: str) -> None:
    line, key = findings(planted(low, high))
    assert line == f"mgdm, reasons: given 91.2% [89.0, 93.0] (diffusion -1.0{mark}, tokens -1.0{mark})."
    assert "* where its interval leaves out 0" in key


def test_models_that_are_no_pair_are_refused(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="this study needs a causal and a masked model of sudoku"):
        run_study("account", ACCOUNT, models=names[1:])


def test_the_study_is_in_the_table() -> None:
    assert STUDIES["account"] is ACCOUNT
