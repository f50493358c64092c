"""A sweep's probes moved to another model, and scored there between floors and ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch

from interp.canvases import check_source, kinds_of
from interp.concepts import Concept
from interp.corpus import Corpus
from interp.harvest import check_points
from interp.report import ProbeEntry
from interp.runs.config import CanvasConfig
from interp.runs.folder import Tell, begin, finished, open_run, unit, unit_folder, write_entries
from interp.runs.material import at_sites, gather, split_groups
from interp.runs.moving import candidates, check_move, move_folder
from interp.runs.settings import RunError
from interp.scoring import Penalties, Probes, Question, input_only, reads
from interp.sweeps.config import SweepConfig
from interp.sweeps.folder import SweepRun, probe_folder, write_results
from interp.sweeps.material import material
from interp.sweeps.train import Sweep, plan_sweep
from interp.transfer import FIT, How, Pairs, Split, TransferData, questions_of, same_views, shuffled_weights, transfer_point
from models.decoding import Decoding
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from probes.linear import load_probe
from probes.similarity import linear_cka


def layer_map(data: TransferData, among: Mapping[HookPoint, Sequence[HookPoint]]) -> dict[HookPoint, HookPoint]:
    """Returns where the other model is most like the first one at each hook point: by linear CKA of pairs that nothing is scored on."""

    def alike(point: HookPoint, there: HookPoint) -> float:
        return linear_cka(data.pairs.ar[point], data.pairs.diffusion[there])

    return {
        point: there[0] if len(there) == 1 else max(there, key=lambda place, point=point: alike(point, place))  # type: ignore[misc]
        for point, there in among.items()
    }


def move(
    folder: Path,
    to: LanguageModel,
    *,
    policy: str | None = None,
    kinds: Sequence[str] = (),
    layers: str = "depth",
    tell: Tell = lambda stage, done, total: None,
) -> Path:
    """Returns the table of everything that was measured, after moving what has not been moved yet.

    Args:
        folder: Of a run of ``interp.sweeps.train``; results go to ``moved/MODEL`` in it.
        to: The model to move to.
        policy: Score in runs of a masked model by this policy, with the step and kind of each position. Maps and native probes are fitted
            on the sweep's own canvases (random masks, if it names no policy) either way; there no position is just written, and masked
            ones stand in.
        kinds: Kinds of positions to read the other model at; none is the run's.
        layers: How the layer is chosen at which the other model is read: one of ``LAYERS``.
        tell: Told (stage, done, total).

    Raises:
        RunError: Where run, models or folders do not belong together, or nothing of the run is finished.
        CanvasError: On kinds of positions that the other model does not have.
        HookPointError: Where it lacks a hook point.
    """
    run = open_run(folder, SweepRun)
    sweep = plan_sweep(run.config)
    check_move(run, sweep.model, to)
    config = run.config.model_copy(update={"kinds": tuple(kinds) or run.config.kinds})
    among = candidates(sweep.points, sweep.model, to, layers)
    _check_reading(config, to, policy, list(dict.fromkeys(chain(*among.values()))))
    target = move_folder(folder, to, policy, layers)
    seeds = [seed for seed in config.seeds if any(finished(folder, seed, point) for point in sweep.points)]
    if not seeds:
        raise RunError(f"nothing of {folder} is finished; run `denoscope probe train` to its end first")
    begin(target, run.model_copy(update={"config": config, "moved_to": to.name, "moved_fingerprint": to.fingerprint, "policy": policy}))
    units = [(seed, point) for seed in seeds for point in sweep.points if finished(folder, seed, point)]
    done = sum(finished(target, seed, point) for seed, point in units)
    tell("moved", done, len(units))
    for seed in seeds:
        left = [point for one, point in units if one == seed and not finished(target, seed, point)]
        if not left:
            continue
        own = replace(sweep, points=tuple(left))
        there = {point: among[point] for point in left}
        data, concepts = _gather(own, to, config, list(dict.fromkeys(chain(*there.values()))), seed, policy=policy, tell=tell)
        places = layer_map(data, there)
        questions = questions_of(data, concepts)
        visible = input_only(questions, data.diffusion.fit.sites, data.diffusion.test.sites, part=FIT)
        for point in left:
            entries: list[ProbeEntry] = []
            for reader in config.readers:
                asked = [one for one in questions if reads(reader, one.concept)]
                asked, probes = _probes(folder, asked, point, reader, seed)
                how = How(reader, seed, Penalties(config.l2))
                entries += transfer_point(data, asked, probes, visible, (point, places[point]), how)
            with unit(target, seed, point) as place:
                write_entries(entries, place)
            done += 1
            tell("moved", done, len(units))
    return write_results(target)


def _check_reading(config: SweepConfig, to: LanguageModel, policy: str | None, points: Sequence[HookPoint]) -> None:
    """Raises a ValueError where a model cannot be read as is asked for."""
    kinds = kinds_of(config.kinds)
    if policy is not None:
        Decoding(policy)  # says which there are
    if policy is not None and to.facts.objective == "causal":
        raise RunError(f"{to.name} is a causal model, which writes left to right; leave out the policy {policy!r}")
    canvases = config.canvases if policy is None else CanvasConfig(policy=policy)
    one = torch.zeros(1, 1, dtype=torch.long)
    check_source(to, canvases.source(to, 0), kinds, Corpus(one, one.bool(), one[0]))
    check_points(to, points)


def _probes(folder: Path, questions: Sequence[Question], point: HookPoint, reader: str, seed: int) -> tuple[list[Question], Probes]:
    """Returns the run's probes by concept, and the questions, both with the heads that both have."""
    run, asked, probes = open_run(folder, SweepRun), [], {}
    for question in questions:
        name = question.concept.name
        probe = load_probe(probe_folder(unit_folder(folder, seed, point), reader, name), fitted_on=f"{run.fingerprint}@{point}")
        heads = [head for head in question.heads if head in probe.heads]
        if len(heads) < (2 if probe.link == "softmax" else 1):
            raise RunError(
                f"{reader} reads {', '.join(probe.heads)} for {name!r}, and too few of them occur on both models; "
                "leave the reader or the concept out of the sweep"
            )
        columns = [question.heads.index(head) for head in heads]
        asked.append(replace(question, heads=tuple(heads), truth=tuple(truth[:, columns] for truth in question.truth)))
        kept = [probe.heads.index(head) for head in heads]  # of classes, the choice between those that are left
        probes[name] = replace(probe, weight=probe.weight[kept], bias=probe.bias[kept], heads=tuple(heads))
    return asked, probes


