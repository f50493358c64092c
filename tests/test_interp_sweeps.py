"""Sweeps: the figures are what a fit by hand gives, folders go on where they were stopped, probes move."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from interp.boards import mixed_boards
from interp.canvases import MASK_RATES
from interp.concepts import CONCEPTS, labels_of
from interp.corpus import puzzle_corpus
from interp.harvest import harvest, points_of
from interp.report import CEILING, CONTROLS, ProbeEntry, over_all_sites
from interp.runs import material as gathering
from interp.runs.config import CanvasConfig, CorpusConfig
from interp.runs.folder import RESULTS, finished, open_run, read_entries, unit_folder
from interp.runs.material import split_groups
from interp.runs.moving import candidates, move_folder
from interp.runs.settings import RunError
from interp.scoring import ScoringError, rate_bin
from interp.sweeps import train as training
from interp.sweeps.config import SweepConfig
from interp.sweeps.cost import cost_of
from interp.sweeps.folder import SweepRun, probe_folder, rows_of
from interp.sweeps.move import move
from interp.sweeps.summary import best
from interp.sweeps.train import plan_sweep, train
from interp.transfer import PAIRS, SHARES
from models.hookpoints import HookPoint, HookPointError, resid_post
from models.language_model import LanguageModel, wrap
from models.load import load
from models.tasks.sudoku.generator import RUNGS
from probes.align import ALIGNMENTS
from probes.controls import random_rotation
from probes.errors import ProbeError
from probes.linear import fit_logistic, load_probe
from probes.metrics import auc

BOARDS, POINT = 18, "blocks.4.hook_resid_post"
CONFIG = SweepConfig(
    model="sudoku-ar",
    corpus=CorpusConfig(examples=BOARDS),
    concepts=("candidates", "digit", "technique"),
    readers=("logistic", "multinomial"),
    points=(POINT,),
    sites_per_canvas=5,
    apart=True,
    seeds=(0, 1),
)
SMALL = CONFIG.model_copy(update={"concepts": ("candidates",), "readers": ("mass_mean",), "apart": False, "seeds": (0,)})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a run") / "with a space"
    train(plan_sweep(CONFIG), folder)
    return folder


@pytest.fixture(scope="module")
def twin() -> LanguageModel:
    return load("sudoku-diffusion")


@pytest.fixture(scope="module")
def moved(twin: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> list[ProbeEntry]:
    folder = tmp_path_factory.mktemp("moved")
    train(plan_sweep(CONFIG.model_copy(update={"concepts": ("digit",), "apart": False, "seeds": (0,)})), folder)
    move(folder, twin)
    return read_entries(move_folder(folder, twin, None), ProbeEntry)


@pytest.fixture
def tiny(tiny_module: Callable[..., Any], tmp_path: Path) -> Callable[..., SweepConfig]:
    """``tiny("full", **changes)``: a sweep of all layers of a random two-layer model that is saved in a folder."""

    def make(attention: str = "causal", **changes: Any) -> SweepConfig:
        folder = tmp_path / attention
        tiny_module(attention).save_pretrained(folder)
        return SMALL.model_copy(update={"model": str(folder), "points": ("hook_resid_post",), **changes})

    return make


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def the(entries: list[ProbeEntry], **wanted: Any) -> ProbeEntry:
    (found,) = [one for one in entries if all(getattr(one, name) == value for name, value in wanted.items())]
    return found


# what is measured


@pytest.mark.parametrize("concept", ["candidates", "technique"])
def test_a_figure_is_what_a_fit_by_hand_gives(concept: str, run: Path) -> None:
    """Boards, split, harvest, fit and ranking, each called on its own."""
    model, seed = load("sudoku-ar"), 1
    corpus = puzzle_corpus(model.task, mixed_boards(BOARDS, seed, RUNGS))
    parts = split_groups(corpus, CONFIG.held_out, seed)
    fit, test = (
        harvest(model, part, [HookPoint.parse(POINT)], sites_per_canvas=CONFIG.sites_per_canvas, seed=seed + offset)
        for offset, part in enumerate(parts)
    )
    assert not set(fit.sites.group.tolist()) & set(test.sites.group.tolist())
    entry = the(over_all_sites(read_entries(run, ProbeEntry)), concept=concept, reader="logistic", seed=seed)
    kept = [CONCEPTS[concept].heads.index(head) for head in entry.heads]
    truth, asked = (labels_of(CONCEPTS[concept], part.sites)[:, kept] for part in (fit, test))
    (x, there) = (part.activations[HookPoint.parse(POINT)] for part in (fit, test))
    probe = fit_logistic(x, truth, heads=entry.heads, fitted_on="by hand")
    assert entry.scores["source"].auc.value == pytest.approx(auc(probe.scores(there), asked).mean().item(), abs=1e-6)
    assert entry.scores["source"].accuracy.value == pytest.approx(((probe.scores(there) > 0) == asked).double().mean().item(), abs=1e-3)
    assert (entry.sites, entry.scores["source"].auc.n) == (len(test.sites), len(parts[1]))
    saved = load_probe(
        probe_folder(unit_folder(run, seed, HookPoint.parse(POINT)), "logistic", concept), fitted_on=f"{model.fingerprint}@{POINT}"
    )
    assert torch.allclose(saved.scores(there), probe.scores(there), atol=1e-3)
    assert saved.heads == entry.heads


def test_floors_are_at_chance_and_the_reader_above_them(run: Path) -> None:
    for seed in (0, 1):
        entry = the(over_all_sites(read_entries(run, ProbeEntry)), concept="candidates", reader="logistic", seed=seed)
        assert entry.scores["source"].auc.value > 0.9
        for floor in ("shuffled", "untrained"):
            assert entry.scores[floor].auc.value == pytest.approx(0.5, abs=0.12)
        assert entry.scores["input_only"].auc.value > 0.8


def test_every_probe_has_its_place_and_its_seed(run: Path) -> None:
    entries = read_entries(run, ProbeEntry)
    whole = over_all_sites(entries)
    places = {(one.concept, one.reader, one.seed) for one in whole}
    assert places == {
        (concept, reader, seed)
        for concept in CONFIG.concepts
        for reader in CONFIG.readers
        for seed in CONFIG.seeds
        if reader == "logistic" or concept == "digit"
    }
    assert all(set(one.scores) == {"source", *CONTROLS} for one in entries)
    one, other = (the(whole, concept="digit", reader="logistic", seed=seed) for seed in (0, 1))
    for name in one.scores:
        assert one.scores[name] != other.scores[name]


def test_probes_are_fitted_for_each_mask_rate_apart(run: Path) -> None:
    apart = [one for one in read_entries(run, ProbeEntry) if one.fitted_at is not None]
    assert {one.fitted_at for one in apart} >= {0.3, 0.5, 0.7}
    assert all(one.mask_rate == one.fitted_at for one in apart)
    assert over_all_sites(apart) == []
    one = next(each for each in apart if each.reader == "logistic" and each.seed == 0)
    together = the(read_entries(run, ProbeEntry), concept=one.concept, reader="logistic", seed=0, fitted_at=None, mask_rate=one.fitted_at)
    assert one.sites == together.sites
    assert one.scores["source"].auc.value != together.scores["source"].auc.value
    place = unit_folder(run, 0, HookPoint.parse(POINT))
    assert load_probe(probe_folder(place, "logistic", one.concept, one.fitted_at)).heads == one.heads


def test_a_dry_run_counts_what_a_run_makes(run: Path) -> None:
    before = contents(run)
    cost = cost_of(plan_sweep(CONFIG))
    probes = [load_probe(path.parent) for path in run.glob("seed-*/*/probes/*/*/config.json")]
    assert cost.probes == sum(len(probe.heads) for probe in probes)
    assert (cost.points, cost.readers, cost.seeds, cost.sets) == (1, 2, 2, 6)
    first = [one for one in over_all_sites(read_entries(run, ProbeEntry)) if one.seed == 0 and one.reader == "logistic"]
    assert cost.heads == sum(len(one.heads) for one in first)
    model = load("sudoku-ar")
    fit, _ = split_groups(puzzle_corpus(model.task, mixed_boards(BOARDS, 0, RUNGS)), CONFIG.held_out, 0)
    assert cost.sites == len(harvest(model, fit, [resid_post(0)], sites_per_canvas=CONFIG.sites_per_canvas).sites)
    assert min(cost.bytes, cost.seconds) > 0
    assert contents(run) == before


def test_the_table_has_a_row_a_score_and_reads_back_as_the_entries(run: Path) -> None:
    entries = read_entries(run, ProbeEntry)
    table = pq.read_table(run / RESULTS).to_pylist()
    assert len(table) == sum(len(one.scores) for one in entries)
    assert table == rows_of(open_run(run, SweepRun), entries)
    row = next(row for row in table if (row["concept"], row["score"], row["seed"], row["mask_rate"]) == ("digit", "source", 1, None))
    one = the(over_all_sites(entries), concept="digit", reader="logistic", seed=1)
    assert (row["model"], row["moved_to"], row["hook_point"], row["heads"]) == ("sudoku-ar", None, POINT, 9)
    assert (row["auc"], row["matched_low"], row["n"]) == (
        one.scores["source"].auc.value,
        one.scores["source"].matched.low,
        one.scores["source"].auc.n,
    )
    (shown,) = [row for row in best(entries) if (row["concept"], row["reader"]) == ("candidates", "logistic")]
    values = [one.scores["source"].auc.value for one in over_all_sites(entries) if (one.concept, one.reader) == ("candidates", "logistic")]
    assert shown["source"] == pytest.approx(sum(values) / 2)


# moving


def test_at_home_every_way_of_moving_is_the_same(run: Path) -> None:
    """Sites agree, so that the probe as it is, mapped onto itself, and fitted again are one; so is what the run measured."""
    model = load("sudoku-ar")
    home = run.parent / "home"
    train(plan_sweep(SMALL), home)
    move(home, model)
    (at_home,) = over_all_sites(read_entries(move_folder(home, model, None), ProbeEntry))
    (before,) = over_all_sites(read_entries(home, ProbeEntry))
    scores = at_home.scores
    assert scores["source"] == scores["zero_shot"] == before.scores["source"]
    for name in (CEILING, *ALIGNMENTS):
        if name != "identity":
            assert scores[name].auc.value == pytest.approx(scores["source"].auc.value, abs=1e-3), name
    for control in CONTROLS:
        assert scores[control].auc.value == pytest.approx(before.scores[control].auc.value, abs=1e-3), control


def test_every_way_of_moving_stands_between_controls_and_ceiling(moved: list[ProbeEntry]) -> None:
    """Refits need heads that are independent."""
    ways = {"source", "zero_shot", *(set(ALIGNMENTS) - {"identity"}), f"affine {PAIRS[0]} pairs", CEILING, *CONTROLS}
    refits = {f"refit {share:.1%}" for share in SHARES}
    whole = over_all_sites(moved)
    assert [(one.concept, one.reader) for one in whole] == [("digit", "logistic"), ("digit", "multinomial")]
    for one in whole:
        assert set(one.scores) == (ways if one.reader == "multinomial" else ways | refits)
    assert whole[0].scores[CEILING].auc.value > 0.9
    assert whole[0].scores["zero_shot"].auc.value > 0.7
    assert {one.mask_rate for one in moved} == {None, *MASK_RATES}
    assert all(set(one.scores) >= ways for one in moved)


def test_runs_of_a_policy_give_slices_of_step_and_kind(twin: LanguageModel, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"corpus": CorpusConfig(examples=12), "held_out": 0.45})
    train(plan_sweep(config), tmp_path / "run")
    table = move(tmp_path / "run", twin, policy="threshold", kinds=("masked", "committed"))
    entries = read_entries(move_folder(tmp_path / "run", twin, "threshold"), ProbeEntry)
    assert {one.kind for one in entries} == {None, "masked", "committed"}
    assert len({one.step for one in entries}) > 2
    assert {row["policy"] for row in pq.read_table(table).to_pylist()} == {"threshold"}
    assert all(set(CONTROLS) <= set(one.scores) for one in entries)


def test_a_rotated_model_is_read_through_procrustes(
    tiny: Callable[..., SweepConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same network whose residual stream is seen in a turned basis: a rotation about the origin is found, and nothing is lost."""
    config = tiny("full", readers=("logistic",), points=("blocks.1.hook_resid_post",))
    train(plan_sweep(config), tmp_path / "run")
    model, turn = load(config.model), random_rotation(32, seed=1)
    real = LanguageModel.activations

    def turned(self: LanguageModel, *given: Any) -> Any:
        read = real(self, *given)
        return {point: x @ turn for point, x in read.items()} if self.name == "turned" else read

    monkeypatch.setattr(LanguageModel, "activations", turned)
    other = wrap("turned", model.module, model.facts)
    move(tmp_path / "run", other)
    (one,) = over_all_sites(read_entries(move_folder(tmp_path / "run", other, None), ProbeEntry))
    scores = {name: each.auc.value for name, each in one.scores.items()}
    assert scores["zero_shot"] < scores["source"] - 0.05
    assert scores["procrustes"] == pytest.approx(scores["source"], abs=1e-3)
    assert scores[CEILING] == pytest.approx(scores["source"], abs=5e-3)


