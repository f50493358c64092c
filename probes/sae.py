"""Sparse autoencoders: SAELens objects in SAELens files, trained on activations that are already here.

``sae_lens`` takes 7 to 12 s to import, so it is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from probes.artefact import check_fitted_on
from probes.errors import ProbeError, check_finite

if TYPE_CHECKING:
    from sae_lens import SAE, TopKSAE, TopKTrainingSAE

ROWS_AT_ONCE = 4096
"""Rows that are encoded together in ``evaluate_sae``: the latents of all rows at once would not fit."""


@dataclass(frozen=True)
class SaeQuality:
    """How much an SAE keeps of some activations, and how sparsely."""

    fvu: float
    """Fraction of variance unexplained: sum |x - xhat|^2 / sum |x - mean|^2."""
    l0: float
    """Latents above 0, mean over rows."""
    dead: float
    """Share of latents that fire on none of these rows."""
    n: int
    """Rows measured."""


@dataclass(frozen=True)
class _Scaling:
    """The map that training sees activations through: z = (x - mean) * factor, of mean square 1 a dimension."""

    mean: Float[Tensor, " d_model"]
    factor: float

    @classmethod
    def of(cls, activations: Float[Tensor, "row d_model"]) -> _Scaling:
        mean = activations.mean(0, dtype=torch.float64).float()
        square = float((activations.float() - mean).square().mean())
        if square == 0:
            raise ProbeError("all activation rows are equal; an SAE needs rows that vary")
        return cls(mean, square**-0.5)

    def unfold(self, trained: TopKTrainingSAE) -> TopKSAE:
        """Returns an inference SAE that reads and writes raw activations, with unit decoder rows and latents in raw units."""
        from sae_lens import TopKSAE, TopKSAEConfig

        found = trained.cfg
        config = TopKSAEConfig(d_in=found.d_in, d_sae=found.d_sae, k=found.k, device=found.device, metadata=found.metadata)
        with torch.random.fork_rng(devices=[]):  # it draws weights, which are replaced here
            sae = TopKSAE(config)
        norms = trained.get_W_dec_norm()
        with torch.no_grad():
            sae.W_dec.copy_(trained.W_dec / norms[:, None])
            sae.W_enc.copy_(trained.W_enc * norms)
            sae.b_enc.copy_(trained.b_enc * norms / self.factor)
            sae.b_dec.copy_(trained.b_dec / self.factor + self.mean)
        return sae.requires_grad_(False).eval()


def _batches(activations: Float[Tensor, "row d_model"], scaling: _Scaling, batch: int, seed: int) -> Iterator[Tensor]:
    """Yields scaled batches without end: every row once before any row twice."""
    generator = torch.Generator().manual_seed(seed)
    waiting = torch.empty(0, dtype=torch.int64)
    while True:
        while len(waiting) < batch:
            waiting = torch.cat([waiting, torch.randperm(len(activations), generator=generator)])
        rows, waiting = waiting[:batch], waiting[batch:]
        yield (activations[rows.to(activations.device)].float() - scaling.mean) * scaling.factor


def _bfloat16_is_fast(device: torch.device) -> bool:
    """Returns whether the device multiplies bfloat16 matrices in hardware (2 to 3 times faster; elsewhere slower than float32)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(found.get(name, False) for name in ("amx_bf16", "avx512_bf16", "sve_bf16"))


