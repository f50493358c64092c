"""Published SAEs, against the formulas on their cards; small random ones, laid out as those are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from interp.splicing import spliced
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from probes.errors import ProbeError
from probes.saes.files import load_sae, save_sae
from probes.saes.public import load_public_sae

D_IN, D_SAE, K = 32, 512, 5
QWEN, QWEN_REPO = "qwen-scope-3-1.7b-base-w32k-l50", "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50"
GPT2, GPT2_REPO = "gpt2-small-res-jb", "jbloom/GPT2-Small-SAEs-Reformatted"
RESID_PRE = "blocks.8.hook_resid_pre"


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def x() -> Tensor:
    return random(9, 40, D_IN) + 3


def qwen_scope(folder: Path, layer: int = 7, **more: Any) -> dict[str, Tensor]:
    """Written as Qwen's cards describe it."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {"W_enc": (D_SAE, D_IN), "W_dec": (D_IN, D_SAE), "b_enc": (D_SAE,), "b_dec": (D_IN,)}
    content = {name: random(seed, *shape) for seed, (name, shape) in enumerate(shapes.items())}
    torch.save({**content, **more}, folder / f"layer{layer}.sae.pt")  # noqa: TID251 (what is read here)
    return content


def gpt2_small(folder: Path, **changes: Any) -> dict[str, Tensor]:
    """Written as the first versions of SAELens did: an SAE of TransformerLens's centred residual stream."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {"W_enc": (D_IN, D_SAE), "W_dec": (D_SAE, D_IN), "b_enc": (D_SAE,), "b_dec": (D_IN,)}
    content = {name: random(seed, *shape) for seed, (name, shape) in enumerate(shapes.items())}
    config = {"architecture": "standard", "d_in": D_IN, "d_sae": D_SAE, "dtype": "torch.float32", "device": "cpu"}
    config |= {"hook_point": RESID_PRE, "model_name": "gpt2-small", "normalize_activations": "none"}
    (folder / "cfg.json").write_text(json.dumps({**config, **changes}))
    save_file(content, folder / "sae_weights.safetensors")
    save_file({"sparsity": torch.zeros(D_SAE)}, folder / "sparsity.safetensors")
    return content


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``cache(repository)``: its folder in an otherwise empty cache of the hub, without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def folder(repository: str) -> Path:
        home, commit = tmp_path / f"models--{repository.replace('/', '--')}", "0" * 40
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text(commit)
        (home / "snapshots" / commit).mkdir(parents=True)
        return home / "snapshots" / commit

    return folder


def of_card(content: dict[str, Tensor], x: Tensor, k: int) -> Tensor:
    """The latents as Qwen's cards compute them."""
    before = x @ content["W_enc"].T + content["b_enc"]
    values, places = before.topk(k, dim=-1)
    return torch.zeros_like(before).scatter_(-1, places, values)


def of_centred(content: dict[str, Tensor], x: Tensor) -> Tensor:
    """The latents of raw activations, through the stream that TransformerLens makes of them."""
    centred = x - x.mean(1, keepdim=True)
    return ((centred - content["b_dec"]) @ content["W_enc"] + content["b_enc"]).relu()


def test_qwen_scope_does_what_its_card_says(tmp_path: Path, x: Tensor) -> None:
    content = qwen_scope(tmp_path / f"SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}")
    sae = load_public_sae(tmp_path / f"SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}", "layer7", d_model=D_IN)
    latents = of_card(content, x, K)
    assert bool((latents >= 0).all())
    torch.testing.assert_close(sae.encode(x), latents)
    torch.testing.assert_close(sae(x), latents @ content["W_dec"].T + content["b_dec"], rtol=1e-4, atol=1e-3)
    assert sae.cfg.metadata.hook_name == "blocks.7.hook_resid_post"


def test_negative_latents_of_the_card_are_zero(tmp_path: Path, x: Tensor) -> None:
    content = qwen_scope(tmp_path)
    k = D_SAE - 3
    latents = of_card(content, x, k)
    assert bool((latents < 0).any())
    torch.testing.assert_close(load_public_sae(tmp_path, "layer7", k=k).encode(x), latents.relu())


def test_a_release_of_qwen_scope_is_read_from_the_cache(cache: Any, x: Tensor) -> None:
    content = qwen_scope(cache(QWEN_REPO), 14)
    sae = load_public_sae(QWEN, "layer14")
    torch.testing.assert_close(sae.encode(x), of_card(content, x, 50))
    assert (sae.cfg.k, sae.cfg.metadata.hook_name) == (50, "blocks.14.hook_resid_post")


class Code:
    def __reduce__(self) -> Any:
        return print, ("run",)


