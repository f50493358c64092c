"""Lenses: exact after the last block, planted rotations undone, moved as they say, and never of another model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from interp.corpus import Corpus, puzzle_corpus
from interp.harvest import activations_at
from interp.lens import (
    Judged,
    Lens,
    LensError,
    Schedule,
    decision_depths,
    depth_statistics,
    fit_lenses,
    lens_scores,
    lenses_of,
    load_lens,
    logit_lens,
    move_lens,
    save_lens,
    train_tuned_lens,
)
from interp.lens.depth import settled_at
from interp.lens.lenses import answers
from interp.lens.scores import AS_IS, INPUT, ITSELF, LOGIT, MAPPED, MEAN, TUNED
from interp.statistics import Statistic
from interp.transfer import Twins, shuffled_weights
from models.decoding import Decoding
from models.denoise import denoise
from models.hookpoints import HookPoint, resid_post
from models.language_model import LanguageModel
from models.tasks.stories.task import MASK_ID as STORY_MASK_ID
from models.tasks.sudoku.generator import generate
from models.tasks.sudoku.task import MASK_ID, SUDOKU
from models.trajectory import Trajectory
from probes.align import Alignment
from probes.errors import ProbeError

FIRST, LAST = resid_post(0), resid_post(1)
QUICK = Schedule(steps=60, batch=128, rate=5e-3)


def corpus(n: int, seed: int) -> Corpus:
    return puzzle_corpus(SUDOKU, generate(n, "naked_singles", seed=seed))


@pytest.fixture(scope="module")
def pair(tiny_model: Callable[..., Any]) -> Twins:
    return Twins(tiny_model("causal"), tiny_model("full"))


@pytest.fixture(params=("ar", "diffusion"))
def model(request: pytest.FixtureRequest, pair: Twins) -> LanguageModel:
    found: LanguageModel = getattr(pair, request.param)
    return found


@pytest.fixture(scope="module")
def judged(pair: Twins) -> dict[str, Judged]:
    return lenses_of(pair, corpus(8, 1), corpus(4, 2), QUICK, sites_per_canvas=(8, 4))


@pytest.fixture(scope="module")
def trajectory(pair: Twins) -> Trajectory:
    return denoise(pair.diffusion, SUDOKU.prompt(generate(2, "naked_singles", seed=3)), Decoding("low_confidence", steps=4))


def canvases(n: int = 2, seed: int = 0) -> Tensor:
    tokens = SUDOKU.encode(generate(n, "naked_singles", seed=seed))
    hidden = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    hidden[:, :82] = False
    return tokens.masked_fill(hidden, MASK_ID)


def places(tokens: Tensor) -> tuple[Tensor, Tensor]:
    rows, positions = torch.nonzero(torch.ones_like(tokens)[:, 1:], as_tuple=True)
    return rows, positions + 1


# ---------------------------------------------------------------- the logit lens


def test_after_the_last_block_the_logit_lens_is_the_model(model: LanguageModel) -> None:
    tokens = canvases()
    rows, positions = places(tokens)
    lens = logit_lens(model, LAST)
    x = activations_at(model, tokens, rows, positions, [LAST])[LAST]
    wanted = model.logits(tokens)[rows, positions]
    torch.testing.assert_close(model.unembed(x), wanted)
    torch.testing.assert_close(lens.probabilities(x), wanted[:, 1:10].softmax(-1))
    assert lens.heads == tuple("123456789")


def test_a_shiftless_model_is_read_at_the_token_itself(tiny_model: Callable[..., Any]) -> None:
    model, tokens = tiny_model("full", logit_shift=0), canvases()
    rows, positions = places(tokens)
    x = activations_at(model, tokens, rows, positions, [LAST])[LAST]
    torch.testing.assert_close(model.unembed(x), model.logits(tokens)[rows, positions])


def test_an_answer_in_running_text_is_any_token_but_the_mask(tiny_model: Callable[..., Any]) -> None:
    task = tiny_model("full", task="stories").task
    found = answers("stories")
    assert len(found) == len(task.vocabulary) - 1
    assert STORY_MASK_ID not in found


def test_a_lens_of_the_causal_twin_never_sees_what_comes_later(pair: Twins) -> None:
    tokens = SUDOKU.encode(generate(2, "naked_singles", seed=0))
    after = tokens.clone()
    after[:, 120:] = after[:, 120:].flip(1)
    assert (after != tokens).any()
    lens = logit_lens(pair.ar, FIRST)
    rows, positions = torch.arange(2), torch.tensor([120, 120])
    before, then = (lens.probabilities(activations_at(pair.ar, seen, rows, positions, [FIRST])[FIRST]) for seen in (tokens, after))
    torch.testing.assert_close(before, then)
    changed = activations_at(pair.diffusion, after, rows, positions, [LAST])[LAST]
    assert not torch.allclose(changed, activations_at(pair.diffusion, tokens, rows, positions, [LAST])[LAST])


# ---------------------------------------------------------------- the tuned lens


def test_a_planted_rotation_is_undone(pair: Twins) -> None:
    model = pair.diffusion
    generator = torch.Generator().manual_seed(0)
    final = torch.randn(2000, model.d_model, generator=generator)
    rotation, _ = torch.linalg.qr(torch.randn(model.d_model, model.d_model, generator=generator))
    planted = 4 * final @ rotation + 1.0
    lens = fit_lenses(model, {FIRST: planted[:1500]}, final[:1500], Schedule(steps=1000, batch=256, rate=1e-2))[FIRST]
    end = logit_lens(model, LAST)
    wanted = end.log_probabilities(final[1500:])

    def nats(one: Lens) -> float:
        return (wanted.exp() * (wanted - one.log_probabilities(planted[1500:]))).sum(1).mean().item()

    start = nats(logit_lens(model, FIRST))
    assert start > 0.05
    assert nats(lens) < 0.02 * start


def test_training_brings_a_layer_closer_to_the_end(judged: dict[str, Judged]) -> None:
    kl = lens_scores(judged)[0]
    for network in ("causal", "masked"):
        for share in {value.at["percent unwritten"] for value in kl.values}:
            at = {"network": network, "percent unwritten": share, "layer": 0}
            assert kl.at(lens=TUNED, **at).value < kl.at(lens=LOGIT, **at).value
            assert kl.at(lens=TUNED, **at).value < kl.at(lens=MEAN, **at).value


def test_training_from_sequences_is_training_from_their_activations(pair: Twins) -> None:
    lenses = train_tuned_lens(pair.diffusion, corpus(3, 5), [FIRST, LAST], Schedule(steps=5, batch=16), sites_per_canvas=4)
    again = train_tuned_lens(pair.diffusion, corpus(3, 5), [FIRST], Schedule(steps=5, batch=16), sites_per_canvas=4)
    assert lenses[FIRST].fitted_on == f"{pair.diffusion.fingerprint}@{FIRST}"
    assert torch.equal(lenses[FIRST].translator.matrix, again[FIRST].translator.matrix)
    assert torch.equal(lenses[LAST].translator.matrix, torch.eye(32))


# ---------------------------------------------------------------- moving


def test_a_moved_lens_reads_the_mapped_activations(pair: Twins) -> None:
    generator = torch.Generator().manual_seed(0)
    lens = Lens(FIRST, Alignment(torch.randn(32, 32, generator=generator), torch.ones(32), "tuned"), pair.ar, pair.ar.fingerprint, "tuned")
    into = Alignment(torch.randn(32, 32, generator=generator), torch.randn(32, generator=generator), "ridge_affine")
    x = torch.randn(9, 32, generator=generator)
    moved = move_lens(lens, into, pair.diffusion)
    torch.testing.assert_close(moved.probabilities(x), lens.probabilities(into(x)), atol=1e-5, rtol=1e-4)
    assert (moved.reads, moved.readout.fingerprint) == (pair.diffusion.fingerprint, pair.ar.fingerprint)
    own = move_lens(lens, into, pair.diffusion, readout=pair.diffusion)
    end = pair.diffusion.unembed(lens.translator(into(x)))[:, 1:10].softmax(-1)
    torch.testing.assert_close(own.probabilities(x), end, atol=1e-5, rtol=1e-4)


def test_a_lens_moved_by_the_identity_to_its_own_model_is_itself(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("causal")
    lens = train_tuned_lens(model, corpus(2, 5), [FIRST], Schedule(steps=3, batch=16), sites_per_canvas=4)[FIRST]
    moved = move_lens(lens, Alignment(torch.eye(32), torch.zeros(32), "identity"), model)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(moved.probabilities(x), lens.probabilities(x))


# ---------------------------------------------------------------- scores


def test_scores_are_of_every_lens_layer_and_share(judged: dict[str, Judged]) -> None:
    kl, agreement, accuracy = lens_scores(judged)
    assert [one.name for one in (kl, agreement, accuracy)] == ["lens_kl", "lens_agreement", "lens_accuracy"]
    for statistic in (kl, agreement, accuracy):
        assert {value.estimate.n for value in statistic.values} <= {1, 2, 3, 4}
        assert {value.at["layer"] for value in statistic.values} == {0, 1}
        assert Statistic.model_validate_json(statistic.model_dump_json()) == statistic
    at = {"network": "masked", "percent unwritten": 50}
    assert kl.at(lens=LOGIT, layer=1, **at).value == pytest.approx(0, abs=1e-5)
    assert agreement.at(lens=LOGIT, layer=1, **at).value == 1
    assert kl.at(lens=INPUT, layer=0, **at) == kl.at(lens=INPUT, layer=1, **at)
    assert accuracy.at(lens=LOGIT, layer=1, **at) == accuracy.at(lens=ITSELF, layer=1, **at)
    for line in (AS_IS, MAPPED, INPUT):
        assert 0 <= agreement.at(lens=line, layer=0, **at).value <= 1


# ---------------------------------------------------------------- decided at which layer


@given(tops=st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=1, max_size=8))
def test_settled_is_the_first_layer_of_the_last_run_of_the_answer(tops: list[list[int]]) -> None:
    found = settled_at(torch.tensor(tops), torch.ones(len(tops), dtype=torch.long))
    for row, layer in zip(tops, found.tolist(), strict=True):
        expected = next((k + 1 for k in range(4) if all(top == 1 for top in row[k:])), np.nan)
        assert layer == pytest.approx(expected, nan_ok=True)


def test_every_cell_is_written_at_some_depth(pair: Twins, trajectory: Trajectory) -> None:
    blurred = shuffled_weights(pair.diffusion, 0)
    floor = replace(logit_lens(pair.diffusion, FIRST), reads=blurred.fingerprint)
    lenses = {"logit lens": [logit_lens(pair.diffusion, FIRST)], "floor": [floor]}
    both = decision_depths(pair.diffusion, trajectory, lenses, [blurred])
    found = both["logit lens"]
    assert both["floor"].depth.nanmean() > found.depth.nanmean()
    hidden = (trajectory.tokens(0) == MASK_ID).sum()
    assert int(found.written.sum()) == hidden
    known = torch.isfinite(found.depth)
    assert set(found.depth[known].tolist()) <= {1.0, 2.0}
    places_in_calls = sum((trajectory.tokens(step) == MASK_ID).sum() for step in range(trajectory.n_steps))
    assert len(found.sample) == places_in_calls
    deepest = found.deepest()
    for row in range(len(deepest.sample)):
        call = (found.sample == deepest.sample[row]) & (found.step == deepest.step[row]) & found.written & known
        assert deepest.depth[row] == found.depth[call].max()
    statistics = depth_statistics({"logit lens": found})
    assert [one.name for one in statistics] == ["depth", "depth_of_a_call"]
    assert all(value.estimate.n <= 2 for one in statistics for value in one.values)


def test_a_layer_that_says_the_opposite_is_decided_last(pair: Twins, trajectory: Trajectory) -> None:
    model = pair.diffusion
    flipped = Lens(FIRST, Alignment(torch.zeros(32, 32), torch.zeros(32), "nothing"), model, model.fingerprint, "constant")
    constant = int(flipped.probabilities(torch.zeros(1, 32)).argmax()) + 1
    found = decision_depths(model, trajectory, {"constant": [flipped]})["constant"]
    said = trajectory.data["proposal"].values[found.sample, found.step, found.position]
    known = torch.isfinite(found.depth).numpy()
    assert np.array_equal(found.depth[known].numpy() == 1, said[known] == constant)


# ---------------------------------------------------------------- files and refusals


def test_a_lens_comes_back_from_disk(pair: Twins, tmp_path: Path) -> None:
    lens = train_tuned_lens(pair.ar, corpus(2, 5), [FIRST], Schedule(steps=3, batch=16), sites_per_canvas=4)[FIRST]
    moved = move_lens(lens, Alignment(torch.eye(32), torch.ones(32), "mean_shift"), pair.diffusion)
    save_lens(lens, tmp_path / "own")
    save_lens(moved, tmp_path / "moved")
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(2))
    assert torch.equal(load_lens(tmp_path / "own", pair.ar).probabilities(x), lens.probabilities(x))
    again = load_lens(tmp_path / "moved", pair.diffusion, pair.ar)
    assert torch.equal(again.probabilities(x), moved.probabilities(x))
    assert (again.name, again.fitted_on, again.heads) == (moved.name, moved.fitted_on, moved.heads)
    with pytest.raises(LensError, match=f"reads {pair.ar.fingerprint}, and tiny is {pair.diffusion.fingerprint}"):
        load_lens(tmp_path / "own", pair.diffusion)
    with pytest.raises(LensError, match=f"reads out through {pair.ar.fingerprint}"):
        load_lens(tmp_path / "moved", pair.diffusion)
    with pytest.raises(ProbeError, match="no readable config"):
        load_lens(tmp_path / "none", pair.ar)


def test_what_is_no_residual_stream_is_refused(pair: Twins) -> None:
    for point in (HookPoint(0, "hook_mlp_out"), resid_post(9)):
        with pytest.raises(LensError, match=f"{point} is no residual stream of tiny; choose from .*blocks.1.hook_resid_post"):
            train_tuned_lens(pair.diffusion, corpus(1, 5), [point])
    with pytest.raises(LensError, match="steps 0, batch 512"):
        Schedule(steps=0)


def test_what_does_not_belong_together_is_refused(pair: Twins, trajectory: Trajectory, tiny_model: Callable[..., Any]) -> None:
    other = shuffled_weights(pair.diffusion, 0)
    lens = logit_lens(pair.diffusion, FIRST)
    with pytest.raises(LensError, match=r"the trajectory is of .*trace it again"):
        decision_depths(other, trajectory, {"logit": [logit_lens(other, FIRST)]})
    with pytest.raises(LensError, match=r"logit lens @ blocks.0.hook_resid_post reads"):
        decision_depths(pair.diffusion, trajectory, {"logit": [replace(lens, reads=other.fingerprint)]})
    with pytest.raises(LensError, match="'logit' has lenses at none; it needs one after each block but the last, 0 to 0"):
        decision_depths(pair.diffusion, trajectory, {"logit": []})
    stories = tiny_model("full", task="stories")
    with pytest.raises(LensError, match="tiny is stories of width 32; this lens can be moved to sudoku of width 32"):
        move_lens(lens, Alignment(torch.eye(32), torch.zeros(32), "identity"), stories)
