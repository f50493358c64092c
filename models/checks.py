"""What must be true of a model before anything is read from it, proved by running it.

Perturbation decides: which positions move when one token changes is what attention is, whatever a configuration says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.hookpoints import HookPoint, resid_post
from models.network import PADDING

if TYPE_CHECKING:
    from models.backends import Backend
    from models.language_model import LanguageModel

TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 0.1}
"""How far two ways to the same logits may be apart, as a share of the largest of them, or of 1 where they are smaller."""
SEQUENCES = 8
"""How many sequences are tried at most before a position counts as unseen."""
CHANGE_FLOOR = 1e-6
"""A logit that moves by less than this has not moved, under one that moves by rounding; a masked position's moves by exactly 0."""


class ModelCheckError(RuntimeError):
    """A model that is not what its facts say, or a backend that is not the model."""


@dataclass(frozen=True)
class Check:
    """One proved or failed statement about a model."""

    name: str
    passed: bool
    value: float
    """The number that decided."""
    rule: str
    remedy: str


Forward = Callable[[Int[Tensor, "batch pos"]], Float[Tensor, "batch pos vocab"]]


def probe_tokens(model: LanguageModel, length: int = 64, seed: int = 0) -> Int[Tensor, "1 pos"]:
    """Returns one sequence of seeded random tokens, as long as asked or as the model reads."""
    size = (1, min(model.longest, length))
    return torch.randint(0, int(model.module.config.vocab_size), size, generator=torch.Generator().manual_seed(seed)).to(model.device)


def moved_by(tokens: Int[Tensor, "1 pos"], vocabulary: int, forward: Forward) -> Bool[Tensor, "pos pos"]:
    """Returns which positions' outputs (rows) move, however little, when a position's token (columns) is changed.

    What the unchanged sequence moves by beside changed ones is rounding, as a mixture of experts has it; ten times that is no movement.
    """
    length = tokens.shape[1]
    place = torch.arange(length, device=tokens.device)
    changed = tokens.repeat(length, 1)
    changed[place, place] = (changed[place, place] + 1) % vocabulary
    plain, rounding, moved = forward(tokens.repeat(9, 1)), 0.0, []
    for part in changed.split(8):
        batch = torch.cat([part, tokens.repeat(9 - len(part), 1)])  # of the same shape always: kernels round by shape
        moves = (forward(batch) - plain).abs().amax(-1)
        rounding = max(rounding, float(moves[-1].max()))
        moved.append(moves[: len(part)])
    return (torch.cat(moved) > 10 * rounding).T


def _attention_check(model: LanguageModel, forward: Forward, what: str) -> Check:
    """The positions that move must be those that the regime lets see the changed one, itself among them.

    Where attention is sharp, a token may weigh so little that nothing moves; then another sequence is tried.
    """
    length, vocabulary = max(12, 2 * (model.facts.block_size or 1) + 2), int(model.module.config.vocab_size)
    visible = model.network.visible(min(length, model.longest))
    moved = torch.zeros_like(visible)
    for seed in range(SEQUENCES):
        moved |= moved_by(probe_tokens(model, length, seed), vocabulary, forward)
        if (moved & ~visible).any() or moved.equal(visible):
            break
    wrong = int((moved != visible).sum())
    regime = model.facts.attention + (f" in blocks of {model.facts.block_size}" if model.facts.block_size else "")
    return Check(
        f"{what}: attention is {regime}",
        wrong == 0,
        float(wrong),
        f"of {moved.numel()} pairs of positions, none may be seen that must not, or the reverse",
        "make attention in the facts, and is_causal in config.json, what the weights were trained with",
    )


def _raise_failures(model: LanguageModel, checks: tuple[Check, ...]) -> tuple[Check, ...]:
    failed = [f"{check.name} failed: {check.rule}, measured {check.value:.3g} ({check.remedy})" for check in checks if not check.passed]
    if failed:
        raise ModelCheckError(f"{model.name}: " + "; ".join(failed))
    return checks


