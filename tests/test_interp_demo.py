"""The whole road at a small size: every artefact is there, is what its format says, and holds what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.demo import PROBED, DemoSizes, run_demo
from interp.findings import findings
from interp.narration import JUSTIFICATIONS, UNREASONED
from interp.reading import load_readers
from interp.report import Report, read_report
from models.load import load
from models.tasks.sudoku.generator import RUNGS
from models.trajectory import Trajectory
from probes.saes.files import load_sae

SIZES = DemoSizes(evaluated=4, fitted=24, tested=16, traced=2, pushed=4, shown=2, sae_steps=20)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    out = tmp_path_factory.mktemp("demo")
    stages: list[str] = []
    report, _ = run_demo(out, seed=3, sizes=SIZES, tell=lambda stage, done, total: stages.append(stage))
    assert list(dict.fromkeys(stages)) == ["load", "evaluate", "harvest", "probes", "sae", "read", "faithfulness"]
    return out, report


def test_the_report_is_read_back_as_it_was(demo: tuple[Path, Report]) -> None:
    out, report = demo
    again = read_report(out / "report.json")
    assert again.model_dump_json() == report.model_dump_json()
    assert set(json.loads((out / "report.json").read_text())) == {
        *("schema_version", "task", "seed", "models", "evaluation", "probes", "saes", "reading", "faithfulness", "seconds", "findings")
    }


def test_it_measures_each_twin_concept_layer_rate_and_dose(demo: tuple[Path, Report]) -> None:
    report = demo[1]
    assert {(entry.model, entry.boards) for entry in report.evaluation} == {
        (model, rung) for model in ("sudoku-ar", "sudoku-diffusion") for rung in RUNGS
    }
    assert {(entry.concept, entry.layer) for entry in report.probes} == {(name, layer) for name in PROBED for layer in range(6)}
    assert [entry.mask_rate for entry in report.saes] == [None, 0.1, 0.3, 0.5, 0.7, 0.9]
    assert {(entry.layer, entry.dose) for entry in report.faithfulness} == {(layer, dose) for layer in (1, 3) for dose in (0.25, 0.5, 1, 2)}
    assert all(entry.scores["zero_shot"].auc.n <= SIZES.tested for entry in report.probes)
    assert report.reading.boards == SIZES.traced
    assert sum(report.seconds[stage] for stage in report.seconds if stage != "total") <= report.seconds["total"]


def test_the_statements_are_those_of_the_trace(demo: tuple[Path, Report]) -> None:
    out, report = demo
    lines = [json.loads(line) for line in (out / "reading.jsonl").read_text().splitlines()]
    counts = {kind: sum(line["kind"] == kind for line in lines) for kind in report.reading.statements}
    assert counts == report.reading.statements
    graded = [line["sound"] for line in lines if line["sound"] is not None]
    assert report.reading.sound.value == pytest.approx(np.mean(graded))
    trace = Trajectory.load(out / "trace.zarr")
    written = sum(line["kind"] in (*JUSTIFICATIONS, *UNREASONED) for line in lines)
    assert written == int((trace.data["commit_step"].values > 0).sum())


def test_readers_and_sae_open_again(demo: tuple[Path, Report]) -> None:
    out, report = demo
    model = load("sudoku-diffusion")
    assert set(load_readers(out / "readers", model)) == {"candidates", "digit"}
    entry = report.saes[0]
    sae = load_sae(out / "sae", fitted_on=f"{load('sudoku-ar').fingerprint}@{entry.hook_point}")
    assert sae.encode(torch.randn(2, model.d_model)).shape == (2, entry.d_sae)


def test_the_page_holds_the_findings_and_the_boards(demo: tuple[Path, Report]) -> None:
    out, report = demo
    page = (out / "index.html").read_text()
    assert page.count("<figure") == 5
    assert all(finding.split("“")[0].split("'")[0] in page for finding in report.findings)
    assert report.findings == findings(report)
    assert len(report.findings) >= 3 + len(PROBED) + 4
