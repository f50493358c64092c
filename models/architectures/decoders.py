"""Pre-norm decoders of one layout: Llama, Qwen, Gemma and mixtures of experts, causal, or bidirectional through ``config.is_causal``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from transformers import PreTrainedModel

from models.architectures.base import Architecture, Site, quiet, seeded

SITES = {
    "hook_embed": Site("model.embed_tokens", "output"),
    "hook_resid_pre": Site("model.layers.{layer}", "input"),
    "hook_attn_out": Site("model.layers.{layer}.self_attn", "output"),
    "hook_resid_mid": Site("model.layers.{layer}.self_attn", "output", onto="hook_resid_pre"),
    "hook_mlp_out": Site("model.layers.{layer}.mlp", "output"),
    "hook_resid_post": Site("model.layers.{layer}", "output"),
}
_AFTER_NORMS = SITES | {
    "hook_attn_out": Site("model.layers.{layer}.post_attention_layernorm", "output"),
    "hook_resid_mid": Site("model.layers.{layer}.post_attention_layernorm", "output", onto="hook_resid_pre"),
    "hook_mlp_out": Site("model.layers.{layer}.post_feedforward_layernorm", "output"),
}
"""Gemma 2 and 3 norm what attention and MLP give once more; what is added is what TransformerLens calls their output."""


def _network(name: str) -> type[PreTrainedModel]:
    import transformers

    found: type[PreTrainedModel] = getattr(transformers, name)
    return found


def _build(
    network: Callable[[], type[PreTrainedModel]],
    extra: dict[str, Any],
    *,
    vocab_size: int,
    n_positions: int,
    d_model: int,
    n_layers: int,
    n_heads: int,
    seed: int = 0,
) -> PreTrainedModel:
    kind = network()
    assert kind.config_class is not None
    config = kind.config_class(
        vocab_size=vocab_size,
        hidden_size=d_model,
        intermediate_size=8 * d_model // 3 // 8 * 8,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        num_key_value_heads=max(n_heads // 2, 1),
        head_dim=d_model // n_heads,
        max_position_embeddings=n_positions,
        tie_word_embeddings=False,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        is_causal=True,
        attn_implementation="eager",
        **extra,
    )
    return seeded(lambda: quiet(kind(config), ("o_proj.weight", "down_proj.weight", "down_proj"), ("model.embed_tokens",)), seed)


def decoder(
    model_type: str, network: str | Callable[[], type[PreTrainedModel]], bridge: str | None, *, norms: bool = False, **extra: Any
) -> Architecture:
    """Returns the architecture of a decoder of this layout.

    Args:
        model_type: Of its configuration.
        network: Its class in the Hugging Face library by name, or what returns its class.
        bridge: Its TransformerLens adapter.
        norms: Whether what attention and MLP give is normed once more before it is added.
        extra: What its configuration is built with besides the shape.
    """
    kind = partial(_network, network) if isinstance(network, str) else network
    return Architecture(
        model_type=model_type,
        network=kind,
        build=partial(_build, kind, extra),
        sites=_AFTER_NORMS if norms else SITES,
        blocks="model.layers",
        readout=("model.norm", "lm_head"),
        bridge=bridge,
        source=f"transformers.models.{model_type} (5.23), transformer_lens adapter {bridge} (3.9)",
    )


def _causal(model_type: str, name: str, *, norms: bool = False, **extra: Any) -> Architecture:
    return decoder(model_type, f"{name}ForCausalLM", f"{name}ForCausalLM", norms=norms, **extra)


LLAMA = _causal("llama", "Llama")
QWEN2 = _causal("qwen2", "Qwen2")
QWEN3 = _causal("qwen3", "Qwen3")
QWEN3_MOE = _causal("qwen3_moe", "Qwen3Moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
OLMOE = _causal("olmoe", "Olmoe", num_experts=4, num_experts_per_tok=2)
GEMMA = _causal("gemma", "Gemma")
GEMMA2 = _causal("gemma2", "Gemma2", norms=True)
GEMMA3 = _causal("gemma3_text", "Gemma3", norms=True)
