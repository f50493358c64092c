"""Concepts of a user's own: labels that stand in a file beside the texts or puzzles they are of."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from interp.concepts import CONCEPTS
from interp.concepts.base import Concept, ConceptError, Sites
from interp.concepts.sudoku import board_tokens
from interp.corpus import Corpus, head_of, puzzle_corpus, window_corpus, window_places
from models.tasks.base import PuzzleTask, Task
from models.tasks.stories.corpus import END, START
from models.tasks.stories.task import END_ID, LONGEST_INSTRUCTION, START_ID, STORIES, STORY_ID
from models.tasks.sudoku.board import PuzzleError, parse_board
from models.tasks.sudoku.generator import Puzzles
from models.tasks.sudoku.solver import solve
from models.tasks.text import Text

MOST_CLASSES = 20
"""A column of more different values is no label."""
_KINDS = {bool: "true or false", int: "a whole number", str: "a string"}


class LabelError(ValueError):
    """A file of labels that cannot be used."""


@dataclass(frozen=True)
class _Line:
    """One document of a file."""

    where: str
    """The file and the line."""
    values: dict[str, Any]


def _texts(path: Path) -> list[tuple[int, str]]:
    """Returns the lines of a text file that are not blank, with their numbers."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise LabelError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from None
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def _json_lines(path: Path) -> list[_Line]:
    found = []
    for number, line in _texts(path):
        where = f"{path}, line {number}"
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise LabelError(f"{where}: no JSON ({error.msg} at character {error.pos + 1})") from None
        if not isinstance(values, dict):
            raise LabelError(f'{where}: {line[:40]!r} is no object; each line is one, such as {{"text": "...", "kind": true}}')
        found.append(_Line(where, values))
    return found


def _parquet_rows(path: Path) -> list[_Line]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except pa.ArrowInvalid as error:
        raise LabelError(f"{path} is no Parquet file ({str(error).splitlines()[0]})") from None
    return [_Line(f"{path}, row {number}", row) for number, row in enumerate(rows, start=1)]


_READERS: dict[str, Callable[[Path], list[_Line]]] = {".jsonl": _json_lines, ".parquet": _parquet_rows}


def _read(path: Path) -> list[_Line]:
    if path.suffix not in _READERS:
        raise LabelError(f"{path} ends in {path.suffix!r}; labels are read from {' and '.join(_READERS)} files")
    lines = _READERS[path.suffix](path)
    if not lines:
        raise LabelError(f"{path} holds no line; each is one text or puzzle with its labels")
    columns = list(lines[0].values)
    for line in lines:
        if set(line.values) != set(columns):
            odd = sorted(set(line.values) ^ set(columns))[0]
            raise LabelError(
                f"{line.where}: column {odd!r} is not on every line; all lines have the columns of the first: {', '.join(columns)}"
            )
    return lines


def _content(line: _Line, column: str) -> str:
    if column not in line.values:
        raise LabelError(f"{line.where}: column {column!r} is missing; it holds the {column} that the labels are of")
    value = line.values[column]
    if not isinstance(value, str) or not value.strip():
        raise LabelError(f"{line.where}: {column} is {value!r}; it must be a string that is not blank")
    return value


@dataclass(frozen=True)
class _Document:
    """A text as tokens."""

    tokens: Int[np.ndarray, " token"]
    """Instruction, ``<start>``, text, ``<end>``; or the text alone, in a model's own tokens."""
    spans: Int[np.ndarray, "token 2"]
    """The first character of each token that is no space, in the text as given, and the one after its last; empty for special ones."""


def _in_own_tokens(line: _Line, task: Text) -> _Document:
    """Returns a text in the tokens of a model's own tokenizer, and none that it would put around it."""
    given = _content(line, "text")
    found = task.tokenizer(given, add_special_tokens=False, return_offsets_mapping=True)
    if task.mask_token_id in found["input_ids"]:
        mask = task.vocabulary[task.mask_token_id]
        raise LabelError(f"{line.where}: the text holds {mask!r}, the model's mask token; a text is plain")
    spans = [(end - len(given[start:end].lstrip()), end) for start, end in found["offset_mapping"]]
    return _Document(np.array(found["input_ids"]), np.array(spans))


