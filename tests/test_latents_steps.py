"""Latents over the steps of a run: traces built by hand whose figures are known, and traces of runs against the hooks of the run itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interp.latents.steps import (
    SIMILARITIES,
    latent_dynamics,
    life,
    post_decode_drift,
    pre_mask_stability,
    turnover,
)
from interp.latents.traces import LatentTrace, LatentTraceError, record_latents
from interp.steering import Push, adding, edits_of
from models.decoding import Decoding
from models.denoise import denoise
from models.hookpoints import resid_post
from models.language_model import LanguageModel
from models.recorder import Channel, Record
from models.trajectory import Trajectory
from probes.saes.recipe import SaeRecipe
from probes.saes.training import train_sae

MASK, LENGTH, D, PROMPT, BATCH = 11, 20, 32, 8, 3
POINT = resid_post(0)


def trained(x: Tensor, d_sae: int = 24, k: int = 4, steps: int = 30) -> Any:
    return train_sae(x, SaeRecipe(d_sae=d_sae, k=k, steps=steps, batch=256))


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., LanguageModel]) -> LanguageModel:
    return tiny_model()


@pytest.fixture(scope="module")
def sae(model: LanguageModel) -> Any:
    tokens = torch.randint(0, MASK + 1, (40, LENGTH), generator=torch.Generator().manual_seed(1))
    _, cache = model.run_with_cache(tokens, [POINT])
    return trained(cache[POINT].flatten(0, 1))


def prompts(n: int = BATCH) -> Tensor:
    tokens = torch.randint(0, MASK, (n, LENGTH), generator=torch.Generator().manual_seed(0))
    tokens[:, PROMPT:] = MASK
    return tokens


def built(shown: list[list[dict[int, float]]], commit: list[int], top: int = 3) -> LatentTrace:
    """Returns a trace of one sample: for each place the latents of calls 1, 2, ..., and the call that wrote it."""
    steps, places = len(shown[0]) + 1, len(shown)
    latent = np.full((1, steps, places, top), -1, np.int32)
    value = np.zeros(latent.shape, np.float32)
    for place, calls in enumerate(shown):
        for step, latents in enumerate(calls, start=1):
            for rank, (name, strength) in enumerate(sorted(latents.items(), key=lambda item: -item[1])):
                latent[0, step, place, rank], value[0, step, place, rank] = name, strength
    at = np.arange(steps)[None, :, None]
    commits = np.array([commit])
    unwritten = (at >= 1) & (at <= commits[:, None])
    return LatentTrace(latent, value, 10 + np.arange(places), unwritten, (at >= 1) & ~unwritten, commits)


# One place, written by call 3 of 5; another, written by call 1.
FIRST = [{1: 2.0, 2: 1.0}, {1: 3.0, 3: 1.0}, {1: 1.0, 3: 4.0}, {3: 2.0, 4: 1.0}, {4: 5.0, 5: 1.0}]
SECOND = [{7: 1.0}, {7: 1.0, 8: 1.0}, {7: 2.0, 8: 1.0}, {}, {}]
TRACE = built([FIRST, SECOND], [3, 1])


# ---------------------------------------------------------------- by hand


def test_stability_is_the_mean_similarity_of_calls_that_follow_each_other_unwritten() -> None:
    found = pre_mask_stability(TRACE)
    assert found[0, 0] == pytest.approx((1 / 3 + 1) / 2)  # {1, 2}, {1, 3}, {1, 3}
    assert np.isnan(found[0, 1])  # one call only
    cosine = ((2 * 3) / np.sqrt(5 * 10) + (3 * 1 + 1 * 4) / np.sqrt(10 * 17)) / 2
    assert pre_mask_stability(TRACE, "cosine")[0, 0] == pytest.approx(cosine)


def test_drift_is_what_changes_after_writing_by_call_or_since_then() -> None:
    by_call = post_decode_drift(TRACE)
    assert by_call[0, 0] == pytest.approx(1 - 1 / 3)  # {3, 4}, {4, 5}
    assert by_call[0, 1] == pytest.approx(1 - (1 + 0 + 1) / 3)  # {7, 8}, {7, 8}, {}, {}
    since = post_decode_drift(TRACE, since="commit")
    assert since[0, 0] == pytest.approx(1 - (1 / 3 + 0) / 2)  # against {1, 3}
    assert since[0, 1] == pytest.approx(1 - (1 / 2 + 1 / 2 + 0 + 0) / 4)  # against {7}


def test_turnover_is_the_share_of_new_latents_at_unwritten_places() -> None:
    other = built([FIRST, [{7: 1.0}, {8: 1.0, 9: 1.0}, {8: 2.0}, {}, {}]], [3, 3])
    np.testing.assert_allclose(turnover(other)[0], [np.nan, np.nan, (1 / 2 + 1) / 2, 0, np.nan, np.nan])


def test_lives_tell_birth_peak_and_lead() -> None:
    found = life(TRACE)
    table = {
        (int(row[0]), int(row[1])): tuple(row[2:])
        for row in zip(found.position, found.latent, found.birth, found.peak, found.greatest, found.calls, found.lead(), strict=True)
    }
    assert table == {
        (10, 1): (1, 2, 3.0, 3, 2.0),
        (10, 2): (1, 1, 1.0, 1, 2.0),
        (10, 3): (2, 3, 4.0, 3, 1.0),
        (10, 4): (4, 5, 5.0, 2, -1.0),
        (10, 5): (5, 5, 1.0, 1, -2.0),
        (11, 7): (1, 3, 2.0, 3, 0.0),
        (11, 8): (2, 2, 1.0, 2, -1.0),
    }
    assert found.rows(found.latent == 3).lead("peak").tolist() == [0.0]


def test_an_empty_trace_has_no_lives() -> None:
    assert len(life(built([[{}, {}]], [2])).latent) == 0


def test_places_never_written_have_no_lead_and_no_drift_since() -> None:
    never = built([[{1: 1.0}, {2: 1.0}]], [-1])
    assert np.isnan(life(never).lead()).all()
    assert np.isnan(post_decode_drift(never, since="commit")).all()


# ---------------------------------------------------------------- properties


@st.composite
def traces(draw: st.DrawFn) -> LatentTrace:
    calls, places = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    latents = st.dictionaries(st.integers(0, 5), st.integers(1, 4).map(float), max_size=3)
    shown = [[draw(latents) for _ in range(calls)] for _ in range(places)]
    return built(shown, [draw(st.integers(1, calls)) for _ in range(places)])


@settings(max_examples=25)
@given(traces(), st.permutations(range(6)))
def test_figures_are_shares_that_do_not_depend_on_what_latents_are_called(trace: LatentTrace, names: list[int]) -> None:
    renamed = np.where(trace.latent >= 0, np.array(names)[trace.latent], -1).astype(np.int32)
    other = LatentTrace(renamed, trace.value, trace.position, trace.unwritten, trace.written, trace.commit_step)
    figures = [
        turnover,
        *(lambda one, way=way: pre_mask_stability(one, way) for way in SIMILARITIES),  # type: ignore[misc]
        *(lambda one, way=way: post_decode_drift(one, way) for way in SIMILARITIES),  # type: ignore[misc]
    ]
    for figure in figures:
        values = figure(trace)
        np.testing.assert_allclose(figure(other), values, atol=1e-6)
        assert (np.isnan(values) | ((values > -1e-6) & (values < 1 + 1e-6))).all()


@settings(max_examples=25)
@given(traces())
def test_a_latent_is_born_before_it_peaks_and_fires_as_often_as_is_traced(trace: LatentTrace) -> None:
    found = life(trace)
    assert (found.birth <= found.peak).all()
    assert found.calls.sum() == (trace.latent >= 0).sum()
    for place in range(len(trace.position)):
        own = found.rows(found.position == trace.position[place])
        for latent, birth, greatest in zip(own.latent, own.birth, own.greatest, strict=True):
            where = trace.latent[0, :, place] == latent
            assert where.any(1).argmax() == birth
            assert trace.value[0, :, place][where].max() == greatest


# ---------------------------------------------------------------- of runs


@pytest.fixture(scope="module")
def run(model: LanguageModel) -> Trajectory:
    return denoise(model, prompts(), Decoding(steps=5))


@pytest.mark.parametrize("shift", [0, 1])
def test_a_trace_is_what_the_run_itself_showed(tiny_model: Callable[..., LanguageModel], sae: Any, shift: int) -> None:
    """Against a channel that records every latent while the run is made."""
    model = tiny_model(logit_shift=shift)
    recorded = denoise(model, prompts(), Decoding(steps=5), record=Record(channels={"sae": Channel(POINT, sae.encode)}))
    trace = record_latents(model, recorded, sae, POINT, top_k=6)
    dense = np.zeros((*trace.unwritten.shape, 24 + 1), np.float32)
    np.put_along_axis(dense, np.where(trace.latent >= 0, trace.latent, 24), trace.value, axis=3)
    assert trace.position.tolist() == list(range(PROMPT, LENGTH))
    whole = recorded.channel("sae").values[:, 1:, PROMPT:]
    np.testing.assert_allclose(dense[:, 1:, :, :24], whole, atol=5e-3)
    assert (trace.latent[:, 0] == -1).all()
    strongest = np.where(trace.latent >= 0, trace.value, 0)
    assert (np.diff(strongest, axis=3) <= 0).all()


def test_a_trace_tells_unwritten_from_written(model: LanguageModel, sae: Any, run: Trajectory) -> None:
    trace = record_latents(model, run, sae, POINT, top_k=4)
    step = np.arange(run.n_steps + 1)[None, :, None]
    np.testing.assert_array_equal(trace.unwritten, (step >= 1) & (step <= trace.commit_step[:, None]))
    np.testing.assert_array_equal(trace.written, (step > trace.commit_step[:, None]))
    np.testing.assert_array_equal(trace.commit_step, run.data["commit_step"].values[:, PROMPT:])


def test_samples_are_traced_alone_whatever_their_length_and_end(model: LanguageModel, sae: Any) -> None:
    some = list(prompts())
    some[1] = some[1][:15]
    together = denoise(model, some, Decoding("threshold"))
    trace = record_latents(model, together, sae, POINT, top_k=4)
    for sample, tokens in enumerate(some):
        alone = denoise(model, tokens[None], Decoding("threshold"), sample_ids=[sample])
        own = record_latents(model, alone, sae, POINT, top_k=4)
        steps, places = own.latent.shape[1:3]
        np.testing.assert_array_equal(trace.latent[sample, :steps, :places], own.latent[0])
        np.testing.assert_allclose(trace.value[sample, :steps, :places], own.value[0], atol=1e-4)
        assert not (trace.unwritten | trace.written)[sample, steps:].any()
        assert not (trace.unwritten | trace.written)[sample, :, places:].any()


def test_fewer_latents_are_the_strongest_of_more(model: LanguageModel, sae: Any, run: Trajectory) -> None:
    few, more = (record_latents(model, run, sae, POINT, top_k=k) for k in (2, 4))
    np.testing.assert_array_equal(few.latent, more.latent[..., :2])


def test_after_one_call_there_is_nothing_to_compare(model: LanguageModel, sae: Any) -> None:
    trace = record_latents(model, denoise(model, prompts(), Decoding(steps=1)), sae, POINT, top_k=4)
    assert all(np.isnan(figure(trace)).all() for figure in (turnover, pre_mask_stability, post_decode_drift))
    assert (life(trace).lead() == 0).all()


def test_runs_that_cannot_be_read_again_are_refused(
    model: LanguageModel, tiny_model: Callable[..., LanguageModel], sae: Any, run: Trajectory
) -> None:
    with pytest.raises(LatentTraceError, match="the run is of tiny"):
        record_latents(tiny_model(seed=5), run, sae, POINT)
    where = prompts() == MASK
    steered = denoise(model, prompts(), Decoding(steps=2), edits=edits_of(model, Push(POINT, adding(torch.ones(BATCH, D)), where)))
    with pytest.raises(LatentTraceError, match="activations of the run were edited"):
        record_latents(model, steered, sae, POINT, top_k=4)
    with pytest.raises(LatentTraceError, match="top_k is 32; it must be from 1 to the SAE's 24 latents"):
        record_latents(model, run, sae, POINT)
    with pytest.raises(LatentTraceError, match="no decodings"):
        latent_dynamics(model, prompts(), sae, POINT, {})


def test_decodings_are_compared_by_the_figures_of_their_runs(model: LanguageModel, sae: Any, run: Trajectory) -> None:
    decodings = {"five calls": Decoding(steps=5), "one by one": Decoding("random")}
    turned, steady = latent_dynamics(model, prompts(), sae, POINT, decodings, top_k=4)
    trace = record_latents(model, run, sae, POINT, top_k=4)
    stable = np.nanmean([np.nanmean(sample) for sample in pre_mask_stability(trace)])
    assert steady.at(figure="S_pre", decoding="five calls").value == pytest.approx(stable)
    assert steady.at(figure="S_pre", decoding="five calls").n == BATCH
    assert turned.at(decoding="five calls", percent_of_the_calls=60).value == pytest.approx(np.nanmean(turnover(trace)[:, 3]))
    by_tenth = {value.at["percent_of_the_calls"] for value in turned.values if value.at["decoding"] == "one by one"}
    assert by_tenth == set(range(20, 101, 10))  # calls 2 to 12 of 12
    grouped, _ = latent_dynamics(model, prompts(), sae, POINT, decodings, top_k=4, groups=torch.tensor([0, 0, 1]))
    assert {value.estimate.n for value in grouped.values} == {2}
