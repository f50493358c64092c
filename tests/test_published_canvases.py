"""Published samplers that draw nothing, written out from their public sources on a fixed network: ``denoise`` agrees canvas by canvas.

Where a source and ``denoise`` differ on purpose, the reason stands beside the comparison.
"""

from collections.abc import Callable
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_networks import LENGTH, VOCAB, FakeNetwork

from models.decoding import Decoding, Stopping
from models.denoise import denoise
from models.trajectory import Trajectory
from models.unmasking import POLICIES


def prompts(seed: int, masked: int, batch: int = 4, first: int = 0) -> np.ndarray:
    """Returns canvases with so many masks, at random places from ``first`` on."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, VOCAB - 1, (batch, LENGTH))
    for row in tokens:
        row[first + rng.permutation(LENGTH - first)[:masked]] = VOCAB - 1
    return tokens


def even(count: int, steps: int) -> list[int]:
    """LLaDA and SDAR ``get_num_transfer_tokens``."""
    base, remainder = divmod(count, steps)
    return [base + (i < remainder) for i in range(steps)]


def top(values: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-values, kind="stable")[:k]


def same_history(run: Trajectory, expected: list[list[np.ndarray]]) -> None:
    assert run.calls.tolist() == [len(history) - 1 for history in expected]
    for sample, history in enumerate(expected):
        np.testing.assert_array_equal(run.data["token"].values[sample, : len(history)], history)


def decode(network: FakeNetwork, tokens: np.ndarray, policy: str, options: dict[str, Any] | None = None, **asked: Any) -> Trajectory:
    return denoise(network, torch.from_numpy(tokens), Decoding(policy, options or {}, **asked))


# ---------------------------------------------------------------- LLaDA: blocks and guidance


def llada(network: FakeNetwork, x: np.ndarray, prompt: int, steps: int, block_length: int, cfg_scale: float = 0.0) -> list[np.ndarray]:
    """ML-GSAI/LLaDA ``generate``, ``remasking="low_confidence"``, temperature 0."""
    x, history, prompt_index = x.copy(), [x.copy()], x != network.mask
    num_blocks = (len(x) - prompt) // block_length
    for num_block in range(num_blocks):
        start = prompt + num_block * block_length
        end = start + block_length
        num_transfer_tokens = even(int((x[start:end] == network.mask).sum()), steps // num_blocks)
        for k in num_transfer_tokens:
            if k == 0:
                break  # the source still calls the network, and transfers nothing
            logits = network.numpy_logits(x)
            if cfg_scale > 0:
                un_logits = network.numpy_logits(np.where(prompt_index, network.mask, x))
                logits = un_logits + (cfg_scale + 1) * (logits - un_logits)
            p = network.softmax(logits)
            x0, x0_p = p.argmax(-1), p.max(-1)
            x0_p[end:] = -inf
            transfer_index = top(np.where(x == network.mask, x0_p, -inf), k)
            x[transfer_index] = x0[transfer_index]
            history.append(x.copy())
    return history


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("guidance", [0.0, 0.5, 2.0])
@pytest.mark.parametrize(("prompt", "block", "steps"), [(4, 12, 12), (4, 12, 5), (4, 4, 12), (4, 4, 6), (4, 3, 20), (5, 11, 3), (8, 2, 4)])
def test_low_confidence_is_lladas_with_blocks_and_guidance(seed: int, guidance: float, prompt: int, block: int, steps: int) -> None:
    network, tokens = FakeNetwork(seed, scale=2.0), prompts(seed, LENGTH - prompt, first=prompt)
    run = decode(network, tokens, "low_confidence", steps=steps, block_length=block, guidance=guidance)
    same_history(run, [llada(network, row, prompt, steps, block, guidance) for row in tokens])


# ---------------------------------------------------------------- Dream


def dream_confidence(p: np.ndarray, alg: str) -> np.ndarray:
    """What DreamLM/Dream ``sample_tokens`` compares, at temperature 0."""
    if alg == "topk_margin":
        ordered = np.sort(p, axis=-1)
        return np.asarray(ordered[:, -1] - ordered[:, -2])
    return np.asarray(np.sum(p * np.log(p + 1e-10), -1) if alg == "entropy" else p.max(-1))


def dream_share(masks: int, i: int, steps: int, eps: Fraction) -> int:
    """How many tokens its step i transfers, on ``timesteps = linspace(1, eps, steps + 1)``."""
    t, s = (1 - (1 - eps) * Fraction(j, steps) for j in (i, i + 1))
    return int(masks * (1 - s / t)) if i < steps - 1 else masks


def dream(network: FakeNetwork, x: np.ndarray, alg: str, steps: int, eps: Fraction) -> list[np.ndarray]:
    """DreamLM/Dream ``_sample``, ``alg_temp`` 0, temperature 0."""
    x, history = x.copy(), [x.copy()]
    for i in range(steps):
        mask_index = x == network.mask
        p = network.predict(x)
        transfer_index = top(np.where(mask_index, dream_confidence(p, alg), -inf), dream_share(int(mask_index.sum()), i, steps, eps))
        x[transfer_index] = p.argmax(-1)[transfer_index]
        history.append(x.copy())
    return history


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("alg", ["maskgit_plus", "topk_margin", "entropy"])
@pytest.mark.parametrize("steps", [None, 1, 2, 3, 4, 6])
def test_the_confidence_policies_are_dreams(seed: int, alg: str, steps: int | None) -> None:
    network, tokens = FakeNetwork(seed, scale=2.0), prompts(seed, masked=12)
    # Dream's grid ends at eps = 1e-3, so that its shares are rounded down to less (0 of 12 in the first of 12 steps); ours are even: eps 0.
    assert dream_share(12, 0, 12, Fraction(1, 1000)) == 0
    same_history(decode(network, tokens, alg, steps=steps), [dream(network, row, alg, steps or 12, Fraction(0)) for row in tokens])


# ---------------------------------------------------------------- Fast-dLLM


def threshold_count(confidence: list[float], threshold: float) -> int:
    """Its ``get_transfer_index``: of confidences in falling order, the first, and those that are not below the threshold."""
    return 1 + sum(not c < threshold for c in confidence[1:])


def factor_count(confidence: list[float], factor: float, always_last: bool = True) -> int:
    """Its ``get_transfer_index_dynamic``: as many as lead the list without falling below 1 - factor / (n + 1)."""
    threshs = [-1.0, *(1 - factor / (n + 1) for n in range(2, len(confidence) + 1))]
    below = [i for i, (c, least) in enumerate(zip(confidence, threshs, strict=True)) if c < least]
    top_i = below[0] if below else len(threshs) - 1
    if top_i == 0 or (top_i == len(threshs) - 1 and (always_last or not below)):
        top_i += 1
    return top_i


def fast_dllm(network: FakeNetwork, x: np.ndarray, prompt: int, block_length: int, count: Callable[[list[float]], int]) -> list[np.ndarray]:
    """NVlabs/Fast-dLLM ``generate`` (no cache), temperature 0."""
    x, history = x.copy(), [x.copy()]
    for start in range(prompt, len(x), block_length):
        end = start + block_length
        while (x[start:end] == network.mask).any():
            mask_index = x == network.mask
            mask_index[end:] = False
            p = network.predict(x)
            confidence = np.where(mask_index, p.max(-1), -inf)
            order = top(confidence, int(mask_index.sum()))
            transfer_index = order[: count(confidence[order].tolist())]
            x[transfer_index] = p.argmax(-1)[transfer_index]
            history.append(x.copy())
    return history


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("block", [3, 6, 12])
@pytest.mark.parametrize("value", [0.2, 0.6, 0.9, 1.0])
def test_threshold_is_fast_dllms_with_blocks(seed: int, block: int, value: float) -> None:
    network, tokens = FakeNetwork(seed, scale=4.0), prompts(seed, masked=12, first=4)
    run = decode(network, tokens, "threshold", {"threshold": value}, block_length=block)
    same_history(run, [fast_dllm(network, row, 4, block, lambda c: threshold_count(c, value)) for row in tokens])


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("block", [3, 6, 12])
@pytest.mark.parametrize("factor", [0.3, 0.8, 1.0, 1.6, 3.0])
def test_factor_is_fast_dllms(seed: int, block: int, factor: float) -> None:
    # Where only the last token of a block is below its bound, the source transfers it all the same; the paper's rule, and ours, do not.
    assert (factor_count([0.9, 0.1], factor=1.0), factor_count([0.9, 0.1], factor=1.0, always_last=False)) == (2, 1)
    network, tokens = FakeNetwork(seed, scale=4.0), prompts(seed, masked=12, first=4)
    run = decode(network, tokens, "factor", {"factor": factor}, block_length=block)
    same_history(run, [fast_dllm(network, row, 4, block, lambda c: factor_count(c, factor, always_last=False)) for row in tokens])


# ---------------------------------------------------------------- SDAR, and the entropy bound


def sdar_transfer(strategy: str, masked: np.ndarray, x0_p: np.ndarray, num: int, confidence_threshold: float) -> np.ndarray:
    """Which positions of a block its ``block_diffusion_generate`` transfers."""
    if strategy == "sequential":
        first = int(np.flatnonzero(masked).min())
        return np.arange(first, first + num)
    confidence = np.where(masked, x0_p, -inf)
    high_conf = np.flatnonzero(confidence > confidence_threshold)
    return high_conf if strategy == "low_confidence_dynamic" and len(high_conf) >= num else top(confidence, num)


def sdar(network: FakeNetwork, x: np.ndarray, strategy: str, block_length: int, denoising_steps: int, threshold: float) -> list[np.ndarray]:
    """JetAstra/SDAR ``block_diffusion_generate``, the tokens most probable instead of drawn; the network sees later blocks (as masks)."""
    x, history = x.copy(), [x.copy()]
    num_transfer_tokens = even(block_length, denoising_steps)
    for start in range(0, len(x), block_length):
        block = slice(start, start + block_length)
        for step in range(denoising_steps):
            if not (x[block] == network.mask).any():
                break
            p = network.predict(x)[block]
            index = sdar_transfer(strategy, x[block] == network.mask, p.max(-1), num_transfer_tokens[step], threshold)
            x[block][index] = p.argmax(-1)[index]
            history.append(x.copy())
    return history


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("strategy", ["sequential", "low_confidence_static"])
@pytest.mark.parametrize(("block", "steps"), [(4, 4), (4, 3), (4, 1), (8, 8), (8, 5), (2, 2)])
def test_the_fixed_schedules_are_sdars(seed: int, strategy: str, block: int, steps: int) -> None:
    network, tokens = FakeNetwork(seed, scale=2.0), prompts(seed, masked=8, first=8)
    run = decode(network, tokens, strategy, steps=steps * 8 // block, block_length=block)
    same_history(run, [sdar(network, row, strategy, block, steps, inf) for row in tokens])


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("block", [2, 4, 8])
@pytest.mark.parametrize("value", [0.2, 0.5, 0.85])
def test_low_confidence_dynamic_is_sdars(seed: int, block: int, value: float) -> None:
    # With fewer steps than positions the source goes on by its schedule after a large step, and overwrites tokens when that is too much.
    network, tokens = FakeNetwork(seed, scale=4.0), prompts(seed, masked=8, first=8)
    run = decode(network, tokens, "low_confidence_dynamic", {"threshold": value}, block_length=block)
    same_history(run, [sdar(network, row, "low_confidence_dynamic", block, block, value) for row in tokens])


def accept(p: np.ndarray, entropy_bound: float) -> np.ndarray:
    """Which positions DiffusionGemma's ``EntropyBoundSampler.accept_canvas`` accepts: EB-Sampler, 2505.24857."""
    token_entropy = -np.sum(p * np.log(np.where(p > 0, p, 1.0)), -1)
    order = np.argsort(token_entropy, kind="stable")
    before = np.cumsum(token_entropy[order]) - token_entropy[order]
    return order[before <= entropy_bound]


