"""What can be read of a story before it is written, by when, and how long before its written words tell as much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from interp.corpus import Corpus
from interp.reading.stories import (
    GIVEN,
    MOVED,
    NATIVE,
    RANDOM,
    SHUFFLED,
    TOKENS,
    StoryReaders,
    StoryReading,
    fit_story_readers,
    read_story,
    sampled_texts,
    story_prompts,
)
from interp.reading.story_claims import ALPHA, Claims, claims, standardised, still_open
from interp.reading.story_facts import FACTS, first_shown
from interp.report import Estimate
from interp.scoring import estimate
from interp.statistics import Coordinate, Measured, Role, Statistic
from interp.studies.base import Request, Study, StudyError
from interp.transfer import Twins
from models.decoding import Decoding
from models.denoise import denoise
from models.hookpoints import resid_post
from models.language_model import LanguageModel
from models.tasks.stories.task import STORIES
from probes.metrics import bootstrap_auc, bootstrap_mean

OTHER_RUNS, PROPOSALS = "other runs", "the model's own proposals"
READERS = (MOVED, NATIVE, TOKENS, PROPOSALS, SHUFFLED, RANDOM, OTHER_RUNS)
FLOORS = (SHUFFLED, RANDOM, OTHER_RUNS)
PERCENT_WRITTEN = (0, 25, 50, 75)
TEMPERATURE = 0.7
BATCH = 16


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    texts: int
    """Written by the causal twin, to fit readers on."""
    prompts: int
    """Of each kind; as many more texts are written, for their instructions."""
    steps: int
    """Network calls of a run."""


@dataclass(frozen=True, eq=False)
class _Runs:
    """What was read of the runs of one kind of prompt, all heads of all facts side by side."""

    scores: dict[str, dict[int, Float[np.ndarray, "run step head"]]]
    """By reader and layer; the layers of a reader without any are all the same."""
    shown: Int[np.ndarray, "run head"]
    columns: dict[str, list[int]]

    @property
    def steps(self) -> int:
        return next(iter(self.scores[MOVED].values())).shape[1] - 1

    def of(self, fact: str, reader: str, layer: int) -> Float[np.ndarray, "run step head"]:
        """Returns the scores of one fact's heads."""
        return self.scores[reader][layer][..., self.columns[fact]]

    def claims(self, fact: str, reader: str) -> Claims | None:
        """Returns what a reader claims at the fact's own layer."""
        return claims(self.of(fact, reader, FACTS[fact].layer), self.shown[:, self.columns[fact]], calibrate=reader != PROPOSALS)


def _joined(readings: Sequence[StoryReading]) -> _Runs:
    """Returns the readings of several batches as one."""
    first = readings[0]
    scores = {name: np.concatenate([one.scores[name].values for one in readings]) for name in first.scores}
    layers = first.scores[MOVED]["layer"].values.tolist()
    by_layer = {
        name: {layer: of[:, :, place if name != TOKENS else 0] for place, layer in enumerate(layers)} for name, of in scores.items()
    }
    by_layer[OTHER_RUNS] = {layer: np.roll(of, 2, axis=0) for layer, of in by_layer[MOVED].items()}
    proposed = np.concatenate([one.proposed.values for one in readings]).astype(np.float64)
    proposed[:, 0] = np.nan
    by_layer[PROPOSALS] = dict.fromkeys(layers, proposed)
    shown = first_shown(np.concatenate([one.shown.values for one in readings]))
    return _Runs(by_layer, shown, {fact: first.columns(fact) for fact in first.readers.heads})


def _runs(model: LanguageModel, readers: StoryReaders, prompts: torch.Tensor, sizes: Sizes, seed: int) -> Iterator[StoryReading]:
    decoding = Decoding("random", steps=sizes.steps, temperature=TEMPERATURE, seed=seed)
    for first in range(0, len(prompts), BATCH):
        part = prompts[first : first + BATCH]
        run = denoise(model, part, decoding, sample_ids=range(first, first + len(part)))
        yield read_story(model, run, readers)


def _auc(runs: _Runs, fact: str, reader: str, layer: int, percent: int, seed: int) -> Estimate | None:
    """Returns how well a call's log odds tell true from false heads that are not shown yet; None where there are too few."""
    columns = runs.columns[fact]
    shown, steps = runs.shown[:, columns], runs.steps
    step = 1 + steps * percent // 100
    counted = still_open(shown, steps)[:, step]
    scores = runs.of(fact, reader, layer)
    z = scores if reader == PROPOSALS else standardised(scores, np.ones(len(scores), dtype=bool))
    run = np.broadcast_to(np.arange(len(scores))[:, None], counted.shape)
    true = (shown <= steps)[counted]
    if min(true.sum(), (~true).sum()) < 5:
        return None
    columns_of = [torch.from_numpy(np.ascontiguousarray(one)) for one in (z[:, step][counted], true, run[counted])]
    return estimate(bootstrap_auc(columns_of[0][:, None].float(), columns_of[1][:, None], columns_of[2], seed=seed))


