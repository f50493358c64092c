"""SAEs on disk: SAELens' folders, and Qwen-Scope's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from probes.errors import ProbeError
from probes.saes.files import load_sae, save_sae
from probes.saes.recipe import ARCHITECTURES, SaeRecipe
from probes.saes.training import train_sae

D_IN, D_SAE, K = 16, 32, 3


@pytest.fixture(scope="module")
def x() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2000, 40, generator=generator).relu() @ torch.randn(40, D_IN, generator=generator) + 5


@pytest.fixture(scope="module")
def trained(x: Tensor) -> dict[str, Any]:
    recipes = {name: SaeRecipe(name, D_SAE, K, steps=50, batch=128) for name in ARCHITECTURES}
    return {name: train_sae(x, recipe, hook_name="blocks.3.hook_resid_post", fitted_on="model-1") for name, recipe in recipes.items()}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sae_lens_reloads_it_to_the_same_outputs(name: str, trained: dict[str, Any], x: Tensor, tmp_path: Path) -> None:
    from sae_lens import SAE

    save_sae(trained[name], tmp_path)
    theirs, ours = SAE.load_from_disk(tmp_path), load_sae(tmp_path, fitted_on="model-1")
    assert torch.equal(theirs(x), trained[name](x))
    assert torch.equal(ours(x), trained[name](x))
    assert ours.cfg.metadata.hook_name == "blocks.3.hook_resid_post"
    assert not any(parameter.requires_grad for parameter in ours.parameters())


@pytest.mark.parametrize("name", ["batchtopk", "matryoshka"])
def test_a_threshold_keeps_the_asked_l0_on_disk(name: str, trained: dict[str, Any], x: Tensor, tmp_path: Path) -> None:
    save_sae(trained[name], tmp_path)
    loaded = load_sae(tmp_path)
    assert loaded.cfg.architecture() == "jumprelu"
    assert float((loaded.encode(x) > 0).float().sum(1).mean()) == pytest.approx(K, rel=0.1)


def test_an_sae_of_something_else_is_refused(trained: dict[str, Any], tmp_path: Path) -> None:
    save_sae(trained["topk"], tmp_path)
    with pytest.raises(ProbeError, match=r"'model-1'.*'model-2'"):
        load_sae(tmp_path, fitted_on="model-2")
    with pytest.raises(ProbeError, match="a SAELens folder states its own"):
        load_sae(tmp_path, k=3)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "cfg.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "relu"}, "architecture 'relu'; known are .*gated.*topk"),
        ({"d_in": 8}, r"states d_sae, d_in of \(32, 8\) and its decoder is \(32, 16\)"),
        ({"architecture": "jumprelu"}, r"weights must fit its cfg\.json"),
        ({"normalize_activations": "expected_average_only_in"}, "a factor that it does not hold"),
    ],
)
def test_a_folder_that_contradicts_itself_is_refused(
    changes: dict[str, Any], message: str, trained: dict[str, Any], tmp_path: Path
) -> None:
    save_sae(trained["topk"], tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(ProbeError, match=message):
        load_sae(tmp_path)


def test_a_folder_that_is_not_whole_is_refused(trained: dict[str, Any], tmp_path: Path) -> None:
    save_sae(trained["topk"], tmp_path)
    weights = tmp_path / "sae_weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(ProbeError, match="holds no readable SAE"):
        load_sae(tmp_path)
    weights.write_bytes(whole)
    (tmp_path / "cfg.json").write_text("{")
    with pytest.raises(ProbeError, match="holds no readable SAE"):
        load_sae(tmp_path)
    weights.unlink()
    with pytest.raises(ProbeError, match=r"lacks sae_weights\.safetensors"):
        load_sae(tmp_path)


def qwen_scope(seed: int = 0, d_in: int = D_IN) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (D_SAE, d_in), "W_dec": (d_in, D_SAE), "b_enc": (D_SAE,), "b_dec": (d_in,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def written(content: Any, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / "layer7.sae.pt")  # noqa: TID251 (what is read here)
    return folder / "layer7.sae.pt"


@pytest.mark.parametrize("turned", [False, True])
def test_a_file_of_qwen_scope_does_what_its_card_says(turned: bool, x: Tensor, tmp_path: Path) -> None:
    content = qwen_scope()
    pre = x @ content["W_enc"].T + content["b_enc"]
    found = pre.topk(K, dim=-1)
    latents = torch.zeros_like(pre).scatter(-1, found.indices, found.values.relu())
    stored = {name: value.T.contiguous() if turned and value.ndim == 2 else value for name, value in content.items()}
    sae = load_sae(written(stored, tmp_path / f"SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}"))
    torch.testing.assert_close(sae.encode(x), latents)
    torch.testing.assert_close(sae(x), latents @ content["W_dec"].T + content["b_dec"], rtol=1e-4, atol=1e-3)
    assert sae.cfg.metadata.hook_name == "blocks.7.hook_resid_post"
    assert (sae.cfg.k, sae.cfg.d_in, sae.cfg.d_sae) == (K, D_IN, D_SAE)


def test_k_comes_from_a_folder_or_from_the_caller(tmp_path: Path) -> None:
    path = written(qwen_scope(), tmp_path / "plain")
    assert load_sae(path, k=5).cfg.k == 5
    with pytest.raises(ProbeError, match="give k"):
        load_sae(path)
    with pytest.raises(ProbeError, match="k is 33; it must lie in 1 to d_sae, 32"):
        load_sae(path, k=33)
    with pytest.raises(ProbeError, match=r"''.*'model-1'"):
        load_sae(path, "model-1", k=5)


class Code:
    def __reduce__(self) -> Any:
        return print, ("run",)


def test_files_that_hold_something_else_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = qwen_scope()
    refused = {
        "holds code .*print.*never run": {**content, "more": Code()},
        "holds W_enc, W_dec; a Qwen-Scope SAE is": {name: content[name] for name in ("W_enc", "W_dec")},
        "holds list": [content["W_enc"]],
        "of two lengths": qwen_scope(d_in=D_SAE),
        r"W_enc must be \[d_sae, d_in\]": {**content, "W_enc": torch.zeros(3, 3)},
    }
    for message, stored in refused.items():
        with pytest.raises(ProbeError, match=message) as caught:
            load_sae(written(stored, tmp_path), k=3)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr().out == ""
    (tmp_path / "layer7.sae.pt").write_bytes(b"nothing")
    with pytest.raises(ProbeError, match=r"is damaged"):
        load_sae(tmp_path / "layer7.sae.pt", k=3)
    with pytest.raises(ProbeError, match=r"lacks cfg\.json"):
        load_sae(tmp_path / "layer8.sae.pt")
