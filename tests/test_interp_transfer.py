"""Transfer between planted activation spaces: what is shared moves over, what is turned away does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from interp.concepts import CONCEPTS, Sites, labels_of
from interp.harvest import MASK_RATES, Harvest, mask_canvas
from interp.transfer import Split, TransferData, Twins, fit_reader, shuffled_weights, transfer_table
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
    sequences, asked = SUDOKU.encode(puzzles), SUDOKU.prompt(puzzles) == MASK_ID
    rates = torch.tensor(MASK_RATES).repeat_interleave(n)
    sample = torch.arange(n).repeat(len(MASK_RATES))
    generator = torch.Generator().manual_seed(seed)
    canvases = mask_canvas(sequences[sample], asked[sample], rates, MASK_ID, generator)
    rows, positions = torch.nonzero(canvases == MASK_ID, as_tuple=True)
    kept = torch.randperm(len(rows), generator=generator)[:1500]
    rows, positions = rows[kept], positions[kept]
    sites = Sites.unwritten(canvases[rows], sequences[sample[rows]], positions, sample[rows], rates[rows])
    activations = 0.3 * torch.randn(len(rows), D_MODEL, generator=generator)
    activations[:, :9] += labels_of(CONCEPT, sites).float()
    moved = (activations if turn is None else activations @ turn) + shift
    return Harvest(sites, {POINT: moved})


def data_with(*, turn: torch.Tensor | None = None, shift: float = 0.0) -> TransferData:
    ar, there = Split(planted(0), planted(1)), Split(planted(0, turn=turn, shift=shift), planted(1, turn=turn, shift=shift))
    noise = [Harvest(part.sites, {POINT: torch.randn(len(part.sites), D_MODEL)}) for part in (ar.fit, ar.test)]
    fingerprints = {"ar": "ar:0", "diffusion": "diffusion:0", "untrained": "none:0"}
    return TransferData(ar, there, Split(*noise), ar.fit.activations, fingerprints)


def test_the_transfer_of_a_model_to_itself_is_exact() -> None:
    (entry,) = transfer_table(data_with(), [CONCEPT], [POINT])
    assert entry.zero_shot == entry.ar_on_ar == entry.native
    assert entry.all_right["zero_shot"] == entry.all_right["ar_on_ar"] == entry.all_right["native"]
    assert entry.mean_shift.value == pytest.approx(entry.ar_on_ar.value, abs=1e-6)
    assert entry.affine.value == pytest.approx(entry.ar_on_ar.value, abs=1e-3)
    assert entry.ar_on_ar.value > 0.95
    assert entry.ar_on_ar.n == 60


def test_floors_are_at_chance_and_the_lookup_baseline_is_perfect() -> None:
    (entry,) = transfer_table(data_with(), [CONCEPT], [POINT])
    assert entry.shuffled.value == pytest.approx(0.5, abs=0.1)
    assert entry.untrained.value == pytest.approx(0.5, abs=0.05)
    assert entry.input_only.value > 0.999
    assert entry.beats_floors
    assert not entry.beats_input
    assert set(entry.zero_shot_by_mask_rate) == {"0.1", "0.3", "0.5", "0.7", "0.9"}


def test_a_turned_space_is_lost_zero_shot_and_found_by_an_affine_map() -> None:
    turn = random_rotation(D_MODEL, seed=3)
    (entry,) = transfer_table(data_with(turn=turn, shift=2.0), [CONCEPT], [POINT])
    assert entry.zero_shot.value < 0.8
    assert entry.affine.value == pytest.approx(entry.native.value, abs=0.01)
    assert entry.native.value > 0.95


def test_a_shift_is_invisible_to_ranking_and_ruins_thresholds_until_the_means_are_matched() -> None:
    (entry,) = transfer_table(data_with(shift=2.0), [CONCEPT], [POINT])
    assert entry.zero_shot.value == pytest.approx(entry.ar_on_ar.value, abs=1e-6)
    assert entry.all_right["zero_shot"].value < 0.5 * entry.all_right["ar_on_ar"].value
    assert entry.all_right["mean_shift"].value == pytest.approx(entry.all_right["ar_on_ar"].value, abs=0.01)


def test_a_reader_is_tied_to_what_it_was_fitted_on() -> None:
    assert fit_reader(data_with(), "ar", CONCEPT, POINT).fitted_on == "ar:0@blocks.0.hook_resid_post"


def test_an_entry_without_its_floor_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="needs its untrained floor"):
        list(transfer_table(replace(data_with(), untrained=None), [CONCEPT], [POINT]))


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
