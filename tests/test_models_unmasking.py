"""Every policy alone: which positions it takes from given scores."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.denoise import score
from models.unmasking import POLICIES, PolicyError, Scores, policy_options, resolve_policy


def some_scores(batch: int, pos: int, seed: int, *, confidence: Any = None) -> Scores:
    """Returns scores of random logits, where each row has something masked."""
    generator = torch.Generator().manual_seed(seed)
    masked = torch.rand(batch, pos, generator=generator) < 0.6
    masked[:, seed % pos] = True
    found = score(2 * torch.randn(batch, pos, 12, generator=generator), masked, 11)
    return found if confidence is None else Scores(found.proposal, torch.tensor(confidence), found.margin, found.entropy, masked)


@pytest.mark.parametrize("name", POLICIES)
@given(batch=st.integers(1, 4), pos=st.integers(1, 9), quota=st.integers(1, 12), seed=st.integers(0, 999))
def test_a_policy_takes_masked_positions_and_at_least_its_quota(name: str, batch: int, pos: int, quota: int, seed: int) -> None:
    scores = some_scores(batch, pos, seed)
    noise = torch.rand(batch, pos, generator=torch.Generator().manual_seed(seed))
    chosen = POLICIES[name](scores, torch.full((batch,), quota), noise)
    assert not (chosen & ~scores.masked).any()
    least = torch.minimum(scores.masked.sum(1), torch.tensor(quota))
    if name == "threshold":
        assert (chosen.sum(1) >= least).all()
    else:
        assert torch.equal(chosen.sum(1), least)


ORDERS = {
    "random": lambda scores, noise: noise,
    "low_confidence": lambda scores, noise: scores.confidence,
    "topk_margin": lambda scores, noise: scores.margin,
    "entropy": lambda scores, noise: -scores.entropy,
    "sequential": lambda scores, noise: -torch.arange(float(scores.masked.shape[1])).expand(scores.masked.shape),
    "threshold": lambda scores, noise: scores.confidence,
}


def test_every_policy_has_its_order_here() -> None:
    assert set(ORDERS) == set(POLICIES)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("seed", range(5))
def test_a_policy_takes_the_first_of_its_order(name: str, seed: int) -> None:
    scores = some_scores(3, 8, seed)
    noise = torch.rand(3, 8, generator=torch.Generator().manual_seed(seed))
    quota = torch.tensor([1, 2, 3])
    options = {"threshold": 1.0} if name == "threshold" else {}
    chosen = POLICIES[name](scores, quota, noise, **options)
    for row, order in enumerate(ORDERS[name](scores, noise)):
        masked = torch.nonzero(scores.masked[row]).flatten().tolist()
        best = sorted(masked, key=lambda position: -float(order[position]))[: int(quota[row])]
        assert torch.nonzero(chosen[row]).flatten().tolist() == sorted(best)


@pytest.mark.parametrize("name", ["low_confidence", "topk_margin", "entropy", "threshold"])
def test_ties_go_to_the_leftmost(name: str) -> None:
    flat = torch.full((1, 6), 0.5)
    masked = torch.tensor([[False, True, True, False, True, True]])
    chosen = POLICIES[name](Scores(torch.zeros(1, 6, dtype=torch.long), flat, flat, flat, masked), torch.tensor([2]), torch.zeros(1, 6))
    assert torch.nonzero(chosen[0]).flatten().tolist() == [1, 2]


def test_threshold_takes_all_that_are_sure_and_the_best_where_none_is() -> None:
    confidence = torch.tensor([[0.95, 0.2, 0.97, 0.9], [0.1, 0.4, 0.3, 0.2]])
    masked = torch.tensor([[True, True, True, True], [True, True, True, True]])
    scores = Scores(torch.zeros(2, 4, dtype=torch.long), confidence, confidence, confidence, masked)
    chosen = POLICIES["threshold"](scores, torch.ones(2, dtype=torch.long), torch.zeros(2, 4), threshold=0.95)
    assert chosen.tolist() == [[True, False, True, False], [False, True, False, False]]


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_threshold_outside_0_to_1_is_named(value: float) -> None:
    with pytest.raises(PolicyError, match=rf"threshold is {value}; it must lie in 0 to 1"):
        POLICIES["threshold"](some_scores(1, 3, 0), torch.tensor([1]), torch.zeros(1, 3), threshold=value)


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
    found = score(torch.from_numpy(logits), torch.ones(batch, pos, dtype=torch.bool), mask)
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
    assert (score(logits, torch.ones(1, 4, dtype=torch.bool), 11).proposal != 11).all()
    noise = 50 * torch.randn(1, 4, 12, generator=torch.Generator().manual_seed(0))
    assert (score(logits, torch.ones(1, 4, dtype=torch.bool), 11, noise).proposal != 11).all()


def test_noise_moves_the_proposal_and_not_the_probabilities() -> None:
    logits = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
    masked = torch.ones(2, 5, dtype=torch.bool)
    plain = score(logits, masked, 11)
    noisy = score(logits, masked, 11, 100 * torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(plain.proposal, noisy.proposal)
    assert torch.equal(plain.entropy, noisy.entropy)
    assert torch.equal(plain.margin, noisy.margin)
    kept = logits.index_fill(-1, torch.tensor([11]), -torch.inf)
    assert torch.allclose(noisy.confidence, kept.softmax(-1).gather(-1, noisy.proposal[..., None])[..., 0])
