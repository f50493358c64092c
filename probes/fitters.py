"""The other readers, and the table of all. All take tensors or chunks, and need moments or few passes.

Least squares on ±1 targets, linear discriminant analysis and the mass mean whitened by the covariance (Marks & Tegmark 2023) have one
direction, the inverse covariance times the difference of the means, if they are regularised alike. ``ridge`` and ``lda`` are kept for
their different scores: what a regression predicts, and the log odds of two Gaussians.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.errors import ProbeError
from probes.linear import LinearProbe, fit_logistic, fit_mass_mean
from probes.logistic import Regression, Rows, principal_axes
from probes.moments import Chunks, Moments, gather
from probes.sparse import fit_k_sparse

Labels = Bool[Tensor, "row head"]


def fit_ridge(
    x: Tensor | Chunks,
    y: Labels | None = None,
    *,
    heads: Sequence[str],
    fitted_on: str,
    l2: float = 1e-3,
    moments: Moments | None = None,
) -> LinearProbe:
    """Returns ridge regressions on targets of 1 and -1, solved by the normal equations.

    A regression that predicts f estimates the probability as (1 + f) / 2. Scores are 2f, the logit of the same probability to first
    order about f = 0: right about the boundary, too even for rare heads far from it.

    Args:
        x: Activations [row, d_model], or chunks of (activations, labels).
        y: Labels; None where ``x`` is chunks.
        heads: What each column of the labels says.
        fitted_on: Fingerprint of where the activations came from.
        l2: Penalty on the squared weights of the standardised features, beside the mean squared error (scikit-learn's alpha is
            l2 * rows). The direction is that of ``fit_lda`` with the shrinkage l2 / (1 + l2).
        moments: Of the same rows, where they have been counted.

    Raises:
        ProbeError: As ``fit_logistic``.
    """
    if l2 <= 0:
        raise ProbeError(f"l2 is {l2}; it must be greater than 0")
    _, moments = gather(x, y, heads, moments)
    penalised = moments.correlation + l2 * torch.eye(len(moments.mean), dtype=torch.float64, device=moments.mean.device)
    covariance = 2 * moments.rate[:, None] * moments.class_means[0] / moments.spread
    weight = 2 * torch.linalg.solve(penalised, covariance.T).T / moments.spread
    bias = 2 * (2 * moments.rate - 1) - weight @ moments.mean
    return LinearProbe(weight.float(), bias.float(), tuple(heads), "ridge", fitted_on)


def fit_lda(
    x: Tensor | Chunks,
    y: Labels | None = None,
    *,
    heads: Sequence[str],
    fitted_on: str,
    shrinkage: float | None = None,
    moments: Moments | None = None,
) -> LinearProbe:
    """Returns linear discriminants (Fisher 1936): the log odds of two Gaussians that share the covariance within the classes.

    One inverse serves all heads: a head's covariance within classes is the covariance of all rows less a matrix of rank one (Sherman &
    Morrison 1950). Rescaled or shifted features change no score.

    Args:
        x: Activations [row, d_model], or chunks of (activations, labels).
        y: Labels; None where ``x`` is chunks.
        heads: What each column of the labels says.
        fitted_on: Fingerprint of where the activations came from.
        shrinkage: Share of the correlations between features that is taken away, 0 to 1; None takes the oracle approximating shrinkage of
            the correlation matrix (Chen et al. 2010, equation 23), which goes to 0 as rows come in.
        moments: Of the same rows, where they have been counted.

    Raises:
        ProbeError: As ``fit_logistic``, on a shrinkage outside 0 to 1, and where the covariance is singular.
    """
    if shrinkage is not None and not 0 <= shrinkage <= 1:
        raise ProbeError(f"shrinkage is {shrinkage}; it must be from 0 to 1, or None to estimate it")
    _, moments = gather(x, y, heads, moments)
    correlation, rate = moments.correlation, moments.rate
    share = _approximating_shrinkage(correlation, moments.rows) if shrinkage is None else shrinkage
    total = (1 - share) * correlation
    total.diagonal().fill_(1.0)
    above, below = (mean / moments.spread for mean in moments.class_means)
    gap = above - below
    factor, info = torch.linalg.cholesky_ex(total)
    if int(info):
        raise ProbeError(f"the covariance of {moments.rows} rows is singular with shrinkage {share:g}; use a greater one")
    whitened = torch.cholesky_solve(gap.T, factor).T
    within = 1 - (1 - share) * rate * (1 - rate) * (gap * whitened).sum(1)
    weight = whitened / within.clamp_min(torch.finfo(torch.float32).eps)[:, None]
    bias = torch.logit(rate) - (weight * (above + below) / 2).sum(1)
    weight = weight / moments.spread
    return LinearProbe(weight.float(), (bias - weight @ moments.mean).float(), tuple(heads), "lda", fitted_on)


def _approximating_shrinkage(correlation: Float[Tensor, "d_model d_model"], rows: int) -> float:
    """Returns the share of the identity that brings the sample correlation nearest to the true one, for Gaussian rows."""
    width = len(correlation)
    square = float(correlation.square().mean())
    spread = (rows + 1) * (square - 1 / width)
    return min((square + 1) / spread, 1.0) if spread > 0 else 1.0


def fit_multinomial(
    x: Tensor | Chunks,
    y: Labels | None = None,
    *,
    heads: Sequence[str],
    fitted_on: str,
    l2: float = 1e-3,
    tolerance: float = 0.01,
    max_iterations: int = 200,
    moments: Moments | None = None,
) -> LinearProbe:
    """Returns one softmax regression over exclusive classes, one a head. Weights and biases of the classes sum to 0.

    Args:
        x: Activations [row, d_model], or chunks of (activations, labels).
        y: Labels, one true a row; None where ``x`` is chunks.
        heads: The classes.
        fitted_on: Fingerprint of where the activations came from.
        l2: Penalty, as in ``fit_logistic``.
        tolerance: Largest last step, as a share of the length of the weights.
        max_iterations: Of L-BFGS.
        moments: Of the same rows, where they have been counted.

    Raises:
        ProbeError: As ``fit_logistic``, and on a row of no class or of several.
    """
    if l2 <= 0:
        raise ProbeError(f"l2 is {l2}; it must be greater than 0")
    chunks, moments = gather(x, y, heads, moments)
    for _, labels in chunks:
        wrong = torch.nonzero(labels.sum(1) != 1).flatten()
        if len(wrong):
            raise ProbeError(f"{len(wrong)} rows are of no class or of several; each must be of exactly one of {', '.join(heads)}")
    frame = principal_axes(moments)
    rows = Rows(chunks, frame.coordinates, moments.rows).held()
    regression = Regression(rows, frame, moments, "softmax", tolerance, max_iterations)
    point = regression.solve(torch.full((len(heads),), l2, device=frame.mean.device))
    weight, bias = frame.reader(point - point.mean(0))
    return LinearProbe(weight, bias, tuple(heads), "multinomial", fitted_on, "softmax")


FITTERS: dict[str, Callable[..., LinearProbe]] = {
    "logistic": fit_logistic,
    "ridge": fit_ridge,
    "mass_mean": fit_mass_mean,
    "lda": fit_lda,
    "multinomial": fit_multinomial,
    "k_sparse": fit_k_sparse,
}
"""By name: (x, y, *, heads, fitted_on, moments) or (chunks, *, ...) to a probe."""
