"""Studies: their measures on planted cases, every cell of their tables, and one whole run of each on small models."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp.boards import mixed_boards
from interp.cli import main
from interp.concepts import Sites
from interp.concepts.sudoku import visible_cells
from interp.report import Estimate
from interp.statistics import Measured, Statistic
from interp.studies import STUDIES, StudyError, StudyReport, adaptation, policies, read_study, run_study, study_named, write_study
from interp.studies.ahead import (
    AHEAD,
    INPUT,
    PROBE,
    SHUFFLED,
    UNTRAINED,
    WRITTEN,
    Later,
    Readable,
    ahead_statistic,
    ahead_values,
    later_cells,
    readable,
    written_later,
)
from interp.studies.base import Request
from interp.studies.policies import UNMASKING
from interp.studies.solving import (
    BUDGETED,
    BUDGETS,
    BY_WAVES,
    COMPARED,
    SEQUENTIAL,
    SHARES,
    Solved,
    board_sets,
    order_statistic,
)
from interp.studies.sudoku_pair import SUDOKU_PAIR, Sizes, measure
from interp.viz.statistics import statistic_figure, statistic_table, study_page
from models.evaluate import Evaluation
from models.hookpoints import resid_post
from models.tasks import Verdicts
from models.tasks.sudoku.board import format_board
from models.tasks.sudoku.generator import RUNGS, generate
from models.tasks.sudoku.solver import single_waves
from models.tasks.sudoku.task import MASK_ID, SOLUTION, SUDOKU
from models.unmasking import POLICIES

SIZES = Sizes(boards=2, mixed=2, fitted=24, tested=6, places=4)


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory, tiny_module: Callable[..., Any]) -> list[str]:
    """Folders of a random causal and a random masked model."""
    folders = []
    for name, regime in (("left-to-right", "causal"), ("any-order", "full")):
        folders.append(tmp_path_factory.mktemp("twins") / name)
        tiny_module(regime).save_pretrained(folders[-1])
    return [str(folder) for folder in folders]


@pytest.fixture(scope="module")
def puzzle_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("puzzles") / "mine.txt"
    path.write_text("".join(format_board(board) + "\n" for board in generate(3, "hidden_singles", seed=8).givens))
    return path


@pytest.fixture(scope="module")
def report(twins: list[str], puzzle_file: Path) -> StudyReport:
    study = replace(SUDOKU_PAIR, sizes={"small": SIZES})
    stages: list[str] = []
    found = run_study(
        "sudoku_pair", study, models=twins, seed=3, puzzles=[puzzle_file], tell=lambda stage, done, total: stages.append(stage)
    )
    assert list(dict.fromkeys(stages)) == ["load", "solve", "budgets", "order", "ahead"]
    return found


def places(statistic: Statistic) -> set[tuple[Any, ...]]:
    axes = (*statistic.panels, *statistic.lines, statistic.x)
    return {tuple(value.at[axis] for axis in axes) for value in statistic.values}


# ---------------------------------------------------------------- the sudoku pair


def test_every_cell_of_every_table_is_there(report: StudyReport) -> None:
    solved, calls, budget, order, ahead = report.statistics
    boards = [*RUNGS, "mine.txt"]
    who = [("left-to-right", "greedy"), *(("any-order", policy) for policy in COMPARED)]
    assert places(solved) == {(share, *one, kind) for share in SHARES for one in who for kind in boards}
    assert places(calls) == {(*one, kind) for one in who for kind in boards}
    assert places(budget) == {("any-order", share, policy, n) for share in ("exact", "cells") for policy in BUDGETED for n in BUDGETS}
    assert places(order) <= {("any-order", policy, kind) for policy in (*COMPARED, SEQUENTIAL, BY_WAVES) for kind in boards}
    assert {("any-order", "mgdm", "mine.txt"), ("any-order", SEQUENTIAL, "naked_singles")} <= places(order)
    readers = (PROBE, INPUT, SHUFFLED, UNTRAINED, WRITTEN)
    assert places(ahead) == {("left-to-right", k, reader, layer) for k in AHEAD for reader in readers for layer in range(2)}


def test_n_counts_boards(report: StudyReport) -> None:
    solved, calls, budget, order, ahead = report.statistics
    for statistic, n in ((solved, SIZES.boards), (calls, SIZES.boards), (budget, SIZES.mixed), (ahead, SIZES.tested)):
        assert {value.estimate.n for value in statistic.values} == {n}, statistic.name
    assert all(value.estimate.n <= SIZES.boards for value in order.values)
    for statistic in report.statistics:
        assert all(value.estimate.low <= value.estimate.value <= value.estimate.high for value in statistic.values)


def test_calls_are_what_the_policies_take(report: StudyReport) -> None:
    _, calls, *_ = report.statistics
    for rung in RUNGS:
        unwritten = (generate(SIZES.boards, rung, seed=3).givens == 0).sum(1).mean()
        assert calls.at(model="left-to-right", policy="greedy", boards=rung).value == unwritten
        assert calls.at(model="any-order", policy="low_confidence", boards=rung).value == unwritten
        assert calls.at(model="any-order", policy="mgdm", boards=rung).value == 20


def test_one_call_writes_the_same_whatever_the_order(report: StudyReport) -> None:
    budget = report.statistics[2]
    assert len({budget.at(policy=policy, measure="cells", calls=1).value for policy in BUDGETED}) == 1


def test_it_is_reproduced_by_its_seed(report: StudyReport, twins: list[str], puzzle_file: Path) -> None:
    from models.load import load

    again = measure(Request(tuple(load(name) for name in twins), SIZES, 3, (puzzle_file,)))
    assert again == report.statistics


def test_the_findings_name_every_kind_of_boards_and_distance(report: StudyReport) -> None:
    for kind in (*RUNGS, "mine.txt"):
        assert any(kind.replace("_", " ") in finding for finding in report.findings)
    assert sum("Left to write on" in finding for finding in report.findings) == len(AHEAD)


def test_the_report_is_read_back_as_it_was(report: StudyReport, tmp_path: Path) -> None:
    write_study(report, tmp_path / "study.json")
    assert read_study(tmp_path / "study.json") == report
    assert json.loads((tmp_path / "study.json").read_text())["schema_version"] == 1


def test_the_page_holds_each_figure_and_every_number(report: StudyReport) -> None:
    page = study_page(report)
    assert page.count("<figure>") == len(report.statistics)
    for statistic in report.statistics:
        assert page.count(f">{statistic.title}<") == 1
        drawn = [float(y) for trace in statistic_figure(statistic).data for y in trace.y]
        assert sorted(drawn) == sorted(value.estimate.value for value in statistic.values)
        table = statistic_table(statistic)
        assert sum(cell != "-" for row in table.rows for cell in row[2:]) == len(statistic.values)


@pytest.mark.parametrize(("pick", "named"), [(slice(0, 1), r"left-to-right \(causal\)"), (slice(1, 2), r"any-order \(masked\)")])
def test_it_needs_one_model_of_each_kind(pick: slice, named: str, twins: list[str]) -> None:
    with pytest.raises(StudyError, match=f"one of each at least; got {named}"):
        run_study("sudoku_pair", SUDOKU_PAIR, models=twins[pick])


def test_names_must_differ(twins: list[str], puzzle_file: Path) -> None:
    with pytest.raises(StudyError, match="several models are called left-to-right"):
        run_study("sudoku_pair", SUDOKU_PAIR, models=[twins[0], twins[0]])
    with pytest.raises(StudyError, match=r"several kinds of boards are called mine\.txt"):
        board_sets(1, 0, [puzzle_file, puzzle_file])


def test_an_unknown_study_or_scale_names_the_choices() -> None:
    with pytest.raises(StudyError, match=f"unknown study 'pair'; choose from {', '.join(STUDIES)}"):
        study_named("pair")
    with pytest.raises(StudyError, match="unknown scale 'huge'; choose from small, full"):
        run_study("sudoku_pair", SUDOKU_PAIR, scale="huge")


def test_what_is_not_for_a_study_is_an_error(puzzle_file: Path) -> None:
    own = replace(SUDOKU_PAIR, models=(), takes_puzzles=False)
    with pytest.raises(StudyError, match="'own' makes its own models; it takes none"):
        run_study("own", own, models=["sudoku-ar"])
    with pytest.raises(StudyError, match="'own' takes no puzzle files"):
        run_study("own", own, puzzles=[puzzle_file])


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_every_study_has_both_scales(study: Any) -> None:
    assert set(study.sizes) == {"small", "full"}
    assert study.title
    assert all((study.claim, study.about, study.limits))


# ---------------------------------------------------------------- order


BOARD = generate(1, "hidden_singles", seed=2).givens[0]
WAVES = single_waves(BOARD, hidden=True)


def written_in(order: np.ndarray, policy: str) -> Solved:
    """Returns a run of one board whose cells were written in this order."""
    steps = np.zeros((1, SUDOKU.length), dtype=np.int64)
    steps[0, SOLUTION] = order
    right = np.array([True])
    verdicts = Verdicts(exact=right, valid=right, cells=np.array([1.0]))
    return Solved("mine", 0, Evaluation("m", policy, verdicts, steps.max(1), steps, 0.0))


def test_the_statistic_of_order_finds_a_planted_order_between_its_floors_and_its_reference() -> None:
    rng = np.random.default_rng(0)
    runs = [
        written_in(WAVES.astype(np.int64), "threshold"),
        written_in(WAVES.max() + 1 - WAVES.astype(np.int64), "low_confidence"),
        written_in(rng.permutation(81), "random"),
    ]
    sets = {"mine": mixed_boards(1, 2, ("hidden_singles",))}
    found = order_statistic(runs, sets, 0)
    assert found.at(policy="threshold").value == pytest.approx(1)
    assert found.at(policy="low_confidence").value == pytest.approx(-1)
    assert abs(found.at(policy="random").value) < 0.4
    assert 0.5 < found.at(policy=BY_WAVES).value < 1
    assert set(found.roles) == {"random", SEQUENTIAL, BY_WAVES}


# ---------------------------------------------------------------- ahead


def test_the_later_cells_are_the_next_unwritten_ones_and_nothing_of_them_is_visible() -> None:
    puzzles = mixed_boards(4, 1, RUNGS)
    later = later_cells(puzzles, 5, seed=0)
    assert later.board.bincount().tolist() == [5, 5, 5, 5]
    for row, board in enumerate(later.board.tolist()):
        unwritten = [cell for cell in range(81) if puzzles.givens[board, cell] == 0]
        cells = [position - SOLUTION.start for position in later.target[row].tolist()]
        first = unwritten.index(cells[0])
        assert cells == [unwritten[first + k] for k in AHEAD]
        assert later.digit[row].tolist() == [puzzles.solutions[board, cell] for cell in cells]
        seen, _ = visible_cells(
            Sites.unwritten(later.prefix[[row]], later.prefix[[row]], later.target[[row], 0], later.board[[row]], torch.ones(1))
        )
        shown = puzzles.givens[board].copy()
        shown[unwritten[:first]] = puzzles.solutions[board, unwritten[:first]]
        assert seen[0].tolist() == shown.tolist()
        assert (later.prefix[row] == MASK_ID).sum() == len(unwritten) - first


def test_what_is_written_later_is_what_the_model_writes_from_the_prefix(tiny_model: Callable[..., Any]) -> None:
    from models.left_to_right import write_left_to_right

    model, later = tiny_model("causal"), later_cells(mixed_boards(3, 1, RUNGS), 3, seed=0)
    whole = torch.cat([torch.from_numpy(write_left_to_right(model, later.prefix[[row]]).tokens(-1)) for row in range(len(later.board))])
    assert torch.equal(written_later(model, later), whole.gather(1, later.target) == later.digit)


def test_activations_are_those_of_the_prefix(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("causal")
    parts = [later_cells(mixed_boards(2, seed, RUNGS), 2, seed=0) for seed in (1, 2)]
    data, point = readable(model, *parts, seed=0), resid_post(1)
    for row in range(len(parts[0].board)):
        _, cache = model.run_with_cache(parts[0].prefix[[row]], [point])
        expected = cache[point][0, int(parts[0].target[row, 0]) - 1]
        torch.testing.assert_close(data.activations[point][0][row], expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(data.untrained[point][0][row], expected, atol=1e-2)


def planted(ahead: int) -> Readable:
    """Returns places whose activations hold the digit of one later cell, and of no other, in noise."""
    parts = [later_cells(mixed_boards(n, seed, RUNGS), 6, seed=0) for n, seed in ((60, 5), (30, 6))]
    generator = torch.Generator().manual_seed(0)

    def hold(later: Later) -> torch.Tensor:
        digit = torch.nn.functional.one_hot(later.digit[:, AHEAD.index(ahead)], 16).float()
        return digit + 0.2 * torch.randn(len(digit), 16, generator=generator)

    def noise(later: Later) -> torch.Tensor:
        return torch.randn(len(later.board), 16, generator=generator)

    point = resid_post(0)
    pairs = [{point: (make(parts[0]), make(parts[1]))} for make in (hold, noise)]
    return Readable(parts[0], parts[1], pairs[0], pairs[1], torch.zeros(len(parts[1].board), len(AHEAD), dtype=torch.bool))


@pytest.mark.parametrize("ahead", [0, 4, 16])
def test_a_planted_answer_is_found_at_its_distance_and_nowhere_else(ahead: int) -> None:
    found = ahead_statistic(ahead_values("planted", planted(ahead), 0))
    for distance in AHEAD:
        probe = found.at(cells_ahead=distance, reader=PROBE)
        assert (probe.value > 0.9) == (distance == ahead)
        assert found.at(cells_ahead=distance, reader=SHUFFLED).value < 0.35
        assert found.at(cells_ahead=distance, reader=UNTRAINED).value < 0.35
        assert found.at(cells_ahead=distance, reader=WRITTEN).value == 0
        assert probe.n == 30
    assert found.at(cells_ahead=0, reader=INPUT).value > 0.3


# ---------------------------------------------------------------- statistics


def some_estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.1, high=value + 0.1, n=5)


def some_statistic(values: list[Measured], **changes: Any) -> Statistic:
    stated: dict[str, Any] = {"name": "s", "title": "t", "about": "a", "unit": "share", "panels": ("p",), "lines": ("l",), "x": "x"}
    return Statistic(**{**stated, **changes}, values=values)


def test_coordinates_are_those_of_the_axes_and_unique() -> None:
    one = Measured(at={"p": "a", "l": "b", "x": 1}, estimate=some_estimate(0.5))
    with pytest.raises(ValueError, match=r"the coordinates \['p', 'x'\]; its axes are \['l', 'p', 'x'\]"):
        some_statistic([Measured(at={"p": "a", "x": 1}, estimate=some_estimate(0.5))])
    with pytest.raises(ValueError, match="two values at"):
        some_statistic([one, one])
    with pytest.raises(ValueError, match=r"gives roles to \['c'\]; its lines are \['b'\]"):
        some_statistic([one], roles={"c": "floor"})
    assert some_statistic([one]).at(l="b").value == 0.5
    with pytest.raises(KeyError, match="'s' has 0 values"):
        some_statistic([one]).at(l="z")


@pytest.mark.parametrize("xs", [("easy_one", "hard"), (1, 64)])
def test_a_figure_draws_every_value_with_its_interval_and_lists_every_line_once(xs: tuple[Any, Any]) -> None:
    at = [{"p": p, "l": line, "x": x} for p, line in (("one", "a"), ("two", "a"), ("two", "late")) for x in xs]
    values = [Measured(at=place, estimate=some_estimate(0.1 * index + 0.1)) for index, place in enumerate(at)]
    figure = statistic_figure(some_statistic(values, roles={"late": "floor"}))
    assert [trace.type for trace in figure.data] == ["scatter" if isinstance(xs[0], int) else "bar"] * 3
    assert sorted(y for trace in figure.data for y in trace.y) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert all(trace.error_y.array == pytest.approx((0.1, 0.1)) for trace in figure.data)
    assert [trace.name for trace in figure.data if trace.showlegend] == ["a", "floor: late"]
    assert statistic_figure(some_statistic(values, panels=(), lines=("p", "l"))).data[0].name == "one, a"
    table = statistic_table(some_statistic(values))
    assert table.columns == ("l", "x", "one", "two")
    assert table.rows[-1][2] == "-"


def test_a_statistic_without_values_has_a_table_and_no_figure(report: StudyReport) -> None:
    empty = some_statistic([])
    with pytest.raises(ValueError, match="'s' has no values; a figure needs at least one"):
        statistic_figure(empty)
    page = study_page(report.model_copy(update={"statistics": [empty]}))
    assert "<figure>" not in page
    assert "<caption>t (share)" in page


def test_eight_lines_are_told_apart() -> None:
    values = [Measured(at={"p": "a", "l": f"line {i}", "x": x}, estimate=some_estimate(0.5)) for i in range(8) for x in (1, 2)]
    looks = {(trace.line.color, trace.line.dash) for trace in statistic_figure(some_statistic(values)).data}
    assert len(looks) == 8


# ---------------------------------------------------------------- the command


def test_the_command_writes_both_files(
    twins: list[str], puzzle_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SUDOKU_PAIR.sizes, "small", SIZES)  # type: ignore[arg-type]
    options = ["--out", str(tmp_path / "out"), "--puzzles", str(puzzle_file), *(part for name in twins for part in ("--model", name))]
    monkeypatch.setattr(sys, "argv", ["denoscope", "study", "sudoku_pair", *options])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert "Of 2 boards (mine.txt)" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["index.html", "study.json"]
    assert read_study(tmp_path / "out" / "study.json").puzzles == [str(puzzle_file)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pair"], f"unknown study 'pair'; choose from {', '.join(STUDIES)}"),
        (["sudoku_pair", "--puzzles", "absent.txt"], "absent.txt: No such file"),
        (["sudoku_pair", "--model", "absent"], "absent"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["denoscope", "study", *arguments, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- adaptation


TINY = adaptation.Sizes(seeds=2, variants=4, twin_steps=2, steps=4, every=2, boards=2, drift_boards=3)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Statistic], Path]:
    work = tmp_path_factory.mktemp("adaptation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adaptation, "SIZE", "nano")
        patch.setattr(adaptation, "BATCH", 4)
        patch.setattr(adaptation, "EXAMPLES", 40)
        return adaptation.measure(Request((), TINY, 0, work=work)), work


def test_every_method_is_measured_along_its_course_and_by_layer(grown: tuple[list[Statistic], Path]) -> None:
    by_name = {statistic.name: statistic for statistic in grown[0]}
    methods = {"switch", "anneal", "align", "scratch"}
    assert {(v.at["variant"], v.at["step"]) for v in by_name["exact_by_step"].values} == {(m, s) for m in methods for s in (2, 4)}
    for name in ("drift_cka", "drift_cosine"):
        places = {(v.at["variant"], v.at["layer"]) for v in by_name[name].values}
        assert places == {(m, layer) for m in (*methods, adaptation.OTHER_SEED) for layer in (0, 1)}
    assert all(v.estimate.n == 2 for v in by_name["exact_by_step"].values)
    assert by_name["drift_cka"].at(variant="switch", layer=1).value > by_name["drift_cka"].at(variant="scratch", layer=1).value
    assert len(adaptation.findings(grown[0])) == 4


def test_it_goes_on_where_it_was_stopped(grown: tuple[list[Statistic], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptation, "SIZE", "nano")
    monkeypatch.setattr(adaptation, "BATCH", 4)
    monkeypatch.setattr(adaptation, "EXAMPLES", 40)
    monkeypatch.setattr(adaptation, "evaluate", None)  # nothing is left to evaluate
    assert adaptation.measure(Request((), TINY, 0, work=grown[1])) == grown[0]


def test_the_first_reaching_of_a_mark_is_timed() -> None:
    course = adaptation.Course([10, 20, 30], [1.0, 2.5, 4.0], [0.2, 0.5, 0.95], [0.0])
    assert (course.first(0.5, course.steps), course.first(0.9, course.seconds), course.first(0.99, course.steps)) == (20.0, 4.0, None)


def test_an_interval_over_seeds_is_students() -> None:
    found = adaptation.over_seeds([1.0, 2.0, 3.0])
    assert (found.value, found.n) == (2.0, 3)
    assert found.high - found.value == pytest.approx(4.302653 / 3**0.5, rel=1e-5)
    assert adaptation.over_seeds([5.0]).low == 5.0


# ---------------------------------------------------------------- the policies


@pytest.fixture(scope="module")
def decoded(twins: list[str]) -> StudyReport:
    study = replace(UNMASKING, sizes={"small": policies.Sizes(boards=4)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policies, "BATCH", 3)
        return run_study("policies", study, models=twins[1:], seed=2)


def test_every_policy_is_measured_on_every_board(decoded: StudyReport) -> None:
    named = {statistic.name: statistic for statistic in decoded.statistics}
    assert list(named) == list(policies.MEASURES)
    for name in ("exact", "calls", "revisions", "mended", "decided"):
        assert places(named[name]) == {("any-order", policy) for policy in POLICIES}
        assert all(value.estimate.n == 4 for value in named[name].values)
    boards = mixed_boards(4, 2, RUNGS).givens
    assert named["calls"].at(policy="low_confidence").value == pytest.approx((boards == 0).sum(1).mean())
    assert named["revisions"].at(policy="random").value == 0
    assert named["revisions"].at(policy="mgdm").value > 0
    assert 0 < named["decided"].at(policy="sequential").value <= 1
    assert len(decoded.findings) == len(POLICIES)
    assert "in " in decoded.findings[0]


def test_only_masked_models_of_sudoku_are_compared(twins: list[str]) -> None:
    with pytest.raises(StudyError, match=r"left-to-right is a causal model of 'sudoku'; this study needs masked ones of sudoku"):
        run_study("policies", UNMASKING, models=twins)
