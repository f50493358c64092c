"""What denoscope must know about an architecture, as one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from models.facts import Attention


@dataclass(frozen=True)
class Site:
    """Where the network holds an activation."""

    path: str
    """Of the module, with ``{layer}`` for the block's number."""
    end: Literal["input", "output"]
    """Which of the module's ends; of a tuple, the first."""


@dataclass(frozen=True)
class Family:
    """One architecture of the Hugging Face library and its way into TransformerLens."""

    model_type: str
    """The ``model_type`` of its configuration."""
    bridge_architecture: str
    """The name of its TransformerLens adapter."""
    build: Callable[..., PreTrainedModel]
    """``build(vocab_size=, n_positions=, d_model=, n_layers=, n_heads=, seed=)``: a freshly initialised causal model."""
    set_attention: Callable[[PreTrainedConfig, Attention], None]
    """Writes an attention regime into a configuration; unsupported regimes raise FactsError."""
    bridge_mask: Callable[[Tensor, Attention], Tensor | None]
    """``bridge_mask(tokens, attention)``: the mask that the TransformerLens bridge must be given to keep the regime."""
    sites: Mapping[str, Site]
    """Where a block's activations are, by TransformerLens component, in the order of the forward pass."""
    final_norm: str
    """Path of the norm between the last block and the unembedding."""
    attention_regimes: tuple[Attention, ...]
    """The regimes it supports."""
    source: str
    """Where these facts were read."""
