"""Turns with given or random scores, as a policy is told of them."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models.turn import Scores, Turn

MASK = 11
Uniform = Callable[[], Tensor]


def streams(rows: range, pos: int, seed: int) -> Uniform:
    """Returns a source of uniform numbers in which each row has its own stream."""
    generators = [torch.Generator().manual_seed(1000 * seed + row) for row in rows]
    return lambda: torch.stack([torch.rand(pos, generator=generator) for generator in generators])


def always(*numbers: float) -> Uniform:
    return lambda: torch.tensor([numbers])


def turn_of(
    scores: Scores,
    masked: Any,
    *,
    step: Any = 1,
    steps: Any = None,
    writable: Any = None,
    tokens: Any = None,
    written_with: Any = None,
    uniform: Uniform | None = None,
) -> Turn:
    """Returns a turn in which everything writable is masked, unless said otherwise."""
    masked = torch.as_tensor(masked)
    batch, pos = masked.shape
    return Turn(
        scores,
        torch.where(masked, MASK, 0) if tokens is None else torch.as_tensor(tokens),
        masked,
        masked if writable is None else torch.as_tensor(writable),
        torch.full(masked.shape, math.nan) if written_with is None else torch.as_tensor(written_with),
        torch.as_tensor(step).expand(batch),
        None if steps is None else torch.as_tensor(steps).expand(batch),
        streams(range(batch), pos, 0) if uniform is None else uniform,
    )


def scores_of(logits: Tensor) -> Scores:
    """Returns what a prediction without the mask token says."""
    probabilities = logits.softmax(-1)
    best = probabilities.topk(2, dim=-1)
    entropy = -(probabilities * probabilities.log()).sum(-1)
    return Scores(best.indices[..., 0], best.values[..., 0], best.values[..., 0] - best.values[..., 1], entropy)


def some_turn(batch: int, pos: int, seed: int, *, step: Any = 1, steps: Any = None) -> Turn:
    """Returns a turn of random logits, where each row has something masked, something written and something to be left alone."""
    generator = torch.Generator().manual_seed(seed)
    masked = torch.rand(batch, pos, generator=generator) < 0.6
    masked[:, seed % pos] = True
    writable = masked | (torch.rand(batch, pos, generator=generator) < 0.5)
    written_with = torch.rand(batch, pos, generator=generator).masked_fill(masked | ~writable, math.nan)
    tokens = torch.randint(11, (batch, pos), generator=generator).masked_fill(masked, MASK)
    scores = scores_of(2 * torch.randn(batch, pos, 11, generator=generator))
    uniform = streams(range(batch), pos, seed)
    return turn_of(scores, masked, step=step, steps=steps, writable=writable, tokens=tokens, written_with=written_with, uniform=uniform)
