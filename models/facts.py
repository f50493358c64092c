"""What is true of a model whoever uses it, stored inside its ``config.json`` beside the weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

FORMAT_VERSION = 1
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
    """The task whose vocabulary the model speaks."""

    def __post_init__(self) -> None:
        for name, choices in (("objective", get_args(Objective)), ("attention", get_args(Attention)), ("logit_shift", (0, 1))):
            if getattr(self, name) not in choices:
                raise FactsError(f"{name} is {getattr(self, name)!r}; choose from {', '.join(map(str, choices))}")
        if self.objective == "masked" and self.mask_token_id is None:
            raise FactsError("a masked model needs a mask_token_id")
        if self.objective == "causal" and (self.attention, self.logit_shift) != ("causal", 1):
            raise FactsError(f"a causal model has causal attention and logit_shift 1, not {self.attention!r} and {self.logit_shift}")

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
        return cls(**stated)
