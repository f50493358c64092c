"""The causal test on planted cases: where a push must act, where it cannot, and what its controls are."""

from __future__ import annotations

import pytest
import torch

from interp.concepts import CONCEPTS, Sites, labels_of
from interp.corpus import puzzle_corpus
from interp.faithfulness.pushing import MASK_RATE, Trial, causal_test, make_trial, natural_push
from interp.harvest import Harvest, harvest
from interp.transfer import Pairs, Split, TransferData
from models.decoding import Decoding
from models.hookpoints import resid_post
from models.language_model import LanguageModel
from models.load import load
from models.tasks.sudoku.board import UNITS_OF
from models.tasks.sudoku.generator import generate
from models.tasks.sudoku.task import MASK_ID, SOLUTION, SUDOKU

CONCEPT = CONCEPTS["candidates"]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load("sudoku-diffusion")


@pytest.fixture(scope="module")
def trial(model: LanguageModel) -> Trial:
    return make_trial(model, puzzle_corpus(model.task, generate(6, "naked_singles", seed=21)), Decoding("threshold"))


@pytest.fixture(scope="module")
def data(model: LanguageModel) -> TransferData:
    """Harvests of the diffusion twin in both places: only the mass-mean directions of the first are used."""
    puzzles = puzzle_corpus(model.task, generate(24, "naked_singles", seed=22))
    points = [resid_post(layer) for layer in range(model.n_layers)]
    found = harvest(model, puzzles, points, sites_per_canvas=10)
    return TransferData(
        Split(found, found), Split(found, found), None, Pairs(found.activations, found.activations), {"ar": model.fingerprint}
    )


def test_a_trial_stops_on_the_way_and_pushes_towards_an_excluded_digit(model: LanguageModel, trial: Trial) -> None:
    puzzles = generate(6, "naked_singles", seed=21)
    rows = torch.arange(len(trial.cell))
    assert trial.unwritten[rows, trial.cell].all()
    share = trial.unwritten.sum(1) / torch.from_numpy((puzzles.givens == 0).sum(1))[: len(rows)]
    assert ((share - MASK_RATE).abs() < 0.05).all()
    boards = SUDOKU.boards(trial.canvases)
    for row in range(len(rows)):
        units = UNITS_OF[int(trial.cell[row])]
        seen = {int(boards[row, other]) for other in range(81) if set(UNITS_OF[other]) & set(units)}
        assert int(trial.pushed[row]) in seen
    assert (trial.pushed != trial.own).all()
    assert not (trial.final == MASK_ID).any()


def test_the_natural_push_is_the_distance_between_class_means() -> None:
    """Heads planted along axes of known separation are pushed exactly that far along them."""
    puzzles = generate(40, seed=3)
    sequences = SUDOKU.encode(puzzles)
    position = torch.full((40,), SOLUTION.start) + torch.from_numpy((puzzles.givens == 0).argmax(1))
    sites = Sites.unwritten(SUDOKU.prompt(puzzles), sequences, position, torch.arange(40), torch.ones(40))
    keep = labels_of(CONCEPT, sites)
    spread = torch.arange(1.0, 10.0)
    found = Harvest(sites, {resid_post(0): keep.float() * spread})
    push = natural_push(
        TransferData(Split(found, found), Split(found, found), None, Pairs({}, {}), {"ar": "planted:0"}), CONCEPT, resid_post(0)
    )
    for head in range(9):
        on, off = found.activations[resid_post(0)][keep[:, head]], found.activations[resid_post(0)][~keep[:, head]]
        torch.testing.assert_close(push[head], on.mean(0) - off.mean(0), atol=1e-4, rtol=1e-4)


def test_no_dose_has_no_effect_and_a_large_one_decides_its_own_cell(model: LanguageModel, data: TransferData, trial: Trial) -> None:
    middle = resid_post(3)
    nothing, much = causal_test(model, data, CONCEPT, [middle], trial, doses=(0.0, 3.0))
    for name in ("own_cell_flipped", "unit_moved", "elsewhere_moved", "final_changed"):
        assert getattr(nothing, name).value == pytest.approx(0.0, abs=1e-5)
        assert getattr(nothing, f"{name}_random").value == pytest.approx(0.0, abs=1e-5)
    assert much.own_cell_flipped.value > much.own_cell_flipped_random.value
    assert (much.layer, much.dose) == (3, 3.0)


def test_after_the_last_layer_a_push_cannot_reach_another_cell(model: LanguageModel, data: TransferData, trial: Trial) -> None:
    (entry,) = causal_test(model, data, CONCEPT, [resid_post(model.n_layers - 1)], trial, doses=(2.0,))
    assert entry.unit_moved.value == pytest.approx(0.0, abs=1e-5)
    assert entry.elsewhere_moved_random.value == pytest.approx(0.0, abs=1e-5)
    assert entry.own_cell_flipped.n == len(trial.cell)
