"""The page of the trace viewer: steps by positions as a heatmap, and the canvas at each step, of one trace or of two side by side.

Arrays are embedded as compressed bytes in base64: tokens as places in the list of texts that occur, numbers in 8 bits over their range.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from interp.narration import Statement
from interp.viz.page import plotly_source, safe_json, write_page
from interp.viz.statement_view import statement_payload
from interp.viz.trace_view import ChannelView, TraceView, ViewError, shown_samples, spelling, strongest_features, trace_views
from models.trajectory import Trajectory

LEVELS = 254
"""Steps between the least and the greatest number; 255 stands for NaN."""

_STYLES = ("page.css", "trace.css")
_SCRIPTS = ("helpers.js", "statements.js", "trace_data.js", "trace_facts.js", "trace_heatmap.js", "trace_canvas.js", "trace.js")
_INLINE = (*_STYLES, *_SCRIPTS)
"""Files of ``templates/`` that stand in the page as they are, in variables such as ``trace_css``."""


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 6)).decode("ascii")


def _quantised(values: Float32[np.ndarray, "*shape"], *ranges: tuple[float, float]) -> dict[str, Any]:
    """Returns numbers in 8 bits: 0 is the low end of a range, 254 the high end, 255 is NaN; one range, or one for each of the last axis."""
    low, high = np.array(ranges).T
    span = np.where(high > low, high - low, 1.0)
    levels = np.where(np.isnan(values), LEVELS + 1, np.round((np.nan_to_num(values) - low) / span * LEVELS).clip(0, LEVELS))
    return {"low": low.tolist(), "high": high.tolist(), "data": _packed(levels.astype(np.uint8))}


def _range(values: Float32[np.ndarray, ...]) -> tuple[float, float]:
    """Returns the least and greatest number; 0 and 1 where all lie between them, so that probabilities keep their scale."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)


def _channel_payload(channel: ChannelView) -> dict[str, Any]:
    return {
        "name": channel.name,
        "features": list(channel.features),
        "recorded": channel.n_features,
        "values": _quantised(channel.values, *(_range(channel.values[..., index]) for index in range(channel.values.shape[-1]))),
    }


def _sample_payload(view: TraceView, known: Int32[np.ndarray, " text"]) -> dict[str, Any]:
    """Returns a sample's arrays; a token is its place in ``known``, counted from 1, and 0 where there is none."""
    kind = np.dtype("<u2" if len(known) < 2**16 else "<u4")

    def placed(tokens: Int32[np.ndarray, ...]) -> str:
        return _packed(np.where(tokens < 0, 0, np.searchsorted(known, tokens) + 1).astype(kind))

    return {
        "sample": view.sample,
        "steps": view.n_steps,
        "positions": view.tokens.shape[1],
        "ranks": view.top_tokens.shape[2],
        "bytes": kind.itemsize,
        "tokens": placed(view.tokens),
        "states": _packed(view.states),
        "proposals": placed(view.proposals),
        "topTokens": placed(view.top_tokens),
        "topProbabilities": _quantised(view.top_probabilities, (0.0, 1.0)),
        "commit": _packed(view.commit_step.astype("<i4")),
        "confidence": _quantised(view.confidence, (0.0, 1.0)),
        "margin": _quantised(view.margin, (0.0, 1.0)),
        "entropy": _quantised(view.entropy, (0.0, max(1e-3, float(np.nan_to_num(view.entropy).max(initial=0))))),
        "channels": [_channel_payload(channel) for channel in view.channels],
        "statements": [statement_payload(statement) for statement in view.statements],
    }


def _trace_payload(views: Sequence[TraceView]) -> dict[str, Any]:
    texts: dict[int, str] = {}
    for view in views:
        texts |= view.texts
    known = np.array(sorted(texts), np.int32)
    first = views[0]
    return {
        "model": first.model,
        "policy": first.policy,
        "layout": first.layout,
        "nSamples": first.n_samples,
        "texts": ["", *(texts[token] for token in known.tolist())],
        "samples": [_sample_payload(view, known) for view in views],
    }


def render_trace_view(traces: Sequence[Sequence[TraceView]], title: str) -> str:
    """Returns one standalone HTML page with one trace, or two side by side; each is a list of its samples' views."""
    loader = PackageLoader("interp.viz", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    sources: Mapping[str, Markup] = {name.replace(".", "_"): Markup(loader.get_source(environment, name)[0]) for name in _INLINE}
    return environment.get_template("trace.html.jinja").render(
        title=title,
        n_traces=len(traces),
        has_statements=any(view.statements for view in traces[0]),
        trace_json=safe_json([_trace_payload(views) for views in traces]),
        plotly=plotly_source(),
        **sources,
    )


@dataclass(frozen=True)
class TracePage:
    """The page of one trace or two; Jupyter shows it in a frame of its own, so that pages never touch each other."""

    html: str = field(repr=False)

    def _repr_html_(self) -> str:
        style = "width: 100%; height: 900px; border: 0; resize: vertical; overflow: hidden"
        return f'<iframe sandbox="allow-scripts" title="Trace viewer" style="{style}" srcdoc="{escape(self.html)}"></iframe>'

    def save(self, path: Path) -> None:
        """Writes the page to a file that opens with no network; an earlier one is replaced.

        Raises:
            ViewError: Where the path cannot take it.
        """
        check_place(path)
        write_page(self.html, path)


def check_place(path: Path) -> None:
    """Raises ViewError where a page cannot be written to ``path``."""
    if path.is_dir():
        raise ViewError(f"{path} is a folder; give the name of a file in it, such as {path / 'trace.html'}")
    if not path.absolute().parent.is_dir():
        raise ViewError(f"{path} cannot be written: there is no folder {path.parent}")


def show(
    trajectory: Trajectory,
    other: Trajectory | None = None,
    *,
    sample: int | None = 0,
    tokenizer: Path | None = None,
    statements: Sequence[Statement] = (),
) -> TracePage:
    """Returns the page of a trajectory, or of two side by side.

    Args:
        trajectory: A run.
        other: Another, of another policy or model; its samples are shown beside those of the same number.
        sample: The sample to show, counted from 0; None is the first 16 with a choice between them (fewer, if they are large).
        tokenizer: The folder of the tokenizer of both; without, tokens are spelled as the task spells them, or as ``#id``.
        statements: What was said of the first one, to be listed as far as the step.

    Raises:
        ViewError: On a sample or a tokenizer that is not there.
    """
    trajectories = (trajectory,) if other is None else (trajectory, other)
    samples = shown_samples(trajectories, sample)
    features = strongest_features(trajectories)
    told = (statements, ())
    traces = [
        list(trace_views(one, samples, spelling(one, tokenizer), features, said)) for one, said in zip(trajectories, told, strict=False)
    ]
    title = " beside ".join(f"{one.model}, {one.policy}" for one in trajectories)
    return TracePage(render_trace_view(traces, title))
