"""Linear probes and their controls."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from probes.controls import random_directions, random_rotation, shuffle_labels
from probes.errors import ProbeError
from probes.fitters import FITTERS
from probes.linear import LinearProbe, fit_logistic, fit_mass_mean, load_probe, save_probe
from probes.metrics import auc

HEADS = ("a", "b", "c")
DENSE = [name for name in FITTERS if name not in ("multinomial", "k_sparse")]
"""Readers of independent heads that weigh every feature."""
INDEPENDENT = [*DENSE, "k_sparse"]


def planted(rows: int = 4000, d_model: int = 32, noise: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns activations, labels drawn from logits along planted directions, and the directions."""
    generator = torch.Generator().manual_seed(seed)
    directions = normalize(torch.randn(len(HEADS), d_model, generator=generator), dim=1)
    x = torch.randn(rows, d_model, generator=generator)
    logits = 4 * x @ directions.T / noise + torch.tensor([0.0, -1.0, 1.0])
    y = torch.rand(logits.shape, generator=generator) < torch.sigmoid(logits)
    return x + 3, y, directions


@pytest.mark.parametrize("name", DENSE)
def test_a_planted_direction_is_recovered(name: str) -> None:
    x, y, directions = planted(rows=20_000)
    probe = FITTERS[name](x, y, heads=HEADS, fitted_on="here")
    assert cosine_similarity(probe.directions(), directions).min() > 0.99
    torch.testing.assert_close(probe.directions().norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("name", INDEPENDENT)
def test_shuffled_labels_are_at_chance(name: str) -> None:
    x, y, _ = planted(rows=6000)
    shuffled = shuffle_labels(y, seed=1)
    assert torch.equal(shuffled.sum(0), y.sum(0))
    probe = FITTERS[name](x[:4000], shuffled[:4000], heads=HEADS, fitted_on="here")
    scores = auc(probe.scores(x[4000:]), shuffled[4000:])
    assert (scores - 0.5).abs().max() < 0.06  # four standard errors of an AUC on 2000 rows


def test_logistic_equals_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    generator = torch.Generator().manual_seed(0)
    x, y, _ = planted(rows=3000)
    x = x * torch.logspace(-2, 2, 32) + torch.randn(3000, 1, generator=generator)
    probe = fit_logistic(x, y, heads=HEADS, fitted_on="here", l2=1e-3)
    mean, spread = x.mean(0), x.std(0, correction=0)
    for head in range(len(HEADS)):
        theirs = linear_model.LogisticRegression(C=1 / (1e-3 * len(x)), tol=1e-8, max_iter=5000)
        theirs.fit(((x - mean) / spread).numpy(), y[:, head].numpy())
        weight = torch.from_numpy(theirs.coef_[0]).float()
        assert cosine_similarity(probe.weight[head] * spread, weight, dim=0) > 1 - 1e-4
        ours = float(((probe.scores(x)[:, head] > 0) == y[:, head]).float().mean())
        assert abs(ours - theirs.score(((x - mean) / spread).numpy(), y[:, head].numpy())) < 0.002


def test_mass_mean_scores_are_the_log_odds_of_two_gaussians() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(50_000, 1, generator=generator) < 0.3
    x = torch.randn(50_000, 4, generator=generator) * 0.5 + y * torch.tensor([1.0, 0.0, 0.0, 0.0]) + 7
    probe = fit_mass_mean(x, y, heads=["a"], fitted_on="here")
    torch.testing.assert_close(probe.weight, torch.tensor([[4.0, 0.0, 0.0, 0.0]]), atol=0.12, rtol=0)
    assert abs(float(probe.scores(torch.tensor([[7.5, 7, 7, 7]])))) < 0.1


@pytest.mark.parametrize("name", INDEPENDENT)
def test_fits_are_deterministic_and_survive_dead_features(name: str) -> None:
    x, y, _ = planted(rows=500)
    x[:, 5] = 2.0
    one, two = (FITTERS[name](x, y, heads=HEADS, fitted_on="here") for _ in range(2))
    assert torch.equal(one.weight, two.weight)
    assert one.weight.isfinite().all()
    assert one.kind == name
    torch.testing.assert_close(one.probabilities(x[None, :3]), torch.sigmoid(one.scores(x[:3]))[None])


def test_separable_heads_stay_finite() -> None:
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    y = x[:, :2] > 0
    probe = fit_logistic(x, y, heads=("a", "b"), fitted_on="here")
    assert probe.weight.isfinite().all()
    assert torch.equal(probe.scores(x) > 0, y) or ((probe.scores(x) > 0) == y).float().mean() > 0.98


@pytest.mark.parametrize("name", INDEPENDENT)
def test_unusable_data_is_refused_by_name(name: str) -> None:
    x, y, _ = planted(rows=100)
    one_class = y.clone()
    one_class[:, 1] = True
    with pytest.raises(ProbeError, match=r"b \(100 of 100 true\)"):
        FITTERS[name](x, one_class, heads=HEADS, fitted_on="here")
    with pytest.raises(ProbeError, match="2 names"):
        FITTERS[name](x, y, heads=("a", "b"), fitted_on="here")
    with pytest.raises(ProbeError, match="more than once: a"):
        FITTERS[name](x, y, heads=("a", "b", "a"), fitted_on="here")
    x[3, 3] = torch.nan
    with pytest.raises(ProbeError, match="1 of 3200 values"):
        FITTERS[name](x, y, heads=HEADS, fitted_on="here")


def test_an_unfinished_fit_warns() -> None:
    x, y, _ = planted(rows=500)
    with pytest.warns(RuntimeWarning, match="stopped after 1 iterations"):
        fit_logistic(x, y, heads=HEADS, fitted_on="here", max_iterations=1)


def test_a_saved_probe_is_itself(tmp_path: Path) -> None:
    probe = LinearProbe(torch.randn(3, 8), torch.randn(3), HEADS, "logistic", "model-1 blocks.3.hook_resid_post")
    save_probe(probe, tmp_path / "probe")
    again = load_probe(tmp_path / "probe", fitted_on=probe.fitted_on)
    assert torch.equal(again.weight, probe.weight)
    assert torch.equal(again.bias, probe.bias)
    assert (again.heads, again.kind, again.fitted_on) == (probe.heads, probe.kind, probe.fitted_on)
    with pytest.raises(ProbeError, match=r"'model-1 blocks.3.hook_resid_post'.*'model-2'"):
        load_probe(tmp_path / "probe", fitted_on="model-2")


def test_a_folder_without_a_whole_probe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match=r"no readable config\.json"):
        load_probe(tmp_path)
    save_probe(LinearProbe(torch.randn(3, 8), torch.randn(3), HEADS, "logistic", "here"), tmp_path)
    config = tmp_path / "config.json"
    whole = config.read_text(encoding="utf-8")
    config.write_text(whole.replace('"format_version": 1', '"format_version": 99'), encoding="utf-8")
    with pytest.raises(ProbeError, match="format_version 99"):
        load_probe(tmp_path)
    config.write_text(whole, encoding="utf-8")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ProbeError, match="no whole linear-probe"):
        load_probe(tmp_path)


