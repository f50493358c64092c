"""Sparse autoencoders: a planted dictionary, and SAELens's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from probes.controls import random_rotation
from probes.errors import ProbeError
from probes.sae import evaluate_sae, load_sae, save_sae, train_sae

D_IN, FEATURES, ACTIVE = 64, 128, 4


def planted(rows: int = 20_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns sums of few unit features, far from the origin and not of unit scale, and the features."""
    generator = torch.Generator().manual_seed(0)
    features = normalize(torch.randn(FEATURES, D_IN, generator=generator), dim=1)
    on = torch.rand(rows, FEATURES, generator=generator).argsort(1) < ACTIVE
    strength = on * (0.5 + torch.rand(rows, FEATURES, generator=generator))
    return 5 * strength @ features + 3 * torch.randn(D_IN, generator=generator), features


@pytest.fixture(scope="module")
def trained() -> tuple[Any, torch.Tensor, torch.Tensor, list[tuple[int, float]]]:
    x, features = planted()
    calls: list[tuple[int, float]] = []
    sae = train_sae(
        x,
        d_sae=192,
        k=ACTIVE,
        steps=500,
        batch=512,
        hook_name="blocks.3.hook_resid_post",
        fitted_on="model-1",
        on_step=lambda step, fvu: calls.append((step, fvu)),
    )
    return sae, x, features, calls


def test_a_planted_dictionary_is_recovered(trained: Any) -> None:
    sae, x, features, calls = trained
    similarity = normalize(sae.W_dec.detach(), dim=1) @ features.T
    assert float((similarity.amax(0) > 0.9).float().mean()) >= 0.9
    quality = evaluate_sae(sae, x)
    assert quality.l0 == pytest.approx(ACTIVE, abs=0.01)
    assert quality.fvu < 0.1
    assert quality.n == len(x)
    assert [step for step, _ in calls] == list(range(1, 501))
    assert calls[-1][1] == pytest.approx(quality.fvu, rel=0.2)


def test_latents_are_lengths_along_unit_decoder_rows(trained: Any) -> None:
    sae, x, _, _ = trained
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(192))
    assert 2 < float(sae.encode(x[:500]).amax(1).mean()) < 8  # planted strengths are 2.5 to 7.5


def test_sae_lens_reloads_it_to_the_same_outputs(trained: Any, tmp_path: Path) -> None:
    from sae_lens import SAE

    sae, x, _, _ = trained
    save_sae(sae, tmp_path)
    theirs, ours = SAE.load_from_disk(tmp_path), load_sae(tmp_path, fitted_on="model-1")
    assert torch.equal(theirs(x[:500]), sae(x[:500]))
    assert torch.equal(ours(x[:500]), sae(x[:500]))
    assert ((theirs.encode(x[:500]) > 0).sum(1) <= ACTIVE).all()
    assert theirs.cfg.architecture() == "topk"
    assert (theirs.cfg.metadata.hook_name, theirs.cfg.metadata.fitted_on) == ("blocks.3.hook_resid_post", "model-1")
    with pytest.raises(ProbeError, match=r"'model-1'.*'model-2'"):
        load_sae(tmp_path, fitted_on="model-2")
    (tmp_path / "sae_weights.safetensors").unlink()
    with pytest.raises(ProbeError, match=r"lacks sae_weights\.safetensors"):
        load_sae(tmp_path)


def test_a_random_rotation_raises_the_variance_unexplained(trained: Any) -> None:
    sae, x, _, _ = trained
    rotated = (x - x.mean(0)) @ random_rotation(D_IN, seed=0) + x.mean(0)
    assert evaluate_sae(sae, rotated).fvu > 5 * evaluate_sae(sae, x).fvu


def test_the_seed_decides_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    x, _ = planted(rows=300)
    torch.manual_seed(1)
    one = train_sae(x, d_sae=96, k=4, steps=45, batch=512, seed=3)
    before = torch.get_rng_state()
    two = train_sae(x, d_sae=96, k=4, steps=45, batch=512, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one.state_dict()[name], value) for name, value in two.state_dict().items())
    other = train_sae(x, d_sae=96, k=4, steps=1, batch=512, seed=4)
    assert not torch.equal(one.W_dec, other.W_dec)
    assert capfd.readouterr().out == ""


def test_dead_latents_are_counted(trained: Any) -> None:
    sae, x, _, _ = trained
    one_row = evaluate_sae(sae, torch.stack([x[0], x[0] + 1e-4]))
    assert one_row.dead > 0.9


def test_unusable_input_is_refused(trained: Any) -> None:
    x = trained[1][:50]
    with pytest.raises(ProbeError, match="k is 9; it must be at most d_sae, 8"):
        train_sae(x, d_sae=8, k=9, steps=1)
    with pytest.raises(ProbeError, match="steps is 0"):
        train_sae(x, d_sae=8, k=2, steps=0)
    with pytest.raises(ProbeError, match="must be finite"):
        train_sae(x * torch.inf, d_sae=8, k=2, steps=1)
    with pytest.raises(ProbeError, match="rows that vary"):
        train_sae(torch.ones(50, 8), d_sae=8, k=2, steps=1)
    with pytest.raises(ProbeError, match="rows that vary"):
        evaluate_sae(trained[0], torch.ones(50, D_IN))
