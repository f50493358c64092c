"""GPT-2: learned positions, pre-norm, untied head; causal, or bidirectional through ``config.is_causal``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedConfig

from models.facts import Attention, FactsError
from models.families.base import Family, Site

EMBEDDING_STD = 0.3


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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config)
        nn.init.normal_(model.transformer.wte.weight, std=EMBEDDING_STD)
        nn.init.normal_(model.transformer.wpe.weight, std=EMBEDDING_STD)
        nn.init.zeros_(model.lm_head.weight)
        for block in model.transformer.h:
            nn.init.zeros_(block.attn.c_proj.weight)
            nn.init.zeros_(block.mlp.c_proj.weight)
    return model


def _set_attention(config: PreTrainedConfig, attention: Attention) -> None:
    if attention not in FAMILY.attention_regimes:
        raise FactsError(f"GPT-2 has no {attention!r} attention; choose from {', '.join(FAMILY.attention_regimes)}")
    config.is_causal = attention == "causal"


def _bridge_mask(tokens: Tensor, attention: Attention) -> Tensor | None:
    """TransformerLens re-implements GPT-2's attention as causal whatever the configuration says; an additive 4-D zero mask replaces it."""
    if attention == "causal":
        return None
    batch, pos = tokens.shape
    return torch.zeros(batch, 1, pos, pos, device=tokens.device)


FAMILY = Family(
    model_type="gpt2",
    bridge_architecture="GPT2LMHeadModel",
    build=build,
    set_attention=_set_attention,
    bridge_mask=_bridge_mask,
    sites={
        "hook_resid_pre": Site("transformer.h.{layer}", "input"),
        "hook_attn_out": Site("transformer.h.{layer}.attn", "output"),
        "hook_mlp_out": Site("transformer.h.{layer}.mlp", "output"),
        "hook_resid_post": Site("transformer.h.{layer}", "output"),
    },
    final_norm="transformer.ln_f",
    attention_regimes=("causal", "full"),
    source="transformers.models.gpt2 (5.23), transformer_lens JointQKVAttentionBridge (3.9)",
)