def test_layers_are_matched_by_depth(tiny_model: Callable[..., LanguageModel], twin: LanguageModel) -> None:
    shallow, end = tiny_model(), HookPoint(None, "ln_final.hook_normalized")
    there = candidates([*map(resid_post, range(twin.n_layers)), end], twin, shallow, "depth")
    assert [point.layer for (point,) in there.values()] == [0, 0, 0, 1, 1, 1, None]
    back = candidates([resid_post(0), resid_post(1), end], shallow, twin, "depth")
    assert [there[point] for (point,) in back.values()] == [[point] for point in back]
    assert all([point] == other for point, other in candidates([resid_post(5), end], twin, twin, "depth").items())


def test_layers_can_be_matched_by_likeness(tiny: Callable[..., SweepConfig], tmp_path: Path) -> None:
    """A model is most like itself at the very layer, whatever the others are like."""
    config = tiny(points=("blocks.0.hook_resid_post", "blocks.1.hook_resid_post"))
    train(plan_sweep(config), tmp_path / "run")
    model = load(config.model)
    move(tmp_path / "run", model, layers="cka")
    entries = over_all_sites(read_entries(move_folder(tmp_path / "run", model, None, "cka"), ProbeEntry))
    assert entries
    assert all(entry.read_at is None for entry in entries)
    with pytest.raises(RunError, match="unknown way to choose layers 'width'; choose from depth, cka"):
        move(tmp_path / "run", model, layers="width")


