"""Reading a run of the stories model: what is read about the text as a whole, in the places that are not written yet.

A run has no reference text. What it ends with is the truth of what was read on the way: whether a name *will* occur in it, what its title
*will* be about.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.canvases import Masked
from interp.concepts import CONCEPTS, Sites
from interp.concepts.stories import OWN_BUCKETS, SHARED_BUCKETS, text_tokens
from interp.corpus import Corpus
from interp.harvest import activations_at, harvest
from interp.reading.readers import ReadingError
from interp.reading.scores import check_model
from interp.reading.story_facts import FACTS, passages_of
from interp.scoring import Question, fit_readers
from interp.transfer import AR_FIT, FIT, Pairs, Split, TransferData, Twins, alignment_at, questions_of, same_views
from models.decoding import Decoding
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from models.left_to_right import write_left_to_right
from models.tasks.stories.task import END_ID, MASK_ID, MORE_ID, START_ID, STORIES, STORY_ID
from models.trajectory import Trajectory
from probes.controls import random_directions, shuffle_labels
from probes.linear import LinearProbe

MOVED, NATIVE, TOKENS, SHUFFLED, RANDOM = "moved", "native", "visible tokens", "shuffled labels", "random directions"
NETWORK_READERS = (MOVED, NATIVE, SHUFFLED, RANDOM)
TITLE_TOKENS = 6
"""The length of a title that is left to the model."""
_TITLE = re.compile(r"`[^`]*`")
_BATCH = 64
_MASKS = Masked((0.3, 0.6, 0.9))


class StoryError(ValueError):
    """Texts that no reader of stories can be fitted on."""


def sampled_texts(model: LanguageModel, n: int, seed: int) -> Corpus:
    """Returns texts that a causal model of stories writes from nothing, at temperature 1; each is a group of its own.

    No text ships with the package, so readers are fitted on what the causal twin itself writes unless files are named (``text_corpus``).
    Only texts are kept whose instruction states one genre and a title: about nine in ten.
    """
    parts: list[Tensor] = []
    for first in range(0, n, _BATCH):
        blank = STORIES.parse("").repeat(min(_BATCH, n - first), 1)
        run = write_left_to_right(model, blank, Decoding(temperature=1.0, seed=seed), sample_ids=range(first, first + len(blank)))
        parts.append(torch.from_numpy(run.tokens(-1)))
    tokens = torch.cat(parts)
    ended = (tokens == END_ID).cumsum(1) > 0
    tokens = tokens.masked_fill(ended, END_ID)
    opens = (tokens == START_ID) | (tokens == MORE_ID)
    asked = (opens.cumsum(1) - opens.int() > 0) & ~ended & (tokens != STORY_ID)
    told = torch.tensor([len(_TITLE.findall(one.instruction)) == 1 for one in passages_of(tokens.numpy())])
    whole = told & (opens.sum(1) == 1) & asked.any(1) & torch.from_numpy(FACTS["genre"].shows(tokens.numpy()).sum(1) == 1)
    return Corpus(tokens[whole], asked[whole], torch.arange(int(whole.sum())))


GIVEN: dict[str, Callable[[str], Int[Tensor, "1 pos"]]] = {
    "genre and title": lambda instruction: STORIES.parse(f"{instruction}<start>"),
    "genre": lambda instruction: _open(_TITLE.sub(f"`[MASK:{TITLE_TOKENS}]`", instruction, count=1)),
    "nothing": lambda instruction: STORIES.parse(""),
}
"""What a prompt keeps of an instruction; all else is left to the model."""


def _open(instruction: str) -> Int[Tensor, "1 pos"]:
    tokens = STORIES.parse(f"{instruction}<start>[MASK:1]")
    return tokens.masked_fill(tokens == END_ID, MASK_ID)


def story_prompts(texts: Corpus, given: str) -> Int[Tensor, "sample pos"]:
    """Returns a prompt from the instruction of each text.

    Raises:
        StoryError: On an unknown kind of prompt.
    """
    if given not in GIVEN:
        raise StoryError(f"unknown kind of prompt {given!r}; choose from {', '.join(GIVEN)}")
    return torch.cat([GIVEN[given](one.instruction) for one in passages_of(texts.sequences.numpy())])


@dataclass(frozen=True)
class StoryReaders:
    """Readers of facts, all heads of a hook point in one probe."""

    probes: Mapping[str, Mapping[HookPoint, LinearProbe]]
    """By name (``NETWORK_READERS``); they read the diffusion twin's activations as they are."""
    tokens: LinearProbe
    """The same labels read from visible tokens without a network (a bag of them)."""
    heads: Mapping[str, tuple[str, ...]]
    """By fact, the heads that there were texts enough for; the probes' heads are these, fact after fact."""
    reads: str
    """Fingerprint of the model they read."""


