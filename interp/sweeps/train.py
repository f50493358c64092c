"""Probes of one model, trained as a sweep's file says, scored beside their controls; finished hook points are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from interp.concepts import Concept, Sites
from interp.report import ProbeEntry
from interp.runs.folder import Tell, begin, contents_of, finished, unit, write_entries
from interp.runs.material import Planned, at_sites, corpus_of, gather, plan, split_groups
from interp.runs.settings import SettingError, of_setting
from interp.scoring import (
    EXCLUSIVE_ONLY,
    Asked,
    Penalties,
    Probes,
    Question,
    Said,
    ScoringError,
    entries,
    fit_readers,
    input_only,
    question_of,
    reads,
    slices,
)
from interp.sweeps.config import SweepConfig
from interp.sweeps.folder import SweepRun, probe_folder, write_results
from interp.sweeps.material import concepts_of, material
from interp.transfer import Split, shuffled_weights
from models.hookpoints import HookPoint
from probes.controls import shuffle_labels
from probes.errors import check_finite
from probes.linear import LinearProbe, save_probe

FITTED, SCORED = range(2)
"""Places in the truth of a question that is asked of one model."""


@dataclass(frozen=True)
class Sweep(Planned):
    """A sweep's settings, checked against its model."""

    config: SweepConfig

    @property
    def run(self) -> SweepRun:
        """What its folder is of."""
        return SweepRun(
            config=self.config, model=self.model.name, fingerprint=self.model.fingerprint, contents=contents_of(self.config.corpus)
        )


def plan_sweep(config: SweepConfig) -> Sweep:
    """Returns a sweep whose settings go with its model and its corpus, before anything is computed.

    Raises:
        SettingError: Naming the setting that does not, and the choices.
    """
    planned = plan(config)
    with of_setting("concepts"):
        _, own = corpus_of(config, planned.model, config.seeds[0])
        concepts = concepts_of(config, planned.model, own)
    idle = [reader for reader in config.readers if reader in EXCLUSIVE_ONLY]
    if idle and not any(concept.exclusive for concept in concepts):
        said = f"{idle[0]!r} chooses between classes, and {', '.join(one.name for one in concepts)} have heads that may be true together"
        raise SettingError("readers", f"{said}; leave it out")
    return Sweep(config, planned.model, planned.points)


def train(sweep: Sweep, folder: Path, tell: Tell = lambda stage, done, total: None) -> Path:
    """Returns the table of everything that was measured, after training what is not finished yet in ``folder``.

    Raises:
        RunError: Where the folder is another run's.
        ScoringError: Where a concept is nearly always, or never, true. What was finished before is kept.
    """
    begin(folder, sweep.run)
    config = sweep.config
    total = len(config.seeds) * len(sweep.points)
    done = sum(finished(folder, seed, point) for seed in config.seeds for point in sweep.points)
    tell("probes", done, total)
    for seed in config.seeds:
        left = [point for point in sweep.points if not finished(folder, seed, point)]
        if not left:
            continue
        tasks = _prepare(replace(sweep, points=tuple(left)), seed, tell)
        for point in left:
            with unit(folder, seed, point) as place:
                write_entries([entry for task in tasks for entry in _train_point(task, point, place)], place)
            done += 1
            tell("probes", done, total)
    return write_results(folder)


Rows = Tensor | slice
"""Which rows of a harvest."""


@dataclass(frozen=True)
class Part:
    """Some of the sites, all or those of a mask rate, and what is asked of them."""

    fitted_at: float | None
    """The mask rate; None is all."""
    fit_rows: Rows
    test_rows: Rows
    fit: Sites
    test: Sites
    questions: tuple[Question, ...]


def parts_of(concepts: Sequence[Concept], fit: Sites, test: Sites, *, apart: bool) -> list[Part]:
    """Returns all sites together and then, where that is asked for, those of each mask rate, less the concepts that do not vary there.

    Raises:
        ScoringError: Where a concept is nearly always, or never, true of all sites.
    """
    found = [Part(None, slice(None), slice(None), fit, test, tuple(question_of(concept, fit, test) for concept in concepts))]
    for part in slices(test) if apart else ():
        if part.mask_rate is not None:
            rows = part.keeps(fit), part.keeps(test)
            sites = fit.rows(rows[0]), test.rows(rows[1])
            found.append(Part(part.mask_rate, *rows, *sites, _that_vary(concepts, *sites)))
    return found


