"""Erasers: what they take away is gone, what they leave is untouched, and the control takes away as much of anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from concept_erasure import LeaceFitter
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor
from torch.nn.functional import normalize

from probes.controls import random_rotation
from probes.erase import ERASERS, Eraser, fit_inlp, fit_leace, fit_random, load_eraser, save_eraser
from probes.errors import ProbeError
from probes.fitters import FITTERS
from probes.linear import fit_logistic
from probes.metrics import auc

HEADS = ("a", "b", "c")
D = 16


def planted(rows: int = 3000, seed: int = 0, *, correlated: bool = True) -> tuple[Tensor, Tensor]:
    """Returns activations far from the origin, and labels drawn from logits along three directions."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, D, generator=generator)
    x = x @ torch.randn(D, D, generator=generator) if correlated else 4 * x
    directions = normalize(torch.randn(len(HEADS), D, generator=generator), dim=1)
    logits = x @ directions.T + torch.tensor([0.0, -2.0, 1.0])
    return x + 5, torch.rand(logits.shape, generator=generator) < torch.sigmoid(logits)


def digits(rows: int = 3000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Returns activations clustered by one of three digits, and the digit one-hot: heads that depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.nn.functional.one_hot(torch.randint(3, (rows,), generator=generator), 3).bool()
    return torch.randn(rows, D, generator=generator) + y.float() @ torch.randn(3, D, generator=generator), y


def covariance(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.double(), y.double()
    return (x - x.mean(0)).T @ (y - y.mean(0)) / len(x)


def fitted(name: str, x: Tensor, y: Tensor) -> Eraser:
    return ERASERS[name](x, y, heads=HEADS, fitted_on="here")


# ---------------------------------------------------------------- what they erase


@pytest.mark.parametrize("reader", ["logistic", "mass_mean", "lda", "ridge"])
@pytest.mark.parametrize("data", [planted, digits])
def test_after_leace_every_linear_reader_is_a_constant(reader: str, data: object) -> None:
    x, y = data()  # type: ignore[operator]
    before = FITTERS[reader](x, y, heads=HEADS, fitted_on="here")
    erased = fitted("leace", x, y)(x)
    after = FITTERS[reader](erased, y, heads=HEADS, fitted_on="here")
    assert auc(before.scores(x), y).min() > 0.75
    assert after.weight.norm(dim=1).max() < 1e-3 * before.weight.norm(dim=1).min()
    assert (auc(after.scores(erased), y) - 0.5).abs().max() < 0.05  # 2.5 standard errors of an AUC, if its direction were not fitted


def test_after_leace_no_activation_covaries_with_a_head() -> None:
    x, y = planted()
    assert covariance(x, y).abs().max() > 0.1
    assert covariance(fitted("leace", x, y)(x.double()), y).abs().max() < 1e-12


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(5, 200), st.integers(1, 4))
def test_leace_erases_few_rows_too(seed: int, rows: int, heads: int) -> None:
    """Even fewer rows than dimensions: the shrunk covariance decides how, not whether."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.rand(rows, heads, generator=generator) < 0.5
    y[0], y[1] = True, False
    x = (torch.randn(rows, D, generator=generator) + y.float() @ torch.randn(heads, D, generator=generator)).double()
    eraser = fit_leace(x, y, heads=[str(head) for head in range(heads)], fitted_on="here")
    assert covariance(eraser(x), y).abs().max() < 1e-8
    torch.testing.assert_close(eraser(eraser(x)), eraser(x), atol=1e-8, rtol=0)
    assert eraser.rank <= heads


def test_leace_equals_the_published_formula() -> None:
    """Whitened by the shrunk covariance W, it projects away the column space of W times the covariance with the labels."""
    x, y = planted()
    x = x.double()
    covariant = LeaceFitter.fit(x, y.double()).sigma_xx
    values, vectors = torch.linalg.eigh(covariant)
    whiten, unwhiten = (vectors * values.rsqrt()) @ vectors.T, (vectors * values.sqrt()) @ vectors.T
    cross = whiten @ covariance(x, y)
    projection = unwhiten @ cross @ torch.linalg.pinv(cross) @ whiten
    expected = x - (x - x.mean(0)) @ projection.T
    torch.testing.assert_close(fitted("leace", x, y)(x), expected, atol=1e-9, rtol=0)


def test_leace_changes_least() -> None:
    """Of all affine maps that leave no covariance, in Euclidean and in Mahalanobis length (Belrose et al. 2023, theorem 4.3)."""
    x, y = planted()
    x = x.double()
    mean = x.mean(0)
    basis = torch.linalg.qr(covariance(x, y)).Q
    rivals = {name: fitted(name, x, y)(x) for name in ("leace", "inlp")} | {"class means": x - (x - mean) @ basis @ basis.T}
    precision = torch.linalg.inv(torch.cov(x.T))
    change = {}
    for name, erased in rivals.items():
        moved = erased - x
        change[name] = (moved.square().sum(1).mean(), ((moved @ precision) * moved).sum(1).mean())
    assert covariance(rivals["class means"], y).abs().max() < 1e-9
    for name in ("inlp", "class means"):
        assert change["leace"][0] < 0.95 * change[name][0]
        assert change["leace"][1] < 1.001 * change[name][1]
    generator = torch.Generator().manual_seed(0)
    leace = fitted("leace", x, y)
    for _ in range(20):
        other = leace(x) + (leace(x) - mean) @ (0.05 * torch.randn(D, D, dtype=torch.float64, generator=generator))
        assert covariance(other, y).abs().max() < 1e-9
        assert (leace(x) - x).square().sum() <= (other - x).square().sum() * 1.0001


def test_after_inlp_a_new_probe_is_at_chance() -> None:
    x, y = planted(correlated=False)
    eraser = fitted("inlp", x, y)
    erased = eraser(x)
    after = fit_logistic(erased, y, heads=HEADS, fitted_on="here")
    assert (auc(after.scores(erased), y) - 0.5).abs().max() < 0.06
    assert len(HEADS) <= eraser.rank < D
    first = fit_inlp(x, y, heads=HEADS, fitted_on="here", max_rounds=1)
    assert first.rank == len(HEADS)


def test_inlp_needs_more_dimensions_where_they_are_correlated() -> None:
    """Projecting a reader's direction away leaves what covaries with it; LEACE takes one dimension a head in any case."""
    apart, together = (planted(correlated=correlated) for correlated in (False, True))
    assert fitted("leace", *together).rank == len(HEADS)
    assert fitted("inlp", *together).rank > fitted("inlp", *apart).rank
    once = fit_inlp(*together, heads=HEADS, fitted_on="here", max_rounds=1)(together[0])
    assert auc(fit_logistic(once, together[1], heads=HEADS, fitted_on="here").scores(once), together[1]).max() > 0.6


def test_inlp_takes_first_what_the_probe_reads() -> None:
    x, y = planted()
    first = fit_inlp(x, y, heads=HEADS, fitted_on="here", max_rounds=1)
    probe = fit_logistic(x, y, heads=HEADS, fitted_on="here")
    torch.testing.assert_close(probe.directions() @ first.left.float() @ first.right.float(), probe.directions(), atol=0.01, rtol=0)


def test_inlp_of_a_concept_that_is_everywhere_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 2, generator=generator)
    y = torch.stack([x[:, 0] > 0, x[:, 1] > 0], 1)
    eraser = fit_inlp(x, y, heads=("a", "b"), fitted_on="here")
    assert eraser.rank == 2
    torch.testing.assert_close(eraser(x), x.mean(0).expand_as(x), atol=1e-5, rtol=0)


