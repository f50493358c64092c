"""What the trace viewer shows is what the trajectory holds, packed so that it can be unpacked, and nothing in it becomes markup."""

from __future__ import annotations

import base64
import json
import re
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from interp.cli import main
from interp.viz.trace_page import TracePage, _quantised, render_trace_view, show
from interp.viz.trace_view import MOST_FEATURES, MOST_SAMPLES, ViewError, shown_samples, spelling, trace_view
from models.recorder import Recorder
from models.tasks import TASKS
from models.trajectory import State, Trajectory
from models.trajectory_store import CHANNEL

ATTACK = "</script><img src=x onerror=window.broken=1>"
MASK = 4
STORY = TASKS["stories"].vocabulary


def make_run(initial: list[list[int]], canvases: list[list[list[int]]], *, task: str = "", ranks: int = 2) -> Trajectory:
    """Returns the run over these canvases, in which a finished sample (its canvas stands still) makes no more calls."""
    start = np.array(initial)
    recorder, before = Recorder(start, start == MASK, MASK), start
    for step, canvas in enumerate(np.array(canvases), start=1):
        rows = np.flatnonzero((before == MASK).any(axis=1))
        said = np.full(canvas[rows].shape, step / 10, np.float32)
        tops = (*said.shape, ranks)
        spoken = {"proposal": canvas[rows].astype(np.int32), "confidence": said, "margin": said / 2, "entropy": 2 * said}
        if ranks:
            spoken |= {"top_token": np.full(tops, step, np.int32), "top_probability": np.full(tops, 0.5, np.float32)}
        recorder.add(rows, canvas[rows], spoken)
        before = canvas
    attributes = {"model": "a-model", "fingerprint": "0", "task": task, "policy": "a-policy", "options": "{}", "seed": 0}
    return recorder.finish(attributes)


def small_run(task: str = "stories", ranks: int = 2) -> Trajectory:
    """Returns two samples: one of 4 positions and 3 calls, one of 3 positions and 1 call."""
    first = [[0, 7, MASK, MASK], [0, 7, 9, MASK], [0, 7, 9, 11]]
    second = [[0, MASK, 8, -1], [0, 5, 8, -1], [0, 5, 8, -1]]
    canvases = [list(pair) for pair in zip(first, second, strict=True)]
    return make_run([[0, MASK, MASK, MASK], [0, MASK, 8, -1]], [[[0, 7, MASK, MASK], [0, 5, 8, -1]], *canvases[1:]], task=task, ranks=ranks)


def with_channel(run: Trajectory, name: str, values: np.ndarray, labels: list[str] | None = None) -> Trajectory:
    """Returns the run with a recorded channel."""
    dims = ("sample", "step", "position", f"{name}.feature")[: values.ndim]
    data = run.data.assign({CHANNEL + name: (dims, values.astype(np.float16))})
    return Trajectory(data if labels is None else data.assign_coords({dims[3]: labels}))


