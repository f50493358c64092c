"""Denoising: one loop that runs any policy and records what happened; and the causal model's left-to-right counterpart."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.backends import Edit
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from models.trajectory import Recorder, Trajectory
from models.unmasking import Option, PolicyError, Scores, Turn, gumbel, resolve_policy


class PromptError(ValueError):
    """Tokens that cannot be denoised by the model at hand."""


@dataclass(frozen=True)
class StepContext:
    """What a hook may know about the network call it is in."""

    step: int
    """The call, counted from 1."""
    rows: Int[Tensor, " row"]
    """Which samples are in this call, in the order of its batch; finished samples are not."""
    tokens: Int[Tensor, "row pos"]
    """The canvas the call reads."""
    masked: Bool[Tensor, "row pos"]
    """Where that canvas is unwritten."""


StepEdits = Callable[[StepContext], Mapping[HookPoint, Edit]]
"""Returns the edits for one network call; an empty mapping leaves it alone."""


def score(logits: Float[Tensor, "batch pos vocab"], mask_token_id: int, noise: Float[Tensor, "batch pos vocab"] | None = None) -> Scores:
    """Returns what the logits say; the mask token is never proposed. ``noise``, temperature times Gumbel noise, draws the proposals."""
    logits = logits.float().index_fill(-1, torch.tensor([mask_token_id], device=logits.device), -torch.inf)
    log_probabilities = logits.log_softmax(-1)
    probabilities = log_probabilities.exp()
    best = probabilities.topk(2, dim=-1).values
    proposal = (logits if noise is None else logits + noise).argmax(-1)
    return Scores(
        proposal=proposal,
        confidence=probabilities.gather(-1, proposal[..., None])[..., 0],
        margin=best[..., 0] - best[..., 1],
        entropy=-(probabilities * log_probabilities.masked_fill(probabilities == 0, 0.0)).sum(-1),
    )


class _SampleNoise:
    """Uniform random numbers from one generator a sample, so that a sample's draws do not depend on its batch."""

    def __init__(self, seed: int, sample_ids: Sequence[int]) -> None:
        self._generators = [np.random.default_rng((seed, sample)) for sample in sample_ids]

    def draw(self, rows: Int[Tensor, " row"], *shape: int) -> Tensor:
        """Returns uniform numbers of shape ``(row, *shape)``."""
        drawn = np.stack([self._generators[int(row)].random(shape, dtype=np.float32) for row in rows])
        return torch.from_numpy(drawn).to(rows.device)


def _check_tokens(model: LanguageModel, tokens: Int[Tensor, "batch pos"]) -> None:
    """Raises PromptError where the model cannot read these tokens."""
    if tokens.ndim != 2 or len(tokens) == 0:
        raise PromptError(f"tokens have shape {tuple(tokens.shape)}; they must be (batch, pos) with at least one sample")
    config = model.module.config
    longest, vocabulary = int(config.max_position_embeddings), int(config.vocab_size)
    if tokens.shape[1] > longest:
        raise PromptError(f"the prompt has {tokens.shape[1]} positions; {model.name} reads at most {longest}")
    outside = tokens[(tokens < 0) | (tokens >= vocabulary)]
    if len(outside):
        raise PromptError(f"the prompt holds the token {int(outside[0])}; the tokens of {model.name} are 0 to {vocabulary - 1}")


def _check(model: LanguageModel, tokens: Int[Tensor, "batch pos"], steps: int | None, ids: Sequence[int]) -> int:
    """Returns the mask token's id, or raises the error that says why these tokens cannot be denoised."""
    mask = model.facts.mask_token_id
    if mask is None:
        raise PromptError(f"{model.name} is a causal model: it has no mask token to denoise; use a masked (diffusion) model")
    _check_tokens(model, tokens)
    empty = torch.nonzero(~(tokens == mask).any(1)).flatten().tolist()
    if empty:
        raise PromptError(f"samples {empty[:5]} have no masked position: there is nothing to write")
    if len(ids) != len(tokens):
        raise PromptError(f"there are {len(ids)} sample_ids for {len(tokens)} samples; give one each")
    if steps is not None and steps < 1:
        raise PolicyError(f"steps is {steps}; it must be at least 1")
    return mask


def _check_chance(temperature: float, seed: int) -> None:
    if not 0 <= temperature < math.inf:
        raise PolicyError(f"temperature is {temperature}; it must be 0 (greedy) or greater, and finite")
    if seed < 0:
        raise PolicyError(f"seed is {seed}; it must be 0 or greater")


