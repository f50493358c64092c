"""A reader moved to another activation space, adjusted there with few labels."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from probes.errors import ProbeError, check_finite
from probes.linear import LinearProbe

ITERATIONS = 100


def refit(
    probe: LinearProbe, x: Float[Tensor, "row d_model"], y: Bool[Tensor, "row head"], *, prior: float = 10.0, fitted_on: str
) -> LinearProbe:
    """Returns the logistic probe of largest posterior on these rows, where the given probe is the middle of the prior.

    Minimises sum of cross-entropy + prior/2 (|change of weights|^2 + (change of bias)^2), in features standardised on these rows. So
    a handful of rows, even of one class, only bends the given probe, and with many rows it is forgotten (MAP adaptation).

    Args:
        probe: Where to start from.
        x: Activations of the space to read.
        y: Labels.
        prior: How many rows' worth of evidence the given probe is.
        fitted_on: Fingerprint of where ``x`` came from.

    Raises:
        ProbeError: On shapes that do not fit, values that are not finite, a prior that is not above 0, or exclusive heads.
    """
    if tuple(y.shape) != (len(x), len(probe.heads)) or x.shape[1:] != (probe.d_model,):
        raise ProbeError(
            f"activations {tuple(x.shape)} and labels {tuple(y.shape)} do not fit a probe of width {probe.d_model} with "
            f"{len(probe.heads)} heads; they must be [row, d_model] and [row, head]"
        )
    if not 0 < prior < math.inf:
        raise ProbeError(f"prior is {prior}; it must be greater than 0, and finite")
    if probe.link != "sigmoid":
        raise ProbeError(f"the {probe.kind} probe chooses between classes; only probes of independent heads are refitted")
    check_finite(x)
    x = x.float()
    mean, spread = x.mean(0), x.std(0, correction=0)
    features = (x - mean) / torch.where(spread > 0, spread, 1.0)
    offset, targets = probe.scores(x), y.float()
    change = torch.zeros(len(probe.heads), probe.d_model + 1, requires_grad=True)
    solver = torch.optim.LBFGS([change], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        logits = offset + features @ change[:, :-1].T + change[:, -1]
        value: Tensor = functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum") + prior / 2 * change.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    weight = change.detach()[:, :-1] / torch.where(spread > 0, spread, 1.0)
    bias = change.detach()[:, -1] - weight @ mean
    return replace(probe, weight=probe.weight + weight, bias=probe.bias + bias, kind=f"{probe.kind}, refit", fitted_on=fitted_on)
