"""Transfer between planted activation spaces: what is shared moves over, what is turned away does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from interp.canvases import MASK_RATES, Masked, masked_canvases
from interp.concepts import CONCEPTS, labels_of
from interp.corpus import puzzle_corpus
from interp.harvest import Harvest
from interp.report import CONTROLS, ProbeEntry, over_all_sites
from interp.transfer import PAIRS, SHARES, Pairs, Split, TransferData, Twins, fit_reader, shuffled_weights, transfer_entries
from models.hookpoints import resid_post
from models.load import load
from models.tasks.sudoku.generator import generate
from models.tasks.sudoku.task import MASK_ID, SUDOKU
from probes.controls import random_rotation

POINT = resid_post(0)
CONCEPT = CONCEPTS["candidates"]
D_MODEL = 24


def planted(seed: int, n: int = 60, *, turn: torch.Tensor | None = None, shift: float = 0.0) -> Harvest:
    """Sites of real boards whose activations hold each candidate along its own axis, in noise."""
    puzzles = generate(n, "hidden_singles", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    canvases = masked_canvases(puzzle_corpus(SUDOKU, puzzles), Masked(), MASK_ID, seed)
    rows, positions = torch.nonzero(canvases.tokens == MASK_ID, as_tuple=True)
    kept = torch.randperm(len(rows), generator=generator)[:1500]
    rows, positions = rows[kept], positions[kept]
    sites = canvases.sites(rows, positions, SUDOKU)
    activations = 0.3 * torch.randn(len(rows), D_MODEL, generator=generator)
    activations[:, :9] += labels_of(CONCEPT, sites).float()
    moved = (activations if turn is None else activations @ turn) + shift
    return Harvest(sites, {POINT: moved})


def data_with(*, turn: torch.Tensor | None = None, shift: float = 0.0) -> TransferData:
    ar, there = Split(planted(0), planted(1)), Split(planted(0, turn=turn, shift=shift), planted(1, turn=turn, shift=shift))
    noise = [Harvest(part.sites, {POINT: torch.randn(len(part.sites), D_MODEL)}) for part in (ar.fit, ar.test)]
    fingerprints = {"ar": "ar:0", "diffusion": "diffusion:0", "untrained": "none:0"}
    return TransferData(ar, there, Split(*noise), Pairs(ar.fit.activations, there.fit.activations), fingerprints)


def entries_of(data: TransferData) -> list[ProbeEntry]:
    (entries,) = transfer_entries(data, [CONCEPT], [POINT])
    return entries


def entry_of(data: TransferData) -> ProbeEntry:
    (entry,) = over_all_sites(entries_of(data))
    return entry


def test_the_transfer_of_a_model_to_itself_is_exact() -> None:
    scores = entry_of(data_with()).scores
    assert scores["zero_shot"] == scores["source"] == scores["native"]
    for name in ("mean_shift", "ridge_affine", "procrustes"):
        assert scores[name].auc.value == pytest.approx(scores["source"].auc.value, abs=1e-3), name
    assert scores["source"].auc.value > 0.95
    assert scores["source"].auc.n == 60


def test_floors_are_at_chance_and_the_lookup_baseline_is_perfect() -> None:
    entry = entry_of(data_with())
    assert entry.scores["shuffled"].auc.value == pytest.approx(0.5, abs=0.1)
    assert entry.scores["untrained"].auc.value == pytest.approx(0.5, abs=0.05)
    assert entry.scores["input_only"].auc.value > 0.999
    assert entry.beats("zero_shot", "shuffled", "untrained")
    assert not entry.beats("zero_shot", "input_only")
    assert entry.kept("zero_shot") == pytest.approx(1)
    assert abs(entry.kept("shuffled")) < 0.2


def test_every_slice_has_its_entry() -> None:
    entries = entries_of(data_with())
    assert [entry.mask_rate for entry in entries] == [None, *MASK_RATES]
    assert sum(entry.sites for entry in entries[1:]) == entries[0].sites
    assert all(set(entry.scores) == set(entries[0].scores) for entry in entries)


def test_a_turned_space_is_lost_zero_shot_and_found_by_a_map_without_labels() -> None:
    entry = entry_of(data_with(turn=random_rotation(D_MODEL, seed=3), shift=2.0))
    assert entry.scores["zero_shot"].auc.value < 0.8
    for name in ("ridge_affine", "procrustes"):
        assert entry.scores[name].auc.value == pytest.approx(entry.scores["native"].auc.value, abs=0.01), name
        assert entry.kept(name) == pytest.approx(1, abs=0.02)
    few, more = (entry.scores[f"affine {pairs} pairs"].auc.value for pairs in PAIRS)
    assert entry.scores["zero_shot"].auc.value < few < more <= entry.scores["ridge_affine"].auc.value + 0.005
    assert entry.scores["native"].auc.value > 0.95


def test_more_labels_bring_a_refitted_reader_nearer_to_the_native_one() -> None:
    scores = entry_of(data_with(turn=random_rotation(D_MODEL, seed=3))).scores
    refitted = [scores[f"refit {share:.1%}"].auc.value for share in SHARES]
    assert scores["zero_shot"].auc.value < refitted[1] < refitted[2] < scores["native"].auc.value


def test_a_shift_is_invisible_to_ranking_and_ruins_thresholds_until_the_means_are_matched() -> None:
    scores = entry_of(data_with(shift=2.0)).scores
    assert scores["zero_shot"].auc.value == pytest.approx(scores["source"].auc.value, abs=1e-6)
    assert scores["zero_shot"].exact.value < 0.5 * scores["source"].exact.value
    assert scores["mean_shift"].exact.value == pytest.approx(scores["source"].exact.value, abs=0.01)


def test_a_reader_is_tied_to_what_it_was_fitted_on() -> None:
    assert fit_reader(data_with(), "ar", CONCEPT, POINT).fitted_on == "ar:0@blocks.0.hook_resid_post"


def test_an_entry_without_its_controls_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="needs its untrained floor"):
        list(transfer_entries(replace(data_with(), untrained=None), [CONCEPT], [POINT]))
    whole = entry_of(data_with())
    for control in (*CONTROLS, "native"):
        scores = {name: scores for name, scores in whole.scores.items() if name != control}
        with pytest.raises(ValueError, match=f"lacks {control}; a probe's score comes with its controls"):
            ProbeEntry(**{**dict(whole), "scores": scores})


def test_twins_are_a_causal_and_a_masked_model_of_one_shape() -> None:
    ar, diffusion = load("sudoku-ar"), load("sudoku-diffusion")
    Twins(ar, diffusion)
    with pytest.raises(ValueError, match=r"got sudoku-diffusion \(masked\) and sudoku-ar \(causal\)"):
        Twins(diffusion, ar)


def test_the_untrained_floor_keeps_every_weight_and_its_order_of_none() -> None:
    model = load("sudoku-diffusion")
    floor = shuffled_weights(model, seed=0)
    for (name, ours), theirs in zip(model.module.named_parameters(), floor.module.parameters(), strict=True):
        assert torch.equal(ours.flatten().sort().values, theirs.flatten().sort().values), name
    assert floor.fingerprint != model.fingerprint
    assert torch.equal(shuffled_weights(model, seed=0).module.lm_head.weight, floor.module.lm_head.weight)