def test_probes_move_only_from_and_to_what_they_belong_to(tiny: Callable[..., SweepConfig], twin: LanguageModel, tmp_path: Path) -> None:
    config = tiny(points=("blocks.0.hook_resid_post",))
    run = tmp_path / "run"
    train(plan_sweep(config), run)
    with pytest.raises(RunError, match="width 128, and the run's causal of 'sudoku' with width 32; readers move between models of one"):
        move(run, twin)
    model = load(config.model)
    before = model.fingerprint
    for wrong, said in (
        ({"kinds": ("blank",)}, "unknown kind of position 'blank'; choose from prompt, masked, committed, settled"),
        ({"kinds": ("settled",)}, "no settled positions; choose from prompt, masked"),
        ({"policy": "best"}, "unknown policy 'best'; choose from random, low_confidence"),
        ({"policy": "random"}, "causal is a causal model, which writes left to right; leave out the policy 'random'"),
    ):
        with pytest.raises(ValueError, match=said):
            move(run, model, **wrong)
    assert not (run / "moved").exists()
    weight = model.module.transformer.h[0].attn.c_attn.weight
    with torch.no_grad():
        weight[0, 0] += 1e-3
    model.module.save_pretrained(config.model)
    changed = load(config.model)
    with pytest.raises(RunError, match=f"the run is of {before}.*is now {changed.fingerprint}; train it again"):
        move(run, changed)
    with pytest.raises(RunError, match=f"is a run with fingerprint '{before}', and '{changed.fingerprint}' is"):
        train(plan_sweep(config), run)
    with pytest.raises(ProbeError, match="they must be the same"):
        load_probe(
            probe_folder(unit_folder(run, 0, resid_post(0)), "mass_mean", "candidates"), fitted_on=f"{changed.fingerprint}@{resid_post(0)}"
        )


