"""Writing with either twin: left to right if it is causal, by denoising if it is masked."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from models.denoise import denoise, write_left_to_right
from models.language_model import LanguageModel


def write(
    model: LanguageModel,
    tokens: Int[Tensor, "batch pos"],
    *,
    policy: str = "random",
    steps: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    on_step: Callable[[int, int], None] = lambda done, left: None,
) -> Int[Tensor, "batch pos"]:
    """Returns ``tokens`` with every masked position written; ``policy`` and ``steps`` are for a masked model, the rest for both.

    Raises:
        PromptError: On tokens the model cannot read or with nothing to write.
        PolicyError: On an unknown policy, or an impossible temperature or budget.
    """
    if model.facts.objective == "causal":
        return write_left_to_right(model, tokens, temperature=temperature, seed=seed, on_step=on_step)
    run = denoise(model, tokens, policy=policy, steps=steps, temperature=temperature, seed=seed, on_step=on_step)
    return torch.from_numpy(run.tokens(-1))
