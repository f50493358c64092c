"""What an SAE keeps and which latents fire: on planted dictionaries, and against the formulas written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig, StandardSAE, StandardSAEConfig
from torch.nn.functional import normalize

from probes.errors import ProbeError
from probes.metrics import bootstrap_mean, bootstrap_ratio
from probes.saes import quality
from probes.saes.quality import (
    STATES,
    Firing,
    decoder_matches,
    evaluate_sae,
    evaluate_slices,
    feature_table,
    firing,
)

D_IN, LATENTS, ROWS = 16, 24, 600


def dictionary(seed: int = 0, d_sae: int = LATENTS) -> Any:
    """Returns a ReLU SAE of random unit directions, as an encoder tied to its decoder with a bias against small values."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        sae = StandardSAE(StandardSAEConfig(d_in=D_IN, d_sae=d_sae))
        sae.W_dec.copy_(normalize(torch.randn(d_sae, D_IN), dim=1))
        sae.W_enc.copy_(sae.W_dec.T)
        sae.b_enc.fill_(-0.5)
        sae.b_dec.copy_(torch.randn(D_IN))
    return sae.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def sae() -> Any:
    return dictionary()


X = 3 + torch.randn(ROWS, D_IN, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.2, 3, D_IN)
GROUPS = torch.arange(ROWS) % 40


def test_quality_is_what_its_formulas_say(sae: Any) -> None:
    latents = sae.encode(X)
    lost = (X - sae.decode(latents)).double().square().sum()
    found = evaluate_sae(sae, X, GROUPS)
    assert found.fvu.value == pytest.approx(float(lost / (X - X.mean(0)).double().square().sum()), rel=1e-6)
    assert found.fvu.low < found.fvu.value < found.fvu.high
    assert (found.fvu.n, found.n) == (40, ROWS)
    assert found.l0 == pytest.approx(float((latents > 0).double().sum(1).mean()))
    assert found.dead == pytest.approx(float((latents <= 0).all(0).double().mean()))
    assert found.dense == pytest.approx(float(((latents > 0).double().mean(0) > 0.1).double().mean()))


def test_an_sae_that_says_the_mean_explains_nothing_and_one_that_copies_explains_all(sae: Any) -> None:
    copying, silent = dictionary(d_sae=2 * D_IN), dictionary()
    with torch.no_grad():
        copying.W_dec.copy_(torch.cat([torch.eye(D_IN), -torch.eye(D_IN)]))
        copying.W_enc.copy_(copying.W_dec.T)
        copying.b_enc.zero_()
        silent.b_enc.fill_(-1e6)
        silent.b_dec.copy_(X.mean(0))
    assert evaluate_sae(copying, X).fvu.value < 1e-10
    nothing = evaluate_sae(silent, X)
    assert nothing.fvu.value == pytest.approx(1, abs=1e-6)
    assert (nothing.l0, nothing.dead, nothing.dense) == (0, 1, 0)


def test_a_slice_is_its_rows_alone_and_is_encoded_with_the_others(sae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "ROWS_AT_ONCE", 128)
    seen: list[int] = []
    handle = sae.hook_sae_input.register_forward_hook(lambda _module, _given, rows: seen.append(len(rows)))
    masks = {"few": torch.arange(ROWS) < 100, "odd": torch.arange(ROWS) % 2 == 1, "all": torch.ones(ROWS, dtype=torch.bool)}
    together = evaluate_slices(sae, X, GROUPS, masks, seed=3)
    handle.remove()
    assert sum(seen) == ROWS
    for name, mask in masks.items():
        alone = evaluate_sae(sae, X[mask], GROUPS[mask], seed=3)
        assert together[name].fvu.value == pytest.approx(alone.fvu.value, rel=1e-6)
        assert together[name].fvu.low == pytest.approx(alone.fvu.low, rel=1e-6)
        assert together[name].fvu.n == alone.fvu.n
        assert (together[name].dead, together[name].dense, together[name].n) == (alone.dead, alone.dense, alone.n)
        assert together[name].l0 == pytest.approx(alone.l0)


def test_variance_may_be_about_a_mean_that_is_given(sae: Any) -> None:
    far = evaluate_sae(sae, X, mean=X.mean(0) + 100)
    assert far.fvu.value < 0.01 * evaluate_sae(sae, X).fvu.value
    assert evaluate_sae(sae, X, mean=X.mean(0)).fvu.value == pytest.approx(evaluate_sae(sae, X).fvu.value)


def test_rows_of_one_group_that_repeat_do_not_narrow_the_interval(sae: Any) -> None:
    once = evaluate_sae(sae, X[:40], torch.arange(40))
    often = evaluate_sae(sae, X[:40].repeat(10, 1), torch.arange(40).repeat(10))
    assert (often.fvu.low, often.fvu.high) == pytest.approx((once.fvu.low, once.fvu.high))
    as_rows = evaluate_sae(sae, X[:40].repeat(10, 1))
    assert as_rows.fvu.high - as_rows.fvu.low < 0.5 * (often.fvu.high - often.fvu.low)


def test_the_interval_of_a_ratio_covers_it_19_times_in_20() -> None:
    """Errors that grow with the row's variance, shared within a group: the true ratio is 0.3."""
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for trial in range(200):
        size = torch.rand(60, generator=generator).add(0.2).repeat_interleave(5)
        ratio = (0.3 + 0.1 * torch.randn(60, generator=generator)).repeat_interleave(5)
        found = bootstrap_ratio(size * ratio, size, torch.arange(60).repeat_interleave(5), n_resamples=300, seed=trial)
        covered += found.low <= 0.3 <= found.high
    assert 180 <= covered <= 199


