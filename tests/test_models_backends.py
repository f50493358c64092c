"""The backends name the same activations, edit them to the same effect, and leave the network alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from models.architectures import ARCHITECTURES
from models.architectures.base import Site
from models.backends import BACKENDS, Backend
from models.checks import ModelCheckError, prove_backend
from models.hookpoints import HookPoint, HookPointError, resid_post
from models.language_model import LanguageModel, wrap

TOKENS = torch.randint(0, 12, (3, 30), generator=torch.Generator().manual_seed(1))
REGIMES = ("causal", "full")


@pytest.fixture(scope="module", params=REGIMES)
def model(request: pytest.FixtureRequest, tiny_model: Callable[..., Any]) -> LanguageModel:
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def backends(model: LanguageModel) -> dict[str, Backend]:
    return {name: make(model.network) for name, make in BACKENDS.items()}


def test_every_backend_is_proved(model: LanguageModel, backends: dict[str, Backend]) -> None:
    for name, backend in backends.items():
        assert all(check.passed for check in prove_backend(model, backend))
        assert backend.name == name


def test_shared_names_hold_the_same_activations(backends: dict[str, Backend]) -> None:
    points = backends["hooks"].hook_points
    assert len(points) == 2 * (len(ARCHITECTURES["gpt2"].sites) - 1) + 1  # the embedding is in no block
    assert points == backends["nnsight"].hook_points
    assert set(points) <= set(backends["bridge"].hook_points)
    raw, ours = backends["hooks"].run(TOKENS, {}, points)
    for other in ("bridge", "nnsight"):
        again, theirs = backends[other].run(TOKENS, {}, points)
        torch.testing.assert_close(raw, again, atol=1e-4, rtol=1e-4)
        assert list(ours) == list(theirs) == list(points)
        for point in points:
            torch.testing.assert_close(ours[point], theirs[point], atol=1e-4, rtol=1e-4)


def scramble(activation: Tensor) -> Tensor:
    return activation.flip(-1) * 0.5 + torch.linspace(-1, 1, activation.shape[-1])


def test_an_edit_has_the_same_effect_and_is_what_is_cached(backends: dict[str, Backend]) -> None:
    plain, _ = backends["hooks"].run(TOKENS, {}, ())
    for point in backends["hooks"].hook_points:
        raw, ours = backends["hooks"].run(TOKENS, {point: scramble}, [point])
        assert (raw - plain).abs().max() > 1e-3, point
        for other in ("bridge", "nnsight"):
            again, theirs = backends[other].run(TOKENS, {point: scramble}, [point])
            torch.testing.assert_close(raw, again, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(ours[point], theirs[point], atol=1e-4, rtol=1e-4)


def test_a_look_without_an_edit_changes_nothing(model: LanguageModel, backends: dict[str, Backend]) -> None:
    bare = model.module(input_ids=TOKENS).logits
    for backend in backends.values():
        seen: list[Tensor] = []
        raw, _ = backend.run(TOKENS, {resid_post(0): lambda activation: seen.append(activation)}, ())  # noqa: B023
        torch.testing.assert_close(raw, bare, atol=1e-4, rtol=1e-4)
        assert len(seen) == 1
    assert torch.equal(model.module(input_ids=TOKENS).logits, bare)


def test_a_model_reads_through_the_backend_it_was_given(model: LanguageModel) -> None:
    other = wrap("tiny", model.module, model.facts, backend="nnsight")
    logits, cache = other.run_with_cache(TOKENS, [resid_post(1)])
    ours, expected = model.run_with_cache(TOKENS, [resid_post(1)])
    torch.testing.assert_close(logits, ours, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(cache[resid_post(1)], expected[resid_post(1)], atol=1e-4, rtol=1e-4)
    with other.hooks({resid_post(0): scramble}), model.hooks({resid_post(0): scramble}):
        torch.testing.assert_close(other.logits(TOKENS), model.logits(TOKENS), atol=1e-4, rtol=1e-4)
    with pytest.raises(HookPointError, match=r"no such hook points: \['blocks\.0\.attn\.hook_pattern'\]"):
        other.run_with_cache(TOKENS, [HookPoint(0, "attn.hook_pattern")])
    with pytest.raises(ValueError, match="tiny is read through nnsight, not through a bridge"):
        other.bridge  # noqa: B018 (asking is the test)


def test_a_forward_pass_records_no_graph(backends: dict[str, Backend]) -> None:
    for backend in backends.values():
        raw, cache = backend.run(TOKENS, {}, [resid_post(1)])
        assert not raw.requires_grad
        assert not cache[resid_post(1)].requires_grad


def test_an_unknown_backend_names_the_choices(model: LanguageModel) -> None:
    with pytest.raises(ValueError, match="unknown backend 'hook'; choose from hooks, bridge, nnsight"):
        wrap("tiny", model.module, model.facts, backend="hook")


@pytest.mark.parametrize("name", ["hooks", "nnsight"])
def test_a_site_in_the_wrong_place_fails_the_proof(name: str, tiny_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("full")
    monkeypatch.setitem(ARCHITECTURES["gpt2"].sites, "hook_resid_post", Site("transformer.h.{layer}.attn.c_attn", "output"))
    with pytest.raises(ModelCheckError, match="residual streams have the right shape failed"):
        prove_backend(model, BACKENDS[name](model.network))


# ---------------------------------------------------------------- reading some places only

ROWS, POSITIONS = torch.tensor([0, 2, 2, 1]), torch.tensor([29, 0, 7, 7])


def test_places_hold_what_the_whole_activations_hold(model: LanguageModel) -> None:
    points = [resid_post(0), HookPoint(1, "hook_attn_out"), HookPoint(0, "hook_resid_pre")]
    for read_through in (model, wrap("tiny", model.module, model.facts, backend="nnsight")):
        found = read_through.activations(TOKENS, points, ROWS, POSITIONS)
        _, whole = model.run_with_cache(TOKENS, points)
        assert list(found) == points
        for point in points:
            torch.testing.assert_close(found[point], whole[point][ROWS, POSITIONS], atol=1e-5, rtol=1e-5)


def test_edits_in_force_are_in_what_is_read_and_need_not_come_before_it(model: LanguageModel) -> None:
    with model.hooks({resid_post(0): scramble, resid_post(1): scramble}):
        found = model.activations(TOKENS, [resid_post(0)], ROWS, POSITIONS)[resid_post(0)]
        _, whole = model.run_with_cache(TOKENS, [resid_post(0)])
    plain = model.activations(TOKENS, [resid_post(0)], ROWS, POSITIONS)[resid_post(0)]
    assert torch.equal(found, whole[resid_post(0)][ROWS, POSITIONS])
    torch.testing.assert_close(found, scramble(plain))


def test_a_pass_ends_with_the_last_point_and_leaves_no_hook(model: LanguageModel) -> None:
    ran: list[str] = []
    parts = {"block 1": model.module.transformer.h[1], "head": model.module.lm_head}
    watches = [part.register_forward_hook(lambda *_, name=name: ran.append(name)) for name, part in parts.items()]
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.module.modules()]
    model.activations(TOKENS, [resid_post(0)], ROWS, POSITIONS)
    assert ran == []
    model.activations(TOKENS, [resid_post(1), resid_post(0)], ROWS, POSITIONS)
    assert ran == ["block 1"]
    assert hooks == [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.module.modules()]
    for watch in watches:
        watch.remove()


# ---------------------------------------------------------------- which backend serves


def test_plain_hooks_serve_where_they_have_all_points_and_the_bridge_elsewhere(tiny_model: Callable[..., Any]) -> None:
    model, pattern = tiny_model("full"), HookPoint(0, "attn.hook_pattern")
    model.run_with_cache(TOKENS, [resid_post(1)])
    with model.hooks({resid_post(0): scramble}):
        ours = model.logits(TOKENS)
    assert list(model._backends) == ["hooks"]
    with model.hooks({resid_post(0): scramble}):
        logits, cache = model.run_with_cache(TOKENS, [pattern, resid_post(1)])
    assert list(model._backends) == ["hooks", "bridge"]
    assert cache[pattern].shape == (3, 2, 30, 30)
    torch.testing.assert_close(logits, ours, atol=1e-4, rtol=1e-4)
    alone = wrap("tiny", model.module, model.facts, backend="bridge")
    alone.run_with_cache(TOKENS, [resid_post(1)])
    assert list(alone._backends) == ["bridge"]
