"""Leads of stories: planted readings have the known leads, and what knows nothing has none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int

from interp.corpus import Corpus
from interp.reading.stories import GIVEN, StoryError, story_prompts
from interp.reading.story_claims import Claims, claims, first_claim, standardised, still_open
from interp.reading.story_facts import FACTS, first_shown
from models.tasks.stories.task import MASK_ID, STORIES

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
    scores, shown = planted()
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
