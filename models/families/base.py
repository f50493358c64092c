"""How a published checkpoint is opened, and what is true of it, as one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from models.facts import Attention, Objective

Raw = Mapping[str, Any]
"""A ``config.json`` as it lies there."""


def native(raw: Raw) -> dict[str, Any]:
    """Returns a configuration in which all but the names of its own classes is what the native network reads."""
    return {name: value for name, value in raw.items() if name not in ("model_type", "architectures", "auto_map")}


def refuse(raw: Raw, expected: Mapping[str, Any]) -> None:
    """Raises ValueError on a setting that the native network cannot compute; what the configuration leaves out counts as refused."""
    for name, value in expected.items():
        if raw.get(name) != value:
            raise ValueError(f"{name} is {raw.get(name)!r}, and its native network computes {value!r} alone")


@dataclass(frozen=True)
class Behaviour:
    """What a model of a family is, where its checkpoint does not state it."""

    objective: Objective
    attention: Attention
    logit_shift: int
    mask_tokens: tuple[str, ...] = ()
    """Mask tokens by their text, looked for in the tokenizer where the configuration names no ``mask_token_id``."""
    mask_token_id: int | None = None
    """Where neither does."""
    block_size: int | None = None
    """Of block-causal attention, where the configuration states none."""


@dataclass(frozen=True)
class Family:
    """One line of published models: which checkpoints it reads, which network they run as, and what is true of them.

    No code of a checkpoint is run: its tensors are given to a network of the Hugging Face library, or of ``models.architectures``, that
    computes the same.
    """

    name: str
    network: str
    """The architecture they run as (``models.architectures.ARCHITECTURES``)."""
    behaviour: Behaviour
    source: str
    """Where this was read."""
    hub: tuple[str, ...]
    """Published checkpoints."""
    reads: tuple[str, ...] = ()
    """The ``architectures`` of the configurations that are of this family unless another is named."""
    about: str = ""
    """Traps: special tokens, how it ends a text, what its own sampler does besides."""
    configuration: Callable[[Raw], dict[str, Any]] = native
    """Returns the configuration of the native network; raises ValueError on one that it cannot compute."""
    key_mapping: Mapping[str, str] = field(default_factory=dict)
    """Native names of tensors by regular expressions of theirs, as the Hugging Face library takes them: anchored, one group at most."""
    tokenizer: str | None = None
    """The Hugging Face class of its tokenizer, where the checkpoint names one of its own code."""
    unread: tuple[str, ...] = ()
    """How the names of tensors begin that its checkpoints hold besides, of other trainings; its network has no place for them."""


CAUSAL = Behaviour("causal", "causal", 1)
