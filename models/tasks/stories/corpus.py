"""Files of stories: each an instruction that states its subject, then ``<start>``, the text and ``<end>``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

START, END = "<start>", "<end>"
HELD_OUT = 0.05
"""The share of stories that no training sees."""

Split = Literal["train", "test"]
_TITLE = re.compile(r"`(.*?)`", re.DOTALL)


class CorpusError(ValueError):
    """A file that holds no stories."""


@dataclass(frozen=True)
class Story:
    """One document: what was asked for, and the text."""

    instruction: str
    """Such as ``Write a bedtime story called `The Lost Star`.``; it states genre and title."""
    text: str

    @property
    def title(self) -> str:
        """The title between backticks; empty where the instruction has none."""
        found = _TITLE.search(self.instruction)
        return " ".join(found[1].split()) if found else ""

    @property
    def split(self) -> Split:
        """Which split the story is in: a function of its words alone, whatever the file or its place there."""
        digest = hashlib.sha256(f"{self.instruction}\n{self.text}".encode()).digest()
        return "test" if int.from_bytes(digest[:8]) < HELD_OUT * 2**64 else "train"


def parse_stories(text: str, source: str) -> list[Story]:
    """Returns the stories of a text.

    Raises:
        CorpusError: Where it holds none, or one is cut short, naming ``source`` and what is missing.
    """
    *pieces, rest = text.split(END)
    stories = []
    for number, piece in enumerate(pieces, start=1):
        instruction, found, story = piece.partition(START)
        if not (found and instruction.strip() and story.strip()):
            raise CorpusError(f"{source}: story {number} lacks its instruction, {START} or text; the form is: instruction{START}text{END}")
        stories.append(Story(instruction.strip(), story))
    if rest.strip():
        raise CorpusError(
            f"{source}: the text after story {len(stories)} does not end with {END}; the form is: instruction{START}text{END}"
        )
    if not stories:
        raise CorpusError(f"{source} holds no story; the form is: instruction{START}text{END}")
    return stories


def read_stories(paths: Iterable[Path], split: Split) -> list[Story]:
    """Returns one split of the stories of some files, each story once.

    Raises:
        CorpusError: On no file, a file that is no text, one without stories, or an empty split.
        OSError: Where a file cannot be read.
    """
    found: dict[Story, None] = {}
    names = []
    for path in paths:
        names.append(str(path))
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise CorpusError(f"{path} is not a text file ({error.reason} at byte {error.start})") from None
        found |= dict.fromkeys(parse_stories(text, str(path)))
    if not names:
        raise CorpusError("no files of stories were given; name at least one")
    stories = [story for story in found if story.split == split]
    if not stories:
        raise CorpusError(
            f"none of the {len(found)} stories of {', '.join(names)} falls into the {split} split ({HELD_OUT:.0%} are held out)"
        )
    return stories
