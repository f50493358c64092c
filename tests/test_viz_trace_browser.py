"""The trace viewer in a real browser: what stands on the canvas at a step is what the trajectory holds, offline and with no error."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from interp.narration import Statement
from interp.viz.trace_page import TracePage, show
from models.recorder import Recorder
from models.tasks import TASKS
from models.tasks.sudoku.generator import generate
from models.trajectory import State, Trajectory
from models.trajectory_store import CHANNEL

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
ARGUMENTS += ["--no-first-run", "--disable-quic"]
ATTACK = "</script><img src=x onerror=window.broken=1>"
MASK = TASKS["stories"].mask_token_id
STORY = TASKS["stories"].vocabulary
SUDOKU = TASKS["sudoku"]
MINUTE = 60_000
"""Milliseconds: a page holds 5 MB of plotly.js, which a busy machine takes seconds to read."""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH (Debian: apt install chromium)")

Change = Callable[[int, np.ndarray], np.ndarray]


def make_run(initial: np.ndarray, answer: np.ndarray, *, mask: int, per_step: int, task: str, ranks: int = 3, seed: int = 0) -> Trajectory:
    """Returns a run that writes ``answer`` in a random order, a wrong token now and then, which it masks again two calls later."""
    rng = np.random.default_rng(seed)
    recorder, canvas = Recorder(initial, initial == mask, mask), initial.copy()
    wrong: list[tuple[int, int]] = []
    step = 0
    while (canvas == mask).any():
        step += 1
        due = [position for when, position in wrong if when + 2 == step]
        masked = np.flatnonzero(canvas[0] == mask)
        fresh = rng.permutation(masked)[:per_step]
        canvas[0, fresh] = answer[0, fresh]
        canvas[0, due] = mask
        if step % 5 == 2 and len(masked) > 4 * per_step:
            canvas[0, fresh[0]] = answer[0, fresh[-1]]
            wrong.append((step, int(fresh[0])))
        top = rng.integers(1, 10 if task == "sudoku" else 6000, (*canvas.shape, ranks)).astype(np.int32)
        spoken = {name: rng.random(canvas.shape, np.float32) for name in ("confidence", "margin", "entropy")}
        spoken |= {"proposal": answer.astype(np.int32), "top_token": top, "top_probability": rng.random(top.shape, np.float32)}
        recorder.add(np.array([0]), canvas, spoken)
    attributes = {"model": "a-model", "fingerprint": "0", "task": task, "policy": f"policy-{seed}", "options": "{}", "seed": seed}
    return recorder.finish(attributes)


def story_run(positions: int = 60, per_step: int = 5, *, ranks: int = 3, task: str = "stories", seed: int = 0) -> Trajectory:
    answer = np.random.default_rng(seed).integers(10, 6000 if task else 10, (1, positions)) if task else 10 + np.arange(positions)[None] % 3
    initial = np.where(np.arange(positions) < 4, answer, MASK)
    return make_run(initial, answer, mask=MASK, per_step=per_step, task=task, ranks=ranks, seed=seed)


def sudoku_run(seed: int = 0, per_step: int = 4) -> Trajectory:
    puzzle = generate(1, "hidden_singles", seed=seed)
    initial, answer = (SUDOKU.prompt(puzzle).numpy(), SUDOKU.encode(puzzle).numpy())  # type: ignore[attr-defined]
    run = make_run(initial, answer, mask=SUDOKU.mask_token_id, per_step=per_step, task="sudoku", seed=seed)
    rng = np.random.default_rng(seed)
    shape = run.data["token"].shape
    over = ("sample", "step", "position")
    channels = {
        f"{CHANNEL}candidates": ((*over, "candidates.feature"), rng.random((*shape, 9)).astype(np.float16)),
        f"{CHANNEL}doubt": (over, rng.normal(size=shape).astype(np.float16)),
    }
    return Trajectory(run.data.assign(channels))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@contextmanager
def opened(browser: Any, page: TracePage, folder: Path, **options: Any) -> Iterator[Any]:
    """Yields the page, opened from the disk and drawn; fails at the end on a console error, an exception or a request beyond the file."""
    page.save(folder / "page.html")
    tab, troubles = browser.new_page(viewport={"width": 1280, "height": 1000}, **options), []
    tab.set_default_timeout(MINUTE)
    tab.on("console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: troubles.append(str(error)))
    tab.on("request", lambda request: troubles.append(request.url) if not request.url.startswith(("file:", "data:", "blob:")) else None)
    tab.on("requestfailed", lambda request: troubles.append(f"failed: {request.url}"))
    try:
        tab.goto((folder / "page.html").as_uri())
        tab.wait_for_selector('#trace[aria-busy="false"]')
        yield tab
    finally:
        tab.close()
    assert troubles == []


@pytest.fixture(scope="module")
def story() -> Trajectory:
    return story_run()


def move_to(page: Any, step: int) -> None:
    page.eval_on_selector("#step-slider", "(one, step) => { one.value = step; one.dispatchEvent(new Event('input')); }", step)


def canvas_texts(page: Any, pane: int = 0) -> list[str]:
    """Returns what is written at each position, in order; nothing where it is masked."""
    cells = page.eval_on_selector_all(
        f"#pane-{pane} [data-position]",
        "all => all.map((one) => [Number(one.dataset.position), (one.querySelector('.digit') ?? one).textContent])",
    )
    return [text for _, text in sorted(cells)]


def positions_with(page: Any, css_class: str, pane: int = 0) -> set[int]:
    return set(
        page.eval_on_selector_all(f"#pane-{pane} [data-position].{css_class}", "all => all.map((one) => Number(one.dataset.position))")
    )


def step_shown(page: Any) -> int:
    return int(re.findall(r"\d+", page.text_content("#step-label"))[0])


def marked(page: Any, pane: int = 0, axis: str = "y") -> float:
    """Returns the step (or, for the x axis, the position) that the heatmap's marker lies over, by where it is on the screen."""
    band = page.locator(f"#pane-{pane} {'.step-band' if axis == 'y' else '.position-band'}").bounding_box()
    area = page.locator(f"#pane-{pane} .heat .nsewdrag").bounding_box()
    begin, end = page.eval_on_selector(f"#pane-{pane} .heat", f"one => one.layout.{axis}axis.range")
    size = "height" if axis == "y" else "width"
    share = (band[axis] + band[size] / 2 - area[axis]) / area[size]
    return end + (begin - end) * share if axis == "y" else begin + (end - begin) * share