def eb_sampler(network: FakeNetwork, x: np.ndarray, bound: float) -> list[np.ndarray]:
    """The same rule among the masked positions, as the paper has it."""
    x, history = x.copy(), [x.copy()]
    while (x == network.mask).any():
        p, masked = network.predict(x), np.flatnonzero(x == network.mask)
        index = masked[accept(p[masked], bound)]
        x[index] = p.argmax(-1)[index]
        history.append(x.copy())
    return history


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bound", [0.0, 0.1, 0.7, 2.0, 100.0])
def test_entropy_bounded_is_the_eb_samplers(seed: int, bound: float) -> None:
    # SDAR's engine has the stricter rule: the sum up to and with the position itself stays below the bound.
    network, tokens = FakeNetwork(seed, scale=4.0), prompts(seed, masked=10)
    run = decode(network, tokens, "entropy_bounded", {"entropy_bound": bound})
    same_history(run, [eb_sampler(network, row, bound) for row in tokens])


# ---------------------------------------------------------------- LLaDA2.1: token editing


def llada21(network: FakeNetwork, x: np.ndarray, prompt: int, block_size: int, threshold: float, editing: float) -> list[np.ndarray]:
    """ZHZisZZ/dllm ``LLaDA21Sampler``, temperature 0; the network sees later blocks (as masks)."""
    x, history, max_post_steps, num_to_transfer = x.copy(), [x.copy()], 16, 1
    for start in range(prompt, len(x), block_size):
        block, post_steps = slice(start, start + block_size), 0
        while True:
            old = x[block].copy()
            active = old == network.mask
            post_steps += not active.any()
            if post_steps > max_post_steps:
                break
            p = network.predict(x)[block]
            tokens, probs = p.argmax(-1), p.max(-1)
            transfer = np.zeros_like(active)
            if active.any():
                transfer = (probs > threshold) & active
                if transfer.sum() < num_to_transfer:
                    transfer[top(np.where(active, probs, -inf), num_to_transfer)] = True
            edited = ~active & (probs > editing) & (tokens != old)
            x[block] = np.where(transfer | edited, tokens, old)
            history.append(x.copy())
            if not active.any() and not edited.any():
                break
    return history


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("block", [4, 12])
@pytest.mark.parametrize(("threshold", "editing"), [(0.95, 0.9), (0.7, 0.5), (0.5, 0.99), (0.3, 0.0)])
def test_token_editing_is_llada21s(seed: int, block: int, threshold: float, editing: float) -> None:
    network, tokens = FakeNetwork(seed, scale=4.0), prompts(seed, masked=12, first=4)
    run = decode(network, tokens, "token_editing", {"threshold": threshold, "editing_threshold": editing}, block_length=block)
    same_history(run, [llada21(network, row, 4, block, threshold, editing) for row in tokens])


