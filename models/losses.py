"""Training losses of masked diffusion, from the cross-entropies of the masked tokens and the noise that masked them.

To add one: write the function, add its line to ``LOSSES``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.schedule import SCHEDULES

EARLIEST_TIME = 0.02
"""Training draws t from here to 1; a sequence with next to nothing masked teaches next to nothing."""
MGDM_STEPS = 20
MGDM_ALPHA, MGDM_GAMMA = 0.25, 1.0


@dataclass(frozen=True)
class Noise:
    """Which tokens of a batch are masked, and how likely that was."""

    masked: Bool[Tensor, "batch pos"]
    target: Bool[Tensor, "batch pos"]
    """The tokens that could have been."""
    rate: Float[Tensor, " batch"]
    """The chance of a target token to be masked."""
    slope: Float[Tensor, " batch"]
    """The derivative of the rate by time."""

    def each(self, per_sequence: Float[Tensor, " batch"]) -> Float[Tensor, " masked"]:
        """Returns a value of each sequence at each of its masked tokens."""
        return per_sequence[:, None].expand(self.masked.shape)[self.masked]


def draw_noise(target: Bool[Tensor, "batch pos"], schedule: str, generator: torch.Generator) -> Noise:
    """Returns noise at times spread evenly over the batch (one offset drawn a batch: the low-discrepancy sampler of MDLM, 2406.07524)."""
    batch = len(target)
    spread = (torch.rand(1, generator=generator) + torch.arange(batch) / batch) % 1
    rate, slope = SCHEDULES[schedule](EARLIEST_TIME + (1 - EARLIEST_TIME) * spread)
    masked = (torch.rand(target.shape, generator=generator) < rate[:, None]).to(target.device) & target
    return Noise(masked, target, rate.to(target.device), slope.to(target.device))


Loss = Callable[[Float[Tensor, " masked"], Noise], Float[Tensor, ""]]
"""``loss(nll, noise)``: from the cross-entropy in nats of each masked token, in row-major order."""


def cross_entropy(nll: Float[Tensor, " masked"], noise: Noise) -> Float[Tensor, ""]:
    """Returns the mean over masked tokens: MaskGIT's loss, and what 2602.15014 finds the most efficient."""
    return nll.sum() / noise.masked.sum().clamp(min=1)


def mdlm(nll: Float[Tensor, " masked"], noise: Noise) -> Float[Tensor, ""]:
    """Returns the negative evidence bound in nats a target token (MDLM, 2406.07524, equation 10): weight rate'/rate, 1/t where linear."""
    return (nll * noise.each(noise.slope / noise.rate)).sum() / noise.target.sum().clamp(min=1)


def llada(nll: Float[Tensor, " masked"], noise: Noise) -> Float[Tensor, ""]:
    """Returns the bound averaged by sequence: weight 1/rate, over each sequence's own length (LLaDA, 2502.09992, equation 5)."""
    lengths = noise.target.sum(1).clamp(min=1)
    return (nll * noise.each(1 / (noise.rate * lengths))).sum() / len(lengths)


def mgdm(nll: Float[Tensor, " masked"], noise: Noise) -> Float[Tensor, ""]:
    """Returns MGDM's loss (2410.14157, section 3.3): hard tokens count more, and sequences with little masked.

    A token's weight is alpha (1 - exp(-nll))^gamma, through which gradient flows; a sequence's falls linearly from T steps to 1.
    """
    hard = MGDM_ALPHA * (1 - torch.exp(-nll)) ** MGDM_GAMMA
    little = noise.each(MGDM_STEPS * (1 - noise.rate) + 1)
    return (hard * little * nll).sum() / noise.masked.sum().clamp(min=1)


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "mdlm": mdlm, "llada": llada, "mgdm": mgdm}
