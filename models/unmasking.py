"""Unmasking policies: what a denoising step writes, and what it masks again.

A policy is a function of a ``Turn``: what the network just said, and how far the run is. It returns a ``Move``. Its keyword-only
arguments are its options. To add one: write the function, add its line to ``POLICIES``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
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
    """The token that would be written."""
    confidence: Float[Tensor, "batch pos"]
    """Probability of the proposal."""
    margin: Float[Tensor, "batch pos"]
    """Probability of the best token less that of the second."""
    entropy: Float[Tensor, "batch pos"]
    """Entropy in nats."""


@dataclass(frozen=True)
class Turn:
    """All that a policy may know when it decides."""

    scores: Scores
    masked: Bool[Tensor, "batch pos"]
    """Where the canvas that was read is unwritten."""
    writable: Bool[Tensor, "batch pos"]
    """Where the run may write at all."""
    step: int
    """The network call, counted from 1."""
    steps: int | None
    """The budget of calls, if there is one."""
    uniform: Callable[[], Float[Tensor, "batch pos"]]
    """Draws random numbers in 0 to 1 from each sample's own generator."""

    @property
    def quota(self) -> Int[Tensor, " batch"]:
        """How many positions it is this turn's share to write: one, or what is left spread evenly over the calls that are left."""
        left = self.masked.sum(1)
        return torch.ones_like(left) if self.steps is None else -(left // -max(1, self.steps - self.step + 1))


@dataclass(frozen=True)
class Move:
    """What a turn does to the canvas; a sample is finished when nothing in it is masked, unless ``more`` calls it again."""

    write: Bool[Tensor, "batch pos"]
    """Positions that take their proposal."""
    remask: Bool[Tensor, "batch pos"] | None = None
    """Positions that are masked (again)."""
    more: bool = False
    """Whether the samples of this turn get another one even where nothing is masked."""

    def applied(self, canvas: Int[Tensor, "batch pos"], proposal: Int[Tensor, "batch pos"], mask_token_id: int) -> Int[Tensor, "batch pos"]:
        """Returns the canvas after the move."""
        written = torch.where(self.write, proposal, canvas)
        return written if self.remask is None else written.masked_fill(self.remask, mask_token_id)


Option = int | float
UnmaskingPolicy = Callable[..., Move]
"""``policy(turn, **options) -> move``, which touches writable positions only."""


def gumbel(uniform: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Returns standard Gumbel noise made of uniform numbers in 0 to 1."""
    return -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))


def _first_by(
    priority: Float[Tensor, "batch pos"], among: Bool[Tensor, "batch pos"], n: Int[Tensor, " batch"]
) -> Bool[Tensor, "batch pos"]:
    """Returns the ``n`` positions of highest priority ``among`` those of each row; ties go to the leftmost."""
    order = priority.masked_fill(~among, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    return (rank < n[:, None]) & among


def random(turn: Turn) -> Move:
    """Returns uniformly drawn positions: the ancestral order of masked diffusion (MDLM, 2406.07524; LLaDA ``random``)."""
    return Move(_first_by(turn.uniform(), turn.masked, turn.quota))


def low_confidence(turn: Turn) -> Move:
    """Returns the most probable proposals (LLaDA, 2502.09992, algorithm 5; "top probability" in Kim et al., 2502.06768)."""
    return Move(_first_by(turn.scores.confidence, turn.masked, turn.quota))


def topk_margin(turn: Turn) -> Move:
    """Returns the positions whose best token leads the second by most (Kim et al., 2502.06768, section 4.1; Dream ``topk_margin``)."""
    return Move(_first_by(turn.scores.margin, turn.masked, turn.quota))


def entropy(turn: Turn) -> Move:
    """Returns the positions of lowest predictive entropy (Dream ``entropy``, 2508.15487)."""
    return Move(_first_by(-turn.scores.entropy, turn.masked, turn.quota))


def sequential(turn: Turn) -> Move:
    """Returns the leftmost masked positions: an autoregressive model's order."""
    positions = torch.arange(turn.masked.shape[1], device=turn.masked.device, dtype=torch.float)
    return Move(_first_by(-positions.expand(turn.masked.shape), turn.masked, turn.quota))


def threshold(turn: Turn, *, threshold: float = 0.999) -> Move:
    """Returns every proposal at least as probable as ``threshold``, and always the best one (Fast-dLLM, 2505.22618, algorithm 1).

    It writes as many as are sure and ignores the quota, unless a step budget makes the quota larger than one.
    """
    if not 0 <= threshold <= 1:
        raise PolicyError(f"threshold is {threshold}; it must lie in 0 to 1")
    sure = (turn.scores.confidence >= threshold) & turn.masked
    return Move(sure | _first_by(turn.scores.confidence, turn.masked, turn.quota))


def mgdm(turn: Turn, *, calls: int = 20, noise: float = 0.0) -> Move:
    """Returns every position, predicted anew, but the least probable: these are masked again, fewer each call (MGDM, 2410.14157).

    Its ``topk_decoding`` with the linear schedule: of N writable positions, call s of T leaves N (T - s) / T masked, rounded down, so
    that a written token can be changed or taken back. T is the step budget or, without one, ``calls``. ``noise`` adds Gumbel noise of
    scale ``noise`` (T - s) / T to the log-probabilities compared; the published runs have 0.5, and 0 draws nothing. Of positions equally
    probable, the rightmost are masked (the published code may then mask fewer).
    """
    if calls < 1:
        raise PolicyError(f"calls is {calls}; it must be at least 1")
    if not 0 <= noise < math.inf:
        raise PolicyError(f"noise is {noise}; it must be 0 (none) or greater, and finite")
    total = calls if turn.steps is None else turn.steps
    left = max(0, total - turn.step)
    priority = turn.scores.confidence
    if noise:
        priority = priority.log() + noise * left / total * gumbel(turn.uniform())
    n = turn.writable.sum(1)
    kept = _first_by(priority, turn.writable, n - n * left // total)
    return Move(kept, turn.writable & ~kept, more=left > 0)


POLICIES: dict[str, UnmaskingPolicy] = {
    "random": random,
    "low_confidence": low_confidence,
    "topk_margin": topk_margin,
    "entropy": entropy,
    "threshold": threshold,
    "sequential": sequential,
    "mgdm": mgdm,
}


def policy_options(name: str) -> dict[str, Option]:
    """Returns the options of a policy with their defaults."""
    parameters = inspect.signature(POLICIES[name]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def resolve_policy(name: str, options: Mapping[str, Option]) -> tuple[UnmaskingPolicy, dict[str, Option]]:
    """Returns the policy and all its options, defaults filled in.

    Raises:
        PolicyError: On an unknown policy or option, naming the choices.
    """
    if name not in POLICIES:
        raise PolicyError(f"unknown policy {name!r}; choose from {', '.join(POLICIES)}")
    known = policy_options(name)
    for option in options:
        if option not in known:
            raise PolicyError(f"policy {name!r} has no option {option!r}; it has {', '.join(known) or 'none'}")
    return POLICIES[name], {**known, **options}
