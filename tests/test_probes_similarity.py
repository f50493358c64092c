"""Linear CKA and mean cosine: what each forgives and what it does not."""

import inspect

import pytest
import torch

from probes.errors import ProbeError
from probes.similarity import linear_cka, mean_cosine

X = torch.randn(400, 12, generator=torch.Generator().manual_seed(0))
ROTATION = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1))).Q


def test_cka_forgives_rotation_scale_and_shift_and_nothing_else() -> None:
    assert linear_cka(X, 3 * X @ ROTATION + 7) == pytest.approx(1.0, abs=1e-6)
    assert linear_cka(X, X * torch.linspace(0.1, 3, 12)) < 0.95
    assert linear_cka(X, torch.randn(400, 5, generator=torch.Generator().manual_seed(2))) < 0.1


def test_cka_is_that_of_the_gram_matrices() -> None:
    """Kornblith et al., equation 4, with the centring matrix written out."""
    y = X[:, :5] + 0.5 * torch.randn(400, 5, generator=torch.Generator().manual_seed(3))
    centre = torch.eye(400, dtype=torch.float64) - 1 / 400
    k, m = (centre @ a.double() @ a.double().T @ centre for a in (X, y))
    assert linear_cka(X, y) == pytest.approx(float((k * m).sum() / (k.norm() * m.norm())), rel=1e-9)


def test_the_cosine_forgives_scale_and_not_rotation() -> None:
    assert mean_cosine(X, 2 * X) == pytest.approx(1.0)
    assert mean_cosine(X, -X) == pytest.approx(-1.0)
    assert abs(mean_cosine(X, X @ ROTATION)) < 0.5


def test_what_cannot_be_compared_is_named() -> None:
    cka, cosine = inspect.unwrap(linear_cka), inspect.unwrap(mean_cosine)  # behind the shape check, which would refuse them first
    with pytest.raises((ProbeError, TypeError), match="row"):
        cka(X, X[:5])
    with pytest.raises((ProbeError, TypeError), match=r"widths 12 and 5|d_model"):
        cosine(X, X[:, :5])
    with pytest.raises(ProbeError, match=r"not a number|finite|NaN|number"):
        cka(X, X * float("nan"))
