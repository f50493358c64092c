"""Sequences to read a model on: solved puzzles or texts, and which of their tokens the model is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from models.network import PADDING
from models.tasks.base import Task, corpus_task, puzzle_task
from models.tasks.stories.corpus import Split
from models.tasks.stories.task import END_ID, MORE_ID, START_ID, STORIES


class CorpusError(ValueError):
    """Sequences that cannot be made."""


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

    def rows(self, keep: Int[Tensor, " kept"] | Bool[Tensor, " sample"]) -> Corpus:
        """Returns some of the sequences, each of the group that it was of."""
        return Corpus(self.sequences[keep], self.asked[keep], self.group[keep])


def puzzle_corpus(task: Task, examples: Any) -> Corpus:
    """Returns the examples of a task with their reference answers, one sequence each.

    Raises:
        TaskError: Where the task has no puzzles.
    """
    puzzles = puzzle_task(task)
    sequences = puzzles.encode(examples)
    return Corpus(sequences, puzzles.prompt(examples) == task.mask_token_id, torch.arange(len(sequences)))


def window_places(size: int, head: int, length: int) -> Int[np.ndarray, "window pos"]:
    """Returns which token of a document of ``size`` tokens each place of its windows shows; -1 is none.

    A window is the document's ``head`` (the instruction of a story up to ``<start>``) and as much of the rest as fits; the next one goes on
    where it ends, and the last reaches back as far as it has room.
    """
    room, rest = length - head, size - head
    offset = np.maximum(np.minimum(np.arange(0, rest, room), rest - room), 0)
    text = head + offset[:, None] + np.arange(room)
    return np.concatenate([np.tile(np.arange(head), (len(offset), 1)), np.where(text < size, text, -1)], axis=1)


def head_of(task: Task, document: Int[np.ndarray, " token"]) -> int:
    """Returns how many tokens of a document stand in each of its windows: of a story its instruction and ``<start>``."""
    return int(np.flatnonzero(document == START_ID)[0]) + 1 if task is STORIES else 0


def window_corpus(task: Task, documents: Sequence[Int[np.ndarray, " _"]]) -> Corpus:
    """Returns the windows of documents (see ``window_places``), one sequence each, every document a group.

    The text is asked for; the instruction of a story, and what fills up a last window, are not: ``<end>`` for stories, and ``PADDING``,
    which no network reads, for text in a model's own tokens. What the last window repeats of the one before is asked for again.
    """
    sequences, asked = [], []
    for document in documents:
        head = head_of(task, document)
        places = window_places(len(document), head, task.length)
        tokens = np.where(places < 0, END_ID if task is STORIES else PADDING, document[places])
        if task is STORIES:
            tokens[places[:, head] > head, head - 1] = MORE_ID
        sequences.append(tokens)
        asked.append((places >= head) & ((tokens != END_ID) | (task is not STORIES)))
    group = np.repeat(np.arange(len(documents)), [len(part) for part in sequences])
    return Corpus(*(torch.from_numpy(part) for part in (np.concatenate(sequences), np.concatenate(asked), group)))


def text_corpus(task: Task, files: Sequence[str], *, split: Split = "test", limit: int | None = None, seed: int = 0) -> Corpus:
    """Returns the windows of the stories of some files, each story a group.

    Args:
        task: A task of running text.
        files: Files of stories.
        split: ``test`` for those that no training sees, or ``train``.
        limit: Draws so many stories, at most; None takes them all, in their order.
        seed: Of the draw; a smaller limit draws some of the same stories.

    Raises:
        CorpusError: On a limit below 1.
        TaskError: Where the task is no running text.
        models.tasks.stories.corpus.CorpusError: On a file without stories, or an empty split.
    """
    if limit is not None and limit < 1:
        raise CorpusError(f"the limit is {limit}; it must be at least 1 story")
    texts = corpus_task(task)
    documents = [one.whole for one in texts.held_out(tuple(files))] if split == "test" else texts.train_documents(tuple(files))
    drawn = range(len(documents)) if limit is None else np.random.default_rng(seed).permutation(len(documents))[:limit]
    return window_corpus(task, [documents[index] for index in drawn])