def _gather(
    sweep: Sweep,
    to: LanguageModel,
    config: SweepConfig,
    points: Sequence[HookPoint],
    seed: int,
    *,
    policy: str | None,
    tell: Tell,
) -> tuple[TransferData, tuple[Concept, ...]]:
    """Returns activations of both models and of the other one untrained, on the run's puzzles or documents."""
    corpus, concepts = material(sweep.config, sweep.model, seed)
    fit, test = split_groups(corpus, sweep.config.held_out, seed)
    own = gather(sweep, sweep.model, (fit, test), seed, tell, f"{sweep.model.name}, seed {seed}")
    there = replace(sweep, config=config, model=to, points=tuple(points))

    if policy is None:
        diffusion = Split(*gather(there, to, (fit, test), seed, tell, f"{to.name}, seed {seed}"))
    else:
        there_are = [kind for kind in config.kinds if kind != "committed" or config.canvases.policy is not None]
        masks = config.model_copy(update={"kinds": tuple(there_are) or ("masked",)})
        runs = config.model_copy(update={"canvases": CanvasConfig(policy=policy)})
        (fitted,) = gather(replace(there, config=masks), to, (fit,), seed, tell, f"{to.name}, seed {seed}")
        (scored,) = gather(replace(there, config=runs), to, (test,), seed + 1, tell, f"runs, seed {seed}")
        diffusion = Split(fitted, scored)
    floor = shuffled_weights(to, seed)
    untrained = Split(
        at_sites(floor, fit, diffusion.fit.sites, there.points, tell, f"untrained, seed {seed}"),
        at_sites(floor, test, diffusion.test.sites, there.points, tell, f"untrained, held out, seed {seed}"),
    )
    tell(f"pairs, seed {seed}", 0, 1)
    if to.facts.objective == "causal" != sweep.model.facts.objective:  # what a causal model sees, a masked one can be shown
        base, seen = same_views(diffusion.fit, sweep.model, sweep.points, seed)
        pairs = Pairs(seen, base.activations)
    else:
        base, seen = same_views(own[0], to, there.points, seed)
        pairs = Pairs(base.activations, seen)
    tell(f"pairs, seed {seed}", 1, 1)
    fingerprints = {"ar": sweep.model.fingerprint, "diffusion": to.fingerprint, "untrained": "untrained"}
    return TransferData(Split(*own), diffusion, untrained, pairs, fingerprints), concepts
