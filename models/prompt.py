"""Tokens to denoise: what a model can read, and samples of different lengths side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from models.language_model import LanguageModel
from models.network import PADDING
from models.numerals import wholes


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
    if not isinstance(tokens, Sequence) or not all(isinstance(one, Tensor) for one in tokens):
        kind = f"{type(tokens).__name__}" + (f" of {type(tokens[0]).__name__}" if isinstance(tokens, Sequence) else "")
        raise PromptError(f"tokens are a {kind}; they must be a torch tensor (batch, pos), or a list of rows, each a tensor")
    wrong = [tuple(one.shape) for one in tokens if one.ndim != 1 or len(one) == 0]
    if wrong or not len(tokens):
        raise PromptError(f"samples have shapes {wrong}; give at least one sample, each a row of at least one token")
    return torch.nn.utils.rnn.pad_sequence([_whole(one) for one in tokens], batch_first=True, padding_value=PADDING)


def _whole(tokens: Tensor) -> Tensor:
    if tokens.dtype.is_floating_point or tokens.dtype.is_complex or tokens.dtype == torch.bool:
        raise PromptError(f"tokens are of the kind {tokens.dtype}; they must be whole numbers")
    return tokens.long()


def identities(sample_ids: Sequence[int] | None, n_samples: int) -> tuple[int, ...]:
    """Returns the identity of each sample, its row number unless given.

    Raises:
        PromptError: Where they are not different whole numbers from 0, one a sample.
    """
    if sample_ids is None:
        return tuple(range(n_samples))
    found = wholes("sample_ids", sample_ids, PromptError, most=2**63 - 1)
    if len(found) != n_samples:
        raise PromptError(f"there are {len(found)} sample_ids for {n_samples} samples; give one each")
    if len(set(found)) < n_samples:
        raise PromptError(f"sample_ids are {list(found[:8])}; they must be different whole numbers from 0")
    return found


def check_tokens(model: LanguageModel, tokens: Int[Tensor, "batch pos"]) -> None:
    """Raises PromptError where the model cannot read these tokens (``PADDING`` beyond the end of a sample is never read)."""
    longest, vocabulary = model.longest, int(model.module.config.vocab_size)
    length = int((tokens != PADDING).sum(1).max())
    if length > longest:
        raise PromptError(f"the prompt has {length} positions; {model.name} reads at most {longest}")
    if (tokens[:, 0] == PADDING).any():
        raise PromptError("a prompt begins with PADDING; prompts to write into are padded on the right, or given as a list")
    inside = tokens[torch.arange(tokens.shape[1], device=tokens.device) < (tokens != PADDING).sum(1)[:, None]]
    outside = inside[(inside < 0) | (inside >= vocabulary)]
    if len(outside):
        raise PromptError(f"the prompt holds the token {int(outside[0])}; the tokens of {model.name} are 0 to {vocabulary - 1}")


def check_prompts(model: LanguageModel, tokens: Int[Tensor, "batch pos"]) -> int:
    """Returns the mask token's id, or raises the PromptError that says why these tokens cannot be denoised."""
    mask = model.facts.mask_token_id
    if mask is None:
        raise PromptError(f"{model.name} is a causal model: it has no mask token to denoise; use a masked (diffusion) model")
    check_tokens(model, tokens)
    empty = torch.nonzero(~(tokens == mask).any(1)).flatten().tolist()
    if empty:
        raise PromptError(f"samples {empty[:5]} have no masked position: there is nothing to write")
    return mask
