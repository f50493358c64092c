"""Crosscoders: planted dictionaries that two models share in part, rare features too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from probes.controls import random_rotation
from probes.errors import ProbeError
from probes.saes.crosscoder import Crosscoder, evaluate_crosscoder, load_crosscoder, save_crosscoder
from probes.saes.crosscoder_training import CrosscoderRecipe, train_crosscoder
from probes.saes.latent_scaling import (
    DEAD,
    SHARED,
    SOURCE_ONLY,
    TARGET_ONLY,
    TURNED,
    Kinds,
    LatentScaling,
    kinds_of,
    norm_balance,
    scale_latents,
)

D_IN, COMMON, RARE = 64, 0.05, 0.003
SHARED_FEATURES, PRIVATE_FEATURES = 60, 12
D_SAE, K = 128, 4
RECIPE = CrosscoderRecipe(d_sae=D_SAE, k=K, steps=450, batch=384, lr=3e-3)


class Planted(NamedTuple):
    """Two models' activations, of other lengths and means, and what they are made of."""

    source: torch.Tensor
    target: torch.Tensor
    features: torch.Tensor
    kind: torch.Tensor
    rare: torch.Tensor


def planted(rows: int = 20_000, turn: torch.Tensor | None = None) -> Planted:
    generator = torch.Generator().manual_seed(0)
    n = SHARED_FEATURES + 2 * PRIVATE_FEATURES
    features = normalize(torch.randn(n, D_IN, generator=generator), dim=1)
    kind = torch.tensor([SHARED] * SHARED_FEATURES + [SOURCE_ONLY] * PRIVATE_FEATURES + [TARGET_ONLY] * PRIVATE_FEATURES)
    rare = torch.zeros(n, dtype=torch.bool)
    for start in (0, SHARED_FEATURES, SHARED_FEATURES + PRIVATE_FEATURES):
        rare[start : start + PRIVATE_FEATURES // 2] = True
    on = torch.rand(rows, n, generator=generator) < torch.where(rare, RARE, COMMON)
    strength = on * (0.5 + torch.rand(rows, n, generator=generator))
    source = 5 * (strength * (kind != TARGET_ONLY)) @ features + 3 * torch.randn(D_IN, generator=generator)
    target = 2 * (strength * (kind != SOURCE_ONLY)) @ features + torch.randn(D_IN, generator=generator)
    source = source + 0.2 * torch.randn(rows, D_IN, generator=generator)
    target = target + 0.2 * torch.randn(rows, D_IN, generator=generator)
    return Planted(source, target if turn is None else target @ turn, features, kind, rare)


class Found(NamedTuple):
    crosscoder: Crosscoder
    data: Planted
    scaling: LatentScaling
    kinds: Kinds
    best: torch.Tensor
    """Of each feature, the latent nearest to it."""
    cosine: torch.Tensor
    """Of each feature, to that latent's longer decoder row."""


@pytest.fixture(scope="module")
def found() -> Found:
    data = planted()
    crosscoder = train_crosscoder(
        data.source, data.target, RECIPE, models=("ar", "mdm"), fitted_on=("ar@3", "mdm@3"), hook_point="blocks.3.hook_resid_post"
    )
    longer = crosscoder.decoder_norms().argmax(0)
    cosine, best = (normalize(crosscoder.W_dec[longer, torch.arange(D_SAE)], dim=1) @ data.features.T).max(0)
    scaling = scale_latents(crosscoder, data.source, data.target)
    return Found(crosscoder, data, scaling, kinds_of(crosscoder, scaling), best, cosine)


def small(seed: int = 0, d_in: int = 6, d_sae: int = 10) -> Crosscoder:
    """Returns a crosscoder that nobody trained."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (2, d_in, d_sae), "b_enc": (d_sae,), "W_dec": (2, d_sae, d_in), "b_dec": (2, d_in)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    unit = 0.5 + torch.rand(2, generator=generator)
    return Crosscoder(**tensors, unit=unit, threshold=0.25, models=("a", "b"), fitted_on=("a@1", "b@1"), hook_point="blocks.1.hook_mlp_out")


def rows(n: int, d_in: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    source, target = torch.randn(2, n, d_in, generator=torch.Generator().manual_seed(seed))
    return source, target


def test_planted_features_are_recovered(found: Found) -> None:
    assert float((found.cosine > 0.9).float().mean()) >= 0.9
    assert float((found.cosine > 0.9)[found.data.rare].float().mean()) >= 0.85
    shared = found.best[(found.data.kind == SHARED) & ~found.data.rare]
    one, other = normalize(found.crosscoder.W_dec[:, shared], dim=2)
    assert float((one * other).sum(1).min()) > 0.95


def test_few_latents_rebuild_both_models_and_hardly_any_is_dead(found: Found) -> None:
    quality = evaluate_crosscoder(found.crosscoder, found.data.source, found.data.target)
    assert quality.fvu_source < 0.06
    assert quality.fvu_target < 0.2  # its noise is 15 % of its variance
    assert quality.l0 == pytest.approx(K, rel=0.03)
    assert quality.dead < 0.15  # 84 features leave 44 of the latents without one of their own
    assert quality.n == 20_000


def test_latent_scaling_tells_private_features_from_shared_ones(found: Found) -> None:
    known = found.cosine > 0.9
    assert float((found.kinds.by_scaling[found.best] == found.data.kind)[known].float().mean()) >= 0.95


def test_norms_do_worse_than_latent_scaling_on_rare_private_features(found: Found) -> None:
    hard = (found.cosine > 0.9) & found.data.rare & (found.data.kind != SHARED)
    right = {name: float((of[found.best] == found.data.kind)[hard].float().mean()) for name, of in vars(found.kinds).items()}
    assert right["by_scaling"] >= 0.9
    assert right["by_norm"] <= right["by_scaling"] - 0.1


def test_scales_are_least_squares(found: Found) -> None:
    crosscoder, source, target = found.crosscoder, found.data.source[:1000], found.data.target[:1000]
    scaling = scale_latents(crosscoder, source, target)
    latents = crosscoder.encode(source, target)
    d = crosscoder.W_dec / crosscoder.unit[:, None, None]
    for latent in found.best[PRIVATE_FEATURES:70:12].tolist():
        for model, x in enumerate((source, target)):
            rebuilt = latents @ crosscoder.W_dec[model]
            own = latents[:, [latent]] * crosscoder.W_dec[model, latent]
            aims = {"error": x - crosscoder.b_dec[model] - (rebuilt - own), "reconstruction": rebuilt}
            for row in range(2):
                one = (latents[:, [latent]] * d[row, latent]).double().flatten()[:, None]
                for name, aim in aims.items():
                    expected = torch.linalg.lstsq(one, (aim / crosscoder.unit[model]).double().flatten()[:, None]).solution.item()
                    assert float(getattr(scaling, name)[row, model, latent]) == pytest.approx(expected, abs=1e-3)


def test_a_latent_explains_its_own_model_at_scale_one(found: Found) -> None:
    frequent = found.scaling.fired > 400
    own = found.scaling.error[[0, 1], [0, 1]][:, frequent]
    longer = found.crosscoder.decoder_norms()[:, frequent] > 0.3
    assert float((own[longer] - 1).abs().quantile(0.9)) < 0.1


def test_identical_models_share_every_latent() -> None:
    source = planted(4000).source
    crosscoder = train_crosscoder(source, source, replace(RECIPE, steps=60))
    kinds = kinds_of(crosscoder, scale_latents(crosscoder, source, source))
    assert set(kinds.by_scaling.tolist()) <= {SHARED, DEAD}
    assert set(kinds.by_norm.tolist()) <= {SHARED, DEAD}
    torch.testing.assert_close(norm_balance(crosscoder), torch.full((D_SAE,), 0.5))


def test_a_model_in_another_basis_shares_latents_that_are_turned() -> None:
    turn = random_rotation(D_IN, seed=1)
    data = planted(turn=turn)
    crosscoder = train_crosscoder(data.source, data.target, replace(RECIPE, steps=200))
    source, target = (
        normalize(crosscoder.W_dec[0], dim=1) @ data.features.T,
        normalize(crosscoder.W_dec[1] @ turn.T, dim=1) @ data.features.T,
    )
    common = (data.kind == SHARED) & ~data.rare
    best = source.argmax(0)[common]
    both = torch.minimum(source.amax(0)[common], target[best, torch.nonzero(common).flatten()])
    assert float((both > 0.9).float().mean()) >= 0.9
    kinds = kinds_of(crosscoder, scale_latents(crosscoder, data.source, data.target))
    assert float((kinds.by_scaling[best] == TURNED).float().mean()) >= 0.8


@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_swapping_the_models_swaps_what_is_written_and_who_owns_what(seed: int) -> None:
    crosscoder, (source, target) = small(seed), rows(40, seed=seed)
    flipped = {name: getattr(crosscoder, name).flip(0) for name in ("W_enc", "W_dec", "b_dec", "unit")}
    swapped = replace(crosscoder, **flipped)
    latents = crosscoder.encode(source, target)
    torch.testing.assert_close(swapped.encode(target, source), latents)
    one, other = crosscoder.decode(latents)
    torch.testing.assert_close(swapped.decode(latents), (other, one))
    torch.testing.assert_close(norm_balance(swapped), 1 - norm_balance(crosscoder))
    scaling, mirrored = scale_latents(crosscoder, source, target), scale_latents(swapped, target, source)
    torch.testing.assert_close(mirrored.error, scaling.error.flip(0, 1), equal_nan=True, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(mirrored.reconstruction, scaling.reconstruction.flip(0, 1), equal_nan=True, atol=1e-3, rtol=1e-3)


@settings(max_examples=20)
@given(gain=st.floats(0.1, 10.0), shift=st.floats(-5.0, 5.0))
def test_the_unit_of_a_model_changes_no_latent_and_no_kind(gain: float, shift: float) -> None:
    crosscoder, (source, target) = small(), rows(200)
    grown = replace(
        crosscoder,
        W_enc=crosscoder.W_enc / torch.tensor([gain, 1.0])[:, None, None],
        b_enc=crosscoder.b_enc - shift / gain * crosscoder.W_enc[0].sum(0),
        W_dec=crosscoder.W_dec * torch.tensor([gain, 1.0])[:, None, None],
        b_dec=crosscoder.b_dec * torch.tensor([gain, 1.0])[:, None] + torch.tensor([shift, 0.0])[:, None],
        unit=crosscoder.unit * torch.tensor([gain, 1.0]),
    )
    torch.testing.assert_close(
        scale_latents(grown, source * gain + shift, target).error, scale_latents(crosscoder, source, target).error, atol=0.02, rtol=0.02
    )
    torch.testing.assert_close(norm_balance(grown), norm_balance(crosscoder))


def test_a_saved_crosscoder_is_the_same(tmp_path: Path, found: Found) -> None:
    save_crosscoder(found.crosscoder, tmp_path)
    again = load_crosscoder(tmp_path, fitted_on=("ar@3", "mdm@3"))
    assert torch.equal(again.encode(found.data.source[:50], found.data.target[:50]), found.crosscoder.encode(*found.data[:2])[:50])
    for name, value in vars(found.crosscoder).items():
        same = torch.equal(getattr(again, name), value) if isinstance(value, torch.Tensor) else getattr(again, name) == value
        assert same, name


def test_what_is_not_the_right_crosscoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match=r"no readable config\.json"):
        load_crosscoder(tmp_path)
    save_crosscoder(small(), tmp_path)
    with pytest.raises(ProbeError, match="fitted on 'b@1', and is to be used on 'c@1'"):
        load_crosscoder(tmp_path, fitted_on=("a@1", "c@1"))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ProbeError, match="holds no whole crosscoder"):
        load_crosscoder(tmp_path)


def test_the_seed_decides_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    source, target = planted(400)[:2]
    recipe = CrosscoderRecipe(d_sae=32, k=4, steps=25, batch=128, seed=3)
    steps: list[int] = []
    torch.manual_seed(1)
    one = train_crosscoder(source, target, recipe, on_step=lambda step, fvu: steps.append(step))
    before = torch.get_rng_state()
    two = train_crosscoder(source, target, recipe)
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in vars(one).items():
        assert torch.equal(getattr(two, name), value) if isinstance(value, torch.Tensor) else getattr(two, name) == value
    assert not torch.equal(train_crosscoder(source, target, replace(recipe, seed=4)).W_dec, one.W_dec)
    assert steps == list(range(1, 26))
    assert capfd.readouterr().out == ""


def test_unusable_input_is_refused() -> None:
    source, target = rows(50)
    recipe = CrosscoderRecipe(d_sae=8, k=2, steps=1, batch=16)
    with pytest.raises(ProbeError, match=r"source \(50, 6\) and target \(49, 6\)"):
        train_crosscoder(source, target[1:], recipe)
    with pytest.raises(ProbeError, match=r"source \(50, 6\) and target \(50, 5\)"):
        evaluate_crosscoder(small(), source, target[:, 1:])
    with pytest.raises(ProbeError, match="values of the target activations are NaN or infinite"):
        scale_latents(small(), source, target * torch.nan)
    with pytest.raises(ProbeError, match="source activations of width 5; this crosscoder reads width 6"):
        small().encode(source[:, 1:], target[:, 1:])
    with pytest.raises(ProbeError, match="all target rows are equal"):
        train_crosscoder(source, torch.ones_like(target), recipe)
    with pytest.raises(ProbeError, match="all source rows are equal"):
        evaluate_crosscoder(small(), torch.ones_like(source), target)
    with pytest.raises(ProbeError, match="k is 9; it must be at most d_sae, 8"):
        CrosscoderRecipe(d_sae=8, k=9)
    with pytest.raises(ProbeError, match="steps is 0; it must be greater than 0"):
        CrosscoderRecipe(steps=0)
    with pytest.raises(ProbeError, match="the loss is not a number at step"):
        train_crosscoder(source, target, replace(recipe, lr=1e30, steps=20))
    of_one = {name: getattr(small(), name)[:1] for name in ("W_enc", "W_dec", "b_dec", "unit")}
    with pytest.raises(ProbeError, match=r"W_enc is \(1, 6, 10\).*must be \(2, 6, 10\)"):
        replace(small(), **of_one)
