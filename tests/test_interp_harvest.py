"""What a model is shown depends on seed and sequence alone; what is read of it is the network's, where the token is predicted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interp.canvases import (
    MASK_RATES,
    Canvases,
    Decoded,
    Masked,
    Source,
    Whole,
    decoded_canvases,
    drawn_places,
    masked_canvases,
)
from interp.concepts import Kind, Sites
from interp.corpus import Corpus, puzzle_corpus
from interp.harvest import Harvest, HarvestError, activations_at, harvest
from models.decoding import Decoding
from models.denoise import denoise
from models.hookpoints import HookPoint, HookPointError, resid_post
from models.language_model import LanguageModel
from models.tasks.sudoku.generator import generate
from models.tasks.sudoku.task import MASK_ID, SUDOKU

PUZZLES = generate(5, seed=2)
CORPUS = puzzle_corpus(SUDOKU, PUZZLES)
SEQUENCES, ASKED = CORPUS.sequences, CORPUS.asked
Model = Callable[..., LanguageModel]


def columns(values: Canvases | Sites) -> dict[str, Tensor]:
    return {column.name: getattr(values, column.name) for column in fields(values) if column.name != "causal"}


# ---------------------------------------------------------------- masks drawn at random


@settings(max_examples=25)
@given(rate=st.floats(0.01, 1), seed=st.integers(0, 100))
def test_exactly_the_share_asked_for_is_masked(rate: float, seed: int) -> None:
    found = masked_canvases(CORPUS, Masked((rate,)), MASK_ID, seed)
    masked = found.tokens == MASK_ID
    assert not (masked & ~ASKED).any()
    assert masked.sum(1).tolist() == [max(1, round(rate * asked)) for asked in ASKED.sum(1).tolist()]
    assert (found.tokens[~masked] == SEQUENCES[~masked]).all()
    assert torch.equal(found.kind, torch.where(ASKED, torch.where(masked, Kind.MASKED, Kind.SETTLED), Kind.PROMPT).to(torch.uint8))


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), first=st.integers(0, 4), size=st.integers(1, 5))
def test_a_sequences_canvases_and_places_do_not_depend_on_the_others(seed: int, first: int, size: int) -> None:
    source, stop = Masked((0.3, 0.8), corrupt=0.2), min(first + size, 5)
    whole = masked_canvases(CORPUS, source, MASK_ID, seed)
    one = masked_canvases(CORPUS.rows(torch.arange(first, stop)), source, MASK_ID, seed, first)
    keep = (whole.sample >= first) & (whole.sample < stop)
    for name, values in columns(one).items():
        assert torch.equal(values, getattr(whole, name)[keep]), name
    rows, positions = drawn_places(whole, (Kind.MASKED, Kind.SETTLED), 3, seed, 1)
    there = keep[rows]
    again, places = drawn_places(one, (Kind.MASKED, Kind.SETTLED), 3, seed, 1)
    assert torch.equal(positions[there], places)
    assert torch.equal(rows[there] - first * 2, again)


@settings(max_examples=25)
@given(share=st.floats(0, 1), seed=st.integers(0, 20))
def test_exactly_the_share_asked_for_is_corrupted_by_tokens_of_the_answer(share: float, seed: int) -> None:
    found = masked_canvases(CORPUS, Masked((0.4,), corrupt=share), MASK_ID, seed)
    settled = found.kind == Kind.SETTLED
    wrong = settled & (found.tokens != found.truth)
    assert wrong.sum(1).tolist() == [round(share * visible) for visible in settled.sum(1).tolist()]
    assert torch.equal(found.truth, SEQUENCES)
    for row in range(len(CORPUS)):
        assert set(found.tokens[row, wrong[row]].tolist()) <= set(SEQUENCES[row, ASKED[row]].tolist())
    plain = masked_canvases(CORPUS, Masked((0.4,)), MASK_ID, seed)
    assert torch.equal(plain.tokens == MASK_ID, found.tokens == MASK_ID)


def test_masks_are_uniform() -> None:
    many = Corpus(SEQUENCES[:1].repeat(4000, 1), ASKED[:1].repeat(4000, 1), torch.zeros(4000, dtype=torch.long))
    share = (masked_canvases(many, Masked((0.3,)), MASK_ID, 0).tokens == MASK_ID).double().mean(0)[ASKED[0]]
    assert (share - share.mean()).abs().max() < 4.5 * (0.21 / 4000) ** 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Masked((0.5, 1.5)), r"mask rate is 1\.5; it must be greater than 0 and at most 1"),
        (lambda: Masked((0.0,)), "mask rate is 0; it must be greater than 0"),
        (lambda: Masked(()), "no mask rates"),
        (lambda: Masked(corrupt=1.2), r"share to corrupt is 1\.2; it must lie in 0 to 1"),
        (lambda: Decoded(every=0), "every is 0; it must be at least 1 network call"),
    ],
)
def test_impossible_canvases_are_named(make: Callable[[], Source], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# ---------------------------------------------------------------- canvases of a denoising run


@pytest.mark.parametrize("policy", ["low_confidence", "remdm_conf"])
def test_decoded_canvases_are_what_each_call_read(policy: str, tiny_model: Model) -> None:
    model, decoding = tiny_model("full"), Decoding(policy, steps=6, seed=3)
    found = decoded_canvases(model, CORPUS, Decoded(decoding))
    run = denoise(model, SEQUENCES.masked_fill(ASKED, MASK_ID), decoding)
    tokens = torch.from_numpy(run.data["token"].values).long()
    assert len(found) == int(run.calls.sum())
    assert torch.equal(found.truth, SEQUENCES[found.sample])
    for row in range(len(found)):
        sample, step = int(found.sample[row]), int(found.step[row])
        before, after = tokens[sample, step - 1], tokens[sample, step]
        earlier = tokens[sample, max(step - 2, 0)]
        assert torch.equal(found.tokens[row], before)
        assert torch.equal(found.next[row], (after != before) & (after != MASK_ID))
        masked, asked = before == MASK_ID, ASKED[sample]
        assert torch.equal(found.kind[row] == Kind.MASKED, masked)
        assert torch.equal(found.kind[row] == Kind.COMMITTED, ~masked & (before != earlier))
        assert torch.equal(found.kind[row] == Kind.PROMPT, ~asked)
        assert found.mask_rate[row] == masked.sum() / asked.sum()


def test_every_so_many_calls_are_kept_and_parts_are_parts(tiny_model: Model) -> None:
    model = tiny_model("full")
    whole = decoded_canvases(model, CORPUS, Decoded(Decoding("random", steps=7, seed=1)))
    some = decoded_canvases(model, CORPUS.rows(torch.arange(2, 4)), Decoded(Decoding("random", steps=7, seed=1), every=3), first=2)
    keep = (whole.sample >= 2) & (whole.sample < 4) & ((whole.step - 1) % 3 == 0)
    assert some.step.unique().tolist() == [1, 4, 7]
    for name, values in columns(some).items():
        expected = getattr(whole, name)[keep]
        assert torch.equal(values, expected // 3 if name == "turn" else expected), name


# ---------------------------------------------------------------- activations


def test_activations_are_those_that_predict_the_position(tiny_model: Model) -> None:
    """Position p's row, put through the rest of the network, gives the logits about token p: the shift is right."""
    model, points = tiny_model("full"), [HookPoint(None, "ln_final.hook_out"), resid_post(1)]
    rows, positions = torch.tensor([0, 3, 4, 4]), torch.tensor([90, 100, 82, 162])
    found = activations_at(model, SEQUENCES, rows, positions, points)
    logits = model.logits(SEQUENCES)[rows, positions]
    torch.testing.assert_close(found[points[0]] @ model.module.lm_head.weight.T, logits, atol=1e-4, rtol=1e-4)
    alone = activations_at(model, SEQUENCES, rows, positions, [resid_post(1)])[resid_post(1)]
    torch.testing.assert_close(alone, found[resid_post(1)], atol=1e-4, rtol=1e-4)
    with pytest.raises(HookPointError, match=r"blocks\.7\.hook_resid_post"):
        activations_at(model, SEQUENCES, rows, positions, [resid_post(7)])


