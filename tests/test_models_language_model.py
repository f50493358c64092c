"""Facts, hook points, the bridge and its proof, edits, and every way a folder is no model."""

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models import checks
from models.architectures import ARCHITECTURES
from models.backends import BridgeBackend
from models.checks import ModelCheckError, prove, prove_backend
from models.facts import CONFIG_KEY, FactsError, ModelFacts
from models.hookpoints import HookPoint, HookPointError, resid_post
from models.language_model import LanguageModel
from models.load import ModelError, bare_module, bundled_names, load, model_folder, read_facts

MASKED = ModelFacts(objective="masked", attention="full", logit_shift=1, mask_token_id=11, task="sudoku")
REGIMES = ("causal", "full")


def tokens(batch: int = 2, pos: int = 20, seed: int = 0) -> Tensor:
    return torch.randint(0, 12, (batch, pos), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def twins(tiny_model: Callable[..., Any]) -> dict[str, LanguageModel]:
    """One model of each regime, bridged once."""
    return {regime: tiny_model(regime) for regime in REGIMES}


@pytest.fixture(params=REGIMES)
def model(request: pytest.FixtureRequest, twins: dict[str, LanguageModel]) -> LanguageModel:
    return twins[request.param]


# ---------------------------------------------------------------- names


@given(
    layer=st.integers(0, 99), component=st.from_regex(r"[a-z_]{1,9}(\.[a-z_]{1,9})?", fullmatch=True).filter(lambda name: name != "blocks.")
)
def test_a_hook_point_is_parsed_from_its_own_name(layer: int, component: str) -> None:
    for point in (HookPoint(layer, component), HookPoint(None, component.replace("blocks", "b"))):
        assert HookPoint.parse(str(point)) == point


def test_names_are_transformer_lens_ones() -> None:
    assert str(resid_post(3)) == "blocks.3.hook_resid_post"
    assert HookPoint.parse("blocks.12.attn.hook_z") == HookPoint(12, "attn.hook_z")
    assert HookPoint.parse("hook_embed") == HookPoint(None, "hook_embed")


@pytest.mark.parametrize("name", ["", "blocks.x.hook_resid_post", "blocks.-1.hook_resid_post", "blocks.3.", "blocks.3"])
def test_what_names_no_activation_is_refused(name: str) -> None:
    with pytest.raises(HookPointError, match="no hook point has"):
        HookPoint.parse(name)


# ---------------------------------------------------------------- facts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "diffusion"}, "objective is 'diffusion'; choose from causal, masked"),
        ({"attention": "both"}, "attention is 'both'; choose from causal, full, block-causal"),
        ({"logit_shift": 2}, "logit_shift is 2; choose from 0, 1"),
        ({"logit_shift": True}, "logit_shift is True; choose from 0, 1"),
        ({"mask_token_id": None}, "mask_token_id is None; a masked model needs one"),
        ({"mask_token_id": "11"}, "mask_token_id is '11'; it must be a token id"),
        ({"objective": "causal", "attention": "causal"}, "mask_token_id is 11; .* a causal model has none"),
        ({"task": ["sudoku"]}, "task is .*; it must be a name"),
        ({"objective": "causal", "mask_token_id": None}, "a causal model has causal attention and logit_shift 1"),
    ],
)
def test_contradictory_facts_are_named(changes: dict[str, Any], message: str) -> None:
    entry = {**MASKED.to_config(), **changes}
    with pytest.raises(FactsError, match=message):
        ModelFacts.from_config(entry)


def test_facts_go_through_a_configuration() -> None:
    assert ModelFacts.from_config(json.loads(json.dumps(MASKED.to_config()))) == MASKED


# ---------------------------------------------------------------- the bridge


def test_a_bridge_computes_the_networks_logits(model: LanguageModel) -> None:
    for pos in (2, 20, 163):
        bare = model.module(input_ids=tokens(pos=pos), use_cache=False).logits
        logits, _ = model.run_with_cache(tokens(pos=pos), [resid_post(0)])
        assert (logits[:, 1:] - bare[:, :-1]).abs().max() < 1e-4
        assert torch.equal(model.logits(tokens(pos=pos))[:, 1:], bare[:, :-1])


