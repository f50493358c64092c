"""Every policy alone: what it does with given scores."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.denoise import score
from models.unmasking import POLICIES, PolicyError, Scores, Turn, policy_options, resolve_policy


def turn_of(scores: Scores, masked: Any, *, step: int = 1, steps: int | None = None, writable: Any = None, noise: Any = None) -> Turn:
    """Returns a turn in which everything writable is masked, unless said otherwise."""
    masked = torch.as_tensor(masked)
    writable = masked if writable is None else writable
    drawn = torch.zeros(masked.shape) if noise is None else noise
    return Turn(scores, masked, writable, step, steps, lambda: drawn)


def some_turn(batch: int, pos: int, seed: int, *, step: int = 1, steps: int | None = None) -> Turn:
    """Returns a turn of random logits, where each row has something masked, something written and something to be left alone."""
    generator = torch.Generator().manual_seed(seed)
    masked = torch.rand(batch, pos, generator=generator) < 0.6
    masked[:, seed % pos] = True
    writable = masked | (torch.rand(batch, pos, generator=generator) < 0.5)
    found = score(2 * torch.randn(batch, pos, 12, generator=generator), 11)
    return turn_of(found, masked, step=step, steps=steps, writable=writable, noise=torch.rand(batch, pos, generator=generator))


FILLING = [name for name in POLICIES if name != "mgdm"]
"""Policies that write each masked position once and take nothing back."""
step_and_budget = st.tuples(st.integers(1, 12), st.none() | st.integers(1, 12))


@pytest.mark.parametrize("name", POLICIES)
@given(batch=st.integers(1, 4), pos=st.integers(1, 9), when=step_and_budget, seed=st.integers(0, 999))
def test_a_policy_touches_only_what_is_writable(name: str, batch: int, pos: int, when: tuple[int, int | None], seed: int) -> None:
    turn = some_turn(batch, pos, seed, step=when[0], steps=when[1])
    move = POLICIES[name](turn)
    assert not (move.write & ~turn.writable).any()
    if move.remask is not None:
        assert not (move.remask & ~turn.writable).any()
        assert not (move.remask & move.write).any()


@pytest.mark.parametrize("name", POLICIES)
@given(batch=st.integers(1, 4), pos=st.integers(1, 9), budget=st.integers(1, 12), late=st.integers(0, 3), seed=st.integers(0, 999))
def test_the_last_call_of_a_budget_leaves_nothing_masked(name: str, batch: int, pos: int, budget: int, late: int, seed: int) -> None:
    turn = some_turn(batch, pos, seed, step=budget + late, steps=budget)
    move = POLICIES[name](turn)
    assert not move.more
    assert not (move.applied(torch.where(turn.masked, 11, 0), turn.scores.proposal, 11) == 11).any()


@pytest.mark.parametrize("name", FILLING)
@given(batch=st.integers(1, 4), pos=st.integers(1, 9), when=step_and_budget, seed=st.integers(0, 999))
def test_a_filling_policy_takes_masked_positions_and_its_quota(
    name: str, batch: int, pos: int, when: tuple[int, int | None], seed: int
) -> None:
    turn = some_turn(batch, pos, seed, step=when[0], steps=when[1])
    move = POLICIES[name](turn)
    assert move.remask is None
    assert not move.more
    assert not (move.write & ~turn.masked).any()
    if name == "threshold":
        assert (move.write.sum(1) >= turn.quota).all()
    else:
        assert torch.equal(move.write.sum(1), turn.quota)


@given(masked=st.integers(1, 40), step=st.integers(1, 50), steps=st.none() | st.integers(1, 50))
def test_the_quota_is_what_is_left_over_the_calls_that_are_left(masked: int, step: int, steps: int | None) -> None:
    quota = int(turn_of(some_turn(1, 1, 0).scores, torch.ones(1, masked, dtype=torch.bool), step=step, steps=steps).quota)
    calls_left = None if steps is None else max(1, steps - step + 1)
    assert quota == (1 if calls_left is None else math.ceil(masked / calls_left))


ORDERS = {
    "random": lambda turn: turn.uniform(),
    "low_confidence": lambda turn: turn.scores.confidence,
    "topk_margin": lambda turn: turn.scores.margin,
    "entropy": lambda turn: -turn.scores.entropy,
    "sequential": lambda turn: -torch.arange(float(turn.masked.shape[1])).expand(turn.masked.shape),
    "threshold": lambda turn: turn.scores.confidence,
}


def test_every_filling_policy_has_its_order_here() -> None:
    assert set(ORDERS) == set(FILLING)


@pytest.mark.parametrize("name", FILLING)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("steps", [None, 1, 2, 3])
def test_a_policy_takes_the_first_of_its_order(name: str, seed: int, steps: int | None) -> None:
    turn = some_turn(3, 8, seed, steps=steps)
    options = {"threshold": 1.0} if name == "threshold" else {}
    chosen = POLICIES[name](turn, **options).write
    for row, order in enumerate(ORDERS[name](turn)):
        masked = torch.nonzero(turn.masked[row]).flatten().tolist()
        best = sorted(masked, key=lambda position: -float(order[position]))[: int(turn.quota[row])]
        assert torch.nonzero(chosen[row]).flatten().tolist() == sorted(best)


@pytest.mark.parametrize("name", ["low_confidence", "topk_margin", "entropy", "threshold"])
def test_ties_go_to_the_leftmost(name: str) -> None:
    flat = torch.full((1, 6), 0.5)
    masked = torch.tensor([[False, True, True, False, True, True]])
    chosen = POLICIES[name](turn_of(Scores(torch.zeros(1, 6, dtype=torch.long), flat, flat, flat), masked, steps=2)).write
    assert torch.nonzero(chosen[0]).flatten().tolist() == [1, 2]


def sure_of(confidence: list[list[float]]) -> Scores:
    values = torch.tensor(confidence)
    return Scores(torch.zeros(values.shape, dtype=torch.long), values, values, values)


def test_threshold_takes_all_that_are_sure_and_the_best_where_none_is() -> None:
    scores = sure_of([[0.95, 0.2, 0.97, 0.9], [0.1, 0.4, 0.3, 0.2]])
    chosen = POLICIES["threshold"](turn_of(scores, torch.ones(2, 4, dtype=torch.bool)), threshold=0.95).write
    assert chosen.tolist() == [[True, False, True, False], [False, True, False, False]]


def test_mgdm_masks_the_least_probable_again_whether_or_not_they_were_written() -> None:
    scores = sure_of([[0.9, 0.1, 0.8, 0.3, 0.2, 0.05]])
    masked = torch.tensor([[True, False, True, False, False, False]])
    writable = torch.tensor([[True, True, True, True, True, False]])
    move = POLICIES["mgdm"](turn_of(scores, masked, step=2, steps=4, writable=writable))
    assert move.write.tolist() == [[True, False, True, True, False, False]]
    assert move.remask is not None
    assert move.remask.tolist() == [[False, True, False, False, True, False]]
    assert move.more
    canvas = torch.tensor([[11, 5, 11, 5, 5, 7]])
    assert move.applied(canvas, scores.proposal, 11).tolist() == [[0, 11, 0, 0, 11, 7]]


def test_mgdm_without_a_budget_takes_the_papers_20_calls() -> None:
    for step in range(1, 21):
        turn = some_turn(1, 9, 0, step=step)
        move = POLICIES["mgdm"](turn)
        assert int(move.write.sum()) == turn.writable.sum() - turn.writable.sum() * (20 - step) // 20
        assert move.more == (step < 20)
    assert POLICIES["mgdm"](some_turn(1, 9, 0, step=4), calls=4).more is False


def test_the_noise_of_mgdm_moves_what_is_masked_and_fades() -> None:
    turns = [some_turn(1, 9, 1, step=step, steps=1000) for step in (500, 500, 990)]
    quiet, loud, late = (POLICIES["mgdm"](turn, noise=noise).write for turn, noise in zip(turns, (0.0, 1e4, 0.5), strict=True))
    assert quiet.sum() == loud.sum()
    assert not torch.equal(quiet, loud)
    assert torch.equal(late, POLICIES["mgdm"](turns[2]).write)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calls": 0}, "calls is 0; it must be at least 1"),
        ({"noise": -1.0}, "noise is -1.0; it must be 0"),
        ({"noise": float("nan")}, "noise is nan; it must be 0"),
    ],
)
def test_a_bad_option_of_mgdm_is_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        POLICIES["mgdm"](some_turn(1, 3, 0), **options)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_threshold_outside_0_to_1_is_named(value: float) -> None:
    with pytest.raises(PolicyError, match=rf"threshold is {value}; it must lie in 0 to 1"):
        POLICIES["threshold"](some_turn(1, 3, 0), threshold=value)


def test_an_unknown_policy_or_option_names_the_choices() -> None:
    with pytest.raises(PolicyError, match=r"unknown policy 'greedy'; choose from random, low_confidence, topk_margin"):
        resolve_policy("greedy", {})
    with pytest.raises(PolicyError, match="policy 'threshold' has no option 'tau'; it has threshold"):
        resolve_policy("threshold", {"tau": 0.5})
    with pytest.raises(PolicyError, match="policy 'random' has no option 'k'; it has none"):
        resolve_policy("random", {"k": 1.0})


@pytest.mark.parametrize("name", POLICIES)
def test_options_are_filled_in(name: str) -> None:
    policy, options = resolve_policy(name, {})
    assert policy is POLICIES[name]
    assert options == policy_options(name)
    assert policy_options("threshold") == {"threshold": 0.999}
    assert policy_options("mgdm") == {"calls": 20, "noise": 0.0}


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
    mask = int(rng.integers(vocab))
    found = score(torch.from_numpy(logits), mask)
    kept = np.delete(logits.astype(np.float64), mask, axis=-1)
    p = np.exp(kept - kept.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    ordered = np.sort(p, axis=-1)
    tokens = np.delete(np.arange(vocab), mask)[kept.argmax(-1)]
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(p > 0, p * np.log(p), 0.0).sum(-1)
    assert (found.proposal.numpy() == tokens).all()
    np.testing.assert_allclose(found.confidence.numpy(), ordered[..., -1], atol=1e-5)
    np.testing.assert_allclose(found.margin.numpy(), ordered[..., -1] - ordered[..., -2], atol=1e-5)
    np.testing.assert_allclose(found.entropy.numpy(), entropy, atol=1e-4)
    assert all(torch.isfinite(getattr(found, name)).all() for name in ("confidence", "margin", "entropy"))


def test_the_mask_token_is_never_proposed_however_likely() -> None:
    logits = torch.zeros(1, 4, 12)
    logits[..., 11] = 1e6
    assert (score(logits, 11).proposal != 11).all()
    noise = 50 * torch.randn(1, 4, 12, generator=torch.Generator().manual_seed(0))
    assert (score(logits, 11, noise).proposal != 11).all()


def test_noise_moves_the_proposal_and_not_the_probabilities() -> None:
    logits = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
    plain = score(logits, 11)
    noisy = score(logits, 11, 100 * torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(plain.proposal, noisy.proposal)
    assert torch.equal(plain.entropy, noisy.entropy)
    assert torch.equal(plain.margin, noisy.margin)
    kept = logits.index_fill(-1, torch.tensor([11]), -torch.inf)
    assert torch.allclose(noisy.confidence, kept.softmax(-1).gather(-1, noisy.proposal[..., None])[..., 0])