def test_features_that_never_vary_change_no_reader_and_are_not_read() -> None:
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    y = (x @ torch.randn(5, 2, generator=torch.Generator().manual_seed(1))) > 0.3
    constant = torch.tensor([0.0, 7.0, -1e3]).repeat(40)[torch.randperm(120, generator=torch.Generator().manual_seed(2))]
    among = torch.cat([x[:, :2], constant.expand(300, -1), x[:, 2:]], dim=1)
    plain, wide = (fit_logistic(one, y, heads=("a", "b"), fitted_on="here") for one in (x, among))
    assert torch.equal(wide.weight[:, 2:-3], torch.zeros(2, 120))
    torch.testing.assert_close(torch.cat([wide.weight[:, :2], wide.weight[:, -3:]], dim=1), plain.weight, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(wide.bias, plain.bias, atol=1e-4, rtol=1e-4)


def test_random_rotation_is_orthogonal_and_uniform() -> None:
    rotation = random_rotation(16, seed=3)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(16), atol=1e-5, rtol=0)
    assert torch.equal(rotation, random_rotation(16, seed=3))
    traces = torch.stack([random_rotation(4, seed).trace() for seed in range(400)])
    assert abs(float(traces.mean())) < 0.2  # uniform: mean 0, variance 1; QR without the sign fix: mean far from 0
    assert abs(float(traces.var()) - 1) < 0.3


def test_random_directions_are_unit_vectors() -> None:
    directions = random_directions(500, 20, seed=0)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(500))
    assert directions.mean(0).abs().max() < 0.05
    with pytest.raises(ProbeError, match="n is 0"):
        random_directions(0, 20, seed=0)
