"""Sequences to read a model on: solved puzzles or texts, and which of their tokens the model is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from models.tasks.base import Task, puzzle_task


@dataclass(frozen=True)
class Corpus:
    """Whole sequences, one a row."""

    sequences: Int[Tensor, "sample pos"]
    asked: Bool[Tensor, "sample pos"]
    """The tokens that the model is asked for; every other token is prompt and always visible."""
    group: Int[Tensor, " sample"]
    """The puzzle or document that a sequence is of: what data are split by, and what intervals resample."""

    def __len__(self) -> int:
        return len(self.sequences)


def puzzle_corpus(task: Task, examples: Any) -> Corpus:
    """Returns the examples of a task with their reference answers, one sequence each.

    Raises:
        TaskError: Where the task has no puzzles.
    """
    puzzles = puzzle_task(task)
    sequences = puzzles.encode(examples)
    return Corpus(sequences, puzzles.prompt(examples) == task.mask_token_id, torch.arange(len(sequences)))
