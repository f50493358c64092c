"""LLaDA as a mixture of experts: LLaDA-MoE runs as Qwen3-MoE, LLaDA 2 as GLM-4-MoE."""

from typing import Any

from models.families.base import Behaviour, Family, Raw, refuse

_SAME = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "num_experts_per_tok",
)
_MASK, _MASK_TOKEN = 156895, ("<|mask|>",)


def _moe(raw: Raw) -> dict[str, Any]:
    """Returns a Qwen3-MoE configuration (modeling_lladamoe.py:352 for the norm of each head, :663 for the router)."""
    absent = {"shared_expert_intermediate_size": None, "moe_router_enable_expert_bias": False, "clip_qkv": None, "rope_scaling": None}
    refuse({"partial_rotary_factor": 1, **absent, **raw}, {"qk_layernorm": True, "partial_rotary_factor": 1, **absent})
    layers = raw.get("moe_layer_freq") or []
    return {name: raw[name] for name in _SAME} | {
        "attention_bias": raw.get("attention_bias", False),
        "num_experts": raw["num_experts"],
        "head_dim": raw["hidden_size"] // raw["num_attention_heads"],
        "intermediate_size": raw["dense_intermediate_size"],
        "moe_intermediate_size": raw["expert_intermediate_size"],
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [layer for layer, sparse in enumerate(layers) if sparse == 0],
        "rope_parameters": {"rope_type": "default", "rope_theta": raw["rope_theta"]},
        "pad_token_id": None,
    }


def _two(raw: Raw) -> dict[str, Any]:
    """Returns a GLM-4-MoE configuration."""
    absent = {"rope_scaling": None, "use_sliding_window": False}
    refuse({**absent, **raw}, {"use_bias": False, **absent})
    return {name: raw[name] for name in _SAME} | {
        "intermediate_size": raw["intermediate_size"],
        "head_dim": raw["head_dim"],
        "use_qk_norm": raw.get("use_qk_norm", True),
        "moe_intermediate_size": raw["moe_intermediate_size"],
        "n_group": raw["n_group"],
        "topk_group": raw["topk_group"],
        "routed_scaling_factor": raw["routed_scaling_factor"],
        "first_k_dense_replace": raw["first_k_dense_replace"],
        "attention_bias": raw.get("use_qkv_bias", False),
        "n_routed_experts": raw["num_experts"],
        "n_shared_experts": raw["num_shared_experts"],
        "norm_topk_prob": True,
        "num_mtp_layers": 0,
        "pad_token_id": None,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": raw["rope_theta"],
            "partial_rotary_factor": raw["partial_rotary_factor"],
        },
    }


LLADA_MOE = Family(
    name="llada-moe",
    network="qwen3_moe",
    behaviour=Behaviour("masked", "full", 0, mask_tokens=_MASK_TOKEN, mask_token_id=_MASK),
    source="modeling_lladamoe.py:352,663; same logits as Qwen3-MoE with is_causal False",
    hub=("inclusionAI/LLaDA-MoE-7B-A1B-Base", "inclusionAI/LLaDA-MoE-7B-A1B-Instruct"),
    reads=("LLaDAMoEModelLM", "LLaDAMoEModel"),
    about="the end token 156892 is also padding and fills the end of the canvas",
    configuration=_moe,
)
LLADA2 = Family(
    name="llada2",
    network="llada2",
    behaviour=Behaviour("masked", "block-causal", 0, mask_tokens=_MASK_TOKEN, mask_token_id=_MASK, block_size=32),
    source="modeling_llada2_moe.py:1106,1276-1425; same logits as GLM-4-MoE under a block-causal mask",
    hub=("inclusionAI/LLaDA2.0-mini", "inclusionAI/LLaDA2.0-flash", "inclusionAI/LLaDA2.1-mini"),
    reads=("LLaDA2MoeModelLM",),
    about="blocks count from the first token, prompt included; LLaDA 2.1 differs in its sampler alone, which also edits (token_editing)",
    configuration=_two,
)
