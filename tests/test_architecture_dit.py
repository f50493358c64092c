"""The diffusion transformer of MDLM, BD3-LM, SEDD and GIDD computes what is published, from tensors under the published names."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from models.architectures.dit import (
    DiTConfig,
    DiTForMaskedDiffusion,
    share_masked,
    sigma_of,
    time_of,
)
from models.families.dit import KEY_MAPPING, config_of_bd3lm, config_of_gidd, config_of_mdlm, config_of_sedd

VOCAB, WIDTH, HEADS, LAYERS, COND, LENGTH = 13, 16, 2, 2, 6, 12
MASK = VOCAB - 1
TOKENS = torch.randint(0, VOCAB, (3, LENGTH), generator=torch.Generator().manual_seed(0))
SIGMA = torch.tensor([0.05, 0.7, 3.0])
SEEN, HIDDEN = 0.0, torch.finfo(torch.float32).min

MDLM = {
    "model_type": "mdlm",
    "vocab_size": VOCAB,
    "model_length": LENGTH,
    "hidden_dim": WIDTH,
    "cond_dim": COND,
    "n_blocks": LAYERS,
    "n_heads": HEADS,
    "dropout": 0.1,
    "time_conditioning": False,
}
BD3LM = {**MDLM, "model_type": "bd3lm", "block_size": 4, "cross_attn": True, "adaln": True, "causal": False, "attn_backend": "flex"}
SEDD_MODEL = {"name": "small", "hidden_size": WIDTH, "cond_dim": COND, "length": LENGTH, "n_blocks": LAYERS, "n_heads": HEADS}
SEDD = {"tokens": MASK, "graph": {"type": "absorb"}, "noise": {"type": "loglinear"}, "model": SEDD_MODEL}
GIDD = {
    "model_type": "dit",
    "vocab_size": VOCAB,
    "max_seq_len": LENGTH,
    "hidden_size": WIDTH,
    "timestep_cond_dim": COND,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "attention_dropout": 0.0,
    "p_uniform": 0.2,
    "t_eps": 1e-4,
}
CONFIGS = {
    "mdlm": DiTConfig(**config_of_mdlm(MDLM)),
    "bd3lm": DiTConfig(**config_of_bd3lm(BD3LM)),
    "sedd": DiTConfig(**config_of_sedd(SEDD)),
    "gidd": DiTConfig(**config_of_gidd(GIDD)),
}

SHAPES = {
    "vocab_embed.embedding": (VOCAB, WIDTH),
    "sigma_map.mlp.0.weight": (COND, 256),
    "sigma_map.mlp.0.bias": (COND,),
    "sigma_map.mlp.2.weight": (COND, COND),
    "sigma_map.mlp.2.bias": (COND,),
    "output_layer.norm_final.weight": (WIDTH,),
    "output_layer.linear.weight": (VOCAB, WIDTH),
    "output_layer.linear.bias": (VOCAB,),
    "output_layer.adaLN_modulation.weight": (2 * WIDTH, COND),
    "output_layer.adaLN_modulation.bias": (2 * WIDTH,),
}
BLOCK_SHAPES = {
    "norm1.weight": (WIDTH,),
    "attn_qkv.weight": (3 * WIDTH, WIDTH),
    "attn_out.weight": (WIDTH, WIDTH),
    "norm2.weight": (WIDTH,),
    "mlp.0.weight": (4 * WIDTH, WIDTH),
    "mlp.0.bias": (4 * WIDTH,),
    "mlp.2.weight": (WIDTH, 4 * WIDTH),
    "mlp.2.bias": (WIDTH,),
    "adaLN_modulation.weight": (6 * WIDTH, COND),
    "adaLN_modulation.bias": (6 * WIDTH,),
}
PUBLISHED_SHAPES = SHAPES | {f"blocks.{layer}.{name}": shape for layer in range(LAYERS) for name, shape in BLOCK_SHAPES.items()}


def published_state() -> dict[str, Tensor]:
    """Random tensors under the published names, none of them zero."""
    random = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=random) * 0.3 + ("norm" in name) for name, shape in PUBLISHED_SHAPES.items()}


def published_logits(state: dict[str, Tensor], tokens: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
    """The forward pass as the papers state it, in double precision, with rotations as complex numbers, from the published names."""
    tensors = {name: value.double() for name, value in state.items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt() * tensors[f"{name}.weight"]

    def rotated(x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        turns = torch.outer(torch.arange(x.shape[-2]).double(), 10_000 ** (-torch.arange(half).double() / half))
        spun = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(turns), turns)
        return torch.cat([spun.real, spun.imag], dim=-1)

    def split(x: Tensor) -> Tensor:
        return torch.stack(x.chunk(HEADS, dim=-1), dim=1)

    angles = torch.outer(sigma.double(), torch.exp(-math.log(10_000) * torch.arange(128).double() / 128))
    told = linear(functional.silu(linear(torch.cat([angles.cos(), angles.sin()], -1), "sigma_map.mlp.0")), "sigma_map.mlp.2")
    told = functional.silu(told)[:, None]
    x = tensors["vocab_embed.embedding"][tokens]
    for layer in (f"blocks.{number}." for number in range(LAYERS)):
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = linear(told, layer + "adaLN_modulation").chunk(6, dim=-1)
        query, key, value = map(split, linear(norm(x, layer + "norm1") * (1 + scale) + shift, layer + "attn_qkv").chunk(3, dim=-1))
        scores = rotated(query) @ rotated(key).transpose(-1, -2) / math.sqrt(query.shape[-1])
        pattern = (scores if mask is None else scores + mask).softmax(-1)
        x = x + gate * linear(torch.cat((pattern @ value).unbind(1), dim=-1), layer + "attn_out")
        hidden = functional.gelu(linear(norm(x, layer + "norm2") * (1 + scale_mlp) + shift_mlp, layer + "mlp.0"), approximate="tanh")
        x = x + gate_mlp * linear(hidden, layer + "mlp.2")
    shift, scale = linear(told, "output_layer.adaLN_modulation").chunk(2, dim=-1)
    return linear(norm(x, "output_layer.norm_final") * (1 + scale) + shift, "output_layer.linear")


def opened(folder: Path, state: dict[str, Tensor], config: DiTConfig) -> tuple[DiTForMaskedDiffusion, dict[str, Any]]:
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    model, report = DiTForMaskedDiffusion.from_pretrained(folder, config=config, key_mapping=KEY_MAPPING, output_loading_info=True)
    return model.eval(), report


def stirred(seed: int = 0, **changes: Any) -> DiTForMaskedDiffusion:
    """A network none of whose parts does nothing."""
    shape = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "cond_dim": COND, "mask_token_id": MASK}
    model = DiTForMaskedDiffusion(DiTConfig(vocab_size=VOCAB, **shape, **changes))
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.3 + ("norm.weight" in name))
    return model.eval()


def block_causal(size: int) -> Tensor:
    block = torch.arange(LENGTH) // size
    return torch.where(block[:, None] >= block, SEEN, HIDDEN)[None, None]


@torch.no_grad()
def test_it_computes_what_is_published_from_tensors_under_the_published_names(tmp_path: Path) -> None:
    state = published_state()
    buffers = {"backbone.rotary_emb.inv_freq": torch.ones(WIDTH // HEADS // 2)}
    noise = {"sampling_eps_min": torch.tensor(0.001), "sampling_eps_max": torch.tensor(0.999)}
    wrapped = {f"backbone.{name}": value for name, value in state.items()} | buffers
    turns = {f"rotary_emb.{part}_cached": torch.ones(1, LENGTH, 3, 1, WIDTH // HEADS) for part in ("cos", "sin")}
    times = torch.tensor([0.05, 0.5, 0.97])
    cases = {
        "gidd": (state | turns, {"sigma": times}, times, None),
        "mdlm": (wrapped, {}, torch.zeros(3), None),
        "bd3lm": (wrapped | noise, {"attention_mask": block_causal(4)}, torch.zeros(3), block_causal(4)),
        "sedd": (state | {"rotary_emb.inv_freq": buffers["backbone.rotary_emb.inv_freq"]}, {"sigma": SIGMA}, SIGMA, None),
    }
    for name, (tensors, given, sigma, mask) in cases.items():
        model, report = opened(tmp_path, tensors, CONFIGS[name])
        assert not any(report.values()), (name, report)
        expected = published_logits(state, TOKENS, sigma, mask)
        assert expected.std() > 0.5
        torch.testing.assert_close(model(TOKENS, **given).logits.double(), expected, atol=1e-4, rtol=1e-4)


def test_a_tensor_that_is_missing_or_too_many_is_reported(tmp_path: Path) -> None:
    state = published_state()
    state["blocks.0.norm3.weight"] = state.pop("blocks.0.norm2.weight")
    _, report = opened(tmp_path, state, CONFIGS["sedd"])
    assert report["missing_keys"] == {"blocks.0.mlp.norm.weight"}
    assert report["unexpected_keys"] == {"blocks.0.norm3.weight"}


@torch.no_grad()
def test_bd3lm_without_adaptive_norms_opens_as_a_causal_transformer(tmp_path: Path) -> None:
    config = DiTConfig(**config_of_bd3lm({**BD3LM, "adaln": False, "causal": True}))
    state = published_state()
    plain = {name: value for name, value in state.items() if "adaLN" not in name and "sigma_map" not in name}
    model, report = opened(tmp_path, plain, config)
    assert not any(report.values())
    for name in set(state) - set(plain):
        state[name].zero_()
    for layer in range(LAYERS):
        state[f"blocks.{layer}.adaLN_modulation.bias"].view(6, WIDTH)[[2, 5]] = 1.0  # the gates
    expected = published_logits(state, TOKENS, torch.zeros(3), block_causal(1))
    torch.testing.assert_close(model(TOKENS).logits.double(), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_it_is_saved_and_opened_under_its_own_names(tmp_path: Path) -> None:
    model, _ = opened(tmp_path, published_state(), CONFIGS["sedd"])
    model.save_pretrained(tmp_path / "own", save_original_format=False)
    again, report = DiTForMaskedDiffusion.from_pretrained(tmp_path / "own", output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(again(TOKENS).logits, model(TOKENS).logits)


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"time_conditioning": True}, {"adaptive": False, "is_causal": True}])
def test_contributions_add_up_to_the_residual_stream_which_the_readout_reads(changes: dict[str, Any]) -> None:
    model, held = stirred(**changes), {}
    for name in [f"blocks.{layer}{part}" for layer in range(LAYERS) for part in ("", ".attn", ".mlp")] + ["embed"]:
        module = model.get_submodule(name)
        module.register_forward_hook(lambda _, given, out, name=name: held.update({name: (given[0], out)}))
    logits = model(TOKENS, sigma=SIGMA).logits
    residual = held["embed"][1]
    for layer in (f"blocks.{number}" for number in range(LAYERS)):
        before, after = held[layer]
        assert torch.equal(before, residual)
        torch.testing.assert_close(held[f"{layer}.mlp"][0], before + held[f"{layer}.attn"][1])
        torch.testing.assert_close(after, before + held[f"{layer}.attn"][1] + held[f"{layer}.mlp"][1])
        residual = after
    told = model.final_norm.conditioning(SIGMA)
    rows = model.final_norm(residual[:, 5], told if model.config.time_conditioning else None)
    torch.testing.assert_close(model.lm_head(rows), logits[:, 5])
    assert model.get_input_embeddings() is model.embed
    assert model.get_output_embeddings() is model.lm_head


@torch.no_grad()
def test_only_differences_of_positions_matter() -> None:
    model = stirred()
    plain = model(TOKENS).logits
    positions = torch.arange(LENGTH)[None]
    assert torch.equal(model(TOKENS, position_ids=positions).logits, plain)
    torch.testing.assert_close(model(TOKENS, position_ids=positions + 40).logits, plain, atol=1e-4, rtol=1e-4)
    assert (model(TOKENS, position_ids=positions * 2).logits - plain).abs().max() > 0.01
    order = torch.tensor([3, 0, 11, 5, 4, 1, 2, 7, 6, 10, 9, 8])
    torch.testing.assert_close(model(TOKENS[:, order], position_ids=order[None]).logits, plain[:, order], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("regime", ["full", "causal", "causal by mask", "block-causal"])
def test_a_position_sees_what_its_regime_lets_it_see(regime: str) -> None:
    model = stirred(is_causal=regime == "causal")
    mask = {"causal by mask": block_causal(1), "block-causal": block_causal(4)}.get(regime)
    size = {"full": LENGTH, "block-causal": 4}.get(regime, 1)
    plain = model(TOKENS, attention_mask=mask).logits
    for place in range(LENGTH):
        changed = TOKENS.clone()
        changed[:, place] = (changed[:, place] + 1) % VOCAB
        moved = (model(changed, attention_mask=mask).logits - plain).abs().amax(dim=(0, 2)) > 1e-5
        assert torch.equal(moved, torch.arange(LENGTH) // size >= place // size), (regime, place)


@torch.no_grad()
def test_a_mask_takes_the_place_of_the_network_s_own_regime() -> None:
    causal = stirred(is_causal=True)
    everything = torch.zeros(1, 1, 1, LENGTH)
    torch.testing.assert_close(causal(TOKENS, attention_mask=everything).logits, stirred()(TOKENS).logits)
    torch.testing.assert_close(stirred()(TOKENS, attention_mask=block_causal(1)).logits, causal(TOKENS).logits)


@torch.no_grad()
def test_the_noise_level_matters_to_a_network_that_is_told_it_and_to_no_other() -> None:
    untold, told = stirred(), stirred(time_conditioning=True)
    assert torch.equal(untold(TOKENS, sigma=SIGMA).logits, untold(TOKENS).logits)
    assert torch.equal(told(TOKENS, sigma=torch.zeros(3)).logits, untold(TOKENS).logits)
    assert (told(TOKENS, sigma=SIGMA).logits - untold(TOKENS).logits).abs().amax(dim=(1, 2)).min() > 0.01
    per_position = SIGMA[:, None].expand(3, LENGTH)
    torch.testing.assert_close(told(TOKENS, sigma=per_position).logits, told(TOKENS, sigma=SIGMA).logits)


def test_the_noise_level_of_a_canvas_masks_its_share_of_tokens() -> None:
    masked = torch.arange(1000)[None] < torch.tensor([0, 1, 250, 999, 1000])[:, None]
    sigma = sigma_of(share_masked(masked, None))
    torch.testing.assert_close(1 - torch.exp(-sigma[:, 0]), torch.tensor([0, 0.001, 0.25, 0.999, 0.999]))


@pytest.mark.parametrize("p_uniform", [0.0, 0.1, 0.2, 0.9])
def test_the_time_of_a_canvas_is_when_hybrid_noise_masks_its_share(p_uniform: float) -> None:
    time = torch.linspace(1e-4, 1 - 1e-4, 101, dtype=torch.float64)
    replaced = 2 * p_uniform / (1 - p_uniform) * (time * (1 - time)).sqrt()
    torch.testing.assert_close(time_of(time / (1 + replaced), p_uniform), time, atol=1e-9, rtol=1e-6)
    assert time_of(torch.tensor([0.0, 1.0]), p_uniform).tolist() == pytest.approx([1e-4, 1 - 1e-4])


@torch.no_grad()
def test_a_network_of_hybrid_noise_takes_the_time_from_the_masks_it_sees(tmp_path: Path) -> None:
    model, _ = opened(tmp_path, published_state(), CONFIGS["gidd"])
    canvas = TOKENS.clamp(max=MASK - 1)
    canvas[:, :5] = MASK
    time = time_of(torch.full((3,), 5 / LENGTH), 0.2)
    torch.testing.assert_close(model(canvas).logits, model(canvas, sigma=time).logits)
    assert (model(canvas, sigma=time / 2).logits - model(canvas).logits).abs().max() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("told", [False, True])
def test_a_padded_canvas_is_read_as_it_is_alone(told: bool) -> None:
    model = stirred(time_conditioning=told)
    alone = TOKENS[:1, :7].clone()
    alone[0, 2:5] = MASK
    for start in (0, 5):  # padded behind, and before
        padded = torch.full((2, LENGTH), MASK)
        padded[1] = TOKENS[1]
        padded[0, start : start + 7] = alone
        here = torch.arange(LENGTH)[None] >= start
        here = torch.stack([(here & (torch.arange(LENGTH) < start + 7))[0], torch.ones(LENGTH, dtype=torch.bool)])
        mask = torch.where(here[:, None, None, :] | torch.eye(LENGTH, dtype=torch.bool), SEEN, HIDDEN)
        positions = torch.stack([(torch.arange(LENGTH) - start).clamp(min=0), torch.arange(LENGTH)])
        logits = model(padded, attention_mask=mask, position_ids=positions).logits
        torch.testing.assert_close(logits[:1, start : start + 7], model(alone).logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(logits[1:], model(TOKENS[1:2]).logits, atol=1e-5, rtol=1e-4)


def test_gradients_are_finite_and_reach_every_part() -> None:
    for changes in ({}, {"time_conditioning": True}, {"adaptive": False}):
        model = stirred(**changes)
        functional.cross_entropy(model(TOKENS).logits.flatten(0, 1), TOKENS.flatten()).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name


@torch.no_grad()
def test_a_fresh_network_adds_nothing_to_its_embedding_and_prefers_no_token() -> None:
    model = DiTForMaskedDiffusion(DiTConfig(vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS))
    last: list[Tensor] = []
    model.final_norm.register_forward_pre_hook(lambda _, given: last.append(given[0]))
    assert not model(TOKENS).logits.any()
    assert torch.equal(last[0], model.embed(TOKENS))


@torch.no_grad()
def test_it_runs_in_half_the_precision() -> None:
    model = stirred(time_conditioning=True)
    exact = model(TOKENS, attention_mask=block_causal(4)).logits
    rough = model.bfloat16()(TOKENS, attention_mask=block_causal(4)).logits
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().mean() < 0.1 * exact.std()


def test_configurations_say_what_the_published_ones_do() -> None:
    for name, config in CONFIGS.items():
        stated = (config.vocab_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.cond_dim)
        assert stated == (VOCAB, WIDTH, LAYERS, HEADS, COND), name
        assert (config.max_position_embeddings, config.mask_token_id, config.is_causal) == (LENGTH, MASK, False)
        assert config.time_conditioning is (name in ("sedd", "gidd"))
        assert config.p_uniform == (0.2 if name == "gidd" else None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: config_of_mdlm({"hidden_dim": 8}),
            "lacks vocab_size, model_length, time_conditioning, n_blocks, n_heads, cond_dim; it must",
        ),
        (lambda: config_of_bd3lm(MDLM), "lacks causal, adaln; it must state"),
        (lambda: config_of_sedd(SEDD | {"graph": {"type": "uniform"}}), "graph.type is 'uniform'; it must be absorb"),
        (
            lambda: DiTConfig(hidden_size=12, num_attention_heads=4),
            "hidden_size is 12; for 4 heads of rotary positions it must be a multiple of 8",
        ),
        (lambda: stirred()(TOKENS, use_cache=True), "use_cache is True"),
        (
            lambda: stirred()(TOKENS, attention_mask=torch.ones(3, LENGTH)),
            "attention_mask is torch.float32 of 2 dimensions; it must",
        ),
        (lambda: stirred()(TOKENS, attention_mask=block_causal(1) == 0), "attention_mask is torch.bool of 4 dimensions"),
        (lambda: stirred(time_conditioning=True).final_norm(torch.zeros(1, WIDTH)), "conditioning is None; this network is told"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
