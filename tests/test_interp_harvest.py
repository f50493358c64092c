"""Harvested activations are the network's, read where the token is about to be predicted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.harvest import MASK_RATES, activations_at, harvest, mask_canvas
from models.hookpoints import HookPoint, HookPointError, resid_post
from models.language_model import LanguageModel
from models.tasks.sudoku.generator import generate
from models.tasks.sudoku.task import MASK_ID, SUDOKU

PUZZLES = generate(5, seed=2)
SEQUENCES = SUDOKU.encode(PUZZLES)
ASKED = SUDOKU.prompt(PUZZLES) == MASK_ID


@given(rate=st.floats(0.01, 1), seed=st.integers(0, 100))
def test_mask_canvas_masks_exactly_the_share_asked_for(rate: float, seed: int) -> None:
    canvases = mask_canvas(SEQUENCES, ASKED, torch.full((5,), rate), MASK_ID, torch.Generator().manual_seed(seed))
    masked = canvases == MASK_ID
    assert not (masked & ~ASKED).any()
    assert (masked.sum(1) == (ASKED.sum(1) * torch.tensor(rate)).round().clamp(min=1)).all()
    assert (canvases[~masked] == SEQUENCES[~masked]).all()


@pytest.mark.parametrize("rate", [1.5, 0.0, -0.1])
def test_an_impossible_mask_rate_is_named(tiny_model: Callable[..., LanguageModel], rate: float) -> None:
    with pytest.raises(ValueError, match=rf"mask rate is {rate:g}; it must be greater than 0 and at most 1"):
        harvest(tiny_model("full"), SEQUENCES, ASKED, [resid_post(0)], mask_rates=(0.5, rate))


def test_activations_are_those_that_predict_the_position(tiny_model: Callable[..., LanguageModel]) -> None:
    """Position p's row, put through the rest of the network, gives the logits about token p: the shift is right."""
    model, points = tiny_model("full"), [HookPoint(None, "ln_final.hook_out"), resid_post(1)]
    rows, positions = torch.tensor([0, 3, 4, 4]), torch.tensor([90, 100, 82, 162])
    found = activations_at(model, SEQUENCES, rows, positions, points)
    logits = model.logits(SEQUENCES)[rows, positions]
    torch.testing.assert_close(found[points[0]] @ model.module.lm_head.weight.T, logits, atol=1e-4, rtol=1e-4)
    with pytest.raises(HookPointError, match=r"blocks\.7\.hook_resid_post"):
        activations_at(model, SEQUENCES, rows, positions, [resid_post(7)])


def test_batching_changes_nothing(tiny_model: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("full")
    whole = harvest(model, SEQUENCES, ASKED, [resid_post(0)], seed=4)
    monkeypatch.setattr("interp.harvest.BATCH", 3)
    parts = harvest(model, SEQUENCES, ASKED, [resid_post(0)], seed=4)
    assert (whole.sites.position == parts.sites.position).all()
    torch.testing.assert_close(whole.activations[resid_post(0)], parts.activations[resid_post(0)], atol=1e-5, rtol=1e-5)


def test_a_masked_model_is_read_at_masked_positions_at_every_rate(tiny_model: Callable[..., LanguageModel]) -> None:
    found = harvest(tiny_model("full"), SEQUENCES, ASKED, [resid_post(0)], sites_per_canvas=3)
    sites = found.sites
    assert (sites.seen.gather(1, sites.position[:, None]) == MASK_ID).all()
    assert len(sites) == 3 * len(MASK_RATES) * len(PUZZLES)
    for rate in MASK_RATES:
        part = found.at_mask_rate(rate)
        assert len(part.sites) == 3 * len(PUZZLES)
        share = (part.sites.seen == MASK_ID).sum(1) / ASKED[part.sites.sample].sum(1)
        assert ((share - rate).abs() < 0.02).all()
    assert (sites.truth == SEQUENCES[sites.sample]).all()


def test_a_causal_model_is_read_where_the_future_is_hidden(tiny_model: Callable[..., LanguageModel]) -> None:
    sites = harvest(tiny_model("causal"), SEQUENCES, ASKED, [resid_post(0)], sites_per_canvas=2).sites
    later = torch.arange(163) >= sites.position[:, None]
    asked = ASKED[sites.sample]
    assert (sites.seen[later & asked] == MASK_ID).all()
    assert (sites.seen[~(later & asked)] == sites.truth[~(later & asked)]).all()
    assert asked.gather(1, sites.position[:, None]).all()


def test_what_a_causal_model_cannot_see_does_not_change_what_is_read(tiny_model: Callable[..., LanguageModel]) -> None:
    model, position = tiny_model("causal"), 120
    hidden = SEQUENCES.clone()
    hidden[:, position:] = MASK_ID
    rows, positions = torch.arange(5), torch.full((5,), position)
    seen = activations_at(model, SEQUENCES, rows, positions, [resid_post(1)])[resid_post(1)]
    torch.testing.assert_close(seen, activations_at(model, hidden, rows, positions, [resid_post(1)])[resid_post(1)])


def test_the_seed_decides(tiny_model: Callable[..., LanguageModel]) -> None:
    model = tiny_model("full")
    first, again, other = (harvest(model, SEQUENCES, ASKED, [resid_post(0)], seed=seed).sites for seed in (1, 1, 2))
    assert (first.seen == again.seen).all()
    assert (first.position == again.position).all()
    assert not torch.equal(first.position, other.position)
