"""A network with what is true of it and how it is laid out: what every forward pass goes through."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from models.architectures.base import Architecture
from models.facts import ModelFacts
from models.hookpoints import HookPoint

PADDING = -1
"""Stands where a sample is not and a longer one is; no network ever reads it."""
HIDDEN = -2
"""Stands where a model of any vocabulary could not look; a masked one reads its mask token there."""


class TokensError(ValueError):
    """Tokens that a network cannot read."""


@dataclass(frozen=True, eq=False)
class Network:
    """A Hugging Face network, its facts and its architecture."""

    module: PreTrainedModel
    facts: ModelFacts
    architecture: Architecture

    @property
    def points(self) -> tuple[HookPoint, ...]:
        """The hook points that its architecture gives a place for, in the order of the forward pass."""
        return self.architecture.points(int(self.module.config.num_hidden_layers))

    @property
    def longest(self) -> int:
        """Positions that it can read."""
        return int(self.module.config.max_position_embeddings) - self.architecture.first_position

    def visible(self, length: int) -> Bool[Tensor, "pos pos"]:
        """Returns which positions (columns) each position (rows) sees."""
        position = torch.arange(length, device=self.module.device)
        if self.facts.attention == "full":
            return torch.ones(length, length, dtype=torch.bool, device=position.device)
        block = position // (self.facts.block_size or 1)
        return block[None] <= block[:, None]

    def inputs(self, tokens: Int[Tensor, "batch pos"], *, explicit: bool = False) -> dict[str, Any]:
        """Returns what the network must be given to read ``tokens`` as its facts say: as few things as do.

        Args:
            tokens: Samples side by side; ``PADDING`` on the left or the right of those that are shorter.
            explicit: Whether the attention regime must be given as a mask though the network has it of itself.
        """
        self._check(tokens)
        there = tokens != PADDING
        ragged = not bool(there.all())
        if self.facts.mask_token_id is not None:
            tokens = tokens.masked_fill(tokens == HIDDEN, self.facts.mask_token_id)
        found: dict[str, Any] = {"input_ids": tokens.where(there, 0), **self._always}
        own = self.facts.attention in self.architecture.regimes and not (explicit and self.facts.attention != "causal")
        if ragged or self.architecture.first_position:  # or positions would be counted past tokens that look like padding
            found["position_ids"] = (there.cumsum(1) - 1).clamp_min(0) + self.architecture.first_position
        if ragged and own:
            found["attention_mask"] = there.long()
        elif not own:
            found["attention_mask"] = self._mask(there)
        return found

    def _check(self, tokens: Tensor) -> None:
        """Raises TokensError on what the network cannot read."""
        if tokens.ndim != 2 or tokens.numel() == 0 or tokens.dtype.is_floating_point:
            raise TokensError(f"tokens are {tuple(tokens.shape)} of {tokens.dtype}; they must be whole numbers, (batch, pos), at least one")
        size, lowest, highest = int(self.module.config.vocab_size), int(tokens.min()), int(tokens.max())
        least = PADDING if self.facts.mask_token_id is None else HIDDEN
        if highest >= size or lowest < least:
            wrong = highest if highest >= size else lowest
            raise TokensError(f"the tokens hold {wrong}; they must lie in 0 to {size - 1}, or be PADDING ({PADDING}) around a sample")
        if tokens.shape[1] > self.longest:
            raise TokensError(f"the tokens have {tokens.shape[1]} positions; the network reads at most {self.longest}")
        if lowest < 0:
            there = tokens != PADDING
            begins = there[:, 0].long() + (there[:, 1:] & ~there[:, :-1]).sum(1)
            if (begins != 1).any():
                raise TokensError(
                    f"sample {int((begins != 1).long().argmax())} is empty, or has PADDING inside; it belongs around a sample"
                )

    def _mask(self, there: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch one pos pos"]:
        """Returns the additive mask of the regime; a position that is padding sees itself, or its row would have no sum."""
        length = there.shape[1]
        first = (~there).long().cummin(1).values.sum(1)  # of left padding
        seen = self.visible(length)
        rows = []
        for begin, valid in zip(first.tolist(), there, strict=True):
            whole = torch.zeros_like(seen)
            whole[begin:, begin:] = seen[: length - begin, : length - begin]
            rows.append((whole & valid) | torch.eye(length, dtype=torch.bool, device=seen.device))
        dtype = self.module.dtype
        return torch.where(torch.stack(rows), 0.0, torch.finfo(dtype).min).to(dtype)[:, None]

    @cached_property
    def _always(self) -> dict[str, Any]:
        """What the network is told in every forward pass: to keep no cache, where it could."""
        return {"use_cache": False} if "use_cache" in inspect.signature(self.module.forward).parameters else {}

    def raw(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocab"]:
        """Returns the network's outputs as they come."""
        raw: Tensor = self.module(**self.inputs(tokens)).logits
        return raw
