"""The causal counterpart of denoising: writing left to right."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from models.chance import CallNoise, drawn
from models.decoding import check_chance
from models.language_model import LanguageModel
from models.prompt import PromptError, check_tokens, padded


@torch.no_grad()
def write_left_to_right(
    model: LanguageModel,
    tokens: Int[Tensor, "batch pos"],
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    sample_ids: Sequence[int] | None = None,
    on_step: Callable[[int, int], None] = lambda done, left: None,
) -> Int[Tensor, "batch pos"]:
    """Returns ``tokens`` with every position that holds the task's mask token written left to right by a causal model.

    Positions already written are kept. Keys and values are cached, so a position costs one single-token call. The other arguments are
    those of ``models.decoding.Decoding`` and ``models.denoise.denoise``.

    Raises:
        PolicyError: On an impossible temperature, top-p or seed.
        PromptError: On a model that is not causal, a prompt it cannot read, or one whose first position is to be written.
    """
    if model.facts.objective != "causal":
        raise PromptError(f"{model.name} is a masked model; it is denoised, not written left to right (policy `sequential` does so)")
    check_tokens(model, padded(tokens))
    unwritten = tokens == model.task.mask_token_id
    if unwritten[:, 0].any():
        raise PromptError(f"the first position is to be written, and {model.name} predicts a token from those before it")
    check_chance(temperature, top_p, seed)
    ids = range(len(tokens)) if sample_ids is None else sample_ids
    canvas = tokens.clone()
    cache, read = None, 0
    positions = torch.nonzero(unwritten.any(0)).flatten().tolist()
    for done, position in enumerate(positions, start=1):
        out = model.module(input_ids=canvas[:, read:position].to(model.device), past_key_values=cache, use_cache=True)
        cache, read = out.past_key_values, position
        raw = out.logits[:, -1].float().index_fill(-1, torch.tensor([model.task.mask_token_id], device=model.device), -torch.inf)
        uniform = CallNoise(seed, ids, done, raw.device).for_tokens(range(len(raw)), raw.shape[1]) if temperature > 0 else None
        found = drawn(raw, uniform, temperature, top_p).to(canvas.device)
        canvas[:, position] = torch.where(unwritten[:, position], found, canvas[:, position])
        on_step(done, len(positions) - done)
    return canvas
