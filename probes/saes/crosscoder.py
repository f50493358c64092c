"""Crosscoders: one dictionary of latents for the activations of two models at the same sites (Lindsey et al. 2024).

The kind is the BatchTopK crosscoder of Minder et al. 2025 (arXiv 2504.02922). ``probes.saes.crosscoder_training`` trains it, and
``probes.saes.latent_scaling`` tells which latents both models share.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from probes.artefact import FORMAT_VERSION, WEIGHTS_NAME, check_fitted_on, read_config
from probes.errors import ProbeError, check_finite

ARTEFACT = "crosscoder"
MODELS = ("source", "target")
"""What the two entries of every axis named ``model`` are called."""
ROWS_AT_ONCE = 4096
"""Rows that are encoded together: the latents of all rows at once would not fit."""
TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "unit")
STATED = ("threshold", "models", "fitted_on", "hook_point")


@dataclass(frozen=True, eq=False)
class Crosscoder:
    """Latents that read both models' raw activations together, and write each model's raw activations.

    It holds no SAE of either model: the encoder adds what both models say (at a shared latent about half each), so one model's half of it
    fires at other rows than the whole, and no SAE made of a half would have these latents.

    A latent is in units of both decoder rows together: their norms, each divided by its model's ``unit``, sum to 1. So the latent is itself
    the score ``f_i * sum_m |d_i^m|`` that BatchTopK ranks by (Minder et al. 2025), and ``threshold`` holds for it.
    """

    W_enc: Float[Tensor, "model d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "model d_sae d_in"]
    b_dec: Float[Tensor, "model d_in"]
    unit: Float[Tensor, " model"]
    """Mean norm of each model's activations about their mean, over sqrt(d_in): lengths in the two models compare in it."""
    threshold: float
    """Latents at or below it are 0."""
    models: tuple[str, str]
    """Names of source and target."""
    fitted_on: tuple[str, str]
    """Fingerprints of where both models' activations came from."""
    hook_point: str
    """Where both models were read, in TransformerLens's vocabulary."""

    def __post_init__(self) -> None:
        _, d_in, d_sae = self.W_enc.shape
        expected = {"W_enc": (2, d_in, d_sae), "b_enc": (d_sae,), "W_dec": (2, d_sae, d_in), "b_dec": (2, d_in), "unit": (2,)}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                stated = f"{d_sae} latents of two models of width {d_in}"
                raise ProbeError(f"{name} is {tuple(getattr(self, name).shape)}; for {stated} it must be {shape}")

    @property
    def d_in(self) -> int:
        """Width of either model's activations."""
        return self.W_enc.shape[1]

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.W_enc.shape[2]

    def encode(self, source: Float[Tensor, "*row d_in"], target: Float[Tensor, "*row d_in"]) -> Float[Tensor, "*row d_sae"]:
        """Returns the latents of paired rows: both models' raw activations at the same sites."""
        for name, x in zip(MODELS, (source, target), strict=True):
            if x.shape[-1] != self.d_in:
                raise ProbeError(f"{name} activations of width {x.shape[-1]}; this crosscoder reads width {self.d_in}")
        latents = source.to(self.W_enc.dtype) @ self.W_enc[0] + target.to(self.W_enc.dtype) @ self.W_enc[1] + self.b_enc
        return functional.threshold(latents, self.threshold, 0.0)

    def decode(self, latents: Float[Tensor, "*row d_sae"]) -> tuple[Float[Tensor, "*row d_in"], Float[Tensor, "*row d_in"]]:
        """Returns the raw activations of source and target that the latents stand for."""
        source, target = (latents @ self.W_dec[model] + self.b_dec[model] for model in range(2))
        return source, target

    def decoder_norms(self) -> Float[Tensor, "model d_sae"]:
        """Returns the lengths of the decoder rows, each in its model's ``unit``; the two of a latent sum to 1."""
        return self.W_dec.norm(dim=2) / self.unit[:, None]

    def to(self, device: torch.device | str) -> Crosscoder:
        """Returns the same crosscoder on another device."""
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in _tensors(self).items()}
        return replace(self, **moved)


