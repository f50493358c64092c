"""Refitting a moved probe: the posterior between what it was and what the labels say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch.nn import functional

from probes.errors import ProbeError
from probes.linear import LinearProbe, fit_logistic
from probes.metrics import auc
from probes.refit import refit

D, HEADS = 6, ("a", "b")


def given(seed: int = 0) -> LinearProbe:
    generator = torch.Generator().manual_seed(seed)
    return LinearProbe(torch.randn(2, D, generator=generator), torch.tensor([0.5, -1.0]), HEADS, "logistic", "there:0")


def rows(n: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations far from the origin, of unlike variances, and noisy labels of other directions than the given probe's."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=generator) * torch.logspace(1, -1, D) + 3
    truth = (x - 3) / torch.logspace(1, -1, D) @ torch.tensor([[2.0, -1, 0, 0, 1, 0], [0, 1, 2.0, 0, 0, -1]]).T
    return x, truth + torch.randn(n, 2, generator=generator) > 0.3


def test_evidence_without_weight_changes_nothing() -> None:
    probe, (x, y) = given(), rows(200)
    adjusted = refit(probe, x, y, prior=1e9, fitted_on="here:0")
    assert torch.allclose(adjusted.weight, probe.weight, atol=1e-5)
    assert torch.allclose(adjusted.bias, probe.bias, atol=1e-5)
    assert (adjusted.fitted_on, adjusted.kind, adjusted.heads) == ("here:0", "logistic, refit", HEADS)


def test_much_evidence_forgets_the_given_probe() -> None:
    (x, y), (test_x, test_y) = rows(4000), rows(4000, seed=2)
    adjusted = refit(given(), x, y, fitted_on="here:0")
    fresh = fit_logistic(x, y, heads=HEADS, fitted_on="here:0")
    right, reached = (((probe.scores(test_x) > 0) == test_y).double().mean(0) for probe in (fresh, adjusted))
    assert torch.allclose(reached, right, atol=0.01)
    assert (((given().scores(test_x) > 0) == test_y).double().mean(0) < right - 0.1).all()


@pytest.mark.parametrize(("n", "prior"), [(30, 10.0), (300, 1.0)])
def test_it_is_the_minimum_that_a_direct_optimiser_finds(n: int, prior: float) -> None:
    """Each head alone, with its gradient written out, in float64."""
    probe, (x, y) = given(), rows(n)
    adjusted = refit(probe, x, y, prior=prior, fitted_on="here:0")
    features = np.hstack([((x - x.mean(0)) / x.std(0, correction=0)).double().numpy(), np.ones((n, 1))])
    for head in range(2):
        offset, truth = probe.scores(x)[:, head].double().numpy(), y[:, head].double().numpy()

        def value(change: np.ndarray, offset: np.ndarray = offset, truth: np.ndarray = truth) -> tuple[float, np.ndarray]:
            logits = offset + features @ change
            loss = (np.logaddexp(0, logits) - truth * logits).sum() + prior / 2 * change @ change
            return loss, features.T @ (expit(logits) - truth) + prior * change

        best = minimize(value, np.zeros(D + 1), jac=True, method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-9, "maxiter": 5000})
        logits = torch.from_numpy(offset + features @ best.x).float()
        assert torch.allclose(adjusted.scores(x)[:, head], logits, atol=2e-2, rtol=1e-3)


@pytest.mark.parametrize("n", [1, 5])
def test_rows_of_one_class_only_bend_it(n: int) -> None:
    """No row says where the threshold is, so that a fresh probe would run away."""
    probe, (x, _) = given(), rows(n)
    adjusted = refit(probe, x, torch.ones(n, 2, dtype=torch.bool), fitted_on="here:0")
    moved = adjusted.scores(x) - probe.scores(x)
    assert (moved.mean(0) > 0).all()
    assert moved.abs().max() < 5
    far, _ = rows(2000, seed=3)
    assert (auc(adjusted.scores(far), probe.scores(far) > 0) > 0.9).all()


def test_heads_do_not_touch_each_other() -> None:
    probe, (x, y) = given(), rows(100)
    both = refit(probe, x, y, fitted_on="here:0").scores(x)
    for head in range(2):
        alone = refit(probe.only([HEADS[head]]), x, y[:, head : head + 1], fitted_on="here:0").scores(x)
        assert torch.allclose(both[:, head], alone[:, 0], atol=2e-2, rtol=1e-3)


def test_a_constant_feature_keeps_its_weight() -> None:
    probe, (x, y) = given(), rows(50)
    x[:, 2] = 7.0
    adjusted = refit(probe, x, y, fitted_on="here:0")
    assert torch.equal(adjusted.weight[:, 2], probe.weight[:, 2])
    assert functional.cosine_similarity(adjusted.weight, probe.weight).max() < 1 - 1e-4


def test_unusable_evidence_is_refused() -> None:
    probe, (x, y) = given(), rows(20)
    with pytest.raises(ProbeError, match=r"activations \(20, 5\) and labels \(20, 2\) do not fit a probe of width 6 with 2 heads"):
        refit(probe, x[:, :5], y, fitted_on="here:0")
    with pytest.raises(ProbeError, match=r"labels \(20, 1\)"):
        refit(probe, x, y[:, :1], fitted_on="here:0")
    for prior in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ProbeError, match="must be greater than 0"):
            refit(probe, x, y, prior=prior, fitted_on="here:0")
    with pytest.raises(ProbeError, match="1 of 120 values of the activations are NaN"):
        refit(probe, x.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(torch.nan)), y, fitted_on="here:0")
    with pytest.raises(ProbeError, match="chooses between classes"):
        refit(replace(probe, link="softmax"), x, y, fitted_on="here:0")