def test_the_last_token_reaches_the_first_position_iff_attention_is_full(model: LanguageModel) -> None:
    one, two = tokens(1), tokens(1)
    two[0, -1] = (two[0, -1] + 1) % 12
    for forward in (lambda canvas: model.module(input_ids=canvas).logits, lambda canvas: model.run_with_cache(canvas, [])[0][:, 1:]):
        moved = (forward(one)[0, 0] - forward(two)[0, 0]).abs().max()
        assert (moved > 1e-4) == (model.facts.attention == "full")


def test_a_sample_does_not_read_its_neighbours(model: LanguageModel) -> None:
    for forward in (model.logits, lambda canvas: model.run_with_cache(canvas, [])[0]):
        assert torch.allclose(forward(tokens(3))[:1], forward(tokens(3)[:1]), atol=1e-5)


def test_bridging_leaves_the_network_alone_and_shares_its_weights(tiny_model: Callable[..., Any]) -> None:
    for regime in REGIMES:
        model = tiny_model(regime)
        before, classes = model.logits(tokens()), [type(part) for part in model.module.modules()]
        places = {parameter.data_ptr() for parameter in model.module.parameters()}
        model.bridge  # noqa: B018 (builds and proves it)
        assert torch.equal(model.logits(tokens()), before)
        assert [type(part) for part in model.module.modules()] == classes
        bridged = {parameter.data_ptr() for parameter in model.bridge.parameters()}
        assert places <= bridged


def test_the_cache_holds_what_was_asked_for(model: LanguageModel) -> None:
    points = [resid_post(1), HookPoint(0, "attn.hook_pattern"), HookPoint(None, "hook_embed"), HookPoint(0, "hook_resid_pre")]
    logits, cache = model.run_with_cache(tokens(), points)
    assert list(cache) == points
    assert {point: tuple(cache[point].shape) for point in points} == {
        points[0]: (2, 20, 32),
        points[1]: (2, 2, 20, 20),
        points[2]: (2, 20, 32),
        points[3]: (2, 20, 32),
    }
    assert logits.shape == (2, 20, 12)
    above = cache[points[1]][..., ~torch.ones(20, 20, dtype=torch.bool).tril()]
    assert (above.sum() > 1) == (model.facts.attention == "full")
    again = model.module.transformer.ln_f(cache[resid_post(1)])
    assert torch.allclose(model.align(model.module.lm_head(again)), logits, atol=1e-4)


def test_hook_points_are_all_there_is_in_forward_order(model: LanguageModel) -> None:
    points = model.hook_points
    assert len(set(points)) == len(points)
    assert points.index(HookPoint(None, "hook_embed")) < points.index(resid_post(0)) < points.index(resid_post(1))
    assert (model.n_layers, model.d_model) == (2, 32)


def test_an_unknown_hook_point_names_the_known(model: LanguageModel) -> None:
    wrong = HookPoint(7, "hook_resid_post")
    message = r"no such hook points: \['blocks\.7\.hook_resid_post'\]; tiny has blocks\.0 to blocks\.1 with .*hook_resid_post"
    with pytest.raises(HookPointError, match=message):
        model.run_with_cache(tokens(), [resid_post(0), wrong])
    with pytest.raises(HookPointError, match=message), model.hooks({wrong: lambda activation: None}):
        pytest.fail("the block must not run")
    assert torch.equal(model.logits(tokens()), model.align(model.module(input_ids=tokens()).logits))


# ---------------------------------------------------------------- edits


def push(size: float) -> Callable[[Tensor], Tensor]:
    return lambda activation: activation + size * torch.arange(activation.shape[-1])


def test_an_edit_acts_inside_its_block_only(model: LanguageModel) -> None:
    plain = model.logits(tokens())
    seen: list[Tensor] = []
    with model.hooks({resid_post(0): push(0.1), resid_post(1): lambda activation: seen.append(activation)}):
        edited = model.logits(tokens())
    assert (edited - plain)[:, 1:].abs().max() > 1e-2
    _, cache = model.run_with_cache(tokens(), [resid_post(1)])
    assert not torch.allclose(seen[0], cache[resid_post(1)], atol=1e-3)
    assert torch.equal(model.logits(tokens()), plain)
    assert torch.allclose(model.run_with_cache(tokens(), [])[0], plain, atol=1e-4)


