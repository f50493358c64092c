"""LLaDA: a Llama in tensors of other names, with full attention, without a shift."""

from typing import Any

from models.families.base import Behaviour, Family, Raw, refuse

_COMPUTED = {
    "block_type": "llama",
    "layer_norm_type": "rms",
    "rope": True,
    "alibi": False,
    "attention_layer_norm": False,
    "input_emb_norm": False,
    "scale_logits": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "layer_norm_with_affine": True,
    "activation_type": "silu",
}
_BLOCK = r"^model\.transformer\.blocks\.(\d+)\."


def _configuration(raw: Raw) -> dict[str, Any]:
    """Returns a Llama configuration (configuration_llada.py:150-330)."""
    refuse(raw, _COMPUTED)
    heads, kv_heads, hidden = raw["n_heads"], raw.get("n_kv_heads"), raw.get("mlp_hidden_size")
    return {
        "vocab_size": raw.get("embedding_size") or raw["vocab_size"],
        "hidden_size": raw["d_model"],
        "num_hidden_layers": raw["n_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads if kv_heads is not None else heads,
        "head_dim": raw["d_model"] // heads,
        "intermediate_size": hidden if hidden is not None else raw["mlp_ratio"] * raw["d_model"],
        "max_position_embeddings": raw["max_sequence_length"],
        "rms_norm_eps": raw["rms_norm_eps"],
        "rope_parameters": {"rope_type": "default", "rope_theta": raw["rope_theta"]},
        "tie_word_embeddings": raw["weight_tying"],
        "eos_token_id": raw.get("eos_token_id"),
        "bos_token_id": None,
        "pad_token_id": None,
    }


LLADA = Family(
    name="llada",
    network="llama",
    behaviour=Behaviour("masked", "full", 0, mask_tokens=("<|mdm_mask|>",)),
    source="modeling_llada.py, generate.py, GUIDELINES.md:22-52 (ML-GSAI/LLaDA b7e6c35); same logits as Llama with is_causal False",
    hub=("GSAI-ML/LLaDA-8B-Base", "GSAI-ML/LLaDA-8B-Instruct", "GSAI-ML/LLaDA-1.5"),
    reads=("LLaDAModelLM",),
    about=(
        "answers are padded with the end token 126081 inside the loss, so it is written, and early, over the rest of the canvas: its own "
        "sampler may forbid it, and commit orders should leave it out; the blocks of its sampler are a schedule, attention stays full"
    ),
    configuration=_configuration,
    key_mapping={
        r"^model\.transformer\.wte\.": "model.embed_tokens.",
        r"^model\.transformer\.ln_f\.": "model.norm.",
        r"^model\.transformer\.ff_out\.": "lm_head.",
        rf"{_BLOCK}attn_norm\.": r"model.layers.\1.input_layernorm.",
        rf"{_BLOCK}ff_norm\.": r"model.layers.\1.post_attention_layernorm.",
        rf"{_BLOCK}q_proj\.": r"model.layers.\1.self_attn.q_proj.",
        rf"{_BLOCK}k_proj\.": r"model.layers.\1.self_attn.k_proj.",
        rf"{_BLOCK}v_proj\.": r"model.layers.\1.self_attn.v_proj.",
        rf"{_BLOCK}attn_out\.": r"model.layers.\1.self_attn.o_proj.",
        rf"{_BLOCK}ff_proj\.": r"model.layers.\1.mlp.gate_proj.",
        rf"{_BLOCK}up_proj\.": r"model.layers.\1.mlp.up_proj.",
        rf"{_BLOCK}ff_out\.": r"model.layers.\1.mlp.down_proj.",
    },
)
