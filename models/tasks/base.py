"""What a task must offer. A task is a domain: a vocabulary, a prompt format, examples and a verifier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Verdicts:
    """A verifier's judgement of a batch of answers, one entry each."""

    exact: Bool[np.ndarray, " batch"]
    """The answer is the reference answer."""
    valid: Bool[np.ndarray, " batch"]
    """The answer obeys every rule of the task, whether or not it is the reference."""
    cells: Float[np.ndarray, " batch"]
    """The share of the tokens asked for that equal the reference."""


@runtime_checkable
class Task(Protocol):
    """A domain. ``Examples`` is whatever type the task uses for a batch of them; it has a length."""

    name: str
    vocabulary: tuple[str, ...]
    """The text of each token id."""
    mask_token_id: int
    length: int
    """Positions of a sequence."""
    levels: tuple[str, ...]
    """Levels of difficulty, easiest first."""
    target: slice
    """The positions that may be masked; every other position is always visible."""

    def generate(self, n: int, level: str, *, seed: int = 0) -> Any:
        """Returns ``n`` fresh examples of a level of difficulty (one of ``levels``) that no training sees."""
        ...

    def texts(self, examples: Any) -> list[str]:
        """Returns the examples' prompts as text, each a line that ``read`` and ``parse`` understand."""
        ...

    def read(self, path: Path, limit: int | None = None) -> Any:
        """Returns the examples of a file."""
        ...

    def parse(self, text: str) -> Any:
        """Returns the one example that a prompt text states."""
        ...

    def encode(self, examples: Any) -> Int[Tensor, "batch pos"]:
        """Returns whole sequences with their reference answers."""
        ...

    def prompt(self, examples: Any) -> Int[Tensor, "batch pos"]:
        """Returns sequences with the mask token wherever the answer is asked for."""
        ...

    def verify(self, tokens: Int[Tensor, "batch pos"], examples: Any) -> Verdicts:
        """Returns the judgement of finished sequences."""
        ...

    def training_sequences(self, n_examples: int, batch: int, seed: int, first_step: int = 0) -> Iterator[Int[Tensor, "batch pos"]]:
        """Yields endless training batches; the batch of a step depends on ``seed`` and the step alone."""
        ...