def _tokenized(line: _Line) -> _Document:
    """Returns a text, or ``instruction<start>text``, as tokens; a longer instruction than the task's is cut."""
    given = _content(line, "text")
    body = given.removesuffix(END)
    instruction, mark, text = body.partition(START)
    if not mark:
        instruction, text = "", body
    parts = [STORIES.tokenizer.encode(part) for part in (instruction, text)]
    special = [
        name for part in parts for index, name in zip(part.ids, part.tokens, strict=True) if index <= max(END_ID, STORIES.mask_token_id)
    ]
    if special or not text.strip():
        fault = f"holds {special[0]}" if special else "is empty"
        raise LabelError(f"{line.where}: the text {fault}; a text is plain, or of the form instruction{START}text{END}")
    head, rest = parts[0].ids[:LONGEST_INSTRUCTION], parts[1].ids
    shift, nothing = len(instruction) + len(mark), [(0, 0)]
    bare = [*nothing, *parts[0].offsets[: len(head)], *nothing, *((a + shift, b + shift) for a, b in parts[1].offsets), *nothing]
    spans = [(b - len(given[a:b].lstrip()), b) for a, b in bare]
    return _Document(np.array([STORY_ID, *head, START_ID, *rest, END_ID]), np.array(spans))


def _puzzle(line: _Line) -> Puzzles:
    try:
        givens = parse_board(_content(line, "puzzle"))
        solution = solve(givens)
        if "solution" in line.values and (parse_board(_content(line, "solution")) != solution).any():
            raise PuzzleError("the given solution is not the puzzle's only one")
    except PuzzleError as error:
        raise LabelError(f"{line.where}: {error}") from None
    return Puzzles(givens[None], solution[None])


def _corpus(lines: list[_Line], task: Task) -> tuple[Corpus, list[_Document]]:
    if isinstance(task, PuzzleTask):
        puzzles = [_puzzle(line) for line in lines]
        whole = Puzzles(np.concatenate([one.givens for one in puzzles]), np.concatenate([one.solutions for one in puzzles]))
        return puzzle_corpus(task, whole), []
    documents = [_in_own_tokens(line, task) if isinstance(task, Text) else _tokenized(line) for line in lines]
    return window_corpus(task, [one.tokens for one in documents]), documents


def _looked_up(corpus: Corpus, source: str, values: Bool[np.ndarray, "*shape"]) -> Callable[[Sites], Bool[np.ndarray, "row head"]]:
    """Returns the labels of a concept from its values ``[sample, head]`` or ``[sample, pos, head]``.

    A site is found by its group and its whole sequence, so that parts of the corpus may be read.
    """
    samples = {
        (int(group), row.tobytes()): sample for sample, (group, row) in enumerate(zip(corpus.group, corpus.sequences.numpy(), strict=True))
    }

    def labels(sites: Sites) -> Bool[np.ndarray, "row head"]:
        found = [samples.get((group, row.tobytes()), -1) for group, row in zip(sites.group.tolist(), sites.truth.numpy(), strict=True)]
        index = np.array(found)
        if (index < 0).any():
            strange = int(sites.sample[int(np.argmin(index))])
            raise ConceptError(f"sequence {strange} is not of {source}; a label of a file is asked of the sequences of that file alone")
        return values[index] if values.ndim == 2 else values[index, sites.position.numpy()]

    return labels


def _column(name: str, lines: list[_Line], source: Path) -> tuple[tuple[str, ...], Bool[np.ndarray, "document head"]]:
    """Returns the heads of a column of labels, and which of them are true of each document."""
    values = [line.values[name] for line in lines]
    kind = type(values[0])
    for line, value in zip(lines, values, strict=True):
        if type(value) not in _KINDS:
            raise LabelError(f"{line.where}: label {name!r} is {value!r}; a label is {', '.join(_KINDS.values())}")
        if type(value) is not kind:
            raise LabelError(f"{line.where}: label {name!r} is {value!r}, and {values[0]!r} before; on all lines it must be {_KINDS[kind]}")
    distinct = sorted(set(values))
    if len(distinct) == 1:
        raise LabelError(f"{source}: label {name!r} is {distinct[0]!r} on every line; a label needs two values at least")
    if len(distinct) > MOST_CLASSES:
        raise LabelError(
            f"{source}: column {name!r} has {len(distinct)} different values; a label has at most {MOST_CLASSES} "
            "(name the columns that are labels)"
        )
    if kind is bool:
        return (name,), np.array(values)[:, None]
    return tuple(map(str, distinct)), np.array([[value == one for one in distinct] for value in values])


def _document_concept(name: str, lines: list[_Line], source: Path, corpus: Corpus, task: Task) -> Concept:
    heads, values = _column(name, lines, source)
    labels = _looked_up(corpus, str(source), values[corpus.group.numpy()])
    features = board_tokens if isinstance(task, PuzzleTask) else None
    return Concept(name, task.name, heads, labels, f"column {name!r} of {source.name}", exclusive=heads != (name,), features=features)


