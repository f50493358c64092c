"""A concept: something true or false of a place in a sequence, with its ground truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class ConceptError(ValueError):
    """A concept asked of a site where it has no truth."""


class Kind(IntEnum):
    """What a position is to the call that reads it."""

    PROMPT = 0
    MASKED = 1
    """Unwritten: about to be predicted."""
    COMMITTED = 2
    """Written by the call before."""
    SETTLED = 3
    """Written earlier, or given by a random mask."""


@dataclass(frozen=True)
class Sites:
    """Places where a model was read, one a row, with what was visible from there.

    A causal model at position p sees the tokens before p; a masked one sees the canvas. ``seen`` holds the mask token wherever the model
    could not look, so a concept's truth is a function of the same things for both.
    """

    seen: Int[Tensor, "row pos"]
    truth: Int[Tensor, "row pos"]
    """The whole sequence."""
    position: Int[Tensor, " row"]
    """The token whose prediction is read."""
    sample: Int[Tensor, " row"]
    """The sequence, as a row of its corpus."""
    group: Int[Tensor, " row"]
    """The puzzle or document: what data are split by."""
    mask_rate: Float[Tensor, " row"]
    """Share of the positions asked for that are unwritten in ``seen``; the nominal one where masks were drawn."""
    kind: Int[Tensor, " row"]
    """A ``Kind``."""
    step: Int[Tensor, " row"]
    """The network call of a denoising run that saw this, from 1; 0 where masks were drawn."""
    next: Bool[Tensor, " row"]
    """Whether that call wrote the position; false where masks were drawn."""

    def __len__(self) -> int:
        return len(self.position)

    @classmethod
    def unwritten(
        cls,
        seen: Int[Tensor, "row pos"],
        truth: Int[Tensor, "row pos"],
        position: Int[Tensor, " row"],
        sample: Int[Tensor, " row"],
        mask_rate: Float[Tensor, " row"],
    ) -> Sites:
        """Returns places that are about to be predicted, outside a run, in sequences that are each a group of their own."""
        none = torch.zeros_like(position)
        return cls(seen, truth, position, sample, sample, mask_rate, torch.full_like(position, Kind.MASKED), none, none.bool())

    def rows(self, keep: Int[Tensor, " kept"] | Bool[Tensor, " row"]) -> Sites:
        """Returns some of the rows."""
        return Sites(*(getattr(self, column.name)[keep] for column in fields(self)))


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
    exclusive: bool = False
    """Whether exactly one head is true at every site: its heads are classes."""
    of_a_run: bool = False
    """Whether it is defined in a denoising run only, and not where masks were drawn."""
    by_default: bool = True
    """Whether it is asked where no concepts are named."""
    features: Callable[[Sites], Float[np.ndarray, "row feature"]] | None = None
    """What a reader without any network is given to answer it; None is what the task gives (``INPUT_FEATURES``)."""


def labels_of(concept: Concept, sites: Sites) -> Bool[Tensor, "row head"]:
    """Returns a concept's ground truth as a tensor."""
    return torch.from_numpy(concept.labels(sites))