def _initial(d_in: int, d_sae: int, k: int, device: torch.device, seed: int, metadata: dict[str, Any]) -> TopKTrainingSAE:
    """Returns an untrained SAE whose weights depend on the seed alone."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d_in, d_sae=d_sae, k=k, metadata=SAEMetadata(**metadata)))
    return sae.to(device)


def train_sae(
    activations: Float[Tensor, "row d_model"],
    *,
    d_sae: int,
    k: int,
    steps: int,
    batch: int = 1024,
    lr: float = 4e-3,
    seed: int = 0,
    hook_name: str = "",
    fitted_on: str = "",
    on_step: Callable[[int, float], None] | None = None,
) -> SAE[Any]:
    """Returns a TopK sparse autoencoder (Gao et al. 2024) of raw activations; silent, and the same for the same seed and machine.

    SAELens leaves the decoder bias at 0 and does not centre, so activations are centred and scaled here, and the map is folded into
    the weights at the end. Decoder rows have unit norm, so a latent's value is its length in activation space. Weights come frozen;
    gradients still flow to activations.

    Args:
        activations: Rows to learn from, on the device to train on.
        d_sae: Number of latents.
        k: Latents that may be active in a row.
        steps: Optimiser steps.
        batch: Rows a step.
        lr: Of Adam: warmed up over 5 % of the steps, falling to 0 over the last 30 %. The default suits runs of some hundred steps
            (FVU of sudoku activations after 400: .034 with 1e-3, .021 with 4e-3, .020 with 8e-3).
        seed: Of weights and order of rows.
        hook_name: Where the activations came from, in TransformerLens's vocabulary; splicing needs it.
        fitted_on: Fingerprint of where they came from: model and hook point.
        on_step: Called with the number of steps done and the batch's fraction of variance unexplained.

    Raises:
        ProbeError: On activations that are not finite or do not vary, sizes that make no SAE, or a loss that is not a number.
    """
    _check_sizes(activations, d_sae=d_sae, k=k, steps=steps, batch=batch)
    from sae_lens import SAETrainer
    from sae_lens.config import LoggingConfig, SAETrainerConfig

    scaling = _Scaling.of(activations)
    d_in, device = activations.shape[1], activations.device
    training = _initial(d_in, d_sae, k, device, seed, {"hook_name": hook_name, "fitted_on": fitted_on})
    config = SAETrainerConfig(
        total_training_samples=steps * batch,
        train_batch_size_samples=batch,
        lr=lr,
        lr_end=lr / 10,
        lr_warm_up_steps=steps // 20 if steps >= 40 else 0,
        lr_decay_steps=3 * steps // 10,
        dead_feature_window=max(20, min(1000, steps // 20)),
        device=str(device),
        autocast=_bfloat16_is_fast(device),
        logger=LoggingConfig(log_to_wandb=False),
    )
    batches = _batches(activations, scaling, batch, seed)
    trainer = SAETrainer(cfg=config, sae=training, data_provider=batches)
    for step in range(1, steps + 1):
        fvu = trainer.step(next(batches)).losses["mse_loss"].item() / d_in
        trainer.n_training_steps = step
        if fvu != fvu:
            raise ProbeError(f"the loss is not a number at step {step}; a lower lr than {lr} may help")
        if on_step is not None:
            on_step(step, fvu)
    return scaling.unfold(training)


def _check_sizes(activations: Float[Tensor, "row d_model"], **sizes: int) -> None:
    if activations.ndim != 2:
        raise ProbeError(f"activations have shape {tuple(activations.shape)}; they must be [row, d_model]")
    check_finite(activations)
    for name, value in sizes.items():
        if value < 1:
            raise ProbeError(f"{name} is {value}; it must be at least 1")
    if sizes["k"] > sizes["d_sae"]:
        raise ProbeError(f"k is {sizes['k']}; it must be at most d_sae, {sizes['d_sae']}")


def save_sae(sae: SAE[Any], folder: Path) -> None:
    """Writes SAELens's ``cfg.json`` and ``sae_weights.safetensors``, which ``sae_lens.SAE.load_from_disk`` reads."""
    sae.save_model(folder)


def load_sae(folder: Path, fitted_on: str | None = None) -> SAE[Any]:
    """Returns the SAE in a SAELens folder, ours or another's, with frozen weights.

    Args:
        folder: Where it was written.
        fitted_on: Fingerprint of what it is to be used on; None accepts any.

    Raises:
        ProbeError: Where the folder holds no SAE, or one fitted on something else (both are named).
    """
    missing = [name for name in ("cfg.json", "sae_weights.safetensors") if not (folder / name).is_file()]
    if missing:
        raise ProbeError(f"{folder} lacks {' and '.join(missing)}; a SAELens folder holds both")
    from sae_lens import SAE

    sae = SAE.load_from_disk(folder).requires_grad_(False).eval()
    found = sae.cfg.metadata.fitted_on
    check_fitted_on("" if found is None else str(found), fitted_on, folder)
    return sae


@torch.no_grad()
def evaluate_sae(sae: SAE[Any], activations: Float[Tensor, "row d_model"]) -> SaeQuality:
    """Returns how well the SAE rebuilds raw activations, at the SAE's own precision."""
    check_finite(activations)
    mean = activations.mean(0, dtype=torch.float64)
    lost = total = active = 0.0
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool, device=activations.device)
    for rows in activations.split(ROWS_AT_ONCE):
        latents = sae.encode(rows.float())
        lost += float((rows.double() - sae.decode(latents).double()).square().sum())
        total += float((rows.double() - mean).square().sum())
        active += float((latents > 0).sum())
        fired |= (latents > 0).any(0)
    if total == 0:
        raise ProbeError("all activation rows are equal; variance explained needs rows that vary")
    return SaeQuality(lost / total, active / len(activations), 1 - float(fired.float().mean()), len(activations))
