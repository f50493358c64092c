"""What a sweep is going to take: counted, and timed in small trials on this machine as it is now."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from pydantic import Field

from interp.canvases import Decoded, canvases_of, drawn_places
from interp.concepts import Concept, Kind, Sites
from interp.corpus import Corpus
from interp.harvest import Plan
from interp.report import CONTROLS, Entry
from interp.runs.material import gather, split_groups
from interp.scoring import Said, reads, score, slices
from interp.sweeps.material import material
from interp.sweeps.train import Sweep, parts_of
from probes.sweep import estimate_sweep

TRIAL_SEQUENCES, TRIAL_SITES = 16, 2000


class Cost(Entry):
    """What a sweep is going to take. Where canvases are those of runs, which a dry run does not make, counts are estimates."""

    probes: int = Field(description="Heads that are fitted and kept; the controls come on top. Of runs, at most so many.")
    heads: int = Field(description="Of all concepts together, at one seed; fewer where some are nearly always, or never, true.")
    points: int
    readers: int
    seeds: int
    sets: int = Field(description="1, and one a mask rate where probes are fitted for each apart.")
    sites: int = Field(description="Rows to fit on, at each hook point, for the first seed.")
    bytes: int = Field(description="Most memory held at once.")
    seconds: float


@dataclass(frozen=True)
class _Counts:
    """What one seed takes."""

    probes: int
    """At one hook point."""
    heads: int
    sets: int
    fit: int
    """Sites."""
    test: int


def cost_of(sweep: Sweep) -> Cost:
    """Returns what a sweep is going to take, after a trial of each of its parts on some of its puzzles or documents.

    Raises:
        ScoringError: As ``train`` would, where a concept is nearly always, or never, true.
    """
    config, model, points = sweep.config, sweep.model, len(sweep.points)
    corpus, concepts = material(config, model, config.seeds[0])
    started = time.perf_counter()
    (trial,) = gather(sweep, model, [corpus.rows(torch.arange(min(TRIAL_SEQUENCES, len(corpus))))], 0, lambda *told: None, "trial")
    per_sequence = (time.perf_counter() - started) / min(TRIAL_SEQUENCES, len(corpus))
    counts = [_counted(sweep, seed, trial.sites) for seed in config.seeds]
    first = counts[0]
    fits = [
        estimate_sweep(points=points, rows=first.fit, d_model=model.d_model, heads=3 * asked, kinds=[reader])
        for reader in config.readers
        if (asked := sum(len(concept.heads) for concept in concepts if reads(reader, concept)))
    ]
    scored = _seconds_a_value() * first.test * first.heads * points * len(config.readers) * 2 * (1 + len(CONTROLS))
    seconds = 2 * per_sequence * len(corpus) + (1 + (first.sets > 1)) * (sum(one.seconds for one in fits) + scored)
    held = 4 * (first.fit + first.test) * (2 * model.d_model * points + 4 * corpus.sequences.shape[1])
    return Cost(
        probes=points * sum(one.probes for one in counts),
        heads=first.heads,
        points=points,
        readers=len(config.readers),
        seeds=len(config.seeds),
        sets=first.sets,
        sites=first.fit,
        bytes=held + max(one.bytes for one in fits),
        seconds=len(config.seeds) * seconds,
    )


def _counted(sweep: Sweep, seed: int, trial: Sites) -> _Counts:
    """Returns what one seed takes; what the trial's sites promise where canvases are those of runs."""
    config = sweep.config
    corpus, concepts = material(config, sweep.model, seed)
    parts = split_groups(corpus, config.held_out, seed)
    if isinstance(config.canvases.source(sweep.model, seed), Decoded):
        each = len(trial) / len(trial.sample.unique())
        sets = sum(part.kind is None and part.step is None for part in slices(trial)) if config.apart else 1
        probes = sum(_probes(config.readers, concept, len(concept.heads)) for concept in concepts)
        return _Counts(sets * probes, sum(len(one.heads) for one in concepts), sets, *(round(each * len(part)) for part in parts))
    fit, test = (_sites(sweep, part, seed, seed + offset) for offset, part in enumerate(parts))
    found = parts_of(concepts, fit, test, apart=config.apart)
    heads = [[(one.concept, len(one.heads)) for one in part.questions] for part in found]
    probes = sum(_probes(config.readers, concept, count) for part in heads for concept, count in part)
    return _Counts(probes, sum(count for _, count in heads[0]), len(found), len(fit), len(test))


def _probes(readers: tuple[str, ...], concept: Concept, heads: int) -> int:
    return heads * sum(reads(reader, concept) for reader in readers)


def _sites(sweep: Sweep, corpus: Corpus, canvas_seed: int, seed: int) -> Sites:
    """Returns the sites that are going to be read, without reading them."""
    config, model = sweep.config, sweep.model
    plan = Plan(config.canvases.source(model, canvas_seed), config.position_kinds, config.sites_per_canvas, seed)
    canvases = canvases_of(model, corpus, plan.canvases, plan.seed)
    places = drawn_places(canvases, plan.kinds, plan.most, plan.seed, model.facts.logit_shift)
    return canvases.sites(*places, model.task)


def _seconds_a_value() -> float:
    """Returns the seconds that scoring one head at one site takes."""
    generator = torch.Generator().manual_seed(0)
    logits, place = torch.randn(TRIAL_SITES, 4, generator=generator), torch.zeros(TRIAL_SITES, dtype=torch.long)
    group = torch.arange(TRIAL_SITES) % 100
    tokens = place[:, None]
    rate = torch.rand(TRIAL_SITES, generator=generator)
    sites = Sites(tokens, tokens, place, group, group, rate, torch.full_like(place, Kind.MASKED), place, place.bool())
    started = time.perf_counter()
    score(Said(logits, logits > 0.5, sites))
    return (time.perf_counter() - started) / logits.numel()
