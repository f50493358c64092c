"""Sparse autoencoders fitted on the causal twin, measured on the diffusion twin."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from interp.canvases import MASK_RATES
from interp.report import SaeEntry, SaeScores
from interp.transfer import TransferData
from models.hookpoints import HookPoint
from probes.controls import random_rotation
from probes.sae import evaluate_sae, train_sae

if TYPE_CHECKING:
    from sae_lens import SAE


@dataclass(frozen=True)
class SaeRecipe:
    """Shape and length of a TopK SAE's training."""

    d_sae: int = 1024
    k: int = 16
    steps: int = 300
    batch: int = 1024


def fit_sae(data: TransferData, which: str, point: HookPoint, recipe: SaeRecipe, *, seed: int = 0) -> SAE[Any]:
    """Returns an SAE of one twin's activations (``ar`` or ``diffusion``) on the fit puzzles, by SAELens' trainer."""
    activations = getattr(data, which).fit.activations[point]
    fitted_on = f"{data.fingerprints[which]}@{point}"
    return train_sae(activations, **asdict(recipe), seed=seed, hook_name=str(point), fitted_on=fitted_on)


def _scores(sae: SAE[Any], activations: Float[Tensor, "row d_model"]) -> SaeScores:
    return SaeScores(**asdict(evaluate_sae(sae, activations)))


def _turned(activations: Float[Tensor, "row d_model"], seed: int) -> Float[Tensor, "row d_model"]:
    """Returns the activations turned about their mean by a random rotation."""
    mean = activations.mean(0)
    return (activations - mean) @ random_rotation(activations.shape[1], seed).to(activations.dtype) + mean


def sae_entry(
    ar_sae: SAE[Any], native_sae: SAE[Any], data: TransferData, point: HookPoint, recipe: SaeRecipe, *, seed: int = 0
) -> SaeEntry:
    """Returns how well the causal twin's SAE rebuilds both twins' activations on test puzzles, between floor and ceiling."""
    ar, diffusion = data.ar.test.activations[point], data.diffusion.test
    on_diffusion = diffusion.activations[point]
    return SaeEntry(
        hook_point=str(point),
        architecture="topk",
        d_in=ar.shape[1],
        d_sae=recipe.d_sae,
        training_activations=len(data.ar.fit.sites),
        ar=_scores(ar_sae, ar),
        diffusion=_scores(ar_sae, on_diffusion),
        diffusion_by_mask_rate={f"{rate:g}": _scores(ar_sae, diffusion.at_mask_rate(rate).activations[point]) for rate in MASK_RATES},
        random_rotation=_scores(ar_sae, _turned(on_diffusion, seed)),
        native=_scores(native_sae, on_diffusion),
    )