def check_network(model: LanguageModel) -> tuple[Check, ...]:
    """Returns the checks of the bare network: vocabulary, mask token, attention regime, finite outputs."""
    vocabulary, mask = int(model.module.config.vocab_size), model.facts.mask_token_id
    expected = len(model.task.vocabulary) if model.facts.task != "text" else vocabulary
    inside = mask is None or 0 <= mask < vocabulary
    finite = torch.isfinite(model.network.raw(probe_tokens(model))).double().mean().item()
    return (
        Check(
            f"vocabulary is that of {model.task.name}",
            vocabulary == expected,
            float(vocabulary),
            f"the task has {expected} tokens",
            "name the right task in the facts",
        ),
        Check(
            "mask token is in the vocabulary",
            inside,
            -1.0 if mask is None else float(mask),
            f"it must lie in 0 to {vocabulary - 1}",
            "correct mask_token_id in the facts",
        ),
        _attention_check(model, model.network.raw, "network"),
        Check("outputs are finite", finite == 1.0, finite, "every logit must be a number", "the weights are damaged"),
    )


def prove(model: LanguageModel) -> tuple[Check, ...]:
    """Returns the checks of the bare network, all passed.

    Raises:
        ModelCheckError: Naming each check that failed, its number and the remedy.
    """
    return _raise_failures(model, check_network(model))


def apart(one: Tensor, other: Tensor) -> float:
    """Returns how far two tensors are apart, as a share of the largest entry, or of 1 where that is smaller."""
    return (one - other).abs().max().item() / max(1.0, one.abs().max().item())


def check_backend(model: LanguageModel, backend: Backend, points: Collection[HookPoint]) -> tuple[Check, ...]:
    """Returns the checks of a backend: the same logits and attention, residual streams of the right shape, edits that matter."""
    tokens = probe_tokens(model).repeat(2, 1)
    residuals = [resid_post(layer) for layer in range(model.n_layers)]
    raw, cache = backend.run(tokens, {}, residuals)
    difference, most = apart(model.network.raw(tokens), raw), TOLERANCES[model.module.dtype]
    expected = (*tokens.shape, model.d_model)
    wrong = sum(tuple(cache[point].shape) != expected for point in residuals)
    return (
        Check(
            f"{backend.name} computes the network's logits",
            difference <= most,
            difference,
            f"they may differ by {most:g} of the largest",
            "correct the sites or the bridge of its architecture",
        ),
        _attention_check(model, lambda tokens: backend.run(tokens, {}, ())[0], backend.name),
        Check(
            f"{backend.name}: residual streams have the right shape",
            wrong == 0,
            float(wrong),
            f"every layer must give {expected}",
            "correct the sites of its architecture",
        ),
        *(_edit_check(backend, tokens, point, raw) for point in points),
    )


def prove_backend(model: LanguageModel, backend: Backend) -> tuple[Check, ...]:
    """Returns the checks of a backend with edits of every residual stream, all passed.

    Raises:
        ModelCheckError: Naming each check that failed, its number and the remedy.
    """
    return _raise_failures(model, check_backend(model, backend, [resid_post(layer) for layer in range(model.n_layers)]))


def _edit_check(backend: Backend, tokens: Int[Tensor, "batch pos"], point: HookPoint, raw: Tensor) -> Check:
    """An edit that changes nothing was a silent no-op. The edit moves one component, which no norm can take out."""

    def edit(activation: Tensor) -> Tensor:
        edited = activation.clone()
        edited[..., 0] += activation.norm(dim=-1) + 1.0
        return edited

    moved = (backend.run(tokens, {point: edit}, ())[0] - raw).abs().max().item()
    name = f"{backend.name}: editing {point} matters"
    return Check(name, moved > CHANGE_FLOOR, moved, "the logits must move by more than 1e-6", "correct the sites of its architecture")


def check_ragged(model: LanguageModel) -> tuple[Check, ...]:
    """Returns the checks of batches padded on the right and on the left: the same logits as one by one."""
    long = probe_tokens(model, 24)
    by = max(1, min(5, long.shape[1] - 2))
    short = long[:, : long.shape[1] - by]
    padding = torch.full((1, by), PADDING, device=long.device)
    alone, found = model.logits(short), []
    for side, parts in (("right", (short, padding)), ("left", (padding, short))):
        both = model.logits(torch.cat([long, torch.cat(parts, 1)]))
        own = both[1:, : short.shape[1]] if side == "right" else both[1:, by:]
        value = max(apart(model.logits(long), both[:1]), apart(alone, own))
        most = TOLERANCES[model.module.dtype]
        rule, remedy = f"logits may differ by {most:g} of the largest", "give samples one by one"
        found.append(Check(f"a batch padded on the {side} equals its samples alone", value <= most, value, rule, remedy))
    return tuple(found)
