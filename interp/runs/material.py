"""What a run shows its model: sequences, which of them are held out, and the activations at its hook points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from interp.boards import mixed_boards
from interp.canvases import check_source
from interp.concepts import CONCEPTS, Concept, Sites
from interp.concepts.labelled import contrast_corpus, labelled_corpus
from interp.corpus import Corpus, puzzle_corpus, text_corpus
from interp.harvest import Harvest, activations_at, harvest, points_of
from interp.runs.config import RunConfig
from interp.runs.folder import Tell
from interp.runs.settings import RunError, of_setting
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from models.load import load
from models.tasks import PuzzleTask
from models.tasks.sudoku.generator import RUNGS, Puzzles


@dataclass(frozen=True)
class Planned:
    """A run's settings, checked against its model."""

    config: RunConfig
    model: LanguageModel
    points: tuple[HookPoint, ...]


def plan(config: RunConfig) -> Planned:
    """Returns a run whose settings go with its model and its corpus, before anything is computed.

    Raises:
        SettingError: Naming the setting that does not, and the choices.
    """
    with of_setting("model"):
        model = load(config.model)
    with of_setting("points"):
        points = points_of(model, config.points)
    with of_setting("corpus"):
        corpus, _ = corpus_of(config, model, config.seeds[0])
        split_groups(corpus, config.held_out, config.seeds[0])
    with of_setting("kinds"):
        check_source(model, config.canvases.source(model, 0), config.position_kinds, corpus)
    return Planned(config, model, points)


def corpus_of(config: RunConfig, model: LanguageModel, seed: int) -> tuple[Corpus, tuple[Concept, ...]]:
    """Returns the sequences of a seed, and the concepts that its own labels make.

    Raises:
        RunError: Where the corpus is not for the model's task, or a label cannot name a folder.
        CorpusError: On a file that is not as it should be.
    """
    source, task = config.corpus, model.task
    own: tuple[Concept, ...] = ()
    if source.examples is not None:
        if not isinstance(task, PuzzleTask):
            raise RunError(f"corpus.examples makes puzzles, and {model.name} is of the task {task.name!r}; give files")
        return puzzle_corpus(task, _boards(source.examples, seed)), own
    if source.files:
        return text_corpus(task, [str(path) for path in source.files], limit=source.limit, seed=seed), own
    if source.labels is not None:
        corpus, own = labelled_corpus(source.labels, task)
    else:
        assert source.contrast is not None
        corpus, found = contrast_corpus(*source.contrast, task)
        own = (found,)
    odd = [concept.name for concept in own if Path(concept.name).name != concept.name or concept.name.startswith(".")]
    if odd:
        raise RunError(
            f"{source.labels}: the label {odd[0]!r} cannot name the folder of its probes; it must hold no / and begin with no dot"
        )
    return corpus, own


@lru_cache(maxsize=2)
def _boards(count: int, seed: int) -> Puzzles:
    """Returns generated puzzles; checking a run's settings, training and moving all ask for the same ones."""
    return mixed_boards(count, seed, RUNGS)


def named_concepts(names: Sequence[str], model: LanguageModel, own: Sequence[Concept]) -> tuple[Concept, ...]:
    """Returns concepts by name, of those of the user's labels and of the task.

    Raises:
        RunError: On one that there is not, naming all.
    """
    task = model.facts.task
    known = {concept.name: concept for concept in own} | {name: one for name, one in CONCEPTS.items() if one.task == task}
    wrong = [name for name in names if name not in known]
    if wrong:
        other = f"; it is of the task {CONCEPTS[wrong[0]].task!r}" if wrong[0] in CONCEPTS else ""
        raise RunError(f"{model.name} has no concept {wrong[0]!r} (task {task!r}){other}; choose from {', '.join(known)}")
    return tuple(known[name] for name in names)


def split_groups(corpus: Corpus, held_out: float, seed: int) -> tuple[Corpus, Corpus]:
    """Returns the sequences to fit on and those to score on; puzzles or documents are never split.

    Raises:
        RunError: Where either would have fewer than 5.
    """
    groups = torch.unique(corpus.group)
    order = groups[torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))]
    count = round(held_out * len(groups))
    if min(count, len(groups) - count) < 5:
        raise RunError(f"{len(groups)} puzzles or documents with {held_out:g} held out leave too few; at least 5 to fit on and to score on")
    tested = torch.isin(corpus.group, order[:count])
    return corpus.rows(~tested), corpus.rows(tested)


def gather(planned: Planned, model: LanguageModel, parts: Sequence[Corpus], seed: int, tell: Tell, stage: str) -> list[Harvest]:
    """Returns a model's activations at all hook points of a run, on the sequences to fit on and on those to score on."""
    config, total = planned.config, sum(len(part) for part in parts)
    found: list[Harvest] = []
    before = 0
    for offset, part in enumerate(parts):
        found.append(
            harvest(
                model,
                part,
                planned.points,
                canvases=config.canvases.source(model, seed),
                kinds=config.position_kinds,
                sites_per_canvas=config.sites_per_canvas,
                seed=seed + offset,
                on_sequence=lambda done, _, before=before: tell(stage, before + done, total),  # type: ignore[misc]
            )
        )
        before += len(part)
    return found


def at_sites(model: LanguageModel, corpus: Corpus, sites: Sites, points: Sequence[HookPoint], tell: Tell, stage: str) -> Harvest:
    """Returns a model's activations at the very sites of another one: a causal model reads the sequences, a masked one the canvases."""
    canvases, rows = corpus.sequences, sites.sample
    if model.facts.objective == "masked":
        canvases, rows = torch.unique(sites.seen, dim=0, return_inverse=True)
    return Harvest(sites, activations_at(model, canvases, rows, sites.position, points, lambda done, total: tell(stage, done, total)))
