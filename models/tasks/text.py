"""Running text in the tokens of whatever tokenizer lies beside a model's weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from models.tasks.base import TaskError, parsed_lines

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WINDOW, MOST_BLANKS = 256, 100_000
_BLANK = re.compile(r"\[MASK(?::(\d+))?\]")


class Text:
    """Running text (see ``models.tasks.base.TextTask``): prompts, and nothing to learn from; sequences have the length of their text."""

    name: str = "text"
    hidden_token_id: int = -2
    """See ``models.network.HIDDEN``."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, size: int, mask_token_id: int | None, longest: int) -> None:
        """Takes the tokenizer, if there is one, how many tokens the network scores, the mask token, if it has one, and its positions."""
        self._tokenizer, self._size = tokenizer, size
        self.length: int = min(WINDOW, longest)
        """Positions of a window that a longer text is cut into."""
        self.mask_token_id: int = self.hidden_token_id if mask_token_id is None else mask_token_id

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer; raises TaskError where the model's folder has none."""
        if self._tokenizer is None:
            raise TaskError("there is no tokenizer beside the model's weights: give tokens, or put its tokenizer.json there")
        return self._tokenizer

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The text of each token id; of one that the tokenizer lacks, its number in angle brackets."""
        known = 0 if self._tokenizer is None else len(self.tokenizer)
        return tuple(str(self.tokenizer.decode([index])) if index < known else f"<{index}>" for index in range(self._size))

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text, without any that the tokenizer would put around it."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def chat(self, message: str, blanks: int) -> str:
        """Returns a prompt that asks a message by the tokenizer's own chat template, with so many tokens left to write.

        Raises:
            TaskError: Where the tokenizer has no template, or the message itself holds places to write.
        """
        if blank := _BLANK.search(message):
            raise TaskError(f"the message holds {blank[0]!r}; a message is asked whole, and its answer is what is written")
        if self.tokenizer.chat_template is None:
            raise TaskError("the tokenizer has no chat template; give plain text with [MASK:n] where n tokens are to be written")
        from jinja2 import TemplateError

        turns = [{"role": "user", "content": message}]
        try:
            asked = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        except (TemplateError, ValueError) as error:
            raise TaskError(f"the tokenizer's chat template refuses the message: {' '.join(str(error).split())}") from None
        return f"{asked}[MASK:{blanks}]"

    def parse(self, text: str) -> Int[Tensor, "1 pos"]:
        """Returns one sequence to write into: ``[MASK:n]`` in the text is n tokens to write, and all else is given.

        Raises:
            TaskError: Where the text leaves nothing to write.
        """
        ids: list[int] = []
        given = 0
        for blank in _BLANK.finditer(text):
            blanks = int(blank[1] or 1)
            if blanks > MOST_BLANKS:
                raise TaskError(f"[MASK:{blank[1]}] asks for more tokens than any model here writes; n is at most {MOST_BLANKS}")
            ids += self._given(text[given : blank.start()]) + [self.mask_token_id] * blanks
            given = blank.end()
        ids += self._given(text[given:])
        if self.mask_token_id not in ids:
            raise TaskError("the prompt leaves nothing to write; put [MASK:n], n at least 1, where n tokens are to be written")
        return torch.tensor([ids])

    def _given(self, text: str) -> list[int]:
        """Returns the tokens of a text that is given; raises TaskError where it holds the mask token, which would be written over."""
        ids = self.encode(text)
        if self.mask_token_id in ids:
            raise TaskError(
                f"the prompt holds {self.vocabulary[self.mask_token_id]!r}, the mask token; put [MASK:n] where n tokens are to be written"
            )
        return ids

    def read(self, path: Path, limit: int | None = None) -> list[Int[Tensor, " _"]]:
        """Returns the sequences of a file's prompts, one a line, as ``parse`` reads them; blank lines are skipped.

        Raises:
            TaskError: Naming file and line, on a prompt that leaves nothing to write, or a file that holds none or is no text.
        """
        return [one[0] for one in parsed_lines(path, self.parse, limit)]

    def prompt(self, examples: Any) -> Any:
        """Returns the sequences as they are."""
        return examples

    def decode(self, tokens: Int[Tensor, "batch pos"] | Sequence[Int[Tensor, " _"]]) -> list[str]:
        """Returns sequences as text, unwritten tokens as ``[MASK]``; what is beyond a sample's end is left out."""
        return ["".join(self._spelled([token for token in row.tolist() if token >= 0])) for row in tokens]

    def _spelled(self, ids: list[int]) -> Iterator[str]:
        """Yields the text of tokens: of those that the tokenizer has together, as it joins them, and of any other alone."""
        known = min(len(self.tokenizer), self._size)
        for alone, run in groupby(ids, key=lambda token: token == self.mask_token_id or token >= known):
            if alone:
                yield from ("[MASK]" if token == self.mask_token_id else self.vocabulary[token] for token in run)
            else:
                yield str(self.tokenizer.decode(list(run)))