def test_what_cannot_be_read_is_named(tiny_model: Model) -> None:
    model, nowhere = tiny_model("full"), torch.zeros(1, dtype=torch.long)
    with pytest.raises(HarvestError, match="position 0 cannot be read: with its logit shift, tiny predicts from 1 on"):
        activations_at(model, SEQUENCES, nowhere, nowhere, [resid_post(0)])
    with pytest.raises(HookPointError, match=r"hook_z has \[2, 16\] numbers a position; a harvest reads 32"):
        activations_at(model, SEQUENCES, nowhere, nowhere + 5, [HookPoint(0, "attn.hook_z")])
    assert len(activations_at(tiny_model("full", logit_shift=0), SEQUENCES, nowhere, nowhere, [resid_post(0)])[resid_post(0)]) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_a_rounding_of_the_whole(dtype: torch.dtype, tiny_model: Model) -> None:
    model = tiny_model("full")
    whole, half = (harvest(model, CORPUS, [resid_post(1)], dtype=kept).activations[resid_post(1)] for kept in (torch.float32, dtype))
    assert half.dtype == dtype
    assert torch.equal(half, whole.to(dtype))
    with pytest.raises(HarvestError, match="beyond 65504, which float16 cannot"), model.hooks({resid_post(0): lambda a: a * 1e9}):
        harvest(model, CORPUS, [resid_post(0)], dtype=torch.float16)


