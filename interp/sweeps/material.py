"""What a sweep shows its model and asks of it: sequences, concepts, and which puzzles or documents are held out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from interp.boards import mixed_boards
from interp.concepts import CONCEPTS, Concept
from interp.concepts.labelled import contrast_corpus, labelled_corpus
from interp.corpus import Corpus, puzzle_corpus, text_corpus
from interp.sweeps.config import SweepConfig, SweepError
from models.language_model import LanguageModel
from models.tasks import PuzzleTask


def corpus_of(config: SweepConfig, model: LanguageModel, seed: int) -> tuple[Corpus, tuple[Concept, ...]]:
    """Returns the sequences of a sweep's seed, and the concepts that its own labels make.

    Raises:
        SweepError: Where the corpus is not for the model's task, or a label cannot name a folder.
        CorpusError: On a file that is not as it should be.
    """
    from models.tasks.sudoku.generator import RUNGS

    source, task = config.corpus, model.task
    own: tuple[Concept, ...] = ()
    if source.examples is not None:
        if not isinstance(task, PuzzleTask):
            raise SweepError(f"corpus.examples makes puzzles, and {model.name} is of the task {task.name!r}; give files")
        return puzzle_corpus(task, mixed_boards(source.examples, seed, RUNGS)), own
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
        raise SweepError(
            f"{source.labels}: the label {odd[0]!r} cannot name the folder of its probes; it must hold no / and begin with no dot"
        )
    return corpus, own


def concepts_of(config: SweepConfig, model: LanguageModel, own: Sequence[Concept]) -> tuple[Concept, ...]:
    """Returns the concepts asked for, of those of the user's labels and of the task.

    Raises:
        SweepError: On one that there is not, naming all.
    """
    task = model.facts.task
    known = {concept.name: concept for concept in own} | {name: one for name, one in CONCEPTS.items() if one.task == task}
    wrong = [name for name in config.concepts if name not in known]
    if wrong:
        other = f"; it is of the task {CONCEPTS[wrong[0]].task!r}" if wrong[0] in CONCEPTS else ""
        raise SweepError(f"{model.name} has no concept {wrong[0]!r} (task {task!r}){other}; choose from {', '.join(known)}")
    run = config.canvases.policy is not None
    default = own or [concept for concept in known.values() if (run or not concept.of_a_run) and concept.by_default]
    return tuple(known[name] for name in config.concepts) if config.concepts else tuple(default)


def material(config: SweepConfig, model: LanguageModel, seed: int) -> tuple[Corpus, tuple[Concept, ...]]:
    """Returns the sequences of a sweep's seed, and what is asked of them.

    Raises:
        SweepError: As ``corpus_of`` and ``concepts_of``.
    """
    corpus, own = corpus_of(config, model, seed)
    return corpus, concepts_of(config, model, own)


def split_groups(corpus: Corpus, held_out: float, seed: int) -> tuple[Corpus, Corpus]:
    """Returns the sequences to fit on and those to score on; puzzles or documents are never split.

    Raises:
        SweepError: Where either would have fewer than 5.
    """
    groups = torch.unique(corpus.group)
    order = groups[torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))]
    count = round(held_out * len(groups))
    if min(count, len(groups) - count) < 5:
        raise SweepError(
            f"{len(groups)} puzzles or documents with {held_out:g} held out leave too few; at least 5 to fit on and to score on"
        )
    tested = torch.isin(corpus.group, order[:count])
    return corpus.rows(~tested), corpus.rows(tested)
