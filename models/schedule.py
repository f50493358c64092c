"""Noise schedules: how much of a sequence is masked at time t, from 0 (nothing) to 1 (everything)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

NoiseSchedule = Callable[[Float[Tensor, " batch"]], tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]]
"""``schedule(t) -> (rate, slope)``: the chance that a token is masked at time t, and its derivative by t."""


def linear(t: Float[Tensor, " batch"]) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Returns rate t (MDLM's log-linear schedule, 2406.07524, appendix; LLaDA, 2502.09992)."""
    return t, torch.ones_like(t)


def cosine(t: Float[Tensor, " batch"]) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Returns rate sin(pi t / 2): high rates more often (MaskGIT, 2202.04200, section 3.2, as a function of time)."""
    return torch.sin(math.pi / 2 * t), math.pi / 2 * torch.cos(math.pi / 2 * t)


SCHEDULES: dict[str, NoiseSchedule] = {"linear": linear, "cosine": cosine}
