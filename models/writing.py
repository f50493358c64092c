"""Writing with either twin: left to right if it is causal, by denoising if it is masked."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from models.decoding import Decoding
from models.denoise import denoise
from models.language_model import LanguageModel
from models.left_to_right import write_left_to_right


def write(
    model: LanguageModel,
    tokens: Int[Tensor, "batch pos"],
    decoding: Decoding,
    *,
    on_step: Callable[[int, int], None] = lambda done, left: None,
) -> Int[Tensor, "batch pos"]:
    """Returns ``tokens`` with every masked position written; a causal model heeds temperature, top-p and seed of the decoding alone.

    Raises:
        PromptError: On tokens the model cannot read or with nothing to write.
        PolicyError: On a budget smaller than the number of blocks.
    """
    if model.facts.objective == "causal":
        temperature, top_p, seed = decoding.temperature, decoding.top_p, decoding.seed
        run = write_left_to_right(model, tokens, temperature=temperature, top_p=top_p, seed=seed, on_step=on_step)
    else:
        run = denoise(model, tokens, decoding, on_step=on_step)
    return torch.from_numpy(run.tokens(-1))
