"""What a plan takes, against PyTorch's own counts and against models whose sizes are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    T5Config,
)

from models.chance import drawn
from models.cost import GPUS, USABLE, UTILISATION, CostError, plan_cost
from models.denoise import score
from models.hookpoints import HookPoint, resid_post
from models.network_shape import ShapeError, shape_of

QWEN = {"head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960}
QWEN3_8B = Qwen3Config(
    hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, **QWEN
)
QWEN3_30B = Qwen3MoeConfig(
    hidden_size=2048,
    intermediate_size=6144,
    num_hidden_layers=48,
    num_attention_heads=32,
    num_key_value_heads=4,
    num_experts=128,
    num_experts_per_tok=8,
    moe_intermediate_size=768,
    **QWEN,
)
LLAMA2_7B = LlamaConfig(max_position_embeddings=4096)
LLAMA3_70B = LlamaConfig(
    hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8, vocab_size=128256
)
KNOWN: list[tuple[PreTrainedConfig, int]] = [
    (GPT2Config(), 124_439_808),
    (LLAMA2_7B, 6_738_415_616),
    (
        Qwen2Config(
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            vocab_size=152064,
        ),
        7_615_616_512,
    ),
    (
        Qwen3Config(
            hidden_size=1024,
            intermediate_size=3072,
            num_hidden_layers=28,
            num_attention_heads=16,
            num_key_value_heads=8,
            tie_word_embeddings=True,
            **QWEN,
        ),
        596_049_920,
    ),
    (QWEN3_8B, 8_190_735_360),
    (QWEN3_30B, 30_532_122_624),
    (LLAMA3_70B, 70_553_706_496),
]


PASSES = {
    "attention": ("harvest", 4, 128, 100, 176, 3),
    "feed-forward": ("harvest", 16, 16, 100, 704, 3),
    "both": ("harvest", 4, 64, 100, 176, 3),
    "logits": ("denoise", 8, 32, 3000, 176, 0),
}
"""By what takes most: kind, batch, length, vocabulary, width of the feed-forward sublayer, hook points."""


def tiny(vocab: int = 100, width: int = 176) -> dict[str, PreTrainedConfig]:
    shape = {"hidden_size": 64, "intermediate_size": width, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": vocab}
    grouped: dict[str, Any] = {**shape, "num_key_value_heads": 2}
    return {
        "gpt2": GPT2Config(n_embd=64, n_inner=width, n_layer=3, n_head=4, vocab_size=vocab, bos_token_id=0, eos_token_id=0),
        "llama": LlamaConfig(**shape),
        "qwen3": Qwen3Config(**grouped, head_dim=32),
        "qwen3_moe": Qwen3MoeConfig(**grouped, head_dim=16, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=64),
    }


def built(config: PreTrainedConfig, experts: str = "grouped_mm") -> PreTrainedModel:
    kind = {"experts_implementation": experts} if "moe" in config.model_type else {}
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation="eager", **kind)
    return model.eval().requires_grad_(False)


def plan(config: PreTrainedConfig, **changes: Any) -> Any:
    asked: dict[str, Any] = {"dtype": "bfloat16", "hook_points": [resid_post(1)], "n": 8, "length": 16, "batch": 4}
    return plan_cost(config, **{**asked, **changes})


@pytest.mark.parametrize(("config", "parameters"), KNOWN, ids=lambda value: f"{value:,}" if isinstance(value, int) else value.model_type)
def test_known_models_have_their_known_sizes(config: PreTrainedConfig, parameters: int) -> None:
    assert plan(config).parameters == parameters


def test_of_a_mixture_of_experts_few_parameters_act() -> None:
    cost = plan(QWEN3_30B)
    assert cost.active == 3_353_032_704  # "3.3B activated", says its card
    assert plan(LLAMA2_7B).active == plan(LLAMA2_7B).parameters


def test_weights_take_what_their_dtype_takes() -> None:
    weights = plan(LLAMA2_7B).weights
    assert (weights["float32"], weights["bfloat16"], weights["float16"]) == (26_953_662_464, 13_476_831_232, 13_476_831_232)
    outside = 2 * 32000 * 4096 + 65 * 4096  # embeddings, unembedding and norms stay in bfloat16
    assert weights["int8"] == 6_738_415_616 + outside
    assert weights["nf4"] == (6_738_415_616 - outside) * 9 / 16 + 2 * outside


@pytest.mark.parametrize("length", [8, 128])
@pytest.mark.parametrize("family", tiny())
def test_arithmetic_is_what_pytorch_counts(family: str, length: int) -> None:
    config = tiny(width=128)[family]  # its experts one after another: PyTorch counts no grouped multiplication
    model, tokens = built(config, "eager"), torch.randint(0, 100, (4, length))
    with FlopCounterMode(display=False) as whole:
        model(input_ids=tokens, use_cache=False)
    assert plan(config, n=4, length=length, kind="denoise").flops == pytest.approx(whole.get_total_flops(), rel=0.05)
    assert plan(config, n=4, length=length, kind="denoise", steps=5).flops == 5 * plan(config, n=4, length=length, kind="denoise").flops
    config.num_hidden_layers = 2
    with FlopCounterMode(display=False) as part:
        built(config, "eager").base_model(input_ids=tokens, use_cache=False)
    config.num_hidden_layers = 3
    points = [HookPoint(0, "hook_mlp_out"), resid_post(1)]
    assert plan(config, n=4, length=length, hook_points=points).flops == pytest.approx(part.get_total_flops(), rel=0.05)


@pytest.mark.parametrize("config", [LLAMA2_7B, QWEN3_8B, GPT2Config()], ids=lambda config: config.model_type)
def test_arithmetic_at_true_size_is_what_pytorch_counts(config: PreTrainedConfig) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        with FlopCounterMode(display=False) as counted:
            model(input_ids=torch.zeros(2, 1024, dtype=torch.long), attention_mask=torch.zeros(2, 1, 1024, 1024), use_cache=False)
    assert plan(config, n=2, length=1024, kind="denoise").flops == pytest.approx(counted.get_total_flops(), rel=0.01)


def most_held(model: PreTrainedModel, tokens: Tensor, kind: str, points: int) -> int:
    """The peak of PyTorch's own account of what it allocates in a pass, after one that warms up."""

    def run() -> Any:
        if kind == "denoise":
            logits = model(input_ids=tokens, use_cache=False).logits.float()
            return score(logits, drawn(logits, torch.rand(logits.shape), 1.0, 1.0))
        return model.base_model(input_ids=tokens, use_cache=False, output_hidden_states=points > 0)

    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as account:
        run()
    events = sorted((one for one in account.profiler.kineto_results.events() if one.name() == "[memory]"), key=lambda one: one.start_ns())
    held = most = 0
    for event in events:
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("most", PASSES)
@pytest.mark.parametrize("family", tiny())
def test_a_pass_holds_what_pytorch_says_it_allocates(family: str, most: str, dtype: str) -> None:
    kind, batch, length, vocab, width, points = PASSES[most]
    config = tiny(vocab, width)[family]
    model = built(config).to(getattr(torch, dtype))
    tokens = torch.randint(0, vocab, (batch, length), generator=torch.Generator().manual_seed(0))
    found = [resid_post(layer) for layer in range(points)]
    memory = plan(config, kind=kind, batch=batch, length=length, dtype=dtype, hook_points=found).memory
    measured = most_held(model, tokens, kind, points)
    assert memory.peak - memory.weights == pytest.approx(measured, rel=0.25)
    assert memory.weights == sum(value.numel() * value.element_size() for value in model.parameters())