def keep(page: Any, folder: Path, name: str) -> None:
    """Saves a picture of the page, to look at."""
    kept = Path(os.environ.get("DENOSCOPE_ARTEFACTS", folder))
    page.screenshot(path=kept / f"{name}.png", full_page=True)


def expected_texts(run: Trajectory, step: int) -> list[str]:
    return ["" if token == MASK else STORY[token] for token in run.tokens(step)[0]]


def test_the_canvas_is_the_trajectory_at_each_step(browser: Any, story: Trajectory, tmp_path: Path) -> None:
    with opened(browser, show(story), tmp_path) as page:
        for step in (0, story.n_steps // 2, story.n_steps, 3):
            move_to(page, step)
            assert canvas_texts(page) == expected_texts(story, step)
            assert marked(page) == pytest.approx(step, abs=0.2)
            states, tokens = story.data["state"].values[0, step], story.tokens(step)[0]
            before = story.tokens(max(step - 1, 0))[0]
            assert positions_with(page, "masked") == set(np.flatnonzero(np.isin(states, (State.MASKED, State.REMASKED))))
            assert positions_with(page, "revised") == set(np.flatnonzero(states == State.REVISED))
            assert positions_with(page, "fresh") == set(np.flatnonzero((tokens != before) & (tokens != MASK)))
            assert positions_with(page, "erased") == set(np.flatnonzero((tokens != before) & (tokens == MASK)))
            left, fresh = int((tokens == MASK).sum()), int(((tokens != before) & (tokens != MASK)).sum())
            said = page.text_content("#pane-0 .summary")
            assert f"{56 - left} written, {left} left" in said
            assert step == 0 or f"{fresh} written now" in said
        keep(page, tmp_path, "text")


def test_colours_are_the_numbers_of_the_trajectory(browser: Any, tmp_path: Path) -> None:
    run = sudoku_run()
    values = {
        "confidence": run.data["confidence"].values[0, :, 82:],
        "entropy": run.data["entropy"].values[0, :, 82:],
        "state": run.data["state"].values[0, :, 82:].astype(float),
        "scalar:doubt": run.data["channel.doubt"].values[0, :, 82:].astype(float),
        "vector:candidates": run.data["channel.candidates"].values[0, :, 82:, 4].astype(float),
    }
    commit = run.data["commit_step"].values[0, 82:]
    steps = np.arange(run.n_steps + 1)[:, None]
    values["commit"] = np.where((commit > 0) & (steps >= commit), commit, np.nan).astype(float)
    with opened(browser, show(run), tmp_path) as page:
        for choice, expected in values.items():
            page.select_option("#color-select", choice)
            if choice.startswith("vector"):
                page.select_option("#feature-select", "4")
            page.wait_for_timeout(100)
            drawn = page.eval_on_selector(
                "#pane-0 .heat", "one => one.data[0].z.map((row) => [...row].map((value) => Number.isNaN(value) ? null : value))"
            )
            width = np.nanmax(expected) - np.nanmin(expected)
            np.testing.assert_allclose(np.array(drawn, float), expected, atol=width / 250, equal_nan=True)


def test_a_board_shows_digits_proposals_and_pencil_marks(browser: Any, tmp_path: Path) -> None:
    run = sudoku_run()
    with opened(browser, show(run), tmp_path) as page:
        step = 4
        move_to(page, step)
        tokens, mask = run.tokens(step)[0, 82:], SUDOKU.mask_token_id
        assert canvas_texts(page) == ["" if token == mask else str(token) for token in tokens]
        assert positions_with(page, "given") == set(np.flatnonzero(run.tokens(0)[0, 82:] != mask))
        assert page.locator(".pencil:visible").count() == (tokens == mask).sum()
        cell = int(np.flatnonzero(tokens == mask)[0])
        marks = page.eval_on_selector_all(f'[data-position="{cell}"] .mark', "all => all.map((one) => Number(one.style.opacity))")
        np.testing.assert_allclose(marks, run.data["channel.candidates"].values[0, step, 82 + cell], atol=0.004)
        page.select_option("#unwritten-select", "proposals")
        proposals = run.data["proposal"].values[0, step, 82:]
        assert canvas_texts(page) == [str(proposal if token == mask else token) for token, proposal in zip(tokens, proposals, strict=True)]
        assert positions_with(page, "proposed") == set(np.flatnonzero(tokens == mask))
        page.select_option("#unwritten-select", "candidates")
        keep(page, tmp_path, "board")


def test_the_keyboard_is_enough(browser: Any, story: Trajectory, tmp_path: Path) -> None:
    with opened(browser, show(story), tmp_path) as page:
        for key, step in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", story.n_steps), ("Home", 0)):
            page.keyboard.press(key)
            assert step_shown(page) == step
            assert canvas_texts(page) == expected_texts(story, step)
        page.keyboard.press("Space")
        page.wait_for_function("() => document.querySelector('#step-label').textContent.startsWith('Step 2 ')")
        page.keyboard.press("Space")
        assert page.text_content("#play") == "Play"
        page.keyboard.press("Home")
        page.focus('[data-position="0"]')
        page.keyboard.press("ArrowRight")
        page.keyboard.press("PageDown")
        assert (step_shown(page), page.evaluate("document.activeElement.dataset.position")) == (1, "1")
        assert "position 1, step 1" in page.text_content("#tip")
        page.keyboard.press("ArrowDown")
        below = page.evaluate("[document.activeElement.offsetTop, document.querySelector('[data-position=\"1\"]').offsetTop]")
        assert below[0] > below[1], "down leads to the next line"


def test_pointing_links_canvas_and_heatmap_and_tells_the_best_tokens(browser: Any, story: Trajectory, tmp_path: Path) -> None:
    with opened(browser, show(story), tmp_path) as page:
        move_to(page, 5)
        assert page.is_hidden(".position-band")
        page.hover('[data-position="7"]')
        assert marked(page, axis="x") == pytest.approx(7, abs=0.2)
        data = story.data.isel(sample=0, step=5, position=7)
        assert page.locator("#tip .tops .name").all_text_contents() == [
            STORY[token].strip(" ").replace("\n", "↵") if not STORY[token].startswith(" ") else f"␣{STORY[token][1:]}"
            for token in data["top_token"].values
        ]
        assert f"{float(data['entropy']):.2f} nats" in page.text_content("#tip")
        page.mouse.move(2, 2)
        assert page.is_hidden("#tip")
        box = page.locator(".heat .nsewdrag").bounding_box()
        x, y = box["x"] + box["width"] * 30.5 / 60, box["y"] + box["height"] * 8.5 / (story.n_steps + 1)
        page.mouse.move(x, y)
        page.wait_for_selector("#tip:has-text('position 30, step 8')")
        assert positions_with(page, "linked") == {30}
        page.mouse.click(x, y)
        page.wait_for_function("() => document.querySelector('#step-label').textContent.startsWith('Step 8 ')")
        page.mouse.move(2, 2)
        assert positions_with(page, "linked") == {30}, "a click keeps the position linked"
        step_band, position_band = (page.locator(name).bounding_box() for name in (".step-band", ".position-band"))
        assert step_band["y"] < y < step_band["y"] + step_band["height"], "the markers lie where the click was"
        assert position_band["x"] < x < position_band["x"] + position_band["width"]


def test_two_traces_share_a_slider_and_the_shorter_one_stays_at_its_end(browser: Any, story: Trajectory, tmp_path: Path) -> None:
    other = story_run(per_step=2, seed=1)
    assert other.n_steps > story.n_steps + 2
    with opened(browser, show(story, other), tmp_path) as page:
        for step in (3, story.n_steps + 2):
            move_to(page, step)
            own = min(step, story.n_steps)
            assert canvas_texts(page, 0) == expected_texts(story, own)
            assert canvas_texts(page, 1) == expected_texts(other, step)
            assert [marked(page, pane) for pane in (0, 1)] == pytest.approx([own, step], abs=0.2)
        assert "finished" in page.text_content("#pane-0 .summary")
        page.hover('#pane-1 [data-position="9"]')
        assert positions_with(page, "linked", 0) == positions_with(page, "linked", 1) == {9}
        keep(page, tmp_path, "compare")
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_samples_can_be_chosen(browser: Any, story: Trajectory, tmp_path: Path) -> None:
    import xarray as xr

    other = story_run(per_step=3, seed=2)
    steps = min(story.n_steps, other.n_steps)
    both = [one.data.isel(step=slice(0, steps + 1)).assign(calls=("sample", [steps])) for one in (story, other)]
    run = Trajectory(xr.concat([one.drop_vars("sample") for one in both], "sample", combine_attrs="override"))
    with opened(browser, show(run, sample=None), tmp_path) as page:
        move_to(page, 4)
        page.select_option("#sample-select", "1")
        page.wait_for_function("() => document.querySelector('#trace').ariaBusy === 'false'")
        assert canvas_texts(page) == expected_texts(other, 4)
        assert page.text_content("#sample-note") == "of 2, counted from 0"


def test_statements_follow_the_slider_and_light_their_tokens(browser: Any, story: Trajectory, tmp_path: Path) -> None:
    said = [
        Statement(0, 2, "foreseen", f"it will name Tom {ATTACK}", (10, 12), "Tom", (), sound=True, support="used"),
        Statement(0, 5, "appeared", "Tom is written", (11,), "Tom", (), sound=None),
        Statement(1, 2, "foreseen", "of another sample", (10,), "Ann", ()),
    ]
    with opened(browser, show(story, statements=said), tmp_path) as tab:
        shown = "all => all.filter((one) => one.checkVisibility()).map((one) => one.querySelector('.text').textContent)"
        assert tab.eval_on_selector_all("#statements li", shown) == []
        tab.locator("#step-slider").fill("2")
        assert tab.eval_on_selector_all("#statements li", shown) == [said[0].text]
        assert tab.text_content("#statements .support") == "used by the rest"
        tab.locator("#step-slider").fill("5")
        assert tab.eval_on_selector_all("#statements li", shown) == [said[0].text, said[1].text]
        tab.locator("#statements li").first.hover()
        lit = "all => all.map((one) => Number(one.dataset.position))"
        assert tab.eval_on_selector_all(".canvas .linked", lit) == [10, 12]
        assert tab.text_content("#statement-summary") == "2 statements so far; 1 of 1 checkable ones sound"
    with opened(browser, show(story), tmp_path) as tab:
        assert tab.locator("#statements").count() == 0


def test_dark_is_dark(browser: Any, story: Trajectory, tmp_path: Path) -> None:
    with opened(browser, show(story), tmp_path, color_scheme="dark") as page:
        move_to(page, 5)
        body, paper = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, document.querySelector('.heat').layout.plot_bgcolor]"
        )
        assert max(map(int, re.findall(r"\d+", body))) < 60
        assert paper == "#262b32"
        keep(page, tmp_path, "dark")