# ---------------------------------------------------------------- what they leave


@pytest.mark.parametrize("name", ERASERS)
def test_an_eraser_is_a_projection_about_the_mean(name: str) -> None:
    x, y = planted()
    eraser = fitted(name, x, y)
    once = eraser(x.double())
    torch.testing.assert_close(eraser(once), once, atol=1e-9, rtol=0)
    torch.testing.assert_close(once.mean(0), x.double().mean(0), atol=1e-6, rtol=0)
    moved = once - x.double()
    assert torch.linalg.matrix_rank(moved, rtol=1e-6) == eraser.rank
    assert eraser.kind == name


def test_erasing_what_is_not_there_leaves_what_is() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = planted()
    absent = torch.rand(len(x), 1, generator=generator) < 0.5
    reader = fit_logistic(x, y, heads=HEADS, fitted_on="here")
    before = auc(reader.scores(x), y)
    nothing = fit_inlp(x, absent, heads=["absent"], fitted_on="here")
    assert nothing.rank == 0
    assert torch.equal(nothing(x), x)
    little = fit_leace(x, absent, heads=["absent"], fitted_on="here")
    whitened = torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.double().T)))
    changed = ((little(x).double() - x.double()) @ whitened.T).square().sum(1).mean()
    assert float(changed) == pytest.approx(1.0, rel=0.03)  # one of D dimensions
    assert (
        auc(fit_logistic(little(x), y, heads=HEADS, fitted_on="here").scores(little(x)), y).min() > before.min() - 0.06
    )  # a sixteenth of what they read, by chance more