def test_an_edit_is_what_its_definition_says(model: LanguageModel) -> None:
    _, cache = model.run_with_cache(tokens(), [resid_post(1)])
    with model.hooks({resid_post(1): push(0.1)}):
        edited = model.logits(tokens())
    expected = model.module.lm_head(model.module.transformer.ln_f(push(0.1)(cache[resid_post(1)])))
    assert torch.allclose(edited, model.align(expected), atol=1e-4)


def test_a_hook_that_returns_nothing_changes_nothing(model: LanguageModel) -> None:
    with model.hooks({point: lambda activation: None for point in (resid_post(0), HookPoint(1, "attn.hook_z"))}):
        assert torch.allclose(model.logits(tokens()), model.align(model.module(input_ids=tokens()).logits), atol=1e-4)


def test_hooks_nest(model: LanguageModel) -> None:
    def under(*sizes: tuple[int, float]) -> Tensor:
        if not sizes:
            return model.logits(tokens())
        (layer, size), *rest = sizes
        with model.hooks({resid_post(layer): push(size)}):
            return under(*rest)

    both = under((0, 0.1), (1, 0.2))
    with model.hooks({resid_post(0): push(0.1), resid_post(1): push(0.2)}):
        assert torch.allclose(model.logits(tokens()), both, atol=1e-5)
    with model.hooks({resid_post(0): push(0.1)}):
        outer = model.logits(tokens())
        with model.hooks({resid_post(1): push(0.2)}):
            assert torch.allclose(model.logits(tokens()), both, atol=1e-5)
        assert torch.allclose(model.logits(tokens()), outer, atol=1e-5)
    assert torch.allclose(under((1, 0.1), (1, 0.2)), under((1, 0.3)), atol=1e-4)


def test_an_error_inside_leaves_no_hook_behind(model: LanguageModel) -> None:
    plain = model.logits(tokens())
    with pytest.raises(KeyError, match="mine"), model.hooks({resid_post(0): push(1.0)}):
        raise KeyError("mine")
    assert torch.equal(model.logits(tokens()), plain)
    assert torch.allclose(model.run_with_cache(tokens(), [])[0], plain, atol=1e-4)


def _edited(model: LanguageModel) -> AbstractContextManager[None]:
    return model.hooks({resid_post(0): push(1.0)})


def test_a_hook_that_was_never_reached_is_an_error(model: LanguageModel) -> None:
    with pytest.raises(HookPointError, match=r"never reached by a forward pass: \['blocks\.0\.hook_resid_post'\]"), _edited(model):
        pass
    assert torch.equal(model.logits(tokens()), model.align(model.module(input_ids=tokens()).logits))


# ---------------------------------------------------------------- shift and fingerprint


def test_index_i_scores_token_i_for_either_shift(tiny_model: Callable[..., Any]) -> None:
    kept, shifted = tiny_model(logit_shift=0), tiny_model(logit_shift=1)
    raw = kept.module(input_ids=tokens()).logits
    assert torch.equal(kept.logits(tokens()), raw)
    assert torch.equal(shifted.logits(tokens())[:, 1:], raw[:, :-1])
    assert (shifted.logits(tokens())[:, 0] == 0).all()
    assert torch.allclose(kept.run_with_cache(tokens(), [])[0], raw, atol=1e-4)
    assert [kept.reading_position(5), shifted.reading_position(5)] == [5, 4]
    for model in (kept, shifted):
        _, cache = model.run_with_cache(tokens(), [resid_post(1)])
        at = cache[resid_post(1)][:, model.reading_position(5)]
        assert torch.allclose(model.module.lm_head(model.module.transformer.ln_f(at)), model.logits(tokens())[:, 5], atol=1e-4)


