"""Leads of stories: planted readings have the known leads, and what knows nothing has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from jaxtyping import Float, Int

from interp.account import verdict_lines, write_account
from interp.corpus import Corpus
from interp.narration import paragraph, read_jsonl, to_jsonl
from interp.narration.stories import narrate_story
from interp.reading import ReadingError
from interp.reading.saved_stories import load_story_readers, save_story_readers
from interp.reading.stories import GIVEN, MOVED, TOKENS, StoryError, StoryReaders, StoryReading, story_prompts
from interp.reading.story_claims import ALPHA, Claims, claims, first_claim, standardised, still_open
from interp.reading.story_facts import FACTS, first_shown, instructed
from interp.reading.story_thresholds import StoryThresholds, ToldReaders, claims_of_story, fit_story_thresholds
from interp.tellers import StoryAccount
from models.hookpoints import resid_post
from models.load import load
from models.recorder import Recorder
from models.tasks.stories.task import MASK_ID, STORIES
from models.trajectory import Trajectory
from probes.linear import LinearProbe

RUNS, STEPS, HEADS = 80, 12, 3
WRITTEN, READ = 9, 4


def planted(seed: int = 0) -> tuple[Float[np.ndarray, "run step head"], Int[np.ndarray, "run head"]]:
    """Log odds that know each run's one true head from call ``READ`` on and nothing before; it is written at step ``WRITTEN``."""
    rng = np.random.default_rng(seed)
    true = np.eye(HEADS, dtype=bool)[rng.integers(0, HEADS, RUNS)]
    scores = rng.normal(size=(RUNS, STEPS + 1, HEADS)) * 0.1
    scores[:, READ:] += 5.0 * true[:, None]
    scores[:, 0] = np.nan
    scores += np.linspace(-30, 30, STEPS + 1)[:, None] + np.array([0.0, 4.0, -9.0])
    return scores, np.where(true, WRITTEN, STEPS + 1)


def found(scores: np.ndarray, shown: np.ndarray) -> Claims:
    made = claims(scores, shown)
    assert made is not None
    return made


def test_a_planted_reading_has_its_lead_whatever_the_drift_over_steps_and_heads() -> None:
    made = found(*planted())
    assert np.nanmedian(made.lead) == WRITTEN - READ
    assert (made.first[made.true] <= READ).mean() > 0.95


def test_false_alarms_keep_to_the_stated_rate() -> None:
    rates = [made.claimed_before[made.false].mean() for made in (found(*planted(seed)) for seed in range(5))]
    assert np.mean(rates) < 0.08


def test_what_is_seen_once_written_has_no_lead() -> None:
    _, shown = planted()
    true = shown <= STEPS
    visible = (np.arange(STEPS + 1)[None, :, None] > shown[:, None]) * 1.0
    made = claims(np.where(np.arange(STEPS + 1)[:, None] > 0, visible, np.nan), shown, calibrate=False)
    assert made is not None
    assert (made.lead[true] == 0).all()
    assert not made.claimed_before.any()


def test_readings_of_other_runs_give_no_lead() -> None:
    scores, shown = planted()
    order = np.random.default_rng(1).permutation(RUNS)
    own, others = found(scores, shown), found(scores[order], shown)
    assert np.nanmean(own.lead) > 4
    assert np.nanmean(others.lead) < 1.0


def test_what_the_prompt_shows_is_neither_true_nor_false() -> None:
    scores, shown = planted()
    shown[:10] = np.where(shown[:10] <= STEPS, 0, shown[:10])
    made = found(scores, shown)
    assert np.isnan(made.lead[:10]).all()
    assert not still_open(shown, STEPS)[:10][np.broadcast_to((shown == 0)[:10, None], (10, STEPS + 1, HEADS))].any()


def test_too_few_true_heads_are_not_claimed() -> None:
    scores, shown = planted()
    assert claims(scores, np.full_like(shown, STEPS + 1)) is None


