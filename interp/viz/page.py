"""One standalone HTML page: it opens from a disk with no network, and nothing a model says can become markup in it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from interp.viz.board_trace import BoardStep, BoardTrace
from interp.viz.statement_view import statement_payload

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

INTRO = (
    "A masked-diffusion model fills a board in an order of its own, some cells in every network call, and writes no chain of thought. "
    "Step through a board here: large digits are what it has written; the small pencil marks in empty cells are the candidates that a "
    "linear probe, fitted on the model's autoregressive twin and moved over, reads in its activations before anything is written there; "
    "the statements put those readings into words, and a symbolic solver has checked each one that can be checked."
)
_INLINE = ("page.css", "helpers.js", "statements.js", "viewer.js", "figures.js")
"""Files of ``templates/`` that stand in the page as they are, in variables such as ``page_css``."""
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


@dataclass(frozen=True)
class Table:
    """A small table; the first column names the row, the others are set as numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of table {self.title!r} has {len(row)} values; it must have {len(self.columns)}")


def safe_json(value: object) -> Markup:
    """Returns a value as JSON that cannot end the script element it stands in; a NaN is a ValueError."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return Markup(text)


def _percent(value: float) -> int:
    return round(100 * float(value))


def _step_payload(step: BoardStep, unwritten: Sequence[bool]) -> dict[str, Any]:
    pencil = None
    if step.pencil is not None:
        pencil = [[_percent(mark) for mark in marks] if empty else None for marks, empty in zip(step.pencil, unwritten, strict=True)]
    return {
        "digits": [int(digit) for digit in step.digits],
        "written": [int(cell) for cell in step.written],
        "revised": [int(cell) for cell in step.revised],
        "confidence": [None if value is None else round(float(value), 4) for value in step.confidence],
        "pencil": pencil,
    }


def _trace_payload(trace: BoardTrace) -> dict[str, Any]:
    return {
        "title": trace.title,
        "model": trace.model,
        "policy": trace.policy,
        "givens": [int(digit) for digit in trace.givens],
        "solution": [int(digit) for digit in trace.solution],
        "steps": [_step_payload(step, trace.unwritten_before(index)) for index, step in enumerate(trace.steps)],
        "statements": [statement_payload(statement) for statement in trace.statements],
    }


def figure_payload(figure: Figure) -> dict[str, Any]:
    """Returns data, layout and caption of a figure; the caption is read from ``layout.meta["caption"]``."""
    drawn: dict[str, Any] = json.loads(figure.to_json())
    layout = drawn["layout"]
    title = layout.pop("title", {}).get("text", "")
    caption = (layout.get("meta") or {}).get("caption", "")
    return {"data": drawn["data"], "layout": layout, "title": title, "caption": caption}


def plotly_source() -> Markup:
    """Returns plotly.js, inlined so that the page needs no network; imported here so that a page with no figures stays quick and small."""
    from plotly.offline import get_plotlyjs

    source: str = get_plotlyjs()
    if "</script" in source.lower():
        raise ValueError(
            "this version of plotly.js contains '</script', so it cannot be inlined; install a plotly that pyproject.toml allows"
        )
    return Markup(source)


def render_page(
    *,
    title: str,
    traces: Sequence[BoardTrace],
    figures: Sequence[Figure] = (),
    findings: Sequence[str] = (),
    tables: Sequence[Table] = (),
    intro: str = INTRO,
    links: Mapping[str, str] | None = None,
    frame: Mapping[str, str] | None = None,
) -> str:
    """Returns one standalone HTML page: title, findings, board viewer, figures, tables.

    Args:
        title: Heading and window title.
        traces: Boards to step through, in the order of the select box; none leaves the viewer out.
        figures: Plotly figures; ``layout.meta["caption"]`` becomes the text below. plotly.js (4.8 MB) is inlined only where there is one.
        findings: Sentences, shown first.
        tables: Shown last.
        intro: One paragraph below the title.
        links: Pages that belong to it, by what they are called; paths from its own folder.
        frame: What the findings stand in, by its heading: the claim, the limits, the command.
    """
    loader = PackageLoader("interp.viz", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    sources = {name.replace(".", "_"): Markup(loader.get_source(environment, name)[0]) for name in _INLINE}
    payloads = [figure_payload(figure) for figure in figures]
    return environment.get_template("page.html.jinja").render(
        title=title,
        intro=intro,
        findings=list(findings),
        links=links or {},
        frame=frame or {},
        tables=list(tables),
        has_traces=bool(traces),
        traces_json=safe_json([_trace_payload(trace) for trace in traces]),
        figures=payloads,
        figures_json=safe_json([{"data": payload["data"], "layout": payload["layout"]} for payload in payloads]),
        plotly=plotly_source() if payloads else "",
        **sources,
    )


def render_trace_page(traces: Sequence[BoardTrace], title: str) -> str:
    """Returns the same page with the board viewer alone: no plotly.js, some tens of kilobytes a board."""
    return render_page(title=title, traces=traces)


def write_page(html: str, path: Path) -> None:
    """Writes a page so that a reader sees the old file or the whole new one, never a part."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(html)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