def _mean(values: Float[np.ndarray, "run head"], keep: Bool[np.ndarray, "run head"], seed: int) -> Estimate:
    run = np.broadcast_to(np.arange(len(values))[:, None], values.shape)[keep]
    return estimate(
        bootstrap_mean(torch.from_numpy(values[keep].astype(np.float64)), torch.from_numpy(np.ascontiguousarray(run)), seed=seed)
    )


def _aucs(given: str, runs: _Runs, seed: int) -> tuple[list[Measured], list[Measured]]:
    """Returns AUC by share written, at each fact's own layer, and by layer, at half written."""
    by_share, by_layer = [], []
    for fact in runs.columns:
        at: dict[str, Coordinate] = {"given": given, "fact": fact}
        for reader in READERS:
            for percent in PERCENT_WRITTEN:
                if (found := _auc(runs, fact, reader, FACTS[fact].layer, percent, seed)) is not None:
                    by_share.append(Measured(at={**at, "reader": reader, "percent_written": percent}, estimate=found))
            for layer in runs.scores[reader] if reader in (MOVED, NATIVE, OTHER_RUNS) else ():
                if (found := _auc(runs, fact, reader, layer, 50, seed)) is not None:
                    by_layer.append(Measured(at={**at, "reader": reader, "layer": layer}, estimate=found))
    return by_share, by_layer


def _leads(given: str, runs: _Runs, seed: int) -> dict[str, list[Measured]]:
    """Returns leads, the share claimed before it was written, false alarms, and leads over the reader of visible tokens."""
    found: dict[str, list[Measured]] = {name: [] for name in LEADS}
    for fact in runs.columns:
        made = {reader: one for reader in READERS if (one := runs.claims(fact, reader)) is not None}
        if TOKENS not in made:
            continue
        for reader, one in made.items():
            at: dict[str, Coordinate] = {"given": given, "fact": fact, "reader": reader}
            values = {
                "story_leads": (one.lead, one.true),
                "story_claimed_before": (one.claimed_before, one.true),
                "story_false_alarms": (one.claimed_before, one.false),
                "story_lead_over_tokens": (one.lead - made[TOKENS].lead, one.true),
            }
            for name, (of, keep) in values.items():
                if keep.any() and not (name == "story_lead_over_tokens" and reader == TOKENS):
                    found[name].append(Measured(at=at, estimate=_mean(of, keep, seed)))
    return found


LEADS = {
    "story_leads": ("How many calls before it is written can it be claimed?", "network calls"),
    "story_claimed_before": ("What is claimed before it is written", "share of true heads"),
    "story_false_alarms": ("What is claimed and does not come", "share of false heads"),
    "story_lead_over_tokens": ("How many calls before the visible tokens tell as much?", "network calls"),
}
_ABOUT = (
    "Truth is the text that a run ends with. A head (a name, a topic of the title, ...) counts until the canvas shows it to the end. "
    "Log odds are means over unwritten places, held against the other runs in the same call, so with the same share unwritten. Readers: "
    "fitted on the causal twin and moved by the affine map; fitted on the diffusion model (ceiling); a bag of the visible tokens "
    "without a network, fitted, averaged and calibrated alike (the baseline to beat); what the text would show if all were written as "
    "the call proposes. Floors: shuffled labels, random directions, readings of other runs in the same call. Intervals resample runs."
)


def _statistic(name: str, title: str, unit: str, about: str, x: str, values: list[Measured]) -> Statistic:
    there = {value.at["reader"] for value in values}
    roles: dict[str, Role] = {SHUFFLED: "floor", RANDOM: "floor", OTHER_RUNS: "floor", TOKENS: "reference", PROPOSALS: "reference"}
    panels = ("given",) if x == "fact" else ("given", "fact")
    return Statistic(
        name=name,
        title=title,
        about=about,
        unit=unit,
        panels=panels,
        lines=("reader",),
        x=x,
        roles={reader: role for reader, role in roles.items() if reader in there},
        values=values,
    )