def test_batching_changes_nothing(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("full")
    whole = harvest(model, CORPUS, [resid_post(0)], seed=4)
    monkeypatch.setattr("interp.harvest.BATCH", 3)
    told: list[tuple[int, int]] = []
    parts = harvest(model, CORPUS, [resid_post(0)], seed=4, on_sequence=lambda done, total: told.append((done, total)))
    assert told == [(3, 5), (5, 5)]
    for name, values in columns(whole.sites).items():
        assert torch.equal(values, getattr(parts.sites, name)), name
    torch.testing.assert_close(whole.activations[resid_post(0)], parts.activations[resid_post(0)], atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------- sites


def test_a_masked_model_is_read_at_masked_positions_at_every_rate(tiny_model: Model) -> None:
    found = harvest(tiny_model("full"), CORPUS, [resid_post(0)], sites_per_canvas=3)
    sites = found.sites
    assert (sites.seen.gather(1, sites.position[:, None]) == MASK_ID).all()
    assert (sites.kind == Kind.MASKED).all()
    assert len(sites) == 3 * len(MASK_RATES) * len(PUZZLES)
    for rate in MASK_RATES:
        at_rate = found.at_mask_rate(rate)
        assert len(at_rate.sites) == 3 * len(PUZZLES)
        share = (at_rate.sites.seen == MASK_ID).sum(1) / ASKED[at_rate.sites.sample].sum(1)
        assert ((share - rate).abs() < 0.02).all()
    assert (sites.truth == SEQUENCES[sites.sample]).all()


@pytest.mark.parametrize("canvases", [Masked((0.2, 0.6), corrupt=0.1), Decoded(Decoding(steps=5), every=2)])
def test_so_many_of_each_kind_are_kept_where_they_are(canvases: Source, tiny_model: Model) -> None:
    kinds = (Kind.PROMPT, Kind.MASKED, Kind.SETTLED)
    sites = harvest(tiny_model("full"), CORPUS, [resid_post(0)], canvases=canvases, kinds=kinds, sites_per_canvas=4, seed=1).sites
    at = sites.seen.gather(1, sites.position[:, None])[:, 0]
    assert (sites.position >= 1).all()
    assert torch.equal(sites.kind == Kind.MASKED, at == MASK_ID)
    assert torch.equal(sites.kind == Kind.PROMPT, ~ASKED[sites.sample, sites.position])
    of_canvas = torch.stack([sites.sample, (sites.mask_rate * 1e4).long(), sites.step, sites.kind])
    assert of_canvas.unique(dim=1, return_counts=True)[1].max() == 4


def test_a_causal_model_is_read_where_the_future_is_hidden(tiny_model: Model) -> None:
    sites = harvest(tiny_model("causal"), CORPUS, [resid_post(0)], sites_per_canvas=2).sites
    later = torch.arange(163) >= sites.position[:, None]
    asked = ASKED[sites.sample]
    assert len(sites) == 2 * Whole().worth * len(CORPUS)
    assert (sites.seen[later & asked] == MASK_ID).all()
    assert (sites.seen[~(later & asked)] == sites.truth[~(later & asked)]).all()
    assert asked.gather(1, sites.position[:, None]).all()
    torch.testing.assert_close(sites.mask_rate, (later & asked).sum(1) / asked.sum(1))


def test_what_a_causal_model_cannot_see_does_not_change_what_is_read(tiny_model: Model) -> None:
    model, position = tiny_model("causal"), 120
    hidden = SEQUENCES.clone()
    hidden[:, position:] = MASK_ID
    rows, positions = torch.arange(5), torch.full((5,), position)
    seen = activations_at(model, SEQUENCES, rows, positions, [resid_post(1)])[resid_post(1)]
    torch.testing.assert_close(seen, activations_at(model, hidden, rows, positions, [resid_post(1)])[resid_post(1)])


@pytest.mark.parametrize(
    ("regime", "options", "message"),
    [
        ("causal", {"canvases": Masked()}, "canvases are masked, and tiny is a causal model, which reads whole sequences"),
        ("full", {"canvases": Whole()}, "canvases are whole, and tiny is a masked model"),
        ("full", {"kinds": [Kind.COMMITTED]}, "no committed positions; choose from prompt, masked, settled"),
        ("causal", {"kinds": [Kind.SETTLED]}, "no settled positions; choose from prompt, masked"),
        ("full", {"kinds": []}, "no kind of position was asked for; choose from prompt"),
        ("full", {"sites_per_canvas": 0}, "sites_per_canvas is 0; it must be at least 1"),
    ],
)
def test_what_a_model_cannot_be_shown_is_named(regime: str, options: dict[str, Any], message: str, tiny_model: Model) -> None:
    with pytest.raises(ValueError, match=message):
        harvest(tiny_model(regime), CORPUS, [resid_post(0)], **options)


def test_the_seed_decides(tiny_model: Model) -> None:
    model = tiny_model("full")
    first, again, other = (harvest(model, CORPUS, [resid_post(0)], seed=seed).sites for seed in (1, 1, 2))
    assert (first.seen == again.seen).all()
    assert (first.position == again.position).all()
    assert not torch.equal(first.position, other.position)


def test_rows_of_a_harvest_keep_sites_and_activations_together(tiny_model: Model) -> None:
    found: Harvest = harvest(tiny_model("full"), CORPUS, [resid_post(0)])
    keep = torch.from_numpy(np.random.default_rng(0).permutation(len(found.sites))[:7])
    some = found.rows(keep)
    assert torch.equal(some.sites.position, found.sites.position[keep])
    assert torch.equal(some.activations[resid_post(0)], found.activations[resid_post(0)][keep])