def test_activations_on_disk() -> None:
    points = [resid_post(layer) for layer in range(3)]
    assert plan(LLAMA2_7B, hook_points=points, n=100, length=50, steps=2).disk == 100 * 50 * 2 * 3 * 4096 * 2
    assert plan(LLAMA2_7B, hook_points=points, n=100, length=50, stored="float32").disk == 100 * 50 * 3 * 4096 * 4


def test_hours_are_arithmetic_by_speed() -> None:
    cost = plan(LLAMA2_7B, n=1000, length=1024, kind="denoise", steps=64)
    by_name = {one.gpu: one.hours for one in cost.gpus}
    assert by_name["A100 80GB"] == pytest.approx(cost.flops / (312e12 * UTILISATION * 3600))
    whole = plan(LLAMA2_7B, n=1000, length=1024, kind="denoise", steps=64, dtype="float32")
    assert whole.flops == cost.flops
    assert {one.gpu: one.hours for one in whole.gpus}["A100 80GB"] == pytest.approx(by_name["A100 80GB"] * 16)


@pytest.mark.parametrize("kind", ["harvest", "denoise"])
@pytest.mark.parametrize("dtype", ["bfloat16", "nf4"])
def test_the_largest_batch_fits_and_no_larger(dtype: str, kind: str) -> None:
    asked: dict[str, Any] = {"dtype": dtype, "kind": kind, "length": 1024}
    for number in (0, 3, 6):
        gpu = GPUS[number]
        most = plan(LLAMA2_7B, **asked).gpus[number].most_batch
        if most:
            assert plan(LLAMA2_7B, **asked, batch=most).memory.peak <= USABLE * gpu.memory
            assert plan(LLAMA2_7B, **asked, batch=most).gpus[number].fits
        over = plan(LLAMA2_7B, **asked, batch=most + 1)
        assert over.memory.peak > USABLE * gpu.memory
        assert not over.gpus[number].fits


