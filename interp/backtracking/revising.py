"""What a policy takes back in one call, and whether activations pushed towards doubt make it take back more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.backends import Edit
from models.denoise import score
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from models.turn import Scores, Turn
from models.unmasking import POLICIES, policy_options

DECIDERS = ("token_editing", "mgdm")
"""Policies whose revisions depend on what the very call says of written tokens, and on nothing that is drawn."""
LOG_P, OTHER = "minus log-probability of the digit", "another digit is likeliest"


def taken_back(
    logits: Float[Tensor, "canvas pos vocab"],
    tokens: Int[Tensor, "canvas pos"],
    asked: Bool[Tensor, "canvas pos"],
    mask_id: int,
    policy: str,
) -> Bool[Tensor, "canvas pos"]:
    """Returns which written tokens a policy, at its defaults, changes or masks in a call with these logits, greedily.

    Its clock stands where the share of the asked positions that is written would have it: of mgdm's 20 calls, that share is over.
    """
    logits = logits.index_fill(-1, torch.tensor([mask_id]), -torch.inf)
    masked = asked & (tokens == mask_id)
    options = policy_options(policy)
    step = (asked & ~masked).sum(1) * int(options.get("calls", 0)) // asked.sum(1) + 1
    scores = Scores(**score(logits, logits.argmax(-1)))
    turn = Turn(scores, tokens, masked, asked, torch.full_like(scores.confidence, torch.nan), step, None, lambda: torch.zeros(tokens.shape))
    move = POLICIES[policy](turn, **options)
    after = torch.where(move.write, scores.proposal, tokens)
    if move.remask is not None:
        after = after.masked_fill(move.remask, mask_id)
    return asked & ~masked & (after != tokens)


@dataclass(frozen=True, eq=False)
class Direction:
    """Where activations are pushed: one vector a canvas, so many positions before the pushed token."""

    point: HookPoint
    back: int
    vectors: Float[Tensor, "canvas d_model"]


@dataclass(frozen=True)
class Targets:
    """One written token a canvas, to be pushed."""

    tokens: Int[Tensor, "canvas pos"]
    asked: Bool[Tensor, "canvas pos"]
    position: Int[Tensor, " canvas"]


@torch.no_grad()
def revised(model: LanguageModel, targets: Targets, direction: Direction | None, dose: float) -> dict[str, Float[Tensor, " canvas"]]:
    """Returns what becomes of each target in a call with its activation moved by ``dose`` times a vector; None moves nothing.

    That is minus its log-probability, whether another token is likeliest, and whether each policy of ``DECIDERS`` takes it back.
    """
    row, mask_id = torch.arange(len(targets.tokens)), model.task.mask_token_id

    def edit(activation: Tensor) -> Tensor:
        assert direction is not None
        edited = activation.clone()
        edited[row, targets.position - direction.back] += dose * direction.vectors.to(edited.dtype)
        return edited

    edits: Mapping[HookPoint, Edit] = {} if direction is None else {direction.point: edit}
    with model.hooks(edits):
        logits = model.logits(targets.tokens).index_fill(-1, torch.tensor([mask_id]), -torch.inf)
    written = targets.tokens[row, targets.position]
    here = logits[row, targets.position].log_softmax(-1)
    found = {LOG_P: -here[row, written], OTHER: (here.argmax(-1) != written).float()}
    for policy in DECIDERS:
        found[policy] = taken_back(logits, targets.tokens, targets.asked, mask_id, policy)[row, targets.position].float()
    return found
