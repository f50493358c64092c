"""Between the space an SAE is trained in and raw activations: a centring and scaling that is folded into the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from probes.errors import ProbeError, check_finite

if TYPE_CHECKING:
    from sae_lens import SAE, TrainingSAE

IN_LATENT_UNITS = ("b_enc", "b_gate", "b_mag", "threshold")
"""Parameters of one number a latent that scale with pre-activations; a gated SAE's ``r_mag`` is an exponent, and does not."""
CENTRED = ("standard", "topk", "jumprelu")
"""Architectures whose encoder is one matrix and one bias a latent."""
CALIBRATION_LATENTS = 2**24
"""At most so many pre-activations decide a threshold: 64 MiB of them, 16,384 rows of 1,024 latents."""


@dataclass(frozen=True, eq=False)
class Scaling:
    """The map that training sees activations through: z = (x - mean) * factor, of mean square 1 a dimension."""

    mean: Float[Tensor, " d_model"]
    factor: float

    @classmethod
    def of(cls, activations: Float[Tensor, "row d_model"]) -> Scaling:
        """Returns the scaling that these rows call for.

        Raises:
            ProbeError: On rows that are no rows, not finite, or all equal.
        """
        if activations.ndim != 2:
            raise ProbeError(f"activations have shape {tuple(activations.shape)}; they must be [row, d_model]")
        check_finite(activations)
        mean = activations.mean(0, dtype=torch.float64).float()
        square = float((activations.float() - mean).square().mean())
        if square == 0:
            raise ProbeError("all activation rows are equal; an SAE needs rows that vary")
        return cls(mean, square**-0.5)

    def to(self, device: torch.device | str) -> Scaling:
        """Returns the same scaling on another device."""
        return Scaling(self.mean.to(device), self.factor)

    def __call__(self, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """Returns the rows as training sees them, in float32."""
        return (x.to(self.mean.device, torch.float32) - self.mean) * self.factor


def built(config: dict[str, Any], weights: dict[str, Tensor]) -> SAE[Any]:
    """Returns SAELens' inference SAE of a configuration with these weights, frozen."""
    from sae_lens import SAE

    with torch.random.fork_rng(devices=[]):  # it draws weights, which are replaced here
        sae = SAE.from_dict(config)
    sae.load_state_dict(weights)
    return sae.requires_grad_(False).eval()


@torch.no_grad()
def unfolded(trained: TrainingSAE[Any], scaling: Scaling) -> SAE[Any]:
    """Returns the inference SAE that does to raw activations what ``trained`` does to scaled ones.

    Decoder rows get unit norm, so a latent's value is its length in activation space; a TopK SAE that chooses its latents with no regard
    to these norms keeps them. BatchTopK becomes JumpReLU, with SAELens' moving average as its threshold (see ``calibrated``).
    """
    config = trained.cfg.get_inference_sae_cfg_dict()
    keeps = not getattr(trained.cfg, "rescale_acts_by_decoder_norm", True)
    norms = torch.ones_like(trained.W_dec[:, 0]) if keeps else trained.get_W_dec_norm()
    found = dict(trained.state_dict())
    if "topk_threshold" in found:  # compared with pre-activations that are multiplied by the norms
        found["threshold"] = found.pop("topk_threshold").float() / norms
    weights = {name: value * norms / scaling.factor if name in IN_LATENT_UNITS else value for name, value in found.items()}
    if "threshold" in weights:
        weights["threshold"] = weights["threshold"].clamp_min(0.0)
    weights["W_enc"] = trained.W_enc * norms
    weights["W_dec"] = trained.W_dec / norms[:, None]
    weights["b_dec"] = trained.b_dec / scaling.factor + scaling.mean
    if "rescale_acts_by_decoder_norm" in config:
        config["rescale_acts_by_decoder_norm"] = False
    return built(config, weights)


@torch.no_grad()
def adopt(training: TrainingSAE[Any], start: SAE[Any], scaling: Scaling) -> None:
    """Gives ``training`` the weights with which it does to scaled activations what ``start`` does to raw ones.

    A BatchTopK training has no threshold a latent: it takes those of ``start`` as their mean, and chooses by batch.

    Raises:
        ProbeError: Where ``start`` is of another architecture or shape.
    """
    _check_start(training, start)
    found = {name: value.to(scaling.mean.device, torch.float32, copy=True) for name, value in start.state_dict().items()}
    if not start.cfg.apply_b_dec_to_input:
        shift = found["b_dec"] @ found["W_enc"]
        shifts = {"b_enc": shift, "b_gate": shift, "b_mag": shift * found.get("r_mag", torch.zeros_like(shift)).exp()}
        found |= {name: found[name] + shifts[name] for name in found.keys() & shifts.keys()}
    norms = found["W_dec"].norm(dim=1)
    if getattr(start.cfg, "rescale_acts_by_decoder_norm", None) is False and not torch.allclose(norms, torch.ones_like(norms), atol=1e-4):
        training.cfg.rescale_acts_by_decoder_norm = False
    found |= {name: found[name] * scaling.factor for name in found.keys() & set(IN_LATENT_UNITS)}
    found["b_dec"] = (found["b_dec"] - scaling.mean) * scaling.factor
    if "topk_threshold" in training.state_dict():
        found["topk_threshold"] = (found.pop("threshold") * norms).double().mean()
    training.load_state_dict(found)


def _check_start(training: TrainingSAE[Any], start: SAE[Any]) -> None:
    """Raises ProbeError where ``start`` is not what this training ends in."""
    wanted = training.cfg.get_inference_sae_cfg_dict()
    found = {**start.cfg.to_dict(), "architecture": start.cfg.architecture()}
    for name in ("architecture", "d_in", "d_sae", "k"):
        if name in wanted and found.get(name) != wanted[name]:
            raise ProbeError(f"start has {name} {found.get(name)!r}; this recipe and these activations need {wanted[name]!r}")


@torch.no_grad()
def centring_folded(sae: SAE[Any]) -> SAE[Any]:
    """Returns an SAE that does to raw activations what this one does to centred ones, where its metadata say that it reads such.

    TransformerLens takes the mean over dimensions from all that is written to the residual stream (``center_writing_weights``): each norm
    begins with that anyway. The public SAEs of GPT-2 were trained so. With C the matrix that takes a mean away, b the decoder's bias and W
    the encoder, (xC - b)W is (x - b)CW + b(CW - W). What is reconstructed stays without that mean, and the norms behind it see no
    difference.

    Raises:
        ProbeError: Where it has other biases than one a latent, or scales what it reads.
    """
    stated = sae.cfg.metadata.model_from_pretrained_kwargs or {}
    if not stated.get("center_writing_weights"):
        return sae
    if sae.cfg.architecture() not in CENTRED or sae.cfg.normalize_activations != "none":
        found = f"{sae.cfg.architecture()}, normalize_activations {sae.cfg.normalize_activations}"
        raise ProbeError(f"an SAE of centred activations is {found}; only {', '.join(CENTRED)} with none can be made to read raw ones")
    centred = sae.W_enc - sae.W_enc.mean(0)
    if sae.cfg.apply_b_dec_to_input:
        sae.b_enc += sae.b_dec @ (centred - sae.W_enc)
    sae.W_enc.copy_(centred)
    sae.cfg.metadata.model_from_pretrained_kwargs = {}
    return sae


@torch.no_grad()
def calibrated(sae: SAE[Any], activations: Float[Tensor, "row d_model"], k: int) -> SAE[Any]:
    """Returns a JumpReLU SAE with the one threshold at which these raw rows have ``k`` active latents on average.

    SAELens' own is a moving average with a memory of 100 steps, which begins at 0: after 12 steps an SAE of k = 4 has 2000 active latents.
    """
    most = max(1, CALIBRATION_LATENTS // sae.cfg.d_sae)
    rows = activations[:: -(-len(activations) // most)].to(sae.W_dec.device)
    sae.threshold.zero_()
    values = sae.encode(rows.float()).flatten()
    wanted = min(k * len(rows) + 1, len(values))
    sae.threshold.fill_(values.topk(wanted, sorted=False).values.min())
    return sae
