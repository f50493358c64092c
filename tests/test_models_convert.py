"""Conversion: the same tensors in the layout of a published diffusion family, opened as a model of that family."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Run, refused
from safetensors.torch import load_file

from models.architectures import ARCHITECTURES
from models.convert import INDEX, LAYOUTS, ConvertError, convert
from models.facts import CONFIG_KEY, ModelFacts
from models.families import FAMILIES
from models.load import load
from models.opening import family_of
from models.tasks.stories.task import MASK_ID, STORIES

Parent = Callable[..., Path]


@pytest.fixture
def parent(tmp_path: Path) -> Parent:
    """``parent("qwen3")``: a folder as the hub has them, a random causal network and a tokenizer, which ``spare`` rows have no token of."""

    def make(network: str, spare: int = 3, facts: ModelFacts | None = None, **saving: Any) -> Path:
        size = len(STORIES.vocabulary) + spare
        module = ARCHITECTURES[network].build(vocab_size=size, n_positions=64, d_model=16, n_layers=2, n_heads=2)
        with torch.no_grad():
            for seed, weight in enumerate(module.parameters()):
                if weight.ndim > 1:
                    weight.normal_(std=0.3, generator=torch.Generator().manual_seed(seed))
        if facts is not None:
            setattr(module.config, CONFIG_KEY, facts.to_config())
        module.config.is_causal = facts is None or facts.attention == "causal"
        module.to(torch.bfloat16).save_pretrained(tmp_path / network, **saving)
        STORIES.save_tokenizer(tmp_path / network)
        return tmp_path / network

    return make


def without_mask(folder: Path) -> None:
    """Takes the role of the mask token from a folder's tokenizer."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "mask_token"}))


@pytest.mark.parametrize("family", LAYOUTS)
@pytest.mark.parametrize("saving", [{}, {"max_shard_size": "100KB"}], ids=["one file", "several"])
def test_a_converted_parent_opens_as_the_family_and_computes_the_same_under_its_facts(
    family: str, saving: dict[str, str], parent: Parent, tmp_path: Path
) -> None:
    source = parent(FAMILIES[family].network, **saving)
    assert convert(source, family, tmp_path / "out") == MASK_ID
    before, model = load(source), load(tmp_path / "out")
    assert family_of(json.loads((tmp_path / "out" / "config.json").read_text()), None, "out").name == family
    facts = model.facts
    assert (facts.objective, facts.attention, facts.mask_token_id) == ("masked", "full", MASK_ID)
    assert facts.logit_shift == FAMILIES[family].behaviour.logit_shift
    theirs, ours = before.module.state_dict(), model.module.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    one = torch.tensor([[5]])  # a position alone sees the same, causal or not
    assert torch.equal(model.module(one).logits, before.module(one).logits)
    assert (tmp_path / "out" / INDEX).exists() == bool(saving)


def test_tensors_have_the_names_that_the_family_publishes(parent: Parent, tmp_path: Path) -> None:
    for network, family in (("gpt2", "diffugpt"), ("qwen3", "a2d-qwen3")):
        convert(parent(network), family, tmp_path / family)
    names = set(load_file(tmp_path / "diffugpt" / "model.safetensors"))
    assert {"embed_tokens.weight", "denoise_model.wpe.weight", "denoise_model.ln_f.bias", "lm_head.weight"} <= names
    assert not [name for name in names if name.startswith("transformer.") or "wte" in name]
    a2d, qwen = (load_file(folder / "model.safetensors") for folder in (tmp_path / "a2d-qwen3", tmp_path / "qwen3"))
    assert a2d.keys() == qwen.keys()
    config = json.loads((tmp_path / "a2d-qwen3" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("a2d-qwen3", ["A2DQwen3LMHeadModel"])
    assert CONFIG_KEY not in config


def test_a_gpt2_without_its_prefix_and_with_its_old_buffers_is_one_too(parent: Parent, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    source = parent("gpt2")
    whole = load_file(source / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in whole.items()} | {"h.0.attn.bias": torch.ones(1, 1, 4, 4)}
    save_file(bare, source / "model.safetensors", metadata={"format": "pt"})
    convert(source, "diffugpt", tmp_path / "out")
    ours = load(tmp_path / "out").module.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in whole.items())


def test_the_mask_token_is_the_tokenizers_the_one_asked_for_or_the_familys(parent: Parent, tmp_path: Path) -> None:
    source, size = parent("qwen3"), len(STORIES.vocabulary)
    assert convert(source, "a2d-qwen3", tmp_path / "own") == MASK_ID
    assert convert(source, "a2d-qwen3", tmp_path / "asked", mask_token="<more>") == 2
    without_mask(source)
    assert convert(source, "a2d-qwen3", tmp_path / "family") == size
    for name, mask in (("own", MASK_ID), ("asked", 2), ("family", size)):
        model = load(tmp_path / name)
        assert model.facts.mask_token_id == model.task.tokenizer.mask_token_id == mask
        assert model.task.parse("a[MASK:2]").tolist()[0][-2:] == [mask, mask]


def test_a_trained_masked_twin_is_laid_out_if_its_facts_are_the_familys(parent: Parent, tmp_path: Path) -> None:
    twin = parent("qwen3", spare=0, facts=ModelFacts("masked", "full", 0, MASK_ID, "stories"))
    convert(twin, "a2d-qwen3", tmp_path / "out")
    tokens = torch.arange(10)[None]
    assert torch.equal(load(twin).logits(tokens), load(tmp_path / "out", dtype="float32").logits(tokens))
    shifted = parent("qwen2", spare=0, facts=ModelFacts("masked", "full", 1, MASK_ID, "stories"))
    with pytest.raises(
        ConvertError, match="masked model with full attention and logit_shift 1; those of a2d-qwen2 have full attention and"
    ):
        convert(shifted, "a2d-qwen2", tmp_path / "wrong")


def test_what_cannot_be_converted_is_named_and_nothing_is_written(parent: Parent, tmp_path: Path) -> None:
    full, out = parent("llama", spare=0), tmp_path / "out"
    for arguments, message in (
        ((full, "dream", out), "nothing is converted to the family 'dream'; choose from a2d-llama, a2d-qwen2, a2d-qwen3, diffugpt"),
        ((full, "diffugpt", out), "is a llama, and diffugpt is made of a gpt2; it can become: a2d-llama"),
        ((full, "a2d-llama", full), "is there already and not empty"),
        ((full, "a2d-llama", out, "a"), "'a' means something else to the tokenizer already"),
        ((full, "a2d-llama", out, "<|new|>"), "mask token '<.new.>' would be token 6000, and the network has 6000 tokens"),
        (("sudoku-ar", "diffugpt", out), "has no tokenizer"),
    ):
        with pytest.raises(ConvertError, match=message):
            convert(*arguments)
    (full / "model.safetensors").rename(full / "pytorch_model.bin")
    with pytest.raises(ConvertError, match="holds no safetensors"):
        convert(full, "a2d-llama", out)
    assert not out.exists()


def test_the_command_says_what_it_wrote(parent: Parent, denoscope: Run, tmp_path: Path) -> None:
    source = parent("gpt2")
    ended = denoscope("convert", source, "--to", "diffugpt", "--out", tmp_path / "out")
    assert ended.code == 0, ended.stderr
    assert f"mask token {MASK_ID}" in ended.stdout
    assert load(tmp_path / "out").facts.objective == "masked"
    refused(denoscope("convert", source, "--to", "gpt5", "--out", tmp_path / "other"), "nothing is converted to the family 'gpt5'")
