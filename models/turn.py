"""What an unmasking policy is told and what it answers: ``Turn`` in, ``Move`` out.

Policies know nothing of networks, batches, blocks or records; the denoising loop knows nothing of policies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class PolicyError(ValueError):
    """An unknown policy, option or budget."""


@dataclass(frozen=True)
class Scores:
    """What one network call says about every position. Probabilities are of the untempered prediction, mask token excluded."""

    proposal: Int[Tensor, "batch pos"]
    """The token that would be written: the most probable one, or a drawn one where the run has a temperature."""
    confidence: Float[Tensor, "batch pos"]
    """Probability of the proposal."""
    margin: Float[Tensor, "batch pos"]
    """Probability of the best token less that of the second."""
    entropy: Float[Tensor, "batch pos"]
    """Entropy in nats."""


@dataclass(frozen=True)
class Turn:
    """All that a policy may know when it decides. Rows are samples; each has its own clock."""

    scores: Scores
    tokens: Int[Tensor, "batch pos"]
    """The canvas that was read."""
    masked: Bool[Tensor, "batch pos"]
    """Where it is unwritten and may be written now: within the current block of each row, if the run has blocks."""
    writable: Bool[Tensor, "batch pos"]
    """Where the run may write now at all, written or not: within the current block of each row."""
    written_with: Float[Tensor, "batch pos"]
    """The confidence each written token had when it was written; NaN where nothing was written by this run."""
    step: Int[Tensor, " batch"]
    """The step of each row's budget, counted from 1 (anew in every block)."""
    steps: Int[Tensor, " batch"] | None
    """The budget of steps of each row (in its current block), if there is one."""
    uniform: Callable[[], Float[Tensor, "batch pos"]]
    """Draws random numbers in 0 to 1, new ones every time, from each sample's own stream."""

    @property
    def quota(self) -> Int[Tensor, " batch"]:
        """How many positions it is this turn's share to write: one, or what is left spread evenly over the steps that are left."""
        left = self.masked.sum(1)
        return torch.ones_like(left) if self.steps is None else -(left // -(self.steps - self.step + 1).clamp(min=1))

    def total(self, unless_told: int) -> Int[Tensor, " batch"]:
        """Returns the number of steps of each row: its budget, or ``unless_told``."""
        return torch.full_like(self.step, unless_told) if self.steps is None else self.steps


@dataclass(frozen=True)
class Move:
    """What a turn does to the canvas. A row (or its block) is finished when nothing in it is masked, unless ``more`` says otherwise."""

    write: Bool[Tensor, "batch pos"]
    """Positions that take their proposal, masked or not."""
    remask: Bool[Tensor, "batch pos"] | None = None
    """Positions that are masked (again)."""
    redraw: Bool[Tensor, "batch pos"] | None = None
    """Positions that take a token drawn uniformly from the vocabulary, the mask token excluded."""
    more: Bool[Tensor, " batch"] | None = None
    """Rows that get another turn even where nothing is masked."""
    steps: Int[Tensor, " batch"] | None = None
    """How many steps of its budget each row used up by this move; one, unless told."""


Option = int | float
UnmaskingPolicy = Callable[..., Move]
"""``policy(turn, **options) -> move``, which touches writable positions only."""


def gumbel(uniform: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Returns standard Gumbel noise made of uniform numbers from 0 to below 1: great where they are near 0, where floats are finest."""
    return -torch.log(-torch.log1p(-uniform.clamp(min=2.0**-54)))


def first_by(priority: Float[Tensor, "batch pos"], among: Bool[Tensor, "batch pos"], n: Int[Tensor, " batch"]) -> Bool[Tensor, "batch pos"]:
    """Returns the ``n`` positions of highest priority ``among`` those of each row; ties go to the leftmost."""
    order = priority.masked_fill(~among, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    return (rank < n[:, None]) & among
