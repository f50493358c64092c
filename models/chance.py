"""Random numbers of a run, and draws made of them: a sample's depend on the seed, its id and its call alone, never on its batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.turn import gumbel

_BELOW_1 = np.float32(1 - 2**-24)
"""The greatest number of single precision below 1."""


class CallNoise:
    """Uniform random numbers for one network call: each draw is new, and can be had again from (seed, sample, call, draw)."""

    def __init__(self, seed: int, sample_ids: Sequence[int], call: int, device: torch.device) -> None:
        self._seed, self._ids, self._call, self._device = seed, sample_ids, call, device
        self._draws = 0

    def _draw(self, draw: int, sample_ids: Sequence[int], shape: tuple[int, ...]) -> Tensor:
        """Returns numbers of 53 random bits, rounded to single precision: as fine near 0 as there, and below 1."""
        numbers = np.empty((len(sample_ids), *shape), np.float32)
        for row, sample in enumerate(sample_ids):
            numbers[row] = np.random.default_rng((self._seed, sample, self._call, draw)).random(shape)
        return torch.from_numpy(np.minimum(numbers, _BELOW_1, out=numbers)).to(self._device)

    def for_tokens(self, which: Sequence[int], *shape: int) -> Tensor:
        """Returns the numbers from 0 to below 1 that draw the proposals of some samples, of shape ``(sample, *shape)``."""
        return self._draw(0, [self._ids[row] for row in which], shape)

    def uniform(self, pos: int) -> Float[Tensor, "batch pos"]:
        """Returns numbers from 0 to below 1 for all samples, new ones every time."""
        self._draws += 1
        return self._draw(self._draws, self._ids, (pos,))


def nucleus(logits: Float[Tensor, "*batch vocab"], top_p: float) -> Float[Tensor, "*batch vocab"]:
    """Returns logits with all but the most probable tokens that together reach ``top_p`` at minus infinity; the best always stays."""
    probabilities, order = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
    beyond = probabilities.cumsum(-1) - probabilities >= top_p
    return logits.masked_fill(torch.zeros_like(beyond).scatter_(-1, order, beyond), -torch.inf)


def drawn(
    logits: Float[Tensor, "*batch vocab"], uniform: Float[Tensor, "*batch vocab"] | None, temperature: float, top_p: float
) -> Int[Tensor, "*batch"]:
    """Returns a token for each distribution: the most probable at temperature 0, else a draw from the tempered nucleus (Gumbel-max)."""
    if uniform is None:
        return logits.argmax(-1)
    tempered = logits / temperature
    kept = tempered if top_p == 1 else nucleus(tempered, top_p)
    return (kept + gumbel(uniform)).argmax(-1)
