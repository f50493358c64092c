"""The denoising loop: its promises for every policy, edits, errors; and writing left to right."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_networks import LENGTH, MASK, FakeNetwork, prompts
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from models.chance import CallNoise, nucleus
from models.decoding import Decoding, Stopping
from models.denoise import StepContext, denoise, score
from models.hookpoints import HookPointError, resid_post
from models.language_model import LanguageModel
from models.left_to_right import write_left_to_right
from models.prompt import PromptError
from models.trajectory import State
from models.trajectory_store import TrajectoryError
from models.turn import PolicyError, gumbel
from models.unmasking import POLICIES, policy_options
from models.writing import write

# ---------------------------------------------------------------- promises


REVISING = {"mgdm", "remdm_cap", "remdm_rescale", "remdm_conf", "remdm_loop", "token_editing", "uniform_renoise"}
"""Policies that may take back or change what is written; the others write each masked position once."""
QUOTA = ("random", "low_confidence", "maskgit_plus", "topk_margin", "entropy", "sequential", "low_confidence_static")
"""Policies that write just their share."""
CALLS = {name: {"calls": 12} for name in POLICIES if "calls" in policy_options(name)}
"""Fewer than the published hundreds, for policies that walk a grid of steps."""


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=25)
@given(
    batch=st.integers(1, 4),
    pos=st.integers(1, LENGTH),
    seed=st.integers(0, 99),
    steps=st.none() | st.integers(1, 20),
    temperature=st.sampled_from([0.0, 0.7, 30.0]),
)
def test_every_mask_is_filled_and_nothing_else_changes(
    policy: str, batch: int, pos: int, seed: int, steps: int | None, temperature: float
) -> None:
    tokens = prompts(batch, pos, seed)
    told: list[tuple[int, int]] = []
    run = denoise(
        FakeNetwork(seed % 3, scale=3.0),
        tokens,
        Decoding(policy, CALLS.get(policy, {}), steps=steps, temperature=temperature, seed=seed),
        on_step=lambda done, left: told.append((done, left)),
    )
    masked, canvases = (tokens == MASK).numpy(), run.data["token"].values
    assert (run.tokens(-1) != MASK).all()
    assert (canvases.swapaxes(0, 1)[:, ~masked] == tokens.numpy()[~masked]).all()
    spoken = run.data["proposal"].values >= 0
    assert (run.data["proposal"].values != MASK).all()
    for name in ("confidence", "margin", "entropy"):
        assert (np.isfinite(run.data[name].values) == spoken).all()
    assert (run.calls >= run.data["commit_step"].values.max(1)).all()
    assert told[-1] == (int(masked.sum()), 0)
    assert all(done + left == masked.sum() for done, left in told)
    most = steps or (12 if policy in CALLS else pos if policy != "token_editing" else pos + 16)
    assert run.n_steps <= most
    if policy not in REVISING:
        changes = (canvases[:, 1:] != canvases[:, :-1]).sum(1)
        assert (changes == masked).all()
        assert (run.calls == run.data["commit_step"].values.max(1)).all()
    elif policy in CALLS:
        assert (run.calls == most).all()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_run_is_reproduced_by_its_seed(policy: str) -> None:
    tokens = prompts(3, LENGTH)
    runs = [denoise(FakeNetwork(), tokens, Decoding(policy, CALLS.get(policy, {}), temperature=1.5, seed=4)).data for _ in range(2)]
    assert runs[0].identical(runs[1])


def test_another_seed_is_another_run() -> None:
    tokens = prompts(4, LENGTH)
    orders = {seed: denoise(FakeNetwork(), tokens, Decoding("random", seed=seed)).data["commit_step"].values.tobytes() for seed in range(5)}
    assert len(set(orders.values())) == 5
    drawn = [denoise(FakeNetwork(), tokens, Decoding(temperature=3.0, seed=seed)).tokens(-1).tobytes() for seed in (0, 1, 2**32, 2**40)]
    assert len(set(drawn)) == 4


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_sample_does_not_depend_on_its_batch(policy: str, temperature: float) -> None:
    tokens = prompts(5, LENGTH, seed=3)
    asked = Decoding(policy, CALLS.get(policy, {}), temperature=temperature, seed=7)
    together = denoise(FakeNetwork(), tokens, asked)
    order = [3, 0, 4]
    apart = denoise(FakeNetwork(), tokens[order], asked, sample_ids=order)
    for row, sample in enumerate(order):
        alone = denoise(FakeNetwork(), tokens[[sample]], asked, sample_ids=[sample])
        calls = int(together.calls[sample])
        for other, place in ((apart, row), (alone, 0)):
            assert other.calls[place] == calls
            for name in ("token", "proposal", "confidence"):
                ours, theirs = (run.data[name].values[at, : calls + 1] for run, at in ((together, sample), (other, place)))
                np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("policy", QUOTA)
@pytest.mark.parametrize("steps", [1, 3, 4, 7, 16, 40])
def test_a_budget_is_spread_evenly(policy: str, steps: int) -> None:
    tokens = prompts(4, LENGTH, seed=2)
    run = denoise(FakeNetwork(), tokens, Decoding(policy, steps=steps))
    for masked, commit in zip((tokens == MASK).sum(1).tolist(), run.data["commit_step"].values, strict=True):
        written = np.bincount(commit[commit > 0], minlength=steps + 1)[1:]
        calls = min(steps, masked)
        assert written[calls:].sum() == 0
        assert set(written[:calls]) <= {masked // calls, -(-masked // calls)}
    assert run.n_steps == min(steps, int((tokens == MASK).sum(1).max()))


def test_without_a_budget_one_position_is_written_a_call() -> None:
    run = denoise(FakeNetwork(), prompts(3, LENGTH))
    assert (run.calls == (run.data["token"].isel(step=0) == MASK).sum("position")).all()
    assert run.decoding == Decoding()


def test_random_positions_are_uniform() -> None:
    n, pos = 4000, 6
    run = denoise(FakeNetwork(), torch.full((n, pos), MASK), Decoding("random", seed=11))
    commit = run.data["commit_step"].values
    first, second = (np.argmax(commit == step, axis=1) for step in (1, 2))
    pairs = np.bincount(first * pos + second, minlength=pos * pos).reshape(pos, pos)
    assert (np.diag(pairs) == 0).all()
    assert stats.chisquare(pairs[~np.eye(pos, dtype=bool)]).pvalue > 1e-3


def test_a_temperature_draws_from_the_tempered_distribution() -> None:
    n, temperature = 6000, 1.7
    network = FakeNetwork()
    run = denoise(network, torch.full((n, 1), MASK), Decoding(temperature=temperature, seed=5))
    logits = network.numpy_logits(np.array([MASK]))[0, :MASK] / temperature
    expected = np.exp(logits) / np.exp(logits).sum()
    assert stats.chisquare(np.bincount(run.tokens(-1)[:, 0], minlength=MASK), n * expected).pvalue > 1e-3


def test_noise_is_gumbels_far_into_its_tail() -> None:
    u = torch.tensor([0.0, 2.0**-53, 2.0**-40, 1e-6, 0.5, 1 - 2**-24])
    expected = -np.log(-np.log1p(-np.maximum(u.double().numpy(), 2.0**-54)))
    np.testing.assert_allclose(gumbel(u), expected, rtol=1e-6)
    assert gumbel(u)[1] > 36


def test_uniform_numbers_are_fine_near_0_below_1_and_have_the_law_they_should() -> None:
    noise = CallNoise(3, range(40), 1, torch.device("cpu")).for_tokens(range(40), 50, 1000)
    u = noise.flatten().double().numpy()
    assert ((u >= 0) & (u < 1)).all()
    assert (u * 2**24 % 1 != 0).any(), "finer than 24 bits"
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert stats.kstest(gumbel(noise).flatten().double().numpy(), "gumbel_r").pvalue > 1e-3
    for below in (1e-3, 1e-4, 1e-5):
        assert stats.binomtest(int((u < below).sum()), len(u), below).pvalue > 1e-3


def test_the_greatest_number_is_below_1(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = SimpleNamespace(random=lambda shape: np.full(shape, np.nextafter(1.0, 0.0)))
    monkeypatch.setattr("models.chance.np.random.default_rng", lambda key: generator)
    noise = CallNoise(0, [0], 1, torch.device("cpu"))
    assert noise.uniform(3).max() < 1
    assert torch.isfinite(gumbel(noise.uniform(3))).all()


def test_a_nucleus_keeps_the_fewest_tokens_that_reach_its_share_and_never_less_than_the_best() -> None:
    logits = torch.tensor([0.5, 0.2, 0.2, 0.1]).log()
    for top_p, kept in ((1e-9, 1), (0.5, 1), (0.51, 2), (0.7, 2), (0.71, 3), (0.95, 4)):
        assert torch.isfinite(nucleus(logits, top_p)).tolist() == [place < kept for place in range(4)]


def test_a_nucleus_is_drawn_from_in_proportion() -> None:
    n, network = 6000, FakeNetwork()
    run = denoise(network, torch.full((n, 1), MASK), Decoding(temperature=1.7, top_p=0.6, seed=5))
    p = np.exp(network.numpy_logits(np.array([MASK]))[0, :MASK] / 1.7)
    p /= p.sum()
    order = np.argsort(-p)
    kept = order[: int(np.searchsorted(np.cumsum(p[order]), 0.6)) + 1]
    drawn = np.bincount(run.tokens(-1)[:, 0], minlength=MASK)
    assert drawn[kept].sum() == n
    assert stats.chisquare(drawn[kept], n * p[kept] / p[kept].sum()).pvalue > 1e-3


@given(
    batch=st.integers(1, 3),
    pos=st.integers(1, 5),
    vocab=st.integers(3, 9),
    seed=st.integers(0, 999),
    scale=st.sampled_from([0.0, 1.0, 80.0, 1e4]),
)
def test_scores_are_what_numpy_computes(batch: int, pos: int, vocab: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=(batch, pos, vocab))).astype(np.float32)
    mask, proposal = int(rng.integers(vocab)), rng.integers(vocab - 1, size=(batch, pos))
    maskless = torch.from_numpy(logits).index_fill(-1, torch.tensor([mask]), -torch.inf)
    tokens = np.delete(np.arange(vocab), mask)[proposal]
    found = score(maskless, torch.from_numpy(tokens))
    kept = np.delete(logits.astype(np.float64), mask, axis=-1)
    p = np.exp(kept - kept.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    ordered = np.sort(p, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(p > 0, p * np.log(p), 0.0).sum(-1)
    assert (found["proposal"].numpy() == tokens).all()
    np.testing.assert_allclose(found["confidence"].numpy(), np.take_along_axis(p, proposal[..., None], -1)[..., 0], atol=1e-5)
    np.testing.assert_allclose(found["margin"].numpy(), ordered[..., -1] - ordered[..., -2], atol=1e-5)
    np.testing.assert_allclose(found["entropy"].numpy(), entropy, atol=1e-4)
    assert all(torch.isfinite(found[name]).all() for name in ("confidence", "margin", "entropy"))


# ---------------------------------------------------------------- tokens taken back


def test_mgdm_takes_tokens_back_and_changes_them_and_its_trajectory_says_so() -> None:
    run = denoise(FakeNetwork(2, scale=3.0), torch.full((6, LENGTH), MASK), Decoding("mgdm", steps=12))
    tokens, states = run.data["token"].values, run.data["state"].values
    written = tokens[:, :-1] != MASK
    assert (states[:, 1:][written & (tokens[:, 1:] == MASK)] == State.REMASKED).all()
    overwritten = written & (tokens[:, 1:] != MASK) & (tokens[:, 1:] != tokens[:, :-1])
    assert (states[:, 1:][overwritten] == State.REVISED).all()
    assert (states == State.REMASKED).any()
    assert overwritten.any()
    assert ((tokens == MASK) == np.isin(states, [State.MASKED, State.REMASKED])).all()


def test_the_noise_of_mgdm_is_each_samples_own() -> None:
    tokens = prompts(4, LENGTH, seed=3)
    asked = Decoding("mgdm", {"noise": 0.5, "calls": 8}, seed=7)
    together, alone = denoise(FakeNetwork(), tokens, asked), denoise(FakeNetwork(), tokens[[2]], asked, sample_ids=[2])
    np.testing.assert_array_equal(together.data["token"].values[2], alone.data["token"].values[0])
    quiet = denoise(FakeNetwork(), tokens, Decoding("mgdm", {"calls": 8}))
    assert not np.array_equal(together.data["token"].values, quiet.data["token"].values)


# ---------------------------------------------------------------- edits


def test_edits_are_told_which_samples_and_canvases_a_call_reads() -> None:
    tokens = torch.tensor([[MASK, 1, MASK, MASK], [MASK, 2, 3, 4], [5, MASK, MASK, 6]])
    network = FakeNetwork()
    contexts: list[StepContext] = []
    run = denoise(network, tokens, "sequential", edits=lambda context: contexts.append(context) or {})
    assert [context.step for context in contexts] == [1, 2, 3]
    assert [context.rows.tolist() for context in contexts] == [[0, 1, 2], [0, 2], [0]]
    for context, read in zip(contexts, network.read, strict=True):
        before = run.tokens(context.step - 1)[context.rows.numpy()]
        assert context.tokens.tolist() == before.tolist() == read.tolist()
        assert torch.equal(context.masked, context.tokens == MASK)
    assert run.calls.tolist() == [3, 1, 2]
    late = run.data.isel(sample=1, step=slice(2, None))
    assert (late["proposal"] == -1).all()
    assert np.isnan(late["confidence"]).all()
    assert (late["token"].values == run.tokens(-1)[1]).all()


def test_an_edit_acts_in_its_step_and_only_there(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    tokens = prompts(2, 10)
    plain = denoise(model, tokens)
    point = resid_post(0)

    def edits(context: StepContext) -> dict[Any, Any]:
        return {point: lambda activation: activation + 5 * torch.ones_like(activation).cumsum(-1)} if context.step == 2 else {}

    edited = denoise(model, tokens, edits=edits)
    one, two = (run.data["entropy"].isel(step=slice(None, 3)).values for run in (plain, edited))
    np.testing.assert_allclose(one[:, 1], two[:, 1], equal_nan=True)
    assert np.nanmax(abs(one[:, 2] - two[:, 2])) > 1e-3
    assert (edited.tokens(-1) != MASK).all()
    assert denoise(model, tokens).data.identical(plain.data)


def test_an_edit_of_an_unknown_place_is_an_error(tiny_model: Callable[..., Any]) -> None:
    with pytest.raises(HookPointError, match=r"blocks\.9\.hook_resid_post"):
        denoise(tiny_model(), prompts(1, 5), edits=lambda context: {resid_post(9): lambda activation: None})


# ---------------------------------------------------------------- errors


def test_what_a_policy_does_not_allow_is_named_at_the_call() -> None:
    with pytest.raises(PolicyError, match=r"threshold is 2\.0; it must lie in 0 to 1"):
        denoise(FakeNetwork(), prompts(2, 5), Decoding("threshold", {"threshold": 2.0}))
    with pytest.raises(PromptError, match="1 sample_ids for 2 samples"):
        denoise(FakeNetwork(), prompts(2, 5), sample_ids=[1])


def test_bad_tokens_are_named(tiny_model: Callable[..., Any]) -> None:
    network = FakeNetwork()
    with pytest.raises(PromptError, match=r"samples \[1\] have no masked position"):
        denoise(network, torch.tensor([[MASK, 1], [2, 3]]))
    with pytest.raises(PromptError, match=f"17 positions; fake reads at most {LENGTH}"):
        denoise(network, prompts(1, LENGTH + 1))
    with pytest.raises(PromptError, match=r"shape \(0, 3\)"):
        denoise(network, torch.zeros(0, 3, dtype=torch.long))
    with pytest.raises(PromptError, match="token 12; the tokens of fake are 0 to 11"):
        denoise(network, torch.tensor([[MASK, 12]]))
    with pytest.raises(PromptError, match=r"tiny is a causal model.*use a masked"):
        denoise(tiny_model("causal"), prompts(1, 5))


# ---------------------------------------------------------------- the first position, and left to right


def test_a_shifted_model_has_no_opinion_about_the_first_position(tiny_model: Callable[..., Any]) -> None:
    run = denoise(tiny_model(), torch.full((1, 4), MASK))
    first = run.data.isel(sample=0, step=1, position=0)
    assert first["margin"] == 0
    assert first["confidence"] == pytest.approx(1 / 11)
    assert (run.data["state"].isel(step=-1) == State.COMMITTED).all()


def naive_left_to_right(model: LanguageModel, tokens: Tensor) -> Tensor:
    canvas = tokens.clone()
    for row in range(len(canvas)):
        for position in range(canvas.shape[1]):
            if canvas[row, position] == MASK:
                raw = model.module(input_ids=canvas[row : row + 1, :position], use_cache=False).logits[0, -1].clone()
                raw[MASK] = -torch.inf
                canvas[row, position] = raw.argmax()
    return canvas


@pytest.mark.parametrize("seed", range(3))
def test_left_to_right_is_the_naive_loop(seed: int, tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("causal", seed)
    tokens = prompts(4, 40, seed, rate=0.4)
    tokens[:, 0] = 3
    tokens[0, -1], tokens[1, -2:] = MASK, 4
    kept = tokens.clone()
    run = write_left_to_right(model, tokens)
    written = torch.from_numpy(run.tokens(-1))
    assert torch.equal(tokens, kept)
    assert torch.equal(written, naive_left_to_right(model, tokens))
    assert torch.equal(written[tokens != MASK], tokens[tokens != MASK])
    columns = torch.nonzero((tokens == MASK).any(0)).flatten().numpy()
    commit = run.data["commit_step"].values
    assert (commit == np.where(tokens == MASK, np.searchsorted(columns, np.arange(40)) + 1, 0)).all()
    logits = model.logits(written).index_fill(-1, torch.tensor([MASK]), -torch.inf)
    chosen = logits.log_softmax(-1).exp().gather(-1, written[..., None])[..., 0].numpy()
    for sample, position in np.argwhere(tokens.numpy() == MASK):
        said = run.data["confidence"].values[sample, :, position]
        assert np.flatnonzero(np.isfinite(said)).tolist() == [commit[sample, position]]
        assert said[commit[sample, position]] == pytest.approx(chosen[sample, position], abs=1e-5)
    with pytest.raises(TrajectoryError, match="decoded by 'left_to_right', which is no policy here"):
        run.at(1).resume(model)


def test_a_draw_left_to_right_does_not_depend_on_the_batch(tiny_model: Callable[..., Any]) -> None:
    model, tokens = tiny_model("causal"), torch.tensor([[3, MASK, MASK, 4, MASK], [3, 1, 2, MASK, MASK]])
    asked = Decoding(temperature=2.0, top_p=0.9, seed=1)
    together = write_left_to_right(model, tokens, asked).tokens(-1)
    for sample in (0, 1):
        alone = write_left_to_right(model, tokens[[sample]], asked, sample_ids=[sample]).tokens(-1)
        assert (alone[0] == together[sample]).all()


def test_left_to_right_leaves_a_finished_text_alone(tiny_model: Callable[..., Any]) -> None:
    tokens = torch.tensor([[1, 2, 3]])
    assert torch.equal(torch.from_numpy(write_left_to_right(tiny_model("causal"), tokens).tokens(-1)), tokens)


def test_left_to_right_refuses_what_it_cannot_write(tiny_model: Callable[..., Any]) -> None:
    with pytest.raises(PromptError, match=r"tiny is a masked model.*policy `sequential`"):
        write_left_to_right(tiny_model(), prompts(1, 5))
    with pytest.raises(PromptError, match="first position is to be written"):
        write_left_to_right(tiny_model("causal"), torch.tensor([[MASK, 1]]))
    with pytest.raises(PromptError, match="reads at most 163"):
        write_left_to_right(tiny_model("causal"), prompts(1, 164))


@pytest.mark.parametrize("run", [write_left_to_right, write])
@pytest.mark.parametrize("name", ["steps", "block_length", "guidance", "stop"])
def test_a_causal_model_refuses_what_it_cannot_heed(run: Callable[..., Any], name: str, tiny_model: Callable[..., Any]) -> None:
    model, tokens = tiny_model("causal"), torch.tensor([[3, MASK, MASK, 4, MASK]])
    value = {"stop": Stopping(), "guidance": 1.0}.get(name, 1)
    with pytest.raises(PolicyError, match=rf"{name} is .*, and tiny is a causal model: .* heeds temperature, top_p and seed alone"):
        run(model, tokens, Decoding(**{name: value}))
    run(model, tokens, Decoding("ddpm", {"calls": 3}, temperature=1.0, top_p=0.5, seed=3))
