"""What a training of a sparse autoencoder is told, and the architectures that SAELens trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from probes.errors import ProbeError

if TYPE_CHECKING:
    from sae_lens.saes.sae import TrainingSAEConfig

L1 = 0.2
"""Default weight of the l1 norm of latents beside the summed squared error, times sqrt(d_in). Sudoku activations, d_in 128, 1024 latents,
300 steps: L0 and FVU of 63 and .081 (standard) and 60 and .030 (gated); four times as much gives a standard SAE 27 and .335."""
L0 = 0.012
"""Default weight of the number of active latents beside the summed squared error, times d_in: L0 and FVU of 23 and .037 there."""


@dataclass(frozen=True)
class SaeRecipe:
    """Shape, length and seed of one training."""

    architecture: str = "topk"
    """A name in ``ARCHITECTURES``."""
    d_sae: int = 1024
    """Latents."""
    k: int = 16
    """Latents active in a row: exactly (topk) or on average (batchtopk, matryoshka)."""
    sparsity: float | None = None
    """Weight of the penalty on latents (standard, gated: their l1 norm; jumprelu: how many are active), beside the squared error summed
    over dimensions of mean square 1; None is a default that grows with the width."""
    steps: int = 300
    """Optimiser steps."""
    batch: int = 1024
    """Rows a step."""
    lr: float = 4e-3
    """Of Adam: warmed up over 5 % of the steps, falling to 0 over the last 30 %. The default suits runs of some hundred steps (FVU of
    sudoku activations after 400: .034 with 1e-3, .021 with 4e-3, .020 with 8e-3)."""
    seed: int = 0
    """Of weights and order of rows."""

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ProbeError(f"unknown architecture {self.architecture!r}; choose from {', '.join(ARCHITECTURES)}")
        for name, least in (("d_sae", 1), ("k", 1), ("steps", 1), ("batch", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ProbeError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.k > self.d_sae:
            raise ProbeError(f"k is {self.k}; it must be at most d_sae, {self.d_sae}")
        if self.lr <= 0:
            raise ProbeError(f"lr is {self.lr}; it must be greater than 0")
        if self.sparsity is not None and (self.architecture not in PENALISED or self.sparsity <= 0):
            rule = f"it must be greater than 0, and is for {', '.join(PENALISED)}"
            raise ProbeError(f"sparsity is {self.sparsity} for {self.architecture}; {rule} (the others are given k)")

    @property
    def warm_up(self) -> int:
        """Steps over which the learning rate and the penalty rise."""
        return self.steps // 20 if self.steps >= 40 else 0


def _standard(recipe: SaeRecipe, **common: Any) -> TrainingSAEConfig:
    """Returns the configuration of a ReLU SAE with an l1 penalty (Bricken et al. 2023)."""
    from sae_lens import StandardTrainingSAEConfig

    weight = recipe.sparsity or L1 * common["d_in"] ** 0.5
    return StandardTrainingSAEConfig(l1_coefficient=weight, l1_warm_up_steps=recipe.warm_up, **common)


def _gated(recipe: SaeRecipe, **common: Any) -> TrainingSAEConfig:
    """Returns the configuration of a gated SAE (Rajamanoharan et al. 2024)."""
    from sae_lens import GatedTrainingSAEConfig

    weight = recipe.sparsity or L1 * common["d_in"] ** 0.5
    return GatedTrainingSAEConfig(l1_coefficient=weight, l1_warm_up_steps=recipe.warm_up, **common)


def _topk(recipe: SaeRecipe, **common: Any) -> TrainingSAEConfig:
    """Returns the configuration of a TopK SAE (Gao et al. 2024)."""
    from sae_lens import TopKTrainingSAEConfig

    return TopKTrainingSAEConfig(k=recipe.k, **common)


def _batchtopk(recipe: SaeRecipe, **common: Any) -> TrainingSAEConfig:
    """Returns the configuration of a BatchTopK SAE (Bussmann et al. 2024), a JumpReLU SAE of one threshold once trained."""
    from sae_lens import BatchTopKTrainingSAEConfig

    return BatchTopKTrainingSAEConfig(k=recipe.k, **common)


def _jumprelu(recipe: SaeRecipe, **common: Any) -> TrainingSAEConfig:
    """Returns the configuration of a JumpReLU SAE with an l0 penalty (Rajamanoharan et al. 2024b)."""
    from sae_lens import JumpReLUTrainingSAEConfig

    weight = recipe.sparsity or L0 * common["d_in"]
    return JumpReLUTrainingSAEConfig(l0_coefficient=weight, l0_warm_up_steps=recipe.warm_up, **common)


def _matryoshka(recipe: SaeRecipe, **common: Any) -> TrainingSAEConfig:
    """Returns the configuration of a Matryoshka BatchTopK SAE (Bussmann et al. 2025) of four nested widths, each twice the one before."""
    from sae_lens import MatryoshkaBatchTopKTrainingSAEConfig

    widths = sorted({max(recipe.d_sae // share, 1) for share in (8, 4, 2, 1)})
    return MatryoshkaBatchTopKTrainingSAEConfig(k=recipe.k, matryoshka_widths=widths, **common)


ARCHITECTURES: dict[str, Callable[..., TrainingSAEConfig]] = {
    "standard": _standard,
    "gated": _gated,
    "topk": _topk,
    "batchtopk": _batchtopk,
    "jumprelu": _jumprelu,
    "matryoshka": _matryoshka,
}
"""Makes SAELens' training configuration of a recipe and of what all architectures share (d_in, d_sae, metadata)."""
PENALISED = ("standard", "gated", "jumprelu")
"""Architectures whose sparsity a penalty decides, and not k."""
