"""Sizes of a network, from its configuration alone."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


OWN_SOFTMAX = ("bert", "distilbert", "gpt2", "roberta")
"""Types of models whose eager attention takes the softmax in the network's own precision; most do in float32."""


class ShapeError(ValueError):
    """A configuration whose network cannot be counted."""


@dataclass(frozen=True)
class NetworkShape:
    """What of a network decides what it takes."""

    parameters: int
    active: int
    linear: int
    """Weights that quantisation reaches."""
    block: int
    """Weights that multiply each token in a block."""
    head: int
    """The same outside the blocks."""
    n_layers: int
    d_model: int
    heads: int
    """All widths are of all heads together."""
    key_heads: int
    n_heads: int
    upcasts: bool
    """Whether the softmax of its attention is in float32 whatever its precision."""
    mlp: int
    """Numbers a token that the feed-forward sublayer holds at once."""
    vocab: int


def shape_of(config: PreTrainedConfig, network: type[PreTrainedModel] | None = None) -> NetworkShape:
    """Returns the sizes of the network of a configuration, built on the meta device, where weights have shapes and no memory.

    Args:
        config: Of a transformer that is a list of equal blocks.
        network: Its class; None is that which the Hugging Face library has for such a configuration.

    Raises:
        ShapeError: On a configuration of no language model of the Hugging Face library, or of no such transformer.
    """
    text = config.get_text_config()
    lacks = [name for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size") if not getattr(text, name, None)]
    if lacks:
        raise ShapeError(f"a {config.model_type} states no {', '.join(lacks)}; what it takes is counted from them")
    with torch.device("meta"):
        module = (network or _class_of(config))._from_config(copy.deepcopy(config), attn_implementation="eager")
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    key_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    experts = getattr(text, "num_experts_per_tok", None)
    lists = [one for one in module.modules() if isinstance(one, nn.ModuleList) and len(one) == text.num_hidden_layers]
    if not lists:
        raise ShapeError(f"a {config.model_type} has no list of {text.num_hidden_layers} blocks; what it takes is counted by block")
    blocks = max(lists, key=lambda one: sum(parameter.numel() for parameter in one.parameters()))
    parameters = sum(parameter.numel() for parameter in module.parameters())
    multiplied, within = _multiplied(module, experts), _multiplied(blocks, experts)
    unused = sum(parameter.numel() - _acting(parameter, experts) for parameter in module.parameters())
    return NetworkShape(
        parameters=parameters,
        active=parameters - unused,
        linear=_quantised(module),
        block=within // len(blocks),
        head=multiplied - within,
        n_layers=len(blocks),
        d_model=text.hidden_size,
        heads=text.num_attention_heads * head_dim,
        key_heads=key_heads * head_dim,
        n_heads=text.num_attention_heads,
        upcasts=text.model_type not in OWN_SOFTMAX,
        mlp=_mlp(text, experts),
        vocab=text.vocab_size,
    )


def _class_of(config: PreTrainedConfig) -> type[PreTrainedModel]:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    known: Any
    for known in (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING):
        if type(config) in known:
            found: type[PreTrainedModel] = known[type(config)]
            return found
    raise ShapeError(f"{type(config).__name__} is the configuration of no language model that the Hugging Face library has; give its class")


def _acting(parameter: nn.Parameter, experts: int | None) -> int:
    """Returns how many entries of a weight act on one token; tensors of three axes hold an expert after the other."""
    return parameter.numel() * experts // len(parameter) if experts and parameter.ndim == 3 else parameter.numel()


def _multiplied(network: nn.Module, experts: int | None) -> int:
    """Returns how many weights one token is multiplied with: those of all matrices, but for embeddings, which are looked up."""
    matrices = (
        parameter
        for module in network.modules()
        if not isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
        if parameter.ndim > 1
    )
    return sum(_acting(parameter, experts) for parameter in matrices)


def _quantised(module: PreTrainedModel) -> int:
    """Returns how many weights are those of linear layers other than the unembedding."""
    from transformers.pytorch_utils import Conv1D

    head = module.get_output_embeddings()
    return sum(one.weight.numel() for one in module.modules() if isinstance(one, nn.Linear | Conv1D) and one is not head)


def _mlp(text: PreTrainedConfig, experts: int | None) -> int:
    """Returns how many numbers a token the feed-forward sublayer holds at once: a gated one three of its width, ``gelu_new`` five."""
    if experts:
        return experts * (2 * text.hidden_size + 3 * (getattr(text, "moe_intermediate_size", None) or text.intermediate_size))
    width = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * text.hidden_size
    return width * (5 if getattr(text, "activation_function", None) == "gelu_new" else 3)