def test_token_text_stays_text_and_works_in_a_notebook_frame(browser: Any, tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, ATTACK: 10, "<b>": 11, "&amp;": 12}, unk_token="[UNK]"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    run = story_run(20, 4, task="")
    run = Trajectory(run.data.assign_attrs(model=ATTACK))
    page = show(run, tokenizer=tmp_path)
    frame = TracePage(f"<!doctype html><title>notebook</title>{page._repr_html_()}")
    words = [ATTACK, "<b>", "&amp;"]
    with opened(browser, page, tmp_path) as tab:
        move_to(tab, run.n_steps)
        assert canvas_texts(tab) == [words[position % 3] for position in range(20)]
        tab.hover('[data-position="6"]')
        assert ATTACK in tab.text_content("#tip")
        assert (tab.title().split(",")[0], tab.locator("img, b").count(), tab.evaluate("window.broken")) == (ATTACK, 0, None)
    (tmp_path / "notebook.html").write_text(frame.html, encoding="utf-8")
    tab = browser.new_page(viewport={"width": 1000, "height": 900})
    tab.goto((tmp_path / "notebook.html").as_uri())
    inside = tab.frame_locator("iframe")
    inside.locator('#trace[aria-busy="false"]').wait_for(timeout=MINUTE)
    assert inside.locator("[data-position]").count() == 20
    tab.close()


