"""Latents of a sparse autoencoder as a reader: which of them fire in a run, where and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.reading.readers import ReadingError
from models.hookpoints import HookPoint

if TYPE_CHECKING:
    from sae_lens import SAE


@dataclass(frozen=True, eq=False)
class LatentReader:
    """Chosen latents of an SAE. What it reads are their activations: no probabilities, and not bounded by 1."""

    sae: SAE[Any]
    latents: tuple[int, ...]
    point: HookPoint
    reads: str
    """Fingerprint of the model it reads."""

    @property
    def name(self) -> str:
        """What it is and where it reads."""
        return f"latents {', '.join(map(str, self.latents))} @ {self.point}"

    @property
    def heads(self) -> tuple[str, ...]:
        """The number of each latent."""
        return tuple(map(str, self.latents))

    @torch.no_grad()
    def probabilities(self, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row head"]:
        """Returns the latents' activations."""
        found: Tensor = self.sae.encode(x.to(self.sae.W_dec))[:, list(self.latents)]
        return found


def latent_reader(sae: SAE[Any], latents: Sequence[int]) -> LatentReader:
    """Returns some latents of an SAE as a reader of the model that its metadata says it was fitted on.

    Raises:
        ReadingError: On a latent that the SAE lacks, or an SAE that does not say what it was fitted on.
    """
    wrong = [latent for latent in latents if not 0 <= latent < len(sae.W_dec)]
    if wrong or not latents:
        raise ReadingError(f"the latents are {list(latents)}; give some of the SAE's 0 to {len(sae.W_dec) - 1}")
    fitted_on = str(sae.cfg.metadata.fitted_on or "")
    reads, _, point = fitted_on.rpartition("@")
    if not reads:
        raise ReadingError(f"the SAE says it was fitted on {fitted_on!r}; to be read in a run it must say on which model and hook point")
    return LatentReader(sae, tuple(latents), HookPoint.parse(point), reads)
