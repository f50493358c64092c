"""The page of an SAE: it says what the summary says, nothing a model says becomes markup, and it works in a browser."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from interp.latents.entries import ConceptFit, Context, Effect, Histogram, LatentEntry, OtherReading, SaeSummary, Slice
from interp.report import Estimate
from interp.viz.page import Table, write_page
from interp.viz.sae_page import heat, sae_page, short, visible

ATTACK = "</script><script>window.broken=1</script><img src=x onerror=window.broken=1>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
ARGUMENTS += ["--no-first-run", "--disable-quic"]


def about(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.01, high=value + 0.01, n=50)


def context(band: Any, group: int, word: str = "the", board: bool = True) -> Context:
    n = 81 if board else 5
    tokens = tuple(str(index % 9 + 1) if index % 3 else "" for index in range(n)) if board else ("once", "", word, " a", "\n")
    states = "".join("gwm"[index % 3 - 1] for index in range(n)) if board else "wmwww"
    return Context(
        band=band,
        value=2.5,
        group=group,
        position=82 + 4 if board else 2,
        mask_rate=0.3,
        kind="masked",
        step=0,
        tokens=tokens,
        truth=tuple("1" for _ in range(n)) if board else ("once", "hidden word", word, " a", "\n"),
        states=states,
        values=(None, *(0.5 * (index % 6) for index in range(1, n))),
        place=4 if board else 2,
    )


def latent(number: int, *, word: str = "5", board: bool = True, other: bool = True, concept: bool = True) -> LatentEntry:
    fit = ConceptFit(
        concept="digit",
        head=word,
        chosen=0.97,
        auc=about(0.9),
        matched=about(0.88),
        precision=about(0.8),
        recall=0.5,
        base=0.1,
    )
    slices = tuple(
        Slice(axis="mask_rate", at=f"{20 * one} to {20 * one + 20} %", rate=about(0.1 * one), mean=1.0, rows=9) for one in range(5)
    )
    return LatentEntry(
        latent=number,
        sampled=number != 3,
        about=f"fires at {number} % of places; pushes {word!r}",
        rate=about(number / 100),
        mean=1.5,
        most=2.5,
        values=Histogram(edges=(0.0, 1.0, 2.5), counts=(4, 2)),
        contexts=tuple(context(band, place, word, board) for place, band in enumerate(("top", "top", "middle", "low"))),
        promotes=(Effect(token=word, effect=2.0), Effect(token=" ", effect=0.5)),
        suppresses=(Effect(token="9", effect=-1.0),),
        concept=fit if concept else None,
        slices=slices,
        other=OtherReading(rate=0.0, mean=None, fate="dead", auc=None) if other else None,
    )


def summary(**changes: Any) -> SaeSummary:
    board, other = changes.pop("board", True), changes.pop("other", "the other model")
    latents = changes.pop("latents", (latent(3, board=board), latent(11, board=board), latent(7, board=board)))
    given = {
        "model": "a model",
        "hook_point": "blocks.3.hook_resid_post",
        "architecture": "topk",
        "fitted_on": "f00",
        "d_in": 16,
        "d_sae": 64,
        "layout": "board" if board else "text",
        "causal": False,
        "in_runs": False,
        "rows": 1000,
        "groups": 50,
        "l0": 8.0,
        "fvu": about(0.2),
        "dead": 0.25,
        "dense": 0.1,
        "density": Histogram(edges=(-3.0, -2.0, -1.0, 0.0), counts=(5, 40, 3)),
        "heads": 9,
        "concepts": ("digit",),
        "other": other,
        "fates": {"alive": 60, "dead": 4} if other else {},
        "latents": latents,
    }
    return SaeSummary(**{**given, **changes})


def without_plotly(html: str) -> str:
    return re.sub(r'<script id="plotly-source">.*?</script>', "", html, flags=re.DOTALL)


def test_page_has_a_row_and_a_card_a_latent() -> None:
    html = without_plotly(sae_page(summary()))
    assert re.findall(r'<article class="card" id="latent-(\d+)"', html) == ["3", "11", "7"]
    assert re.findall(r'<tr data-latent="(\d+)"', html) == ["3", "11", "7"]
    assert html.count('<div class="mini"') == 12
    assert html.count(' here"') == 12
    assert html.count('class="g ') == html.count('class="w ') == html.count('class="m ') == 12 * 27
    assert "2 latents drawn at random" in html
    assert "digit: 5" in html
    assert "the other model" in html
    assert '<span class="fate dead">dead</span>' in html


def test_page_is_small_and_whole() -> None:
    html = sae_page(summary(latents=tuple(latent(number) for number in range(20))))
    assert len(html.encode()) < 8e6
    assert not re.search(r'(src|href)="(?!#)', without_plotly(html)), "it loads nothing"


def test_text_is_shown_with_what_was_hidden() -> None:
    html = without_plotly(sae_page(summary(board=False)))
    assert html.count('<p class="passage">') == 12
    assert "hidden: hidden word" in html
    assert "⏎" in html


@pytest.mark.parametrize("board", [True, False])
def test_nothing_a_model_says_becomes_markup(board: bool) -> None:
    attacked = latent(3, word=ATTACK, board=board)
    table = Table(ATTACK, (ATTACK,), ((ATTACK,),), ATTACK)
    page = sae_page(
        summary(board=board, latents=(attacked,), model=ATTACK, fitted_on=ATTACK, architecture=ATTACK, other=ATTACK, concepts=(ATTACK,)),
        tables=[table],
    )
    html = without_plotly(page)
    assert "<img" not in html
    assert "<script>window" not in html
    assert "&lt;img" in html


def test_page_without_concepts_or_other_model() -> None:
    html = without_plotly(sae_page(summary(other=None, latents=(latent(3, other=False, concept=False),))))
    assert "state there" not in html
    assert "best predicts</dt>" not in html
    assert html.count('class="plot"') == 1


def test_heat_rises_with_the_value() -> None:
    assert [heat(value, 10.0) for value in (None, -1.0, 0.0, 0.1, 5.0, 10.0)] == [0, 0, 0, 1, 3, 5]
    assert heat(1.0, 0.0) == 0


def test_blank_tokens_are_made_visible() -> None:
    assert [visible(token) for token in (" a", "  ", "\n", "")] == [" a", "␣␣", "⏎", "∅"]


def test_many_bars_name_their_ends_only() -> None:
    one = Slice(axis="step", at="7", rate=about(0.1), mean=None, rows=1)
    assert [short(one, place, 20) for place in (0, 5, 19)] == ["7", "", "7"]
    assert short(one, 5, 6) == "7"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH (Debian: apt install chromium)")
def test_table_sorts_and_searches_in_a_browser(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    write_page(sae_page(summary(latents=(latent(3, word=ATTACK), latent(11), latent(7)))), tmp_path / "sae.html")
    troubles: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 390, "height": 900})
        page.set_default_timeout(120_000)
        page.on("console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on(
            "request", lambda request: troubles.append(request.url) if not request.url.startswith(("file:", "data:", "blob:")) else None
        )
        page.goto((tmp_path / "sae.html").as_uri())
        shown = "all => all.filter((row) => !row.hidden).map((row) => row.dataset.latent)"
        page.click("#latents th:nth-child(2) button")
        assert page.eval_on_selector_all("#latents tbody tr", shown) == ["11", "7", "3"]
        page.click("#latents th:nth-child(2) button")
        assert page.eval_on_selector_all("#latents tbody tr", shown) == ["3", "7", "11"]
        page.fill("#search", "fires at 7 %")
        assert page.eval_on_selector_all("#latents tbody tr", shown) == ["7"]
        assert page.eval_on_selector_all(".card", shown) == ["7"]
        assert page.evaluate("document.documentElement.scrollWidth") == 390, "nothing stands out of a phone's width"
        assert page.evaluate("window.broken") is None
        browser.close()
    assert troubles == []
