"""Every architecture passes its conformance table in every attention regime, and wrong models fail on the right lines of it alone."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from tiny_networks import stirred
from torch import Tensor, nn

from models.architectures import ARCHITECTURES
from models.architectures.base import Site, set_attention
from models.backends import BACKENDS, Backend
from models.checks import Check, check_backend, check_network, check_ragged
from models.conformance import check_shift, conformance
from models.facts import FactsError, ModelFacts
from models.hookpoints import HookPoint, resid_post
from models.language_model import LanguageModel, wrap
from models.load import load
from models.network import PADDING

VOCABULARY, LENGTH, BLOCK, LAYERS = 50, 64, 4, 2
MASK = VOCABULARY - 1
CASES = [
    (name, attention)
    for name, architecture in ARCHITECTURES.items()
    for attention in ("causal", "full", "block-causal")
    if attention != "causal" or "causal" in architecture.regimes
]


@cache
def tiny(name: str, attention: str, dtype: torch.dtype = torch.float32, **changes: Any) -> LanguageModel:
    """A random model, causal with its shift or masked without one."""
    architecture = ARCHITECTURES[name]
    module = architecture.build(vocab_size=VOCABULARY, n_positions=LENGTH, d_model=32, n_layers=LAYERS, n_heads=4, seed=0)
    set_attention(architecture, module.config, attention)  # type: ignore[arg-type]
    causal = attention == "causal"
    facts = {
        "objective": "causal" if causal else "masked",
        "attention": attention,
        "logit_shift": int(causal),
        "mask_token_id": None if causal else MASK,
        "task": "text",
        "block_size": BLOCK if attention == "block-causal" else None,
    }
    return wrap(f"{name}-{attention}", stirred(module).to(dtype), ModelFacts(**{**facts, **changes}))


FIRST = ("gpt2", "qwen3", "llada2", "denoscope_dit")
"""Run in every regime by default; the others in full attention, and in the rest by `make slow`."""
PARAMS = [
    pytest.param(case, id="-".join(case), marks=[] if case[0] in FIRST or case[1] == "full" else [pytest.mark.slow]) for case in CASES
]


@pytest.fixture(scope="session", params=PARAMS)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    """A tiny random model of each architecture in each regime that it can have."""
    return tiny(*request.param)


@cache
def backends_of(model: LanguageModel) -> dict[str, Backend]:
    """All that its architecture has."""
    return {name: make(model.network) for name, make in BACKENDS.items() if name != "bridge" or model.network.architecture.bridge}


def tokens_of(length: int, n: int = 1) -> Tensor:
    return torch.randint(0, MASK, (n, length), generator=torch.Generator().manual_seed(length))


def seen_by(model: LanguageModel, length: int) -> Tensor:
    """Which positions each position sees, said once more."""
    one = torch.arange(length)
    size = {"causal": 1, "full": length, "block-causal": BLOCK}[model.facts.attention]
    return one[None] // size <= one[:, None] // size


def pushed(at: int, model: LanguageModel) -> Callable[[Tensor], Tensor]:
    """An edit of one position of every sample."""
    direction = torch.randn(model.d_model, generator=torch.Generator().manual_seed(7))

    def edit(activation: Tensor) -> Tensor:
        edited = activation.clone()
        edited[:, at] += 2 * direction
        return edited

    return edit


def close(one: Tensor, other: Tensor) -> None:
    """As far apart as rounding may bring the largest entries."""
    assert one.shape == other.shape
    assert (one - other).abs().max().item() <= 1e-4 * max(1.0, one.abs().max().item())


# ---------------------------------------------------------------- right models


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_last_residual_stream_unembeds_to_the_logits(name: str) -> None:
    one = tiny(name, "full")
    logits, cache = one.run_with_cache(tokens_of(9), [resid_post(LAYERS - 1)])
    torch.testing.assert_close(one.unembed(cache[resid_post(LAYERS - 1)]), logits, atol=1e-4, rtol=1e-4)


def test_every_check_passes(model: LanguageModel) -> None:
    told: list[Check] = []
    checks = conformance(model, told.append)
    assert checks == told
    assert failed(checks) == []
    names = [check.name for check in checks]
    assert len(names) == len(set(names))
    for backend in backends_of(model):
        assert [f"{backend}: editing {point} matters" in names for point in model.plain_points] == [True] * len(model.plain_points)
    assert any(name.startswith("denoised") for name in names) == (model.facts.objective == "masked")


def test_all_regimes_are_tried() -> None:
    for name, architecture in ARCHITECTURES.items():
        if "causal" not in architecture.regimes:
            with pytest.raises(FactsError, match="has no 'causal' attention; choose from full"):
                tiny(name, "causal")
    assert len(CASES) == 3 * len(ARCHITECTURES) - 3


def test_logits_are_those_of_the_bare_network_told_what_each_position_sees(model: LanguageModel) -> None:
    tokens = tokens_of(18, n=2)
    mask = torch.where(seen_by(model, 18), 0.0, torch.finfo(torch.float32).min).expand(2, 1, 18, 18)
    places = (torch.arange(18) + model.network.architecture.first_position).expand(2, 18)
    raw = model.module(input_ids=tokens, attention_mask=mask, position_ids=places).logits
    assert raw.std() > 0.3
    scores = model.logits(tokens)
    if model.facts.logit_shift:
        close(scores[:, 1:], raw[:, :-1])
    else:
        close(scores, raw)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_sample_is_as_it_is_alone(model: LanguageModel, side: str) -> None:
    long, short = tokens_of(15), tokens_of(9)
    gap = torch.full((1, 6), PADDING)
    batch = torch.cat([long, torch.cat([gap, short] if side == "left" else [short, gap], 1)])
    own = slice(6, None) if side == "left" else slice(0, 9)
    edited = HookPoint(0, "hook_resid_mid")
    for backend in backends_of(model).values():
        raw, cache = backend.run(batch, {}, model.plain_points)
        for row, (tokens, place) in enumerate([(long, slice(None)), (short, own)]):
            alone, held = backend.run(tokens, {}, model.plain_points)
            close(raw[row, place], alone[0])
            for point in model.plain_points:
                close(cache[point][row, place], held[point][0])
        raw, _ = backend.run(batch, {edited: pushed(own.start + 4, model)}, ())
        close(raw[1, own], backend.run(short, {edited: pushed(4, model)}, ())[0][0])
    logits, cache = model.run_with_cache(batch, model.plain_points)
    with model.hooks({resid_post(0): pushed(own.start + 4, model)}):
        steered = model.logits(batch)
    alone, held = model.run_with_cache(short, model.plain_points)
    close(logits[1:, own], alone)
    for point in model.plain_points:
        close(cache[point][1, own], held[point][0])
    with model.hooks({resid_post(0): pushed(4, model)}):
        close(steered[1:, own], model.logits(short))
        assert not steered[1:, own].allclose(logits[1:, own], atol=1e-3)


def test_an_edit_between_attention_and_mlp_is_the_same_on_every_backend(model: LanguageModel) -> None:
    tokens, points = tokens_of(10, n=2), model.plain_points
    for layer in range(LAYERS):
        point = HookPoint(layer, "hook_resid_mid")
        plain, before = backends_of(model)["hooks"].run(tokens, {}, points)
        runs = {name: backend.run(tokens, {point: pushed(3, model)}, points) for name, backend in backends_of(model).items()}
        raw, held = runs["hooks"]
        close(held[point], pushed(3, model)(before[point]))
        assert (raw - plain)[:, 3].abs().max() > 0.01
        for name, (scores, held_there) in runs.items():
            close(scores, raw)
            for one in points[points.index(point) + (name == "bridge") :]:  # there it is edited in what attention adds
                close(held_there[one], held[one])


def test_a_prefix_of_whole_blocks_is_scored_as_in_the_whole(model: LanguageModel) -> None:
    tokens = tokens_of(model.longest - 1)
    whole = model.network.raw(tokens)
    assert torch.isfinite(whole).all()
    changes = [(whole[:, :end] - model.network.raw(tokens[:, :end])).abs().max().item() for end in (8, 9, 40, 42)]
    same = {"causal": [True] * 4, "full": [False] * 4, "block-causal": [True, False, True, False]}[model.facts.attention]
    assert [change < 1e-4 for change in changes] == same, changes


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_in_half_the_bits_passes_by_its_own_tolerance(name: str) -> None:
    model = tiny(name, "full", torch.bfloat16)
    hooks = backends_of(model)["hooks"]
    assert failed([*check_network(model), *check_ragged(model), *check_backend(model, hooks, model.plain_points)]) == []
    apart = (model.network.raw(tokens_of(12)).float() - tiny(name, "full").network.raw(tokens_of(12))).abs().max().item()
    assert apart > 1e-3


# ---------------------------------------------------------------- wrong models


def failed(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if not check.passed]


def other(model: LanguageModel, **facts: Any) -> LanguageModel:
    """A copy of a model that says something else of itself."""
    network = replace(model.network, module=copy.deepcopy(model.module), facts=replace(model.facts, **facts))
    return LanguageModel("wrong", network, model.task)


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "llada2", "denoscope_dit"])
def test_a_causal_mask_left_on_fails_on_attention_alone(name: str) -> None:
    wrong = other(tiny(name, "full"))
    wrong.module.config.is_causal = True
    bridged = wrong.network.architecture.bridge is not None
    assert failed(conformance(wrong)) == [
        "network: attention is full",
        "hooks: attention is full",
        *(["bridge computes the network's logits"] if bridged else []),  # it is given the regime as a mask
        "nnsight: attention is full",
    ]


@pytest.mark.parametrize("name", ["bert", "denoscope_dit"])
def test_blocks_of_another_size_fail_on_attention_alone(name: str) -> None:
    """A network that makes a mask of its own, in blocks of 4, whatever it is given besides."""
    wrong = other(tiny(name, "block-causal"), block_size=2 * BLOCK)

    def blocked(_: nn.Module, given: tuple[()], named: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        length = named["input_ids"].shape[1]
        block = named.get("position_ids", torch.arange(length)[None]) // BLOCK
        own = torch.where(block[:, None, :] <= block[:, :, None], 0.0, torch.finfo(torch.float32).min)[:, None]
        return given, {**named, "attention_mask": torch.minimum(named["attention_mask"], own)}

    wrong.module.register_forward_pre_hook(blocked, with_kwargs=True)
    regime = "attention is block-causal in blocks of 8"
    assert failed(conformance(wrong)) == [f"network: {regime}", f"hooks: {regime}", f"nnsight: {regime}"]


@pytest.mark.parametrize("mask", [VOCABULARY, -1])
def test_a_mask_token_outside_the_vocabulary_fails_there_alone(mask: int) -> None:
    for name in ("llama", "bert"):
        assert failed(conformance(other(tiny(name, "full"), mask_token_id=mask))) == ["mask token is in the vocabulary"]


def test_a_mask_token_outside_the_vocabulary_of_a_puzzle_fails_there_alone(tiny_model: Callable[..., Any]) -> None:
    assert failed(conformance(other(tiny_model(), mask_token_id=12))) == ["mask token is in the vocabulary"]


def moved_site(model: LanguageModel, path: str) -> LanguageModel:
    """The model with what the MLPs add sought elsewhere."""
    architecture = model.network.architecture
    sites = {**architecture.sites, "hook_mlp_out": Site(path, "output")}
    model.network = replace(model.network, architecture=replace(architecture, sites=sites))
    return model


@pytest.mark.parametrize("name", ["gpt2", "modernbert"])
def test_a_hook_that_does_nothing_fails_there_alone(name: str) -> None:
    wrong = other(tiny(name, "full"))
    blocks = wrong.network.architecture.blocks
    for block in wrong.module.get_submodule(blocks):
        block.shadow = nn.Identity()
        block.mlp.register_forward_hook(lambda _, given, out, block=block: (block.shadow(out), None)[1])
    silent = [f"editing blocks.{layer}.hook_mlp_out matters" for layer in range(LAYERS)]
    checks = conformance(moved_site(wrong, f"{blocks}.{{layer}}.shadow"))
    assert failed(checks) == [f"{backend}: {one}" for backend in ("hooks", "nnsight") for one in silent]


def test_a_hook_that_is_never_reached_or_nowhere_fails_without_ending_the_table() -> None:
    wrong = other(tiny("gpt2", "full"))
    for block in wrong.module.transformer.h:
        block.shadow = nn.Identity()
    unreached = conformance(moved_site(wrong, "transformer.h.{layer}.shadow"))
    silent = [f"hooks: editing blocks.{layer}.hook_mlp_out matters" for layer in range(LAYERS)]
    assert failed(unreached) == [*silent, "nnsight can be made"]
    nowhere = conformance(moved_site(wrong, "transformer.h.{layer}.nowhere"))
    assert failed(nowhere) == ["hooks can be made", "nnsight can be made"]
    assert all("nowhere" in check.rule and "\n" not in check.rule for check in nowhere if not check.passed)
    assert unreached[-1].name == nowhere[-1].name == "denoised under random, its trace saved and read"


@pytest.mark.parametrize("name", ["sudoku-ar", "sudoku-diffusion", "stories-ar", "stories-diffusion"])
def test_a_shift_off_by_one_fails_there_alone(name: str) -> None:
    right = load(name)
    facts = right.facts
    assert check_shift(right).passed
    assert "not decided" not in check_shift(right).name
    lied = copy.copy(facts)
    object.__setattr__(lied, "logit_shift", 1 - facts.logit_shift)  # which the facts of a causal model would refuse
    right.network = replace(right.network, facts=lied)
    wrong = check_shift(right)
    assert (wrong.name, wrong.passed) == (f"position i scores token i{'' if facts.logit_shift else '+1'}", False)
    assert (wrong.value < -4, "\n" in wrong.rule + wrong.remedy) == (True, False)
    if name == "sudoku-diffusion":
        assert failed(conformance(right)) == [wrong.name]


def test_weights_that_tell_neither_shift_decide_nothing() -> None:
    for attention in ("causal", "full"):
        said = check_shift(tiny("llama", attention))
        assert said.passed
        assert "not decided" in said.name
