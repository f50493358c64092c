"""Concepts of a user's own, from files of labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from interp.concepts import CONCEPTS, Concept, ConceptError, Sites, features_of, labels_of
from interp.concepts.labelled import LabelError, contrast_corpus, labelled_corpus
from interp.concepts.sudoku import board_tokens
from interp.corpus import Corpus
from models.tasks.base import Task
from models.tasks.stories.task import STORIES
from models.tasks.sudoku.board import format_board
from models.tasks.sudoku.generator import generate
from models.tasks.sudoku.task import SUDOKU

LINES: list[dict[str, Any]] = [
    {"text": "The old fox ran home.", "kind": True, "stars": 3, "tone": "calm"},
    {"text": "Tell it.<start>A hen sat.<end>", "kind": False, "stars": 1, "tone": "wild"},
    {"text": "Both slept. " * 120, "kind": True, "stars": 3, "tone": "odd"},
]


def written(folder: Path, lines: list[dict[str, Any]], name: str = "labels.jsonl") -> Path:
    path = folder / name
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(lines), path)
    else:
        path.write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    return path


def all_sites(corpus: Corpus) -> Sites:
    """Every token that is asked for."""
    sample, position = torch.nonzero(corpus.asked, as_tuple=True)
    n = len(sample)
    whole = corpus.sequences[sample]
    false = torch.zeros(n, dtype=torch.bool)
    return Sites(whole, whole, position, sample, corpus.group[sample], torch.ones(n), torch.ones(n).long(), torch.zeros(n).long(), false)


@pytest.mark.parametrize("name", ["labels.jsonl", "labels.parquet"])
def test_columns_are_concepts_of_whole_texts(name: str, tmp_path: Path) -> None:
    corpus, (kind, stars, tone) = labelled_corpus(written(tmp_path, LINES, name), STORIES)
    assert (kind.heads, stars.heads, tone.heads) == (("kind",), ("1", "3"), ("calm", "odd", "wild"))
    assert (kind.exclusive, stars.exclusive, tone.exclusive) == (False, True, True)
    assert kind.about == f"column 'kind' of {name}"
    sites = all_sites(corpus)
    document = sites.group.numpy()
    assert (kind.labels(sites)[:, 0] == np.array([True, False, True])[document]).all()
    assert (stars.labels(sites).argmax(1) == np.array([1, 0, 1])[document]).all()
    assert (tone.labels(sites).argmax(1) == np.array([0, 2, 1])[document]).all()
    assert labels_of(tone, sites).sum(1).unique().tolist() == [1]


def test_a_long_text_is_windows_of_one_group(tmp_path: Path) -> None:
    corpus, _ = labelled_corpus(written(tmp_path, LINES), STORIES)
    assert corpus.group.tolist() == [0, 1, 2, 2]
    assert STORIES.decode(corpus.sequences)[:2] == ["<start>The old fox ran home.", "Tell it.<start>A hen sat."]
    assert STORIES.tokenizer.decode(corpus.sequences[1][corpus.asked[1]].tolist()) == "A hen sat."


def test_labels_follow_their_text_through_any_part_of_the_corpus(tmp_path: Path) -> None:
    corpus, (kind, *_) = labelled_corpus(written(tmp_path, LINES), STORIES)
    part = corpus.rows(torch.tensor([3, 1]))
    sites = all_sites(part)
    assert (kind.labels(sites)[:, 0] == (sites.sample == 0).numpy()).all()


def test_a_label_is_asked_of_its_own_file_alone(tmp_path: Path) -> None:
    _, (kind, *_) = labelled_corpus(written(tmp_path, LINES), STORIES)
    other, _ = labelled_corpus(written(tmp_path, LINES[::-1], "other.jsonl"), STORIES)
    with pytest.raises(ConceptError, match=r"sequence 0 is not of .*labels.jsonl"):
        kind.labels(all_sites(other))


def marked(text: str, spans: list[dict[str, Any]], folder: Path) -> list[str]:
    path = written(folder, [{"text": text, "spans": spans}, {"text": "Other.", "spans": [{"start": 0, "end": 1, "label": "b"}]}])
    corpus, (concept,) = labelled_corpus(path, STORIES)
    sites = all_sites(corpus.rows(corpus.group == 0))
    true = torch.from_numpy(concept.labels(sites)[:, concept.heads.index("a")])
    tokens = sites.truth.gather(1, sites.position[:, None])[:, 0]
    return [STORIES.tokenizer.decode([index]).strip() for index in tokens[true].tolist()]


@pytest.mark.parametrize(
    ("text", "begin", "end", "expected"),
    [
        ("The old tree stood.", 4, 8, ["old", "tree"][:1]),
        ("The old tree stood.", 4, 9, ["old", "tree"]),
        ("The old tree stood.", 3, 7, ["old"]),
        ("The old tree stood.", 5, 6, ["old"]),
        ("The old tree stood.", 0, 19, ["The", "old", "tree", "stood", "."]),
        ("Tell it.<start>The old tree stood.", 19, 22, ["old"]),
        ("Tell it.<start>The old tree stood.<end>", 0, 4, []),
    ],
)
def test_a_span_marks_the_tokens_that_hold_a_sign_of_it(text: str, begin: int, end: int, expected: list[str], tmp_path: Path) -> None:
    assert marked(text, [{"start": begin, "end": end, "label": "a"}], tmp_path) == expected


def test_spans_may_overlap_and_cross_windows(tmp_path: Path) -> None:
    text = "Both slept. " * 120
    spans = [
        {"start": 0, "end": 4, "label": "a"},
        {"start": 0, "end": 11, "label": "b"},
        {"start": len(text) - 7, "end": len(text), "label": "a"},
    ]
    corpus, (concept,) = labelled_corpus(written(tmp_path, [{"text": text, "spans": spans}]), STORIES)
    sites = all_sites(corpus)
    labels = concept.labels(sites)
    assert len(corpus) == 2
    assert STORIES.tokenizer.decode(sites.truth[0, sites.position[labels[:, 0]]].tolist()).startswith("Both")
    assert [labels[(sites.sample == sample).numpy()].any(0).tolist() for sample in (0, 1)] == [[True, True], [True, False]]
    assert not concept.exclusive


def test_chosen_columns_are_labels_alone(tmp_path: Path) -> None:
    lines = [{**line, "id": f"document {number}"} for number, line in enumerate(LINES)]
    _, concepts = labelled_corpus(written(tmp_path, lines), STORIES, columns=["tone", "kind"])
    assert [concept.name for concept in concepts] == ["tone", "kind"]


def sudoku_lines(n: int = 4) -> list[dict[str, Any]]:
    puzzles = generate(n, seed=5)
    return [
        {"puzzle": format_board(givens), "solution": format_board(solution), "liked": number % 2 == 0}
        for number, (givens, solution) in enumerate(zip(puzzles.givens, puzzles.solutions, strict=True))
    ]


def test_puzzles_have_labels_too(tmp_path: Path) -> None:
    corpus, (liked,) = labelled_corpus(written(tmp_path, sudoku_lines()), SUDOKU)
    sites = all_sites(corpus)
    assert (liked.labels(sites)[:, 0] == (sites.sample % 2 == 0).numpy()).all()
    assert liked.task == "sudoku"
    assert features_of(liked) is board_tokens
    bare = [{"puzzle": line["puzzle"], "liked": line["liked"]} for line in sudoku_lines()]
    assert (labelled_corpus(written(tmp_path, bare), SUDOKU)[0].sequences == corpus.sequences).all()


# ---------------------------------------------------------------- contrasts


def told_apart(corpus: Corpus, concept: Concept) -> list[bool]:
    sites = all_sites(corpus)
    true = concept.labels(sites)[:, 0]
    return [bool(true[(sites.group == group).numpy()].all()) for group in range(int(corpus.group.max()) + 1)]


@pytest.mark.parametrize(
    ("task", "positive", "negative"),
    [
        (STORIES, ["I love it.", "Tell it.<start>We won."], ["I hate it.", "", "We lost.", "Rain."]),
        (SUDOKU, [line["puzzle"] for line in sudoku_lines(2)], [line["puzzle"] for line in sudoku_lines(5)[2:]]),
    ],
    ids=["stories", "sudoku"],
)
def test_a_contrast_tells_two_files_apart(task: Task, positive: list[str], negative: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(positive))
    (tmp_path / "b.txt").write_text("\n".join(negative) + "\n")
    corpus, concept = contrast_corpus(tmp_path / "a.txt", tmp_path / "b.txt", task, name="liked")
    assert concept.heads == ("liked",)
    assert told_apart(corpus, concept) == [True, True, False, False, False]


# ---------------------------------------------------------------- what cannot be used


def changed(line: int, **values: Any) -> list[dict[str, Any]]:
    return [{**one, **(values if number == line else {})} for number, one in enumerate(LINES, start=1)]


def with_spans(*spans: Any) -> list[dict[str, Any]]:
    return [{"text": "The fox.", "spans": list(spans)}]


TWO_SOLUTIONS = format_board(generate(1, seed=5).givens[0] * (np.arange(81) > 40))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"kind": True}, {"kind": False}], r"line 1: column 'text' is missing"),
        (changed(2, text="  "), r"line 2: text is '  '; it must be a string"),
        (changed(2, text=7), r"line 2: text is 7; it must be a string"),
        (changed(2, text="Tell it.<start> "), r"line 2: the text is empty"),
        (changed(2, text="A <mask> here."), r"line 2: the text holds <mask>; a text is plain"),
        (changed(2, text="A<start>b<start>c"), r"line 2: the text holds <start>"),
        (changed(3, kind="yes"), r"line 3: label 'kind' is 'yes', and True before; on all lines it must be true or false"),
        (changed(3, kind=1), r"line 3: label 'kind' is 1, and True before"),
        (changed(2, tone=None), r"line 2: label 'tone' is None; a label is true or false, a whole number, a string"),
        (changed(1, tone=0.5), r"line 1: label 'tone' is 0.5; a label is"),
        (changed(2, kind=True), r"labels.jsonl: label 'kind' is True on every line; a label needs two values"),
        ([*LINES, {"text": "More."}], r"line 4: column 'kind' is not on every line"),
        ([*LINES, {**LINES[0], "extra": 1}], r"line 4: column 'extra' is not on every line"),
        ([{"text": "One."}, {"text": "Two."}], r"no column is a label; there are: text"),
        ([{"text": "One.", "genre": "a"}, {"text": "Two.", "genre": "b"}], r"column 'genre' has the name of a concept"),
        ([{"text": f"Text {n}.", "id": n} for n in range(21)], r"column 'id' has 21 different values; a label has at most 20"),
        (
            with_spans({"start": 0, "end": 9, "label": "a"}),
            r"line 1: a span is 0 to 9; it must rise and lie within the text's 8 characters",
        ),
        (with_spans({"start": 4, "end": 4, "label": "a"}), r"a span is 4 to 4"),
        (with_spans({"start": -1, "end": 4, "label": "a"}), r"a span is -1 to 4"),
        (with_spans({"start": 0, "end": 4}), r"line 1: a span is \{'start': 0, 'end': 4\}; it must be such as"),
        (with_spans({"start": 0.5, "end": 4, "label": "a"}), r"a span is \{'start': 0.5"),
        (with_spans("fox"), r"a span is 'fox'; it must be such as"),
        (with_spans(), r"the spans have 0 different labels; they need 1 to 20"),
        ([{"text": "The fox.", "spans": "fox"}], r"line 1: spans is 'fox'; it must be a list"),
    ],
)
def test_a_bad_line_is_named(lines: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=message) as caught:
        labelled_corpus(written(tmp_path, lines), STORIES)
    assert "labels.jsonl" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"puzzle": TWO_SOLUTIONS}, "line 2: the board has more than one solution"),
        ({"puzzle": "12"}, "line 2: the puzzle has 2 characters"),
        ({"puzzle": 5}, "line 2: puzzle is 5; it must be a string"),
        ({"solution": "1" * 81}, "line 2: the given solution is not the puzzle's only one"),
    ],
)
def test_a_bad_puzzle_is_named(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    lines = [{**line, **(values if number == 1 else {})} for number, line in enumerate(sudoku_lines())]
    with pytest.raises(LabelError, match=message):
        labelled_corpus(written(tmp_path, lines), SUDOKU)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no line"),
        (b"\n \n", "holds no line"),
        (b'{"text": "One."', "line 1: no JSON"),
        (b'{"text": "One.", "a": true}\n[1]\n', r"line 2: '\[1\]' is no object"),
        (b'{"text": "\xff"}', "is not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_json_lines_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(LabelError, match=message) as caught:
        labelled_corpus(path, STORIES)
    assert str(path) in str(caught.value)


def test_other_files_and_columns_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, LINES)
    for columns in (["mood"], ["text"]):
        with pytest.raises(LabelError, match=rf"'{columns[0]}' is no column of labels; there are: kind, stars, tone"):
            labelled_corpus(path, STORIES, columns=columns)
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(LabelError, match=r"bad.parquet is no Parquet file"):
        labelled_corpus(tmp_path / "bad.parquet", STORIES)
    with pytest.raises(LabelError, match=r"ends in '.csv'; labels are read from .jsonl and .parquet files"):
        labelled_corpus(tmp_path / "a.csv", STORIES)
    with pytest.raises(FileNotFoundError):
        labelled_corpus(tmp_path / "none.jsonl", STORIES)


def test_a_bad_contrast_is_named(tmp_path: Path) -> None:
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    a.write_text("One.\nTwo.\n")
    b.write_text("\n\n")
    with pytest.raises(LabelError, match=r"b.txt holds no prompt"):
        contrast_corpus(a, b, STORIES)
    b.write_text("Three.\nTwo.\n")
    with pytest.raises(LabelError, match=r"b.txt, line 2: the prompt 'Two.' is in .*a.txt too"):
        contrast_corpus(a, b, STORIES)
    b.write_text("Three\n")
    with pytest.raises(LabelError, match=r"a.txt, line 1: the puzzle has 4 characters|a.txt, line 1: character 1"):
        contrast_corpus(a, b, SUDOKU)
    assert "contrast" not in CONCEPTS
