"""The page of a probe sweep: its numbers are the run's, beside floors and ceiling, and no name in a run becomes markup."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plotly.graph_objects import Figure

from interp.report import CEILING, CONTROLS, Estimate, ProbeEntry, Scores
from interp.runs.config import CorpusConfig
from interp.runs.folder import MOVED, RUN, write_entries
from interp.runs.settings import RunError
from interp.sweeps.config import SweepConfig
from interp.sweeps.folder import SweepRun
from interp.viz.page import write_page
from interp.viz.probe_findings import move_findings, run_findings
from interp.viz.probe_grids import AXES, MEASURES, kept_figure, measures_figure, slices_figure
from interp.viz.probe_lines import auc_figure, readers_figure, selectivity_figure
from interp.viz.probe_scores import Part, best_places, difference, kept, looks, modes, plain, pooled, read_parts
from interp.viz.probes import best_table, left_out_tables, move_figures, probe_page, run_figures, settings_table

RUN_SPANS = {"source": (0.85, 0.98), "shuffled": (0.47, 0.53), "untrained": (0.55, 0.62), "input_only": (0.7, 0.75)}
MOVE_SPANS = RUN_SPANS | {
    "zero_shot": (0.75, 0.9),
    "mean_shift": (0.75, 0.9),
    "ridge_affine": (0.85, 0.94),
    "procrustes": (0.6, 0.8),
    "refit 0.1%": (0.75, 0.8),
    "refit 1.0%": (0.8, 0.85),
    "refit 10.0%": (0.9, 0.95),
    "native": (0.95, 0.99),
}
Spans = dict[str, tuple[float, float]]
ATTACK = "</script><b>%{meta.caption}</b><img src=x onerror=window.broken=1>&lt;"


def make_estimate(rng: np.random.Generator, low: float, high: float) -> Estimate:
    value, width = float(rng.uniform(low, high)), float(rng.uniform(0.005, 0.02))
    return Estimate(value=value, low=value - width, high=value + 1.5 * width, n=int(rng.integers(50, 200)))


def make_scores(rng: np.random.Generator, low: float, high: float) -> Scores:
    figures = {name: make_estimate(rng, low, high) for name in ("auc", "matched", "accuracy", "exact")}
    return Scores(calibration=float(rng.uniform(0, 0.3)), **figures)


def make_part(
    *,
    concepts: Sequence[str] = ("candidates", "box_digit"),
    readers: Sequence[str] = ("logistic", "mass_mean"),
    layers: Sequence[int] = (0, 1, 2),
    seeds: Sequence[int] = (0, 1),
    spans: Spans = RUN_SPANS,
    slices: Sequence[dict[str, Any]] = ({},),
    component: str = "hook_resid_post",
    left_out: tuple[str, ...] = (),
    model: str = "ar",
    **run: Any,
) -> Part:
    """Returns a run, or a move, whose numbers all differ."""
    rng = np.random.default_rng(len(spans))
    config = SweepConfig(model="ar", corpus=CorpusConfig(examples=60), concepts=concepts, readers=readers, seeds=seeds)
    entries = [
        ProbeEntry(
            concept=concept,
            reader=reader,
            hook_point=f"blocks.{layer}.{component}",
            layer=layer,
            heads=("1", "2"),
            left_out=left_out,
            seed=seed,
            sites=1000,
            scores={name: make_scores(rng, *span) for name, span in spans.items()},
            **part,
        )
        for seed, layer, reader, concept, part in product(seeds, layers, readers, concepts, slices)
    ]
    return Part(SweepRun(config=config, model=model, fingerprint="ar:1", contents="", **run), tuple(entries))


def make_move(**given: Any) -> Part:
    return make_part(**{"spans": MOVE_SPANS, "moved_to": "diffusion", "moved_fingerprint": "diffusion:2"} | given)


def write_part(part: Part, folder: Path) -> None:
    """Writes what ``denoscope probe train`` or ``transfer`` leaves behind."""
    folder.mkdir(parents=True)
    (folder / RUN).write_text(part.run.model_dump_json(), encoding="utf-8")
    for seed, point in dict.fromkeys((entry.seed, entry.hook_point) for entry in part.entries):
        place = folder / f"seed-{seed}" / point
        place.mkdir(parents=True)
        write_entries([entry for entry in part.entries if (entry.seed, entry.hook_point) == (seed, point)], place)


RATES = [{}, *({"mask_rate": rate} for rate in (0.1, 0.5, 0.9))]
STEPS = [{}, *({"step": step} for step in range(1, 5)), *({"kind": kind} for kind in ("settled", "masked", "committed"))]


def write_run(folder: Path, **given: Any) -> None:
    """Writes a run and two moves of it."""
    write_part(make_part(slices=RATES, **given), folder)
    write_part(make_move(slices=RATES, **given), folder / MOVED / "diffusion")
    write_part(make_move(slices=STEPS, policy="random", **given), folder / MOVED / "diffusion-random")


def line_values(figure: Figure, field: str) -> list[list[float]]:
    return [list(trace.y) for trace in figure.select_traces({"meta": field})]


def mean_auc(part: Part, concept: str, reader: str, layer: int, name: str) -> float:
    found = [
        entry.scores[name].auc.value
        for entry in part.entries
        if (entry.concept, entry.reader, entry.layer) == (concept, reader, layer)
        and (entry.mask_rate, entry.kind, entry.step, entry.fitted_at) == (None,) * 4
    ]
    return float(np.mean(found))


def with_scores(part: Part, change: Callable[[dict[str, Scores]], dict[str, Scores]]) -> Part:
    return replace(part, entries=tuple(entry.model_copy(update={"scores": change(entry.scores)}) for entry in part.entries))


def at(value: float, half: float = 0.01, calibration: float = 0.0) -> Scores:
    """Returns scores that are all one value."""
    estimate = Estimate(value=value, low=value - half, high=value + half, n=100)
    return Scores(auc=estimate, matched=estimate, accuracy=estimate, exact=estimate, calibration=calibration)


def test_lines_are_the_means_over_seeds_and_bars_reach_over_all_intervals() -> None:
    part = make_part(slices=RATES)
    figure = auc_figure(part, best_places(part, part.places), title="t", caption="c")
    for name in ("source", *CONTROLS):
        for concept, values in zip(("candidates", "box_digit"), line_values(figure, name), strict=True):
            assert values == pytest.approx([mean_auc(part, concept, "logistic", layer, name) for layer in range(3)], abs=1e-4)
    bars = next(figure.select_traces({"meta": "source"}))
    each = part.places["candidates", "logistic", 0, "blocks.0.hook_resid_post"]
    assert bars.customdata[0][0] == pytest.approx(min(entry.scores["source"].auc.low for entry in each), abs=1e-4)
    assert bars.customdata[0][1] == pytest.approx(max(entry.scores["source"].auc.high for entry in each), abs=1e-4)
    assert bars.customdata[0][2] == min(entry.scores["source"].auc.n for entry in each)


def test_every_seed_is_a_dot_and_one_seed_has_none() -> None:
    part = make_part(seeds=(3, 5))
    dots = list(auc_figure(part, best_places(part, part.places), title="t", caption="c").select_traces({"meta": "seeds"}))
    assert [sorted(set(trace.customdata)) for trace in dots] == [[3, 5], [3, 5]]
    own = {round(entry.scores["source"].auc.value, 4) for entry in part.entries if entry.reader == "logistic"}
    assert own <= {y for trace in dots for y in trace.y}
    alone = make_part(seeds=(3,))
    assert not list(auc_figure(alone, best_places(alone, alone.places), title="t", caption="c").select_traces({"meta": "seeds"}))


def test_floors_are_grey_and_the_ceiling_is_green_and_lines_differ_without_colour() -> None:
    series = {one.field: one for one in looks(list(MOVE_SPANS))}
    assert [series[name].color for name in ("shuffled", "untrained", "native")] == ["#8a8f98", "#8a8f98", "#009e73"]
    assert len({(one.dash, one.symbol) for one in series.values()}) == len(MOVE_SPANS)
    assert len({one.label for one in series.values()}) == len(MOVE_SPANS)


def test_no_two_lines_look_alike() -> None:
    names = {"source", "zero_shot", "ridge_affine", "affine 100 pairs", "affine 1000 pairs", "refit 0.1%", "refit 1.0%", *CONTROLS, CEILING}
    series = looks(names)
    assert {one.field for one in series} == names
    assert len({(one.color, one.dash, one.symbol) for one in series}) == len(names)


def test_modes_go_from_as_it_is_over_aligned_and_refitted_to_the_ceiling_and_the_floors() -> None:
    shuffled = sorted([*MOVE_SPANS, "new_map"], reverse=True)
    found = modes(shuffled)
    assert sorted(found) == sorted(shuffled)
    assert found[:2] == ["source", "zero_shot"]
    assert found[-4:] == ["native", "input_only", "untrained", "shuffled"]
    assert [looks([name])[0].field for name in found] == found


def test_the_best_place_is_where_the_source_is_best_whatever_the_other_model_says() -> None:
    run, move = make_part(), make_move()
    for concept, reader, layer, _ in best_places(run, move.places):
        assert reader == "logistic"
        scores = [mean_auc(run, concept, reader, each, "source") for each in range(3)]
        assert layer == int(np.argmax(scores))


def test_best_places_keep_to_what_the_move_has() -> None:
    run, move = make_part(), make_move(layers=(1,))
    assert {place[2] for place in best_places(run, move.places)} == {1}
    assert probe_figures_are_whole(move_figures(move, best_places(run, move.places)))


def probe_figures_are_whole(figures: Sequence[Figure]) -> bool:
    for figure in figures:
        assert figure.layout.title.text
        assert len(figure.layout.meta["caption"]) > 40
        assert all(trace.hovertemplate for trace in figure.data)
        json.loads(figure.to_json())
    return True


def test_difference_is_newcombes() -> None:
    """Against formula 10 of Newcombe (1998): d - sqrt((p1 - l1)^2 + (u2 - p2)^2), d + sqrt((u1 - p1)^2 + (p2 - l2)^2)."""
    found = difference(Estimate(value=0.8, low=0.7, high=0.84, n=10), Estimate(value=0.5, low=0.47, high=0.54, n=9))
    assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.3 - np.hypot(0.1, 0.04), 0.3 + np.hypot(0.04, 0.03)))
    assert found.n == 9


def test_selectivity_is_source_minus_each_control() -> None:
    part = make_part()
    figure = selectivity_figure(part, best_places(part, part.places))
    for control in CONTROLS:
        expected = [mean_auc(part, "candidates", "logistic", layer, name) for name in ("source", control) for layer in range(3)]
        assert line_values(figure, control)[0] == pytest.approx(np.subtract(expected[:3], expected[3:]), abs=1e-4)


def test_the_kept_heatmap_is_the_share_of_the_ceiling_over_the_higher_floor() -> None:
    run, move = make_part(), make_move()
    places = best_places(run, move.places)
    heatmap = kept_figure(move, places).data[0]
    ways = ["zero_shot", "mean_shift", "ridge_affine", "procrustes", "refit 0.1%", "refit 1.0%", "refit 10.0%"]
    for place, row in zip(places, heatmap.z, strict=True):
        assert list(row) == pytest.approx([np.mean([entry.kept(way) for entry in move.places[place]]) for way in ways])


def test_nothing_is_kept_of_a_ceiling_in_the_floors() -> None:
    move = with_scores(make_move(), lambda scores: scores | {"native": at(0.6), "untrained": at(0.59)})
    place = next(iter(move.places))
    assert kept(move.places[place], "zero_shot") is None
    assert all(value is None for row in kept_figure(move, [place]).data[0].z for value in row)
    assert "nothing for a moved one to keep" in move_findings(move, [place])[0]


def test_measures_are_coloured_by_what_is_lost_against_the_ceiling() -> None:
    move = make_move(seeds=(0,))
    places = list(move.places)[:2]
    figure = measures_figure(move, places)
    ways = [name for name in move.names if name not in CONTROLS]
    for trace, measure in zip(figure.data, MEASURES, strict=True):
        for row, place in zip(trace.z, places, strict=True):
            scores = {way: getattr(move.places[place][0].scores[way], measure) for way in ways}
            values = np.array([one if isinstance(one, float) else one.value for one in scores.values()])
            lost = (values - values[ways.index("native")]) * (-1 if measure == "calibration" else 1)
            assert list(row) == pytest.approx(lost, abs=2e-4)


@pytest.mark.parametrize("axis", AXES)
def test_slices_show_zero_shot_beside_the_ceiling(axis: Any) -> None:
    move = make_move(slices=[*RATES, *STEPS[1:]])
    places = best_places(make_part(), move.places)
    figure = slices_figure(move, places, axis)
    assert figure is not None
    values = {"mask_rate": [0.1, 0.5, 0.9], "step": [1, 2, 3, 4], "kind": ["masked", "committed", "settled"]}[axis]
    panels = [(place[0], name) for place in places for name in ("zero_shot", "native")]
    for trace, (concept, name) in zip(figure.data, panels, strict=True):
        for row, layer in zip(trace.z, (2, 1, 0), strict=True):
            for shown, value in zip(row, values, strict=True):
                found = [
                    entry.scores[name].auc.value
                    for entry in move.entries
                    if (entry.concept, entry.reader, entry.layer) == (concept, "logistic", layer) and getattr(entry, axis) == value
                ]
                assert shown == pytest.approx(np.mean(found), abs=1e-4)


def test_without_slices_there_is_no_slice_figure() -> None:
    part = make_part()
    assert all(slices_figure(part, best_places(part, part.places), axis) is None for axis in AXES)
    assert len(run_figures(part, best_places(part, part.places))) == 3


def test_a_slice_that_some_layers_lack_is_blank_there() -> None:
    part = make_part(slices=RATES)
    part = replace(part, entries=tuple(entry for entry in part.entries if entry.layer != 1 or entry.mask_rate != 0.5))
    figure = slices_figure(part, best_places(part, part.places), "mask_rate")
    assert figure is not None
    assert [[value is None for value in row] for row in figure.data[0].z] == [[False] * 3, [False, True, False], [False] * 3]


def test_probes_fitted_at_one_rate_stand_beside_those_fitted_on_all() -> None:
    part = make_part(slices=[*RATES, {"fitted_at": 0.1}, {"fitted_at": 0.5}])
    places = best_places(part, part.places)
    assert all(len(read) == 2 for read in part.places.values())  # two seeds, and none of what was fitted at one rate
    figure = slices_figure(part, places, "mask_rate")
    assert figure is not None
    apart = [entry.scores["source"].auc.value for entry in part.entries if entry.fitted_at == 0.5 and entry.layer == 2]
    assert figure.data[1].z[0][1] in [pytest.approx(np.mean(apart[i::4]), abs=1e-4) for i in range(4)]


def test_readers_are_compared_at_one_layer_with_a_floor() -> None:
    part = make_part()
    places = best_places(part, part.places)
    figure = readers_figure(part, places, "source")
    assert [trace.meta for trace in figure.data] == ["logistic", "mass_mean", "floor"]
    for trace in figure.data[:2]:
        assert list(trace.x) == pytest.approx([mean_auc(part, place[0], trace.meta, place[2], "source") for place in places], abs=1e-4)


def test_a_reader_of_exclusive_concepts_alone_leaves_the_others_to_the_next() -> None:
    part = make_part(readers=("multinomial", "logistic"))
    part = replace(part, entries=tuple(e for e in part.entries if e.reader == "logistic" or e.concept == "candidates"))
    assert {place[:2] for place in best_places(part, part.places)} == {("candidates", "multinomial"), ("box_digit", "logistic")}
    assert probe_figures_are_whole(run_figures(part, best_places(part, part.places)))


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({"source": at(0.9)}, "and a reader of the visible tokens alone (0.700) as well"),
        ({"source": at(0.7)}, "beats both floors but not a reader of the visible tokens"),
        ({"source": at(0.55)}, "not clearly above these floors"),
    ],
)
def test_run_findings_say_which_controls_are_beaten(scores: dict[str, Scores], said: str) -> None:
    controls = {"shuffled": at(0.5), "untrained": at(0.55), "input_only": at(0.7)}
    part = with_scores(make_part(concepts=("candidates",)), lambda _: controls | scores)
    (finding,) = run_findings(part, best_places(part, part.places))
    assert said in finding
    assert f"selectivity is {scores['source'].auc.value - 0.5:+.3f}" in finding
    assert "2 seeds" in finding


FLOOR = {"source": at(0.95), "shuffled": at(0.5), "untrained": at(0.5), "input_only": at(0.7), "native": at(0.9)}


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({"zero_shot": at(0.5)}, "it does not transfer as it is"),
        ({"zero_shot": at(0.7)}, "it keeps 50% of what"),
        ({"zero_shot": at(0.5), "procrustes": at(0.5)}, "No map fitted without labels brings it clearly above its floors (rotation 0%)"),
        ({"zero_shot": at(0.7), "procrustes": at(0.8)}, "the best helps (kept: rotation 75%)"),
        ({"zero_shot": at(0.8), "procrustes": at(0.7)}, "the best is worse than none (kept: rotation 50%)"),
        ({"zero_shot": at(0.7), "refit 1.0%": at(0.8), "refit 10.0%": at(0.89)}, "Refitted with 10 % of the labels it keeps 98%"),
        ({"zero_shot": at(0.7), "refit 1.0%": at(0.8)}, "No refit keeps 90%; with 1 % of the labels it keeps 75%"),
        ({"zero_shot": at(0.7, calibration=0.2)}, "accuracy 0.700 against 0.900 fitted there, calibration error 0.200 against 0.000"),
    ],
)
def test_move_findings_say_what_is_kept_and_what_fails(scores: dict[str, Scores], said: str) -> None:
    part = with_scores(make_move(concepts=("candidates",)), lambda _: FLOOR | scores)
    (finding,) = move_findings(part, [next(iter(part.places))])
    assert said in finding


def test_many_concepts_are_summed_up() -> None:
    many = [f"c{index}" for index in range(40)]
    run, move = make_part(concepts=many, layers=(0,), readers=("logistic",)), make_move(concepts=many, layers=(0,), readers=("logistic",))
    places = best_places(run, run.places)
    assert len(run_findings(run, places)) == 2
    assert len(move_findings(move, places)) == 1


def test_tables_name_best_layers_left_out_heads_and_settings() -> None:
    run = make_part(left_out=("9",))
    table = best_table(run, best_places(run, run.places))
    for row, place in zip(table.rows, sorted(best_places(run, run.places)), strict=True):
        assert row[0] == f"{place[0]}, logistic, layer {place[2]}"
        assert row[1].startswith(f"{pooled(run.places[place], 'source').value:.3f} [")
        assert row[-1] == "2"
    assert left_out_tables([make_part()]) == []
    assert left_out_tables([run])[0].rows == (("candidates", "ar", "9", "0, 1"), ("box_digit", "ar", "9", "0, 1"))
    settings = dict(settings_table([run, make_move()]).rows)
    assert settings["corpus"] == '{"examples": 60}'
    assert settings["concepts"] == "candidates, box_digit"
    assert settings["moved to diffusion"].startswith("diffusion:2")


def embedded(html: str) -> Any:
    found = re.search(r'<script type="application/json" id="figure-data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def test_the_page_has_the_run_and_all_its_moves(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    html = probe_page(tmp_path / "run")
    run, moves = read_parts(tmp_path / "run")
    assert [part.name for part in moves] == ["diffusion", "diffusion, in its runs by random"]
    assert len(embedded(html)) == (3 + 1) + (4 + 1) + (4 + 2)
    for finding in run_findings(run, best_places(run, run.places)):
        assert finding.split(" (")[0].split("“")[0] in html
    assert html.count("Best layers: ") == 3


def test_no_name_in_a_run_becomes_markup(tmp_path: Path) -> None:
    write_run(tmp_path / "run", concepts=("candidates", ATTACK), left_out=(ATTACK,), model=ATTACK)
    html = re.sub(r'<script id="plotly-source">.*?</script>', "", probe_page(tmp_path / "run"), flags=re.DOTALL)
    assert "<img" not in html
    assert "&lt;img" in html
    assert not re.search(r"<(b|img|/b)\b", json.dumps(embedded(html)))


@given(st.text())
def test_plain_text_has_no_tag_and_no_template(text: str) -> None:
    shown = plain(text, 30)
    assert "<" not in shown
    assert ">" not in shown
    assert "%{" not in shown
    assert not re.search(r"&(?!amp;|lt;|gt;|#123;)", shown)


@pytest.mark.parametrize(
    "shape",
    [
        {"concepts": ("one",), "layers": (4,), "seeds": (0,), "readers": ("logistic",)},
        {"concepts": [f"c{i}" for i in range(13)], "layers": (0, 1), "seeds": (0,), "readers": ("logistic",)},
        {"layers": (-1, 0), "component": "hook_mlp_out"},
    ],
)
def test_pages_of_any_shape_are_whole(shape: dict[str, Any]) -> None:
    run, move = make_part(slices=RATES, **shape), make_move(slices=[*RATES, *STEPS[1:]], **shape)
    assert probe_figures_are_whole(run_figures(run, best_places(run, run.places)))
    assert probe_figures_are_whole(move_figures(move, best_places(run, move.places)))


def test_two_components_get_panels_of_their_own() -> None:
    one, other = make_part(layers=(0, 1)), make_part(layers=(0, 1), component="hook_mlp_out")
    both = replace(one, entries=one.entries + other.entries)
    figure = auc_figure(both, best_places(both, both.places), title="t", caption="c")
    titles = {note.text for note in figure.layout.annotations}
    assert titles == {f"{name}, {where}" for name in ("candidates", "box digit") for where in ("hook resid post", "hook mlp out")}


def test_a_folder_without_results_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run"):
        probe_page(tmp_path)
    write_part(replace(make_part(), entries=()), tmp_path / "run")
    with pytest.raises(RunError, match=r"nothing of .* is finished"):
        probe_page(tmp_path / "run")
    write_part(make_part(seeds=(0,)), tmp_path / "half")
    write_part(replace(make_move(), entries=()), tmp_path / "half" / MOVED / "diffusion")
    assert "Moved to" not in probe_page(tmp_path / "half").split("figure-data")[0]


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH (Debian: apt install chromium)")
def test_the_page_draws_every_figure_in_a_browser_and_runs_nothing_of_a_name(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    shape: dict[str, Any] = {"concepts": ("candidates", ATTACK), "layers": (0, 1), "readers": ("logistic",)}
    write_part(make_part(**shape), tmp_path / "run")
    write_part(make_move(slices=STEPS, policy="random", **shape), tmp_path / "run" / MOVED / "diffusion-random")
    write_page(probe_page(tmp_path / "run"), tmp_path / "index.html")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        tab, troubles = chromium.new_page(), []
        tab.on("console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: troubles.append(str(error)))
        tab.goto((tmp_path / "index.html").as_uri(), timeout=120_000)
        drawn = tab.locator(".plot").count()
        tab.wait_for_function(f"document.querySelectorAll('.plot .main-svg .infolayer').length >= {drawn}")
        texts = tab.locator(".plot").evaluate_all("plots => plots.map(plot => plot.textContent).join(' ')")
        broken = tab.evaluate("window.broken")
        chromium.close()
    assert drawn == 2 + 5
    assert troubles == []
    assert broken is None
    assert ATTACK.replace("_", " ")[:20] in texts