def test_a_head_is_shown_from_where_it_stays() -> None:
    shown = np.array([[0, 1, 0, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=bool)[..., None]
    assert first_shown(shown)[:, 0].tolist() == [3, 5, 0]


def test_standardising_takes_away_what_all_runs_share() -> None:
    scores, _ = planted()
    every = np.ones(RUNS, dtype=bool)
    drifted = scores + np.arange(STEPS + 1)[:, None] * 7.0
    np.testing.assert_allclose(standardised(scores, every), standardised(drifted, every), atol=1e-6)


def test_standardising_holds_a_run_against_the_others_alone() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(7, 4, 3))
    scores[:, 0], scores[2, 1, 1] = np.nan, np.nan
    on = np.arange(7) < 5
    z = standardised(scores, on)
    for run in range(7):
        others = scores[on & (np.arange(7) != run), 1:]
        by_hand = (scores[run, 1:] - np.nanmean(others, 0)) / np.nanstd(others, 0)
        assert np.allclose(z[run, 1:], np.nan_to_num(by_hand))


@pytest.mark.parametrize("runs", [24, 100])
def test_scores_that_know_nothing_raise_as_many_false_alarms_as_asked(runs: int) -> None:
    alarms = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scores = np.cumsum(rng.normal(size=(runs, 17, 6)), axis=1)
        scores[:, 0] = np.nan
        shown = np.where(rng.random((runs, 6)) < 0.3, rng.integers(1, 17, (runs, 6)), 17)
        found = claims(scores, shown)
        assert found is not None
        alarms.append(found.claimed_before[found.false].mean())
    assert abs(np.mean(alarms) - ALPHA) < 3 * np.std(alarms) / np.sqrt(20)


def test_a_claim_is_the_first_call_above_the_threshold() -> None:
    probability = np.array([[np.nan, 0.2, 0.6, 0.4, 0.9], [np.nan, 0.1, 0.1, 0.1, 0.1]])[..., None]
    assert first_claim(probability, np.array([0.5, 0.5]))[:, 0].tolist() == [2, 5]


def test_facts_are_shown_by_the_written_tokens() -> None:
    text = 'Write a bedtime story called `The Lost Star`.<start>Luna was sad. Tom said to her: "We laughed."'
    canvas = STORIES.parse(text + "[MASK:1]").numpy()
    shows = {name: dict(zip(fact.heads, fact.shows(canvas)[0].tolist(), strict=True)) for name, fact in FACTS.items()}
    assert shows["genre"] == {"bedtime": True, "campfire": False, "child": False}
    assert {head for head, true in shows["topic"].items() if true} == {"stars", "mystery"}
    assert {head for head, true in shows["name"].items() if true} == {"Luna", "Tom"}
    assert shows["dialogue"] == {"quoted": True}
    assert shows["tense"] == {"past": True, "present": False}
    hidden = np.where(np.arange(canvas.shape[1]) > 3, MASK_ID, canvas)
    assert not any(fact.shows(hidden)[:, 0].any() for name, fact in FACTS.items() if name in ("name", "topic", "dialogue"))


def test_prompts_keep_what_is_given() -> None:
    texts = Corpus(
        STORIES.parse("Tell a campfire story called `Tom`.<start>It was dark."), torch.ones(1, 256, dtype=torch.bool), torch.zeros(1).long()
    )
    whole, withheld, nothing = (STORIES.decode(story_prompts(texts, given))[0] for given in GIVEN)
    assert whole.startswith("Tell a campfire story called `Tom`.<start>[MASK]")
    assert withheld.startswith("Tell a campfire story called `[MASK]")
    assert "Tom" not in withheld
    assert set(nothing.split("[MASK]")) == {""}
    with pytest.raises(StoryError, match="choose from genre and title, genre, nothing"):
        story_prompts(texts, "title")


N_RUNS = 24
NAMED = ("Luna", "Tom")


def story_run(names: Sequence[str]) -> Trajectory:
    """Runs that write their name in call ``WRITTEN`` and other words in the calls around it."""
    asked = "Tell a campfire story called `The Sea`.<start>"
    first = STORIES.parse(asked).numpy().astype(np.int32).repeat(len(names), axis=0)
    place = int(np.flatnonzero(first[0] == MASK_ID)[0])
    canvases, size = [first], (256 - place) // STEPS
    for step in range(1, STEPS + 1):
        canvas = canvases[-1].copy()
        stop = 256 if step == STEPS else place + size * step
        for row, name in enumerate(names):
            words = STORIES.tokenizer.encode(f" {name} went" if step == WRITTEN else " it was").ids
            canvas[row, place + size * (step - 1) : stop] = (words * 256)[: stop - place - size * (step - 1)]
        canvases.append(canvas)
    recorder = Recorder(first, first == MASK_ID, MASK_ID)
    rows = np.arange(len(names))
    for canvas in canvases[1:]:
        spoken = {name: np.full(first.shape, 0.5, np.float32) for name in ("confidence", "margin", "entropy")}
        recorder.add(rows, canvas, {"proposal": canvases[-1], **spoken})
    return recorder.finish(
        {"model": "planted", "fingerprint": "planted:0", "task": "stories", "policy": "rows", "options": "{}", "seed": 0}
    )


def zero_probe(width: int) -> LinearProbe:
    return LinearProbe(torch.zeros(2, width), torch.zeros(2), ("name: 0", "name: 1"), "logistic", "planted:0")


READERS = StoryReaders(
    {MOVED: {resid_post(layer): zero_probe(4) for layer in (2, 3)}}, zero_probe(8), {"genre": (), "name": NAMED}, "planted:0"
)


def story_reading(names: Sequence[str], read: Sequence[str], seed: int = 0) -> StoryReading:
    """Reads the names ``read`` from call ``READ`` on, at layer 2; layer 3 and the visible tokens know nothing."""
    run, heads = story_run(names), [f"name: {name}" for name in NAMED]
    rng = np.random.default_rng(seed)
    known = np.array([[name == head for head in NAMED] for name in read])
    scores = rng.normal(size=(len(names), STEPS + 1, 2, 2)).astype(np.float32) * 0.1
    scores[:, READ:, 0] += 5.0 * known[:, None]
    scores[:, 0] = np.nan
    names_shown = np.stack(
        [FACTS["name"].shows(run.tokens(step))[:, [FACTS["name"].heads.index(name) for name in NAMED]] for step in range(STEPS + 1)], axis=1
    )
    four, own = ("sample", "step", "layer", "head"), {"sample": range(len(names)), "step": range(STEPS + 1), "head": heads}
    blind = rng.normal(size=(*scores.shape[:2], 1, 2)).astype(np.float32)
    blind[:, 0] = np.nan
    return StoryReading(
        run,
        READERS,
        {
            MOVED: xr.DataArray(scores, dims=four, coords={**own, "layer": [2, 3]}),
            TOKENS: xr.DataArray(blind, dims=four, coords={**own, "layer": [-1]}),
        },
        xr.DataArray(np.full(scores.shape, 200), dims=four, coords={**own, "layer": [2, 3]}),
        xr.DataArray(names_shown, dims=("sample", "step", "head"), coords=own),
        xr.DataArray(names_shown, dims=("sample", "step", "head"), coords=own),
    )


@pytest.fixture(scope="module")
def thresholds() -> StoryThresholds:
    names = [NAMED[run % 2] for run in range(N_RUNS)]
    return fit_story_thresholds([story_reading(names, names)])


def test_a_name_that_is_read_is_foreseen_with_its_lead_and_then_written(thresholds: StoryThresholds) -> None:
    statements = narrate_story(story_reading(["Tom"], ["Tom"], 1), thresholds)
    foreseen, appeared = (next(one for one in statements if one.kind == kind) for kind in ("foreseen", "appeared"))
    assert (foreseen.value, foreseen.step, foreseen.lead, foreseen.sound) == ("Tom", READ, WRITTEN - READ, True)
    assert (appeared.value, appeared.step, appeared.lead, appeared.sound) == ("Tom", WRITTEN, WRITTEN - READ, None)
    assert foreseen.text.startswith(f"Tom will be named (read in {len(foreseen.positions)} unwritten places after layer 2; nothing written")
    evidence = foreseen.evidence[0]
    assert (evidence.reader, evidence.point, evidence.step, evidence.position) == ("moved name_coming", str(resid_post(2)), READ, 200)
    assert evidence.probability > 0.5
    assert read_jsonl(to_jsonl(statements)) == statements


def test_a_name_that_never_comes_is_unsound_and_contradicted(thresholds: StoryThresholds) -> None:
    statements = narrate_story(story_reading(["Luna"], ["Tom"], 1), thresholds)
    tom = [one for one in statements if one.value == "Tom"]
    assert [(one.kind, one.step) for one in tom] == [("foreseen", READ), ("contradicted", STEPS)]
    assert (tom[0].sound, tom[0].lead) == (False, None)
    assert [one.text for one in statements if one.value == "Luna"] == ["name Luna is now written, not read before"]


def test_nothing_is_foreseen_of_runs_that_nothing_was_read_in(thresholds: StoryThresholds) -> None:
    names = [NAMED[run % 2] for run in range(N_RUNS)]
    statements = narrate_story(story_reading(names, [""] * N_RUNS, 2), thresholds)
    assert sum(one.kind == "foreseen" for one in statements) <= 2


def test_thresholds_of_a_reader_that_knows_nothing_keep_the_false_alarms_rare() -> None:
    names = [NAMED[run % 2] for run in range(N_RUNS)]
    blind = fit_story_thresholds([story_reading(names, names)], TOKENS)
    assert blind.false_alarm <= ALPHA
    other = claims_of_story(story_reading(names, names, 3), blind, TOKENS)["name"]
    assert other.claimed_before[other.false].mean() < 0.3


def test_what_the_prompt_settles_is_not_claimed() -> None:
    canvas = STORIES.parse("Tell a campfire story called `Tom`.<start>").numpy()
    open_title = STORIES.parse("Tell a campfire story called `[MASK:3]`.<start>").numpy()
    assert instructed(np.concatenate([canvas, open_title])).tolist() == [True, False]


def test_readers_and_thresholds_are_saved_and_tied_to_their_model(thresholds: StoryThresholds, tmp_path: Path) -> None:
    model = load("stories-diffusion")
    save_story_readers(ToldReaders(replace(READERS, reads=model.fingerprint), {MOVED: thresholds}), tmp_path / "own")
    save_story_readers(ToldReaders(READERS, {MOVED: thresholds}), tmp_path / "others")
    found = load_story_readers(tmp_path / "own", model)
    assert found.readers.heads == READERS.heads
    assert list(found.readers.probes[MOVED]) == [resid_post(2), resid_post(3)]
    for name, tensor in thresholds.tensors().items():
        torch.testing.assert_close(found.thresholds[MOVED].tensors()[name], tensor)
    reading = story_reading(["Tom"], ["Tom"], 1)
    assert narrate_story(reading, found.thresholds[MOVED]) == narrate_story(reading, thresholds)
    with pytest.raises(ReadingError, match="others reads planted:0, and the model is"):
        load_story_readers(tmp_path / "others", model)
    with pytest.raises(ReadingError, match="holds no whole readers of stories"):
        load_story_readers(tmp_path, model)


def test_a_told_story_is_drawn_and_judged_beside_the_visible_tokens(thresholds: StoryThresholds, tmp_path: Path) -> None:
    reading = story_reading(["Tom", "Luna"], ["Tom", "Tom"], 1)
    claims = {name: claims_of_story(reading, thresholds, name) for name in (MOVED, TOKENS)}
    account = StoryAccount(reading, claims, narrate_story(reading, thresholds))
    verdict = verdict_lines(account)
    assert verdict["Are the reasons sound?"].startswith("left out")
    assert verdict["Does what is foreseen come?"].startswith("50%")
    assert all("by the visible tokens alone" in said for name, said in verdict.items() if name != "Are the reasons sound?")
    write_account(account, tmp_path)
    assert "Tom will be named" in (tmp_path / "index.html").read_text()
    assert len((tmp_path / "reading.jsonl").read_text().splitlines()) == len(account.statements)
    assert next(paragraph(account.statements)).startswith("1 foreseen before they were written, 5 calls ahead in the mean, 1 of 1 rightly")
