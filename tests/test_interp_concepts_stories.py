"""Concepts of stories against labels written by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.concepts import CONCEPTS, ConceptError, Sites
from interp.concepts.passage import Passage, passage, token_bytes
from interp.concepts.stories import NEAR, OWN_BUCKETS, OWN_NEAR, SHARED_BUCKETS, SHARED_NEAR, text_tokens
from interp.concepts.words import NEGATIVE, PAST, POSITIVE, PRESENT
from models.tasks.stories.task import END_ID, MASK_ID, MORE_ID, START_ID, STORIES, STORY_ID

BEDTIME = "Write a bedtime story called `The Lost Star`."


def window(text: str, instruction: str = BEDTIME, *, begins: bool = True, ends: bool = True) -> torch.Tensor:
    head = [STORY_ID, *STORIES.tokenizer.encode(instruction).ids, START_ID if begins else MORE_ID]
    body = STORIES.tokenizer.encode(text).ids
    assert len(head) + len(body) < 256
    return torch.tensor([head + body + [END_ID] * ((256 - len(head) - len(body)) if ends else 0)])


def sites_at(tokens: torch.Tensor, positions: list[int], seen: torch.Tensor | None = None) -> Sites:
    truth = tokens.expand(len(positions), -1).contiguous()
    shown = truth if seen is None else seen.expand(len(positions), -1).contiguous()
    return Sites.unwritten(shown, truth, torch.tensor(positions), torch.zeros(len(positions)).long(), torch.ones(len(positions)))


def text_sites(tokens: torch.Tensor) -> Sites:
    one = passage(tokens[0].numpy().tobytes())
    return sites_at(tokens, list(range(one.first, one.first + len(one.spans))))


def told(concept: str, text: str, head: int = 0, *, begins: bool = True, ends: bool = True) -> str:
    """The tokens at which a head is true, joined; a bar where some between are left out."""
    tokens = window(text, begins=begins, ends=ends)
    sites = text_sites(tokens)
    true = CONCEPTS[concept].labels(sites)[:, head]
    ids = tokens[0, sites.position]
    runs = np.split(np.arange(len(true)), np.flatnonzero(np.diff(true)) + 1)
    return "|".join(STORIES.tokenizer.decode(ids[run].tolist()).strip() for run in runs if true[run[0]])


def read(text: str, **edges: bool) -> Passage:
    return passage(window(text, **edges)[0].numpy().tobytes())


def sentences(text: str) -> list[str]:
    one = read(text)
    return [one.text[begin:end] for begin, end in one.sentences]


# ---------------------------------------------------------------- tokens and characters


@given(st.text(max_size=60).filter(lambda text: "<" not in text))
def test_tokens_spell_the_text(text: str) -> None:
    one = read(text, begins=True)
    assert one.text == text
    for (begin, end), index in zip(one.spans, STORIES.tokenizer.encode(text).ids, strict=True):
        assert token_bytes()[index] in text[begin:end].encode() or not text[begin:end]
    assert (one.spans[1:, 0] <= one.spans[:-1, 1]).all()


def test_a_window_is_cut_into_instruction_and_text() -> None:
    one = read("Once. Twice.", begins=False, ends=False)
    assert (one.instruction, one.text, one.begins, one.ends) == (BEDTIME, "Once. Twice.", False, False)
    assert (read("Once.").begins, read("Once.").ends) == (True, True)


def test_a_character_that_the_window_cuts_stays_as_it_is() -> None:
    dash = STORIES.tokenizer.encode("🌼").ids
    assert len(dash) == 4
    tokens = torch.tensor([STORY_ID, MORE_ID, *dash[2:], *STORIES.tokenizer.encode(" and so").ids, *dash[:1]])
    one = passage(tokens.numpy().tobytes())
    assert len(one.text) == 2 + len(" and so") + 1
    assert one.text[2:-1] == " and so"
    assert one.spans[0].tolist() == [0, 1]


def test_a_text_in_which_nothing_stands_is_read() -> None:
    assert read("").spans.shape == (0, 2)
    assert read(" \n ").sentences.tolist() == [[0, 3]]


# ---------------------------------------------------------------- sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He ran. She sat.", ["He ran.", "She sat."]),
        ("Mr. Fox met Mrs. Hen. They ate!", ["Mr. Fox met Mrs. Hen.", "They ate!"]),
        ('"Go!" he said. "Why?" No answer…', ['"Go!" he said.', '"Why?"', "No answer…"]),
        ("One line\n\nAnother. ", ["One line", "Another."]),
        ("Wait... what? Yes", ["Wait... what?", "Yes"]),
        ("At 3.5 miles (so far.) Then home.", ["At 3.5 miles (so far.)", "Then home."]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_edges_of_sentences_are_the_tokens_that_hold_their_first_and_last_sign() -> None:
    text = "The fox ran. Then he sat!\n\nThe end."
    assert told("sentence_edge", text, 0) == "The|Then|The"
    assert told("sentence_edge", text, 1) == ".|!|."


def test_what_the_window_cuts_is_no_edge_of_a_sentence() -> None:
    text = "fox ran. Then he sat. And the"
    assert told("sentence_edge", text, 0, begins=False, ends=False) == "Then|And"
    assert told("sentence_edge", text, 1, begins=False, ends=False) == ".|."
    assert told("sentence_edge", "He sat. They ate.", 1, ends=False) == ".|."
    assert told("sentence_edge", "He sat. They sat", 1, ends=True) == ".|sat"


def test_thirds_of_a_sentence_are_counted_in_tokens() -> None:
    text = "The old tree stood in there. He sat."
    assert [told("sentence_third", text, head) for head in range(3)] == ["The old tree|He", "stood in|sat", "there.|."]


def test_thirds_of_the_text_and_edges_of_the_story() -> None:
    assert [told("text_third", "The old tree stood.", head) for head in range(3)] == ["The old", "tree stood", "."]
    for begins in (True, False):
        for ends in (True, False):
            sites = text_sites(window("The old fox ran.", begins=begins, ends=ends))
            assert (CONCEPTS["story_edge"].labels(sites) == [begins, ends]).all()


# ---------------------------------------------------------------- quotations


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('He said, "Go home," and left.', '"Go home,"'),
        ('"One." He sat. "Two."', '"One."|"Two."'),
        ("“One,” he said.", "“One,”"),
        ("He said, \"I heard 'go' there.\" So be it.", "\"I heard 'go' there.\""),
        ('He said, "I heard "go" there." So be it.', '"I heard "go" there."'),
        ('He said, "I never close.\n\nAnd then we ate.', '"I never close.'),
        ('"I never close.\n\n"But I do," she said.', '"I never close.|"But I do,"'),
        ('"Wait\u2013" he said. It was late\u2013"Go"\u2013he ran.', '"Wait\u2013"|"Go"'),
        ("No quotes. It's Tom's.", ""),
        ('A stray" mark.', ""),
        ('"Go."\n\n"Now." Then.', '"Go."|"Now."'),
    ],
)
def test_dialogue(text: str, expected: str) -> None:
    assert told("dialogue", text) == expected


def test_a_quote_that_closes_first_was_open_before_the_window() -> None:
    assert told("dialogue", 'home," he said. "Now."', begins=False) == 'home,"|"Now."'
    assert told("dialogue", 'home," he said. "Now."', begins=True) == '"Now."'
    assert told("dialogue", 'He sat.\n\nhome," he said.', begins=False) == ""
    assert told("dialogue", 'He said, "and so', ends=False) == '"and so'


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("text", "positive", "negative"),
    [
        ("She smiled with joy. He was afraid. The end.", "She smiled with joy.", "He was afraid."),
        ("A happy dark night. Friends!", "Friends!", ""),
        ("In the DARKNESS. Her friend's house.", "Her friend's house.", "In the DARKNESS."),
    ],
)
def test_sentiment_is_of_the_sentence(text: str, positive: str, negative: str) -> None:
    assert (told("sentiment", text, 0), told("sentiment", text, 1)) == (positive, negative)


def test_tense_is_of_the_sentence() -> None:
    text = "He walked home. It is late. A red bed. I didn't go. They don't know. He said it is so."
    assert told("tense", text, 0) == "He walked home.|I didn't go."
    assert told("tense", text, 1) == "It is late.|They don't know."
    assert told("tense", text, 2) == "A red bed.|He said it is so."


@pytest.mark.parametrize("word", ["was", "walked", "didn't", "I'd", "SAID", "wouldn\u2019t"])
def test_past_forms(word: str) -> None:
    assert PAST(word)
    assert not PRESENT(word)


@pytest.mark.parametrize("word", ["is", "can't", "we're", "they've", "it's", "Don't"])
def test_present_forms(word: str) -> None:
    assert PRESENT(word)
    assert not PAST(word)


def test_no_word_is_both_and_hardly_a_word_is_neither_good_nor_bad() -> None:
    for word in STORIES.vocabulary:
        assert not (PAST(word.strip()) and PRESENT(word.strip()))
        assert not (POSITIVE(word.strip()) and NEGATIVE(word.strip()))
    assert not any(POSITIVE(word) or NEGATIVE(word) or PAST(word) for word in ("the", "bed", "hundred", "tree"))


# ---------------------------------------------------------------- what the instruction states


@pytest.mark.parametrize(
    ("instruction", "genre", "topics"),
    [
        (BEDTIME, "bedtime", {"stars", "mystery"}),
        ("Tell a campfire story called `The Ghost of Willow Creek`.", "campfire", {"ghosts", "forest", "water"}),
        ("Tell the child-appropriate tale called `Gus`.", "child", set()),
        ("Write a bedtime story called `A Dragon's\nLullaby", "bedtime", {"magic", "night"}),
    ],
)
def test_genre_and_topic_are_what_the_instruction_states(instruction: str, genre: str, topics: set[str]) -> None:
    tokens = window("A story of stars and ghosts.", instruction)
    sites = sites_at(tokens, [3, 60, 255])
    for name, expected in (("genre", {genre}), ("topic", topics)):
        concept = CONCEPTS[name]
        for row in concept.labels(sites):
            assert {head for head, true in zip(concept.heads, row, strict=True) if true} == expected


def test_an_instruction_without_a_genre_is_named() -> None:
    with pytest.raises(ConceptError, match=r"'Tell me one.' states no genre; it names one of: bedtime story, "):
        CONCEPTS["genre"].labels(sites_at(window("Once.", "Tell me one."), [5]))


@pytest.mark.parametrize("concept", ["dialogue", "tense", "sentiment", "sentence_third", "sentence_edge", "text_third"])
def test_a_position_outside_the_text_is_refused(concept: str) -> None:
    tokens = window("Once upon a time.")
    one = passage(tokens[0].numpy().tobytes())
    stop = one.first + len(one.spans)
    for position in (0, one.first - 1, stop, 255):
        with pytest.raises(ConceptError, match=f"position {position} of sequence 0 .* at positions {one.first} to {stop - 1}"):
            CONCEPTS[concept].labels(sites_at(tokens, [one.first, position]))


# ---------------------------------------------------------------- names


def names_at(concept: str, tokens: torch.Tensor, hidden: str) -> set[str]:
    seen = tokens.clone()
    for name in hidden.split():
        for index in STORIES.tokenizer.encode(f" {name}").ids:
            seen[seen == index] = MASK_ID
    labels = CONCEPTS[concept].labels(sites_at(tokens, [30], seen))[0]
    return {head for head, true in zip(CONCEPTS[concept].heads, labels, strict=True) if true}


def test_a_name_is_seen_or_still_to_come() -> None:
    tokens = window("One day Emily met Luna. They saw Jack's house and Maximus.", "Write a bedtime story called `Aria`.")
    assert names_at("name_seen", tokens, "") == {"Emily", "Luna", "Jack", "Aria"}
    assert names_at("name_coming", tokens, "") == set()
    assert names_at("name_seen", tokens, "Emily Jack") == {"Luna", "Aria"}
    assert names_at("name_coming", tokens, "Emily Jack") == {"Emily", "Jack"}


def test_a_name_that_is_visible_elsewhere_is_not_to_come() -> None:
    tokens = window("Emily sat. Then Emily ran.")
    seen = tokens.clone()
    seen[0, int((tokens[0] == STORIES.tokenizer.encode(" Emily").ids[0]).nonzero()[-1])] = MASK_ID
    sites = sites_at(tokens, [25], seen)
    assert CONCEPTS["name_seen"].labels(sites)[0].tolist()[0]
    assert not CONCEPTS["name_coming"].labels(sites).any()


# ---------------------------------------------------------------- what a reader without a network is given


def test_features_count_visible_tokens_and_show_those_nearby() -> None:
    tokens = window("The fox and the hen and the cat.")
    the, and_ = (STORIES.tokenizer.encode(word).ids[0] for word in (" the", " and"))
    places = (tokens[0] == the).nonzero()[:, 0].tolist()
    seen = tokens.clone()
    seen[0, places[1]] = MASK_ID
    features = text_tokens(sites_at(tokens, [places[0], 255], seen))
    n_bag, n_near = OWN_BUCKETS + SHARED_BUCKETS, OWN_NEAR + SHARED_NEAR
    bag, near, place = np.split(features, [n_bag, n_bag + len(NEAR) * n_near], axis=1)
    near = near.reshape(2, len(NEAR), n_near)
    assert np.expm1(bag).sum(1) == pytest.approx([256, 256], rel=1e-5)
    assert np.expm1(bag[0, MASK_ID]) == pytest.approx(1)
    assert near[0].sum(1).tolist() == [1] * 7
    assert near[1].sum(1).tolist() == [1, 1, 1, 1, 0, 0, 0]  # nothing stands beyond the window
    assert (near[0, 2] == near[0, 2].max() * np.eye(n_near)[near[0, 2].argmax()]).all()
    assert near[0, 2].argmax() != near[0, 3].argmax()
    assert near[0, 2].argmax() < OWN_NEAR  # " and" is frequent enough to count for itself
    assert place.argmax(1).tolist() == [places[0] // 16, 15]
    both = text_tokens(sites_at(tokens, [int((tokens[0] == and_).nonzero()[0])], seen))
    assert (both[0, n_bag : n_bag + len(NEAR) * n_near].reshape(len(NEAR), -1)[3] == near[0, 2]).all()


def test_features_do_not_depend_on_company() -> None:
    tokens = window("The fox and the hen and the cat.")
    sites = text_sites(tokens)
    alone = text_tokens(sites.rows(torch.tensor([4])))
    assert (text_tokens(sites)[4] == alone[0]).all()
    assert (text_tokens(replace(sites, truth=sites.truth * 0))[4] == alone[0]).all()
