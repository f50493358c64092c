"""Tokens to denoise: what a model can read, and samples of different lengths side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from models.language_model import LanguageModel

PADDING = -1
"""Stands where a sample is over and a longer one is not; no network ever reads it."""


class PromptError(ValueError):
    """Tokens that cannot be denoised by the model at hand."""


def padded(tokens: Int[Tensor, "batch pos"] | Sequence[Int[Tensor, " _"]]) -> Int[Tensor, "batch pos"]:
    """Returns samples as one tensor, the shorter ones padded on the right.

    Raises:
        PromptError: On no samples, an empty one, or tensors of other shapes.
    """
    if isinstance(tokens, Tensor):
        if tokens.ndim != 2 or tokens.numel() == 0:
            raise PromptError(f"tokens have shape {tuple(tokens.shape)}; they must be (batch, pos) with at least one sample")
        return _whole(tokens)
    wrong = [tuple(one.shape) for one in tokens if one.ndim != 1 or len(one) == 0]
    if wrong or not len(tokens):
        raise PromptError(f"samples have shapes {wrong}; give at least one sample, each a row of at least one token")
    return torch.nn.utils.rnn.pad_sequence([_whole(one) for one in tokens], batch_first=True, padding_value=PADDING)


def _whole(tokens: Tensor) -> Tensor:
    if tokens.dtype.is_floating_point or tokens.dtype == torch.bool:
        raise PromptError(f"tokens are of the kind {tokens.dtype}; they must be whole numbers")
    return tokens.long()


def check_ids(sample_ids: Sequence[int], n_samples: int) -> None:
    """Raises PromptError where samples have no identity each, of whole numbers from 0."""
    if len(sample_ids) != n_samples:
        raise PromptError(f"there are {len(sample_ids)} sample_ids for {n_samples} samples; give one each")
    if not all(isinstance(one, int) and one >= 0 for one in sample_ids) or len(set(sample_ids)) < n_samples:
        raise PromptError(f"sample_ids are {list(sample_ids)[:8]}; they must be different whole numbers from 0")


def check_tokens(model: LanguageModel, tokens: Int[Tensor, "batch pos"]) -> None:
    """Raises PromptError where the model cannot read these tokens (``PADDING`` beyond the end of a sample is never read)."""
    config = model.module.config
    longest, vocabulary = int(config.max_position_embeddings), int(config.vocab_size)
    if tokens.shape[1] > longest:
        raise PromptError(f"the prompt has {tokens.shape[1]} positions; {model.name} reads at most {longest}")
    inside = tokens[torch.arange(tokens.shape[1], device=tokens.device) < (tokens != PADDING).sum(1)[:, None]]
    outside = inside[(inside < 0) | (inside >= vocabulary)]
    if len(outside):
        raise PromptError(f"the prompt holds the token {int(outside[0])}; the tokens of {model.name} are 0 to {vocabulary - 1}")


def check_prompts(model: LanguageModel, tokens: Int[Tensor, "batch pos"], sample_ids: Sequence[int]) -> int:
    """Returns the mask token's id, or raises the PromptError that says why these tokens cannot be denoised."""
    mask = model.facts.mask_token_id
    if mask is None:
        raise PromptError(f"{model.name} is a causal model: it has no mask token to denoise; use a masked (diffusion) model")
    check_tokens(model, tokens)
    empty = torch.nonzero(~(tokens == mask).any(1)).flatten().tolist()
    if empty:
        raise PromptError(f"samples {empty[:5]} have no masked position: there is nothing to write")
    check_ids(sample_ids, len(tokens))
    return mask