def _joined(probes: Mapping[str, LinearProbe], columns: Mapping[str, list[int]], kind: str) -> LinearProbe:
    """Returns the columns of several probes as one probe."""
    weight = torch.cat([probes[FACTS[fact].concept].weight[places] for fact, places in columns.items()])
    bias = torch.cat([probes[FACTS[fact].concept].bias[places] for fact, places in columns.items()])
    heads = tuple(f"{fact}: {place}" for fact, places in columns.items() for place in places)
    return LinearProbe(weight, bias, heads, kind, next(iter(probes.values())).fitted_on)


def _through(probe: LinearProbe, data: TransferData, point: HookPoint) -> LinearProbe:
    """Returns a probe of the causal twin as one of the diffusion twin, through the affine map between the two."""
    alignment = alignment_at(data, point, "ridge_affine")
    return replace(probe, weight=probe.weight @ alignment.matrix.T, bias=probe.bias + probe.weight @ alignment.offset)


def _harvested(twins: Twins, texts: Corpus, points: Sequence[HookPoint], pairs: int, seed: int) -> TransferData:
    """Returns activations of both twins; three quarters of the texts are to fit on."""
    cut = len(texts) * 3 // 4
    parts = texts.rows(torch.arange(cut)), texts.rows(torch.arange(cut, len(texts)))
    ar = Split(*(harvest(twins.ar, part, points, seed=seed + place) for place, part in enumerate(parts)))
    there = Split(*(harvest(twins.diffusion, part, points, canvases=_MASKS, seed=seed + place) for place, part in enumerate(parts)))
    base, seen = same_views(ar.fit, twins.diffusion, points, seed, pairs)
    fingerprints = {"ar": twins.ar.fingerprint, "diffusion": twins.diffusion.fingerprint}
    return TransferData(ar, there, None, Pairs(base.activations, seen), fingerprints)


def _visible(sites: Sites) -> Float[Tensor, "row feature"]:
    """Returns the bag of visible tokens (see ``interp.concepts.stories.text_tokens``)."""
    return torch.from_numpy(text_tokens(sites)[:, : OWN_BUCKETS + SHARED_BUCKETS])


@dataclass(frozen=True)
class _Asked:
    """What readers are fitted on."""

    data: TransferData
    questions: Mapping[str, Question]
    """By concept."""
    columns: Mapping[str, list[int]]
    """By fact, which heads of its concept are read."""
    seed: int

    def truth(self, part: int) -> dict[str, Bool[Tensor, "row head"]]:
        """Returns the labels of a part of the data."""
        return {name: one.truth[part] for name, one in self.questions.items()}

    def fit(self, split: Split, point: HookPoint, truth: Mapping[str, Bool[Tensor, "row head"]]) -> LinearProbe:
        """Returns the readers fitted on one twin's activations."""
        fitted_on = f"{self.data.fingerprints['diffusion']}@{point}"
        fitted = fit_readers(["logistic"], split.fit.activations[point], truth, split.fit.sites.group, fitted_on=fitted_on)["logistic"]
        return _joined(fitted, self.columns, "logistic")


def _moved(asked: _Asked, point: HookPoint) -> LinearProbe:
    return _through(asked.fit(asked.data.ar, point, asked.truth(AR_FIT)), asked.data, point)


def _native(asked: _Asked, point: HookPoint) -> LinearProbe:
    return asked.fit(asked.data.diffusion, point, asked.truth(FIT))


def _shuffled(asked: _Asked, point: HookPoint) -> LinearProbe:
    shuffled = {name: shuffle_labels(labels, asked.seed) for name, labels in asked.truth(AR_FIT).items()}
    return _through(asked.fit(asked.data.ar, point, shuffled), asked.data, point)


