"""Which latents of a crosscoder both models share: by Latent Scaling, and by the norms of its decoder rows (Minder et al. 2025).

The paper (arXiv 2504.02922) asks it of chat models and their bases. Norms are what training leaves: a latent that fires rarely may keep
most of the row that both decoders began with. Latent Scaling asks the activations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.saes.crosscoder import ROWS_AT_ONCE, Crosscoder, check_pairs

KINDS = ("shared", "source-only", "target-only", "turned", "uneven", "dead")
"""``turned``: both models have the latent, along directions that have little in common; by Latent Scaling only.
``uneven``: longer in one model, but not enough to be its own; by norms only. ``dead``: fires on none of the rows."""
SHARED, SOURCE_ONLY, TARGET_ONLY, TURNED, UNEVEN, DEAD = range(len(KINDS))
NU_ERROR, NU_RECONSTRUCTION = 0.2, 0.5
"""Below both, a latent is one model's own (Minder et al. 2025)."""
OWN, EVEN = 0.1, 0.1
"""How far from 0 or 1 the balance of norms is where a latent is one model's own, and how far from 1/2 where it is shared."""


@dataclass(frozen=True, eq=False)
class LatentScaling:
    """How much of each latent is in each model, along either model's decoder row.

    For a latent i and a direction d_i, which is the decoder row of one model (axis ``row``), beta is the least-squares scale at which
    f_i d_i explains y, and there is one for either model's y (axis ``model``):

        beta = argmin sum_n |y_n - beta f_i(n) d_i|^2 = sum_n f_i(n) y_n . d_i / (|d_i|^2 sum_n f_i(n)^2)

    all in the models' units, so that scales compare across them. The paper asks it of the latents that are the chat model's by norm, along
    the chat model's row; here it is asked of all, along both rows. It compares directions across the two models, so it holds for models
    that share a basis: those of which one was grown from the other, or whose activations were aligned before.
    """

    error: Float[Tensor, "row model d_sae"]
    """Of y = x - (reconstruction without latent i): what the latent has to explain, and what a decoder row that is too short leaves over
    (the paper's Complete Shrinkage)."""
    reconstruction: Float[Tensor, "row model d_sae"]
    """Of y = the reconstruction, latent i included and biases not: what other latents write in its place counts (Latent Decoupling).
    So does its own row, as in the authors' code: a private latent whose other row training has not yet cut to half counts as shared."""
    fired: Int[Tensor, " d_sae"]
    """Rows on which each latent is above 0; where there is none, scales are NaN."""

    def own(self, model: int) -> Bool[Tensor, " d_sae"]:
        """Returns which latents are one model's, along its decoder row: nu_error < .2 and nu_reconstruction < .5.

        Each nu is the ratio of the other model's beta to this one's (Minder et al. 2025, section on Latent Scaling).
        """
        other = 1 - model
        error = self.error[model, other] < NU_ERROR * self.error[model, model]
        return error & (self.reconstruction[model, other] < NU_RECONSTRUCTION * self.reconstruction[model, model])


@torch.no_grad()
def scale_latents(crosscoder: Crosscoder, source: Float[Tensor, "_ _d"], target: Float[Tensor, "_ _d"]) -> LatentScaling:
    """Returns the scales of all latents on paired rows of raw activations, in one pass with sums.

    Raises:
        ProbeError: On activations that are not paired or not finite.
    """
    check_pairs(source, target)
    rows = (crosscoder.W_dec / crosscoder.unit[:, None, None]).double()
    left, written = torch.zeros_like(rows), torch.zeros_like(rows)  # sums of f_i y over rows
    squares = torch.zeros_like(rows[0, :, 0])
    fired = torch.zeros_like(squares, dtype=torch.int64)
    for pair in zip(source.split(ROWS_AT_ONCE), target.split(ROWS_AT_ONCE), strict=True):
        latents = crosscoder.encode(*pair)
        for model, (x, rebuilt) in enumerate(zip(pair, crosscoder.decode(latents), strict=True)):
            left[model] += latents.T @ ((x - rebuilt) / crosscoder.unit[model])
            written[model] += latents.T @ ((rebuilt - crosscoder.b_dec[model]) / crosscoder.unit[model])
        squares += latents.square().sum(0)
        fired += (latents > 0).sum(0)
    left = left / squares[:, None] + rows
    along = rows.square().sum(2)[:, None]
    error = torch.einsum("rld,mld->rml", rows, left) / along
    reconstruction = torch.einsum("rld,mld->rml", rows, written / squares[:, None]) / along
    return LatentScaling(error.float(), reconstruction.float(), fired)


def norm_balance(crosscoder: Crosscoder) -> Float[Tensor, " d_sae"]:
    """Returns .5 (1 + (|d_target| - |d_source|) / max(|d_target|, |d_source|)): 0 is the source's own, 1/2 shared, 1 the target's own.

    It is the relative norm difference of Lindsey et al. 2024 as Minder et al. 2025 scale it; lengths are in the models' units.
    """
    source, target = crosscoder.decoder_norms()
    return 0.5 * (1 + (target - source) / torch.maximum(target, source))


@dataclass(frozen=True, eq=False)
class Kinds:
    """What each latent is, as places in ``KINDS``."""

    by_scaling: Int[Tensor, " d_sae"]
    by_norm: Int[Tensor, " d_sae"]

    def counts(self) -> dict[str, dict[str, int]]:
        """Returns for either method how many latents are of each kind, by name."""
        methods = {"by_scaling": self.by_scaling, "by_norm": self.by_norm}
        return {name: {kind: int((found == place).sum()) for place, kind in enumerate(KINDS)} for name, found in methods.items()}


def kinds_of(crosscoder: Crosscoder, scaling: LatentScaling) -> Kinds:
    """Returns what each latent is, by Latent Scaling and by norms.

    By Latent Scaling a latent is a model's own where ``LatentScaling.own`` says so, and shared where it is neither's. It can be found to be
    both's, each along its row: if one row is less than half as long as the other, the longer one decides, and else the latent is turned.
    By norms it is a model's own within .1 of either end of ``norm_balance``, and shared within .1 of the middle.
    """
    balance = norm_balance(crosscoder)
    source, target = scaling.own(0), scaling.own(1)
    both = source & target
    by_scaling = torch.full_like(scaling.fired, SHARED)
    by_scaling[source & (~both | (balance < NU_RECONSTRUCTION / 2))] = SOURCE_ONLY
    by_scaling[target & (~both | (balance > 1 - NU_RECONSTRUCTION / 2))] = TARGET_ONLY
    by_scaling[both & (by_scaling == SHARED)] = TURNED
    by_norm = torch.full_like(scaling.fired, UNEVEN)
    by_norm[(balance - 0.5).abs() <= EVEN] = SHARED
    by_norm[balance < OWN] = SOURCE_ONLY
    by_norm[balance > 1 - OWN] = TARGET_ONLY
    for found in (by_scaling, by_norm):
        found[scaling.fired == 0] = DEAD
    return Kinds(by_scaling, by_norm)