def test_a_fingerprint_is_of_weights_and_facts(tiny_model: Callable[..., Any]) -> None:
    first = tiny_model()
    others = [tiny_model(seed=1), tiny_model(logit_shift=0)]
    nudged = tiny_model()
    with torch.no_grad():
        nudged.module.lm_head.weight[3, 4] += 1e-6
    assert tiny_model().fingerprint == first.fingerprint
    assert len({first.fingerprint, nudged.fingerprint, *(other.fingerprint for other in others)}) == 4


# ---------------------------------------------------------------- proof


def failed_checks(error: pytest.ExceptionInfo[ModelCheckError]) -> list[str]:
    return [part.split(" failed:")[0].removeprefix("tiny: ") for part in str(error.value).split("; ") if " failed:" in part]


def test_a_model_as_its_facts_say_is_proved(model: LanguageModel) -> None:
    assert all(check.passed for check in (*prove(model), *prove_backend(model, model.backend)))


@pytest.mark.parametrize(
    ("regime", "changes", "failing"),
    [
        ("causal", {"objective": "masked", "mask_token_id": 11, "attention": "full"}, ["network: attention is full"]),
        ("full", {"attention": "causal"}, ["network: attention is causal"]),
        ("full", {"mask_token_id": 12}, ["mask token is in the vocabulary"]),
        ("full", {"mask_token_id": -1}, ["mask token is in the vocabulary"]),
    ],
)
def test_a_model_that_is_not_what_its_facts_say_fails_that_check(
    regime: str, changes: dict[str, Any], failing: list[str], tiny_model: Callable[..., Any]
) -> None:
    model = tiny_model(regime)
    model.network = replace(model.network, facts=replace(model.facts, **changes))
    with pytest.raises(ModelCheckError) as error:
        prove(model)
    assert failed_checks(error) == failing
    assert "\n" not in str(error.value)


def test_another_vocabulary_fails_that_check(tiny_model: Callable[..., Any]) -> None:
    with pytest.raises(ModelCheckError, match="the task has 12 tokens, measured 14") as error:
        prove(tiny_model(vocab_size=14))
    assert failed_checks(error) == ["vocabulary is that of sudoku"]


