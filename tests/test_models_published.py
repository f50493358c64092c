"""The published samplers, written out from their public sources on a fixed network, against ``denoise``.

Samplers that draw nothing must agree canvas by canvas. Of those that draw, the exact distribution over canvases after every step is
enumerated and the run is held against it by chi-square, and a wrong rate must be rejected by the same test. Where a source and ``denoise``
differ on purpose, the reason stands beside the comparison.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from itertools import permutations, product
from math import inf, prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from models.decoding import Decoding, Stopping
from models.denoise import denoise
from models.facts import ModelFacts
from models.language_model import LanguageModel
from models.trajectory import Trajectory
from models.unmasking import POLICIES

LENGTH, VOCAB = 16, 12
SMALL = 4
"""Vocabulary of the networks whose runs are enumerated: three tokens and the mask."""


class FakeNetwork(LanguageModel):
    """A fixed network: the logits of a position depend on every token of the canvas, through random tables. The mask is the last token."""

    device = torch.device("cpu")
    fingerprint = "fake:0"

    def __init__(self, seed: int = 0, scale: float = 2.0, length: int = LENGTH, vocab: int = VOCAB) -> None:
        rng = np.random.default_rng(seed)
        self.name, self.mask = "fake", vocab - 1
        self.facts = ModelFacts(objective="masked", attention="full", logit_shift=0, mask_token_id=self.mask, task="sudoku")
        self.module = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=length, vocab_size=vocab))
        self.bias = scale * rng.normal(size=(length, vocab))
        self.pull = scale * rng.normal(size=(length, length, vocab, vocab))

    def numpy_logits(self, canvases: np.ndarray) -> np.ndarray:
        """Returns the logits of one canvas, or of a batch."""
        place = np.arange(canvases.shape[-1])
        return self.bias[place] + self.pull[place[:, None], place, canvases[..., None, :]].mean(-2)

    def logits(self, tokens: Tensor) -> Tensor:
        return torch.from_numpy(self.numpy_logits(tokens.numpy())).float()

    def softmax(self, logits: np.ndarray) -> np.ndarray:
        """Returns probabilities. The mask is never predicted (MDLM's "zero masking probabilities"; the others trust training)."""
        exponents = np.exp(logits - logits[..., : self.mask].max(-1, keepdims=True))
        exponents[..., self.mask] = 0
        return exponents / exponents.sum(-1, keepdims=True)

    def predict(self, x: Any, temperature: float = 1.0) -> np.ndarray:
        """Returns the probabilities of every position of one canvas."""
        return self.softmax(self.numpy_logits(np.asarray(x)) / temperature)


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
    network, tokens = FakeNetwork(seed), prompts(seed, LENGTH - prompt, first=prompt)
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
    network, tokens = FakeNetwork(seed), prompts(seed, masked=12)
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
    network, tokens = FakeNetwork(seed), prompts(seed, masked=8, first=8)
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


# ---------------------------------------------------------------- enumeration


Canvas = tuple[int, ...]
State = tuple[Canvas, tuple[float, ...]]
"""A canvas, and what the sampler remembers besides it."""
Kernel = Callable[[State, int], Iterator[tuple[State, float]]]
"""Yields the states that step i (from 0) leads to, and their probabilities; a state may come more than once."""
Law = dict[tuple[State, State], float]
"""Probabilities of what is before and after a step. (ReMDM's canvases alone are nearly those without re-masking: it keeps marginals.)"""
MASK = SMALL - 1


def laws(kernel: Kernel, start: Canvas, steps: int, memory: tuple[float, ...] = (), hidden: bool = False) -> list[Law]:
    """Returns the exact law of every step; without the memory where that is hidden."""
    now: dict[State, float] = {(start, memory): 1.0}
    found: list[Law] = []
    for i in range(steps):
        after: dict[State, float] = defaultdict(float)
        law: Law = defaultdict(float)
        for state, weight in now.items():
            for following, probability in kernel(state, i):
                if probability > 0:
                    after[following] += weight * probability
                    law[((state[0], ()), (following[0], ())) if hidden else (state, following)] += weight * probability
        assert sum(law.values()) == pytest.approx(1)
        now = after
        found.append(law)
    return found


def independent(rows: np.ndarray) -> Iterator[tuple[Canvas, float]]:
    """Yields every canvas whose positions are drawn from the rows of unnormalised probabilities (``_sample_categorical``)."""
    rows = rows / rows.sum(-1, keepdims=True)
    for canvas in product(*(np.flatnonzero(row).tolist() for row in rows)):
        yield canvas, prod(row[token] for row, token in zip(rows, canvas, strict=True))


def subs(network: FakeNetwork, x: Canvas) -> np.ndarray:
    """MDLM ``_subs_parameterization``: the prediction where masked, what is written where written."""
    return np.where(np.asarray(x)[:, None] == MASK, network.predict(x), np.eye(SMALL)[list(x)])


def chi_square(run: Trajectory, expected: list[Law], clocks: bool = False) -> float:
    """Returns the least p-value of the steps, corrected for their number; what is rare is pooled. ``clocks`` are memories, if asked for."""
    tokens, ticks, pvalues = run.data["token"].values, run.data["clock"].values, []
    for step, law in enumerate(expected, start=1):
        before, after = (
            [(tuple(canvas), (clock,) * clocks) for canvas, clock in zip(tokens[:, at].tolist(), ticks[:, at].tolist(), strict=True)]
            for at in (min(step - 1, run.n_steps), min(step, run.n_steps))
        )
        seen = Counter(zip(before, after, strict=True))
        if not seen.keys() <= law.keys():
            return 0.0
        common = [pair for pair, p in law.items() if p * len(before) >= 8]
        counts, means = [seen[pair] for pair in common], [law[pair] * len(before) for pair in common]
        rest = len(before) - sum(means)
        if rest > 1e-6:
            counts, means = [*counts, len(before) - sum(counts)], [*means, rest]
        pvalues.append(stats.chisquare(counts, means).pvalue if len(means) > 1 else 1.0)
    return min(1.0, min(pvalues) * len(pvalues))


def sampled(network: FakeNetwork, start: Canvas, policy: str, options: dict[str, Any], n: int = 3000, **asked: Any) -> Trajectory:
    return decode(network, np.tile(start, (n, 1)), policy, options, seed=3, **asked)


# ---------------------------------------------------------------- samplers that draw


def proposing(network: FakeNetwork, temperature: float, choose: Callable[[np.ndarray, np.ndarray, int], np.ndarray]) -> Kernel:
    """Draws a proposal for every masked position, and writes those that ``choose(masked, confidence, step)`` points out."""

    def kernel(state: State, i: int) -> Iterator[tuple[State, float]]:
        x = np.asarray(state[0])
        masked, p = np.flatnonzero(x == MASK), network.predict(x)
        for x0, probability in independent(network.predict(x, temperature)[masked]):
            index = choose(masked, p[masked, list(x0)], i) if len(masked) else masked
            after = x.copy()
            after[masked[index]] = np.asarray(x0, int)[index]
            yield (tuple(after.tolist()), ()), probability

    return kernel


def llada_kernel(network: FakeNetwork, temperature: float, block_length: int = 3) -> Kernel:
    """LLaDA with Gumbel noise of a temperature, which draws from the tempered softmax; one token a step."""

    def choose(masked: np.ndarray, x0_p: np.ndarray, i: int) -> np.ndarray:
        return top(np.where(masked // block_length == i // block_length, x0_p, -inf), 1)

    return proposing(network, temperature, choose)


def fast_dllm_kernel(network: FakeNetwork, temperature: float, count: Callable[[list[float]], int]) -> Kernel:
    """Fast-dLLM with the same noise, one block."""

    def choose(masked: np.ndarray, confidence: np.ndarray, i: int) -> np.ndarray:
        order = top(confidence, len(masked))
        return order[: count(confidence[order].tolist())]

    return proposing(network, temperature, choose)


def sdar_kernel(network: FakeNetwork, threshold: float) -> Kernel:
    """SDAR at its temperature of 1, one block, one token a step at least; its dynamic strategy, or the static one at no threshold."""
    strategy = "low_confidence_static" if threshold == inf else "low_confidence_dynamic"

    def choose(masked: np.ndarray, x0_p: np.ndarray, i: int) -> np.ndarray:
        return sdar_transfer(strategy, np.ones(len(masked), bool), x0_p, 1, threshold)

    return proposing(network, 1.0, choose)


def llada_random_kernel(network: FakeNetwork, lean: float, block_length: int = 2) -> Kernel:
    """LLaDA ``remasking="random"``, temperature 0, one token a step; another ``lean`` than 1 prefers positions to the right."""

    def kernel(state: State, i: int) -> Iterator[tuple[State, float]]:
        x = state[0]
        places = [place for place, token in enumerate(x) if token == MASK and place // block_length == i // block_length]
        best = network.predict(x).argmax(-1)
        for place in places:
            after = (*x[:place], int(best[place]), *x[place + 1 :])
            yield (after, ()), lean**place / sum(lean**other for other in places)

    return kernel


def dream_kernel(network: FakeNetwork, alg: str, alg_temp: float, temperature: float, steps: int) -> Kernel:
    """Dream with ``alg_temp``: positions come from ``multinomial(softmax(confidence / alg_temp))`` without replacement."""

    def kernel(state: State, i: int) -> Iterator[tuple[State, float]]:
        x = state[0]
        masked, p = [place for place, token in enumerate(x) if token == MASK], network.predict(x)
        k = dream_share(len(masked), i, steps, Fraction(0))
        drawn = p if temperature else np.eye(SMALL)[p.argmax(-1)]
        for x0, probability in independent(drawn[masked]):
            confidence = p[masked, list(x0)] if alg == "maskgit_plus" else dream_confidence(p, alg)[masked]
            weights = np.exp(confidence / alg_temp)
            for order in permutations(range(len(masked)), k):
                left, chance = weights.sum(), 1.0
                after = list(x)
                for j in order:
                    chance, left = chance * weights[j] / left, left - weights[j]
                    after[masked[j]] = x0[j]
                yield (tuple(after), ()), probability * chance

    return kernel


def dream_origin_kernel(network: FakeNetwork, rate: float, steps: int) -> Kernel:
    """Dream ``alg="origin"`` at temperature 1: every mask is lifted with probability 1 - s / t on its grid, at last with certainty."""
    timesteps = np.linspace(1, 1e-3, steps + 1)

    def kernel(state: State, i: int) -> Iterator[tuple[State, float]]:
        x = state[0]
        p_transfer = rate * (1 - timesteps[i + 1] / timesteps[i]) if i < steps - 1 else 1.0
        rows = p_transfer * network.predict(x) + (1 - p_transfer) * np.eye(SMALL)[MASK]
        for after, probability in independent(np.where(np.asarray(x)[:, None] == MASK, rows, np.eye(SMALL)[list(x)])):
            yield (after, ()), probability

    return kernel


def gemma_kernel(network: FakeNetwork, bound: float, steps: int, temperature: float) -> Kernel:
    """DiffusionGemma ``_denoising_step`` at t_min = t_max: accept what the bound allows, draw all else uniformly; at last the argmax."""

    def kernel(state: State, i: int) -> Iterator[tuple[State, float]]:
        p = network.predict(state[0])
        argmax_canvas = np.eye(SMALL)[p.argmax(-1)]
        rows = np.tile(np.arange(SMALL) != MASK, (len(p), 1)) / (SMALL - 1)
        accepted = accept(p, bound)
        rows[accepted] = (p if temperature else argmax_canvas)[accepted]
        for after, probability in independent(argmax_canvas if i == steps - 1 else rows):
            yield (after, ()), probability

    return kernel


# ---------------------------------------------------------------- MDLM and ReMDM


Update = Callable[[np.ndarray, np.ndarray, float, float, tuple[float, ...]], np.ndarray]
"""``update(p_x0, x, t, dt, conf)``: the unnormalised ``q_xs`` of its sampler. What comes out negative is never drawn."""


def ancestral(network: FakeNetwork, steps: int, update: Update) -> Kernel:
    """kuleshov-group/mdlm and remdm ``_sample``. Its grid ends at 1e-5, which leaves a mask once in 1e5, to ``noise_removal``."""
    timesteps, dt = np.linspace(1, 1e-5, steps + 1), (1 - 1e-5) / steps

    def kernel(state: State, i: int) -> Iterator[tuple[State, float]]:
        x, conf = state
        p_x0 = subs(network, x)
        for xs, probability in independent(np.maximum(update(p_x0, np.asarray(x), timesteps[i], dt, conf), 0)):
            after = xs
            if i == steps - 1:
                after = tuple(subs(network, xs).argmax(-1).tolist())
            yield (after, tuple(remembered(conf, x, xs, p_x0))), probability

    return kernel


def remembered(conf: tuple[float, ...], x: Canvas, xs: Canvas, p_x0: np.ndarray) -> Iterator[float]:
    """ReMDM's ``conf``, kept as bfloat16: less the probability a token was written with."""
    for place, value in enumerate(conf):
        if x[place] == MASK and xs[place] != MASK:
            yield float(torch.tensor(-p_x0[place, xs[place]], dtype=torch.bfloat16))
        else:
            yield -inf if xs[place] == MASK else value


def mdlm(rate: float) -> Update:
    """``_ddpm_update``, and ``_ddpm_caching_update``, which is the same but for the calls it saves."""

    def update(p_x0: np.ndarray, x: np.ndarray, t: float, dt: float, conf: tuple[float, ...]) -> np.ndarray:
        q_xs = rate * p_x0 * dt
        q_xs[:, MASK] = t - dt
        return np.where(x[:, None] == MASK, q_xs, p_x0)

    return update


def cached(kernel: Kernel, steps: int) -> Kernel:
    """The calls that ``ddpm_cache`` makes: while ``xs`` is ``x`` it keeps ``p_x0``. Remembers the clock, 0 again at the end."""

    def next_call(state: State, j: int) -> Iterator[tuple[State, float]]:
        canvas, (clock,) = state
        waiting = 1.0 if MASK in canvas else 0.0
        yield state, 1 - waiting
        for i in range(int(clock), steps):
            same = 0.0
            for (after, _), probability in kernel((canvas, ()), i):
                if after == canvas:
                    same += probability
                else:
                    yield (after, (i + 1 if MASK in after else 0,)), waiting * probability
            waiting *= same

    return next_call


def remasking(p_x0: np.ndarray, x: np.ndarray, alpha_t: float, alpha_s: float, sigma: Any) -> np.ndarray:
    """``q_xs`` of the remdm samplers."""
    sigma = np.broadcast_to(sigma, x.shape)
    q_xs = p_x0 * (1 - sigma[:, None])
    q_xs[:, MASK] = sigma
    q_xs_2 = p_x0 * ((alpha_s - (1 - sigma[:, None]) * alpha_t) / (1 - alpha_t))
    q_xs_2[:, MASK] = (1 - alpha_s - sigma * alpha_t) / (1 - alpha_t)
    return np.where(x[:, None] != MASK, q_xs, q_xs_2)


def remdm(sampler: str, eta: float) -> Update:
    """``remdm-cap``, ``remdm-rescale`` and ``remdm-conf`` (whose eta is 1: another one sharpens its softmax, to be found out)."""

    def update(p_x0: np.ndarray, x: np.ndarray, t: float, dt: float, conf: tuple[float, ...]) -> np.ndarray:
        alpha_t, alpha_s = 1 - t, 1 - (t - dt)
        most = (1 - alpha_s) / alpha_t if alpha_t > 0 else inf
        if sampler == "cap":
            return remasking(p_x0, x, alpha_t, alpha_s, min(eta, most))
        if sampler == "rescale":
            return remasking(p_x0, x, alpha_t, alpha_s, eta * min(1, most))
        exponents = np.exp(eta * np.where(x == MASK, 0.0, conf)) * (x != MASK)
        return remasking(p_x0, x, alpha_t, alpha_s, exponents / max(exponents.sum(), 1e-300) * min(1, most))

    return update


def remdm_loop(eta: float, t_on: float, t_off: float, alpha_on: float) -> Update:
    """``remdm-loop``."""

    def update(p_x0: np.ndarray, x: np.ndarray, t: float, dt: float, conf: tuple[float, ...]) -> np.ndarray:
        if t_off < t <= t_on:
            return remasking(p_x0, x, alpha_on, alpha_on, eta)
        if t > t_on:
            move_t, move_s = (1 - (1 - at) * alpha_on / (1 - t_on) for at in (t, t - dt))
        else:
            move_t, move_s = (at * (1 - alpha_on) / t_off for at in (t, t - dt))
        q_xs = p_x0 * (move_t - move_s)
        q_xs[:, MASK] = move_s
        return np.where(x[:, None] == MASK, q_xs, p_x0)

    return update


# ---------------------------------------------------------------- comparison of distributions


@dataclass(frozen=True)
class Case:
    """A policy that draws, and the kernel of its source at a rate: the right one, and a wrong one that must be told from it."""

    policy: str
    kernel: Callable[[FakeNetwork, float], Kernel]
    right: float
    wrong: float
    options: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)
    length: int = 3
    steps: int = 3
    """So many are compared."""
    scale: float = 1.5
    n: int = 3000

    def network(self) -> FakeNetwork:
        return FakeNetwork(seed=1, scale=self.scale, length=self.length, vocab=SMALL)

    def expected(self, rate: float) -> list[Law]:
        memory = {"remdm_conf": (-inf,) * self.length, "ddpm_cache": (0,)}.get(self.policy, ())
        return laws(self.kernel(self.network(), rate), (MASK,) * self.length, self.steps, memory, hidden=self.policy != "ddpm_cache")


def mdlm_case(policy: str, right: float, wrong: float, sampler: Callable[[float], Update], steps: int = 5, **more: Any) -> Case:
    asked = {"temperature": 1.0, "steps": steps}
    return Case(
        policy, lambda net, rate: ancestral(net, steps, sampler(rate)), right, wrong, asked=asked, steps=steps, **{"length": 2} | more
    )


def dream_case(alg: str, temperature: float) -> Case:
    steps, length = (3, 3) if temperature else (2, 4)
    asked = {"steps": steps, "temperature": temperature}
    kernel = partial(dream_kernel, alg=alg, temperature=temperature, steps=steps)
    return Case(alg, lambda net, alg_temp: kernel(net, alg_temp=alg_temp), 0.4, 2.0, {"alg_temp": 0.4}, asked, length, steps)


LOOP = {"t_on": 0.6001, "t_off": 0.2001, "alpha_on": 0.7}
"""Off the grid of ten steps by a hair, so that no step straddles a change of phase: there the source overshoots ``alpha_on``."""
CASES = {
    "LLaDA at a temperature": Case("low_confidence", llada_kernel, 1.7, 1.0, asked={"temperature": 1.7}),
    "LLaDA at a temperature, with blocks": Case(
        *("low_confidence", partial(llada_kernel, block_length=2), 0.6, 1.0),
        asked={"temperature": 0.6, "block_length": 2},
        length=4,
        steps=4,
    ),
    "LLaDA random, with blocks": Case("random", llada_random_kernel, 1.0, 1.3, asked={"block_length": 2}, length=4, steps=4),
    "Fast-dLLM threshold": Case(
        *("threshold", partial(fast_dllm_kernel, count=lambda c: threshold_count(c, 0.5)), 1.3, 0.9),
        options={"threshold": 0.5},
        asked={"temperature": 1.3},
    ),
    "Fast-dLLM factor": Case(
        *("factor", partial(fast_dllm_kernel, count=lambda c: factor_count(c, 1.0, always_last=False)), 1.3, 0.9),
        asked={"temperature": 1.3},
    ),
    "SDAR dynamic": Case("low_confidence_dynamic", sdar_kernel, 0.5, 0.8, {"threshold": 0.5}, {"temperature": 1.0}),
    "SDAR static": Case("low_confidence_static", sdar_kernel, inf, 0.5, asked={"temperature": 1.0}),
    "Dream origin": Case("ddpm", partial(dream_origin_kernel, steps=4), 1.0, 0.8, asked={"temperature": 1.0, "steps": 4}, steps=4),
    "MDLM ddpm": mdlm_case("ddpm", 1.0, 0.8, mdlm, length=3),
    "MDLM ddpm_cache": Case(
        *("ddpm_cache", lambda net, rate: cached(ancestral(net, 5, mdlm(rate)), 5), 1.0, 0.7),
        asked={"temperature": 1.0, "steps": 5},
    ),
    "ReMDM cap": mdlm_case("remdm_cap", 0.3, 0.15, partial(remdm, "cap"), options={"eta": 0.3}),
    "ReMDM rescale": mdlm_case("remdm_rescale", 0.4, 0.2, partial(remdm, "rescale"), options={"eta": 0.4}),
    "ReMDM conf": mdlm_case("remdm_conf", 1.0, 0.0, partial(remdm, "conf"), steps=4, scale=4.0, n=12000),
    "ReMDM loop": mdlm_case("remdm_loop", 0.25, 0.1, lambda eta: remdm_loop(eta, **LOOP), steps=10, options={"eta": 0.25, **LOOP}),
    "DiffusionGemma, greedy": Case(
        *("uniform_renoise", partial(gemma_kernel, steps=4, temperature=0.0), 0.5, 1.2),
        *({"entropy_bound": 0.5}, {"steps": 4}),
        steps=4,
    ),
    # Its last step gives the argmax whatever the temperature; ours writes the proposals, which are drawn: compared up to there.
    "DiffusionGemma, drawn": Case(
        *("uniform_renoise", partial(gemma_kernel, steps=4, temperature=1.0), 0.5, 1.2),
        *({"entropy_bound": 0.5}, {"steps": 4, "temperature": 1.0}),
    ),
    **{f"Dream {alg}, alg_temp": dream_case(alg, 0.0) for alg in ("maskgit_plus", "topk_margin", "entropy")},
    **{f"Dream {alg}, alg_temp and temperature": dream_case(alg, 1.0) for alg in ("maskgit_plus", "topk_margin", "entropy")},
}


@pytest.mark.parametrize("name", CASES)
def test_the_distribution_is_the_published_one(name: str) -> None:
    case = CASES[name]
    run = sampled(case.network(), (MASK,) * case.length, case.policy, case.options, case.n, **case.asked)
    clocks = case.policy == "ddpm_cache"
    assert chi_square(run, case.expected(case.right), clocks) > 1e-3
    assert chi_square(run, case.expected(case.wrong), clocks) < 1e-6


def nucleus(p: np.ndarray, top_p: float) -> np.ndarray:
    """Dream, SDAR and dLLM ``top_p_logits``: tokens in falling order, up to and with the one that passes ``top_p``."""
    order = np.argsort(-p, axis=-1)
    passed = np.cumsum(np.take_along_axis(p, order, -1), -1) > top_p
    passed = np.concatenate([np.zeros_like(passed[:, :1]), passed[:, :-1]], -1)
    removed = np.empty_like(passed)
    np.put_along_axis(removed, order, passed, -1)
    return np.where(removed, 0.0, p)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
@pytest.mark.parametrize(("top_p", "wrong"), [(0.3, 0.7), (0.6, 0.9), (0.9, 0.4)])
def test_top_p_is_the_published_one(temperature: float, top_p: float, wrong: float) -> None:
    # ReMDM leaves out the token that passes ``top_p`` (but never the first).
    network, start = FakeNetwork(seed=2, scale=1.0, length=3, vocab=SMALL), (MASK,) * 3
    run = sampled(network, start, "low_confidence", {}, steps=1, temperature=temperature, top_p=top_p)
    p = network.predict(start, temperature)

    def p_value(share: float) -> float:
        return chi_square(run, [{((start, ()), (after, ())): chance for after, chance in independent(nucleus(p, share))}])

    assert p_value(top_p) > 1e-3
    assert p_value(wrong) < 1e-6


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
    tests = "".join(Path(__file__).with_name(name).read_text() for name in ("test_models_denoise.py", Path(__file__).name))
    for policy, what in COMPARED.items():
        assert CASES[what].policy == policy if what in CASES else f"def {what}(" in tests, policy
