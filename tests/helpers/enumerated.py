"""The exact law of a sampler's every step, enumerated on a small fixed network, and chi-square of a run against it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import product
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from fake_networks import FakeNetwork
from scipy import stats

from models.decoding import Decoding
from models.denoise import denoise
from models.trajectory import Trajectory

SMALL = 4
"""Vocabulary of the networks whose runs are enumerated: three tokens and the mask."""
MASK, LENGTH = SMALL - 1, 3


def decode(network: FakeNetwork, tokens: np.ndarray, policy: str, options: dict[str, Any] | None = None, **asked: Any) -> Trajectory:
    return denoise(network, torch.from_numpy(tokens), Decoding(policy, options or {}, **asked))


Canvas = tuple[int, ...]
State = tuple[Canvas, tuple[float, ...]]
"""A canvas, and what the sampler remembers besides it."""
Kernel = Callable[[State, int], Iterator[tuple[State, float]]]
"""Yields the states that step i (from 0) leads to, and their probabilities; a state may come more than once."""
Law = dict[tuple[State, State], float]
"""Probabilities of what is before and after a step. (ReMDM's canvases alone are nearly those without re-masking: it keeps marginals.)"""


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
