"""Concepts of stories: what the instruction states, and what a token stands in.

Ground truth is of the *reference* text, whatever of it is visible from a site, unless a concept's ``about`` says otherwise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.concepts.base import Concept, ConceptError, Sites
from interp.concepts.passage import Passage, passage, token_bytes
from interp.concepts.words import GENRES, NAMES, NEGATIVE, PAST, POSITIVE, PRESENT, TOPICS
from models.tasks.stories.corpus import Story
from models.tasks.stories.task import MASK_ID, STORIES

OWN_BUCKETS, SHARED_BUCKETS = 384, 128
"""The most frequent tokens count for themselves in the bag of visible tokens, all others share buckets."""
OWN_NEAR, SHARED_NEAR = 224, 32
"""The same for the tokens next to a site."""
NEAR = range(-3, 4)
PLACE_BINS = 16
_FREQUENT = Path(__file__).with_name("frequent_tokens.json")
_CHUNK = 512
_NAME = re.compile(rf"\b(?:{'|'.join(NAMES)})\b")

_Labels = Callable[[Sites], Bool[np.ndarray, "row head"]]


def _windows(sites: Sites) -> tuple[list[Passage], Int[np.ndarray, " row"]]:
    """Returns the different windows that sites stand in, and which of them each site stands in."""
    number: dict[bytes, int] = {}
    index = np.array([number.setdefault(row.tobytes(), len(number)) for row in sites.truth.numpy()])
    return [passage(row) for row in number], index


def _of_window(label: Callable[[Passage], Bool[np.ndarray, " head"]]) -> _Labels:
    """Returns the labels of a concept that is the same at all positions of a window."""

    def labels(sites: Sites) -> Bool[np.ndarray, "row head"]:
        found, index = _windows(sites)
        return np.stack([label(one) for one in found])[index]

    return labels


def _of_token(label: Callable[[Passage], Bool[np.ndarray, "token head"]]) -> _Labels:
    """Returns the labels of a concept of the text's tokens, which raise ConceptError at a position outside the text."""

    def labels(sites: Sites) -> Bool[np.ndarray, "row head"]:
        found, index = _windows(sites)
        first = np.array([one.first for one in found])
        count = np.array([len(one.spans) for one in found])
        place = sites.position.numpy() - first[index]
        outside = np.flatnonzero((place < 0) | (place >= count[index]))
        if len(outside):
            row = outside[0]
            stop = first[index[row]] + count[index[row]]
            raise ConceptError(
                f"position {sites.position[row]} of sequence {sites.sample[row]} is no token of the story's text; "
                f"this concept is asked there, at positions {first[index[row]]} to {stop - 1}"
            )
        begin = np.concatenate([[0], np.cumsum(count)])[:-1]
        return np.concatenate([label(one) for one in found])[begin[index] + place]

    return labels


def _one_of(classes: np.ndarray, n: int) -> Bool[np.ndarray, "row head"]:
    return classes[:, None] == np.arange(n)


def _genre(one: Passage) -> Bool[np.ndarray, " head"]:
    found = np.array([words in one.instruction for words in GENRES.values()])
    if found.sum() != 1:
        raise ConceptError(f"the instruction {one.instruction!r} states no genre; it names one of: {', '.join(GENRES.values())}")
    return found


def _topic(one: Passage) -> Bool[np.ndarray, " head"]:
    title = Story(one.instruction, "").title or one.instruction.partition("`")[2]
    return np.array([words.search(title) is not None for words in TOPICS.values()])


def _edges_of_story(one: Passage) -> Bool[np.ndarray, " head"]:
    return np.array([one.begins, one.ends])