def test_the_random_control_takes_as_much_and_leaves_the_probe_alive() -> None:
    x, y = digits()
    leace, control = fitted("leace", x, y), fitted("random", x, y)
    assert leace.rank == control.rank == 2  # three digits that exclude each other vary in two dimensions
    left = control(x)
    assert auc(fit_logistic(left, y, heads=HEADS, fitted_on="here").scores(left), y).min() > 0.8
    assert not torch.equal(left, fit_random(x, y, heads=HEADS, fitted_on="here", seed=1)(x))
    wide = fit_random(x, y, heads=HEADS, fitted_on="here", rank=D)
    torch.testing.assert_close(wide(x), x.mean(0).expand_as(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["leace", "inlp"])
def test_erasure_is_as_good_after_a_rotation(name: str) -> None:
    x, y = planted(correlated=False)
    rotation = random_rotation(D, seed=3)
    turned = fitted(name, x @ rotation, y)(x @ rotation)
    after = fit_logistic(turned, y, heads=HEADS, fitted_on="here")
    assert (auc(after.scores(turned), y) - 0.5).abs().max() < 0.06
    if name == "leace":
        torch.testing.assert_close(turned, fitted(name, x, y)(x) @ rotation, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ERASERS)
def test_chunks_give_the_eraser_of_their_rows(name: str) -> None:
    x, y = digits()
    chunks = list(zip(x.split(700), y.split(700), strict=True))
    whole, streamed = fitted(name, x, y), ERASERS[name](chunks, heads=HEADS, fitted_on="here")
    assert whole.rank == streamed.rank
    torch.testing.assert_close(streamed(x), whole(x), atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_an_eraser_keeps_dtype_and_shape(dtype: torch.dtype) -> None:
    x, y = planted()
    eraser = fitted("leace", x, y)
    batch = x[:6].view(2, 3, D).to(dtype)
    erased = eraser(batch)
    assert erased.dtype == dtype
    torch.testing.assert_close(erased, eraser(batch.double()).to(dtype), atol=1e-4, rtol=1e-2)
    torch.testing.assert_close(erased[1, 2], eraser(batch[1, 2]))


# ---------------------------------------------------------------- files and refusals


@pytest.mark.parametrize("name", ERASERS)
def test_a_saved_eraser_is_itself(name: str, tmp_path: Path) -> None:
    x, y = planted(rows=300)
    eraser = fitted(name, x, y)
    save_eraser(eraser, tmp_path / "eraser")
    again = load_eraser(tmp_path / "eraser", fitted_on="here")
    assert torch.equal(again(x), eraser(x))
    assert (again.heads, again.kind, again.fitted_on, again.rank) == (eraser.heads, name, "here", eraser.rank)
    with pytest.raises(ProbeError, match=r"'here'.*'there'"):
        load_eraser(tmp_path / "eraser", fitted_on="there")


def test_a_folder_without_a_whole_eraser_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match=r"no readable config\.json"):
        load_eraser(tmp_path)
    save_eraser(fitted("random", *planted(rows=100)), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ProbeError, match="no whole eraser"):
        load_eraser(tmp_path)


@pytest.mark.parametrize("name", ERASERS)
def test_unusable_data_is_refused_by_name(name: str) -> None:
    x, y = planted(rows=100)
    one_class = y.clone()
    one_class[:, 1] = False
    with pytest.raises(ProbeError, match=r"b \(0 of 100 true\)"):
        fitted(name, x, one_class)
    with pytest.raises(ProbeError, match="2 names"):
        ERASERS[name](x, y, heads=("a", "b"), fitted_on="here")
    with pytest.raises((ProbeError, TypeCheckError)):  # jaxtyping, where it checks, is first
        fitted(name, x[:50], y)
    x[3, 3] = torch.nan
    with pytest.raises(ProbeError, match="1 of 1600 values"):
        fitted(name, x, y)


def test_wrong_widths_ranks_and_rounds_are_refused() -> None:
    x, y = planted(rows=100)
    with pytest.raises(ProbeError, match="width 5; this eraser maps width 16"):
        fitted("random", x, y)(x[:, :5])
    with pytest.raises(ProbeError, match="rank is 17"):
        fit_random(x, y, heads=HEADS, fitted_on="here", rank=17)
    with pytest.raises(ProbeError, match="max_rounds is 0"):
        fit_inlp(x, y, heads=HEADS, fitted_on="here", max_rounds=0)
    with pytest.raises((ProbeError, TypeCheckError)):
        Eraser(torch.zeros(4, 2), torch.zeros(3, 4), torch.zeros(4), HEADS, "leace", "here")