def _texts(model: LanguageModel, sizes: Sizes, seed: int) -> tuple[Corpus, Corpus]:
    """Returns texts to fit on, and others for their instructions."""
    return sampled_texts(model, sizes.texts, seed), sampled_texts(model, sizes.prompts * 5 // 4, seed + 1)


def measure(request: Request) -> list[Statistic]:
    """Returns what can be read of stories before they are written, and when.

    Raises:
        StudyError: On models that are not a causal and a masked model of stories.
    """
    facts = [(model.facts.task, model.facts.objective) for model in request.models]
    if facts != [(STORIES.name, "causal"), (STORIES.name, "masked")]:
        raise StudyError(f"the models are {facts}; this study takes a causal model of stories and the masked one grown from it")
    ar, diffusion = request.models
    sizes: Sizes = request.sizes
    clock = request.clock
    with clock.stage("write texts"):
        texts, others = _texts(ar, sizes, request.seed)
    with clock.stage("fit readers"):
        points = [resid_post(layer) for layer in range(diffusion.n_layers)]
        readers = fit_story_readers(Twins(ar, diffusion), texts, points, seed=request.seed)
    by_share: list[Measured] = []
    by_layer: list[Measured] = []
    leads: dict[str, list[Measured]] = {name: [] for name in LEADS}
    with clock.stage("denoise and read") as tell:
        for done, given in enumerate(GIVEN):
            tell(done, len(GIVEN))
            prompts = story_prompts(others, given)[: sizes.prompts]
            runs = _joined(list(_runs(diffusion, readers, prompts, sizes, request.seed)))
            shares, layers = _aucs(given, runs, request.seed)
            by_share += shares
            by_layer += layers
            for name, values in _leads(given, runs, request.seed).items():
                leads[name] += values
    how = f"{sizes.steps} calls in random order at temperature {TEMPERATURE}. {_ABOUT}"
    claim = f"A claim: the first call above a threshold that {ALPHA:.0%} of false heads of the other half of the runs ever pass. {how}"
    return [
        _statistic("story_readable", "What can be told of a text before it is written?", "AUC", how, "percent_written", by_share),
        _statistic("story_readable_by_layer", "... and after which layer, half written?", "AUC", how, "layer", by_layer),
        *(_statistic(name, title, unit, claim, "fact", leads[name]) for name, (title, unit) in LEADS.items()),
    ]


def findings(statistics: Sequence[Statistic]) -> list[str]:
    """Returns for each kind of prompt and fact when it is claimed, and whether visible tokens and floors are beaten, or not."""
    by_name = {one.name: one for one in statistics}
    leads, alarms = by_name["story_leads"], by_name["story_false_alarms"]
    said = []
    for value in by_name["story_lead_over_tokens"].values:
        if value.at["reader"] != MOVED:
            continue
        place = {name: value.at[name] for name in ("given", "fact")}
        found = {
            str(one.at["reader"]): one.estimate for one in leads.values if all(one.at[name] == place[name] for name in ("given", "fact"))
        }
        own, over, alarm = found[MOVED], value.estimate, alarms.at(**place, reader=MOVED)
        level = [name for name in FLOORS if name in found and found[name].high >= own.low]
        beaten = "sooner than" if over.low > 0 else "later than" if over.high < 0 else "not told apart from"
        others = ", ".join(f"{name} {one.value:.2f}" for name, one in found.items() if name != MOVED)
        said.append(
            f"Given {place['given']}, {place['fact']}: claimed {own.value:.2f} [{own.low:.2f}, {own.high:.2f}] calls before it is written "
            f"({own.n} runs; {alarm.value:.1%} false alarms); {others}. {beaten.capitalize()} the visible tokens "
            f"({over.value:+.2f} [{over.low:+.2f}, {over.high:+.2f}]); "
            + (f"no better than {', '.join(level)}." if level else "above every floor.")
        )
    return said or ["No fact is true of enough runs to calibrate claims on; a larger scale has more."]


STORY_LEADS = Study(
    title="What is read of a story before it is written",
    claim="What a story will be about is readable before it is written",
    limits=(
        "Short stories of one corpus and a small model, whose own words are what the facts are checked against; labels are made by lists "
        "of words, so a topic is what they find."
    ),
    about=(
        "A diffusion model writes a story in an order of its own. Can its genre, the topic of its title, the names in it, how its "
        "ending is told, dialogue and tense be read in the places that are not written yet; from which call on; and is that sooner than "
        "the words already written tell as much? With the instruction given, with the title withheld, and from nothing."
    ),
    models=("stories-ar", "stories-diffusion"),
    sizes={"small": Sizes(texts=160, prompts=24, steps=16), "full": Sizes(texts=400, prompts=200, steps=16)},
    measure=measure,
    findings=findings,
)