def test_where_nothing_holds_a_plan_it_says_what_would_fit() -> None:
    asked: dict[str, Any] = {"length": 2048, "batch": 16}
    assert plan(LLAMA2_7B, **asked).instead == ()
    cost = plan(LLAMA3_70B, **asked)
    assert not any(one.fits for one in cost.gpus)
    assert {one.dtype: one.gpu for one in cost.instead} == {"int8": "H200", "nf4": "H200"}
    for one in cost.instead:
        changed = plan(LLAMA3_70B, length=2048, batch=one.batch, dtype=one.dtype)
        assert {there.gpu: there.fits for there in changed.gpus}[one.gpu]
    smaller = plan(LLAMA2_7B, length=4096, batch=10_000).instead[0]
    assert (smaller.dtype, smaller.gpu) == ("bfloat16", "H200")
    assert 1 <= smaller.batch < 10_000


def test_planning_draws_no_numbers_and_changes_no_configuration() -> None:
    config, state = GPT2Config(), torch.get_rng_state()
    before = config.to_dict()
    plan(config)
    assert config.to_dict() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_masked_language_models_are_counted_too() -> None:
    shape = shape_of(BertConfig())
    assert (shape.n_layers, shape.d_model, shape.heads) == (12, 768, 768)


def test_a_network_of_another_library_is_counted_by_its_class() -> None:
    class OtherConfig(LlamaConfig):
        model_type = "other"

    class Other(LlamaForCausalLM):
        config_class = OtherConfig

    other = OtherConfig(hidden_size=64, intermediate_size=176, num_hidden_layers=3, num_attention_heads=4)
    with pytest.raises(ShapeError, match=r"OtherConfig is the configuration of no language model .*; give its class"):
        plan(other)
    same = LlamaConfig(hidden_size=64, intermediate_size=176, num_hidden_layers=3, num_attention_heads=4)
    assert plan(other, network=Other) == plan(same)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "int4"}, "unknown dtype 'int4'; choose from float32, bfloat16, float16, int8, nf4"),
        ({"kind": "train"}, "unknown kind 'train'; choose from harvest, denoise"),
        ({"stored": "int8"}, "unknown stored 'int8'; choose from float16, float32"),
        ({"batch": 0}, "batch is 0; it must be at least 1"),
        ({"hook_points": [resid_post(12)]}, "a hook point is in block 12; there are 12, counted from 0"),
        ({"hook_points": []}, "a harvest of no hook points; name at least one"),
    ],
)
def test_plans_that_cannot_be_followed_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CostError, match=message):
        plan(GPT2Config(), **changes)


@pytest.mark.parametrize("config", [MambaConfig(num_hidden_layers=2), T5Config()], ids=lambda config: config.model_type)
def test_networks_of_another_make_are_refused(config: PreTrainedConfig) -> None:
    with pytest.raises(ShapeError):
        plan(config)
