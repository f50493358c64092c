"""Readers of few features: which of a sparse autoencoder's latents tell a head, one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from probes.errors import ProbeError
from probes.lbfgs import Gradient, Start, minimise
from probes.linear import LinearProbe
from probes.logistic import BLOCK, Rows, columns
from probes.moments import Chunk, Chunks, Moments, gather


def fit_k_sparse(
    x: Tensor | Chunks,
    y: Bool[Tensor, "row head"] | None = None,
    *,
    heads: Sequence[str],
    fitted_on: str,
    k: int = 5,
    l2: float = 1e-3,
    tolerance: float = 0.01,
    max_iterations: int = 200,
    moments: Moments | None = None,
) -> LinearProbe:
    """Returns logistic regressions on k features a head: those whose class means differ most (Gurnee et al. 2023). All other weights are 0.

    Args:
        x: Activations [row, d_model], such as the latents of an SAE, or chunks of (activations, labels).
        y: Labels; None where ``x`` is chunks.
        heads: What each column of the labels says.
        fitted_on: Fingerprint of where the activations came from.
        k: Features a head; 1 asks whether there is a latent for it.
        l2: Penalty, as in ``fit_logistic``.
        tolerance: Largest last step, as a share of the length of the weights.
        max_iterations: Of L-BFGS.
        moments: Of the same rows, where they have been counted.

    Raises:
        ProbeError: As ``fit_logistic``, and on a k below 1 or above the number of features.
    """
    if l2 <= 0:
        raise ProbeError(f"l2 is {l2}; it must be greater than 0")
    chunks, moments = gather(x, y, heads, moments, products=False)
    if not 1 <= k <= len(moments.mean):
        raise ProbeError(f"k is {k}; it must be from 1 to the number of features, {len(moments.mean)}")
    above, below = moments.class_means
    chosen = (above - below).abs().topk(k, dim=1).indices.sort(1).values
    used, local = torch.unique(chosen, return_inverse=True)
    mean, spread = moments.mean[used], moments.spread[used]

    def view(x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row used"]:
        return ((x[:, used].double() - mean) / spread).float()

    rate = moments.rate[:, None]
    slope = -rate * above.gather(1, chosen) / spread[local]
    curvature = (rate * (1 - rate)).expand(-1, k + 1).clone()
    curvature[:, :-1] += l2
    base = torch.cat([torch.zeros_like(slope), torch.logit(rate)], 1)
    start = Start(*(part[:, None].float() for part in (base, functional.pad(slope, (0, 1)), curvature)))
    gradient = _gradient_of(Rows(chunks, view, moments.rows).held(), local, l2, moments.rows)
    solved = minimise(gradient, start, tolerance=tolerance, max_iterations=max_iterations)[:, 0].double()
    chosen_weight = solved[:, :-1] / spread[local]
    bias = solved[:, -1] - (chosen_weight * mean[local]).sum(1)
    weight = torch.zeros(len(heads), len(moments.mean), device=used.device).scatter_(1, chosen, chosen_weight.float())
    return LinearProbe(weight, bias.float(), tuple(heads), "k_sparse", fitted_on)


def _gradient_of(rows: Iterable[Chunk], features: Int[Tensor, "head k"], l2: float, n: int) -> Gradient:
    """Returns the gradient of heads that read these columns of the rows, each its own."""

    def gradient(point: Float[Tensor, "problem 1 size"], which: Int[Tensor, " problem"]) -> Float[Tensor, "problem 1 size"]:
        weight, bias, read = point[:, 0, :-1], point[:, 0, -1], features[which]
        total = torch.zeros(len(which), weight.shape[1] + 1, dtype=torch.float64, device=point.device)
        step = max(64, BLOCK // read.numel())
        for x, y in rows:
            for x_block, y_block in zip(x.split(step), y.view(torch.uint8).split(step), strict=True):
                picked = x_block.T.contiguous()[read]
                residual = torch.sigmoid(torch.einsum("hkr,hk->hr", picked, weight) + bias[:, None]).sub_(columns(y_block, which).T)
                total[:, :-1] += torch.einsum("hkr,hr->hk", picked, residual)
                total[:, -1] += residual.sum(1)
        total /= n
        total[:, :-1] += l2 * weight
        return total[:, None].float()

    return gradient
