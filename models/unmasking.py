"""Unmasking policies: which masked positions a denoising step writes.

A policy is a function of what the network just said (``Scores``), of how many positions it is this step's turn to write
(``quota``), and of per-sample random numbers (``noise``). It returns the positions to write. Its keyword-only arguments are its
options. To add one: write the function, add its line to ``POLICIES``.
"""

from __future__ import annotations

import inspect
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
    masked: Bool[Tensor, "batch pos"]
    """Where the canvas is still to be written."""


UnmaskingPolicy = Callable[..., Bool[Tensor, "batch pos"]]
"""``policy(scores, quota, noise, **options) -> positions to write``, a subset of ``scores.masked``."""


def _first_by(
    priority: Float[Tensor, "batch pos"], masked: Bool[Tensor, "batch pos"], quota: Int[Tensor, " batch"]
) -> Bool[Tensor, "batch pos"]:
    """Returns the ``quota`` masked positions of highest priority in each row; ties go to the leftmost."""
    order = priority.masked_fill(~masked, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    return (rank < quota[:, None]) & masked


def random(scores: Scores, quota: Int[Tensor, " batch"], noise: Float[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """Returns uniformly drawn positions: the ancestral order of masked diffusion (MDLM, 2406.07524; LLaDA ``random``)."""
    return _first_by(noise, scores.masked, quota)


def low_confidence(
    scores: Scores,
    quota: Int[Tensor, " batch"],
    noise: Float[Tensor, "batch pos"],  # noqa: ARG001 (the policy signature)
) -> Bool[Tensor, "batch pos"]:
    """Returns the most probable proposals (LLaDA, 2502.09992, algorithm 5; "top probability" in Kim et al., 2502.06768)."""
    return _first_by(scores.confidence, scores.masked, quota)


def topk_margin(
    scores: Scores,
    quota: Int[Tensor, " batch"],
    noise: Float[Tensor, "batch pos"],  # noqa: ARG001 (the policy signature)
) -> Bool[Tensor, "batch pos"]:
    """Returns the positions whose best token leads the second by most (Kim et al., 2502.06768, section 4.1; Dream ``topk_margin``)."""
    return _first_by(scores.margin, scores.masked, quota)


def entropy(
    scores: Scores,
    quota: Int[Tensor, " batch"],
    noise: Float[Tensor, "batch pos"],  # noqa: ARG001 (the policy signature)
) -> Bool[Tensor, "batch pos"]:
    """Returns the positions of lowest predictive entropy (Dream ``entropy``, 2508.15487)."""
    return _first_by(-scores.entropy, scores.masked, quota)


def sequential(
    scores: Scores,
    quota: Int[Tensor, " batch"],
    noise: Float[Tensor, "batch pos"],  # noqa: ARG001 (the policy signature)
) -> Bool[Tensor, "batch pos"]:
    """Returns the leftmost masked positions: an autoregressive model's order."""
    positions = torch.arange(scores.masked.shape[1], device=scores.masked.device, dtype=torch.float)
    return _first_by(-positions.expand(scores.masked.shape), scores.masked, quota)


def threshold(
    scores: Scores,
    quota: Int[Tensor, " batch"],
    noise: Float[Tensor, "batch pos"],  # noqa: ARG001 (the policy signature)
    *,
    threshold: float = 0.999,
) -> Bool[Tensor, "batch pos"]:
    """Returns every proposal at least as probable as ``threshold``, and always the best one (Fast-dLLM, 2505.22618, algorithm 1).

    It writes as many as are sure and ignores the quota, unless a step budget makes the quota larger than one.
    """
    if not 0 <= threshold <= 1:
        raise PolicyError(f"threshold is {threshold}; it must lie in 0 to 1")
    sure = (scores.confidence >= threshold) & scores.masked
    return sure | _first_by(scores.confidence, scores.masked, quota)


POLICIES: dict[str, UnmaskingPolicy] = {
    "random": random,
    "low_confidence": low_confidence,
    "topk_margin": topk_margin,
    "entropy": entropy,
    "threshold": threshold,
    "sequential": sequential,
}


def policy_options(name: str) -> dict[str, float]:
    """Returns the options of a policy with their defaults."""
    parameters = inspect.signature(POLICIES[name]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def resolve_policy(name: str, options: Mapping[str, float]) -> tuple[UnmaskingPolicy, dict[str, float]]:
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
