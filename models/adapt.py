"""Growing a masked-diffusion model from a causal one: by which method, with which loss, schedule and shift.

To add a method: its line in ``METHODS``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.losses import LOSSES
from models.schedule import SCHEDULES

ANNEALED_UNTIL = 0.3
"""The share of a training after which ``anneal`` has reached full attention."""
ALIGNMENT_WEIGHT = 1.0
"""Of the penalty of ``align``, beside a loss in nats a token."""

HiddenStates = Sequence[Float[Tensor, "batch pos d_model"]]


class AdaptationError(ValueError):
    """An adaptation of unknown parts."""


@dataclass(frozen=True)
class Method:
    """One way from a causal model to a masked one."""

    about: str
    """What it does, and its source."""
    from_twin: bool = True
    """Whether it starts from the causal twin's weights."""
    visible: Callable[[int, float, torch.Generator], Bool[Tensor, "pos pos"]] | None = None
    """``visible(pos, progress, generator)``: which positions (columns) each position (rows) sees in a training step; None is all."""
    penalty: Callable[[HiddenStates, HiddenStates], Float[Tensor, ""]] | None = None
    """``penalty(ours, twins)`` of the hidden states after each block, the frozen twin's of the sequence with nothing masked."""


def annealed(pos: int, progress: float, generator: torch.Generator) -> Bool[Tensor, "pos pos"]:
    """Returns the causal mask with each later position opened by a chance that rises from 0 to 1 (DiffuLLaMA, 2410.17891, 3.2)."""
    opened = torch.rand(pos, pos, generator=generator) < progress / ANNEALED_UNTIL
    return torch.ones(pos, pos, dtype=torch.bool).tril() | opened


def misalignment(ours: HiddenStates, twins: HiddenStates) -> Float[Tensor, ""]:
    """Returns one minus the cosine between the two models' hidden states, averaged over positions and blocks (REPR-ALIGN, 2605.06885)."""
    cosines = [torch.cosine_similarity(a.float(), b.float(), dim=-1).mean() for a, b in zip(ours, twins, strict=True)]
    return ALIGNMENT_WEIGHT * (1 - torch.stack(cosines).mean())


METHODS: dict[str, Method] = {
    "switch": Method("full attention at once (dLLM's A2D, 2602.22661)"),
    "anneal": Method("attention opened little by little (DiffuLLaMA, 2410.17891)", visible=annealed),
    "align": Method("full attention at once, hidden states kept near the twin's (REPR-ALIGN, 2605.06885)", penalty=misalignment),
    "scratch": Method("random weights of the same shape: the control", from_twin=False),
}


@dataclass(frozen=True)
class Adaptation:
    """How a masked model is made."""

    method: str = "switch"
    """A name in ``METHODS``."""
    loss: str = "ce"
    """A name in ``models.losses.LOSSES``."""
    schedule: str = "linear"
    """A name in ``models.schedule.SCHEDULES``."""
    logit_shift: int = 1
    """1 goes on predicting token i+1 at position i, as the twin does; 0 predicts token i. It becomes a fact of the model."""

    def __post_init__(self) -> None:
        for name, choices in (("method", METHODS), ("loss", LOSSES), ("schedule", SCHEDULES), ("logit_shift", (0, 1))):
            if getattr(self, name) not in choices:
                raise AdaptationError(f"unknown {name} {getattr(self, name)!r}; choose from {', '.join(map(str, choices))}")
