"""Statements on disk and in text: they come back as they were, a broken line names its field, and each level tells what it should."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.narration import (
    LEVELS,
    Evidence,
    Statement,
    StatementError,
    everything,
    line_a_step,
    paragraph,
    read_jsonl,
    statement_schema,
    to_jsonl,
    with_support,
)
from interp.narration.levels import NOTHING, SHOWN

SEEN = Evidence("ar logistic digit", "resid_post.3", 2, 85, "5", 0.97, "r1c4")
DECIDED = Statement(0, 2, "decided", "r1c4 = 5 already decided", (85,), "5", (SEEN,), True, 3, places=("r1c4",))
WRITTEN = Statement(0, 5, "only_candidate", "r1c4 = 5: only candidate left", (85,), "5", (), True, 3, places=("r1c4",))
GUESSED = Statement(0, 5, "guess", "r1c5 = 6: no readable reason", (86,), "6", (), None, 0, places=("r1c5",))
REVISED = Statement(1, 4, "revised", "r1c4: 5 -> 6", (85,), "6", (), places=("r1c4",))
ACCOUNT = [DECIDED, WRITTEN, GUESSED, REVISED]

texts = st.text(st.characters(codec="utf-8"), max_size=9)
numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(texts, st.lists(st.integers(0, 999), max_size=3), numbers, st.none() | st.booleans(), st.none() | st.integers(0, 99))
def test_statements_come_back_from_their_lines_as_they_were(
    text: str, positions: list[int], number: float, sound: bool | None, lead: int | None
) -> None:
    seen = replace(SEEN, reader=text, head=text, place=text, probability=number)
    one = Statement(3, 4, text, text, tuple(positions), text, (seen,) * len(positions), sound, lead, "used", (text,))
    assert read_jsonl(to_jsonl([one, DECIDED])) == [one, DECIDED]


def test_the_schema_names_every_field_of_a_line_and_says_what_it_is() -> None:
    schema = statement_schema()
    line = json.loads(to_jsonl([DECIDED]))
    for described, written in ((schema, line), (schema["$defs"]["Evidence"], line["evidence"][0])):
        assert set(described["properties"]) == set(written)
        assert set(described["required"]) <= set(written)
        assert described["additionalProperties"] is False
    assert all(
        "description" in schema["properties"][name] for name in ("step", "positions", "value", "evidence", "sound", "lead", "support")
    )


def broken(**changes: object) -> str:
    line = json.loads(to_jsonl([DECIDED])) | changes
    return to_jsonl([WRITTEN]) + json.dumps(line) + "\n"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (broken(step="two"), "line 2 is no statement: step: "),
        (broken(positions=[1.5]), "line 2 is no statement: positions.0: "),
        (broken(support="proved"), "line 2 is no statement: support: "),
        (broken(cells=[1]), "line 2 is no statement: cells: "),
        (broken(evidence=[{"reader": "r"}]), "line 2 is no statement: evidence.0.point: "),
        (to_jsonl([WRITTEN]) + "{}\n", "line 2 is no statement: sample: "),
        ("not json\n", "line 1 is no statement: it: "),
    ],
)
def test_a_broken_line_names_its_field(text: str, field: str) -> None:
    with pytest.raises(StatementError) as caught:
        read_jsonl(text)
    assert str(caught.value).startswith(field)
    assert "\n" not in str(caught.value)


def test_support_is_given_to_the_kinds_it_was_found_for() -> None:
    marked = with_support(ACCOUNT, {"decided": "used"})
    assert [one.support for one in marked] == ["used", "readable", "readable", "readable"]
    assert [replace(one, support="readable") for one in marked] == ACCOUNT


def test_everything_tells_each_statement_with_its_grade_and_what_it_rests_on() -> None:
    assert list(everything(ACCOUNT)) == [
        "step 2: r1c4 = 5 already decided [sound] <- 5 in r1c4 0.97 (ar logistic digit @ resid_post.3)",
        "step 5: r1c4 = 5: only candidate left [sound]",
        "step 5: r1c5 = 6: no readable reason",
        "step 4: r1c4: 5 -> 6",
    ]


def test_a_line_a_step_tells_what_was_decided_together_and_counts_what_is_too_much() -> None:
    assert list(line_a_step(ACCOUNT)) == [
        "step 2: decided: r1c4 = 5",
        "step 5: r1c4 = 5: only candidate left; r1c5 = 6: no readable reason",
        "step 4: r1c4: 5 -> 6",
    ]
    (line,) = line_a_step([replace(DECIDED, places=(f"r1c{n}",)) for n in range(1, SHOWN + 3)])
    assert line == "step 2: decided: r1c1 = 5, r1c2 = 5, r1c3 = 5 and 2 more decided"
    (line,) = line_a_step([replace(DECIDED, places=())] * 2)
    assert line == "step 2: decided: 2"


def test_a_paragraph_counts() -> None:
    first, second = paragraph(ACCOUNT)
    assert first == (
        "2 written: for 1 a reason was read (1 only candidate), and the rules confirm 1; the others: 1 guess. "
        "1 decided before they were written, 3 calls ahead in the mean, 1 of 1 rightly."
    )
    assert second == "Also 1 revised."


def test_where_nothing_was_read_that_is_said() -> None:
    following = replace(DECIDED, kind="next")
    assert list(line_a_step([following])) == [f"step 2: {NOTHING}"]
    assert list(paragraph([following])) == ["Nothing readable."]


def test_levels_are_named_from_the_shortest_to_the_longest() -> None:
    lengths = [sum(len(line) for line in tell(ACCOUNT * 9)) for tell in LEVELS.values()]
    assert lengths == sorted(lengths)