def _random(asked: _Asked, point: HookPoint) -> LinearProbe:
    heads = tuple(f"{fact}: {place}" for fact, places in asked.columns.items() for place in places)
    width = asked.data.diffusion.fit.activations[point].shape[1]
    weight, fitted_on = random_directions(len(heads), width, asked.seed), f"{asked.data.fingerprints['diffusion']}@{point}"
    return LinearProbe(weight, torch.zeros(len(heads)), heads, "random", fitted_on)


_FITS = {MOVED: _moved, NATIVE: _native, SHUFFLED: _shuffled, RANDOM: _random}


def fit_story_readers(
    twins: Twins,
    texts: Corpus,
    points: Sequence[HookPoint],
    *,
    names: Sequence[str] = NETWORK_READERS,
    pairs: int = 400,
    seed: int = 0,
) -> StoryReaders:
    """Returns readers of every fact that the texts show often enough, with their ceiling and floors.

    ``moved``: fitted on the causal twin, moved by the affine map; ``native``: fitted on the diffusion twin; ``shuffled labels``: as moved,
    fitted on the labels of other places; ``random directions``. Three quarters of the texts fit; a head must be true and false at some
    places of either part. ``names`` are those to fit, ``moved`` among them; ``pairs`` are places that the map is fitted on, each a
    forward pass.

    Raises:
        interp.scoring.ScoringError: Where a concept is nearly always, or never, true.
    """
    data = _harvested(twins, texts, points, pairs, seed)
    questions = {one.concept.name: one for one in questions_of(data, [CONCEPTS[fact.concept] for fact in FACTS.values()])}
    columns: dict[str, list[int]] = {}
    for name, fact in FACTS.items():
        asked = questions[fact.concept].heads
        columns[name] = [place for place, head in enumerate(asked) if head in fact.heads]
    basis = _Asked(data, questions, columns, seed)
    probes = {name: {point: _FITS[name](basis, point) for point in points} for name in names}
    sites = data.diffusion.fit.sites
    tokens = fit_readers(["logistic"], _visible(sites), basis.truth(FIT), sites.group, fitted_on="visible tokens")["logistic"]
    heads = {name: tuple(questions[FACTS[name].concept].heads[place] for place in places) for name, places in columns.items()}
    return StoryReaders(probes, _joined(tokens, columns, "logistic"), heads, data.fingerprints["diffusion"])


@dataclass(frozen=True, eq=False)
class StoryReading:
    """What readers found in a run about each text as a whole, call by call."""

    trajectory: Trajectory
    readers: StoryReaders
    scores: dict[str, xr.DataArray]
    """By reader, log odds over ``sample, step, layer, head``: step s is the mean over the places that call s found unwritten; NaN at
    step 0, after a sample's last call, and where no place was left. The reader of visible tokens has the one layer -1."""
    strongest: xr.DataArray
    """Over the same dims, the place where the moved reader's log odds were greatest; -1 where it read nothing."""
    shown: xr.DataArray
    """Over ``sample, step, head``: what the canvas after a step shows; at the last step it is the truth."""
    proposed: xr.DataArray
    """Over ``sample, step, head``: what it would show if all that is unwritten were as call s proposes."""

    def columns(self, fact: str) -> list[int]:
        """Returns which of the heads are a fact's."""
        names = self.shown["head"].values.tolist()
        return [names.index(f"{fact}: {head}") for head in self.readers.heads[fact]]


def _head_names(readers: StoryReaders) -> list[str]:
    return [f"{fact}: {head}" for fact, heads in readers.heads.items() for head in heads]


def _shown(readers: StoryReaders, canvases: Int[np.ndarray, "row pos"]) -> Bool[np.ndarray, "row head"]:
    parts = []
    for name, heads in readers.heads.items():
        parts.append(FACTS[name].shows(canvases)[:, [FACTS[name].heads.index(head) for head in heads]])
    return np.concatenate(parts, axis=1)


def _read_places(readers: StoryReaders, places: Int[Tensor, " row"], length: int) -> Bool[Tensor, "row head"]:
    """Returns which heads are read at which places."""
    first = [FACTS[name].from_place * length for name, heads in readers.heads.items() for _ in heads]
    return places[:, None] >= torch.tensor(first)


