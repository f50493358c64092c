"""What is true of a model whoever uses it, stored inside its ``config.json`` beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

FORMAT_VERSION = 2
CONFIG_KEY = "denoscope"
"""The key of ``config.json`` that holds the facts; Hugging Face keeps it through load and save."""

Objective = Literal["causal", "masked"]
Attention = Literal["causal", "full", "block-causal"]


class FactsError(ValueError):
    """A folder or configuration that does not state the facts of a model, or states contradictory ones."""


@dataclass(frozen=True)
class ModelFacts:
    """Facts of one model. No sampler, trainer or probe takes any of them as an argument."""

    objective: Objective
    """What it was trained for: ``causal`` next-token prediction, or ``masked`` diffusion."""
    attention: Attention
    """Which positions a position sees."""
    logit_shift: int
    """1 where the raw output at position i scores token i+1 (AR style, kept by adapted diffusion models), 0 where it scores token i."""
    mask_token_id: int | None
    """The token that stands for "not yet written"; None for a causal model."""
    task: str
    """The task whose vocabulary the model speaks; ``text`` is that of the tokenizer beside its weights."""
    block_size: int | None = None
    """Positions of a block, of block-causal attention: each sees its own block and those before."""

    def __post_init__(self) -> None:
        _check(asdict(self))

    def to_config(self) -> dict[str, Any]:
        """Returns the entry to store under ``CONFIG_KEY``."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_config(cls, entry: object) -> ModelFacts:
        """Returns the facts that an entry of ``config.json`` states.

        Raises:
            FactsError: Where there is no entry, it is of a newer version, or it lacks or adds a name.
        """
        if not isinstance(entry, dict):
            raise FactsError(f"its config.json states no facts under {CONFIG_KEY!r} (models made by `denoscope train` do)")
        version = entry.get("format_version")
        if version != FORMAT_VERSION:
            raise FactsError(f"its facts have format_version {version!r}; this version of denoscope reads {FORMAT_VERSION}")
        stated = {name: value for name, value in entry.items() if name != "format_version"}
        known = {field.name for field in fields(cls)}
        if set(stated) != known:
            raise FactsError(f"its facts name {sorted(stated)}; they must be exactly {sorted(known)}")
        _check(stated)
        return cls(**stated)


def _check(facts: Mapping[str, Any]) -> None:
    """Raises FactsError on values, of whatever type a file may hold, that are not the facts of a model."""
    objective, mask, task = facts["objective"], facts["mask_token_id"], facts["task"]
    for name, choices in (("objective", get_args(Objective)), ("attention", get_args(Attention)), ("logit_shift", (0, 1))):
        if facts[name] not in choices or type(facts[name]) is not type(choices[0]):
            raise FactsError(f"{name} is {facts[name]!r}; choose from {', '.join(map(str, choices))}")
    if mask is not None and type(mask) is not int:
        raise FactsError(f"mask_token_id is {mask!r}; it must be a token id, or null")
    if (objective == "masked") != (mask is not None):
        raise FactsError(f"mask_token_id is {mask!r}; a masked model needs one, and a causal model has none")
    block = facts["block_size"]
    if (facts["attention"] == "block-causal") != (block is not None) or (block is not None and (type(block) is not int or block < 1)):
        raise FactsError(f"block_size is {block!r}; block-causal attention needs one, a whole number from 1, and any other has none")
    if not isinstance(task, str):
        raise FactsError(f"task is {task!r}; it must be a name")
    if objective == "causal" and (facts["attention"], facts["logit_shift"]) != ("causal", 1):
        raise FactsError(f"a causal model has causal attention and logit_shift 1, not {facts['attention']!r} and {facts['logit_shift']}")
