"""How alike two models' activations of the same tokens are."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from probes.errors import ProbeError, check_finite


def _checked(
    x: Float[Tensor, "row d_model"], y: Float[Tensor, "row other"]
) -> tuple[Float[Tensor, "row d_model"], Float[Tensor, "row other"]]:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 2:
        raise ProbeError(f"activations have shapes {tuple(x.shape)} and {tuple(y.shape)}; both must be [row, width], 2 rows at least")
    check_finite(x, "the first activations")
    check_finite(y, "the second activations")
    return x.double(), y.double()


def linear_cka(x: Float[Tensor, "row d_model"], y: Float[Tensor, "row other"]) -> float:
    """Returns the linear centred kernel alignment, 0 to 1 (Kornblith et al. 2019, 1905.00414, equation 4).

    1 means equal up to rotation, one scale and a shift. It is biased upward where rows are not many more than columns. NaN where one of
    the two is constant.
    """
    x, y = _checked(x, y)
    x, y = x - x.mean(0), y - y.mean(0)
    return float((x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


def mean_cosine(x: Float[Tensor, "row d_model"], y: Float[Tensor, "row d_model"]) -> float:
    """Returns the mean over rows of the cosine between the two activations, -1 to 1: equal directions, with no rotation forgiven."""
    x, y = _checked(x, y)
    if x.shape != y.shape:
        raise ProbeError(f"activations have widths {x.shape[1]} and {y.shape[1]}; a cosine needs the same")
    return float(torch.cosine_similarity(x, y, dim=1).mean())
