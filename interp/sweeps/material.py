"""What a sweep asks of its sequences."""

from __future__ import annotations

from collections.abc import Sequence

from interp.concepts import CONCEPTS, Concept
from interp.corpus import Corpus
from interp.runs.material import corpus_of, named_concepts
from interp.sweeps.config import SweepConfig
from models.language_model import LanguageModel


def concepts_of(config: SweepConfig, model: LanguageModel, own: Sequence[Concept]) -> tuple[Concept, ...]:
    """Returns the concepts asked for; where none is named, those of the user's labels, or else the usual ones of the task.

    Raises:
        RunError: On one that there is not, naming all.
    """
    if config.concepts:
        return named_concepts(config.concepts, model, own)
    run = config.canvases.policy is not None
    usual = [one for one in CONCEPTS.values() if one.task == model.facts.task and (run or not one.of_a_run) and one.by_default]
    return tuple(own or usual)


def material(config: SweepConfig, model: LanguageModel, seed: int) -> tuple[Corpus, tuple[Concept, ...]]:
    """Returns the sequences of a sweep's seed, and what is asked of them.

    Raises:
        RunError: As ``corpus_of`` and ``concepts_of``.
    """
    corpus, own = corpus_of(config, model, seed)
    return corpus, concepts_of(config, model, own)
