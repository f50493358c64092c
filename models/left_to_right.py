"""The causal counterpart of denoising: writing left to right."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from models.chance import CallNoise, drawn
from models.decoding import Decoding
from models.denoise import score
from models.language_model import LanguageModel
from models.network import PADDING
from models.prompt import PromptError, check_tokens, identities, padded
from models.recorder import Recorder
from models.trajectory import Trajectory
from models.turn import PolicyError

LEFT_TO_RIGHT = "left_to_right"
"""What such a trajectory calls its policy."""
_HEEDED = ("temperature", "top_p", "seed")


def check_heeded(model: LanguageModel, decoding: Decoding) -> None:
    """Raises PolicyError on what writing left to right cannot heed; a policy and its options, which choose an order, are passed over."""
    heeded = {name: getattr(decoding, name) for name in _HEEDED}
    asked, plain = replace(decoding, policy=Decoding.policy, options={}), Decoding(**heeded)
    if asked != plain:
        name = next(name for name in vars(plain) if getattr(asked, name) != getattr(plain, name))
        rule = "it writes left to right, and heeds temperature, top_p and seed alone"
        raise PolicyError(f"{name} is {getattr(asked, name)}, and {model.name} is a causal model: {rule}")


@torch.no_grad()
def write_left_to_right(
    model: LanguageModel,
    tokens: Int[Tensor, "batch pos"],
    decoding: Decoding | str = "low_confidence",
    *,
    sample_ids: Sequence[int] | None = None,
    on_step: Callable[[int, int], None] = lambda done, left: None,
) -> Trajectory:
    """Returns the trajectory of writing every position that holds the task's mask token left to right with a causal model.

    Positions already written are kept. Keys and values are cached, so a position costs one single-token call; a step is a position that
    some sample writes. The other arguments are those of ``models.denoise.denoise``, greedily unless the decoding has a temperature.

    Raises:
        PolicyError: On what a causal model cannot heed (see ``check_heeded``).
        PromptError: On a model that is not causal, a prompt it cannot read, or one whose first position is to be written.
    """
    how = decoding if isinstance(decoding, Decoding) else Decoding(decoding)
    if model.facts.objective != "causal":
        raise PromptError(f"{model.name} is a masked model; it is denoised, not written left to right (policy `sequential` does so)")
    check_heeded(model, how)
    tokens = padded(tokens)
    unwritten = tokens == model.task.mask_token_id
    check_tokens(model, tokens.masked_fill(unwritten, 0))
    if (tokens == PADDING).any():
        raise PromptError("the samples differ in length; a causal model is given samples of one length")
    ids = identities(sample_ids, len(tokens))
    if unwritten[:, 0].any():
        raise PromptError(f"the first position is to be written, and {model.name} predicts a token from those before it")
    canvas, mask = tokens.clone().to(model.device), model.task.mask_token_id
    recorder = Recorder(canvas.cpu().numpy(), unwritten.cpu().numpy(), mask, sample_ids=np.array(ids))
    cache, read = None, 0
    positions = torch.nonzero(unwritten.any(0)).flatten().tolist()
    for done, position in enumerate(positions, start=1):
        out = model.module(input_ids=canvas[:, read:position], past_key_values=cache, use_cache=True)
        cache, read = out.past_key_values, position
        logits = out.logits[:, -1:].float()
        if mask >= 0:
            logits = logits.index_fill(-1, torch.tensor([mask], device=model.device), -torch.inf)
        uniform = None
        if how.temperature:
            uniform = CallNoise(how.seed, ids, position, logits.device).for_tokens(range(len(canvas)), *logits.shape[1:])
        said = score(logits, drawn(logits, uniform, how.temperature, how.top_p))
        rows = torch.nonzero(unwritten[:, position]).flatten().to(model.device)
        canvas[rows, position] = said["proposal"][rows, 0]
        recorder.add(rows.cpu().numpy(), canvas[rows].cpu().numpy(), _at(position, {name: one[rows] for name, one in said.items()}, canvas))
        on_step(done, len(positions) - done)
    attributes = {"model": model.name, "fingerprint": model.fingerprint, "task": model.facts.task, "policy": LEFT_TO_RIGHT}
    options = json.dumps({"temperature": how.temperature, "top_p": how.top_p})
    return recorder.finish({**attributes, "options": options, "seed": how.seed})


def _at(position: int, said: Mapping[str, Tensor], canvas: Tensor) -> dict[str, np.ndarray]:
    """Returns what is said of one position as arrays over all; of the others nothing is said."""
    spoken = {}
    for name, values in said.items():
        kind, nothing = (np.int32, -1) if name == "proposal" else (np.float32, np.nan)
        spoken[name] = np.full((len(values), canvas.shape[1]), nothing, kind)
        spoken[name][:, position] = values[:, 0].cpu().numpy()
    return spoken
