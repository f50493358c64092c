"""GPT-2: learned positions, pre-norm, untied head where it is built here."""

from __future__ import annotations

from transformers import GPT2Config, GPT2LMHeadModel

from models.architectures.base import Architecture, Site, quiet, seeded


def build(*, vocab_size: int, n_positions: int, d_model: int, n_layers: int, n_heads: int, seed: int = 0) -> GPT2LMHeadModel:
    """Returns a causal GPT-2 with residual branches and head that start at zero and wide embeddings, no dropout."""
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=n_positions,
        n_embd=d_model,
        n_layer=n_layers,
        n_head=n_heads,
        activation_function="gelu_pytorch_tanh",  # gelu_new, computed in one fused operation
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        is_causal=True,
        attn_implementation="eager",
    )
    ends, embeddings = ("attn.c_proj.weight", "mlp.c_proj.weight"), ("transformer.wte", "transformer.wpe")
    return seeded(lambda: quiet(GPT2LMHeadModel(config), ends, embeddings), seed)  # type: ignore[return-value]


GPT2 = Architecture(
    model_type="gpt2",
    network=lambda: GPT2LMHeadModel,
    build=build,
    sites={
        "hook_embed": Site("transformer.wte", "output"),
        "hook_resid_pre": Site("transformer.h.{layer}", "input"),
        "hook_attn_out": Site("transformer.h.{layer}.attn", "output"),
        "hook_resid_mid": Site("transformer.h.{layer}.attn", "output", onto="hook_resid_pre"),
        "hook_mlp_out": Site("transformer.h.{layer}.mlp", "output"),
        "hook_resid_post": Site("transformer.h.{layer}", "output"),
    },
    blocks="transformer.h",
    readout=("transformer.ln_f", "lm_head"),
    bridge="GPT2LMHeadModel",
    source="transformers.models.gpt2 (5.23), transformer_lens JointQKVAttentionBridge (3.9)",
)
