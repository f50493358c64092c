"""Diffusion transformers for text of the MDLM line: MDLM, BD3-LM, SEDD and GIDD."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from models.families.base import Behaviour, Family, Raw

KEY_MAPPING: dict[str, str] = {
    r"^backbone\.": "",
    r"^vocab_embed\.embedding$": "embed.weight",
    r"^sigma_map\.mlp\.0\.": "final_norm.noise.up.",
    r"^sigma_map\.mlp\.2\.": "final_norm.noise.down.",
    r"\.norm1\.": ".attn.norm.",
    r"\.attn_qkv\.": ".attn.qkv.",
    r"\.attn_out\.": ".attn.out.",
    r"\.norm2\.": ".mlp.norm.",
    r"\.mlp\.0\.": ".mlp.up.",
    r"\.mlp\.2\.": ".mlp.down.",
    r"^output_layer\.norm_final\.": "final_norm.norm.",
    r"^output_layer\.linear\.": "lm_head.",
    r"^output_layer\.": "final_norm.",
    r"\.adaLN_modulation\.": ".modulation.",
}
"""From the tensor names of MDLM and BD3-LM (under ``backbone.``), SEDD and GIDD to ours, as ``from_pretrained(key_mapping=)`` takes."""

_SHARED = {"num_hidden_layers": "n_blocks", "num_attention_heads": "n_heads", "cond_dim": "cond_dim"}
_HUB = {"hidden_size": "hidden_dim", "max_position_embeddings": "model_length", "time_conditioning": "time_conditioning", **_SHARED}


def _taken(raw: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Returns the values of ``raw`` under our names; raises ValueError where it lacks some."""
    if missing := [theirs for theirs in names.values() if theirs not in raw]:
        raise ValueError(f"the configuration lacks {', '.join(missing)}; it must state {', '.join(names.values())}")
    return {ours: raw[theirs] for ours, theirs in names.items()}


def config_of_mdlm(raw: Raw) -> dict[str, Any]:
    """Returns what a ``config.json`` of model_type ``mdlm`` states; the mask token is the last of the vocabulary."""
    stated = _taken(raw, {"vocab_size": "vocab_size", **_HUB})
    return stated | {"mask_token_id": stated["vocab_size"] - 1}


def config_of_bd3lm(raw: Raw) -> dict[str, Any]:
    """Returns what a ``config.json`` of model_type ``bd3lm`` states; its ``block_size`` is no concern of the network, but of the mask."""
    stated = _taken(raw, {"vocab_size": "vocab_size", "is_causal": "causal", "adaptive": "adaln", **_HUB})
    return stated | {"mask_token_id": stated["vocab_size"] - 1}


def config_of_sedd(raw: Raw) -> dict[str, Any]:
    """Returns what SEDD's ``config.json`` states, which has no model_type; the mask token comes after its ``tokens``.

    Raises:
        ValueError: Where it lacks an entry, or noise does not mask tokens but replaces them.
    """
    parts = _taken(raw, {name: name for name in ("tokens", "graph", "model")})
    if (graph := parts["graph"]["type"]) != "absorb":
        raise ValueError(f"graph.type is {graph!r}; it must be absorb, since only masks tell the noise level of a canvas")
    shape = _taken(parts["model"], {"hidden_size": "hidden_size", "max_position_embeddings": "length", **_SHARED})
    return shape | {"vocab_size": parts["tokens"] + 1, "mask_token_id": parts["tokens"], "time_conditioning": True}


def config_of_gidd(raw: Raw) -> dict[str, Any]:
    """Returns what GIDD's ``config.json``, of model_type ``dit``, states; the mask token is the last of the vocabulary, after ``[PAD]``."""
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "p_uniform")
    stated = _taken(raw, {**{name: name for name in names}, "max_position_embeddings": "max_seq_len", "cond_dim": "timestep_cond_dim"})
    return stated | {"mask_token_id": stated["vocab_size"] - 1, "time_conditioning": True}


def _dit(name: str, behaviour: Behaviour, configuration: Callable[[Raw], dict[str, Any]], hub: tuple[str, ...], about: str) -> Family:
    source, reads = f"{_SOURCES[name]}; same logits from the same tensors", (_CLASSES[name],) if name in _CLASSES else ()
    return Family(name, "denoscope_dit", behaviour, source, hub, reads, about, configuration, KEY_MAPPING, "GPT2TokenizerFast")


_SOURCES = {
    "mdlm": "kuleshov-group/mdlm models/dit.py, diffusion.py:85-275",
    "bd3lm": "kuleshov-group/bd3lms models/hf/modeling_bd3lm.py:540-628, diffusion.py:959-1085",
    "sedd": "louaaron/Score-Entropy-Discrete-Diffusion model/transformer.py:238-279, graph_lib.py",
    "gidd": "dvruette/gidd gidd/models/modeling_dit.py, gidd/sampling.py, gidd/diffusion_process.py",
}
_CLASSES = {"mdlm": "MDLM", "bd3lm": "BD3LM", "gidd": "DIT"}
_ABOUT = "the mask token, last of the vocabulary, is not in GPT-2's tokenizer; position 0 is <|endoftext|> (50256) in training and sampling"
MDLM = _dit("mdlm", Behaviour("masked", "full", 0), config_of_mdlm, ("kuleshov-group/mdlm-owt",), _ABOUT)
BD3LM = _dit(
    "bd3lm",
    Behaviour("masked", "block-causal", 0),
    config_of_bd3lm,
    tuple(f"kuleshov-group/bd3lm-owt-block_size{n}" for n in (4, 8, 16)),
    _ABOUT,
)
SEDD = _dit(
    "sedd",
    Behaviour("masked", "full", 0),
    config_of_sedd,
    ("louaaron/sedd-small", "louaaron/sedd-medium"),
    "told the noise level, which it takes from the share of masks; rows of written tokens are untrained; what it publishes is the log of a "
    "score, of which these logits are the part that tells tokens apart",
)
GIDD = _dit(
    "gidd",
    Behaviour("masked", "full", 0, ("[MASK]",)),
    config_of_gidd,
    tuple(f"dvruette/gidd-{size}-p_unif-{share}" for size in ("small", "base") for share in ("0.0", "0.1", "0.2")),
    "learned from masks and from tokens replaced at random, so it doubts what is written too, which token_editing lets it; told the time, "
    "which it takes from the share of masks; its own sampler may redraw every position at every step",
)
