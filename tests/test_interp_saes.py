"""SAEs of a run: pools to learn from, training that goes on, scores beside floors, and what is left after a move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from sae_lens import SAE

from interp.boards import mixed_boards
from interp.canvases import Masked, Whole
from interp.corpus import Corpus, puzzle_corpus
from interp.harvest import Plan, harvest
from interp.latents.entries import SaeSummary
from interp.report import SaeEntry, over_all_sites
from interp.runs.config import CorpusConfig
from interp.runs.folder import RESULTS, finished, read_entries, unit_folder
from interp.runs.material import split_groups
from interp.runs.moving import move_folder
from interp.runs.settings import RunError
from interp.saes.config import SaeConfig
from interp.saes.describe import describe
from interp.saes.move import move
from interp.saes.pools import LivePools, StoredPools
from interp.saes.summary import STATISTICS, by_point, cost_of_splicing, tuning, unexplained, unexplained_by_rate
from interp.saes.train import plan_saes, train
from interp.store import harvest_to
from interp.viz.sae_page import sae_page
from interp.viz.saes import saes_page
from models.hookpoints import resid_post
from models.language_model import LanguageModel
from models.load import load
from models.tasks.sudoku.generator import RUNGS
from probes.saes.crosscoder import load_crosscoder
from probes.saes.files import load_sae
from probes.saes.quality import evaluate_sae

CONFIG = SaeConfig(
    model="sudoku-ar",
    corpus=CorpusConfig(examples=60),
    points=("blocks.1.hook_resid_post", "blocks.3.hook_resid_post"),
    sites_per_canvas=8,
    held_out=0.2,
    d_sae=96,
    k=8,
    activations=4096,
    batch=64,
    concepts=("digit",),
    tuned=(256,),
    crosscoder=400,
)
POINT = resid_post(3)


@pytest.fixture(scope="module", autouse=True)
def few_pairs() -> Iterator[None]:
    """Keeps small what the models read one by one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp.saes.move.MOST_PAIRS", 300)
        patch.setattr("interp.saes.train.SPLICED", 6)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saes") / "a run"
    train(plan_saes(CONFIG), folder)
    return folder


@pytest.fixture(scope="module")
def moved(run: Path) -> list[SaeEntry]:
    twin = load("sudoku-diffusion")
    move(run, twin)
    return read_entries(move_folder(run, twin, None), SaeEntry)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def at(entries: list[SaeEntry], point: str) -> SaeEntry:
    (found,) = [one for one in over_all_sites(entries) if one.hook_point == point]
    return found


# pools


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return puzzle_corpus(load("sudoku-diffusion").task, mixed_boards(12, 0))


def test_a_pool_depends_on_its_number_alone(corpus: Corpus) -> None:
    points = (resid_post(0), POINT)
    pools = LivePools(load("sudoku-diffusion"), corpus, points, Plan(Masked(), sites_per_canvas=4, seed=3), 10.0, 150)
    first, second = pools(0), pools(1)
    assert all(torch.equal(first[name], again) for name, again in pools(0).items())
    assert {len(rows) for rows in first.values()} == {len(first[str(POINT)])}
    assert not torch.equal(first[str(POINT)][:8], second[str(POINT)][:8])


