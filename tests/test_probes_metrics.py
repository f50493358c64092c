"""AUC and bootstrap intervals."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from interp.dynamics import reliability
from probes.errors import ProbeError
from probes.metrics import Interval, auc, bootstrap_auc, bootstrap_mean, calibration_error, resample_counts


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=60))
def test_auc_equals_scikit_learn_with_ties(rows: list[tuple[int, bool]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores = torch.tensor([float(score) for score, _ in rows])
    labels = torch.tensor([label for _, label in rows])
    ours = float(auc(scores[:, None], labels[:, None]))
    if labels.all() or not labels.any():
        assert math.isnan(ours)
    else:
        assert ours == pytest.approx(metrics.roc_auc_score(labels.numpy(), scores.numpy()))
        assert float(auc(-scores[:, None], labels[:, None])) == pytest.approx(1 - ours)


def grouped(seed: int, n_groups: int = 60, rows: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    groups = torch.arange(n_groups).repeat_interleave(rows)
    labels = torch.rand(n_groups * rows, 3, generator=generator) < 0.4
    ability = torch.randn(n_groups, 1, generator=generator)[groups]
    scores = torch.randn(n_groups * rows, 3, generator=generator) + labels * (1 + ability)
    return scores, labels, groups


def test_first_order_resamples_are_those_of_whole_resampled_rows() -> None:
    scores, labels, groups = grouped(3)
    counts = resample_counts(60, 400, torch.Generator().manual_seed(0))
    naive = []
    for resample in range(400):
        rows = torch.arange(len(scores)).repeat_interleave(counts[groups, resample].long())
        naive.append(float(auc(scores[rows], labels[rows]).mean()))
    low, high = torch.tensor(naive).quantile(torch.tensor([0.025, 0.975])).tolist()
    found = bootstrap_auc(scores, labels, groups, n_resamples=400, seed=0)
    assert (found.low, found.high) == (pytest.approx(low, abs=0.05 * (high - low)), pytest.approx(high, abs=0.05 * (high - low)))


def test_what_only_tells_strata_apart_scores_nothing_within_them() -> None:
    generator = torch.Generator().manual_seed(0)
    strata, groups = torch.arange(2000) % 5, torch.arange(2000) // 20
    labels = torch.rand(2000, 1, generator=generator) < (strata[:, None] + 1) / 7
    scores = strata[:, None] + torch.rand(2000, 1, generator=generator)
    assert bootstrap_auc(scores, labels, groups, seed=0).value > 0.7
    matched = bootstrap_auc(scores, labels, groups, strata=strata, seed=0)
    assert matched.low < 0.5 < matched.high


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_the_matched_score_is_the_share_of_pairs_within_strata_that_are_won(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    strata = torch.randint(3, (40,), generator=generator)
    scores, labels = torch.randn(40, 1, generator=generator).round(), torch.rand(40, 1, generator=generator) < 0.5
    pairs = (strata[:, None] == strata) & labels & ~labels.T
    won = (scores > scores.T).double() + (scores == scores.T).double() / 2
    found = bootstrap_auc(scores, labels, torch.arange(40), strata=strata, n_resamples=2, seed=0)
    assert found.value == pytest.approx(float(won[pairs].mean()))
    assert bootstrap_auc(scores, labels, torch.arange(40), strata=strata * 0, seed=0) == bootstrap_auc(
        scores, labels, torch.arange(40), seed=0
    )


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    truth = float(auc(*grouped(999, n_groups=20_000)[:2]).mean())
    found = [bootstrap_auc(*grouped(seed), n_resamples=100, seed=0) for seed in range(60)]
    covered = sum(interval.low <= truth <= interval.high for interval in found) / len(found)
    assert covered > 0.84  # 95 % nominal; 3 standard errors below 93 %


def test_resampling_by_group_is_wider_than_by_row() -> None:
    scores, labels, groups = grouped(0)
    scores += torch.randn(60, 1, generator=torch.Generator().manual_seed(1))[groups] * 2
    labels = labels | (scores > 2)
    by_group = bootstrap_auc(scores, labels, groups, seed=0)
    by_row = bootstrap_auc(scores, labels, torch.arange(len(scores)), seed=0)
    assert by_group.value == pytest.approx(by_row.value)
    assert (by_group.n, by_row.n) == (60, 480)
    assert by_group.high - by_group.low > by_row.high - by_row.low


def test_group_names_and_order_do_not_matter_and_seeds_do() -> None:
    scores, labels, groups = grouped(0)
    first = bootstrap_auc(scores, labels, groups, seed=0)
    assert first == bootstrap_auc(scores, labels, groups * 17 - 4, seed=0)
    assert first != bootstrap_auc(scores, labels, groups, seed=1)


def test_heads_with_one_class_are_left_out() -> None:
    scores, labels, groups = grouped(0)
    labels[:, 2] = False
    found = bootstrap_auc(scores, labels, groups, seed=0)
    assert found.value == pytest.approx(float(auc(scores[:, :2], labels[:, :2]).mean()))
    none = bootstrap_auc(scores, torch.zeros_like(labels), groups, seed=0)
    assert all(math.isnan(number) for number in (none.value, none.low, none.high))


def test_a_mean_is_resampled_as_a_ratio_of_sums() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4000, generator=generator) + 2
    found = bootstrap_mean(values, seed=0)
    assert found.value == pytest.approx(float(values.mean()))
    half = 1.96 * float(values.std()) / math.sqrt(len(values))
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    groups = torch.arange(4000) // 100
    level = torch.randn(40, generator=generator)[groups]
    assert bootstrap_mean(values + level, groups, seed=0).high > bootstrap_mean(values + level, seed=0).high
    assert bootstrap_mean(values, groups, seed=0).n == 40


def test_constant_values_have_no_width_but_certain_shares_do() -> None:
    assert bootstrap_mean(torch.full((30,), 0.3, dtype=torch.float64), seed=0) == Interval(0.3, 0.3, 0.3, 30)
    certain = bootstrap_mean(torch.ones(30, dtype=torch.bool), seed=0)
    assert (certain.value, certain.high) == (1.0, 1.0)
    assert certain.low == pytest.approx(0.8865, abs=1e-3)  # Wilson, 30 of 30
    by_puzzle = bootstrap_mean(torch.zeros(30), torch.arange(30) // 10, seed=0)
    assert by_puzzle.low == 0.0
    assert by_puzzle.high == pytest.approx(0.5615, abs=1e-3)  # Wilson, 0 of 3


def test_a_share_is_wilsons() -> None:
    found = bootstrap_mean(torch.arange(10) < 5, seed=0)
    assert (found.low, found.high) == (pytest.approx(0.2366, abs=1e-3), pytest.approx(0.7634, abs=1e-3))


def test_probabilities_that_labels_are_drawn_from_are_calibrated_and_others_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    said = torch.rand(30_000, 3, generator=generator).square()
    labels = torch.rand(said.shape, generator=generator) < said
    assert calibration_error(said, labels).max() < 0.01  # each of 15 bins scatters by at most .011
    assert calibration_error(said / 2, labels).tolist() == pytest.approx((said / 2).mean(0).tolist(), abs=0.01)
    constant = labels.double().mean(0).expand_as(said)
    torch.testing.assert_close(calibration_error(constant, labels), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 20), st.booleans())
def test_the_calibration_error_is_that_of_reliability_tables_of_equal_mass(seed: int, n_bins: int, ties: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    said = torch.rand(50, 2, generator=generator, dtype=torch.float64)
    said = (said * 8).round() / 8 if ties else said
    labels = torch.rand(50, 2, generator=generator) < 0.4
    for head in range(2):
        table = reliability(said[:, head].numpy(), labels[:, head].numpy(), n_bins=n_bins, bins="mass")
        assert float(calibration_error(said, labels, n_bins=n_bins)[head]) == pytest.approx(table.error)


def test_unusable_input_is_refused() -> None:
    scores, labels, groups = grouped(0)
    with pytest.raises(ProbeError, match="NaN has no rank"):
        auc(scores * torch.nan, labels)
    with pytest.raises((ProbeError, TypeCheckError)):  # jaxtyping, where it checks, is first
        auc(scores[:3], labels)
    with pytest.raises((ProbeError, TypeCheckError)):
        bootstrap_auc(scores, labels, groups[:5], seed=0)
    with pytest.raises(ProbeError, match="at least one value"):
        bootstrap_mean(torch.zeros(0), seed=0)
    with pytest.raises(ProbeError, match="values from -1 to 2"):
        calibration_error(torch.tensor([[-1.0], [2.0]]), torch.tensor([[True], [False]]))
    with pytest.raises(ProbeError, match="0 bins"):
        calibration_error(torch.tensor([[0.5]]), torch.tensor([[True]]), n_bins=0)
