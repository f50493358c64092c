"""Published checkpoints of every family are opened as what they are, without their code, and what cannot be opened says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
import pytest
import torch
import transformers
from huggingface_hub import errors
from published import PUBLISHED, write, write_tokenizer
from remote_code import FACTS, LAYOUT, write_box
from safetensors.torch import load_file, save_file

from models.card import Card, CardError, read_card
from models.checks import Check
from models.conformance import conformance
from models.denoise import denoise
from models.facts import ModelFacts
from models.families import FAMILIES
from models.hookpoints import HookPoint, resid_post
from models.hub import ModelError
from models.language_model import LanguageModel
from models.load import load
from models.opening import opening
from models.prompt import PromptError
from models.recorder import Channel, Record
from models.tasks import TaskError, text_task
from models.trajectory import Trajectory

TRUSTED = "trust_remote_code = true\n" + FACTS
GIVEN = {"diffullama": {"facts": {"mask_token_id": 301}}}
"""What must be said of tiny models whose families know their mask token by a number beyond these vocabularies."""


def stated(name: str) -> dict[str, Any]:
    return {**({"family": name} if PUBLISHED[name].named else {}), **GIVEN.get(name, {})}


@pytest.fixture(scope="session", params=FAMILIES)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, LanguageModel, Any]:
    """Name, model, and the native network that holds the same tensors."""
    folder = tmp_path_factory.mktemp("published") / request.param
    native = write(folder, PUBLISHED[request.param])
    return request.param, load(folder, **stated(request.param)), native


@torch.no_grad()
def test_a_published_checkpoint_is_opened_as_the_network_that_it_is(opened: tuple[str, LanguageModel, Any]) -> None:
    name, model, native = opened
    facts = model.facts
    assert (facts.objective, facts.attention, facts.logit_shift, facts.block_size) == PUBLISHED[name].facts
    assert facts.task == "text"
    tokens = torch.randint(0, 300, (2, 40), generator=torch.Generator().manual_seed(0))
    place = torch.arange(40)
    size = {"causal": 1, "full": 40, "block-causal": facts.block_size}[facts.attention]
    mask = torch.where(place[None] // size <= place[:, None] // size, 0.0, torch.finfo(torch.float32).min).expand(2, 1, 40, 40)
    expected = native(tokens, attention_mask=mask).logits
    assert expected.std() > 0.3
    torch.testing.assert_close(model.network.raw(tokens), expected, atol=1e-5, rtol=1e-5)
    assert model.n_layers == 2
    assert model.d_model == 32


def test_text_is_asked_for_written_and_kept(opened: tuple[str, LanguageModel, Any], tmp_path: Path) -> None:
    name, model, _ = opened
    task = text_task(model.task)
    if not PUBLISHED[name].tokenizer_class:
        assert "there is no tokenizer beside the model's weights" in said(lambda: task.parse("The sea[MASK]"), TaskError)
        return
    if model.facts.objective == "causal":
        assert "is a causal model" in said(lambda: denoise(model, torch.tensor([task.encode("The sea")])), PromptError)
        return
    tokens = task.parse("The sea[MASK:3] from the sky[MASK].")
    given = task.encode("The sea"), task.encode(" from the sky"), task.encode(".")
    assert tokens[0].tolist() == [*given[0], *[model.facts.mask_token_id] * 3, *given[1], model.facts.mask_token_id, *given[2]]
    assert task.decode(tokens) == ["The sea[MASK][MASK][MASK] from the sky[MASK]."]
    for policy in ("low_confidence", "random"):
        run = denoise(model, tokens, policy, record=Record(channels={"residual": Channel(resid_post(1), steps=(1,))}))
        run.save(tmp_path / policy)
        again = Trajectory.load(tmp_path / policy)
        written = torch.from_numpy(again.tokens(-1))
        assert (again.policy, again.task, again.fingerprint) == (policy, "text", model.fingerprint)
        assert not (written == model.facts.mask_token_id).any()
        text = "".join(task.vocabulary[int(token)] for token in written[0])
        if "�" not in text and int(written.max()) < len(task.tokenizer):  # parts of a character, or rows without a token
            assert task.decode(written) == [text]
        assert text.startswith("The sea")
        assert " from the sky" in text


# ---------------------------------------------------------------- facts


def facts_of(folder: Path, **settings: Any) -> ModelFacts:
    return opening(Card(model=str(folder), **settings)).facts


def said(call: Callable[[], object], error: type[Exception] = ModelError) -> str:
    """What an error says, in one line."""
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def configured(folder: Path, name: str, mask: str | None = None, *, is_set: bool = False, **changes: Any) -> Path:
    """Writes configuration and tokenizer of a family, without weights."""
    size = write_tokenizer(folder, mask, is_set=is_set)
    assert size == 301
    (folder / "config.json").write_text(json.dumps({**PUBLISHED[name].raw, **changes}))
    return folder


def test_the_mask_token_is_what_the_configuration_then_the_tokenizer_then_the_family_says(tmp_path: Path) -> None:
    assert facts_of(configured(tmp_path, "llada", "<|mdm_mask|>", mask_token_id=7)).mask_token_id == 7
    assert facts_of(configured(tmp_path, "llada", "<|mdm_mask|>")).mask_token_id == 301
    assert facts_of(configured(tmp_path, "llada", "<|another|>", is_set=True)).mask_token_id == 301
    assert facts_of(configured(tmp_path, "sdar", "<|MASK|>", mask_token_id=None)).mask_token_id == 301
    families = {"sdar": 151669, "fast-dllm-v2": 151665, "llada2": 156895, "llada-moe": 156895, "illada": 5, "diffugpt": 10541}
    for name, token in families.items():
        assert facts_of(configured(tmp_path, name, "[gMASK]")).mask_token_id == token  # a mask of another kind
    assert facts_of(configured(tmp_path, "diffullama"), family="diffullama").mask_token_id == 811
    assert facts_of(configured(tmp_path, "llada", "<|mdm_mask|>"), facts={"mask_token_id": 9}).mask_token_id == 9


@pytest.mark.parametrize("name", ["llada", "a2d-qwen3", "dream", "bert"])
def test_a_model_without_a_mask_token_says_where_to_give_it(name: str, tmp_path: Path) -> None:
    message = said(lambda: facts_of(configured(tmp_path, name)))
    for part in ("names no mask_token_id", "its tokenizer has no mask token", str(PUBLISHED[name].mask), "[facts]"):
        assert part in message
    (tmp_path / "card.toml").write_text(f'model = "{tmp_path}"\n[facts]\nmask_token_id = 12\n')
    assert opening(read_card(tmp_path / "card.toml")).facts.mask_token_id == 12


def test_a_block_is_what_the_configuration_says_or_the_family_knows(tmp_path: Path) -> None:
    assert facts_of(configured(tmp_path, "sdar", block_size=16)).block_size == 16
    assert facts_of(configured(tmp_path, "sdar", block_size=None)).block_size == 4
    assert facts_of(configured(tmp_path, "fast-dllm-v2", bd_size=8)).block_size == 8
    assert facts_of(configured(tmp_path, "llada2", "<|mask|>"), facts={"block_size": 16}).block_size == 16


REFUSED = [
    *(("llada", {name: value}, name) for name, value in [
        ("scale_logits", True), ("block_type", "sequential"), ("alibi", True), ("include_bias", True), ("layer_norm_type", "default"),
        ("activation_type", "swiglu"), ("rope", False), ("block_group_size", 2), ("input_emb_norm", True),
    ]),
    ("dream", {"use_sliding_window": True}, "use_sliding_window"),
    ("sdar", {"use_sliding_window": True}, "use_sliding_window"),
    ("llada-moe", {"qk_layernorm": False}, "qk_layernorm"),
    ("llada-moe", {"shared_expert_intermediate_size": 16}, "shared_expert_intermediate_size"),
    ("llada-moe", {"clip_qkv": 8}, "clip_qkv"),
    ("llada2", {"use_bias": True}, "use_bias"),
    ("llada2", {"rope_scaling": {"type": "yarn"}}, "rope_scaling"),
    ("illada", {"layer_norm_eps": 1e-5}, "layer_norm_eps"),
    ("sedd", {"graph": {"type": "uniform"}}, "graph.type"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "named"), REFUSED, ids=[f"{name}-{named}" for name, _, named in REFUSED])
def test_a_configuration_that_the_native_network_cannot_compute_is_refused(
    name: str, changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    folder = configured(tmp_path, name, PUBLISHED[name].mask, **changes)
    message = said(lambda: facts_of(folder, **stated(name)))
    assert f"has no configuration of the family {name!r}: {named} is " in message


def test_a_setting_that_is_left_out_is_refused_where_its_default_would_be_wrong(tmp_path: Path) -> None:
    folder = configured(tmp_path, "llada", "<|mdm_mask|>")
    raw = json.loads((folder / "config.json").read_text())
    for name in ("block_type", "rope", "d_model", "weight_tying"):
        (folder / "config.json").write_text(json.dumps({key: value for key, value in raw.items() if key != name}))
        assert name in said(lambda: facts_of(folder))


# ---------------------------------------------------------------- what cannot be had


def response(status: int) -> Any:
    return httpx2.Response(status, request=httpx2.Request("GET", "https://huggingface.co/some/model"))


FAILURES = [
    (errors.GatedRepoError("403 Client Error.\n\nCannot access gated repo", response=response(403)), "it is gated: ask for access"),
    (errors.RepositoryNotFoundError("404\n", response=response(404)), "there is no such repository, or it is private"),
    (errors.RevisionNotFoundError("404\n", response=response(404)), "it has no revision 'main2': give a branch, a tag or"),
    (errors.LocalEntryNotFoundError("offline\n"), "the hub cannot be reached (no network, or HF_HUB_OFFLINE is set)"),
    (errors.HfHubHTTPError("502 Bad\nGateway", response=response(502)), "502 Bad Gateway"),
    (OSError(28, "No space left on device"), "No space left on device"),
]


@pytest.mark.parametrize(("error", "message"), FAILURES, ids=[type(error).__name__ for error, _ in FAILURES])
def test_what_the_hub_refuses_is_said_in_one_line(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(repository: str, **asked: Any) -> str:
        assert (repository, asked["revision"]) == ("GSAI-ML/LLaDA-8B-Base", "main2")
        assert not any("bin" in pattern or "pt" in pattern for pattern in asked["allow_patterns"])
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refusing)
    found = said(lambda: load("GSAI-ML/LLaDA-8B-Base", revision="main2"))
    assert found.startswith("'GSAI-ML/LLaDA-8B-Base' is no folder, and cannot be had from the hub: ")
    assert message in found
    assert "bundled models: " in found


def test_without_a_network_and_with_a_name_that_is_none_the_hub_is_told_from_a_folder() -> None:
    assert "HF_HUB_OFFLINE is set" in said(lambda: load("GSAI-ML/LLaDA-8B-Base"))
    assert "cannot be had from the hub" in said(lambda: load("some/model--name"))
    assert "the path does not exist" in said(lambda: load("some/model/name"))


def test_a_model_of_the_hub_is_read_where_it_was_fetched_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, PUBLISHED["diffullama"])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    model = load("diffusionfamily/diffullama", facts={"mask_token_id": 301})  # known by its id alone
    assert (model.facts.objective, model.facts.logit_shift, model.name) == ("masked", 1, "diffullama")
    assert load("meta-llama/Llama-2-7b-hf").facts.objective == "causal"


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    write(tmp_path, PUBLISHED["qwen2"])
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"not to be opened")
    assert "safetensors" in said(lambda: load(tmp_path))


@pytest.mark.parametrize("place", [(transformers.LlamaForCausalLM, "from_pretrained"), (torch.nn.Module, "to")])
def test_a_model_too_large_says_what_takes_less(place: tuple[Any, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, PUBLISHED["llama"])

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of 1 GiB")

    monkeypatch.setattr(*place, full)
    message = said(lambda: load(tmp_path))
    assert "does not fit into the memory of cpu: CUDA out of memory. Tried to allocate 2.00 GiB.; what takes less: " in message
    assert "bfloat16, 8bit, 4bit" in message
    assert "8bit" not in said(lambda: load(tmp_path, dtype="bfloat16", quantise="4bit")).partition("what takes less")[2]


def test_weights_that_lack_a_tensor_or_have_one_too_many_are_refused(tmp_path: Path) -> None:
    write(tmp_path, PUBLISHED["llada"])
    state = load_file(tmp_path / "model.safetensors")
    state["model.transformer.blocks.0.q_norm.weight"] = state.pop("model.transformer.blocks.0.attn_norm.weight")
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "lack 1 tensors of its configuration, model.layers.0.input_layernorm.weight among them" in said(lambda: load(tmp_path))


# ---------------------------------------------------------------- models of no family


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network of its own code, with its tokenizer; what the library copies of that code goes with the test."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return write_box(tmp_path / "box")


def carded(folder: Path, text: str) -> Path:
    path = folder.parent / "card.toml"
    path.write_text(f'model = "{folder.name}"\n{text}')
    return path


def test_a_network_of_no_family_is_refused_with_how_to_describe_it_and_opened_so(box: Path) -> None:
    message = said(lambda: load(box))
    for part in (
        "is of the architecture BoxModel, which no family reads",
        "[facts] and [layout]",
        "modeling_box.BoxModel",
        "trust_remote_code",
    ):
        assert part in message
    brings = "box brings code of its own (modeling_box.BoxConfig, modeling_box.BoxModel), which runs with trust_remote_code = true alone"
    assert brings in said(lambda: load(carded(box, FACTS + LAYOUT)))
    assert not (box.parent / "modules").exists()
    trusted = carded(box, TRUSTED + LAYOUT)
    model = load(trusted)
    assert [str(point) for point in model.hook_points][:2] == ["hook_embed", "blocks.0.hook_resid_pre"]
    assert failed_of(conformance(model)) == []
    tokens = text_task(model.task).parse("The sun [MASK:2] risen")
    through = load(trusted, backend="nnsight")
    assert torch.equal(through.logits(tokens), model.logits(tokens))
    point = HookPoint(0, "hook_attn_out")
    torch.testing.assert_close(through.run_with_cache(tokens, [point])[1][point], model.run_with_cache(tokens, [point])[1][point])
    _, cache = model.run_with_cache(tokens, [resid_post(1)])
    torch.testing.assert_close(model.unembed(cache[resid_post(1)]), model.logits(tokens))


def failed_of(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if not check.passed]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (LAYOUT, CardError, "a card with a [layout] needs [facts]: objective, attention, logit_shift and mask_token_id"),
        ("family = 'lada'", ModelError, "unknown family 'lada'; choose from gpt2, llama"),
        ("colour = 1", CardError, "colour: extra inputs are not permitted; settings: model, revision, family"),
        ("dtype = 'int8'", CardError, "dtype: input should be 'float32', 'bfloat16' or 'float16'"),
        (FACTS + LAYOUT.replace("embed:output", "embed"), CardError, "the site 'hook_embed' is 'embed'; it must be path:input or"),
        (FACTS.replace("shift = 0", "shift = 2") + LAYOUT, CardError, "logit_shift is 2; choose from 0, 1"),
        (FACTS.replace("logit_shift = 0", "") + LAYOUT, CardError, "its [facts] lack logit_shift, which must be stated of a model of"),
        (FACTS + "colour = 1\n" + LAYOUT, CardError, "facts: value error, 'colour' is no fact; choose from objective, attention"),
        ("family = 'llama'\n[facts]\ncolour = 1\n", CardError, "'colour' is no fact"),
        (TRUSTED + LAYOUT.replace("AutoModelForMaskedLM", "AutoBox"), CardError, "opened_by is 'AutoBox'; it must be a class"),
        ("model", CardError, "is no TOML"),
        ("revision = 'v2'", ModelError, "is a folder, and the revision 'v2' is asked of it; only the hub has any"),
    ],
)  # fmt: skip
def test_a_card_that_says_something_else_is_refused(text: str, error: type[Exception], message: str, box: Path) -> None:
    found = said(lambda: load(carded(box, text)), error)
    assert message in found


def test_a_card_corrects_the_facts_of_a_model_made_here_and_gives_it_no_family(tmp_path: Path) -> None:
    card = tmp_path / "model.toml"
    card.write_text('model = "stories-diffusion"\n[facts]\nlogit_shift = 0\n')
    assert load(card).facts == replace(load("stories-diffusion").facts, logit_shift=0)
    card.write_text('model = "stories-diffusion"\nfamily = "gpt2"\n')
    with pytest.raises(CardError, match=r"may correct its \[facts\], and has no family or layout"):
        load(card)
