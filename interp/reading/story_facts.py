"""Facts about a text as a whole: what a canvas shows of them in its written tokens, and the readers that may tell them before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int

from interp.concepts import CONCEPTS, Sites
from interp.concepts.passage import Passage, passage
from interp.concepts.words import GENRES, NEGATIVE, PAST, POSITIVE, PRESENT
from models.tasks.stories.task import MASK_ID, MORE_ID, START_ID, STORIES

ENDING = 2 / 3
"""Where in the window its ending begins."""
SPOKEN = 0.1
"""A text is told in dialogue if more than this share of its tokens stands in quotation marks."""
_BREAK = STORIES.vocabulary.index("\n")


@dataclass(frozen=True)
class Fact:
    """Something that a finished text shows as a whole, and the readers that may tell it before."""

    name: str
    concept: str
    """Its readers are of this concept; a head of the fact is read by the head of that name."""
    heads: tuple[str, ...]
    shows: Callable[[Int[np.ndarray, "row pos"]], Bool[np.ndarray, "row head"]]
    """What a canvas shows in its written tokens; at the end of a run, the truth."""
    claim: str
    """A statement that it will show ``{head}``."""
    layer: int
    """After which block it is read unless asked otherwise: where readers of the concept moved best (see the README)."""
    from_place: float = 0.0
    """Reads only places from this share of the window on."""
    of_instruction: bool = False
    """Whether the instruction alone shows it, so that nothing is left to claim once that is written."""


def passages_of(canvases: Int[np.ndarray, "row pos"]) -> list[Passage]:
    """Returns the texts of canvases, every unwritten token a line break: words that it parts are not whole."""
    return [passage(row.tobytes()) for row in np.where(canvases == MASK_ID, _BREAK, canvases).astype(np.int64)]


def _labelled(concept: str, canvases: Int[np.ndarray, "row pos"]) -> Bool[np.ndarray, "row head"]:
    tokens, none = torch.from_numpy(canvases.astype(np.int64)), torch.zeros(len(canvases), dtype=torch.long)
    return CONCEPTS[concept].labels(Sites.unwritten(tokens, tokens, none, none, none.float()))


def _genre(canvases: Int[np.ndarray, "row pos"]) -> Bool[np.ndarray, "row head"]:
    return np.array([[words in one.instruction for words in GENRES.values()] for one in passages_of(canvases)])


def _topic(canvases: Int[np.ndarray, "row pos"]) -> Bool[np.ndarray, "row head"]:
    return _labelled("topic", np.where(canvases == MASK_ID, _BREAK, canvases))


def _name(canvases: Int[np.ndarray, "row pos"]) -> Bool[np.ndarray, "row head"]:
    return _labelled("name_seen", canvases)


def _ending(canvases: Int[np.ndarray, "row pos"]) -> Bool[np.ndarray, "row head"]:
    part = canvases[:, int(ENDING * canvases.shape[1]) :]
    part = np.concatenate([np.full_like(part[:, :1], START_ID), part], axis=1)
    balance = np.array([(one.per_sentence(POSITIVE) - one.per_sentence(NEGATIVE)).sum() for one in passages_of(part)])
    return np.stack([balance > 0, balance < 0], axis=1)


def _dialogue(canvases: Int[np.ndarray, "row pos"]) -> Bool[np.ndarray, "row head"]:
    return np.array([[one.quoted().sum() > SPOKEN * len(one.spans)] for one in passages_of(canvases)])


def _tense(canvases: Int[np.ndarray, "row pos"]) -> Bool[np.ndarray, "row head"]:
    balance = np.array([(one.per_sentence(PAST) - one.per_sentence(PRESENT)).sum() for one in passages_of(canvases)])
    return np.stack([balance > 0, balance < 0], axis=1)


FACTS: dict[str, Fact] = {
    one.name: one
    for one in (
        Fact("genre", "genre", CONCEPTS["genre"].heads, _genre, "the instruction will ask for a {head} story", 3, of_instruction=True),
        Fact("topic", "topic", CONCEPTS["topic"].heads, _topic, "the title will be about {head}", 3, of_instruction=True),
        Fact("name", "name_coming", CONCEPTS["name_coming"].heads, _name, "{head} will be named", 2),
        Fact("ending", "sentiment", ("positive", "negative"), _ending, "the ending will be {head}", 3, ENDING),
        Fact("dialogue", "dialogue", ("quoted",), _dialogue, "much of the text will be {head}", 3),
        Fact("tense", "tense", ("past", "present"), _tense, "the text will be told in the {head}", 3),
    )
}


def instructed(canvases: Int[np.ndarray, "*row pos"]) -> Bool[np.ndarray, "*row"]:
    """Returns in which canvases the whole instruction is written: ``<start>`` or ``<more>`` with nothing unwritten before it."""
    starts = np.isin(canvases, (START_ID, MORE_ID))
    unwritten = np.logical_or.accumulate(canvases == MASK_ID, axis=-1)
    return np.asarray((starts & ~unwritten).any(axis=-1))


def first_shown(shown: Bool[np.ndarray, "run step head"]) -> Int[np.ndarray, "run head"]:
    """Returns the step from which on each head is shown to the end; one more than the last step where it is not shown in the end."""
    return shown.shape[1] - np.logical_and.accumulate(shown[:, ::-1], axis=1).sum(1)