def _tensors(crosscoder: Crosscoder) -> dict[str, Tensor]:
    return {name: getattr(crosscoder, name) for name in TENSORS}


@dataclass(frozen=True)
class CrosscoderQuality:
    """How much a crosscoder keeps of both models' activations, and how sparsely."""

    fvu_source: float
    """Fraction of variance unexplained: sum |x - xhat|^2 / sum |x - mean|^2."""
    fvu_target: float
    l0: float
    """Latents above 0, mean over rows."""
    dead: float
    """Share of latents that fire on none of these rows."""
    n: int
    """Rows measured."""


def check_pairs(source: Float[Tensor, "_ _d"], target: Float[Tensor, "_ _d"]) -> None:
    """Returns nothing.

    Raises:
        ProbeError: Where the two are not finite, or not as many rows of one width.
    """
    if source.shape != target.shape:
        raise ProbeError(f"source {tuple(source.shape)} and target {tuple(target.shape)}; both must be the same [row, d_in], a row a site")
    check_finite(source, "source activations")
    check_finite(target, "target activations")


@torch.no_grad()
def evaluate_crosscoder(crosscoder: Crosscoder, source: Float[Tensor, "_ _d"], target: Float[Tensor, "_ _d"]) -> CrosscoderQuality:
    """Returns how well a crosscoder rebuilds paired rows of raw activations, at its own precision.

    Raises:
        ProbeError: On activations that are not paired, not finite or, in either model, do not vary.
    """
    check_pairs(source, target)
    means = [x.mean(0, dtype=torch.float64) for x in (source, target)]
    lost, total, active = [0.0, 0.0], [0.0, 0.0], 0.0
    fired = torch.zeros(crosscoder.d_sae, dtype=torch.bool, device=source.device)
    for rows in zip(source.split(ROWS_AT_ONCE), target.split(ROWS_AT_ONCE), strict=True):
        latents = crosscoder.encode(*rows)
        for model, (x, rebuilt) in enumerate(zip(rows, crosscoder.decode(latents), strict=True)):
            lost[model] += float((x.double() - rebuilt.double()).square().sum())
            total[model] += float((x.double() - means[model]).square().sum())
        active += float((latents > 0).sum())
        fired |= (latents > 0).any(0)
    for name, variation in zip(MODELS, total, strict=True):
        if variation == 0:
            raise ProbeError(f"all {name} rows are equal; variance explained needs rows that vary")
    n = len(source)
    return CrosscoderQuality(lost[0] / total[0], lost[1] / total[1], active / n, 1 - float(fired.float().mean()), n)


def save_crosscoder(crosscoder: Crosscoder, folder: Path) -> None:
    """Writes ``model.safetensors`` (the tensors, by their names) and ``config.json`` (all else), making the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in _tensors(crosscoder).items()}, folder / WEIGHTS_NAME)
    stated: dict[str, Any] = {name: getattr(crosscoder, name) for name in STATED}
    config = {"artefact": ARTEFACT, "format_version": FORMAT_VERSION, **stated}
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_crosscoder(folder: Path, fitted_on: tuple[str, str] | None = None) -> Crosscoder:
    """Returns the crosscoder that ``save_crosscoder`` wrote.

    Args:
        folder: Where it was written.
        fitted_on: Fingerprints of what it is to be used on, source and target; None accepts any.

    Raises:
        ProbeError: Where the folder holds no whole crosscoder, or one fitted on something else (both are named).
    """
    config = read_config(folder, ARTEFACT)
    try:
        stored = load_file(folder / WEIGHTS_NAME)
        fields = {name: stored[name] for name in TENSORS} | {name: config[name] for name in STATED}
        fields |= {name: tuple(fields[name]) for name in ("models", "fitted_on")}
        found = Crosscoder(**fields)
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise ProbeError(f"{folder} holds no whole {ARTEFACT} ({type(error).__name__}: {error})") from None
    if fitted_on is not None:
        for one, expected in zip(found.fitted_on, fitted_on, strict=True):
            check_fitted_on(one, expected, folder)
    return found
