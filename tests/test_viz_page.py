"""The page as text: nothing breaks out, nothing is fetched, and a trace that makes no sense is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plotly.graph_objects import Figure

from interp.viz.board_trace import BoardStep, BoardTrace
from interp.viz.page import Table, render_page, render_trace_page, safe_json, write_page
from interp.viz.statement_view import StatementView
from models.tasks.sudoku.board import cell_name

ATTACK = "</script><img src=x onerror=alert(1)>"
SOLUTION = tuple((3 * (cell // 9) + cell // 27 + cell % 9) % 9 + 1 for cell in range(81))
GIVENS = (0, 0, *SOLUTION[2:])
NO_CONFIDENCE: tuple[float | None, ...] = (None,) * 81
PENCIL = ((0.25,) * 9,) * 81
STEPS = (
    BoardStep(GIVENS, (), (), NO_CONFIDENCE, None),
    BoardStep((0, *SOLUTION[1:]), (1,), (), (0.5, 0.9, *NO_CONFIDENCE[2:]), PENCIL),
    BoardStep(SOLUTION, (0,), (), (0.75, 0.9, *NO_CONFIDENCE[2:]), PENCIL),
)
TRACE = BoardTrace("a board", "a model", "a policy", GIVENS, SOLUTION, STEPS, (StatementView(1, "kind", "text", (1,), True, "evidence"),))


def embedded(html: str, name: str = "trace-data") -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def without_plotly(html: str) -> str:
    return re.sub(r'<script id="plotly-source">.*?</script>', "", html, flags=re.DOTALL)


def test_page_holds_the_trace() -> None:
    (trace,) = embedded(render_trace_page([TRACE], "title"))
    assert [step["digits"] for step in trace["steps"]] == [list(step.digits) for step in STEPS]
    assert trace["steps"][2]["confidence"][0] == 0.75
    assert trace["steps"][0]["pencil"] is None
    assert trace["steps"][2]["pencil"] == [[25] * 9, *[None] * 80], "only cells that were empty before the call keep what was read in them"
    said = {"step": 1, "kind": "kind", "text": "text", "places": [1], "sound": True, "evidence": "evidence", "support": "readable"}
    assert trace["statements"] == [said]


def test_nothing_a_model_says_becomes_markup() -> None:
    statement = StatementView(1, ATTACK, ATTACK + "\u2028", (1,), None, ATTACK)
    trace = replace(TRACE, title=ATTACK, model=ATTACK, policy=ATTACK, statements=(statement,))
    figure = Figure(
        {"data": [{"type": "scatter", "y": [1], "name": ATTACK}], "layout": {"title": {"text": ATTACK}, "meta": {"caption": ATTACK}}}
    )
    table = Table(ATTACK, (ATTACK, ATTACK), ((ATTACK, ATTACK),), ATTACK)
    html = render_page(title=ATTACK, traces=[trace], figures=[figure], findings=[ATTACK], tables=[table], intro=ATTACK)
    assert "<img" not in without_plotly(html)
    assert embedded(html)[0]["statements"][0]["text"] == ATTACK + "\u2028"
    assert embedded(html, "figure-data")[0]["data"][0]["name"] == ATTACK


@pytest.mark.parametrize("text", ["<!--", "<script", "</SCRIPT>", "&lt;", "\u2028\u2029", "é数"])
def test_safe_json_keeps_the_value_and_ends_no_script(text: str) -> None:
    safe = safe_json({text: [text]})
    assert json.loads(safe) == {text: [text]}
    assert not set("<>&\u2028\u2029") & set(safe)


def test_page_refers_to_nothing_outside_itself() -> None:
    figure = Figure({"data": [{"type": "scatter", "y": [1]}], "layout": {"title": {"text": "t"}}})
    html = render_page(title="t", traces=[TRACE], figures=[figure])
    assert html.count('<script id="plotly-source">') == 1
    own = without_plotly(html)
    assert not re.findall(r"https?://|//[a-z]+\.|@import|url\(|<link|\bsrc=|\bhref=", own)
    assert "default-src 'none'" in own


def test_a_page_with_no_figures_is_small_and_loads_no_plotly() -> None:
    assert len(render_trace_page([TRACE], "title")) < 100_000
    program = "import sys; from interp.viz.page import render_trace_page; render_trace_page([], 'x'); print('plotly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_findings_and_tables_are_on_the_page() -> None:
    html = render_page(title="t", traces=[], findings=["probes move"], tables=[Table("speed", ("stage", "s"), (("all", "1.5"),))])
    assert "probes move" in html
    assert "<td>1.5</td>" in html
    assert 'id="board"' not in html
    with pytest.raises(ValueError, match="1 values; it must have 2"):
        Table("speed", ("stage", "s"), (("all",),))


def test_write_page_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page("old", path)
    write_page("né", path)
    assert path.read_text(encoding="utf-8") == "né"
    with pytest.raises(UnicodeEncodeError):
        write_page("\ud800", path)
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
    assert path.read_text(encoding="utf-8") == "né"


def test_cells_are_named_by_row_and_column() -> None:
    assert [cell_name(cell) for cell in (0, 8, 9, 80)] == ["r1c1", "r1c9", "r2c1", "r9c9"]


def test_trace_knows_when_a_cell_was_written() -> None:
    assert TRACE.n_steps == 2
    assert [TRACE.first_written(cell) for cell in (0, 1, 2)] == [2, 1, None]
    assert [sum(TRACE.unwritten_before(step)) for step in (0, 1, 2)] == [2, 2, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"digits": GIVENS[1:]}, "80 values; it must have 81"),
        ({"digits": (10, *GIVENS[1:])}, "10 at r1c1; choose from 0 to 9"),
        ({"written": (81,)}, "cell 81; cells are 0 to 80"),
        ({"revised": (-1,)}, "cell -1; cells are 0 to 80"),
        ({"confidence": (1.5, *NO_CONFIDENCE[1:])}, "confidence at r1c1 is 1.5; a probability"),
        ({"confidence": NO_CONFIDENCE[1:]}, "80 values; it must have 81"),
        ({"pencil": PENCIL[1:]}, "80 values; it must have 81"),
        ({"pencil": ((0.5,) * 8, *PENCIL[1:])}, "pencil at r1c1 has 8 values; it must have 9"),
        ({"pencil": ((float("nan"),) * 9, *PENCIL[1:])}, "pencil at r1c1 is nan; a probability"),
    ],
)
def test_a_step_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(STEPS[1], **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"givens": GIVENS[1:]}, "givens has 80 values"),
        ({"solution": GIVENS}, "solution has 0 at r1c1; choose from 1 to 9"),
        ({"steps": ()}, "no steps"),
        ({"steps": (replace(STEPS[0], digits=(0,) * 81),)}, "where 3 is given; givens never change"),
        ({"statements": (StatementView(9, "", "", (), None, ""),)}, "of step 9; this trace has steps 0 to 2"),
        ({"statements": (StatementView(0, "", "", (99,), None, ""),)}, "a statement names cell 99; cells are 0 to 80"),
    ],
)
def test_a_trace_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TRACE, **change)
