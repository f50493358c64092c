"""Moves of an SAE into another activation space: exact on exact copies, of every architecture, and lost under a random rotation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import (
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedSAE,
    GatedSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)
from sae_lens.saes.sae import SAEMetadata
from torch.nn.functional import normalize

from probes.align import Alignment, mean_shift, procrustes
from probes.controls import random_rotation
from probes.errors import ProbeError
from probes.saes.moves import MOVES, Moving, folded, matched, rotated, stitched, tuned, tuning_curve
from probes.saes.quality import evaluate_sae
from probes.saes.recipe import SaeRecipe
from probes.saes.training import train_sae

D_IN, LATENTS, ACTIVE = 16, 32, 3
ARCHITECTURES = {
    "standard": (StandardSAE, StandardSAEConfig, {}),
    "topk": (TopKSAE, TopKSAEConfig, {"k": ACTIVE}),
    "topk by norm": (TopKSAE, TopKSAEConfig, {"k": ACTIVE, "rescale_acts_by_decoder_norm": True}),
    "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig, {}),
    "gated": (GatedSAE, GatedSAEConfig, {}),
    "deaf to b_dec": (StandardSAE, StandardSAEConfig, {"apply_b_dec_to_input": False}),
    "gated, deaf to b_dec": (GatedSAE, GatedSAEConfig, {"apply_b_dec_to_input": False}),
}


def random_sae(kind: str) -> Any:
    """Returns an SAE of random weights in which every parameter matters."""
    family, config, options = ARCHITECTURES[kind]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        sae: Any = family(config(d_in=D_IN, d_sae=LATENTS, metadata=SAEMetadata(hook_name="blocks.1.hook_resid_post"), **options))
        for parameter in sae.parameters():
            parameter.normal_(std=0.5)
        if kind == "jumprelu":
            sae.threshold.abs_()
        sae.W_dec.copy_(normalize(sae.W_dec, dim=1) * (torch.rand(LATENTS, 1) + 0.5 if kind == "topk by norm" else 1))
        sae.cfg.metadata.fitted_on = "ar"
    return sae.requires_grad_(False).eval()


def planted(rows: int = 4000, features: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    directions = normalize(torch.randn(features, D_IN, generator=generator), dim=1)
    on = torch.rand(rows, features, generator=generator).argsort(1) < ACTIVE
    strength = on * (0.5 + torch.rand(rows, features, generator=generator))
    return 5 * strength @ directions + 2 * torch.randn(D_IN, generator=generator)


X = planted()
RECIPE = SaeRecipe(d_sae=LATENTS, k=ACTIVE, steps=250, batch=256)
ROTATION = random_rotation(D_IN, seed=7)
ROTATED = X @ ROTATION + 3
SCALED = 0.25 * X - 5
STRETCHED = X @ (ROTATION * torch.linspace(0.5, 2, D_IN)) + 1


@pytest.fixture(scope="module")
def trained() -> Any:
    return train_sae(X, RECIPE, hook_name="blocks.1.hook_resid_post", fitted_on="ar")


def affine(seed: int) -> Alignment:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.eye(D_IN) + 0.3 * torch.randn(D_IN, D_IN, generator=generator)
    return Alignment(matrix, torch.randn(D_IN, generator=generator), "any")


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_folded_sae_is_the_sae_between_its_maps(kind: str) -> None:
    sae, into, back = random_sae(kind), affine(1), affine(2)
    moved = folded(sae, into, back, move="by hand", fitted_on="diffusion")
    expected = back(sae(into(X)))
    torch.testing.assert_close(moved(X), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(moved.encode(X) > 0, sae.encode(into(X)) > 0)
    assert type(moved) is type(sae)
    if not kind.startswith("topk"):
        torch.testing.assert_close(moved.W_dec.norm(dim=1), torch.ones(LATENTS))
        stretch = (sae.W_dec @ back.matrix).norm(dim=1)
        torch.testing.assert_close(moved.encode(X), sae.encode(into(X)) * stretch, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_map_that_keeps_angles_leaves_unit_rows_in_every_architecture(kind: str) -> None:
    into = Alignment(2.0 * ROTATION.T, torch.zeros(D_IN), "turn and scale")
    back = Alignment(0.5 * ROTATION, torch.zeros(D_IN), "turn and scale")
    sae = random_sae(kind)
    moved = folded(sae, into, back, move="by hand")
    torch.testing.assert_close(moved.W_dec.norm(dim=1), torch.ones(LATENTS))
    torch.testing.assert_close(moved(X), back(sae(into(X))), rtol=1e-4, atol=1e-4)


def test_the_sae_that_is_moved_stays_as_it_was(trained: Any) -> None:
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    stitched(trained, Moving(X, ROTATED, "diffusion"))
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert trained.cfg.metadata.fitted_on == "ar"


@pytest.mark.parametrize("copied", [ROTATED, STRETCHED], ids=["rotated", "stretched"])
def test_stitching_through_an_affine_copy_gives_the_latents_of_home(trained: Any, copied: torch.Tensor) -> None:
    moved = stitched(trained, Moving(X[:2000], copied[:2000]), l2=1e-9)
    torch.testing.assert_close(moved.encode(copied[2000:]), trained.encode(X[2000:]), atol=1e-3, rtol=1e-3)
    at_home = trained(X[2000:]) @ torch.linalg.lstsq(torch.cat([X, torch.ones(len(X), 1)], 1), copied).solution[:-1]
    torch.testing.assert_close((moved(copied[2000:]) - at_home).std(0), torch.zeros(D_IN), atol=1e-3, rtol=0)


def test_stitching_through_a_rotation_keeps_the_variance_explained(trained: Any) -> None:
    moved = stitched(trained, Moving(X, ROTATED), l2=1e-9)
    assert evaluate_sae(moved, ROTATED).fvu.value == pytest.approx(evaluate_sae(trained, X).fvu.value, abs=1e-4)


def test_matching_is_exact_on_a_shifted_and_scaled_copy(trained: Any) -> None:
    moved = matched(trained, Moving(X[:2000], SCALED[:2000]))
    torch.testing.assert_close(moved.encode(SCALED), 0.25 * trained.encode(X), rtol=1e-4, atol=1e-4)
    assert evaluate_sae(moved, SCALED).fvu.value == pytest.approx(evaluate_sae(trained, X).fvu.value, abs=1e-4)
    torch.testing.assert_close(moved.W_dec.norm(dim=1), torch.ones(LATENTS))
    assert evaluate_sae(MOVES["zero_shot"](trained, Moving(X, SCALED)), SCALED).fvu.value > 1


@pytest.mark.parametrize("name", MOVES)
def test_between_equal_spaces_no_move_changes_anything(trained: Any, name: str) -> None:
    moved = MOVES[name](trained, Moving(X, X))
    torch.testing.assert_close(moved.encode(X), trained.encode(X), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moved(X), trained(X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MOVES)
def test_a_moved_sae_is_a_file_like_any_other(trained: Any, name: str, tmp_path: Path) -> None:
    moved = MOVES[name](trained, Moving(X, STRETCHED, "diffusion"))
    moved.save_model(tmp_path)
    loaded: Any = SAE.load_from_disk(tmp_path)
    assert torch.equal(loaded(STRETCHED), moved(STRETCHED))
    assert loaded.cfg.metadata.hook_name == "blocks.1.hook_resid_post"
    said = (loaded.cfg.metadata.fitted_on, loaded.cfg.metadata.move, loaded.cfg.metadata.moved_from)
    assert said == (("ar", None, None) if name == "zero_shot" else ("diffusion", name, "ar"))
    assert not any(parameter.requires_grad for parameter in moved.parameters())


def test_a_random_rotation_loses_what_the_sae_knew_and_turned_rows_give_it_back(trained: Any) -> None:
    moving = Moving(X, X)
    turned_sae, mean = rotated(trained, moving, seed=3), X.mean(0)
    turned_rows = (X - mean) @ random_rotation(D_IN, 3) + mean
    home = evaluate_sae(trained, X).fvu.value
    assert evaluate_sae(turned_sae, X).fvu.value > 3 * home
    assert evaluate_sae(turned_sae, turned_rows).fvu.value == pytest.approx(home, abs=1e-5)
    torch.testing.assert_close(turned_sae.encode(turned_rows), trained.encode(X), rtol=1e-3, atol=1e-3)


def test_every_move_of_a_space_that_is_near_beats_chance_and_stitching_is_the_best(trained: Any) -> None:
    generator = torch.Generator().manual_seed(5)
    near = X @ (torch.eye(D_IN) + 0.1 * torch.randn(D_IN, D_IN, generator=generator)) + 0.5
    moving = Moving(X[:3000], near[:3000])
    fvu = {name: evaluate_sae(move(trained, moving), near[3000:]).fvu.value for name, move in MOVES.items()}
    assert fvu["stitched"] < fvu["matched"] <= fvu["zero_shot"] < evaluate_sae(rotated(trained, moving), near[3000:]).fvu.value


def test_any_pair_of_alignments_can_be_folded(trained: Any) -> None:
    by_rotation = folded(trained, procrustes(ROTATED, X), procrustes(X, ROTATED), move="procrustes")
    torch.testing.assert_close(by_rotation.encode(ROTATED), trained.encode(X), rtol=1e-3, atol=1e-3)
    by_mean = folded(trained, mean_shift(X + 9, X), mean_shift(X, X + 9), move="mean_shift")
    torch.testing.assert_close(by_mean(X + 9), trained(X) + 9, rtol=1e-4, atol=1e-3)


def test_tuning_improves_on_where_it_began_and_may_keep_the_dictionary(trained: Any) -> None:
    recipe = SaeRecipe(d_sae=LATENTS, k=ACTIVE, steps=60, batch=256, lr=1e-3)
    start = stitched(trained, Moving(X[:40], STRETCHED[:40]))
    before = evaluate_sae(start, STRETCHED).fvu.value
    better = tuned(start, STRETCHED, recipe, fitted_on="diffusion")
    assert evaluate_sae(better, STRETCHED).fvu.value < before
    assert (better.cfg.metadata.hook_name, better.cfg.metadata.fitted_on) == ("blocks.1.hook_resid_post", "diffusion")
    kept = tuned(trained, SCALED, recipe, freeze_decoder=True)
    torch.testing.assert_close(normalize(kept.W_dec, dim=1), normalize(trained.W_dec, dim=1), rtol=1e-4, atol=1e-5)


def test_the_tuning_curve_gives_both_the_same_rows_and_steps(trained: Any) -> None:
    recipe = SaeRecipe(d_sae=LATENTS, k=ACTIVE, steps=40, batch=128, lr=1e-3)
    near = 1.1 * X + 0.3
    found = list(tuning_curve(trained, near[:3000], [50, 1000], recipe, passes=10, fitted_on="diffusion"))
    assert [(one.rows, one.steps) for one in found] == [(50, 10), (1000, 40)]
    for one in found:
        assert evaluate_sae(one.tuned, near[3000:]).fvu.value < evaluate_sae(one.scratch, near[3000:]).fvu.value
        assert one.scratch.cfg.metadata.fitted_on == "diffusion"
    again = next(iter(tuning_curve(trained, near[:3000], [50], recipe, passes=10)))
    assert torch.equal(again.tuned.W_enc, found[0].tuned.W_enc)


def test_what_cannot_be_moved_is_named(trained: Any) -> None:
    with pytest.raises((ProbeError, TypeError), match=r"target \(5, 16\)|\[5,16\]"):
        Moving(X, X[:5])
    with pytest.raises(ProbeError, match="2 rows at least"):
        Moving(X[:1], X[:1])
    with pytest.raises(ProbeError, match="must be finite"):
        Moving(X, X * torch.nan)
    with pytest.raises(ProbeError, match="rows that vary"):
        matched(trained, Moving(X, torch.ones_like(X)))
    with pytest.raises(ProbeError, match=r"widths 8 and 8; this SAE reads width 16"):
        stitched(trained, Moving(X[:, :8], X[:, :8]))
    training: Any = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=D_IN, d_sae=8, k=2))
    with pytest.raises(ProbeError, match=r"a batchtopk SAE .* cannot be moved; one of standard, topk, jumprelu, gated"):
        matched(training, Moving(X, X))
    whitened = StandardSAE(StandardSAEConfig(d_in=D_IN, d_sae=8, normalize_activations="layer_norm"))
    with pytest.raises(ProbeError, match="normalize_activations 'layer_norm'"):
        matched(whitened, Moving(X, X))
    with pytest.raises(ProbeError, match="5000 activations; a size must be from 2 to the 4000"):
        list(tuning_curve(trained, X, [5000], RECIPE))