# folders


def test_a_run_depends_on_its_seed_alone(tiny: Callable[..., SweepConfig], tmp_path: Path) -> None:
    config = tiny(points=("blocks.1.hook_resid_post",))
    for name in ("one", "other"):
        train(plan_sweep(config), tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    train(plan_sweep(config.model_copy(update={"seeds": (1,)})), tmp_path / "third")
    ours, theirs = (over_all_sites(read_entries(tmp_path / name, ProbeEntry)) for name in ("one", "third"))
    assert all(one.scores != other.scores for one, other in zip(ours, theirs, strict=True))


def test_what_a_killed_process_left_is_swept_away_and_never_read(tiny: Callable[..., SweepConfig], tmp_path: Path) -> None:
    sweep = plan_sweep(tiny())
    train(sweep, tmp_path / "run")
    whole = contents(tmp_path / "run")
    first, second = (unit_folder(tmp_path / "run", 0, point) for point in sweep.points)
    second.rename(second.with_name(f".{second.name}.partial-1"))
    assert {one.hook_point for one in read_entries(tmp_path / "run", ProbeEntry)} == {first.name}
    written = (first / "entries.json").stat().st_mtime_ns
    train(sweep, tmp_path / "run")
    assert contents(tmp_path / "run") == whole
    assert not list((tmp_path / "run").rglob(".*"))
    assert (first / "entries.json").stat().st_mtime_ns == written


def test_what_cannot_be_fitted_is_named_and_what_was_finished_is_kept(
    tiny: Callable[..., SweepConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = plan_sweep(tiny())
    real = gathering.activations_at

    def broken(model: LanguageModel, *given: Any, **options: Any) -> Any:
        found = real(model, *given, **options)
        if resid_post(1) in found and len(next(iter(found.values()))) > 1:
            found[resid_post(1)][0, 0] = torch.nan
        return found

    monkeypatch.setattr(gathering, "activations_at", broken)
    with pytest.raises(ProbeError, match=r"1 of \d+ values of the activations of the untrained network at blocks\.1\.hook_resid_post are"):
        train(sweep, tmp_path / "run")
    assert [finished(tmp_path / "run", 0, point) for point in sweep.points] == [True, False]
    monkeypatch.undo()
    train(sweep, tmp_path / "run")
    assert len(over_all_sites(read_entries(tmp_path / "run", ProbeEntry))) == 2


def test_a_concept_of_one_class_is_named(tiny: Callable[..., SweepConfig], tmp_path: Path) -> None:
    sweep = plan_sweep(tiny("full", concepts=("candidates", "conflict")))
    with pytest.raises(ScoringError, match=r"no head of the concept 'conflict' is true at 10 .*row \(0 of \d+\), column \(0 of"):
        train(sweep, tmp_path / "run")
    corrupted = tiny("full", concepts=("conflict",), canvases=CanvasConfig(corrupt=0.3, mask_rates=(0.3, 0.5)), points=("hook_resid_post",))
    train(plan_sweep(corrupted), tmp_path / "corrupted")
    assert {one.concept for one in read_entries(tmp_path / "corrupted", ProbeEntry)} == {"conflict"}


def test_the_untrained_floor_is_read_at_the_very_sites(tiny: Callable[..., SweepConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained network's own denoising runs would lead elsewhere, and its labels would be those of other places."""
    config = tiny("full", canvases=CanvasConfig(policy="low_confidence", every=10), sites_per_canvas=2)
    task, *_ = training._prepare(plan_sweep(config), 0, lambda *told: None)
    assert task.untrained.fit.sites is task.own.fit.sites
    assert task.untrained.test.sites is task.own.test.sites
    point = resid_post(1)
    assert task.untrained.fit.activations[point].shape == task.own.fit.activations[point].shape
    model = task.sweep.model
    again = gathering.at_sites(model, puzzle_corpus(model.task, mixed_boards(2, 0)), task.own.fit.sites, [point], lambda *told: None, "")
    assert torch.allclose(again.activations[point], task.own.fit.activations[point], atol=1e-4)


def test_mask_rates_in_one_fifth_are_one_set(tiny: Callable[..., SweepConfig], tmp_path: Path) -> None:
    config = tiny("full", apart=True, canvases=CanvasConfig(mask_rates=(0.3, 0.35, 0.9)), points=("blocks.0.hook_resid_post",))
    sweep = plan_sweep(config)
    assert cost_of(sweep).sets == 3
    train(sweep, tmp_path / "run")
    assert {one.fitted_at for one in read_entries(tmp_path / "run", ProbeEntry)} == {None, 0.3, 0.9}
    assert rate_bin(torch.tensor([0.3, 0.35, 0.9])).tolist() == [1, 1, 4]


def test_hook_points_are_named_whole_or_for_every_layer(tiny_model: Callable[..., LanguageModel]) -> None:
    model = tiny_model()
    assert points_of(model, ["hook_resid_post"]) == (resid_post(0), resid_post(1))
    assert points_of(model, ["blocks.1.hook_resid_post", "hook_resid_post"]) == (resid_post(1), resid_post(0))
    assert set(points_of(model, ["all"])) == set(model.plain_points) > set(points_of(model, ["hook_resid_post"]))
    for name, said in (
        ("blocks.9.hook_resid_post", "no such hook points"),
        ("blocks.x", "'blocks.x' names no hook point; one is such as blocks.1.hook_resid_post, hook_resid_post for every layer's, or all"),
    ):
        with pytest.raises(HookPointError, match=said):
            points_of(model, [name])


def test_puzzles_are_held_out_whole() -> None:
    corpus = replace(puzzle_corpus(load("sudoku-ar").task, mixed_boards(30, 0)), group=torch.arange(30) // 2)
    for seed in (0, 1):
        fit, test = split_groups(corpus, 0.4, seed)
        assert not set(fit.group.tolist()) & set(test.group.tolist())
        assert (len(fit.group.unique()), len(test.group.unique()), len(fit) + len(test)) == (9, 6, 30)
    with pytest.raises(RunError, match=r"15 puzzles or documents with 0\.1 held out leave too few; at least 5"):
        split_groups(corpus, 0.1, 0)


def test_the_settings_of_a_run_read_back(run: Path) -> None:
    stored = open_run(run, SweepRun)
    assert stored.config == CONFIG
    assert json.loads((run / "run.json").read_text())["fingerprint"] == load("sudoku-ar").fingerprint