def _third_of_text(one: Passage) -> Bool[np.ndarray, "token head"]:
    return _one_of(np.arange(len(one.spans)) * 3 // max(len(one.spans), 1), 3)


def _dialogue(one: Passage) -> Bool[np.ndarray, "token head"]:
    return one.quoted()[:, None]


def _sentiment(one: Passage) -> Bool[np.ndarray, "token head"]:
    balance = (one.per_sentence(POSITIVE) - one.per_sentence(NEGATIVE))[one.sentence]
    return np.stack([balance > 0, balance < 0], axis=1)


def _tense(one: Passage) -> Bool[np.ndarray, "token head"]:
    balance = np.sign(one.per_sentence(PAST) - one.per_sentence(PRESENT))[one.sentence]
    return balance[:, None] == np.array([1, -1, 0])


def _third_of_sentence(one: Passage) -> Bool[np.ndarray, "token head"]:
    sentence = one.sentence
    size = np.bincount(sentence)
    begin = np.concatenate([[0], np.cumsum(size)])[:-1]
    return _one_of((np.arange(len(sentence)) - begin[sentence]) * 3 // size[sentence], 3)


def _edges_of_sentence(one: Passage) -> Bool[np.ndarray, "token head"]:
    first, last = one.sentences[:, 0], one.sentences[:, 1] - 1
    starts, stops = first[int(not one.begins) :], last if one.last_is_whole() else last[:-1]
    return np.stack([np.logical_and(one.spans[:, :1] <= edge, edge < one.spans[:, 1:]).any(axis=1) for edge in (starts, stops)], axis=1)


@lru_cache(50_000)
def _names(tokens: bytes) -> frozenset[str]:
    """Returns the names in a sequence; one whose tokens are not all there is not found."""
    table = token_bytes()
    pieces = (b"\0" if index == MASK_ID else table[index] or b"\n" for index in np.frombuffer(tokens, dtype=np.int64).tolist())
    return frozenset(_NAME.findall(b"".join(pieces).decode("utf-8", "replace")))


def _named(tokens: Int[np.ndarray, "row pos"]) -> Bool[np.ndarray, "row head"]:
    found = [_names(row.tobytes()) for row in tokens]
    return np.array([[name in names for name in NAMES] for names in found])


def _name_seen(sites: Sites) -> Bool[np.ndarray, "row head"]:
    return _named(sites.seen.numpy())


def _name_coming(sites: Sites) -> Bool[np.ndarray, "row head"]:
    return _named(sites.truth.numpy()) & ~_named(sites.seen.numpy())


def _written_next(sites: Sites) -> Bool[np.ndarray, "row head"]:
    return sites.next.numpy()[:, None]


@lru_cache(4)
def _buckets(own: int, shared: int) -> Int[np.ndarray, " vocab"]:
    """Returns the bucket of each token id: the special tokens and the most frequent ones their own, the others shared."""
    frequent = json.loads(_FREQUENT.read_text(encoding="utf-8"))[:own]
    bucket = own + np.arange(len(STORIES.vocabulary)) % shared
    bucket[frequent] = np.arange(own)
    return bucket


def _hashed(own: int, shared: int) -> Callable[[Int[np.ndarray, "*place"]], Int[np.ndarray, "*place"]]:
    """Returns the bucket of tokens of any vocabulary: what is hidden and what is absent their own, the others shared."""
    return lambda tokens: np.where(tokens < 0, -1 - np.minimum(tokens, -1), 2 + tokens % (own + shared - 2))


def text_tokens(sites: Sites) -> Float[np.ndarray, "row feature"]:
    """Returns what a reader of a story without any network is given: a bag of visible tokens, those nearby, and the site's place.

    The bag holds log(1 + count) of each bucket over the window, the mask token's included; the tokens at offsets -3 to 3 are one-hot, all
    0 outside the window; the place is one of ``PLACE_BINS`` bins of the window. What the model has not yet written is seen as masks.
    """
    return _bag(sites, lambda own, shared: _buckets(own, shared).__getitem__)


def hashed_tokens(sites: Sites) -> Float[np.ndarray, "row feature"]:
    """Returns what ``text_tokens`` does, of text in any vocabulary: tokens fall into buckets by their number."""
    return _bag(sites, _hashed)


def _bag(
    sites: Sites, buckets: Callable[[int, int], Callable[[Int[np.ndarray, "*place"]], Int[np.ndarray, "*place"]]]
) -> Float[np.ndarray, "row feature"]:
    seen, position = sites.seen.numpy(), sites.position.numpy()
    n, length = seen.shape
    n_bag, n_near = OWN_BUCKETS + SHARED_BUCKETS, OWN_NEAR + SHARED_NEAR
    n_lexical = n_bag + len(NEAR) * n_near
    features = np.zeros((n, n_lexical + PLACE_BINS), dtype=np.float32)
    bucket, weight = buckets(OWN_BUCKETS, SHARED_BUCKETS), np.log1p(np.arange(length + 1)).astype(np.float32)
    for start in range(0, n, _CHUNK):
        part = bucket(seen[start : start + _CHUNK])
        flat = part + np.arange(len(part))[:, None] * n_bag
        features[start : start + _CHUNK, :n_bag] = weight[np.bincount(flat.ravel(), minlength=len(part) * n_bag)].reshape(-1, n_bag)
    places = position[:, None] + np.array(NEAR)
    rows, offsets = np.nonzero((places >= 0) & (places < length))
    near = buckets(OWN_NEAR, SHARED_NEAR)(seen[rows, places[rows, offsets]])
    features[rows, n_bag + offsets * n_near + near] = 1
    features[np.arange(n), n_lexical + position * PLACE_BINS // length] = 1
    return features


STORY_CONCEPTS = (
    Concept(
        "genre",
        "stories",
        tuple(GENRES),
        _of_window(_genre),
        "the genre that the instruction states: the same for all positions of a story",
        exclusive=True,
    ),
    Concept(
        "topic", "stories", tuple(TOPICS), _of_window(_topic), "what words of the title tell, several or none: the same for a whole story"
    ),
    Concept("name_seen", "stories", NAMES, _name_seen, "which of the commonest names the visible tokens hold, title included"),
    Concept(
        "name_coming", "stories", NAMES, _name_coming, "which of the commonest names the window's whole text holds, but nothing visible yet"
    ),
    Concept(
        "sentiment",
        "stories",
        ("positive", "negative"),
        _of_token(_sentiment),
        "whether the sentence of the whole text has more words of the one list than of the other",
    ),
    Concept("dialogue", "stories", ("quoted",), _of_token(_dialogue), "whether the token stands inside quotation marks in the whole text"),
    Concept(
        "tense",
        "stories",
        ("past", "present", "neither"),
        _of_token(_tense),
        "which of past and present verb forms the sentence of the whole text has more of",
        exclusive=True,
    ),
    Concept(
        "sentence_third",
        "stories",
        ("first third", "middle third", "last third"),
        _of_token(_third_of_sentence),
        "which third of its sentence the token stands in, by tokens of the whole text; a sentence cut by the window is what is left of it",
        exclusive=True,
    ),
    Concept(
        "sentence_edge",
        "stories",
        ("starts a sentence", "ends a sentence"),
        _of_token(_edges_of_sentence),
        "whether the token of the whole text holds the first or last sign of a sentence; what the window cuts is no edge",
    ),
    Concept(
        "text_third",
        "stories",
        ("first third", "middle third", "last third"),
        _of_token(_third_of_text),
        "which third of the window's text the token stands in",
        exclusive=True,
    ),
    Concept(
        "story_edge",
        "stories",
        ("story begins", "story ends"),
        _of_window(_edges_of_story),
        "whether the window holds the story's beginning, and its end: the same for all positions of a window",
    ),
    Concept("written_next", "stories", ("written by this call",), _written_next, "whether the call that reads it writes it", of_a_run=True),
)
