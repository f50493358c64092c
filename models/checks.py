"""What must be true of a model before anything is read from it, proved by running it.

Perturbation decides: changing the last token must change the first position's output exactly where attention is full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.hookpoints import HookPoint, resid_post

if TYPE_CHECKING:
    from models.backends import Backend
    from models.language_model import LanguageModel

PARITY_TOLERANCE = 1e-4
CHANGE_FLOOR = 1e-6
"""A logit that moves by less than this has not moved; a causal model's moves by exactly 0."""


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


def _probe_tokens(model: LanguageModel) -> Int[Tensor, "2 pos"]:
    """Returns two sequences, of seeded random tokens, that differ in the last one."""
    length = min(int(model.module.config.max_position_embeddings), 64)
    vocabulary = int(model.module.config.vocab_size)
    tokens = torch.randint(0, vocabulary, (1, length), generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    tokens[1, -1] = (tokens[1, -1] + 1) % vocabulary
    return tokens.to(model.device)


def _attention_check(model: LanguageModel, forward: Callable[[Tensor], Float[Tensor, "batch pos vocab"]], what: str) -> Check:
    tokens = _probe_tokens(model)
    first = forward(tokens)[:, 0]
    moved = (first[0] - first[1]).abs().max().item()
    full = model.facts.attention == "full"
    return Check(
        f"{what}: attention is {model.facts.attention}",
        (moved > 0) == full,
        moved,
        f"changing the last token must move the first position's logits {'' if full else 'not '}at all",
        "set is_causal in config.json to match the facts" if what == "network" else "correct bridge_mask in the model's family",
    )


def _raise_failures(model: LanguageModel, checks: tuple[Check, ...]) -> tuple[Check, ...]:
    failed = [f"{check.name} failed: {check.rule}, measured {check.value:.3g} ({check.remedy})" for check in checks if not check.passed]
    if failed:
        raise ModelCheckError(f"{model.name}: " + "; ".join(failed))
    return checks


def prove(model: LanguageModel) -> tuple[Check, ...]:
    """Returns the checks of the bare network, all passed: vocabulary, mask token, attention regime, finite outputs.

    Raises:
        ModelCheckError: Naming each check that failed, its number and the remedy.
    """
    vocabulary = int(model.module.config.vocab_size)
    mask = model.facts.mask_token_id
    expected = len(model.task.vocabulary)
    finite = torch.isfinite(model.logits(_probe_tokens(model))).double().mean().item()
    return _raise_failures(
        model,
        (
            Check(
                f"vocabulary is that of {model.task.name}",
                vocabulary == expected,
                float(vocabulary),
                f"the task has {expected} tokens",
                "name the right task in the facts",
            ),
            Check(
                "mask token is in the vocabulary",
                mask is None or 0 <= mask < vocabulary,
                -1.0 if mask is None else float(mask),
                f"it must lie in 0 to {vocabulary - 1}",
                "correct mask_token_id in the facts",
            ),
            _attention_check(model, lambda tokens: model.module(input_ids=tokens, use_cache=False).logits, "network"),
            Check("outputs are finite", finite == 1.0, finite, "every logit must be a number", "the weights are damaged"),
        ),
    )


def prove_backend(model: LanguageModel, backend: Backend) -> tuple[Check, ...]:
    """Returns the checks of a backend, all passed: same logits, same attention, residual streams of the right shape, edits that matter.

    Raises:
        ModelCheckError: Naming each check that failed, its number and the remedy.
    """
    tokens = _probe_tokens(model)
    points = [resid_post(layer) for layer in range(model.n_layers)]
    raw, cache = backend.run(tokens, {}, points)
    difference = (raw - model.module(input_ids=tokens, use_cache=False).logits).abs().max().item()
    expected = (*tokens.shape, model.d_model)
    wrong = sum(tuple(cache[point].shape) != expected for point in points)
    return _raise_failures(
        model,
        (
            Check(
                f"{backend.name} computes the network's logits",
                difference <= PARITY_TOLERANCE,
                difference,
                f"they may differ by {PARITY_TOLERANCE}",
                "correct bridge_architecture or bridge_mask in the model's family",
            ),
            _attention_check(model, lambda tokens: backend.run(tokens, {}, ())[0], backend.name),
            Check(
                "residual streams have the right shape", wrong == 0, float(wrong), f"every layer must give {expected}", "correct the family"
            ),
            *(_edit_check(backend, tokens, point, raw) for point in points),
        ),
    )


def _edit_check(backend: Backend, tokens: Int[Tensor, "batch pos"], point: HookPoint, raw: Tensor) -> Check:
    """An edit that changes nothing was a silent no-op. The edit moves one component, which no norm can take out."""

    def edit(activation: Tensor) -> Tensor:
        edited = activation.clone()
        edited[..., 0] += activation.norm(dim=-1) + 1.0
        return edited

    moved = (backend.run(tokens, {point: edit}, ())[0] - raw).abs().max().item()
    return Check(f"editing {point} matters", moved > CHANGE_FLOOR, moved, "the logits must move by more than 1e-6", "correct the family")
