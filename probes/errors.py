"""What every reader refuses."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


class ProbeError(ValueError):
    """Data that no reader can be fitted on, or a saved reader that does not belong to what it is used on."""


def check_finite(x: Float[Tensor, "*shape"], name: str = "activations") -> None:
    """Returns nothing.

    Raises:
        ProbeError: Where ``x`` is empty, or holds a NaN or an infinity.
    """
    if x.numel() == 0:
        raise ProbeError(f"the {name} have shape {tuple(x.shape)}; at least one value is needed")
    bad = int((~torch.isfinite(x)).sum())
    if bad:
        raise ProbeError(f"{bad} of {x.numel()} values of the {name} are NaN or infinite; all must be finite")
