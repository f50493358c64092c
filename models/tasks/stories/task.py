"""Stories as tokens: ``<story> instruction <start> text <end>``, cut into windows that all begin with the instruction.

A window from the midst of a text has ``<more>`` in place of ``<start>``; a text shorter than its window is followed by ``<end>`` to the
window's end. The text is byte-level BPE, so any text can be written, and decoding restores it exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor

from models.tasks.base import Batch, Document, TaskError, TrainingData, parsed_lines
from models.tasks.stories.corpus import Story, read_stories

TOKENIZER = Path(__file__).with_name("tokenizer.json")
"""Byte-level BPE of 6,000 tokens, trained on the train split."""
STORY_ID, START_ID, MORE_ID, END_ID, MASK_ID = range(5)
LONGEST_INSTRUCTION = 64
"""Tokens; a longer instruction is cut."""
ASKED_INSTRUCTION = 0.2
"""The share of training windows in which the instruction is learned too, so that nothing need be given to write a story."""
_BLANK = re.compile(r"\[MASK(?::(\d+))?\]")


def _window(head: list[int], text: list[int], length: int) -> list[int]:
    return (head + text + [END_ID] * length)[:length]


class Stories:
    """The stories task (see ``models.tasks.base.TextTask``)."""

    name: str = "stories"
    mask_token_id: int = MASK_ID
    hidden_token_id: int = MASK_ID
    length: int = 256

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        return Tokenizer.from_file(str(TOKENIZER))

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The text of each token id."""
        ids = range(self.tokenizer.get_vocab_size())
        return tuple(self.tokenizer.decode([index], skip_special_tokens=False) for index in ids)

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text."""
        ids: list[int] = self.tokenizer.encode(text).ids
        return ids

    def _encoded(self, stories: list[Story]) -> list[tuple[list[int], list[int]]]:
        """Returns (head without its last token, text with ``<end>``) of each story."""
        heads = self.tokenizer.encode_batch([story.instruction for story in stories])
        texts = self.tokenizer.encode_batch([story.text for story in stories])
        return [([STORY_ID, *h.ids[:LONGEST_INSTRUCTION]], [*t.ids, END_ID]) for h, t in zip(heads, texts, strict=True)]

    def parse(self, text: str) -> Int[Tensor, "1 pos"]:
        """Returns one sequence to write into: ``[MASK:n]`` in the text is n tokens to write, and all that follows it is given.

        A text without any such blank is continued to the end of the window; an empty one asks for a whole story, instruction and all.

        Raises:
            TaskError: Where the text does not fit into a window, or leaves nothing to write.
        """
        ids, given = [STORY_ID], 0
        for blank in _BLANK.finditer(text):
            ids += self.tokenizer.encode(text[given : blank.start()]).ids + [MASK_ID] * int(blank[1] or 1)
            given = blank.end()
        rest = self.tokenizer.encode(text[given:]).ids
        if len(ids) + len(rest) > self.length - (given == 0):
            raise TaskError(f"the prompt has {len(ids) + len(rest)} tokens; a window has {self.length}, one at least to be written")
        if given:
            ids += rest
            if MASK_ID not in ids:
                raise TaskError("the prompt leaves nothing to write; put [MASK:n], n at least 1, where n tokens are to be written")
            return torch.tensor([_window(ids, [], self.length)])
        return torch.tensor([(ids + rest + [MASK_ID] * self.length)[: self.length]])

    def read(self, path: Path, limit: int | None = None) -> Int[Tensor, "batch pos"]:
        """Returns the sequences of a file's prompts, one a line, as ``parse`` reads them; blank lines are skipped.

        Raises:
            TaskError: Naming file and line, on a prompt that cannot be written into, or a file that holds none or is no text.
        """
        return torch.cat(parsed_lines(path, self.parse, limit))

    def prompt(self, examples: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        """Returns the sequences as they are."""
        return examples

    def decode(self, tokens: Int[Tensor, "batch pos"]) -> list[str]:
        """Returns sequences as text; ``<story>`` and whatever follows the first ``<end>`` is left out, unwritten tokens are ``[MASK]``."""
        texts = []
        for row in tokens.tolist():
            ids = row[int(row[0] == STORY_ID) :]
            written = ids[: ids.index(END_ID)] if END_ID in ids else ids
            texts.append(self.tokenizer.decode(written, skip_special_tokens=False).replace("<mask>", "[MASK]"))
        return texts

    def training_batches(self, data: TrainingData, batch: int, seed: int, first_step: int = 0) -> Iterator[Batch]:
        """Yields endless batches of windows, every token of the train split equally likely to be a window's middle.

        Raises:
            TaskError: Without files, or with anything else.
        """
        if not data.files or data.examples is not None or data.mix or data.givens or data.sparse is not None:
            raise TaskError("stories are learned from text files: give files, and no number of examples, mix or givens")
        encoded = self._encoded(read_stories(map(Path, data.files), "train"))
        ends = np.cumsum([len(text) for _, text in encoded])
        step = first_step
        while True:
            rng = np.random.default_rng((seed, step))
            middles = rng.integers(0, ends[-1], batch)
            asked = rng.random(batch) < ASKED_INSTRUCTION
            rows = []
            for middle in middles:
                document = int(np.searchsorted(ends, middle, "right"))
                head, text = encoded[document]
                rows.append(self._training_window(head, text, int(middle - ends[document]) + len(text)))
            tokens = torch.tensor([window for window, _ in rows])
            first = torch.tensor([1 if whole else head for whole, (_, head) in zip(asked, rows, strict=True)])
            yield Batch(tokens, torch.arange(self.length)[None] >= first[:, None])
            step += 1

    def _training_window(self, head: list[int], text: list[int], middle: int) -> tuple[list[int], int]:
        """Returns the window around a token of a text, and the length of its head."""
        room = self.length - len(head) - 1
        offset = int(np.clip(middle - room // 2, 0, max(len(text) - room, 0)))
        return _window([*head, MORE_ID if offset else START_ID], text[offset : offset + room], self.length), len(head) + 1

    def save_tokenizer(self, folder: Path) -> None:
        """Writes the tokenizer into a model folder, as the Hugging Face library reads it."""
        from transformers import PreTrainedTokenizerFast

        names = {role: self.tokenizer.id_to_token(index) for role, index in (("bos", STORY_ID), ("eos", END_ID), ("mask", MASK_ID))}
        special = {f"{role}_token": name for role, name in names.items()}
        PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER), model_max_length=self.length, **special).save_pretrained(folder)

    def held_out(self, files: tuple[str, ...], limit: int | None = None) -> list[Document]:
        """Returns the first ``limit`` held-out stories of some files; a story's last window reaches back into the one before it."""
        stories = read_stories(map(Path, files), "test")[:limit]
        return [
            Document(self._scored(head, text), np.array([*head, START_ID, *text]), len(story.text.encode()))
            for story, (head, text) in zip(stories, self._encoded(stories), strict=True)
        ]

    def train_documents(self, files: tuple[str, ...]) -> list[Int[np.ndarray, " _"]]:
        """Returns the stories of the train split as token ids."""
        return [np.array([*head, START_ID, *text]) for head, text in self._encoded(read_stories(map(Path, files), "train"))]

    def _scored(self, head: list[int], text: list[int]) -> Batch:
        room = self.length - len(head) - 1
        tokens, target = [], []
        for begin in range(0, len(text), room):
            offset = max(min(begin, len(text) - room), 0)
            tokens.append(_window([*head, MORE_ID if offset else START_ID], text[offset : offset + room], self.length))
            first = len(head) + 1 + begin - offset
            target.append([first <= position < len(head) + 1 + len(text) - offset for position in range(self.length)])
        return Batch(torch.tensor(tokens), torch.tensor(target))


STORIES = Stories()
