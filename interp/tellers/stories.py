"""How runs of stories are told: what will be in the text, read before it is written, and graded by the text that the run ends with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool

from interp.clock import Progress
from interp.narration import Statement, Support, with_support
from interp.narration.stories import narrate_story
from interp.reading.saved_stories import load_story_readers, save_story_readers
from interp.reading.stories import (
    GIVEN,
    MOVED,
    TOKENS,
    StoryReaders,
    StoryReading,
    fit_story_readers,
    read_story,
    sampled_texts,
    story_prompts,
)
from interp.reading.story_claims import ALPHA, Claims
from interp.reading.story_thresholds import CLAIMING, ToldReaders, claims_of_story, fit_story_thresholds, layers_told
from interp.scoring import estimate
from interp.tellers.base import OnStep, Teller
from interp.transfer import Twins
from interp.viz.trace_page import show
from models.decoding import Decoding
from models.denoise import denoise
from models.hookpoints import resid_post
from models.language_model import LanguageModel
from models.load import load
from models.trajectory import Trajectory
from probes.metrics import bootstrap_mean

TEXTS, RUNS, CALLS = 128, 24, 32
"""Texts that readers are fitted on (a quarter is held out), runs that thresholds are fitted on, and network calls of one."""
ORDERS = ("random", "low_confidence")
"""Half of the runs are written in either order: a trace may be of any."""
TEMPERATURE = 0.7


@dataclass(frozen=True)
class StoryAccount:
    """A reading of texts and what it says."""

    reading: StoryReading
    claims: Mapping[str, Mapping[str, Claims]]
    """By reader (``CLAIMING``) and fact."""
    statements: list[Statement]

    @property
    def trajectory(self) -> Trajectory:
        """The run that it tells."""
        return self.reading.trajectory


def _runs_read(model: LanguageModel, readers: StoryReaders, prompts: torch.Tensor, seed: int, tell: Progress) -> list[StoryReading]:
    """Returns readings of runs of prompts, the first half of them in one order and the second in another."""
    found, half = [], len(prompts) // len(ORDERS)
    for place, order in enumerate(ORDERS):
        part = range(place * half, (place + 1) * half)
        tell(f"read {order}", 0, CALLS)
        decoding = Decoding(order, steps=CALLS, temperature=TEMPERATURE, seed=seed)
        run = denoise(model, prompts[part.start : part.stop], decoding, sample_ids=part)
        found.append(read_story(model, run, readers, partial(tell, f"read {order}")))
    return found


def _fit(ar: str, diffusion: LanguageModel, seed: int, tell: Progress) -> ToldReaders:
    """Returns readers learned on texts that the causal twin writes, with thresholds from runs of the instructions of others of them.

    The prompts of the runs keep genre and title, the genre, or nothing, in turn.
    """
    causal = load(ar)
    tell("write texts", 0, 1)
    texts = sampled_texts(causal, TEXTS, seed)
    held_out = texts.rows(torch.arange(len(texts)) >= len(texts) * 3 // 4)
    tell("write texts", 1, 1)
    tell("fit readers", 0, 1)
    points = [resid_post(layer) for layer in layers_told()]
    readers = fit_story_readers(Twins(causal, diffusion), texts, points, names=(MOVED,), seed=seed)
    tell("fit readers", 1, 1)
    kept = [story_prompts(held_out, given) for given in GIVEN]
    prompts = torch.stack([kept[place % len(kept)][place % len(held_out)] for place in range(RUNS)])
    readings = _runs_read(diffusion, readers, prompts, seed, tell)
    return ToldReaders(readers, {name: fit_story_thresholds(readings, name) for name in CLAIMING})


def _tell(model: LanguageModel, trajectory: Trajectory, told: ToldReaders, support: Mapping[str, Support], on_step: OnStep) -> StoryAccount:
    reading = read_story(model, trajectory, told.readers, on_step)
    claims = {name: claims_of_story(reading, told.thresholds[name], name) for name in CLAIMING}
    return StoryAccount(reading, claims, with_support(narrate_story(reading, told.thresholds[MOVED]), support))


@dataclass(frozen=True)
class _Asked:
    """One figure of the verdict."""

    unit: str
    form: str
    of: Callable[[Claims], np.ndarray]
    among: Callable[[Claims], Bool[np.ndarray, "run head"]]


_ASKED: dict[str, _Asked] = {
    "Does what is foreseen come?": _Asked(
        "of claims", ".0%", lambda one: one.true, lambda one: one.claimed_before & (one.true | one.false)
    ),
    "How much of what came was foreseen?": _Asked("of what came", ".0%", lambda one: one.claimed_before, lambda one: one.true),
    "How long before?": _Asked("calls, 0 where it was not", ".1f", lambda one: one.lead, lambda one: one.true),
    f"How often is claimed what does not come? (stated: {ALPHA:.0%})": _Asked(
        "of what did not come", ".0%", lambda one: one.claimed_before, lambda one: one.false
    ),
}


def _said(account: StoryAccount, reader: str, asked: _Asked, seed: int) -> str:
    parts = [(asked.of(one)[asked.among(one)], np.nonzero(asked.among(one))[0]) for one in account.claims[reader].values()]
    values, runs = (torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True))
    if not len(values):
        return "nothing to count"
    found = estimate(bootstrap_mean(values.double(), runs, seed=seed))
    return (
        f"{found.value:{asked.form}} [{found.low:{asked.form}}, {found.high:{asked.form}}] {asked.unit} ({len(values)} in {found.n} runs)"
    )


def _verdict(account: StoryAccount, seed: int) -> dict[str, str]:
    """Returns each figure beside that of the visible tokens, which claim at the same rate of false alarms without a network."""
    found = {"Are the reasons sound?": "left out, stories have no ground truth"}
    for title, asked in _ASKED.items():
        own, tokens = (_said(account, reader, asked, seed) for reader in (MOVED, TOKENS))
        found[title] = f"{own}; by the visible tokens alone {tokens}"
    return found


def _draw(account: StoryAccount) -> str:
    return show(account.trajectory, sample=None, statements=account.statements).html


STORY_RUNS: Teller[ToldReaders, StoryAccount] = Teller(
    causal="stories-ar", fit=_fit, save=save_story_readers, load=load_story_readers, tell=_tell, verdict=_verdict, draw=_draw
)
