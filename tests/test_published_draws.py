"""Published samplers that draw tokens or positions, against ``denoise``: LLaDA, Fast-dLLM, SDAR, Dream, DiffusionGemma, and top-p.

The exact distribution over canvases after every step is enumerated and the run is held against it by chi-square; a wrong rate must be
rejected by the same test. Where a source and ``denoise`` differ on purpose, the reason stands beside the comparison.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from itertools import permutations
from math import inf
from typing import Any

import numpy as np
import pytest
from enumerated import MASK, SMALL, Kernel, Law, State, chi_square, independent, laws, sampled
from fake_networks import FakeNetwork

# ---------------------------------------------------------------- what the sources choose


def top(values: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-values, kind="stable")[:k]


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


def sdar_transfer(strategy: str, masked: np.ndarray, x0_p: np.ndarray, num: int, confidence_threshold: float) -> np.ndarray:
    """Which positions of a block its ``block_diffusion_generate`` transfers."""
    if strategy == "sequential":
        first = int(np.flatnonzero(masked).min())
        return np.arange(first, first + num)
    confidence = np.where(masked, x0_p, -inf)
    high_conf = np.flatnonzero(confidence > confidence_threshold)
    return high_conf if strategy == "low_confidence_dynamic" and len(high_conf) >= num else top(confidence, num)


def accept(p: np.ndarray, entropy_bound: float) -> np.ndarray:
    """Which positions DiffusionGemma's ``EntropyBoundSampler.accept_canvas`` accepts: EB-Sampler, 2505.24857."""
    token_entropy = -np.sum(p * np.log(np.where(p > 0, p, 1.0)), -1)
    order = np.argsort(token_entropy, kind="stable")
    before = np.cumsum(token_entropy[order]) - token_entropy[order]
    return order[before <= entropy_bound]


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


def dream_case(alg: str, temperature: float) -> Case:
    steps, length = (3, 3) if temperature else (2, 4)
    asked = {"steps": steps, "temperature": temperature}
    kernel = partial(dream_kernel, alg=alg, temperature=temperature, steps=steps)
    return Case(alg, lambda net, alg_temp: kernel(net, alg_temp=alg_temp), 0.4, 2.0, {"alg_temp": 0.4}, asked, length, steps)


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