# ---------------------------------------------------------------- DiffusionGemma: stopping


def stopped(network: FakeNetwork, x: np.ndarray, prompt: int, block_length: int, stability: int, confidence: float) -> list[np.ndarray]:
    """One most probable token a step, until huggingface/transformers ``StableAndConfidentStoppingCriteria`` returns the argmax canvas."""
    x, history = x.copy(), [x.copy()]
    for start in range(prompt, len(x), block_length):
        block = slice(start, start + block_length)
        argmax_history = np.full((stability, block_length), -1)  # reset with every canvas: a block
        while (x[block] == network.mask).any():
            masked, p = x[block] == network.mask, network.predict(x)[block]
            argmax_canvas = np.where(masked, p.argmax(-1), x[block])
            stable = (argmax_history == argmax_canvas).all()
            argmax_history = np.concatenate([argmax_history[1:], argmax_canvas[None]])
            # There every position is open to the last; here the written ones are settled, and the mean is over the masked.
            confident = -np.sum(p * np.log(np.where(p > 0, p, 1.0)), -1)[masked].mean() < confidence
            written = np.flatnonzero(masked) if stable and confident else top(np.where(masked, p.max(-1), -inf), 1)
            x[block][written] = argmax_canvas[written]
            history.append(x.copy())
    return history


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("block", [4, 12])
@pytest.mark.parametrize("stable", [1, 3])
@pytest.mark.parametrize("entropy", [0.005, 0.3, 0.8, 5.0])
def test_stopping_is_diffusion_gemmas(seed: int, block: int, stable: int, entropy: float) -> None:
    network, tokens = FakeNetwork(seed, scale=4.0), prompts(seed, masked=12, first=4)
    run = decode(network, tokens, "low_confidence", stop=Stopping(stable=stable, entropy=entropy), block_length=block)
    same_history(run, [stopped(network, row, 4, block, stable, entropy) for row in tokens])


