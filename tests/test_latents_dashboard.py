"""Dashboards: planted latents are described as what they are, and every figure equals what a plain computation gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from interp.boards import mixed_boards
from interp.canvases import Decoded
from interp.concepts import CONCEPTS, Concept, Kind
from interp.corpus import puzzle_corpus
from interp.harvest import Harvest, harvest
from interp.latents import concepts as latent_concepts
from interp.latents import contexts as latent_contexts
from interp.latents.concepts import auc_table, choosing_groups
from interp.latents.contexts import columns, places_to_show
from interp.latents.dashboard import DashboardError, Other, Shown, describe_latents, logit_effects
from interp.latents.entries import SaeSummary
from models.decoding import Decoding
from models.hookpoints import resid_post
from models.language_model import LanguageModel

POINT = resid_post(0)
DIGIT = CONCEPTS["digit"]
Tiny = Callable[..., LanguageModel]


def topk(weights: torch.Tensor, bias: torch.Tensor | None = None, k: int | None = None) -> Any:
    """Returns a TopK SAE whose encoder and decoder are these directions [latent, d_model]; with k latents it is a ReLU one."""
    from sae_lens import TopKSAE, TopKSAEConfig

    sae = TopKSAE(TopKSAEConfig(d_in=weights.shape[1], d_sae=len(weights), k=k or len(weights)))
    sae.W_enc.data, sae.W_dec.data = weights.T.clone().contiguous(), weights.clone()
    sae.b_enc.data, sae.b_dec.data = torch.zeros(len(weights)) if bias is None else bias, torch.zeros(weights.shape[1])
    return sae.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def model(tiny_model: Tiny) -> LanguageModel:
    return tiny_model()


@pytest.fixture(scope="module")
def causal(tiny_model: Tiny) -> LanguageModel:
    return tiny_model("causal")


def harvested(model: LanguageModel, n: int = 24, **options: Any) -> Harvest:
    return harvest(model, puzzle_corpus(model.task, mixed_boards(n, 0)), [POINT], **options)


@pytest.fixture(scope="module")
def found(model: LanguageModel) -> Harvest:
    return harvested(model)


def random_sae(seed: int = 0, d_sae: int = 48, k: int = 6) -> Any:
    directions = torch.randn(d_sae, 32, generator=torch.Generator().manual_seed(seed))
    return topk(directions / directions.norm(dim=1, keepdim=True), k=k)


def planted(found: Harvest) -> Harvest:
    """Returns the harvest with activations whose first nine axes say the digit, the tenth is noise."""
    labels = torch.from_numpy(DIGIT.labels(found.sites)).float()
    noise = torch.randn(len(found.sites), 23, generator=torch.Generator().manual_seed(1))
    scale = 1 + torch.rand(len(found.sites), 1, generator=torch.Generator().manual_seed(2))
    return Harvest(found.sites, {POINT: torch.cat([labels * scale, noise], dim=1)})


def described(found: Harvest, model: LanguageModel, sae: Any, **options: Any) -> SaeSummary:
    return describe_latents(sae, model, found, POINT, **{"concepts": [DIGIT, CONCEPTS["units"]], "seed": 0, **options})


def test_planted_latents_get_their_heads(found: Harvest, model: LanguageModel) -> None:
    summary = described(planted(found), model, topk(torch.eye(10, 32)), shown=Shown(sampled=0, latents=tuple(range(10))))
    for latent in summary.latents[:9]:
        fit = latent.concept
        assert fit is not None
        assert (fit.concept, fit.head, fit.chosen, fit.auc.value, fit.recall) == ("digit", str(latent.latent + 1), 1.0, 1.0, 1.0)
        assert fit.precision is not None
        assert fit.precision.value == 1.0
        assert fit.matched is not None
        assert fit.matched.value == 1.0
        assert f"best predicts digit: {latent.latent + 1} (AUC 1.00)" in latent.about
        assert "is true at 100 % of the places where it fires" in latent.about
    noise = summary.latents[9].concept
    assert noise is not None
    assert noise.auc.low < 0.5 < noise.auc.high, "the best of many heads by luck is not the best on other groups"
    assert noise.chosen > 0.5
    assert "predicts no head that was asked" in summary.latents[9].about


def test_auc_table_equals_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    values = torch.from_numpy(np.maximum(rng.normal(-0.6, 1, (500, 5)), 0).round(1).astype(np.float32))
    values[:, 4] = torch.from_numpy(rng.normal(size=500).astype(np.float32))
    labels = torch.from_numpy(rng.random((500, 7)) < np.linspace(0.02, 0.9, 7))
    table = auc_table(values, labels)
    for latent in range(5):
        for head in range(7):
            assert float(table[latent, head]) == pytest.approx(roc_auc_score(labels[:, head], values[:, latent]), abs=1e-6)
    assert torch.isnan(auc_table(values, torch.ones(500, 1).bool())).all()


def test_auc_table_is_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    values, labels = torch.rand(100, 3, generator=generator).round(decimals=1), torch.rand(100, 4, generator=generator) > 0.5
    whole = auc_table(values, labels)
    monkeypatch.setattr(latent_concepts, "_ROWS", 7)
    assert torch.allclose(auc_table(values, labels), whole)


def test_columns_are_those_of_the_dense_latents(found: Harvest, monkeypatch: pytest.MonkeyPatch) -> None:
    sae, activations, latents = random_sae(), found.activations[POINT], torch.tensor([7, 0, 31])
    whole = columns(sae, activations, latents)
    assert torch.allclose(whole, sae.encode(activations)[:, latents], atol=1e-5)
    monkeypatch.setattr(latent_contexts, "ROWS_AT_ONCE", 13)
    assert torch.allclose(columns(sae, activations, latents), whole, atol=1e-5)


def test_summary_is_the_same_in_blocks(found: Harvest, model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    sae, options = random_sae(), {"shown": Shown(sampled=3, contexts=3)}
    whole = described(found, model, sae, **options)
    for module in ("probes.saes.quality", "interp.latents.contexts"):
        monkeypatch.setattr(f"{module}.ROWS_AT_ONCE", 37)
    _assert_close(described(found, model, sae, **options).model_dump(), whole.model_dump())


def _assert_close(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            _assert_close(one[key], other[key])
    elif isinstance(one, tuple | list):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            _assert_close(left, right)
    elif isinstance(one, float):
        assert one == pytest.approx(other, abs=2e-4)
    else:
        assert one == other


def test_contexts_are_the_maxima_of_different_groups(found: Harvest, model: LanguageModel) -> None:
    sae = random_sae()
    summary = described(found, model, sae, shown=Shown(sampled=4, contexts=5))
    dense, groups = sae.encode(found.activations[POINT]), found.sites.group
    for latent in summary.latents:
        values = dense[:, latent.latent]
        best = sorted((float(values[groups == group].max()) for group in groups.unique()), reverse=True)
        tops = [one for one in latent.contexts if one.band == "top"]
        assert [one.value for one in tops] == pytest.approx([value for value in best[:5] if value > 0], abs=1e-4)
        assert len({one.group for one in latent.contexts}) == len(latent.contexts)
        assert latent.most == pytest.approx(float(values.max()), abs=1e-5)
        assert latent.rate.value == pytest.approx(float((values > 0).float().mean()))
        if latent.mean is not None:
            assert latent.mean == pytest.approx(float(values[values > 0].mean()), abs=1e-4)
        assert sum(latent.values.counts) == int((values > 0).sum())


def test_lower_contexts_lie_in_their_quantiles() -> None:
    values = torch.arange(1000) / 1000.0
    shown = places_to_show(values, torch.arange(1000) // 2, 8, np.random.default_rng(0))
    above = values[values > 0].numpy()
    for band, low, high in (("middle", 0.4, 0.6), ("low", 0.0, 0.2)):
        rows = [row for one, row in shown if one == band]
        assert len(rows) == 2
        assert all(np.quantile(above, low) <= values[row] <= np.quantile(above, high) for row in rows)


@pytest.mark.parametrize("attention", ["full", "causal"])
def test_value_at_the_place_is_the_harvested_one(attention: str, model: LanguageModel, causal: LanguageModel) -> None:
    reader = model if attention == "full" else causal
    found, sae = harvested(reader, 8), random_sae()
    summary = described(found, reader, sae, shown=Shown(sampled=3), concepts=[])
    dense = sae.encode(found.activations[POINT])
    contexts = [(latent.latent, one) for latent in summary.latents for one in latent.contexts]
    assert contexts
    for latent, one in contexts:
        assert one.place is not None
        (row,) = torch.nonzero(
            (found.sites.group == one.group) & (found.sites.position == one.position) & (found.sites.mask_rate == one.mask_rate)
        ).flatten()[:1]
        assert one.value == pytest.approx(float(dense[row, latent]), abs=1e-4)
        assert one.values[one.place] == pytest.approx(one.value, abs=1e-3)
        assert len(one.tokens) == len(one.truth) == len(one.states) == len(one.values) == 81
        assert one.states[one.place] == "m"
        later = [value for value in one.values[one.place + 1 :]]
        assert all(value is None for value in later) == (attention == "causal" or not later)


def test_board_shows_what_was_seen(found: Harvest, model: LanguageModel) -> None:
    summary = described(found, model, random_sae(), shown=Shown(sampled=2), concepts=[])
    for one in summary.latents[0].contexts:
        for token, truth, state in zip(one.tokens, one.truth, one.states, strict=True):
            assert token == ("" if state == "m" else truth)


def test_logit_effects_are_the_linearised_norm_and_the_unembedding(tiny_model: Tiny) -> None:
    model = tiny_model()
    directions = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    norm, head = model.module.transformer.ln_f, model.module.lm_head.weight
    with torch.no_grad():
        norm.weight.copy_(torch.rand(32, generator=torch.Generator().manual_seed(1)) + 0.5)
        norm.bias.normal_(generator=torch.Generator().manual_seed(2))
    centred = directions - directions.mean(1, keepdim=True)
    expected = (centred / directions.var(1, unbiased=False, keepdim=True).sqrt() * norm.weight) @ head.T
    found = logit_effects(model, directions)
    assert torch.allclose(found, expected - expected.mean(1, keepdim=True), atol=1e-3)
    assert torch.allclose(logit_effects(model, 3 * directions), found, atol=1e-5)


def test_a_planted_push_comes_out_on_top(found: Harvest, tiny_model: Tiny) -> None:
    model = tiny_model(seed=3)
    head = model.module.lm_head.weight
    weights = head - head.mean(1, keepdim=True)
    summary = described(found, model, topk(weights / weights.norm(dim=1, keepdim=True)), shown=Shown(0, tuple(range(1, 10))), concepts=[])
    for latent in summary.latents:
        assert latent.promotes[0].token == model.task.vocabulary[latent.latent]
        assert "[MASK]" not in {one.token for one in (*latent.promotes, *latent.suppresses)}


def test_latents_are_drawn_from_the_alive_and_asked_ones_come_first(found: Harvest, model: LanguageModel) -> None:
    sae = random_sae()
    sae.b_enc.data[:20] = -1e3  # dead
    drawn = described(found, model, sae, shown=Shown(sampled=5, latents=(3, 40)), concepts=[])
    assert [latent.latent for latent in drawn.latents[:2]] == [3, 40]
    assert [latent.sampled for latent in drawn.latents] == [False, False, *[True] * 5]
    assert all(latent.latent >= 20 and latent.rate.value > 0 for latent in drawn.latents[2:])
    assert drawn == described(found, model, sae, shown=Shown(sampled=5, latents=(3, 40)), concepts=[])
    dead = drawn.latents[0]
    assert (dead.about, dead.mean, dead.contexts, dead.concept) == ("never fires here", None, (), None)
    with pytest.raises(DashboardError, match="there is no latent 48; this SAE has 0 to 47"):
        described(found, model, sae, shown=Shown(latents=(48,)))


def test_choosing_groups_are_half_and_seeded() -> None:
    groups = torch.arange(40).repeat_interleave(3)
    one = choosing_groups(groups, 0)
    assert len(one) == 20
    assert one == choosing_groups(groups, 0) != choosing_groups(groups, 1)


def test_other_model_says_what_became_of_each_latent(found: Harvest, model: LanguageModel) -> None:
    here = planted(found)
    there = here.activations[POINT].clone()
    there[:, 0] = 0.0  # digit 1 is never read there
    there[:, 1:3] = there[:, [2, 1]]  # digits 2 and 3 change places
    sae = topk(torch.eye(10, 32))
    other = Other("the other", sae, Harvest(here.sites, {POINT: there}), POINT)
    summary = described(here, model, sae, shown=Shown(0, tuple(range(5))), other=other)
    told = [latent.other for latent in summary.latents]
    assert summary.other == "the other"
    assert sum(summary.fates.values()) == 10
    assert [one.fate for one in told if one] == ["dead", *["alive"] * 4]
    assert told[0] is not None
    assert (told[0].rate, told[0].mean) == (0.0, None)
    assert told[1] is not None
    assert told[3] is not None
    assert told[1].auc is not None
    assert told[3].auc is not None
    assert told[3].auc.value == 1.0
    assert told[1].auc.value < 0.6, "the latent fires as often there, for another digit"


def test_slices_by_step_of_a_run(model: LanguageModel) -> None:
    found = harvested(model, 6, canvases=Decoded(Decoding("low_confidence", steps=4)), kinds=(Kind.MASKED, Kind.SETTLED))
    summary = described(found, model, random_sae(), shown=Shown(sampled=2), concepts=[CONCEPTS["next"]])
    assert summary.in_runs
    for latent in summary.latents:
        for axis in ("mask_rate", "kind", "step"):
            own = [one for one in latent.slices if one.axis == axis]
            assert sum(one.rows for one in own) == summary.rows
            assert sum(one.rows * one.rate.value for one in own) / summary.rows == pytest.approx(latent.rate.value)
        assert [one.at for one in latent.slices if one.axis == "step"] == ["1", "2", "3", "4"]


def test_summary_survives_json(found: Harvest, model: LanguageModel) -> None:
    summary = described(found, model, random_sae(), shown=Shown(sampled=3))
    assert SaeSummary.model_validate_json(summary.model_dump_json()) == summary


def test_rare_heads_are_not_asked(found: Harvest, model: LanguageModel) -> None:
    never = Concept("never", "sudoku", ("never",), lambda sites: np.zeros((len(sites), 1), bool), "nothing")
    summary = described(found, model, random_sae(), shown=Shown(sampled=2), concepts=[never])
    assert all(latent.concept is None for latent in summary.latents)


def test_progress_is_told(found: Harvest, model: LanguageModel) -> None:
    told: list[tuple[int, int]] = []
    described(found, model, random_sae(), shown=Shown(sampled=3), concepts=[], on_latent=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