def test_no_file_runs_code_whatever_the_environment_says(
    cache: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    qwen_scope(cache(QWEN_REPO), 14, more=Code())
    with pytest.raises(ProbeError, match=r"holds code .*print.*never run"):
        load_public_sae(QWEN, "layer14")
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("how", ["release", "folder", "folder of several"])
def test_an_sae_of_centred_activations_reads_raw_ones(how: str, cache: Any, x: Tensor) -> None:
    home = cache(GPT2_REPO)
    stated = {} if how == "release" else {"model_from_pretrained_kwargs": {"center_writing_weights": True}}  # the registry states it too
    content = gpt2_small(home / RESID_PRE, **stated)
    asked = {"release": (GPT2, RESID_PRE), "folder": (home / RESID_PRE,), "folder of several": (home, RESID_PRE)}[how]
    sae = load_public_sae(*asked, d_model=D_IN)
    latents = of_centred(content, x)
    torch.testing.assert_close(sae.encode(x), latents, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sae(x), latents @ content["W_dec"] + content["b_dec"], rtol=1e-4, atol=1e-3)
    assert sae.cfg.metadata.hook_name == RESID_PRE


def test_what_is_not_of_centred_activations_is_left(tmp_path: Path, x: Tensor) -> None:
    content = gpt2_small(tmp_path)
    latents = ((x - content["b_dec"]) @ content["W_enc"] + content["b_enc"]).relu()
    torch.testing.assert_close(load_public_sae(tmp_path).encode(x), latents)


def test_a_model_takes_the_splice_of_centred_activations_for_that_of_raw_ones(
    tiny_model: Callable[..., LanguageModel], tmp_path: Path
) -> None:
    model, tokens = tiny_model(), torch.arange(10)[None]
    gpt2_small(tmp_path, model_from_pretrained_kwargs={"center_writing_weights": True}, hook_point="blocks.1.hook_resid_pre")
    sae = load_public_sae(tmp_path, d_model=model.d_model)
    point = HookPoint.parse(sae.cfg.metadata.hook_name)
    with spliced(model, {point: sae}):
        found = model.logits(tokens)
    with model.hooks({point: lambda x: sae(x) + x.mean(-1, keepdim=True)}):
        torch.testing.assert_close(model.logits(tokens), found, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(model.logits(tokens), found, atol=1e-2)


def test_qwen_scope_is_spliced_in_where_its_metadata_say(tiny_model: Callable[..., LanguageModel], tmp_path: Path) -> None:
    model, tokens = tiny_model(), torch.arange(10)[None]
    content = qwen_scope(tmp_path, 1)
    sae = load_public_sae(tmp_path, "layer1", k=K, d_model=model.d_model)
    point = HookPoint.parse(sae.cfg.metadata.hook_name)
    with spliced(model, {point: sae}):
        found = model.logits(tokens)
    with model.hooks({point: lambda x: of_card(content, x, K) @ content["W_dec"].T + content["b_dec"]}):
        torch.testing.assert_close(found, model.logits(tokens), rtol=1e-4, atol=1e-4)
    plain = model.logits(tokens)
    with spliced(model, {point: sae}, error_term=True):
        torch.testing.assert_close(model.logits(tokens), plain, rtol=1e-4, atol=1e-4)


def test_centring_that_cannot_be_folded_is_refused(tmp_path: Path) -> None:
    gpt2_small(tmp_path, model_from_pretrained_kwargs={"center_writing_weights": True}, normalize_activations="layer_norm")
    with pytest.raises(ProbeError, match="standard, normalize_activations layer_norm; only standard, topk, jumprelu with none"):
        load_public_sae(tmp_path)


@pytest.mark.parametrize("kind", ["qwen", "gpt2"])
def test_once_said_what_it_is_of_it_is_saved_and_read_as_any_other(kind: str, tmp_path: Path, x: Tensor) -> None:
    if kind == "qwen":
        qwen_scope(tmp_path)
        sae = load_public_sae(tmp_path, "layer7", k=K, fitted_on="model-1@blocks.7.hook_resid_post")
    else:
        gpt2_small(tmp_path, model_from_pretrained_kwargs={"center_writing_weights": True})
        sae = load_public_sae(tmp_path, fitted_on="model-1@blocks.7.hook_resid_post")
    assert not any(parameter.requires_grad for parameter in sae.parameters())
    save_sae(sae, tmp_path / "saved")
    again = load_sae(tmp_path / "saved", fitted_on="model-1@blocks.7.hook_resid_post")
    assert torch.equal(again(x), sae(x))
    with pytest.raises(ProbeError, match="model-2"):
        load_sae(tmp_path / "saved", fitted_on="model-2")


def test_what_cannot_be_had_is_refused_in_one_line(cache: Any, tmp_path: Path) -> None:
    qwen_scope(tmp_path / "one")
    refused: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
        r"layer3\.sae\.pt of Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50 is neither in the cache.*run `hf download": ((QWEN, "layer3"), {}),
        r"blocks.8.hook_resid_pre of jbloom/GPT2-Small-SAEs-Reformatted is neither in the cache": ((GPT2, RESID_PRE), {}),
        "'qwen-scope-3-1.7b' is no file, folder or release in SAELens' registry; of .* nearest are qwen-scope": (
            ("qwen-scope-3-1.7b", "layer3"),
            {},
        ),
        "has no SAE 'layer99'; of 28 the nearest are layer9": ((QWEN, "layer99"), {}),
        "is no file or folder; of a release in SAELens' registry give the id": ((QWEN,), {}),
        "a release states its own": ((QWEN, "layer3"), {"k": 3}),
        "holds no SAE of the id 'layer8'; of 1 the nearest are layer7": ((tmp_path / "one", "layer8"), {"k": 3}),
        "holds no SAE of the id None; of 0 the nearest are none": ((tmp_path / "models--none",), {}),
        "is one SAE; it has none of the id 'layer7'": ((tmp_path / "one" / "layer7.sae.pt", "layer7"), {"k": 3}),
        "reads activations of width 32; those of the model are 2048 wide": ((tmp_path / "one", "layer7"), {"k": 3, "d_model": 2048}),
        "give k": ((tmp_path / "one" / "layer7.sae.pt",), {}),
    }
    (tmp_path / "models--none").mkdir()
    for message, (places, named) in refused.items():
        with pytest.raises(ProbeError, match=message) as caught:
            load_public_sae(*places, **named)
        assert "\n" not in str(caught.value)
