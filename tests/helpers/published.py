"""Tiny random checkpoints in the layout of their published models: configuration, tensors under published names, tokenizer.

Names and fields are those of the real files; see the sources that ``models.families`` names.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_networks import stirred
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from models.architectures import ARCHITECTURES
from models.conformance import PASSAGE

ROWS = 320
"""Of the embedding: more than the tokenizer has tokens, as published ones have."""
State = dict[str, Tensor]
Facts = tuple[str, str, int, int | None]
"""Objective, attention, shift, block size."""


@dataclass(frozen=True)
class Published:
    """How a family publishes a model."""

    facts: Facts
    raw: dict[str, Any]
    """Its ``config.json``."""
    shape: dict[str, Any]
    """The configuration of the native network that computes the same."""
    names: Callable[[State], State] = lambda state: state
    """Its tensors under their published names."""
    mask: str | None = None
    """The text of its mask token."""
    named: bool = False
    """Whether its configuration does not tell its family."""
    tokenizer_class: str = "PreTrainedTokenizerFast"


@cache
def bpe() -> Tokenizer:
    """A byte-level tokenizer without special tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator([PASSAGE], trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False))
    return made


def write_tokenizer(folder: Path, mask: str | None = None, kind: str = "PreTrainedTokenizerFast", *, is_set: bool = False) -> int:
    """Writes a tokenizer with an end token and a mask token after its vocabulary; returns the id that the mask token has."""
    end, size = "<|endoftext|>", bpe().get_vocab_size()
    added = {str(size + place): {"content": text, "special": True} for place, text in enumerate([end, *([mask] if mask else [])])}
    folder.mkdir(parents=True, exist_ok=True)
    bpe().model.save(str(folder))
    if not kind.startswith("Dream"):  # which publishes none of the fast kind
        fast = Tokenizer.from_str(bpe().to_str())
        fast.add_special_tokens([one["content"] for one in added.values()])
        fast.save(str(folder / "tokenizer.json"))
    stated = {"tokenizer_class": kind, "eos_token": end, "added_tokens_decoder": added, **({"mask_token": mask} if is_set else {})}
    if kind.startswith("Dream"):
        stated["auto_map"] = {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(stated))
    return size + 1


