"""Alignments: each recovers the difference it can express."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from probes.align import ALIGNMENTS, mean_shift, procrustes, ridge_affine
from probes.controls import random_rotation
from probes.errors import ProbeError

D = 12


def source_rows(rows: int = 400, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, D, generator=generator) @ torch.randn(D, D, generator=generator) + 5


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_a_space_is_aligned_with_itself_by_doing_nothing(name: str) -> None:
    x = source_rows()
    alignment = ALIGNMENTS[name](x, x)
    assert alignment.name == name
    torch.testing.assert_close(alignment(x), x, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(alignment(x[None, :3]), x[None, :3], atol=1e-4, rtol=1e-4)


def test_a_rotated_copy_is_recovered_by_procrustes() -> None:
    x = source_rows()
    rotation = random_rotation(D, seed=1)
    alignment = procrustes(x, x @ rotation - 3)
    torch.testing.assert_close(alignment.matrix, rotation, atol=1e-4, rtol=0)
    torch.testing.assert_close(alignment(x), x @ rotation - 3, atol=1e-3, rtol=0)


def test_procrustes_leaves_what_the_rows_do_not_move_in() -> None:
    x = torch.zeros(50, D)
    x[:, :4] = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    target = x.clone()
    target[:, :4] = x[:, :4] @ random_rotation(4, seed=2)
    matrix = procrustes(x, target).matrix
    torch.testing.assert_close(matrix[4:, 4:], torch.eye(D - 4), atol=1e-4, rtol=0)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(D), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", [name for name in ALIGNMENTS if name != "identity"])
def test_a_shifted_copy_is_recovered(name: str) -> None:
    x = source_rows()
    shift = torch.arange(D).float()
    torch.testing.assert_close(ALIGNMENTS[name](x, x + shift)(x), x + shift, atol=1e-3, rtol=1e-3)


def test_an_affine_copy_is_recovered_by_ridge_with_much_data() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50_000, D, generator=generator) + 2
    matrix, offset = torch.randn(D, D, generator=generator), torch.randn(D, generator=generator)
    alignment = ridge_affine(x, x @ matrix + offset + 0.1 * torch.randn(x.shape, generator=generator))
    torch.testing.assert_close(alignment.matrix, matrix, atol=0.02, rtol=0)
    torch.testing.assert_close(alignment(x), x @ matrix + offset, atol=0.1, rtol=0)


def test_ridge_falls_back_to_the_mean_shift() -> None:
    x, target = source_rows(2), source_rows(2, seed=9)
    near = ridge_affine(x, target, l2=1e9)
    torch.testing.assert_close(near(x), mean_shift(x, target)(x), atol=1e-4, rtol=1e-4)
    unseen = torch.randn(D, generator=torch.Generator().manual_seed(3))
    seen = (x[0] - x[1]) / (x[0] - x[1]).norm()
    unseen -= unseen @ seen * seen
    torch.testing.assert_close(unseen @ ridge_affine(x, target).matrix, unseen, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_unusable_rows_are_refused(name: str) -> None:
    x = source_rows()
    with pytest.raises((ProbeError, TypeCheckError)):  # jaxtyping, where it checks, is first
        ALIGNMENTS[name](x, x[:-1])
    with pytest.raises(ProbeError, match="values of the target activations"):
        ALIGNMENTS[name](x, x * torch.nan)
    alignment = ALIGNMENTS[name](x, x)
    with pytest.raises(ProbeError, match="width 3"):
        alignment(torch.zeros(2, 3))


@pytest.mark.parametrize("fit", [ridge_affine, procrustes])
def test_a_map_needs_two_rows(fit: type) -> None:
    with pytest.raises(ProbeError, match="at least 2"):
        fit(source_rows(1), source_rows(1))


def test_a_source_that_does_not_vary_is_refused_by_ridge() -> None:
    with pytest.raises(ProbeError, match="rows that vary"):
        ridge_affine(torch.ones(5, D), source_rows(5))
    with pytest.raises(ProbeError, match="greater than 0"):
        ridge_affine(source_rows(5), source_rows(5), l2=0.0)