def test_a_round_of_pools_shows_each_sequence_once(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("sudoku-ar")
    monkeypatch.setattr("interp.saes.pools.POOL_ROWS", int(3.9 * corpus.asked.sum() / len(corpus)))
    monkeypatch.setattr("interp.saes.pools.bfloat16_is_fast", lambda device: False)
    pools = LivePools(model, corpus, (POINT,), Plan(Whole(worth=1), sites_per_canvas=81, seed=0), 100.0, 10**6)
    assert pools.sequences == 4
    seen = torch.cat([pools(number)[str(POINT)] for number in range(3)])
    whole = harvest(model, corpus, [POINT], canvases=Whole(worth=1), sites_per_canvas=81).activations[POINT]
    assert torch.allclose(seen.double().sum(0), whole.double().sum(0), rtol=1e-4, atol=1e-2)
    again = torch.cat([pools(number)[str(POINT)] for number in range(3, 6)])
    assert torch.allclose(again.double().sum(0), whole.double().sum(0), rtol=1e-4, atol=1e-2)
    assert not torch.equal(again, seen)


@pytest.mark.parametrize("rate", [None, 0.3])
@pytest.mark.parametrize("wanted", [40, 150, 280])
def test_pools_hold_the_rows_that_are_wanted_and_few_more(
    wanted: int, rate: float | None, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp.saes.pools.POOL_ROWS", 100)
    model, source = (load("sudoku-diffusion"), Masked((rate,))) if rate else (load("sudoku-ar"), Whole())
    pools = LivePools(model, corpus, (POINT,), Plan(source, sites_per_canvas=9, seed=1), 100.0, wanted)
    count = {40: 1, 150: 2, 280: 3}[wanted]
    assert wanted <= sum(len(pools(number)[str(POINT)]) for number in range(count)) < 1.03 * wanted + count * pools.of_a_sequence[1]


def test_a_forward_pass_in_bfloat16_is_close(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    pools = LivePools(load("sudoku-ar"), corpus, (POINT,), Plan(Whole()), 100.0, 300)
    found = []
    for fast in (False, True):
        monkeypatch.setattr("interp.saes.pools.bfloat16_is_fast", lambda device, fast=fast: fast)
        found.append(pools(0)[str(POINT)])
    exact, rounded = found
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).square().sum() < 1e-3 * (exact - exact.mean(0)).square().sum()


def test_rows_of_unusual_length_are_left_out_at_every_point(corpus: Corpus) -> None:
    points, plan = (resid_post(0), POINT), Plan(Masked(), sites_per_canvas=4)
    model = load("sudoku-diffusion")
    every, some = (LivePools(model, corpus, points, plan, most, 200)(0) for most in (100.0, 1.05))
    assert 0 < len(some[str(POINT)]) == len(some[str(points[0])]) < len(every[str(POINT)])
    for rows in some.values():
        assert rows.norm(dim=1).max() <= 1.05 * max(part.norm(dim=1).median() for part in every.values())


def test_stored_pools_are_the_shards_over_and_over(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.store.MOST_CANVASES", 25)
    stored = harvest_to(tmp_path / "h", load("sudoku-diffusion"), corpus, [POINT], sites_per_canvas=4)
    assert stored.record.n_shards > 1
    pools = StoredPools(stored, (POINT,), 100.0)
    one_round = torch.cat([pools(number)[str(POINT)] for number in range(stored.record.n_shards)])
    assert torch.equal(one_round, stored.load([POINT]).activations[POINT])
    assert torch.equal(pools(stored.record.n_shards)[str(POINT)], pools(0)[str(POINT)])


# training


def test_a_figure_is_what_the_saved_sae_gives_by_hand(run: Path) -> None:
    model = load("sudoku-ar")
    parts = split_groups(puzzle_corpus(model.task, mixed_boards(60, 0, RUNGS)), CONFIG.held_out, 0)
    test = harvest(model, parts[1], [POINT], sites_per_canvas=CONFIG.sites_per_canvas, seed=1)
    sae = load_sae(unit_folder(run, 0, POINT) / "sae", fitted_on=f"{model.fingerprint}@{POINT}")
    assert (sae.cfg.metadata.hook_name, sae.cfg.d_sae) == (str(POINT), CONFIG.d_sae)
    entry = at(read_entries(run, SaeEntry), str(POINT))
    by_hand = evaluate_sae(sae, test.activations[POINT], test.sites.group)
    assert entry.scores["source"].fvu.value == pytest.approx(by_hand.fvu.value, rel=1e-6)
    assert entry.scores["source"].fvu.n == len(parts[1])
    assert SAE.load_from_disk(unit_folder(run, 0, POINT) / "sae").cfg.d_in == model.d_model


def test_an_sae_beats_its_floors(run: Path) -> None:
    for point in CONFIG.points:
        scores = at(read_entries(run, SaeEntry), point).scores
        assert scores["source"].fvu.high < min(scores[floor].fvu.low for floor in ("rotated", "untrained"))
        spliced = {name: one.spliced for name, one in scores.items()}
        assert all(spliced.values())
        assert spliced["source"].recovered.value > spliced["rotated"].recovered.value
        assert scores["source"].probing["digit, 5"] > 0.6


def test_an_interrupted_training_ends_as_one_that_was_not(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.saes.pools.POOL_ROWS", 400)
    planned, whole = plan_saes(CONFIG.model_copy(update={"concepts": ()})), tmp_path / "whole"
    train(planned, whole)

    for stage, when in (("sae, seed 0", 40), ("untrained, seed 0", 50), ("scores, seed 0", 1)):

        def stop(told: str, done: int, total: int, stage: str = stage, when: int = when) -> None:
            if (told, done) == (stage, when):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(planned, tmp_path / "stopped", stop)
    assert [finished(tmp_path / "stopped", 0, point) for point in planned.points] == [True, False]
    train(planned, tmp_path / "stopped")
    ours, theirs = contents(whole), contents(tmp_path / "stopped")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_from_disk_it_learns_too(tmp_path: Path) -> None:
    planned = plan_saes(CONFIG.model_copy(update={"stored": True, "concepts": (), "points": (str(POINT),)}))
    train(planned, tmp_path / "run")
    scores = at(read_entries(tmp_path / "run", SaeEntry), str(POINT)).scores
    assert scores["source"].fvu.value < 0.7
    assert not list((tmp_path / "run").rglob("*.arrow"))


# moving


def test_every_move_stands_between_floors_and_ceiling(moved: list[SaeEntry]) -> None:
    for point in CONFIG.points:
        entry = at(moved, point)
        named = {"source", "zero_shot", "matched", "stitched", "native", "rotated", "untrained", "tuned 256", "frozen 256", "scratch 256"}
        assert set(entry.scores) == named
        assert sum(entry.states.values()) == CONFIG.d_sae
        assert {"native", "seeds"} == set(entry.matches)
        assert entry.crosscoder is not None
        assert sum(entry.crosscoder.by_scaling.values()) == sum(entry.crosscoder.by_norm.values()) == CONFIG.d_sae
        assert entry.scores["native"].fvu.high < min(entry.scores[name].fvu.low for name in ("zero_shot", "rotated", "untrained"))
        assert entry.scores["stitched"].fvu.value < entry.scores["zero_shot"].fvu.value
        assert entry.scores["native"].bound is not None
    by_rate = [entry.mask_rate for entry in moved if entry.hook_point == str(POINT) and entry.mask_rate is not None]
    assert by_rate == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])


def test_moved_artefacts_open_again(run: Path, moved: list[SaeEntry]) -> None:
    twin = load("sudoku-diffusion")
    place = unit_folder(move_folder(run, twin, None), 0, POINT)
    for name in ("native", "stitched"):
        assert load_sae(place / name, fitted_on=f"{twin.fingerprint}@{POINT}").cfg.d_sae == CONFIG.d_sae
    origins = tuple(f"{load(name).fingerprint}@{POINT}" for name in ("sudoku-ar", "sudoku-diffusion"))
    assert load_crosscoder(place / "crosscoder", fitted_on=origins).d_sae == CONFIG.d_sae


def test_a_model_moved_to_itself_changes_nothing(run: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "moved", ignore_errors=True)
    model = load("sudoku-ar")
    move(tmp_path / "run", model)
    entry = at(read_entries(move_folder(tmp_path / "run", model, None), SaeEntry), str(POINT))
    home = at(read_entries(run, SaeEntry), str(POINT))
    for name in ("source", "zero_shot", "matched", "stitched"):
        assert entry.scores[name].fvu.value == pytest.approx(home.scores["source"].fvu.value, rel=2e-3)
    assert entry.states["alive"] + entry.states["silent"] == CONFIG.d_sae


def test_the_table_holds_every_score(run: Path, moved: list[SaeEntry]) -> None:
    twin = load("sudoku-diffusion")
    table = pq.read_table(move_folder(run, twin, None) / RESULTS).to_pylist()
    assert len(table) == sum(len(entry.scores) for entry in moved)
    row = next(one for one in table if one["score"] == "native" and one["hook_point"] == str(POINT) and one["mask_rate"] is None)
    assert row["fvu"] == at(moved, str(POINT)).scores["native"].fvu.value
    assert row["moved_to"] == "sudoku-diffusion"


# what is shown


def test_statistics_are_the_entries(moved: list[SaeEntry]) -> None:
    own = [one for one in over_all_sites(moved) if one.layer == 3]
    mean = sum(one.scores["stitched"].fvu.value for one in own) / len(own)
    assert unexplained(moved).at(sae="stitched", layer=3).value == pytest.approx(mean, abs=1e-4)
    (row,) = [row for row in by_point(over_all_sites(moved)) if row["hook point"] == str(POINT)]
    assert row["stitched"] == pytest.approx(mean, abs=1e-4)
    assert row["seeds"] == len(own)
    rate = [one for one in moved if one.layer == 1 and one.mask_rate == 0.7]
    value = unexplained_by_rate(moved).at(at=CONFIG.points[0], sae="native", **{"percent masked": 70}).value
    assert value == pytest.approx(sum(one.scores["native"].fvu.value for one in rate) / len(rate), abs=1e-4)
    deltas = [one.scores["zero_shot"].spliced for one in own]
    cost = cost_of_splicing(moved).at(tokens="all tokens", sae="zero_shot", layer=3).value
    assert cost == pytest.approx(sum(one.delta.value for one in deltas if one) / len(own), abs=1e-4)


def test_the_tuning_curve_has_every_size(moved: list[SaeEntry]) -> None:
    curve = tuning(moved)
    assert {(value.at["sae"], value.at["activations"]) for value in curve.values} == {
        (kind, count) for kind in ("tuned", "frozen", "scratch") for count in CONFIG.tuned
    }
    own = [one.scores["frozen 256"].fvu.value for one in over_all_sites(moved) if one.layer == 1]
    assert curve.at(at=CONFIG.points[0], sae="frozen", activations=256).value == pytest.approx(sum(own) / len(own), abs=1e-4)


def test_floors_and_ceiling_are_drawn_as_such(moved: list[SaeEntry]) -> None:
    assert unexplained(moved).roles == {"rotated": "floor", "untrained": "floor", "native": "reference"}
    assert unexplained_by_rate(moved).roles == {"native": "reference"}


def test_the_page_shows_every_statistic_and_links_to_the_dashboards(run: Path, moved: list[SaeEntry]) -> None:
    pages = []
    for place, summary in describe(run, latents=2):
        assert SaeSummary.model_validate_json(summary.model_dump_json()) == summary
        assert summary.in_runs == ("moved" in place.parts)
        (place / "index.html").write_text(sae_page(summary))
        pages.append(place / "index.html")
    assert len(pages) == 2 * len(CONFIG.points)
    page = saes_page(run)
    for page_of_one in pages:
        assert f'href="{page_of_one.relative_to(run)}"' in page
    home = read_entries(run, SaeEntry)
    drawn = sum(bool(make(entries).values) for make in STATISTICS for entries in (home, moved))
    assert page.count("<figure") == drawn
    for title in ("Concepts told by few latents", "What became of the latents", "Nearest decoder directions"):
        assert title in page
    assert "Crosscoders" in page


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run"):
        saes_page(tmp_path)
    with pytest.raises(RunError, match="is no run"):
        next(describe(tmp_path))


# what is refused


def test_what_does_not_belong_together_is_refused(run: Path, tmp_path: Path, tiny_module: Callable[..., Any]) -> None:
    tiny_module("full").save_pretrained(tmp_path / "tiny")
    with pytest.raises(RunError, match="readers move between models of one task and width"):
        move(run, load(str(tmp_path / "tiny")))
    with pytest.raises(RunError, match="is a run with d_sae 96, and 64 is asked for"):
        train(plan_saes(CONFIG.model_copy(update={"d_sae": 64})), run)
    with pytest.raises(RunError, match="is no run"):
        move(tmp_path / "nowhere", load("sudoku-diffusion"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "transcoder"}, "unknown architecture 'transcoder'; choose from standard, gated, topk"),
        ({"d_sae": 4, "k": 8}, "k is 8; it must be at most d_sae, 4"),
        ({"tuned": (1,)}, "greater than or equal to 2"),
        ({"concepts": ("digit", "digit")}, "'digit' is given twice"),
        ({"sparsity": 0.1}, "sparsity is 0.1 for topk"),
    ],
)
def test_bad_settings_name_the_rule(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SaeConfig.model_validate(CONFIG.model_dump() | changes)


def test_a_kind_of_position_can_be_learned_alone() -> None:
    config = CONFIG.model_copy(update={"model": "sudoku-diffusion", "kinds": ("settled",)})
    planned: Any = plan_saes(config)
    model: LanguageModel = planned.model
    corpus = puzzle_corpus(model.task, mixed_boards(4, 0))
    plan = Plan(Masked(), config.position_kinds, 4, 0)
    only = LivePools(model, corpus, (POINT,), plan, 100.0, 10**6)(0)[str(POINT)]
    both = LivePools(model, corpus, (POINT,), replace(plan, kinds=(*Plan(Masked()).kinds, *plan.kinds)), 100.0, 10**6)(0)[str(POINT)]
    assert 0 < len(only) < len(both)