def test_a_mean_is_the_ratio_to_the_number_of_rows() -> None:
    values = X[:, 0]
    assert bootstrap_ratio(values, torch.ones(ROWS), GROUPS, seed=5) == bootstrap_mean(values, GROUPS, seed=5)


def test_firing_counts_each_latent(sae: Any) -> None:
    latents, found = sae.encode(X), firing(sae, X)
    assert found.n == ROWS
    for latent in range(LATENTS):
        values = latents[:, latent]
        assert float(found.rate[latent]) == pytest.approx(float((values > 0).double().mean()))
        assert float(found.mean[latent]) == pytest.approx(float(values[values > 0].mean()) if (values > 0).any() else 0, rel=1e-5)


def counted(counts: list[int], n: int) -> Firing:
    return Firing(torch.tensor(counts, dtype=torch.float64) / n, torch.ones(len(counts)), n)


def test_each_state_is_told_apart() -> None:
    home = counted([100, 100, 100, 0, 2, 3, 3, 12, 5], 1000)
    away = counted([100, 20, 0, 50, 1, 12, 1, 3, 0], 1000)
    names = ["alive", "shifted", "dead", "born", "silent", "alive", "alive", "alive", "dead"]
    table = feature_table(home, away)
    assert [STATES[state] for state in table.state.tolist()] == names
    assert table.counts == {"alive": 4, "shifted": 1, "dead": 2, "born": 1, "silent": 1}
    assert table.are("born").nonzero().tolist() == [[3]]
    assert table.floor == pytest.approx(0.003)


def test_a_latent_too_rare_for_the_smaller_sample_is_not_called_dead() -> None:
    table = feature_table(counted([2000, 20_000], 1_000_000), counted([0, 0], 1000))
    assert table.counts["silent"] == 1
    assert table.counts["dead"] == 1


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), min_size=1, max_size=20))
@settings(max_examples=100)
def test_to_swap_the_places_swaps_dead_and_born(counts: list[tuple[int, int]]) -> None:
    home, away = (counted(list(column), 500) for column in zip(*counts, strict=True))
    there, back = feature_table(home, away).counts, feature_table(away, home).counts
    assert there == {**back, "dead": back["born"], "born": back["dead"]}
    assert sum(there.values()) == len(counts)
    still = feature_table(home, home).counts
    assert still["alive"] + still["silent"] == len(counts)


def test_two_samples_alike_have_few_latents_that_changed() -> None:
    generator = torch.Generator().manual_seed(0)
    rates = torch.logspace(-4, -0.5, 4000)
    halves = [counted(torch.binomial(torch.full((4000,), 1000.0), rates, generator=generator).int().tolist(), 1000) for _ in range(2)]
    table = feature_table(*halves)
    near = (rates > 1e-3) & (rates < 1e-2)
    assert float((table.are("dead") | table.are("born"))[near].float().mean()) < 0.12
    assert int(table.are("shifted").sum()) < 0.01 * 4000
    assert not bool((table.are("dead") | table.are("born"))[rates > 0.03].any())


def test_a_dictionary_matches_itself_reordered_and_rescaled_and_random_directions_do_not(sae: Any) -> None:
    other = dictionary()
    order = torch.randperm(LATENTS, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        other.W_dec.copy_(3 * sae.W_dec[order])
    found = decoder_matches(sae, other)
    torch.testing.assert_close(found.cosine, torch.ones(LATENTS))
    assert torch.equal(order[found.partner], torch.arange(LATENTS))
    assert (found.found.above_07, found.found.above_09) == (1, 1)
    assert found.chance.mean < 0.8
    unlike = decoder_matches(sae, dictionary(seed=9))
    assert unlike.found.mean == pytest.approx(unlike.chance.mean, abs=0.06)
    assert decoder_matches(sae, other, seed=4).chance == decoder_matches(sae, sae, seed=4).chance != found.chance


def test_matches_are_between_latents_alive(sae: Any) -> None:
    some = torch.arange(LATENTS) < 10
    found = decoder_matches(sae, sae, alive_a=some, alive_b=~some)
    assert torch.isnan(found.cosine[10:]).all()
    assert (found.partner[10:] == -1).all()
    assert (found.partner[:10] >= 10).all()
    cosines = sae.W_dec[:10] @ sae.W_dec[10:].T
    torch.testing.assert_close(found.cosine[:10], cosines.amax(1))
    assert found.found.mean == pytest.approx(float(cosines.amax(1).mean()))


def test_what_cannot_be_measured_is_named(sae: Any) -> None:
    narrow = JumpReLUSAE(JumpReLUSAEConfig(d_in=8, d_sae=4))
    with pytest.raises(ProbeError, match=r"shape \(600, 16\); this SAE reads \[row, 8\]"):
        evaluate_sae(narrow, X)
    with pytest.raises(ProbeError, match="widths 16 and 8"):
        decoder_matches(sae, narrow)
    with pytest.raises(ProbeError, match="0 latents alive of 24"):
        decoder_matches(sae, sae, alive_a=torch.zeros(LATENTS, dtype=torch.bool))
    with pytest.raises(ProbeError, match="no row in late"):
        evaluate_slices(sae, X, None, {"all": torch.ones(ROWS, dtype=torch.bool), "late": torch.zeros(ROWS, dtype=torch.bool)})
    with pytest.raises(ProbeError, match="'all' are all equal"):
        evaluate_sae(sae, torch.ones(50, D_IN))
    with pytest.raises(ProbeError, match="must be finite"):
        firing(sae, X * torch.inf)
    with pytest.raises(ProbeError, match="24 latents at home and 4 away"):
        feature_table(firing(sae, X), counted([1, 2, 3, 4], 10))
    with pytest.raises(ProbeError, match=r"no state 'gone'; latents are alive"):
        feature_table(firing(sae, X), firing(sae, X)).are("gone")
