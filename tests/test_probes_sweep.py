"""Readers of many heads at once: against scikit-learn, over streams, and in a sweep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize, one_hot

from probes.errors import ProbeError
from probes.fitters import FITTERS, fit_k_sparse, fit_lda, fit_multinomial, fit_ridge
from probes.linear import LinearProbe, fit_logistic, log_loss
from probes.moments import Moments, count_moments
from probes.sweep import estimate_sweep, fit_sweep

BINARY = [name for name in FITTERS if name != "multinomial"]


class Stream:
    """Rows in chunks of one size, counted."""

    def __init__(self, x: Tensor, y: Tensor, size: int) -> None:
        self.x, self.y, self.size, self.passes = x, y, size, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.passes += 1
        return zip(self.x.split(self.size), self.y.split(self.size), strict=True)


def names(heads: int) -> tuple[str, ...]:
    return tuple(f"h{head}" for head in range(heads))


def hard(rows: int = 3000, d_model: int = 24, heads: int = 8, seed: int = 0, exclusive: bool = False) -> tuple[Tensor, Tensor]:
    """Returns ill-conditioned, correlated activations far from 0, and heads from common to rare."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(rows, d_model, generator=generator)
    scores = 1.5 * latent @ normalize(torch.randn(d_model, heads, generator=generator), dim=0)
    scores = scores + torch.distributions.Gumbel(0.0, 1.0).icdf(torch.rand(scores.shape, generator=generator).clamp(1e-6, 1 - 1e-6))
    labels = one_hot(scores.argmax(1), heads).bool() if exclusive else scores > torch.linspace(0.3, 4, heads)
    mixed = torch.linalg.qr(torch.randn(d_model, d_model, generator=generator)).Q
    return latent * torch.logspace(1.5, -1, d_model) @ mixed + 40, labels


def fitted(name: str, x: Any, y: Tensor | None, heads: int, **options: Any) -> LinearProbe:
    return FITTERS[name](x, y, heads=names(heads), fitted_on="here", **options)


def standardised(x: Tensor) -> np.ndarray[Any, Any]:
    return ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()


def spread(x: Tensor) -> Tensor:
    return x.std(0, correction=0)


# theorems


def test_k_sparse_finds_the_planted_features() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.relu(torch.randn(4000, 300, generator=generator) - 1)
    y = torch.stack([x[:, 7] > 0.2, x[:, 31] + x[:, 200] > 0.5], 1)
    assert torch.nonzero(fit_k_sparse(x, y, heads=names(2), fitted_on="here", k=1).weight[0]).flatten().tolist() == [7]
    probe = fit_k_sparse(x, y, heads=names(2), fitted_on="here", k=2)
    assert torch.nonzero(probe.weight[1]).flatten().tolist() == [31, 200]
    assert ((probe.scores(x) > 0) == y).float().mean(0).min() > 0.95
    assert (probe.weight != 0).sum(1).tolist() == [2, 2]


def test_rescaled_and_shifted_features_change_no_score_of_lda() -> None:
    x, y = hard()
    one = fitted("lda", x, y, 8)
    factor, offset = torch.logspace(-3, 3, 24), torch.linspace(-50, 50, 24)
    two = fitted("lda", x.double() * factor + offset, y, 8)
    torch.testing.assert_close(two.scores(x.double() * factor + offset), one.scores(x), atol=0.02, rtol=1e-3)


@pytest.mark.parametrize("name", [*BINARY, "multinomial"])
def test_erased_features_read_the_base_rate(name: str) -> None:
    x, y = hard(exclusive=name == "multinomial")
    known = torch.cat([y, torch.ones(len(y), 1)], 1).double()
    erased = x.double() - known @ torch.linalg.pinv(known) @ x.double()
    probe = fitted(name, erased, y, 8)
    rate = y.float().mean(0)
    expected = {"mass_mean": torch.full((8,), 0.5), "ridge": torch.sigmoid(4 * rate - 2)}.get(name, rate)
    torch.testing.assert_close(probe.probabilities(erased[:50]), expected.expand(50, 8), atol=0.02, rtol=0)


def test_multinomial_recovers_planted_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(4, 16, generator=generator)
    x = torch.randn(20_000, 16, generator=generator)
    y = one_hot(torch.multinomial(torch.softmax(x @ directions.T, 1), 1, generator=generator)[:, 0], 4).bool()
    probe = fitted("multinomial", x, y, 4)
    assert cosine_similarity(probe.directions(), normalize(directions - directions.mean(0), dim=1)).min() > 0.99
    torch.testing.assert_close(probe.probabilities(x[:9]).sum(1), torch.ones(9))
    assert probe.link == "softmax"


