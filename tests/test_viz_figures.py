"""Figures: each number drawn is the number of the report, beside its interval, its floor and its ceiling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from interp.report import (
    Estimate,
    EvaluationEntry,
    FaithfulnessEntry,
    ModelEntry,
    ProbeEntry,
    ReadingEntry,
    Report,
    SaeEntry,
    SaeScores,
    Scores,
    over_all_sites,
)
from interp.viz.board_trace import BoardStep, BoardTrace
from interp.viz.figures import DRAWN, FAITHFULNESS_PANELS, REPORT_FIGURES, confidence_figure, mask_rate_figure, probe_transfer_figure
from interp.viz.tables import report_tables

RATES = ("0.1", "0.3", "0.5", "0.7", "0.9")


POINT = "blocks.{}.hook_resid_post"
SPANS = {"source": (0.9, 0.98), "zero_shot": (0.8, 0.9), "mean_shift": (0.85, 0.92), "ridge_affine": (0.88, 0.94), "native": (0.93, 0.98)}
SPANS |= {"shuffled": (0.48, 0.52), "untrained": (0.55, 0.62), "input_only": (0.7, 0.75)}


def make_estimate(rng: np.random.Generator, low: float, high: float) -> Estimate:
    value, width = float(rng.uniform(low, high)), float(rng.uniform(0.005, 0.02))
    return Estimate(value=value, low=value - width, high=value + 1.5 * width, n=200)


def make_probe(rng: np.random.Generator, concept: str, layer: int, mask_rate: float | None = None) -> ProbeEntry:
    def scores(low: float, high: float) -> Scores:
        return Scores(calibration=0.1, **{name: make_estimate(rng, low, high) for name in ("auc", "matched", "accuracy", "exact")})

    return ProbeEntry(
        concept=concept,
        reader="logistic",
        hook_point=POINT.format(layer),
        layer=layer,
        heads=("yes", "no"),
        seed=0,
        mask_rate=mask_rate,
        sites=1000,
        scores={name: scores(*span) for name, span in SPANS.items()},
    )


def make_saes(rng: np.random.Generator) -> list[SaeEntry]:
    spans = {"source": (0.1, 0.2), "zero_shot": (0.2, 0.5), "matched": (0.2, 0.5), "stitched": (0.2, 0.5), "native": (0.1, 0.2)}
    spans |= {"rotated": (0.9, 1.1), "untrained": (0.8, 0.9)}

    def scores(low: float, high: float) -> SaeScores:
        share = float(rng.uniform(0, 0.2))
        return SaeScores(fvu=make_estimate(rng, low, high), l0=float(rng.uniform(20, 40)), dead=share, dense=share / 2, n=4096)

    return [
        SaeEntry(
            hook_point=POINT.format(4),
            layer=4,
            architecture="batchtopk",
            d_in=256,
            d_sae=2048,
            training_activations=1_000_000,
            seed=0,
            mask_rate=rate,
            scores={name: scores(*span) for name, span in spans.items()},
        )
        for rate in (None, *map(float, RATES))
    ]


def make_faithfulness(rng: np.random.Generator, layer: int, dose: float) -> FaithfulnessEntry:
    scores = {}
    for field, _, _ in FAITHFULNESS_PANELS:
        scores[field] = make_estimate(rng, 0.05, 0.2) if field == "elsewhere_moved" else make_estimate(rng, 0.3, 0.7)
        scores[f"{field}_random"] = make_estimate(rng, 0.05, 0.2)
    return FaithfulnessEntry(hook_point=POINT.format(layer), layer=layer, dose=dose, **scores)


def make_reading(rng: np.random.Generator) -> ReadingEntry:
    return ReadingEntry(
        reader="mean shift",
        boards=20,
        policy="confidence",
        statements={"only_candidate": 120, "decided": 40},
        sound_by_kind={"only_candidate": make_estimate(rng, 0.8, 0.9)},
        random_reader_statements=77,
        revised=0.01,
        **{name: make_estimate(rng, 0.8, 0.95) for name in ("sound", "random_reader_sound", "coverage", "lead_steps")},
    )


def make_report(concepts: tuple[str, ...] = ("candidate", "naked_single", "box_has_digit"), layers: tuple[int, ...] = (0, 2, 4)) -> Report:
    """Returns a report whose numbers all differ."""
    rng = np.random.default_rng(0)
    solved = {name: make_estimate(rng, 0.8, 0.95) for name in ("exact", "valid", "cells")}
    evaluation = EvaluationEntry(model="diffusion", policy="confidence", boards="harder", n=200, **solved, steps=14.5, seconds=12.0)
    return Report(
        task="sudoku",
        seed=0,
        models=[ModelEntry(name="sudoku-ar", parameters=6_360_000, facts={"objective": "causal"})],
        evaluation=[evaluation],
        probes=[
            make_probe(rng, concept, layer, rate)
            for concept in concepts
            for layer in reversed(layers)
            for rate in (None, *map(float, RATES))
        ],
        saes=make_saes(rng),
        reading=make_reading(rng),
        faithfulness=[make_faithfulness(rng, layer, dose) for layer in (2, 4, 6) for dose in (2.0, 0.5, 1.0)],
        seconds={"harvest": 10.0, "total": 60.0},
        findings=["Probes move."],
    )


@pytest.fixture(scope="module")
def report() -> Report:
    return make_report()


def check_line(trace: Any, estimates: list[Estimate]) -> None:
    assert list(trace.y) == pytest.approx([estimate.value for estimate in estimates], abs=1e-4)
    bounds = [[estimate.low, estimate.high, estimate.n] for estimate in estimates]
    assert [list(shown) for shown in trace.customdata] == [pytest.approx(one, abs=1e-4) for one in bounds]
    assert list(trace.error_y.array) == pytest.approx([estimate.high - estimate.value for estimate in estimates], abs=2e-4)
    assert list(trace.error_y.arrayminus) == pytest.approx([estimate.value - estimate.low for estimate in estimates], abs=2e-4)


@pytest.mark.parametrize("name", REPORT_FIGURES)
def test_every_report_figure_has_title_caption_units_and_hover(name: str, report: Report) -> None:
    figure = REPORT_FIGURES[name](report)
    assert figure.layout.title.text
    assert len(figure.layout.meta["caption"]) > 40
    axes = [figure.layout[key] for key in figure.layout if key.startswith(("xaxis", "yaxis"))]
    assert all(axis.title.text for axis in figure.select_xaxes())
    assert any(axis.title.text for axis in axes)
    assert all(trace.hovertemplate for trace in figure.data)
    figure.to_json()


def test_probe_figure_draws_each_score_in_order_of_layer(report: Report) -> None:
    figure = probe_transfer_figure(report.probes)
    whole = over_all_sites(report.probes)
    concepts = list(dict.fromkeys(entry.concept for entry in whole))
    assert len(figure.data) == len(concepts) * len(DRAWN)
    for index, trace in enumerate(figure.data):
        entries = sorted((e for e in whole if e.concept == concepts[index // len(DRAWN)]), key=lambda e: e.layer)
        assert list(trace.x) == [entry.layer for entry in entries]
        check_line(trace, [entry.scores[trace.meta].auc for entry in entries])
    assert sum(bool(trace.showlegend) for trace in figure.data) == len(DRAWN)


def test_two_components_of_one_layer_get_panels_of_their_own(report: Report) -> None:
    entry = report.probes[0]
    other = entry.model_copy(update={"hook_point": f"blocks.{entry.layer}.hook_mlp_out"})
    titles = [note.text for note in probe_transfer_figure([entry, other]).layout.annotations]
    assert titles == ["candidate, hook resid post", "candidate, hook mlp out"]


def test_mask_rate_figure_draws_each_score(report: Report) -> None:
    figure = mask_rate_figure(report.probes)
    for concept, trace in zip(("candidate", "naked_single", "box_has_digit"), figure.data, strict=True):
        entries = sorted((entry for entry in report.probes if entry.concept == concept), key=lambda entry: entry.layer)
        scores = {(entry.layer, entry.mask_rate): entry.scores["zero_shot"].auc.value for entry in entries}
        expected = [[scores[layer, float(rate)] for rate in RATES] for layer in (4, 2, 0)]
        assert [list(row) for row in trace.z] == [pytest.approx(row, abs=1e-4) for row in expected]
    assert list(figure.layout.xaxis.ticktext) == ["10 %", "30 %", "50 %", "70 %", "90 %"]


def test_a_slice_without_a_score_is_left_blank(report: Report) -> None:
    missing = next(entry for entry in report.probes if entry.layer == 2 and entry.mask_rate == 0.3)
    figure = mask_rate_figure([entry for entry in report.probes if entry is not missing])
    assert [value is None for row in figure.data[0].z for value in row].count(True) == 1


def test_sae_figure_draws_floors_and_ceiling(report: Report) -> None:
    bars = REPORT_FIGURES["saes"](report).data[0]
    whole, *by_rate = report.saes
    names = ("matched", "stitched", "rotated", "untrained")
    scores = [whole.scores["native"], whole.scores["source"], whole.scores["zero_shot"]]
    scores += [*(entry.scores["zero_shot"] for entry in by_rate), *(whole.scores[name] for name in names)]
    assert list(bars.y) == [score.fvu.value for score in scores]
    assert [list(row) for row in bars.customdata] == [[score.l0, 100 * score.dead, score.n] for score in scores]
    ends = [(y - low, y + high) for y, low, high in zip(bars.y, bars.error_y.arrayminus, bars.error_y.array, strict=True)]
    assert ends == [pytest.approx((score.fvu.low, score.fvu.high)) for score in scores]


def test_faithfulness_figure_draws_each_score_beside_its_control(report: Report) -> None:
    figure = REPORT_FIGURES["faithfulness"](report)
    assert len(figure.data) == 3 * 2 * len(FAITHFULNESS_PANELS)
    for trace in figure.data:
        layer = int(trace.name.split(",")[0].removeprefix("layer "))
        entries = sorted((entry for entry in report.faithfulness if entry.layer == layer), key=lambda entry: entry.dose)
        assert list(trace.x) == [entry.dose for entry in entries]
        assert ("random" in trace.name) == trace.meta.endswith("_random")
        check_line(trace, [getattr(entry, trace.meta) for entry in entries])


def test_confidence_figure_marks_where_cells_are_written() -> None:
    solution = tuple((3 * (cell // 9) + cell // 27 + cell % 9) % 9 + 1 for cell in range(81))
    givens = (0, 0, *solution[2:])
    none = (None,) * 79
    wrong = solution[0] % 9 + 1
    steps = (
        BoardStep(givens, (), (), (None,) * 81, None),
        BoardStep((0, solution[1], *solution[2:]), (1,), (), (0.5, 0.9, *none), None),
        BoardStep((wrong, *solution[1:]), (0,), (), (0.6, 0.95, *none), None),
        BoardStep(solution, (), (0,), (0.7, 0.97, *none), None),
    )
    figure = confidence_figure(BoardTrace("a board", "model", "policy", givens, solution, steps, ()))
    heat, right, bad, changed = figure.data
    assert list(heat.y) == ["r1c2", "r1c1"]
    assert [list(row) for row in heat.z] == [[0.9, 0.95, 0.97], [0.5, 0.6, 0.7]]
    assert [(list(trace.x), list(trace.y)) for trace in (right, bad, changed)] == [([1], ["r1c2"]), ([2], ["r1c1"]), ([3], ["r1c1"])]


def test_figures_of_nothing_say_so() -> None:
    with pytest.raises(ValueError, match="at least one"):
        probe_transfer_figure([])


def test_tables_hold_the_numbers_and_the_control(report: Report) -> None:
    evaluation, reading, seconds = report_tables(report)
    assert f"{100 * report.evaluation[0].exact.value:.1f} %" in evaluation.rows[0][2]
    by_name = {row[0]: row for row in reading.rows}
    assert by_name["only candidate"][1] == "120"
    assert by_name["decided"][2] == "not checkable"
    assert f"{100 * report.reading.random_reader_sound.value:.1f} %" in by_name["control: random directions"][2]
    assert seconds.rows[-1] == ("total", "60.0")
