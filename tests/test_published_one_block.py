"""The published samplers in their simplest form, one block and nothing drawn: ``denoise`` agrees canvas by canvas."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_networks import LENGTH, MASK, FakeNetwork, prompts

from models.decoding import Decoding
from models.denoise import denoise
from models.trajectory import Trajectory


def probabilities(network: FakeNetwork, canvas: np.ndarray) -> np.ndarray:
    logits = network.numpy_logits(canvas)
    logits[:, MASK] = -np.inf
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def llada(network: FakeNetwork, x: np.ndarray, steps: int) -> list[np.ndarray]:
    """LLaDA ``generate`` with ``remasking="low_confidence"``, one block, temperature 0, as published."""
    x = x.copy()
    base, remainder = divmod(int((x == MASK).sum()), steps)
    num_transfer_tokens = [base + (step < remainder) for step in range(steps)]
    history = [x.copy()]
    for k in num_transfer_tokens:
        if k == 0:
            break
        mask_index = x == MASK
        p = probabilities(network, x)
        x0 = p.argmax(-1)
        x0_p = p[np.arange(len(x)), x0]
        x0 = np.where(mask_index, x0, x)
        confidence = np.where(mask_index, x0_p, -np.inf)
        select_index = np.argsort(-confidence, kind="stable")[:k]
        x[select_index] = x0[select_index]
        history.append(x.copy())
    return history


def top_probability_margin(network: FakeNetwork, x: np.ndarray) -> list[np.ndarray]:
    """Kim et al., section 4.1: unmask argmax over masked i of |p(x_i = j1) - p(x_i = j2)|, its two most probable values."""
    x, history = x.copy(), [x.copy()]
    while (x == MASK).any():
        p = probabilities(network, x)
        certainty = {}
        for i in np.flatnonzero(x == MASK):
            j1, j2 = np.argsort(-p[i])[:2]
            certainty[i] = abs(p[i, j1] - p[i, j2])
        i = max(certainty, key=certainty.__getitem__)
        x[i] = p[i].argmax()
        history.append(x.copy())
    return history


def fast_dllm(network: FakeNetwork, x: np.ndarray, threshold: float) -> list[np.ndarray]:
    """Fast-dLLM, algorithm 1, one block: unmask all i with confidence at least the threshold, else the most confident."""
    x, history = x.copy(), [x.copy()]
    while (x == MASK).any():
        p = probabilities(network, x)
        confidence = {i: p[i].max() for i in np.flatnonzero(x == MASK)}
        unmask = [i for i, c in confidence.items() if c >= threshold] or [max(confidence, key=confidence.__getitem__)]
        for i in unmask:
            x[i] = p[i].argmax()
        history.append(x.copy())
    return history


def lowest_entropy(network: FakeNetwork, x: np.ndarray) -> list[np.ndarray]:
    """Dream's ``entropy``: unmask the position with the greatest sum of p log p."""
    x, history = x.copy(), [x.copy()]
    while (x == MASK).any():
        p = probabilities(network, x)
        certainty = {i: np.sum(p[i] * np.log(p[i] + 1e-10)) for i in np.flatnonzero(x == MASK)}
        i = max(certainty, key=certainty.__getitem__)
        x[i] = p[i].argmax()
        history.append(x.copy())
    return history


def left_to_right(network: FakeNetwork, x: np.ndarray) -> list[np.ndarray]:
    x, history = x.copy(), [x.copy()]
    for i in np.flatnonzero(x == MASK):
        x[i] = probabilities(network, x)[i].argmax()
        history.append(x.copy())
    return history


def same_history(run: Trajectory, expected: list[list[np.ndarray]]) -> None:
    assert run.calls.tolist() == [len(history) - 1 for history in expected]
    for sample, history in enumerate(expected):
        padded = history + [history[-1]] * (run.n_steps + 1 - len(history))
        np.testing.assert_array_equal(run.data["token"].values[sample], np.stack(padded))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("steps", [None, 1, 3, 5, 40])
def test_low_confidence_is_lladas(seed: int, steps: int | None) -> None:
    network, tokens = FakeNetwork(seed, scale=2.0), prompts(4, LENGTH, seed)
    expected = [llada(network, row, steps or int((row == MASK).sum())) for row in tokens.numpy()]
    same_history(denoise(network, tokens, Decoding("low_confidence", steps=steps)), expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("policy", "algorithm"), [("topk_margin", top_probability_margin), ("sequential", left_to_right), ("entropy", lowest_entropy)]
)
def test_a_policy_of_one_position_a_step_is_the_published_one(policy: str, algorithm: Callable[..., Any], seed: int) -> None:
    network, tokens = FakeNetwork(seed, scale=2.0), prompts(4, LENGTH, seed)
    same_history(denoise(network, tokens, policy), [algorithm(network, row) for row in tokens.numpy()])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9, 1.0])
def test_threshold_is_fast_dllms(seed: int, threshold: float) -> None:
    network, tokens = FakeNetwork(seed, scale=3.0), prompts(4, LENGTH, seed)
    run = denoise(network, tokens, Decoding("threshold", {"threshold": threshold}))
    same_history(run, [fast_dllm(network, row, threshold) for row in tokens.numpy()])
    assert json.loads(run.data.attrs["options"])["threshold"] == threshold


def mgdm(network: FakeNetwork, x: np.ndarray, steps: int) -> list[np.ndarray]:
    """MGDM's sampling with ``deterministic-linear``, as published: predict all, then mask the lowest scores again, fewer each time."""
    maskable = x == MASK
    xt, history = x.copy(), [x.copy()]
    for t in range(steps - 1, -1, -1):
        log_p = np.log(probabilities(network, xt))
        x0 = np.where(maskable, log_p.argmax(-1), xt)
        scores = np.where(maskable, log_p.max(-1), 1000.0)
        rate = t / steps
        cutoff_len = int(maskable.sum() * rate + 1e-9)
        lowest_k_mask = scores < np.sort(scores)[cutoff_len] if t > 0 else np.zeros_like(maskable)
        xt = np.where(lowest_k_mask, MASK, x0)
        history.append(xt)
    return history


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("steps", [None, 1, 2, 3, 7, 16, 40])
def test_mgdm_is_the_published_one(seed: int, steps: int | None) -> None:
    network, tokens = FakeNetwork(seed, scale=2.0), prompts(4, LENGTH, seed)
    with np.errstate(divide="ignore"):
        expected = [mgdm(network, row, steps or 20) for row in tokens.numpy()]
    same_history(denoise(network, tokens, Decoding("mgdm", steps=steps)), expected)