def test_a_head_of_noise_picks_the_strongest_penalty() -> None:
    x, y = hard(rows=400)
    y = torch.cat([y[:, :2], (torch.rand(400, 1, generator=torch.Generator().manual_seed(1)) < 0.5)], 1)
    grid = [1e-4, 1e-2, 1.0]
    train, held = (x[:250], y[:250]), [(x[250:], y[250:])]
    each = torch.stack([log_loss(fitted("logistic", *train, 3, l2=l2, tolerance=1e-3), held) for l2 in grid])
    chosen = fitted("logistic", *train, 3, l2=grid, held_out=held, tolerance=1e-3)
    torch.testing.assert_close(log_loss(chosen, held), each.min(0).values, atol=1e-4, rtol=1e-3)
    assert each.argmin(0).tolist()[2] == 2


# against scikit-learn and formulas


@pytest.mark.parametrize("l2", [1e-4, 1e-2, 1.0])
def test_logistic_equals_scikit_learn(l2: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = hard(rows=2000)
    probe = fitted("logistic", x, y, 8, l2=l2)
    for head in (0, 4, 7):
        theirs = linear_model.LogisticRegression(C=1 / (l2 * len(x)), tol=1e-9, max_iter=9000).fit(standardised(x), y[:, head].numpy())
        weight = torch.from_numpy(theirs.coef_[0]).float()
        assert cosine_similarity(probe.weight[head] * spread(x), weight, dim=0) > 1 - 1e-3
        same = (probe.scores(x)[:, head] > 0).numpy() == theirs.predict(standardised(x))
        assert same.mean() > 0.997


def test_a_tight_tolerance_gives_the_weights_themselves() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = hard(heads=3)
    probe = fitted("logistic", x, y, 3, l2=1e-2, tolerance=1e-4)
    for head in range(3):
        theirs = linear_model.LogisticRegression(C=1 / (1e-2 * len(x)), tol=1e-10, max_iter=9000).fit(standardised(x), y[:, head].numpy())
        ours = (probe.weight[head] * spread(x)).double()
        torch.testing.assert_close(ours, torch.from_numpy(theirs.coef_[0]), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("l2", [1e-3, 0.5])
def test_ridge_equals_the_normal_equations(l2: float) -> None:
    x, y = hard()
    features, targets = torch.from_numpy(standardised(x)), 2 * y.double() - 1
    ones = torch.cat([features, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    penalty = l2 * len(x) * torch.diag(torch.tensor([1.0] * 24 + [0.0], dtype=torch.float64))
    expected = ones @ torch.linalg.solve(ones.T @ ones + penalty, ones.T @ targets)
    torch.testing.assert_close(fitted("ridge", x, y, 8, l2=l2).scores(x).double(), 2 * expected, atol=2e-3, rtol=1e-3)


def test_lda_equals_scikit_learn() -> None:
    discriminant = pytest.importorskip("sklearn.discriminant_analysis")
    x, y = hard()
    probe = fitted("lda", x, y, 8, shrinkage=0.0)
    for head in range(8):
        theirs = discriminant.LinearDiscriminantAnalysis(solver="lsqr").fit(x.double().numpy(), y[:, head].numpy())
        expected = torch.from_numpy(theirs.decision_function(x.double().numpy()))
        torch.testing.assert_close(probe.scores(x)[:, head].double(), expected, atol=5e-3, rtol=1e-3)


def test_the_estimated_shrinkage_is_scikit_learns() -> None:
    covariance = pytest.importorskip("sklearn.covariance")
    x, y = hard(rows=60)
    _, share = covariance.oas(standardised(x))
    torch.testing.assert_close(fitted("lda", x, y[:, :3], 3).weight, fitted("lda", x, y[:, :3], 3, shrinkage=float(share)).weight)


def test_ridge_and_lda_have_one_direction() -> None:
    x, y = hard()
    one, two = fitted("ridge", x, y, 8, l2=0.1), fitted("lda", x, y, 8, shrinkage=0.1 / 1.1)
    torch.testing.assert_close(one.directions(), two.directions(), atol=1e-4, rtol=0)


def test_multinomial_equals_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = hard(heads=5, exclusive=True)
    probe = fitted("multinomial", x, y, 5, l2=1e-2)
    theirs = linear_model.LogisticRegression(C=1 / (1e-2 * len(x)), tol=1e-9, max_iter=9000).fit(standardised(x), y.int().argmax(1).numpy())
    weights = torch.from_numpy(theirs.coef_).float()
    assert cosine_similarity(probe.weight * spread(x), weights).min() > 1 - 1e-3
    torch.testing.assert_close(probe.probabilities(x).double(), torch.from_numpy(theirs.predict_proba(standardised(x))), atol=0.02, rtol=0)


def test_k_sparse_equals_logistic_on_its_features() -> None:
    x, y = hard()
    probe = fitted("k_sparse", x, y, 8, k=3, tolerance=1e-3)
    for head in range(8):
        read = torch.nonzero(probe.weight[head]).flatten()
        alone = fit_logistic(x[:, read], y[:, [head]], heads=names(1), fitted_on="here", tolerance=1e-3)
        torch.testing.assert_close(alone.scores(x[:, read])[:, 0], probe.scores(x)[:, head], atol=0.02, rtol=0.01)


# properties


@pytest.mark.parametrize("name", FITTERS)
@pytest.mark.parametrize("size", [33, 512])
def test_a_stream_gives_what_its_tensors_give(name: str, size: int) -> None:
    x, y = hard(rows=1000, exclusive=name == "multinomial")
    whole = fitted(name, x, y, 8)
    streamed = fitted(name, Stream(x, y, size), None, 8)
    torch.testing.assert_close(streamed.scores(x), whole.scores(x), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("name", ["ridge", "mass_mean", "lda"])
def test_closed_forms_need_one_pass(name: str) -> None:
    x, y = hard(rows=500)
    stream = Stream(x, y, 100)
    fitted(name, stream, None, 8)
    assert stream.passes == 1


@pytest.mark.parametrize("name", BINARY)
def test_a_head_does_not_depend_on_its_batch(name: str) -> None:
    x, y = hard()
    together = fitted(name, x, y, 8)
    for head in (0, 7):
        alone = FITTERS[name](x, y[:, [head]], heads=[f"h{head}"], fitted_on="here")
        torch.testing.assert_close(alone.scores(x)[:, 0], together.scores(x)[:, head], atol=2e-3, rtol=2e-3)


def test_blocks_of_heads_and_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = hard()
    whole = fitted("logistic", x, y, 8)
    monkeypatch.setattr("probes.logistic.HEADS_AT_ONCE", 3)
    monkeypatch.setattr("probes.logistic.BLOCK", 500)
    torch.testing.assert_close(fitted("logistic", x, y, 8).scores(x), whole.scores(x), atol=2e-3, rtol=2e-3)


def test_a_penalty_a_head_is_that_heads_own() -> None:
    x, y = hard()
    twice = torch.cat([y[:, :2], y[:, :2]], 1)
    probe = fitted("logistic", x, twice, 4, l2=torch.tensor([1e-3, 1e-3, 1.0, 1.0]))
    for l2, at in ((1e-3, slice(0, 2)), (1.0, slice(2, 4))):
        alone = fitted("logistic", x, y[:, :2], 2, l2=l2)
        torch.testing.assert_close(probe.scores(x)[:, at], alone.scores(x), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", FITTERS)
def test_any_float_dtype_is_read(name: str, dtype: torch.dtype) -> None:
    x, y = hard(rows=600, exclusive=name == "multinomial")
    x = x.to(dtype)
    probe, same = fitted(name, x, y[:, :8], 8), fitted(name, x.float(), y[:, :8], 8)
    assert probe.weight.dtype == torch.float32
    torch.testing.assert_close(probe.scores(x.float()), same.scores(x.float()), atol=2e-3, rtol=2e-3)


def test_moments_add_up() -> None:
    x, y = hard(rows=900)
    x = x.double() + 1e4
    whole = count_moments([(x, y)], names(8))
    parts = count_moments(Stream(x, y, 250), names(8))
    torch.testing.assert_close(parts.covariance, torch.cov(x.T, correction=0), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(whole.covariance, parts.covariance, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(whole.spread, x.std(0, correction=0))
    above, below = parts.class_means
    torch.testing.assert_close(parts.mean + above[3], x[y[:, 3]].mean(0), atol=1e-5, rtol=1e-8)
    torch.testing.assert_close(parts.mean + below[3], x[~y[:, 3]].mean(0), atol=1e-5, rtol=1e-8)
    with pytest.raises(ProbeError, match="one origin"):
        whole + Moments.of(x, y, torch.zeros(24, dtype=torch.float64), products=True)


# sweeps


def test_a_sweep_gives_what_its_fitters_give() -> None:
    x, y = hard()
    rows = {"a": [(x, y)], "b": [(x.flip(1) * 2, y)]}
    told: list[tuple[int, int]] = []
    sweep = fit_sweep(
        rows,
        heads=names(8),
        fitted_on={"a": "here", "b": "there"},
        kinds=BINARY,
        options={"logistic": {"l2": 1e-2}},
        on_probe=lambda done, total: told.append((done, total)),
    )
    assert told[-1] == (80, 80)
    assert len(told) == 10
    for (point, kind), probe in sweep.probes.items():
        [(x_there, _)] = rows[point]
        alone = fitted(kind, x_there, y, 8, **({"l2": 1e-2} if kind == "logistic" else {}))
        torch.testing.assert_close(probe.weight, alone.weight)
        assert (probe.kind, probe.fitted_on) == (kind, {"a": "here", "b": "there"}[point])
    concept = sweep.at("b", "lda").only(["h5", "h2"])
    torch.testing.assert_close(concept.scores(x), sweep.at("b", "lda").scores(x)[:, [5, 2]])
    with pytest.raises(ProbeError, match="no multinomial probe at a; the sweep has logistic at a"):
        sweep.at("a", "multinomial")


def test_shuffled_labels_and_seeds_are_more_heads() -> None:
    x, y = hard(rows=2000)
    shuffled = y[torch.randperm(2000, generator=torch.Generator().manual_seed(0))]
    sweep = fit_sweep({"a": [(x, torch.cat([y, shuffled], 1))]}, heads=names(16), fitted_on={"a": "here"})
    torch.testing.assert_close(sweep.at("a", "logistic").only(names(8)).weight, fitted("logistic", x, y, 8).weight, atol=2e-3, rtol=2e-2)


def test_a_cost_grows_with_the_sweep() -> None:
    one = estimate_sweep(points=1, rows=2000, d_model=16, heads=30, kinds=("ridge", "multinomial"))
    two = estimate_sweep(points=4, rows=8000, d_model=16, heads=30, kinds=("ridge", "multinomial"))
    assert (one.probes, two.probes) == (60, 240)
    assert two.bytes > one.bytes
    assert one.seconds > 0


# refusals


def test_unusable_streams_are_refused() -> None:
    x, y = hard(rows=300)

    class Shrinking(Stream):
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            chunks = list(super().__iter__())
            return iter(chunks[: 4 - self.passes])

    with pytest.raises(ProbeError, match="the stream had 300 rows at first and 200 on a later pass"):
        fitted("logistic", Shrinking(x, y, 100), None, 8)
    with pytest.raises(ProbeError, match="the stream holds no rows"):
        fitted("ridge", [], None, 8)
    with pytest.raises(ProbeError, match="iterable more than once"):
        fitted("ridge", iter([(x, y)]), None, 8)
    with pytest.raises(ProbeError, match="chunks of width 24 and 23"):
        fitted("ridge", [(x, y), (x[:, 1:], y)], None, 8)
    with pytest.raises(ProbeError, match="activations without labels"):
        fitted("ridge", x, None, 8)
    with pytest.raises(ProbeError, match=r"labels of torch\.int64"):
        fitted("ridge", [(x, y.long())], None, 8)


def test_unusable_settings_are_refused() -> None:
    x, y = hard(rows=300, exclusive=True)
    for name in ("logistic", "ridge", "multinomial", "k_sparse"):
        with pytest.raises(ProbeError, match="must be greater than 0"):
            fitted(name, x, y, 8, l2=0.0)
    with pytest.raises(ProbeError, match="several penalties need them"):
        fitted("logistic", x, y, 8, l2=[1e-3, 1e-2])
    with pytest.raises(ProbeError, match="one for each of the 8 heads"):
        fitted("logistic", [(x, y)], None, 8, l2=torch.ones(3))
    with pytest.raises(ProbeError, match="k is 25; it must be from 1 to the number of features, 24"):
        fitted("k_sparse", x, y, 8, k=25)
    with pytest.raises(ProbeError, match="shrinkage is 2"):
        fitted("lda", x, y, 8, shrinkage=2.0)
    with pytest.raises(ProbeError, match="singular with shrinkage 0; use a greater one"):
        fit_lda(torch.cat([x, x], 1), y, heads=names(8), fitted_on="here", shrinkage=0.0)
    with pytest.raises(ProbeError, match="300 rows are of no class or of several"):
        fit_multinomial(x, ~y, heads=names(8), fitted_on="here")


def test_unusable_sweeps_are_refused() -> None:
    x, y = hard(rows=300)
    sweep = {"heads": names(8), "fitted_on": {"a": "here"}}
    with pytest.raises(ProbeError, match=r"no such readers: svm; there are logistic, ridge, .*k_sparse"):
        fit_sweep({"a": [(x, y)]}, kinds=["svm"], **sweep)
    with pytest.raises(ProbeError, match="options for lda; the sweep fits ridge"):
        fit_sweep({"a": [(x, y)]}, kinds=["ridge"], options={"lda": {}}, **sweep)
    with pytest.raises(ProbeError, match="rows of b and fingerprints of a"):
        fit_sweep({"b": [(x, y)]}, **sweep)
    with pytest.raises(ProbeError, match="rows is 0"):
        estimate_sweep(points=1, rows=0, d_model=8, heads=3)


def test_singular_covariances_are_shrunk() -> None:
    x, y = hard(rows=300)
    probe = fit_lda(torch.cat([x, x], 1), y, heads=names(8), fitted_on="here")
    assert probe.weight.isfinite().all()
    assert fit_ridge(torch.cat([x, x], 1), y, heads=names(8), fitted_on="here").weight.isfinite().all()
