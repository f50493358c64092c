"""A concept: something true or false of a place in a sequence, with its ground truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Sites:
    """Places whose token was about to be predicted, one a row, with what was visible from there.

    A causal model at position p sees the tokens before p; a masked one sees the canvas. ``seen`` holds the mask token wherever the model
    could not look, so a concept's truth is a function of the same things for both.
    """

    seen: Int[Tensor, "row pos"]
    truth: Int[Tensor, "row pos"]
    """The whole sequence."""
    position: Int[Tensor, " row"]
    """The token that is about to be predicted."""
    sample: Int[Tensor, " row"]
    """The puzzle or document: what data are split by."""
    mask_rate: Float[Tensor, " row"]
    """Share of the positions asked for that are unwritten in ``seen``."""

    def __len__(self) -> int:
        return len(self.position)


@dataclass(frozen=True)
class Concept:
    """A named set of yes-or-no questions about a site."""

    name: str
    task: str
    heads: tuple[str, ...]
    """One name a question."""
    labels: Callable[[Sites], Bool[np.ndarray, "row head"]]
    """The ground truth."""
    about: str
    """What it asks, in a line."""