def embedded(html: str) -> Any:
    found = re.search(r'<script type="application/json" id="trace-data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def unpacked(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), kind)


def without_plotly(html: str) -> str:
    return re.sub(r'<script id="plotly-source">.*?</script>', "", html, flags=re.DOTALL)


# ---------------------------------------------------------------- the values


def test_a_view_holds_the_steps_and_positions_that_the_sample_has() -> None:
    run = small_run()
    first, second = (trace_view(run, sample) for sample in (0, 1))
    assert (first.n_steps, second.n_steps) == (3, 1)
    assert first.tokens.tolist() == [run.tokens(step)[0].tolist() for step in range(4)]
    assert second.tokens.tolist() == [[0, MASK, 8], [0, 5, 8]], "neither the steps after its end nor the positions beyond it"
    assert second.states.tolist() == [
        [State.PROMPT, State.MASKED, State.PROMPT],
        [State.PROMPT, State.COMMITTED, State.PROMPT],
    ]
    for name in ("confidence", "margin", "entropy"):
        np.testing.assert_array_equal(getattr(first, name), run.data[name].values[0])
    assert first.top_tokens.shape == (4, 4, 2)
    assert trace_view(small_run(ranks=0), 0).top_tokens.shape == (4, 4, 0)


def test_of_a_sudoku_the_solution_half_is_shown() -> None:
    initial = [*[0] * 81, 10, *[0] * 80, MASK]
    run = make_run([initial], [[[*initial[:-1], 7]]], task="sudoku")
    view = trace_view(run, 0)
    assert view.layout == "board"
    assert view.tokens.shape == (2, 81)
    assert view.tokens[1, 80] == 7
    assert trace_view(small_run(), 0).layout == "text"


def test_texts_are_those_of_the_tokens_that_occur() -> None:
    view = trace_view(small_run(), 1)
    assert view.texts == {token: STORY[token] for token in (0, 1, MASK, 5, 8)}, "1 is the best token of call 1"
    assert trace_view(small_run(task=""), 1).texts[8] == "#8"


def test_a_wide_channel_shows_the_features_that_vary_most() -> None:
    run = small_run()
    rng = np.random.default_rng(0)
    spread = np.where(np.arange(40) % 5 == 3, 0.0, 1 + np.arange(40))
    values = rng.normal(size=(2, 4, 4, 40)) * spread + 100 * (spread == 0)
    (channel,) = trace_view(with_channel(run, "latents", values, [f"latent {index}" for index in range(40)]), 1).channels
    expected = sorted(np.argsort(-values.std(axis=(0, 1, 2)), kind="stable")[:MOST_FEATURES])
    assert channel.features == tuple(f"latent {index}" for index in expected), "a feature that is always the same shows nothing"
    assert channel.n_features == 40
    np.testing.assert_allclose(channel.values, values[1, :2, :3][..., expected], rtol=1e-3)


def test_two_traces_side_by_side_show_the_same_features() -> None:
    rng = np.random.default_rng(0)
    runs = [with_channel(small_run(), "latents", rng.normal(size=(2, 4, 4, 60)) * rng.permutation(60)) for _ in range(2)]
    first, second = (trace["samples"][0]["channels"][0] for trace in embedded(show(*runs).html))
    assert len(first["features"]) == MOST_FEATURES
    assert first["features"] == second["features"]


def test_each_feature_is_packed_over_its_own_range() -> None:
    values = np.stack([np.linspace(0, 1, 32), np.linspace(-200, 50, 32)], axis=-1).reshape(2, 4, 4, 2)
    (trace,) = embedded(show(with_channel(small_run(), "pair", values)).html)
    packed = trace["samples"][0]["channels"][0]["values"]
    levels, low, high = unpacked(packed["data"], "u1").reshape(4, 4, 2), np.array(packed["low"]), np.array(packed["high"])
    np.testing.assert_allclose(low + (high - low) * levels / 254, values[0], atol=0.3)
    assert (low[0], high[0]) == (0, 1), "what lies in 0 to 1 keeps the scale of a probability"


def test_a_scalar_channel_has_no_features() -> None:
    (channel,) = trace_view(with_channel(small_run(), "doubt", np.ones((2, 4, 4))), 0).channels
    assert (channel.features, channel.values.shape) == ((), (4, 4, 1))


def test_as_many_samples_are_shown_as_fit() -> None:
    def run(samples: int, steps: int, positions: int) -> Trajectory:
        data = xr.Dataset({"token": (("sample", "step", "position"), np.zeros((samples, steps, positions), np.int32))})
        return Trajectory(data)

    small, large = run(40, 5, 5), run(40, 257, 512)
    assert shown_samples((small,), None) == tuple(range(MOST_SAMPLES))
    assert shown_samples((large,), None) == (0, 1, 2)
    assert shown_samples((small, run(3, 9, 9)), None) == (0, 1, 2), "samples are compared by their number"
    assert shown_samples((small,), 39) == (39,)
    assert shown_samples((run(1, 9999, 999),), None) == (0,)


@pytest.mark.parametrize("sample", [-1, 2])
def test_a_sample_that_is_not_there_is_refused(sample: int) -> None:
    with pytest.raises(ViewError, match=f"there is no sample {sample}; the trajectory has 2, 0 to 1"):
        trace_view(small_run(), sample)


# ---------------------------------------------------------------- spelling


def save_tokenizer(folder: Path, decoder: decoders.Decoder | None = None) -> Path:
    vocabulary = {"[UNK]": 0, "a": 1, "▁cat": 2, ATTACK: 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    if decoder is not None:
        tokenizer.decoder = decoder
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_a_tokenizer_spells_each_token_with_its_blank(tmp_path: Path) -> None:
    spell = spelling(small_run(), save_tokenizer(tmp_path, decoders.Metaspace()))
    assert [spell(token) for token in (0, 1, 2, 99)] == ["[UNK]", "a", " cat", "#99"]


@pytest.mark.parametrize(("content", "message"), [(None, "holds no tokenizer.json"), ("{}", "is no tokenizer")])
def test_a_folder_without_a_tokenizer_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    if content:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ViewError, match=message):
        spelling(small_run(), tmp_path)


# ---------------------------------------------------------------- the page


@given(st.lists(st.floats(-50, 50, width=32) | st.just(float("nan")), min_size=1), st.floats(0.125, 50))
def test_numbers_come_back_to_half_a_level(values: list[float], span: float) -> None:
    numbers = np.clip(np.array(values, np.float32), -span, span)
    packed = _quantised(numbers, (-span, span))
    levels = unpacked(packed["data"], "u1")
    restored = np.where(levels == 255, np.nan, packed["low"][0] + (packed["high"][0] - packed["low"][0]) * levels / 254)
    np.testing.assert_array_equal(np.isnan(restored), np.isnan(numbers))
    np.testing.assert_allclose(restored, numbers, atol=1.001 * span / 254)


def test_the_page_holds_the_tokens() -> None:
    run = small_run()
    (trace,) = embedded(show(run, sample=None).html)
    assert len(trace["samples"]) == 2
    for number, sample in enumerate(trace["samples"]):
        view = trace_view(run, number)
        tokens, tops = (unpacked(sample[name], "<u2") for name in ("tokens", "topTokens"))
        assert [trace["texts"][place] for place in tokens] == [STORY[token] for token in view.tokens.ravel()]
        np.testing.assert_array_equal(np.array(trace["texts"])[tops] == "", view.top_tokens.ravel() < 0)
        np.testing.assert_array_equal(unpacked(sample["states"], "u1"), view.states.ravel())
        np.testing.assert_array_equal(unpacked(sample["commit"], "<i4"), view.commit_step)


def test_more_texts_than_two_bytes_can_count_take_four() -> None:
    n = 2**16
    view = trace_view(small_run(), 0)
    wide = replace(view, texts=dict.fromkeys(range(n), "x"))
    (trace,) = embedded(render_trace_view([[wide]], "title"))
    assert trace["samples"][0]["bytes"] == 4
    assert unpacked(trace["samples"][0]["tokens"], "<u4").tolist() == (view.tokens.ravel() + 1).tolist()


def test_nothing_a_model_says_becomes_markup(tmp_path: Path) -> None:
    run = small_run()
    run = Trajectory(run.data.assign_attrs(model=ATTACK, policy=ATTACK))
    run = with_channel(run, "doubt", np.ones((2, 4, 4, 9)), [ATTACK] * 9)
    html = without_plotly(show(run, run, tokenizer=save_tokenizer(tmp_path)).html)
    assert "<img" not in html
    assert ATTACK in embedded(html)[0]["texts"]


def test_the_page_refers_to_nothing_outside_itself() -> None:
    own = without_plotly(show(small_run()).html).replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"https?://|//[a-z]+\.|@import|url\(|<link|\bsrc=|\bhref=", own)
    assert "default-src 'none'" in own