# ---------------------------------------------------------------- all of them


COMPARED = {
    "random": "LLaDA random, with blocks",
    "low_confidence": "test_low_confidence_is_lladas_with_blocks_and_guidance",
    "maskgit_plus": "test_the_confidence_policies_are_dreams",
    "topk_margin": "test_the_confidence_policies_are_dreams",
    "entropy": "test_the_confidence_policies_are_dreams",
    "threshold": "test_threshold_is_fast_dllms_with_blocks",
    "factor": "test_factor_is_fast_dllms",
    "sequential": "test_the_fixed_schedules_are_sdars",
    "low_confidence_static": "test_the_fixed_schedules_are_sdars",
    "low_confidence_dynamic": "test_low_confidence_dynamic_is_sdars",
    "entropy_bounded": "test_entropy_bounded_is_the_eb_samplers",
    "ddpm": "MDLM ddpm",
    "ddpm_cache": "MDLM ddpm_cache",
    "mgdm": "test_mgdm_is_the_published_one",
    "remdm_cap": "ReMDM cap",
    "remdm_rescale": "ReMDM rescale",
    "remdm_conf": "ReMDM conf",
    "remdm_loop": "ReMDM loop",
    "token_editing": "test_token_editing_is_llada21s",
    "uniform_renoise": "DiffusionGemma, greedy",
}


def test_every_policy_is_compared_with_its_source() -> None:
    assert COMPARED.keys() == POLICIES.keys()
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_published_*.py"))
    for policy, what in COMPARED.items():
        assert f"def {what}(" in tests or f'    "{what}": ' in tests, policy