@torch.no_grad()
def denoise(
    model: LanguageModel,
    tokens: Int[Tensor, "batch pos"],
    *,
    policy: str = "low_confidence",
    options: Mapping[str, Option] | None = None,
    steps: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    sample_ids: Sequence[int] | None = None,
    edits: StepEdits | None = None,
    on_step: Callable[[int, int], None] = lambda done, left: None,
) -> Trajectory:
    """Returns the trajectory of writing every masked position of ``tokens``.

    Args:
        model: A masked model.
        tokens: Prompts with the mask token wherever something is to be written (anywhere: filling in is the general case).
        policy: A name in ``models.unmasking.POLICIES``.
        options: The policy's options.
        steps: At most so many network calls a sample, masked positions spread evenly over them; None writes one position a call (but
            with ``threshold`` as many as are sure, and ``mgdm`` takes so many calls as its option says).
        temperature: 0 writes the most probable token; above, a sample of the tempered distribution.
        seed: Reproduces the run, 0 or greater. A sample's random numbers depend on ``seed`` and its id only, not on its batch.
        sample_ids: Identity of each sample; its row number unless given.
        edits: Interventions on activations, asked for before every call.
        on_step: Told (positions written, positions left) after every call.

    Raises:
        PromptError: On a causal model, a sample with nothing masked, one too long, or a token outside the vocabulary.
        PolicyError: On an unknown policy or option, or an impossible budget.
    """
    ids = range(len(tokens)) if sample_ids is None else sample_ids
    mask = _check(model, tokens, steps, ids)
    _check_chance(temperature, seed)
    decide, all_options = resolve_policy(policy, options or {})
    canvas = tokens.clone().to(model.device)
    writable = canvas == mask
    noise = _SampleNoise(seed, ids)
    recorder = Recorder(canvas.cpu().numpy(), writable.cpu().numpy(), mask)
    step, active = 0, writable.any(1)
    while active.any():
        step += 1
        rows = torch.nonzero(active).flatten()
        context = StepContext(step, rows, canvas[rows], canvas[rows] == mask)
        with model.hooks(asked) if (asked := edits(context) if edits else {}) else nullcontext():
            logits = model.logits(context.tokens)
        tempered = temperature * gumbel(noise.draw(rows, *logits.shape[1:])) if temperature > 0 else None
        scores = score(logits, mask, tempered)
        turn = Turn(scores, context.masked, writable[rows], step, steps, partial(noise.draw, rows, tokens.shape[1]))
        move = decide(turn, **all_options)
        canvas[rows] = move.applied(context.tokens, scores.proposal, mask)
        active[rows] = (canvas[rows] == mask).any(1) | move.more
        spoken = {name: getattr(scores, name).cpu().numpy() for name in ("confidence", "margin", "entropy")}
        recorder.add(rows.cpu().numpy(), canvas[rows].cpu().numpy(), scores.proposal.cpu().numpy(), spoken)
        on_step(int((writable & (canvas != mask)).sum()), int((canvas == mask).sum()))
    return recorder.finish(
        {
            "model": model.name,
            "fingerprint": model.fingerprint,
            "task": model.facts.task,
            "policy": policy,
            "options": json.dumps({**all_options, "steps": steps, "temperature": temperature}),
            "seed": seed,
        }
    )


@torch.no_grad()
def write_left_to_right(
    model: LanguageModel,
    tokens: Int[Tensor, "batch pos"],
    *,
    temperature: float = 0.0,
    seed: int = 0,
    sample_ids: Sequence[int] | None = None,
    on_step: Callable[[int, int], None] = lambda done, left: None,
) -> Int[Tensor, "batch pos"]:
    """Returns ``tokens`` with every position that holds the task's mask token written left to right by a causal model.

    Positions already written are kept. Keys and values are cached, so a position costs one single-token call. ``temperature``, ``seed``,
    ``sample_ids`` and ``on_step`` are those of ``denoise``.

    Raises:
        PolicyError: On an impossible temperature or seed.
        PromptError: On a model that is not causal, a prompt it cannot read, or one whose first position is to be written.
    """
    if model.facts.objective != "causal":
        raise PromptError(f"{model.name} is a masked model; it is denoised, not written left to right (policy `sequential` does so)")
    _check_tokens(model, tokens)
    unwritten = tokens == model.task.mask_token_id
    if unwritten[:, 0].any():
        raise PromptError(f"the first position is to be written, and {model.name} predicts a token from those before it")
    _check_chance(temperature, seed)
    noise, rows = _SampleNoise(seed, range(len(tokens)) if sample_ids is None else sample_ids), torch.arange(len(tokens))
    canvas = tokens.clone()
    cache, read = None, 0
    positions = torch.nonzero(unwritten.any(0)).flatten().tolist()
    for done, position in enumerate(positions, start=1):
        out = model.module(input_ids=canvas[:, read:position].to(model.device), past_key_values=cache, use_cache=True)
        cache, read = out.past_key_values, position
        raw = out.logits[:, -1].index_fill(-1, torch.tensor([model.task.mask_token_id], device=model.device), -torch.inf)
        if temperature > 0:
            raw = raw.float() + temperature * gumbel(noise.draw(rows, raw.shape[1])).to(raw.device)
        canvas[:, position] = torch.where(unwritten[:, position], raw.argmax(-1).to(canvas.device), canvas[:, position])
        on_step(done, len(positions) - done)
    return canvas
