"""Moves along an SAE's latents: what ``interp.steering.Push`` does to activations, inside one call or at chosen calls of a denoising run.

A latent's part in a reconstruction is its value times its decoder row. Only that part is moved: what the SAE does not explain stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.steering import Move

if TYPE_CHECKING:
    from sae_lens import SAE


class LatentError(ValueError):
    """A latent that an SAE does not have."""


def ablating(sae: SAE[Any], latent: int | Int[Tensor, " batch"]) -> Move:
    """Returns the move that takes a latent's part out, -f_i d_i: nowhere where it does not fire.

    Args:
        sae: Reads and writes raw activations of the push's hook point.
        latent: One for all samples, or one a sample.

    Raises:
        LatentError: On a latent that the SAE does not have.
    """
    return clamping(sae, latent, 0.0)


def adding_latent(sae: SAE[Any], latent: int | Int[Tensor, " batch"], value: float | Float[Tensor, " batch"]) -> Move:
    """Returns the move by a value along a latent's decoder row, v d_i: the same at every place, whatever the latent is there.

    Args:
        sae: Its decoder rows are what is added.
        latent: One for all samples, or one a sample.
        value: In the latent's own units, one for all samples or one a sample; below 0 is against the row.

    Raises:
        LatentError: On a latent that the SAE does not have.
    """
    chosen, values = _checked(sae, latent), torch.as_tensor(value)

    def move(x: Tensor, sample: Tensor) -> Tensor:
        return _a_sample(values, sample).to(x)[:, None] * sae.W_dec.to(x)[_a_sample(chosen, sample)]

    return move


def clamping(sae: SAE[Any], latent: int | Int[Tensor, " batch"], value: float | Float[Tensor, " batch"]) -> Move:
    """Returns the move that sets a latent's part to a value, (v - f_i) d_i, with f_i what the SAE reads at that place.

    The others keep the values that were read before the move: in a TopK SAE the moved activation may be read otherwise.

    Args:
        sae: Reads and writes raw activations of the push's hook point.
        latent: One for all samples, or one a sample.
        value: In the latent's own units, one for all samples or one a sample.

    Raises:
        LatentError: On a latent that the SAE does not have.
    """
    chosen, values = _checked(sae, latent), torch.as_tensor(value)

    def move(x: Tensor, sample: Tensor) -> Tensor:
        latents = _a_sample(chosen, sample).to(x.device)
        fired = sae.encode(x.to(sae.W_dec.dtype)).gather(1, latents[:, None])[:, 0].to(x)
        return (_a_sample(values, sample).to(x) - fired)[:, None] * sae.W_dec.to(x)[latents]

    return move


def _checked(sae: SAE[Any], latent: int | Int[Tensor, " batch"]) -> Int[Tensor, "*batch"]:
    chosen = torch.as_tensor(latent)
    wrong = chosen[(chosen < 0) | (chosen >= len(sae.W_dec))]
    if wrong.numel():
        raise LatentError(f"there is no latent {int(wrong.flatten()[0])}; the SAE has 0 to {len(sae.W_dec) - 1}")
    return chosen


def _a_sample(one: Tensor, sample: Int[Tensor, " row"]) -> Tensor:
    """Returns what holds for each row: one value for all, or that of its sample."""
    return one.expand(len(sample)) if one.ndim == 0 else one.to(sample.device)[sample]
