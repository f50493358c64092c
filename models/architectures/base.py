"""What denoscope must know about a kind of network to run it and to name its activations, as one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from models.facts import Attention, FactsError
from models.hookpoints import HookPoint


@dataclass(frozen=True)
class Site:
    """Where the network holds an activation."""

    path: str
    """Of the module, with ``{layer}`` for the block's number where it is in a block."""
    end: Literal["input", "output"]
    """Which of the module's ends; of a tuple, the first."""
    onto: str | None = None
    """The component that this end is added to, where the activation is that sum and nowhere held: the residual stream between attention
    and MLP is what enters the block and what attention adds. It is edited by what is added."""


@dataclass(frozen=True)
class Architecture:
    """One kind of network, in the Hugging Face library or here, and its way into TransformerLens."""

    model_type: str
    """The ``model_type`` of its configuration."""
    network: Callable[[], type[PreTrainedModel]]
    """Returns its class, imported only then."""
    build: Callable[..., PreTrainedModel]
    """``build(vocab_size=, n_positions=, d_model=, n_layers=, n_heads=, seed=)``: a fresh network, causal where it can be."""
    sites: Mapping[str, Site]
    """Where activations are, by TransformerLens component, in the order of the forward pass."""
    blocks: str
    """Path of the list of blocks."""
    readout: tuple[str, ...]
    """Paths of the modules that make logits of the last residual stream, one after the other."""
    bridge: str | None
    """The name of its TransformerLens adapter; None where there is none that computes the same."""
    source: str
    """Where these facts were read."""
    regimes: tuple[Attention, ...] = ("causal", "full")
    """The attention regimes that the network computes of itself, by ``config.is_causal``; any other is given to it as a mask."""
    first_position: int = 0
    """The position id of a sequence's first token."""

    def points(self, n_layers: int) -> tuple[HookPoint, ...]:
        """Returns the hook points that there is a place for in a network of so many layers, in the order of the forward pass."""
        outside = [HookPoint(None, component) for component, site in self.sites.items() if "{layer}" not in site.path]
        inside = [component for component, site in self.sites.items() if "{layer}" in site.path]
        return (*outside, *(HookPoint(layer, component) for layer in range(n_layers) for component in inside))


def set_attention(architecture: Architecture, config: PreTrainedConfig, attention: Attention) -> None:
    """Writes an attention regime into a configuration; sliding windows of some blocks are a matter of causal attention alone.

    Raises:
        FactsError: Where the architecture cannot have the regime.
    """
    if attention == "causal" and attention not in architecture.regimes:
        raise FactsError(f"{architecture.model_type} has no {attention!r} attention; choose from {', '.join(architecture.regimes)}")
    config.is_causal = attention == "causal"
    if attention != "causal" and "causal" in architecture.regimes and getattr(config, "sliding_window", None):
        config.sliding_window = config.max_position_embeddings  # a causal parent's windows are none of what was grown from it


EMBEDDING_STD = 0.3


def quiet(module: PreTrainedModel, ends: tuple[str, ...], embeddings: tuple[str, ...]) -> PreTrainedModel:
    """Returns a fresh network whose branches and head start at zero, and whose embeddings start wide, which trains fastest.

    Args:
        module: The network.
        ends: How the names of the matrices end that write into the residual stream.
        embeddings: Paths of the embeddings.
    """
    for path in embeddings:
        nn.init.normal_(module.get_submodule(path).weight, std=EMBEDDING_STD)
    for name, weight in module.named_parameters():
        if name.endswith(ends):
            nn.init.zeros_(weight)
    head = module.get_output_embeddings()
    if isinstance(head, nn.Linear):
        nn.init.zeros_(head.weight)
    return module


def seeded(make: Callable[[], PreTrainedModel], seed: int) -> PreTrainedModel:
    """Returns what ``make`` builds from a seed of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
