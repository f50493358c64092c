"""The command `study`: what it refuses, what it keeps of a run that ended early, and what the page of a study states."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import interp.studies
from interp.cli.app import main
from interp.report import Estimate
from interp.statistics import Measured, Statistic
from interp.studies import StudyReport, read_study
from interp.studies.base import Request, Study
from interp.viz.statistics import study_page

Run = Callable[..., tuple[int, str]]


@dataclass(frozen=True)
class Sizes:
    """Of the made-up study."""

    cells: int


def some_study(done: list[int], *, stop_at: int, resumes: bool = True) -> Study:
    """Returns a study of cells, kept one by one, that ends early before the cell ``stop_at``."""

    def measure(request: Request) -> list[Statistic]:
        values = []
        for cell in range(request.sizes.cells):
            kept = None if request.work is None else request.work / f"{cell}.json"
            if kept is None or not kept.exists():
                if cell == stop_at:
                    raise KeyboardInterrupt
                done.append(cell)
                if kept is not None:
                    kept.write_text(json.dumps(cell))
            values.append(Measured(at={"p": "a", "l": "b", "x": cell}, estimate=Estimate(value=cell, low=cell, high=cell, n=2)))
        return [Statistic(name="s", title="S", about="how", unit="cells", panels=("p",), lines=("l",), x="x", values=values)]

    return Study(
        title="Cells",
        claim="Cells <b>count</b>",
        about="Each cell is counted.",
        limits="Only here.",
        models=(),
        sizes={"small": Sizes(4), "full": Sizes(6)},
        measure=measure,
        findings=lambda statistics: [f"{len(statistics[0].values)} cells."],
        resumes=resumes,
    )


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command for a study called ``cells``; returns its exit status and all that it printed, in one line."""

    def go(study: Study, *arguments: str) -> tuple[int, str]:
        monkeypatch.setitem(interp.studies.STUDIES, "cells", study)
        monkeypatch.setattr(sys, "argv", ["denoscope", "study", "cells", *arguments, "--out", str(tmp_path / "out")])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        code = end.value.code
        assert code is None or isinstance(code, int)
        return code or 0, " ".join((printed.out + printed.err).split())

    return go


def test_an_interrupted_study_goes_on_with_nothing_redone(run: Run, tmp_path: Path) -> None:
    done: list[int] = []
    code, said = run(some_study(done, stop_at=2))
    assert code == 130
    assert "--resume goes on" in said
    assert not (tmp_path / "out").exists()
    code, said = run(some_study(done, stop_at=9))
    assert code == 2
    assert "give --resume to go on" in said
    assert done == [0, 1]
    assert run(some_study(done, stop_at=9), "--resume")[0] == 0
    assert done == [0, 1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert read_study(tmp_path / "out" / "study.json").findings == ["4 cells."]


def test_what_another_request_left_is_not_gone_on_with(run: Run) -> None:
    done: list[int] = []
    run(some_study(done, stop_at=2), "--seed", "3")
    code, said = run(some_study(done, stop_at=9), "--seed", "4", "--scale", "full", "--resume")
    assert code == 2
    assert "scale 'small', not 'full'; seed 3, not 4" in said
    assert done == [0, 1]


def test_a_study_that_keeps_nothing_cannot_resume_and_leaves_nothing(run: Run, tmp_path: Path) -> None:
    study = some_study([], stop_at=2, resumes=False)
    assert run(study)[0] == 130
    assert not list(tmp_path.iterdir())
    code, said = run(study, "--resume")
    assert code == 2
    assert "'cells' keeps no part of its work; run it without --resume" in said


def test_the_result_of_another_study_is_not_replaced(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "study.json").write_text('{"study": "policies"}')
    code, said = run(some_study([], stop_at=9))
    assert code == 2
    assert "holds the study 'policies', and 'cells' would replace it" in said
    assert (tmp_path / "out" / "study.json").read_text() == '{"study": "policies"}'


def test_the_page_states_claim_design_limits_and_command(run: Run, tmp_path: Path) -> None:
    assert run(some_study([], stop_at=9), "--seed", "5")[0] == 0
    report: StudyReport = read_study(tmp_path / "out" / "study.json")
    assert report.command == "denoscope study cells --scale small --seed 5 --out runs/cells"
    page = study_page(report)
    for part in ("Cells &lt;b&gt;count&lt;/b&gt;", "Each cell is counted.", "Only here.", report.command, "4 cells."):
        assert part in page