def _that_vary(concepts: Sequence[Concept], *parts: Sites) -> tuple[Question, ...]:
    found = []
    for concept in concepts:
        with suppress(ScoringError):
            found.append(question_of(concept, *parts))
    return tuple(found)


@dataclass(frozen=True)
class _Task:
    """All that probes of one seed are fitted and scored on."""

    sweep: Sweep
    seed: int
    own: Split
    untrained: Split
    """At the same sites."""
    part: Part
    visible: Mapping[str, Tensor]
    """By concept, what a reader of visible tokens says at the part's sites to score on."""


def _prepare(sweep: Sweep, seed: int, tell: Tell) -> list[_Task]:
    """Returns what one seed's probes are fitted on: all mask rates together, and then each apart where that was asked for."""
    corpus, concepts = material(sweep.config, sweep.model, seed)
    fit, test = split_groups(corpus, sweep.config.held_out, seed)
    own = Split(*gather(sweep, sweep.model, (fit, test), seed, tell, f"harvest, seed {seed}"))
    parts = parts_of(concepts, own.fit.sites, own.test.sites, apart=sweep.config.apart)
    floor = shuffled_weights(sweep.model, seed)
    untrained = Split(
        at_sites(floor, fit, own.fit.sites, sweep.points, tell, f"untrained, seed {seed}"),
        at_sites(floor, test, own.test.sites, sweep.points, tell, f"untrained, held out, seed {seed}"),
    )
    return [_Task(sweep, seed, own, untrained, part, input_only(part.questions, part.fit, part.test, part=FITTED)) for part in parts]


def _train_point(task: _Task, point: HookPoint, place: Path) -> list[ProbeEntry]:
    """Returns the entries of one hook point, after saving its probes."""
    for split, name in ((task.own, "activations"), (task.untrained, "activations of the untrained network")):
        for part in (split.fit, split.test):
            check_finite(part.activations[point], f"{name} at {point}")
    probes = _fit(task, point)
    found: list[ProbeEntry] = []
    for reader in task.sweep.config.readers:
        for question in task.part.questions:
            if reads(reader, question.concept):
                name = question.concept.name
                own = {way: by_reader[reader][name] for way, by_reader in probes.items()}
                save_probe(replace(own["own"], heads=question.heads), probe_folder(place, reader, name, task.part.fitted_at))
                found += entries(Asked(question, point, reader, task.seed, task.part.fitted_at), _said(task, question, point, own))
    return found


def _fit(task: _Task, point: HookPoint) -> dict[str, dict[str, Probes]]:
    """Returns by way (``own``, ``shuffled``, ``untrained``), reader and concept the probes of one hook point."""
    fitted_on, readers = f"{task.sweep.model.fingerprint}@{point}", task.sweep.config.readers
    x, floor = (split.fit.activations[point][task.part.fit_rows] for split in (task.own, task.untrained))
    groups, penalties = task.part.fit.group, Penalties(task.sweep.config.l2)
    found: dict[str, dict[str, Probes]] = {"own": {}, "shuffled": {}, "untrained": {}}
    for kinds in ([one for one in readers if one not in EXCLUSIVE_ONLY], [one for one in readers if one in EXCLUSIVE_ONLY]):
        asked = [one for one in task.part.questions if all(reads(reader, one.concept) for reader in kinds)]
        truth = {one.concept.name: one.truth[FITTED] for one in asked}
        both = truth | {f"shuffled {name}": shuffle_labels(labels, task.seed) for name, labels in truth.items()}
        for reader, probes in fit_readers(kinds, x, both, groups, fitted_on=fitted_on, penalties=penalties).items():
            found["own"][reader] = {name: probes[name] for name in truth}
            found["shuffled"][reader] = {name: probes[f"shuffled {name}"] for name in truth}
        found["untrained"] |= fit_readers(kinds, floor, truth, groups, fitted_on=f"untrained@{point}", penalties=penalties)
    return found


def _said(task: _Task, question: Question, point: HookPoint, probes: Mapping[str, LinearProbe]) -> dict[str, Said]:
    truth, sites = question.truth[SCORED], task.part.test
    x, untrained = (split.test.activations[point][task.part.test_rows] for split in (task.own, task.untrained))
    return {
        "source": Said.by(probes["own"], x, truth, sites),
        "shuffled": Said.by(probes["shuffled"], x, truth, sites),
        "untrained": Said.by(probes["untrained"], untrained, truth, sites),
        "input_only": Said(task.visible[question.concept.name], truth, sites),
    }
