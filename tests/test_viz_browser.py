"""The page in a real browser: what it shows at a step is what the trace says, offline and with no error."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.viz.board_trace import BoardStep, BoardTrace
from interp.viz.page import render_page, render_trace_page, write_page
from interp.viz.statement_view import StatementView
from models.tasks.sudoku.board import cell_name
from models.tasks.sudoku.generator import generate

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
ARGUMENTS += ["--no-first-run", "--disable-quic"]
ATTACK = "</script><img src=x onerror=window.broken=1>"
MARK = 3
"""The step that the tests look at closely."""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH (Debian: apt install chromium)")


def allowed(digits: np.ndarray, cell: int) -> np.ndarray:
    """Returns the digits, as 9 flags, that no cell of the same row, column or box holds."""
    board, row, column = digits.reshape(9, 9), cell // 9, cell % 9
    box = board[row // 3 * 3 : row // 3 * 3 + 3, column // 3 * 3 : column // 3 * 3 + 3]
    seen = {*board[row], *board[:, column], *box.ravel()}
    return np.array([digit not in seen for digit in range(1, 10)])


def make_trace(seed: int = 0, *, title: str = "A board", per_step: int = 4) -> BoardTrace:
    """Returns a trace as a fairly good model would leave it: most constrained cells first, one digit wrong and later revised."""
    puzzle = generate(1, seed=seed)
    rng = np.random.default_rng(seed)
    givens, solution = puzzle.givens[0].astype(int), puzzle.solutions[0].astype(int)
    digits, wrong = givens.copy(), -1
    confidence: tuple[float | None, ...] = tuple(None for _ in range(81))
    steps, statements = [BoardStep(tuple(digits.tolist()), (), (), confidence, None)], []
    while (digits == 0).any() or wrong >= 0:
        number = len(steps)
        open_digits = np.array([allowed(digits, cell) for cell in range(81)])
        noisy = np.clip(np.where(open_digits, 0.93, 0.04) + rng.normal(0, 0.22, (81, 9)), 0, 1)
        order = [int(cell) for cell in np.argsort(open_digits.sum(1) + 10 * (digits > 0), kind="stable") if digits[cell] == 0]
        written, revised = order[:per_step], []
        top = [
            None if given else float(np.clip(1.05 - 0.12 * n + rng.normal(0, 0.03), 0.2, 1))
            for given, n in zip(givens, open_digits.sum(1), strict=True)
        ]
        if wrong >= 0 and number >= MARK + 4:
            digits[wrong], revised, wrong = solution[wrong], [wrong], -1
        for cell in written:
            digits[cell] = solution[cell]
        if number == MARK:
            wrong = written[-1]
            digits[wrong] = next(digit for digit in range(1, 10) if digit != solution[wrong])
        statements += [_only_candidate(number, cell, digits, open_digits) for cell in written]
        left = int((digits == 0).sum())
        statements += [
            StatementView(number, "revised", f"{cell_name(c)} changed to {digits[c]}", (c,), None, "tokens only") for c in revised
        ]
        statements.append(
            StatementView(number, "decided", f"{left} cells are still open", tuple(order[per_step:]), None, "mean margin .41, layer 4")
        )
        steps.append(BoardStep(tuple(digits.tolist()), tuple(written), tuple(revised), tuple(top), tuple(map(tuple, noisy.tolist()))))
    return BoardTrace(
        title, "sudoku-diffusion", "confidence", tuple(givens.tolist()), tuple(solution.tolist()), tuple(steps), tuple(statements)
    )


def _only_candidate(step: int, cell: int, digits: np.ndarray, open_digits: np.ndarray) -> StatementView:
    single = bool(open_digits[cell].sum() == 1)
    text = f"{cell_name(cell)} = {digits[cell]}: " + (
        "the only candidate left there" if single else "the most probable of the candidates left"
    )
    sound = (single and bool(open_digits[cell][digits[cell] - 1])) if step != 1 or single else False
    evidence = f"{cell_name(cell)}, step {step}, layer 5, p .{90 - step}, probe candidate (causal twin, moved by mean)"
    return StatementView(step, "only_candidate" if single else "most_probable", text, (cell,), sound, evidence)


@pytest.fixture(scope="module")
def traces() -> list[BoardTrace]:
    return [make_trace(0, title="First"), make_trace(1, title="Second", per_step=7)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, traces: list[BoardTrace], tmp_path: Path) -> Iterator[Any]:
    """The trace page, opened from the disk; fails at the end on any console error, exception or request beyond the file."""
    yield from open_page(browser, render_trace_page(traces, "Boards"), tmp_path / "page.html")


def open_page(browser: Any, html: str, path: Path) -> Iterator[Any]:
    write_page(html, path)
    tab, troubles = browser.new_page(viewport={"width": 1280, "height": 1000}), []
    tab.on("console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: troubles.append(str(error)))
    tab.on("request", lambda request: troubles.append(request.url) if not request.url.startswith(("file:", "data:", "blob:")) else None)
    tab.on("requestfailed", lambda request: troubles.append(f"failed: {request.url}"))
    tab.goto(path.as_uri())
    yield tab
    tab.close()
    assert troubles == []


def digits_shown(page: Any) -> tuple[int, ...]:
    shown = page.eval_on_selector_all("#board .cell .digit", "all => all.map((one) => Number(one.textContent || 0))")
    return tuple(shown)


def cells_with(page: Any, css_class: str) -> set[int]:
    return set(page.eval_on_selector_all(f"#board .cell.{css_class}", "all => all.map((one) => Number(one.dataset.cell))"))


def move_to(page: Any, step: int) -> None:
    page.eval_on_selector("#step-slider", "(one, step) => { one.value = step; one.dispatchEvent(new Event('input')); }", step)


def test_board_shows_each_step(page: Any, traces: list[BoardTrace], tmp_path: Path) -> None:
    trace = traces[0]
    for number in (0, MARK, MARK + 4, trace.n_steps):
        move_to(page, number)
        step = trace.steps[number]
        assert page.text_content("#step-label") == f"Step {number} of {trace.n_steps}"
        assert digits_shown(page) == step.digits
        assert cells_with(page, "given") == {cell for cell in range(81) if trace.givens[cell]}
        assert cells_with(page, "fresh") == {*step.written, *step.revised}
        assert cells_with(page, "revised") == set(step.revised)
        assert cells_with(page, "wrong") == {cell for cell in range(81) if step.digits[cell] not in (0, trace.solution[cell])}
        for cell in step.written:
            confidence = step.confidence[cell]
            assert confidence is not None
            assert page.text_content(f'.cell[data-cell="{cell}"] .corner') == str(round(100 * confidence))
    move_to(page, MARK)
    assert len(cells_with(page, "wrong")) == 1
    page.screenshot(path=tmp_path / "board.png", full_page=True)
    assert (tmp_path / "board.png").stat().st_size > 20_000


def test_pencil_marks_are_what_the_probe_read(page: Any, traces: list[BoardTrace]) -> None:
    assert page.locator(".pencil:visible").count() == 0, "nothing is read before the first call"
    move_to(page, MARK)
    step, before = traces[0].steps[MARK], np.array(traces[0].steps[MARK - 1].digits)
    empty = [cell for cell in range(81) if step.digits[cell] == 0]
    assert page.locator(".pencil:visible").count() == len(empty)
    assert step.pencil is not None
    classes = set()
    for cell in empty:
        marks = page.eval_on_selector_all(
            f'.cell[data-cell="{cell}"] .mark',
            "all => all.map((one) => [one.textContent, Number(one.firstChild.style.opacity), one.className])",
        )
        for digit, (text, opacity, css_class) in enumerate(marks):
            read, possible = round(100 * step.pencil[cell][digit]), allowed(before, cell)[digit]
            assert (text, opacity) == (str(digit + 1), pytest.approx(read / 100))
            assert css_class.split()[1:] == (["intruder"] if read >= 50 and not possible else ["missed"] if read < 50 and possible else [])
            classes.add(css_class)
    assert len(classes) == 3, "this trace shows both kinds of misread candidate"
    page.uncheck("#pencil-toggle")
    assert page.locator(".pencil:visible").count() == 0


def test_statements_grow_with_the_steps(page: Any, traces: list[BoardTrace]) -> None:
    assert page.locator("#statements li:visible").count() == 0
    move_to(page, MARK)
    so_far = [statement for statement in traces[0].statements if statement.step <= MARK]
    now = [statement for statement in so_far if statement.step == MARK]
    assert page.eval_on_selector_all("#statements li", "all => all.filter((one) => one.checkVisibility()).length") == len(so_far)
    current = page.locator("#statements li.current")
    assert current.locator(".text").all_text_contents() == [statement.text for statement in now]
    badges = {True: "✓ sound", False: "✗ unsound", None: "○ not checkable"}
    assert current.locator(".badge").all_text_contents() == [badges[statement.sound] for statement in now]
    assert now[0].evidence in (current.first.locator(".evidence").text_content() or "")
    page.wait_for_function(  # the list glides there; it must arrive
        """() => {
            const list = document.querySelector('#statements'), one = list.querySelector('li.current').getBoundingClientRect();
            const { top, bottom } = list.getBoundingClientRect();
            return list.scrollTop > 0 && one.top >= top - 1 && one.top < bottom;
        }""",
        timeout=5000,
    )
    current.first.focus()
    assert cells_with(page, "linked") == set(now[0].places)
    page.select_option("#kind-select", "decided")
    assert page.locator("#statements li:not([hidden])").count() > 0
    assert set(page.eval_on_selector_all("#statements li:not([hidden])", "all => all.map((one) => one.dataset.kind)")) == {"decided"}


def test_keyboard_buttons_and_choice_of_board(page: Any, traces: list[BoardTrace]) -> None:
    for key, step in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", traces[0].n_steps), ("Home", 0)):
        page.keyboard.press(key)
        assert digits_shown(page) == traces[0].steps[step].digits
    page.click("#next")
    page.click("#next")
    page.click("#previous")
    assert digits_shown(page) == traces[0].steps[1].digits
    page.focus('.cell[data-cell="0"]')
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.cell") == "9", "on the board, arrows walk over the cells"
    assert "r2c1" in (page.text_content("#inspector-text") or "")
    page.click("#play")
    page.wait_for_function("() => document.querySelector('#step-label').textContent.startsWith('Step 2')")
    page.click("#play")
    page.select_option("#trace-select", "1")
    assert digits_shown(page) == traces[1].givens
    move_to(page, traces[1].n_steps)
    assert digits_shown(page) == traces[1].solution


def test_figures_are_drawn_offline_and_model_text_stays_text(browser: Any, tmp_path: Path) -> None:
    from plotly.graph_objects import Figure

    trace = make_trace(0, title=ATTACK)
    hostile = replace(trace, statements=(StatementView(0, ATTACK, ATTACK, (0,), None, ATTACK),))
    figure = Figure({"data": [{"type": "scatter", "y": [1, 2]}], "layout": {"title": {"text": ATTACK}, "meta": {"caption": ATTACK}}})
    html = render_page(title=ATTACK, traces=[hostile], figures=[figure], findings=[ATTACK])
    for tab in open_page(browser, html, tmp_path / "report.html"):
        tab.wait_for_selector("#figure-0 .main-svg")
        assert tab.title() == ATTACK
        assert tab.text_content("#statements li .text") == ATTACK
        assert tab.locator("img").count() == 0
        assert tab.evaluate("window.broken") is None


def test_a_narrow_screen_needs_no_sideways_scrolling(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    board, statements = (page.locator(name).bounding_box() for name in ("#board", "#statements"))
    assert statements["y"] > board["y"] + board["height"]