def test_weights_that_are_not_numbers_fail_that_check(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    model.module.transformer.wpe.weight[3] = torch.nan
    with pytest.raises(ModelCheckError) as error:
        prove(model)
    assert "outputs are finite" in failed_checks(error)


def test_a_bridge_without_its_mask_fails(tiny_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    monkeypatch.setattr(BridgeBackend, "arguments", lambda backend, tokens: {})
    with pytest.raises(ModelCheckError) as error:
        model.bridge  # noqa: B018 (builds and proves it)
    assert failed_checks(error) == ["bridge computes the network's logits", "bridge: attention is full"]


def test_a_bridge_of_other_weights_fails_on_the_logits_alone(tiny_model: Callable[..., Any]) -> None:
    with pytest.raises(ModelCheckError) as error:
        prove_backend(tiny_model(seed=0), tiny_model(seed=1).backend)
    assert failed_checks(error) == ["bridge computes the network's logits"]


def test_edits_that_do_nothing_fail(tiny_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    backend = model.backend
    monkeypatch.setattr(checks, "resid_post", lambda layer: HookPoint(layer, "hook_resid_mid"))
    prove_backend(model, backend)
    with torch.no_grad():
        model.module.lm_head.weight.zero_()
    with pytest.raises(ModelCheckError) as error:
        prove_backend(model, backend)
    assert failed_checks(error) == [
        "bridge: attention is full",
        "bridge: editing blocks.0.hook_resid_mid matters",
        "bridge: editing blocks.1.hook_resid_mid matters",
    ]


# ---------------------------------------------------------------- folders


@pytest.fixture
def folder(tmp_path: Path, tiny_module: Callable[..., Any]) -> Path:
    """A saved masked model."""
    path = tmp_path / "diffusion"
    tiny_module().save_pretrained(path)
    return path


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def edit_facts(folder: Path, **changes: Any) -> None:
    entry = json.loads((folder / "config.json").read_text())[CONFIG_KEY]
    edit_config(folder, **{CONFIG_KEY: {**entry, **changes}})


@pytest.mark.parametrize("regime", REGIMES)
def test_a_saved_model_is_loaded(regime: str, tmp_path: Path, tiny_module: Callable[..., Any], tiny_model: Callable[..., Any]) -> None:
    tiny_module(regime).save_pretrained(tmp_path / "tiny")
    found, made = load(tmp_path / "tiny"), tiny_model(regime)
    assert found.facts == made.facts
    assert found.fingerprint == made.fingerprint
    assert torch.equal(found.logits(tokens()), made.logits(tokens()))
    assert not any(parameter.requires_grad for parameter in found.module.parameters())
    assert "31,456 parameters" in repr(found)


def test_the_folder_at_hand_has_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert load(".").name == "diffusion"


@pytest.mark.parametrize("name", bundled_names())
def test_bundled_models_are_found_by_name(name: str) -> None:
    assert read_facts(model_folder(name)).task == name.split("-")[0]


def expect_one_line(path: Path, *parts: str) -> None:
    with pytest.raises(ModelError) as caught:
        load(path)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    expect_one_line(tmp_path / "absent", "absent", "does not exist", *bundled_names())
    expect_one_line(tmp_path, "has no config.json")


@pytest.mark.parametrize("content", ["", "{", "[]", "\xff"])
def test_a_damaged_configuration_is_named(folder: Path, content: str) -> None:
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    expect_one_line(folder, f"{folder} cannot be used")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 1}, "format_version 1; this version of denoscope reads 2"),
        ({"format_version": None}, "format_version None"),
        ({"colour": "blue"}, "they must be exactly"),
        ({"attention": "causal", "objective": "causal"}, "mask_token_id is 11"),
        ({"mask_token_id": "11"}, "mask_token_id is '11'"),
        ({"logit_shift": [1]}, "logit_shift is [1]"),
        ({"task": "chess"}, "the task 'chess'; known tasks: sudoku"),
    ],
)
def test_bad_facts_are_named(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit_facts(folder, **changes)
    expect_one_line(folder, str(folder), message)


def test_a_folder_without_facts_is_of_the_family_that_its_class_is_of(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({name: value for name, value in config.items() if name != CONFIG_KEY}))
    assert load(folder).facts == ModelFacts("causal", "causal", 1, None, "text")
    with pytest.raises(ModelError, match="states no facts under 'denoscope'"):
        bare_module(folder)


def test_an_unknown_family_is_named(folder: Path) -> None:
    edit_config(folder, model_type="mamba")
    expect_one_line(folder, f"of the architecture 'mamba'; supported: {', '.join(ARCHITECTURES)}")


@pytest.mark.parametrize("kept", [0, 5, 100, 4000, -10])
def test_truncated_weights_are_named(folder: Path, kept: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    expect_one_line(folder, f"the weights in {folder} cannot be loaded")


def test_missing_weights_are_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    expect_one_line(folder, f"the weights in {folder} cannot be loaded")


@pytest.mark.parametrize(("layers", "message"), [(3, "lack 12 tensors"), (1, "tensors that its configuration has no place for")])
def test_weights_of_another_depth_are_named(folder: Path, layers: int, message: str) -> None:
    edit_config(folder, n_layer=layers)
    expect_one_line(folder, message, "among them")


def test_weights_of_another_width_are_named(folder: Path) -> None:
    edit_config(folder, n_embd=16)
    expect_one_line(folder, f"the weights in {folder} have transformer.")


def test_no_pickle_is_opened(folder: Path) -> None:
    bare = bare_module(folder)[0].state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(bare, folder / "pytorch_model.bin")  # noqa: TID251 (the very thing that must not be opened)
    expect_one_line(folder, f"the weights in {folder} cannot be loaded")


def test_a_folder_that_lies_about_its_attention_is_not_loaded(folder: Path) -> None:
    edit_config(folder, is_causal=True)
    with pytest.raises(ModelCheckError, match=r"attention is full failed: .*, measured 66 \(make attention in the facts"):
        load(folder)


def test_a_copy_under_another_name_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert load(folder).fingerprint == load(tmp_path / "copy").fingerprint
