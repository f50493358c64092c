"""A window of a story as text: which characters each token spells, and the sentences and quotations they stand in."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import cast

import numpy as np
from jaxtyping import Bool, Int

from models.tasks.stories.task import END_ID, MORE_ID, START_ID, STORIES

CACHED_WINDOWS = 8192
_SENTENCE_END = re.compile(r"""(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)[.!?…]+["'”\u2019)\]*]*(?=\s+[^\sa-z])|\n""")
_WHOLE = re.compile(r"""[.!?…]["'”\u2019)\]*]*$""")
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?")
_PARAGRAPH = re.compile(r"[^\n]+")
_QUOTE = re.compile(r"""(?P<opens>“|(?<![^\s(\[\u2013\u2014-])"(?=\S))|["”]""")


@lru_cache(1)
def token_bytes() -> tuple[bytes, ...]:
    """Returns the bytes that each token id spells; none for special tokens.

    Byte-level BPE writes a byte as one character: printable ones as themselves, the others as those from U+0100 on (Radford et al. 2019).
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = sorted(set(range(256)) - set(printable))
    byte = {chr(value): value for value in printable} | {chr(256 + place): value for place, value in enumerate(others)}
    special = STORIES.tokenizer.get_added_tokens_decoder()
    pieces = (STORIES.tokenizer.id_to_token(index) or "" for index in range(STORIES.tokenizer.get_vocab_size()))
    return tuple(b"" if index in special else bytes(byte[sign] for sign in piece) for index, piece in enumerate(pieces))


def _characters(pieces: list[bytes]) -> tuple[str, Int[np.ndarray, "token 2"]]:
    """Returns the text that tokens spell, and each token's first character and the one after its last.

    The bytes of a character that the window cuts stay one character each.
    """
    text = b"".join(pieces).decode("utf-8", "surrogateescape")
    code = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    cut = (code >= 0xDC80) & (code <= 0xDCFF)
    size = np.where(cut, 1, 1 + (code >= 0x80) + (code >= 0x800) + (code >= 0x10000))
    starts = np.concatenate([[0], np.cumsum(size)])[:-1]
    bounds = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int64)
    first, last = np.searchsorted(starts, bounds[:-1], "right") - 1, np.searchsorted(starts, bounds[1:], "left")
    return text, np.stack([first, last], axis=1)


@dataclass(frozen=True)
class Passage:
    """What one window holds."""

    instruction: str
    text: str
    first: int
    """The position of the text's first token."""
    spans: Int[np.ndarray, "token 2"]
    """For each token of the text its first character in ``text``, and the one after its last."""
    begins: bool
    """Whether the story begins here; if not, the window is cut from its midst."""
    ends: bool
    """Whether the story ends here."""

    @cached_property
    def anchor(self) -> Int[np.ndarray, " token"]:
        """The character that says where each token stands: its first that is no space, or the one before a token of spaces."""
        place = np.arange(len(self.text))
        inked = np.array([not sign.isspace() for sign in self.text], dtype=bool)
        following = np.minimum.accumulate(np.where(inked, place, len(self.text))[::-1])[::-1]
        first, last = self.spans.T
        found = following[first]
        return np.where(found < last, found, np.maximum(first - 1, 0))

    @cached_property
    def sentences(self) -> Int[np.ndarray, "sentence 2"]:
        """The first character of each sentence, and the one after its last; those at the window's edges may be cut."""
        found, begin = [], 0
        for end in (*(mark.end() for mark in _SENTENCE_END.finditer(self.text)), len(self.text)):
            piece = self.text[begin:end]
            if piece.strip():
                found.append((end - len(piece.lstrip()), begin + len(piece.rstrip())))
            begin = end
        return np.array(found or [(0, len(self.text))])

    @cached_property
    def sentence(self) -> Int[np.ndarray, " token"]:
        """The number of the sentence that each token stands in; spaces between two belong to the first."""
        return np.maximum(np.searchsorted(self.sentences[:, 0], self.anchor, "right") - 1, 0)

    def last_is_whole(self) -> bool:
        """Returns whether the last sentence ends within the window."""
        return self.ends or bool(_WHOLE.search(self.text.rstrip()))

    @cached_property
    def words(self) -> tuple[tuple[int, str], ...]:
        """The words of the text, each with the number of the sentence that it stands in."""
        found = list(_WORD.finditer(self.text))
        number = np.searchsorted(self.sentences[:, 0], [word.start() for word in found], "right") - 1
        return tuple(zip(number.tolist(), (word[0] for word in found), strict=True))

    def per_sentence(self, tells: Callable[[str], bool]) -> Int[np.ndarray, " sentence"]:
        """Returns how many words of each sentence a word list holds."""
        found = np.array([number for number, word in self.words if tells(word)], dtype=np.int64)
        return np.bincount(found, minlength=len(self.sentences))

    def quoted(self) -> Bool[np.ndarray, " token"]:
        """Returns which tokens stand inside double quotation marks, the marks included.

        Quotes within quotes are inside; a quote that never closes ends with its paragraph; where a window from the midst of a story begins
        with a quote that closes, it was open before.
        """
        inside = np.zeros(len(self.text) + 1, dtype=bool)
        for number, paragraph in enumerate(_PARAGRAPH.finditer(self.text)):
            depth, since, fresh = 0, paragraph.start(), number == 0 and not self.begins
            for mark in _QUOTE.finditer(self.text, *paragraph.span()):
                if mark["opens"]:
                    since = since if depth else mark.start()
                    depth += 1
                elif depth or fresh:
                    depth = max(depth - 1, 0)
                    inside[since : mark.end()] = True
                fresh = False
            if depth:
                inside[since : paragraph.end()] = True
        first = self.spans[:, 0]
        return inside[np.maximum(first, self.anchor)]


@lru_cache(CACHED_WINDOWS)
def passage(tokens: bytes) -> Passage:
    """Returns what a window of the stories task, given as the bytes of its int64 token ids, holds."""
    ids = cast("list[int]", np.frombuffer(tokens, dtype=np.int64).tolist())
    table = token_bytes()
    first = next((place + 1 for place, index in enumerate(ids) if index in (START_ID, MORE_ID)), len(ids))
    stop = ids.index(END_ID, first) if END_ID in ids[first:] else len(ids)
    instruction = b"".join(table[index] for index in ids[: first - 1]).decode("utf-8", "replace")
    text, spans = _characters([table[index] for index in ids[first:stop]])
    return Passage(instruction, text, first, spans, begins=MORE_ID not in ids[:first], ends=stop < len(ids))