def test_jupyter_gets_the_page_in_a_frame_that_can_reach_nothing() -> None:
    page = TracePage('<p title="x">&amp;</p>')
    frames = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            frames.append((tag, dict(attrs)))

    Reader().feed(page._repr_html_())
    ((tag, attributes),) = frames
    assert (tag, attributes["srcdoc"], attributes["sandbox"]) == ("iframe", page.html, "allow-scripts")
    assert repr(page) == "TracePage()"


# ---------------------------------------------------------------- the command

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def denoscope(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``denoscope("view", ...)`` through the real entry point: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["denoscope", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return run


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    small_run().save(tmp_path / "run.zarr")
    return tmp_path / "run.zarr"


def test_view_writes_a_page_of_one_trace_or_two(denoscope: Run, saved: Path, tmp_path: Path) -> None:
    code, said, _ = denoscope("view", saved, "--out", tmp_path / "one.html")
    assert (code, said.split(":")[0]) == (0, str(tmp_path / "one.html"))
    (trace,) = embedded((tmp_path / "one.html").read_text())
    assert [(sample["sample"], sample["steps"]) for sample in trace["samples"]] == [(0, 3), (1, 1)]
    assert denoscope("view", saved, saved, "--out", tmp_path / "two.html", "--sample", 1)[0] == 0
    assert [len(trace["samples"]) for trace in embedded((tmp_path / "two.html").read_text())] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}", "--out", "{folder}/x.html"], "is no trajectory"),
        (["{run}", "{folder}/none.zarr", "--out", "{folder}/x.html"], "none.zarr is no trace"),
        (["{run}", "--out", "{folder}/none/x.html"], "there is no folder"),
        (["{run}", "--out", "{folder}"], "is a folder; give the name of a file in it"),
        (["{run}", "--out", "{folder}/x.html", "--sample", "2"], "there is no sample 2; the trajectory has 2, 0 to 1"),
        (["{run}", "--out", "{folder}/x.html", "--sample", "-1"], "there is no sample -1"),
        (["{run}", "--out", "{folder}/x.html", "--tokenizer", "{folder}"], "holds no tokenizer.json"),
    ],
)
def test_view_says_in_one_line_what_is_wrong(arguments: list[str], message: str, denoscope: Run, saved: Path, tmp_path: Path) -> None:
    code, said, complaint = denoscope("view", *(text.format(run=saved, folder=tmp_path) for text in arguments))
    assert (code, said) == (2, "")
    (line,) = complaint.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert list(tmp_path.iterdir()) == [saved]