def _over_places(
    log_odds: Float[Tensor, "row head"], counted: Bool[Tensor, "row head"], run: Int[Tensor, " row"], runs: int
) -> Float[np.ndarray, "run head"]:
    """Returns the mean of each run's places that count; NaN where none does."""
    total = torch.zeros(runs, log_odds.shape[1]).index_add_(0, run, log_odds * counted)
    n = torch.zeros(runs, log_odds.shape[1]).index_add_(0, run, counted.float())
    return (total / n).numpy()


def _most(
    log_odds: Float[Tensor, "row head"], counted: Bool[Tensor, "row head"], run: Int[Tensor, " row"], places: Int[Tensor, " row"], runs: int
) -> Int[np.ndarray, "run head"]:
    """Returns the place of each run where each head is greatest; -1 where none counts."""
    found = np.full((runs, log_odds.shape[1]), -1)
    for one in run.unique().tolist():
        here = run == one
        best = places[here][log_odds[here].masked_fill(~counted[here], -torch.inf).argmax(0)]
        found[one] = torch.where(counted[here].any(0), best, -1).numpy()
    return found


def read_story(
    model: LanguageModel,
    trajectory: Trajectory,
    readers: StoryReaders,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> StoryReading:
    """Returns what the readers find in every network call of a run: the model is run again on the canvases that the calls saw.

    Raises:
        ReadingError: Where the trajectory, or the readers, are of another model.
    """
    check_model(model, trajectory)
    if readers.reads != model.fingerprint:
        raise ReadingError(f"the readers of stories read {readers.reads}, and the model is {model.fingerprint}")
    points, heads, steps = list(readers.probes[MOVED]), _head_names(readers), trajectory.n_steps
    layers = [int(point.layer or 0) for point in points]
    size = (trajectory.n_samples, steps + 1)
    scores = {name: np.full((*size, len(points), len(heads)), np.nan, np.float32) for name in readers.probes}
    scores[TOKENS] = np.full((*size, 1, len(heads)), np.nan, np.float32)
    strongest = np.full((*size, len(points), len(heads)), -1)
    tokens, proposals = trajectory.data["token"].values, trajectory.data["proposal"].values
    for step in range(1, steps + 1):
        rows = np.flatnonzero(trajectory.calls >= step)
        canvases = torch.from_numpy(tokens[rows, step - 1].astype(np.int64))
        run, places = torch.nonzero(canvases == MASK_ID, as_tuple=True)
        counted = _read_places(readers, places, canvases.shape[1])
        found = activations_at(model, canvases, run, places, points)
        for name, probes in readers.probes.items():
            for index, point in enumerate(points):
                log_odds = probes[point].scores(found[point])
                scores[name][rows, step, index] = _over_places(log_odds, counted, run, len(rows))
                if name == MOVED:
                    strongest[rows, step, index] = _most(log_odds, counted, run, places, len(rows))
        sites = Sites.unwritten(canvases[run], canvases[run], places, run, torch.zeros(len(run)))
        log_odds = readers.tokens.scores(_visible(sites))
        scores[TOKENS][rows, step, 0] = _over_places(log_odds, counted, run, len(rows))
        on_step(step, steps)
    filled = np.where((tokens[:, :-1] == MASK_ID) & (proposals[:, 1:] >= 0), proposals[:, 1:], tokens[:, :-1])
    shown = np.stack([_shown(readers, tokens[:, step]) for step in range(steps + 1)], axis=1)
    proposed = np.stack([shown[:, 0], *(_shown(readers, filled[:, step]) for step in range(steps))], axis=1)
    four = ("sample", "step", "layer", "head")
    own = {"sample": range(size[0]), "step": range(size[1]), "head": heads}
    return StoryReading(
        trajectory,
        readers,
        {name: xr.DataArray(of, dims=four, coords={**own, "layer": [-1] if name == TOKENS else layers}) for name, of in scores.items()},
        xr.DataArray(strongest, dims=four, coords={**own, "layer": layers}),
        xr.DataArray(shown, dims=("sample", "step", "head"), coords=own),
        xr.DataArray(proposed, dims=("sample", "step", "head"), coords=own),
    )
