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
    decoding: Decoding | str,
    *,
    on_step: Callable[[int, int], None] = lambda done, left: None,
) -> Int[Tensor, "batch pos"]:
    """Returns ``tokens`` with every masked position written; a causal model writes left to right, whatever the policy.

    Raises:
        PromptError: On tokens the model cannot read or with nothing to write.
        PolicyError: On a budget smaller than the number of blocks, or what a causal model cannot heed.
    """
    run = (write_left_to_right if model.facts.objective == "causal" else denoise)(model, tokens, decoding, on_step=on_step)
    return torch.from_numpy(run.tokens(-1))
