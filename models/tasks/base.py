"""What a task must offer. A task is a domain: a vocabulary, a prompt format, training data and, for puzzles, examples and a verifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor


class TaskError(ValueError):
    """A request that a task cannot meet."""


def parsed_lines(path: Path, parse: Callable[[str], Tensor], limit: int | None = None) -> list[Tensor]:
    """Returns what ``parse`` makes of each line of a file, at most ``limit``; blank lines are skipped.

    Raises:
        TaskError: Naming file and line, on a line that ``parse`` refuses, or a file that holds none or is no text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} is not a text file ({error.reason} at byte {error.start})") from None
    found = []
    for number, line in islice(((number, line) for number, line in enumerate(lines, start=1) if line.strip()), limit):
        try:
            found.append(parse(line))
        except TaskError as error:
            raise TaskError(f"{path}, line {number}: {error}") from None
    if not found:
        raise TaskError(f"{path} holds no prompt; it needs one a line")
    return found


@dataclass(frozen=True)
class TrainingData:
    """What a training learns from; each task takes one of the two kinds."""

    examples: int | None = None
    """How many puzzles are generated before augmentation; None is the task's default."""
    mix: Mapping[str, float] = field(default_factory=dict)
    """Shares of generated puzzles by level of difficulty, which add up to 1; empty is the task's default."""
    givens: tuple[int, int] | None = None
    """The fewest and most givens that generated puzzles aim at; None is the task's default."""
    sparse: int | None = None
    """How many puzzles with hardly any givens are learned from beside the others; None is none, since they are slow to make."""
    files: tuple[str, ...] = ()
    """Text files to learn from."""


@dataclass(frozen=True)
class Batch:
    """Whole sequences, and which of their tokens are learned: scored by a causal model, sometimes masked for a diffusion model."""

    tokens: Int[Tensor, "batch pos"]
    target: Bool[Tensor, "batch pos"]


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
    mask_token_id: int
    hidden_token_id: int
    """What stands where a model could not look, masked or still to come, so that both twins' views are told alike."""
    length: int
    """Positions of a sequence."""

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The text of each token id."""
        ...

    def parse(self, text: str) -> Any:
        """Returns the one example that a prompt text states."""
        ...

    def read(self, path: Path, limit: int | None = None) -> Any:
        """Returns the examples, or the first ``limit`` of them, that a file holds, one a line."""
        ...

    def prompt(self, examples: Any) -> Int[Tensor, "batch pos"]:
        """Returns sequences with the mask token wherever something is to be written."""
        ...


@runtime_checkable
class TrainableTask(Task, Protocol):
    """A task that models can be trained on."""

    def training_batches(self, data: TrainingData, batch: int, seed: int, first_step: int = 0) -> Iterator[Batch]:
        """Yields endless training batches; the batch of a step depends on ``data``, ``seed`` and the step alone.

        Raises:
            TaskError: Where ``data`` is of the kind the task does not take.
        """
        ...


@runtime_checkable
class PuzzleTask(TrainableTask, Protocol):
    """A task whose examples are made to order and whose answers can be judged."""

    levels: tuple[str, ...]
    """Levels of difficulty, easiest first."""
    target: slice
    """The positions of the answer; every other position is always visible."""

    def generate(self, n: int, level: str, *, givens: tuple[int, int] | None = None, seed: int = 0) -> Any:
        """Returns ``n`` fresh examples of a level of difficulty (one of ``levels``) that no training sees.

        ``givens`` are the fewest and most that an example aims at; None is the task's default.
        """
        ...

    def texts(self, examples: Any) -> list[str]:
        """Returns the examples' prompts as text, each a line that ``read`` and ``parse`` understand."""
        ...

    def encode(self, examples: Any) -> Int[Tensor, "batch pos"]:
        """Returns whole sequences with their reference answers."""
        ...

    def verify(self, tokens: Int[Tensor, "batch pos"], examples: Any) -> Verdicts:
        """Returns the judgement of finished sequences."""
        ...


@runtime_checkable
class TextTask(Task, Protocol):
    """A task of running text: nothing to solve, everything to predict."""

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text."""
        ...

    def decode(self, tokens: Int[Tensor, "batch pos"]) -> list[str]:
        """Returns sequences as text."""
        ...


@runtime_checkable
class ChatTask(TextTask, Protocol):
    """Running text in the tokens of a model that may have been taught to answer."""

    def chat(self, message: str, blanks: int) -> str:
        """Returns a prompt that asks a message by the tokenizer's own chat template, with so many tokens left to write."""
        ...


@runtime_checkable
class CorpusTask(TextTask, TrainableTask, Protocol):
    """A task of running text with files to learn from, part of which is held out."""

    def save_tokenizer(self, folder: Path) -> None:
        """Writes the tokenizer into a model folder, as the Hugging Face library reads it."""
        ...

    def held_out(self, files: tuple[str, ...], limit: int | None = None) -> list[Document]:
        """Returns the first ``limit`` held-out documents of some files."""
        ...

    def train_documents(self, files: tuple[str, ...]) -> list[Int[np.ndarray, " _"]]:
        """Returns the token ids of the documents of some files that are not held out."""
        ...


@dataclass(frozen=True)
class Document:
    """A held-out text in windows: each token to be scored is scored in exactly one of them."""

    windows: Batch
    """``target`` is what to score; every other token of a window is context."""
    whole: Int[np.ndarray, " _"]
    """The token ids in one piece; it ends with the scored tokens."""
    n_bytes: int
    """UTF-8 bytes of the text that the scored tokens spell."""


def puzzle_task(task: Task) -> PuzzleTask:
    """Returns ``task`` as what it is if its examples can be made and judged, and raises TaskError if not."""
    if not isinstance(task, PuzzleTask):
        raise TaskError(f"the task {task.name!r} has no puzzles to make or judge (sudoku has); for text see `likelihood` and `write`")
    return task


def text_task(task: Task) -> TextTask:
    """Returns ``task`` as what it is if it is running text, and raises TaskError if not."""
    if not isinstance(task, TextTask):
        raise TaskError(f"the task {task.name!r} is no running text (stories are); for puzzles see `generate` and `evaluate`")
    return task


def asked(task: Task, prompt: str, chat: int | None) -> str:
    """Returns a prompt as it is, or asked by the chat template with so many tokens left to write; raises TaskError without one."""
    if chat is None:
        return prompt
    if not isinstance(task, ChatTask):
        raise TaskError(f"the task {task.name!r} has no chat template; models of other people may (see `denoscope models`)")
    return task.chat(prompt, chat)


def corpus_task(task: Task) -> CorpusTask:
    """Returns ``task`` as what it is if files of text can be learned from, and raises TaskError if not."""
    if not isinstance(task, CorpusTask):
        raise TaskError(f"the task {task.name!r} has no files of stories; give puzzles, labelled texts or two sets of prompts")
    return task
