"""Corpora of puzzles and texts: what is asked for, and which windows of a text there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.corpus import Corpus, CorpusError, puzzle_corpus, text_corpus, window_corpus, window_places
from models.tasks.base import TaskError
from models.tasks.stories.corpus import CorpusError as FileError
from models.tasks.stories.corpus import Story
from models.tasks.stories.task import END_ID, MORE_ID, START_ID, STORIES, STORY_ID
from models.tasks.sudoku.generator import generate
from models.tasks.sudoku.task import SOLUTION, SUDOKU


def a_document(n_head: int, n_text: int, *, ends: bool = True) -> np.ndarray:
    return np.array([STORY_ID, *range(100, 100 + n_head), START_ID, *range(1000, 1000 + n_text), *([END_ID] if ends else [])])


@given(st.integers(0, 64), st.integers(1, 700), st.booleans())
def test_windows_show_every_token_and_are_full_but_for_a_short_text(n_head: int, n_text: int, ends: bool) -> None:
    document = a_document(n_head, n_text, ends=ends)
    places = window_places(len(document), n_head + 2, 256)
    assert set(places[places >= 0]) == set(range(len(document)))
    assert (places[:, : n_head + 2] == np.arange(n_head + 2)).all()
    assert len(places) == 1 or (places >= 0).all()
    text = places[:, n_head + 2 :]
    assert (np.diff(text, axis=1)[text[:, 1:] >= 0] == 1).all()
    assert len(places) == -(-(n_text + ends) // (256 - n_head - 2))


def test_windows_are_those_that_likelihood_scores(tmp_path: Path) -> None:
    """The same windows as the task's own of held-out stories; only what is asked for differs: all of the text, but for its end."""
    stories = [
        Story("Write a bedtime story called `X`.", f"Story {number}. " + "The moon rose over the hills. " * 90) for number in range(80)
    ]
    held = [one for one in stories if one.split == "test"]
    path = tmp_path / "tales.txt"
    path.write_text("".join(f"{one.instruction}<start>{one.text}<end>" for one in stories), encoding="utf-8")
    documents = STORIES.held_out((str(path),))
    corpus = text_corpus(STORIES, [str(path)])
    assert (corpus.sequences == torch.cat([one.windows.tokens for one in documents])).all()
    assert corpus.group.tolist() == [number for number, one in enumerate(documents) for _ in one.windows.tokens]
    target = torch.cat([one.windows.target for one in documents])
    assert (corpus.asked >= target & (corpus.sequences != END_ID)).all()
    assert len(documents) == len(held) > 1
    for number, one in enumerate(held):
        first = corpus.rows(corpus.group == number).rows(torch.tensor([0]))
        assert one.text.startswith(STORIES.tokenizer.decode(first.sequences[first.asked].tolist()))


def test_the_text_is_asked_for_and_neither_instruction_nor_end() -> None:
    corpus = window_corpus(STORIES, [a_document(5, 20), a_document(3, 300), a_document(0, 4, ends=False)])
    assert corpus.group.tolist() == [0, 1, 1, 2]
    assert corpus.asked.sum(1).tolist() == [20, 251, 250, 4]
    assert (corpus.sequences[corpus.asked] >= 1000).all()
    assert corpus.sequences[:, :8][2].tolist() == [STORY_ID, 100, 101, 102, MORE_ID, 1050, 1051, 1052]
    assert corpus.sequences[2, -1] == END_ID
    assert corpus.sequences[3, 6:].unique().tolist() == [END_ID]


def test_a_part_of_a_corpus_keeps_its_groups() -> None:
    corpus = window_corpus(STORIES, [a_document(5, 600), a_document(3, 300)])
    part = corpus.rows(corpus.group == 1)
    assert part.group.tolist() == [1, 1]
    assert (part.sequences == corpus.sequences[3:]).all()
    assert (part.asked == corpus.asked[3:]).all()
    assert len(part) == 2


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    path = tmp_path / "tales.txt"
    path.write_text("".join(f"Tell {number}.<start>Once {number}.<end>" for number in range(300)), encoding="utf-8")
    return [str(path)]


def texts(corpus: Corpus) -> list[str]:
    return STORIES.decode(corpus.sequences)


def test_a_limit_draws_stories_and_a_seed_others(files: list[str]) -> None:
    whole = text_corpus(STORIES, files, split="train")
    drawn = {limit: texts(text_corpus(STORIES, files, split="train", limit=limit)) for limit in (1, 5, 20, 1000)}
    assert len(whole) > 250
    assert drawn[20][:5] == drawn[5]
    assert drawn[5][:1] == drawn[1]
    assert sorted(drawn[1000]) == sorted(texts(whole))
    assert drawn[20] != texts(text_corpus(STORIES, files, split="train", limit=20, seed=1))
    assert drawn[20] != texts(whole)[:20]


def test_the_splits_share_no_story(files: list[str]) -> None:
    assert not set(texts(text_corpus(STORIES, files))) & set(texts(text_corpus(STORIES, files, split="train")))


def test_a_bad_limit_task_or_file_is_named(files: list[str], tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="the limit is 0; it must be at least 1 story"):
        text_corpus(STORIES, files, limit=0)
    with pytest.raises(TaskError, match="'sudoku' has no files of stories"):
        text_corpus(SUDOKU, files)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(FileError, match="holds no story"):
        text_corpus(STORIES, [str(tmp_path / "empty.txt")])


def test_puzzles_ask_for_their_empty_cells() -> None:
    puzzles = generate(3, seed=2)
    corpus = puzzle_corpus(SUDOKU, puzzles)
    assert (corpus.asked[:, SOLUTION].numpy() == (puzzles.givens == 0)).all()
    assert not corpus.asked[:, : SOLUTION.start].any()
    assert corpus.group.tolist() == [0, 1, 2]
    with pytest.raises(TaskError, match="'stories' has no puzzles"):
        puzzle_corpus(STORIES, puzzles)
