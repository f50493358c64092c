"""Floors: what a reading scores when there is nothing to read."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional

from probes.errors import ProbeError


def shuffle_labels(y: Shaped[Tensor, " row *head"], seed: int) -> Shaped[Tensor, " row *head"]:
    """Returns the labels with their rows permuted: base rates and correlations between heads stay, the tie to activations goes.

    A probe fitted on them measures what its capacity alone achieves: the label form of the control tasks of Hewitt & Liang (2019).
    """
    return y[torch.randperm(len(y), generator=torch.Generator().manual_seed(seed)).to(y.device)]


def random_rotation(d: int, seed: int) -> Float[Tensor, "d_model d_model"]:
    """Returns an orthogonal matrix drawn uniformly: the QR factor of a Gaussian matrix with R's signs made positive (Mezzadri 2007).

    It keeps every norm and angle of an activation space and loses its coordinates: the floor of a reader that was moved over.
    """
    _check_positive(d=d)
    gaussian = torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    q, r = torch.linalg.qr(gaussian)
    rotation: Tensor = q * r.diagonal().sign()
    return rotation.float()


def random_directions(n: int, d: int, seed: int) -> Float[Tensor, "head d_model"]:
    """Returns ``n`` independent unit vectors, uniform on the sphere: the floor of an intervention of the same size."""
    _check_positive(n=n, d=d)
    return functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=-1)


def _check_positive(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ProbeError(f"{name} is {value}; it must be at least 1")