def test_a_large_trace_is_small_and_quick(browser: Any, tmp_path: Path) -> None:
    from plotly.offline import get_plotlyjs

    run = story_run(512, 2, ranks=5)
    assert run.n_steps >= 254
    page = show(run)
    assert len(page.html) - len(get_plotlyjs()) < 6_000_000
    with opened(browser, page, tmp_path) as tab:
        measured = tab.evaluate(
            """async () => {
                const at = (name) => performance.getEntriesByName(name)[0].startTime;
                const [start, shown] = [at("denoscope-start"), at("denoscope-shown")];
                const entry = performance.getEntriesByType("navigation")[0];
                const slider = document.querySelector("#step-slider");
                const frame = () => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
                const moves = [];
                for (const step of [100, 101, 255, 0, 128]) {
                    const began = performance.now();
                    slider.value = step;
                    slider.dispatchEvent(new Event("input"));
                    await frame();
                    moves.push(performance.now() - began);
                }
                return { plotly: start - entry.responseEnd, own: shown - start, move: Math.max(...moves) };
            }"""
        )
        print({name: round(value) for name, value in measured.items()}, f"{len(page.html):,} bytes")
        assert measured["own"] < max(2000, measured["plotly"]), "drawing takes 2 s at most, or no longer than plotly.js takes to start"
        assert measured["move"] < 2000
        keep(tab, tmp_path, "large")
