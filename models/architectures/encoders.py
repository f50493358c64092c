"""Encoders that were trained to fill in masks, read as masked-diffusion models: BERT, RoBERTa and ModernBERT."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from models.architectures.base import Architecture, Site, seeded

_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""So that a training that is gone on with takes the very steps of one that was not stopped."""


def _shape(vocab_size: int, n_positions: int, d_model: int, n_layers: int, n_heads: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size,
        "hidden_size": d_model,
        "intermediate_size": 4 * d_model,
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "max_position_embeddings": n_positions,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "attn_implementation": "eager",
    }


def _bert(*, seed: int = 0, **shape: int) -> PreTrainedModel:
    from transformers import BertConfig, BertForMaskedLM

    return seeded(lambda: BertForMaskedLM(BertConfig(**_NO_DROPOUT, **_shape(**shape))), seed)


def _roberta(*, n_positions: int, seed: int = 0, **shape: int) -> PreTrainedModel:
    from transformers import RobertaConfig, RobertaForMaskedLM

    config = RobertaConfig(**_NO_DROPOUT, **_shape(n_positions=n_positions + 2, **shape))
    return seeded(lambda: RobertaForMaskedLM(config), seed)


def _modernbert(*, seed: int = 0, **shape: int) -> PreTrainedModel:
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    config = ModernBertConfig(pad_token_id=None, cls_token_id=None, sep_token_id=None, **_shape(**shape))
    return seeded(lambda: ModernBertForMaskedLM(config), seed)


def _post_norm_sites(base: str) -> dict[str, Site]:
    """Returns the sites of a network that norms the sum after each branch: what leaves the norm is the residual stream."""
    block = f"{base}.encoder.layer.{{layer}}"
    return {
        "hook_embed": Site(f"{base}.embeddings.word_embeddings", "output"),
        "hook_resid_pre": Site(block, "input"),
        "hook_attn_out": Site(f"{block}.attention.output.dense", "output"),
        "hook_resid_mid": Site(f"{block}.attention.output", "output"),
        "hook_mlp_out": Site(f"{block}.output.dense", "output"),
        "hook_resid_post": Site(block, "output"),
    }


def _bert_network() -> type[PreTrainedModel]:
    from transformers import BertForMaskedLM

    return BertForMaskedLM


def _roberta_network() -> type[PreTrainedModel]:
    from transformers import RobertaForMaskedLM

    return RobertaForMaskedLM


def _modernbert_network() -> type[PreTrainedModel]:
    from transformers import ModernBertForMaskedLM

    return ModernBertForMaskedLM


BERT = Architecture(
    model_type="bert",
    network=_bert_network,
    build=_bert,
    sites=_post_norm_sites("bert"),
    blocks="bert.encoder.layer",
    readout=("cls",),
    bridge=None,  # the adapter's names mean other places than here: hook_resid_mid and the norms of a post-norm network
    source="transformers.models.bert (5.23)",
    regimes=("full",),
)
ROBERTA = Architecture(
    model_type="roberta",
    network=_roberta_network,
    build=_roberta,
    sites=_post_norm_sites("roberta"),
    blocks="roberta.encoder.layer",
    readout=("lm_head",),
    bridge=None,
    source="transformers.models.roberta (5.23): positions count from padding_idx + 1",
    regimes=("full",),
    first_position=2,
)
MODERNBERT = Architecture(
    model_type="modernbert",
    network=_modernbert_network,
    build=_modernbert,
    sites={
        "hook_embed": Site("model.embeddings.tok_embeddings", "output"),
        "hook_resid_pre": Site("model.layers.{layer}", "input"),
        "hook_attn_out": Site("model.layers.{layer}.attn", "output"),
        "hook_resid_mid": Site("model.layers.{layer}.attn", "output", onto="hook_resid_pre"),
        "hook_mlp_out": Site("model.layers.{layer}.mlp", "output"),
        "hook_resid_post": Site("model.layers.{layer}", "output"),
    },
    blocks="model.layers",
    readout=("model.final_norm", "head", "decoder"),
    bridge=None,
    source="transformers.models.modernbert (5.23): local attention in two blocks of three, whatever the mask says",
    regimes=("full",),
)