def write(folder: Path, one: Published, *, mask_id: int | None = None, is_set: bool = False, **changes: Any) -> Any:
    """Writes a checkpoint, returns the native network that holds the same tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = ARCHITECTURES[one.shape["network"]].network()
    assert kind.config_class is not None
    with torch.random.fork_rng(devices=[]):
        shape = {name: value for name, value in one.shape.items() if name != "network"}
        native = stirred(kind(kind.config_class(**shape, attn_implementation="eager")))
    state = {name: value.clone() for name, value in one.names(dict(native.state_dict())).items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    if one.tokenizer_class:
        write_tokenizer(folder, one.mask, one.tokenizer_class, is_set=is_set)
    raw = {**one.raw, **({} if mask_id is None else {"mask_token_id": mask_id}), **changes}
    (folder / "config.json").write_text(json.dumps(raw))
    return native


def renamed(*rules: tuple[str, str]) -> Callable[[State], State]:
    """Returns what renames tensors by regular expressions, one after the other; a name that becomes empty is left out."""

    def rename(state: State) -> State:
        found = {}
        for name, value in state.items():
            for pattern, replacement in rules:
                name = re.sub(pattern, replacement, name)
            if name:
                found[name] = value
        return found

    return rename


def _experts_apart(state: State) -> State:
    """Fused experts as they are published: a gate, an up and a down projection each."""
    found = {}
    for name, value in state.items():
        if name.endswith("mlp.experts.gate_up_proj"):
            for number, both in enumerate(value):
                for part, half in zip(("gate", "up"), both.chunk(2), strict=True):
                    found[name.replace("gate_up_proj", f"{number}.{part}_proj.weight")] = half
        elif name.endswith("mlp.experts.down_proj"):
            found |= {name.replace("down_proj", f"{number}.down_proj.weight"): one for number, one in enumerate(value)}
        else:
            found[name] = value
    return found


def _llada2(state: State) -> State:
    joined = {}
    for name, value in _experts_apart(state).items():
        if ".self_attn.q_proj." in name:
            parts = [state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            joined[name.replace("self_attn.q_proj", "attention.query_key_value")] = torch.cat(parts)
        elif not re.search(r"\.self_attn\.[kv]_proj\.", name):
            joined[name] = value
    return renamed(
        (r"^model\.embed_tokens\.", "model.word_embeddings."),
        (r"self_attn\.q_norm", "attention.query_layernorm"),
        (r"self_attn\.k_norm", "attention.key_layernorm"),
        (r"self_attn\.o_proj", "attention.dense"),
        (r"gate\.e_score_correction_bias", "gate.expert_bias"),
    )(joined)


def _gpt2(state: State) -> State:
    """Without prefix and tied head, with the causal masks that old versions stored."""
    found = renamed((r"^transformer\.", ""), (r"^lm_head\.weight$", ""))(state)
    return found | {f"h.{layer}.attn.bias": torch.ones(1, 1, 64, 64).tril() for layer in range(2)}


def _with_frequencies(state: State) -> State:
    """With the rotary frequencies that old versions stored."""
    return state | {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(4) for layer in range(2)}


def _bert(state: State) -> State:
    """With the heads of its other trainings, norms under their oldest names, and without what is tied."""
    names = (r"LayerNorm\.weight$", "LayerNorm.gamma"), (r"LayerNorm\.bias$", "LayerNorm.beta"), (r"^cls\.predictions\.decoder\..*", "")
    pooler = {"bert.pooler.dense.weight": torch.ones(32, 32), "bert.pooler.dense.bias": torch.ones(32)}
    return renamed(*names)(state) | pooler | {"cls.seq_relationship.weight": torch.ones(2, 32), "cls.seq_relationship.bias": torch.ones(2)}


def _roberta(state: State) -> State:
    found = renamed((r"^lm_head\.decoder\..*", ""))(state)
    pooler = {"roberta.pooler.dense.weight": torch.ones(32, 32), "roberta.pooler.dense.bias": torch.ones(32)}
    return found | pooler | {"roberta.embeddings.position_ids": torch.arange(66)[None]}


_untied = renamed((r"^lm_head\.weight$", ""))
_LLADA_NAMES = renamed(
    (r"^model\.embed_tokens\.", "model.transformer.wte."),
    (r"^model\.norm\.", "model.transformer.ln_f."),
    (r"^lm_head\.", "model.transformer.ff_out."),
    (r"^model\.layers\.", "model.transformer.blocks."),
    (r"\.input_layernorm\.", ".attn_norm."),
    (r"\.post_attention_layernorm\.", ".ff_norm."),
    (r"\.self_attn\.o_proj\.", ".attn_out."),
    (r"\.self_attn\.", "."),
    (r"\.mlp\.gate_proj\.", ".ff_proj."),
    (r"\.mlp\.up_proj\.", ".up_proj."),
    (r"\.mlp\.down_proj\.", ".ff_out."),
)
_DIT_NAMES = (
    (r"^embed\.weight$", "vocab_embed.embedding"),
    (r"^final_norm\.noise\.up\.", "sigma_map.mlp.0."),
    (r"^final_norm\.noise\.down\.", "sigma_map.mlp.2."),
    (r"^final_norm\.norm\.", "output_layer.norm_final."),
    (r"^final_norm\.modulation\.", "output_layer.adaLN_modulation."),
    (r"^lm_head\.", "output_layer.linear."),
    (r"\.mlp\.up\.", ".mlp.0."),
    (r"\.mlp\.down\.", ".mlp.2."),
    (r"\.mlp\.norm\.", ".norm2."),
    (r"\.attn\.norm\.", ".norm1."),
    (r"\.attn\.(qkv|out)\.", r".attn_\1."),
    (r"\.modulation\.", ".adaLN_modulation."),
)

# ---------------------------------------------------------------- configurations

_CAUSAL: Facts = ("causal", "causal", 1, None)
_SHAPE: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 300,
    "eos_token_id": 300,
}
_LEGACY = {"rope_theta": 5e5, "rope_scaling": None, "torch_dtype": "float32", "use_cache": True, "attention_dropout": 0.0}
_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}


def _like(network: str, facts: Facts, kind: str, model_type: str | None = None, **extra: Any) -> Published:
    """A family whose tensors and fields are those of the native network; ``extra`` starts with what ``Published`` takes."""
    own = {name: extra.pop(name) for name in ("names", "mask", "named", "tokenizer_class") if name in extra}
    shared = {name: extra.pop(name) for name in ("head_dim", "tie_word_embeddings") if name in extra}
    raw = {**_SHAPE, **_LEGACY, **shared, "architectures": [kind], "model_type": model_type or network, **extra}
    return Published(facts, raw, {"network": network, **_SHAPE, **_ROPE, **shared}, **own)


def _gemma(network: str, kind: str) -> Published:
    own = {"head_dim": 8, "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True, "pad_token_id": 0}
    shape = {**_SHAPE, **own}
    return Published(_CAUSAL, {**shape, "architectures": [kind], "model_type": network}, {"network": network, **shape}, _untied)


def _encoder(network: str, kind: str, mask: str, names: Callable[[State], State], **own: Any) -> Published:
    shape = {name: _SHAPE[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size")}
    shape |= {"max_position_embeddings": 64, "pad_token_id": 1, **own}
    return Published(
        ("masked", "full", 0, None), {**shape, "architectures": [kind], "model_type": network}, {"network": network, **shape}, names, mask
    )


_GPT2 = {
    "vocab_size": ROWS,
    "n_positions": 64,
    "n_ctx": 64,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": 300,
    "eos_token_id": 300,
}
_GPT2_NATIVE = {"network": "gpt2", **_GPT2}
_LLADA = {
    "architectures": ["LLaDAModelLM"],
    "model_type": "llada",
    "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM"},
    "activation_type": "silu", "alibi": False, "alibi_bias_max": 8.0, "attention_dropout": 0.0, "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True, "bias_for_layer_norm": False, "block_group_size": 1, "block_type": "llama", "d_model": 32,
    "embedding_dropout": 0.0, "embedding_size": ROWS, "eos_token_id": 300, "flash_attention": False, "include_bias": False,
    "include_qkv_bias": False, "init_device": "meta", "init_fn": "mitchell", "init_std": 0.02, "input_emb_norm": False,
    "layer_norm_type": "rms", "layer_norm_with_affine": True, "max_sequence_length": 64, "mlp_hidden_size": 48, "mlp_ratio": 4,
    "multi_query_attention": None, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2, "pad_token_id": 300, "rms_norm_eps": 1e-05,
    "rope": True, "rope_full_precision": True, "rope_theta": 5e5, "scale_logits": False, "vocab_size": 310, "weight_tying": False,
}  # fmt: skip
_MOE = {
    **{name: value for name, value in _SHAPE.items() if name != "intermediate_size"},
    "architectures": ["LLaDAMoEModelLM"], "model_type": "llada", "attention_bias": False, "dense_intermediate_size": 48,
    "expert_intermediate_size": 16, "moe_layer_freq": [0, 1], "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True,
    "qk_layernorm": True, "partial_rotary_factor": 1, "rope_scaling": None, "rope_theta": 5e5, "shared_expert_intermediate_size": None,
    "moe_router_enable_expert_bias": False, "clip_qkv": None, "routed_scaling_factor": 1, "moe_router_score_function": "softmax",
}  # fmt: skip
_MOE_NATIVE = {
    "network": "qwen3_moe", **_SHAPE, **_ROPE, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "norm_topk_prob": False, "mlp_only_layers": [0],
}  # fmt: skip
_TWO = {
    **_SHAPE, **_LEGACY, "architectures": ["LLaDA2MoeModelLM"], "model_type": "llada2_moe", "head_dim": 8, "first_k_dense_replace": 1,
    "moe_intermediate_size": 16, "n_group": 2, "topk_group": 1, "num_experts": 4, "num_experts_per_tok": 2, "num_shared_experts": 1,
    "routed_scaling_factor": 2.5, "partial_rotary_factor": 0.5, "score_function": "sigmoid", "moe_router_enable_expert_bias": True,
    "use_qkv_bias": True, "use_qk_norm": True, "use_bias": False, "use_sliding_window": False, "norm_head": False, "pad_token_id": 300,
}  # fmt: skip
_TWO_NATIVE = {
    "network": "llada2", **_SHAPE, "head_dim": 8, "first_k_dense_replace": 1, "moe_intermediate_size": 16, "n_group": 2, "topk_group": 1,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "routed_scaling_factor": 2.5, "norm_topk_prob": True,
    "use_qk_norm": True, "attention_bias": True, "num_mtp_layers": 0, "pad_token_id": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.5},
}  # fmt: skip
_DIT = {"hidden_size": 32, "cond_dim": 8, "n_blocks": 2, "n_heads": 4}
_DIT_NATIVE = {
    "network": "denoscope_dit", "vocab_size": ROWS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "cond_dim": 8,
    "max_position_embeddings": 64, "mask_token_id": ROWS - 1,
}  # fmt: skip
_MDLM = {
    "vocab_size": ROWS, "model_length": 64, "hidden_dim": 32, "cond_dim": 8, "n_blocks": 2, "n_heads": 4, "dropout": 0.1,
    "time_conditioning": False,
}  # fmt: skip
_SEDD = {"tokens": ROWS - 1, "graph": {"type": "absorb"}, "noise": {"type": "loglinear"}, "model": {"name": "small", "length": 64, **_DIT}}
_GIDD = {
    "architectures": ["DIT"], "model_type": "dit", "vocab_size": ROWS, "max_seq_len": 64, "hidden_size": 32, "timestep_cond_dim": 8,
    "num_hidden_layers": 2, "num_attention_heads": 4, "attention_dropout": 0.0, "p_uniform": 0.1, "t_eps": 1e-4,
    "auto_map": {"AutoConfig": "configuration_dit.DITConfig", "AutoModelForMaskedLM": "modeling_dit.DIT"},
}  # fmt: skip
_FULL: Facts = ("masked", "full", 0, None)
_BACKBONE = renamed(*_DIT_NAMES, (r"^", "backbone."))

PUBLISHED: dict[str, Published] = {
    "gpt2": Published(_CAUSAL, {**_GPT2, "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}, _GPT2_NATIVE, _gpt2),
    "llama": _like("llama", _CAUSAL, "LlamaForCausalLM", names=_with_frequencies),
    "qwen2": _like("qwen2", _CAUSAL, "Qwen2ForCausalLM", names=_untied, tie_word_embeddings=True, use_sliding_window=False),
    "qwen3": _like("qwen3", _CAUSAL, "Qwen3ForCausalLM", head_dim=16, use_sliding_window=False),
    "gemma": _gemma("gemma", "GemmaForCausalLM"),
    "gemma2": _gemma("gemma2", "Gemma2ForCausalLM"),
    "gemma3": _gemma("gemma3_text", "Gemma3ForCausalLM"),
    "diffugpt": Published(
        ("masked", "full", 1, None),
        {**_GPT2, "vocab_size": ROWS - 1, "architectures": ["DiscreteDiffusionModel"], "model_type": "gpt2"},
        _GPT2_NATIVE,
        renamed((r"^transformer\.wte\.", "embed_tokens."), (r"^transformer\.", "denoise_model."), (r"^lm_head\.weight$", "")),
        "[¨M¨]",
        tokenizer_class="MaskTokenWrapper",
    ),
    "diffullama": _like("llama", ("masked", "full", 1, None), "LlamaForCausalLM", names=_with_frequencies, named=True),
    "a2d-llama": _like("llama", _FULL, "A2DLlamaLMHeadModel", "a2d-llama", mask="<|mask|>"),
    "a2d-qwen2": _like("qwen2", _FULL, "A2DQwen2LMHeadModel", "a2d-qwen2", mask="<|mask|>", tokenizer_class="Qwen2Tokenizer"),
    "a2d-qwen3": _like(
        "qwen3", _FULL, "A2DQwen3LMHeadModel", "a2d-qwen3", mask="<|mask|>", head_dim=16, names=_untied, tie_word_embeddings=True
    ),
    "a2d-bd3lm": _like(
        "qwen3", ("masked", "block-causal", 0, 32), "A2DQwen3LMHeadModel", "a2d-qwen3", mask="<|mask|>", named=True, head_dim=16
    ),
    "dream": _like(
        "qwen2", ("masked", "full", 1, None), "DreamModel", "Dream", mask="<|mask|>", use_mrope=False, use_sliding_window=False,
        auto_map={"AutoModel": "modeling_dream.DreamModel"}, pad_token_id=300, tokenizer_class="DreamTokenizer",
    ),
    "sdar": _like(
        "qwen3", ("masked", "block-causal", 0, 4), "SDARForCausalLM", "sdar", mask="<|MASK|>", head_dim=16,
        attn_implementation="flex_attention",
        block_size=4, use_sliding_window=False, debug=False, ep_size=1, fuse_cross_entropy=True, micro_forward=False, skip_checkpoint=False,
        use_deepep=False, auto_map={"AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM"},
    ),
    "fast-dllm-v2": _like(
        "qwen2", ("masked", "block-causal", 1, 32), "Fast_dLLM_QwenForCausalLM", "Fast_dLLM_Qwen", mask="|<MASK>|", bd_size=32,
        use_sliding_window=False, names=_untied, tie_word_embeddings=True,
    ),
    "llada2": Published(("masked", "block-causal", 0, 32), _TWO, _TWO_NATIVE, _llada2, "<|mask|>"),
    "llada": Published(_FULL, _LLADA, {"network": "llama", **_SHAPE, **_ROPE}, _LLADA_NAMES, "<|mdm_mask|>"),
    "illada": _like(
        "llama", _FULL, "ILLaDAForCausalLM", "illada", mask="<[MASK]>", names=_untied, tie_word_embeddings=True, mlp_bias=False
    ),
    "llada-moe": Published(_FULL, _MOE, _MOE_NATIVE, _experts_apart, "<|mask|>"),
    "mdlm": Published(_FULL, {**_MDLM, "architectures": ["MDLM"], "model_type": "mdlm"}, _DIT_NATIVE, _BACKBONE, tokenizer_class=""),
    "bd3lm": Published(
        ("masked", "block-causal", 0, 8),
        {**_MDLM, "architectures": ["BD3LM"], "model_type": "bd3lm", "block_size": 8, "cross_attn": True, "adaln": True, "causal": False},
        _DIT_NATIVE,
        _BACKBONE,
        tokenizer_class="",
    ),
    "sedd": Published(_FULL, _SEDD, {**_DIT_NATIVE, "time_conditioning": True}, renamed(*_DIT_NAMES), named=True, tokenizer_class=""),
    "gidd": Published(
        _FULL, _GIDD, {**_DIT_NATIVE, "time_conditioning": True, "p_uniform": 0.1}, renamed(*_DIT_NAMES), "[MASK]", tokenizer_class=""
    ),
    "bert": _encoder("bert", "BertForMaskedLM", "[MASK]", _bert),
    "roberta": _encoder("roberta", "RobertaForMaskedLM", "<mask>", _roberta, max_position_embeddings=66),
    "modernbert": _encoder(
        "modernbert", "ModernBertForMaskedLM", "[MASK]", renamed((r"^decoder\.weight$", "")), cls_token_id=2, sep_token_id=3
    ),
}  # fmt: skip
"""By the name of the family."""