def _spans(line: _Line) -> list[tuple[int, int, str]]:
    size, given, found = len(line.values["text"]), line.values["spans"], []
    if not isinstance(given, list):
        raise LabelError(f"{line.where}: spans is {given!r}; it must be a list, which may be empty")
    for one in given:
        start, end, label = (one.get(part) if isinstance(one, dict) else None for part in ("start", "end", "label"))
        if type(start) is not int or type(end) is not int or not isinstance(label, str):
            raise LabelError(f'{line.where}: a span is {one!r}; it must be such as {{"start": 0, "end": 4, "label": "name"}}')
        if not 0 <= start < end <= size:
            raise LabelError(f"{line.where}: a span is {start} to {end}; it must rise and lie within the text's {size} characters")
        found.append((start, end, label))
    return found


def _span_concept(lines: list[_Line], source: Path, corpus: Corpus, documents: list[_Document], task: Task) -> Concept:
    spans = [_spans(line) for line in lines]
    heads = tuple(sorted({label for here in spans for _, _, label in here}))
    if not 1 <= len(heads) <= MOST_CLASSES:
        raise LabelError(f"{source}: the spans have {len(heads)} different labels; they need 1 to {MOST_CLASSES}")
    values = []
    for here, document in zip(spans, documents, strict=True):
        first, last = document.spans.T
        marked = np.zeros((len(first) + 1, len(heads)), dtype=bool)  # the row after the last token is of what shows no token
        for start, end, label in here:
            marked[:-1, heads.index(label)] |= (first < end) & (start < last)
        values.append(marked[window_places(len(document.tokens), head_of(task, document.tokens), task.length)])
    labels = _looked_up(corpus, str(source), np.concatenate(values))
    return Concept("spans", task.name, heads, labels, f"the spans of {source.name}: which hold a sign of the token")


def labelled_corpus(path: Path, task: Task, *, columns: Sequence[str] | None = None) -> tuple[Corpus, tuple[Concept, ...]]:
    """Returns the texts or puzzles of a JSON-lines or Parquet file, each a group, and the concepts that its labels make.

    Each line holds ``text`` (plain, or ``instruction<start>text``; a long one becomes several windows), or for sudoku ``puzzle`` (81
    characters) and perhaps ``solution``. Every other column is a label of the whole text or puzzle: true or false is one head, up to 20
    different whole numbers or strings are exclusive heads. The column ``spans``, a list of ``{"start", "end", "label"}`` counted in
    characters of ``text``, labels tokens.

    Args:
        path: The file, which ends in ``.jsonl`` or ``.parquet``.
        task: What it is of.
        columns: Which columns are labels; None is all.

    Raises:
        LabelError: Naming file and line, on anything else.
        OSError: Where the file cannot be read.
    """
    lines = _read(path)
    corpus, documents = _corpus(lines, task)
    there = list(lines[0].values)
    own = ["puzzle", "solution"] if isinstance(task, PuzzleTask) else ["text"]
    chosen = [name for name in there if name not in own] if columns is None else list(columns)
    if not chosen:
        raise LabelError(f"{path}: no column is a label; there are: {', '.join(there)}")
    for name in chosen:
        if name not in there or name in own:
            raise LabelError(
                f"{path}: {name!r} is no column of labels; there are: {', '.join(other for other in there if other not in own)}"
            )
        if name in CONCEPTS:
            raise LabelError(f"{path}: column {name!r} has the name of a concept that exists already; call it otherwise")
    return corpus, tuple(
        _span_concept(lines, path, corpus, documents, task)
        if name == "spans" and documents
        else _document_concept(name, lines, path, corpus, task)
        for name in chosen
    )


def contrast_corpus(positive: Path, negative: Path, task: Task, *, name: str = "contrast") -> tuple[Corpus, Concept]:
    """Returns the prompts of two files, one a line (see ``labelled_corpus``), each a group, and the concept that tells the files apart.

    Raises:
        LabelError: Naming file and line, on a prompt that cannot be used, one that is in both files, or a file without any.
        OSError: Where a file cannot be read.
    """
    content = "puzzle" if isinstance(task, PuzzleTask) else "text"
    lines: list[_Line] = []
    seen: dict[str, str] = {}
    for path, truth in ((positive, True), (negative, False)):
        found = [_Line(f"{path}, line {number}", {content: line, name: truth}) for number, line in _texts(path)]
        if not found:
            raise LabelError(f"{path} holds no prompt; it needs one a line")
        for line in found:
            before = seen.setdefault(line.values[content], str(path))
            if before != str(path):
                raise LabelError(
                    f"{line.where}: the prompt {line.values[content][:40]!r} is in {before} too; it can be in one of them only"
                )
        lines += found
    corpus, _ = _corpus(lines, task)
    return corpus, _document_concept(name, lines, positive, corpus, task)
