"""The causal counterpart of denoising: writing left to right."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from models.chance import CallNoise, drawn
from models.decoding import check_chance
from models.denoise import score
from models.language_model import LanguageModel
from models.prompt import PromptError, check_ids, check_tokens, padded
from models.recorder import Recorder
from models.trajectory import Trajectory

LEFT_TO_RIGHT = "left_to_right"
"""What such a trajectory calls its policy."""


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
) -> Trajectory:
    """Returns the trajectory of writing every position that holds the task's mask token left to right with a causal model.

    Positions already written are kept. Keys and values are cached, so a position costs one single-token call; a step is a position that
    some sample writes. The other arguments are those of ``models.decoding.Decoding`` and ``models.denoise.denoise``.

    Raises:
        PolicyError: On an impossible temperature, top-p or seed.
        PromptError: On a model that is not causal, a prompt it cannot read, or one whose first position is to be written.
    """
    if model.facts.objective != "causal":
        raise PromptError(f"{model.name} is a masked model; it is denoised, not written left to right (policy `sequential` does so)")
    check_tokens(model, padded(tokens))
    if (tokens < 0).any():
        raise PromptError("the samples differ in length; a causal model is given samples of one length")
    if sample_ids is not None:
        check_ids(sample_ids, len(tokens))
    unwritten = tokens == model.task.mask_token_id
    if unwritten[:, 0].any():
        raise PromptError(f"the first position is to be written, and {model.name} predicts a token from those before it")
    check_chance(temperature, top_p, seed)
    ids = range(len(tokens)) if sample_ids is None else sample_ids
    canvas, mask = tokens.clone().to(model.device), model.task.mask_token_id
    recorder = Recorder(canvas.cpu().numpy(), unwritten.cpu().numpy(), mask, sample_ids=torch.tensor(ids).numpy())
    cache, read = None, 0
    positions = torch.nonzero(unwritten.any(0)).flatten().tolist()
    for done, position in enumerate(positions, start=1):
        out = model.module(input_ids=canvas[:, read:position], past_key_values=cache, use_cache=True)
        cache, read = out.past_key_values, position
        logits = out.logits[:, -1:].float().index_fill(-1, torch.tensor([mask], device=model.device), -torch.inf)
        uniform = (
            CallNoise(seed, ids, position, logits.device).for_tokens(range(len(canvas)), *logits.shape[1:]) if temperature > 0 else None
        )
        said = score(logits, drawn(logits, uniform, temperature, top_p))
        rows = torch.nonzero(unwritten[:, position]).flatten().to(model.device)
        canvas[rows, position] = said["proposal"][rows, 0]
        recorder.add(rows.cpu().numpy(), canvas[rows].cpu().numpy(), _at(position, {name: one[rows] for name, one in said.items()}, canvas))
        on_step(done, len(positions) - done)
    attributes = {"model": model.name, "fingerprint": model.fingerprint, "task": model.facts.task, "policy": LEFT_TO_RIGHT, "seed": seed}
    return recorder.finish({**attributes, "options": json.dumps({"temperature": temperature, "top_p": top_p})})


def _at(position: int, said: Mapping[str, Tensor], canvas: Tensor) -> dict[str, np.ndarray]:
    """Returns what is said of one position as arrays over all; of the others nothing is said."""
    spoken = {}
    for name, values in said.items():
        kind, nothing = (np.int32, -1) if name == "proposal" else (np.float32, np.nan)
        spoken[name] = np.full((len(values), canvas.shape[1]), nothing, kind)
        spoken[name][:, position] = values[:, 0].cpu().numpy()
    return spoken
