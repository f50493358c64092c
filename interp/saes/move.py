"""A run's SAEs moved to another model, and scored there between floors and ceilings."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.canvases import check_source
from interp.concepts import Sites
from interp.features import Judged, match_entry, sae_entries, states_of
from interp.harvest import Harvest, check_points
from interp.report import CrosscoderEntry, MatchEntry
from interp.runs.folder import Tell, begin, finished, open_run, unit, unit_folder, write_entries
from interp.runs.material import at_sites, corpus_of, split_groups
from interp.runs.moving import check_move, move_folder
from interp.runs.settings import RunError
from interp.saes.config import SaeConfig
from interp.saes.folder import CROSSCODER, NATIVE, OWN, TRAINING, UNTRAINED, SaeRun, write_results
from interp.saes.pools import LivePools
from interp.saes.train import PlannedSaes, Shown, judge, learn, plan_saes
from interp.transfer import MOST_PAIRS, same_views, shuffled_weights
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from probes.saes.crosscoder import evaluate_crosscoder, save_crosscoder
from probes.saes.crosscoder_training import CrosscoderRecipe, train_crosscoder
from probes.saes.files import load_sae, save_sae
from probes.saes.latent_scaling import kinds_of, scale_latents
from probes.saes.moves import MOVES, PASSES, Moving, rotated, stitched, tuning_curve
from probes.saes.quality import firing

if TYPE_CHECKING:
    from sae_lens import SAE

NATIVE_SEED, SECOND_SEED = 1000, 2000
"""Added to the seeds of both native SAEs: no two SAEs that are compared begin with the same weights."""

Pairs = Mapping[HookPoint, tuple[Float[Tensor, "_pair d_model"], Float[Tensor, "_pair d_model"]]]
"""Activations of two models at the same sites in the same views, by hook point."""


@dataclass(frozen=True)
class _Seed:
    """What one seed's SAEs are moved with: both models' views, and activations of the same sites in the same views."""

    own: Shown
    there: Shown
    pairs: Pairs
    """To fit on: of the first model, and of the other one."""
    held_out: Pairs
    """To score a crosscoder on."""
    untrained: Mapping[HookPoint, Float[Tensor, "_pair d_model"]]
    """Of the untrained network, where the pairs are of the first model."""
    fit: tuple[Harvest, Harvest]
    test: tuple[Harvest, Harvest]
    """Of the first model, and of the other one."""


def move(folder: Path, to: LanguageModel, *, kinds: tuple[str, ...] = (), tell: Tell = lambda stage, done, total: None) -> Path:
    """Returns the table of everything that was measured, after moving what has not been moved yet.

    Args:
        folder: Of a run of ``interp.saes.train``; results go to ``moved/MODEL`` in it.
        to: The model to move to.
        kinds: Kinds of positions to read the other model at; none is the run's.
        tell: Told (stage, done, total).

    Raises:
        RunError: Where run, models or folders do not belong together, or no seed of the run is finished.
        CanvasError: On kinds of positions that the other model does not have.
        HookPointError: Where it lacks a hook point.
    """
    run = open_run(folder, SaeRun)
    planned = plan_saes(run.config)
    check_move(run, planned.model, to)
    config = run.config.model_copy(update={"kinds": kinds or run.config.kinds})
    corpus, _ = corpus_of(config, to, config.seeds[0])
    check_source(to, config.canvases.source(to, 0), config.position_kinds, corpus)
    check_points(to, planned.points)
    target = move_folder(folder, to, None)
    done = [seed for seed in config.seeds if all(finished(folder, seed, point) for point in planned.points)]
    if not done:
        raise RunError(f"no seed of {folder} is finished; run `denoscope sae train` to its end first")
    begin(target, run.model_copy(update={"config": config, "moved_to": to.name, "moved_fingerprint": to.fingerprint}))
    for seed in done:
        if not all(finished(target, seed, point) for point in planned.points):
            _move_seed(folder, target, _prepare(planned, config, to, seed, tell), planned, tell)
            shutil.rmtree(target / f"seed-{seed}" / TRAINING, ignore_errors=True)
    return write_results(target)


def _prepare(planned: PlannedSaes, config: SaeConfig, to: LanguageModel, seed: int, tell: Tell) -> _Seed:
    """Returns what one seed's SAEs are moved with."""
    corpus, _ = corpus_of(planned.config, planned.model, seed)
    fit, test = split_groups(corpus, config.held_out, seed)
    points = planned.points
    own = Shown(planned.config, planned.model, points, fit, test, seed)
    there = Shown(config, to, points, fit, test, seed)
    fits, tests = ([one.read(part, offset) for one in (own, there)] for offset, part in enumerate((own.few, own.scored)))
    tell(f"pairs, seed {seed}", 0, 3)
    sites, pairs = _pairs(own, there, fits, max(MOST_PAIRS, config.crosscoder))
    tell(f"pairs, seed {seed}", 1, 3)
    held_out = _pairs(own, there, tests, MOST_PAIRS)[1] if config.crosscoder else {}
    tell(f"pairs, seed {seed}", 2, 3)
    few = sites.rows(torch.arange(min(MOST_PAIRS, len(sites))))
    untrained = at_sites(shuffled_weights(planned.model, seed), own.few, few, points, lambda *told: None, "").activations
    tell(f"pairs, seed {seed}", 3, 3)
    return _Seed(own, there, pairs, held_out, untrained, (fits[0], fits[1]), (tests[0], tests[1]))


def _pairs(own: Shown, there: Shown, read: Sequence[Harvest], most: int) -> tuple[Sites, Pairs]:
    """Returns sites that one of both models was read at, and both models' activations there.

    What a causal model sees, a masked one can be shown.
    """
    if there.model.facts.objective == "causal" != own.model.facts.objective:
        base, seen = same_views(read[1], own.model, own.points, own.seed, most)
        return base.sites, {point: (seen[point], base.activations[point]) for point in own.points}
    base, seen = same_views(read[0], there.model, own.points, own.seed, most)
    return base.sites, {point: (base.activations[point], seen[point]) for point in own.points}


def _move_seed(folder: Path, target: Path, seed: _Seed, planned: PlannedSaes, tell: Tell) -> None:
    """Trains the other model's own SAEs of one seed, and moves, scores and keeps those of the run that are not finished."""
    shown = seed.there
    native = learn(shown, target, NATIVE, tell, seed=shown.seed + NATIVE_SEED)
    second = learn(shown, target, f"{NATIVE}-2", tell, seed=shown.seed + SECOND_SEED)
    rows = _rows(shown, max(_sizes(shown.config), default=0))
    left = [point for point in shown.points if not finished(target, shown.seed, point)]
    for done, point in enumerate(left, start=1):
        name, x = str(point), seed.test[1].activations[point]
        home = unit_folder(folder, shown.seed, point)
        own, untrained = load_sae(home / OWN, fitted_on=seed.own.fitted_on(point)), load_sae(home / UNTRAINED)
        source, there = seed.pairs[point]
        moving = Moving(source[:MOST_PAIRS], there[:MOST_PAIRS], shown.fitted_on(point))
        moved = {way: carry(own, moving) for way, carry in MOVES.items()}
        tuned = _tuned(shown, moved["stitched"], rows.get(name), point, tell)
        floors = {
            "rotated": rotated(own, moving, seed=shown.seed),
            "untrained": stitched(untrained, replace(moving, source=seed.untrained[point])),
        }
        judged = judge(shown, {**moved, NATIVE: native[name], **floors}, point, seed.fit[1], seed.test[1], planned.concepts)
        judged |= {way: Judged(sae, x, seed.test[1].sites) for way, sae in tuned.items()}
        judged |= {"source": judge(seed.own, {"source": own}, point, seed.fit[0], seed.test[0], planned.concepts)["source"]}
        firings = {which: firing(sae, x) for which, sae in ((OWN, own), (NATIVE, native[name]), ("second", second[name]))}
        matches: dict[str, MatchEntry] = {
            NATIVE: match_entry(own, native[name], (firings[OWN], firings[NATIVE]), shown.seed),
            "seeds": match_entry(native[name], second[name], (firings[NATIVE], firings["second"]), shown.seed),
        }
        states = states_of(firing(own, seed.test[0].activations[point]), firings[OWN])
        with unit(target, shown.seed, point) as place:
            for which, sae in {NATIVE: native[name], "stitched": moved["stitched"]}.items():
                save_sae(sae, place / which)
            crosscoder = _crosscoder(seed, point, place) if shown.config.crosscoder else None
            write_entries(sae_entries(seed.own.facts(point), judged, matches=matches, states=states, crosscoder=crosscoder), place)
        tell(f"scores, seed {shown.seed}", done, len(left))


def _sizes(config: SaeConfig) -> tuple[int, ...]:
    """Returns on how many activations to tune: no more than a whole training learns from."""
    return tuple(count for count in config.tuned if count <= config.activations)


def _rows(shown: Shown, count: int) -> dict[str, Float[Tensor, "row d_model"]]:
    """Returns activations to tune on, in memory."""
    pools = LivePools(shown.model, shown.fit, shown.points, shown.plan, shown.config.outliers, wanted=count)
    parts: list[dict[str, Tensor]] = []
    while sum(len(next(iter(part.values()))) for part in parts) < count:
        parts.append(pools(len(parts)))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}


def _tuned(shown: Shown, start: SAE[Any], rows: Float[Tensor, "row d_model"] | None, point: HookPoint, tell: Tell) -> dict[str, SAE[Any]]:
    """Returns by name SAEs that were tuned on few activations, with and without the decoder, and others that learned from those alone."""
    config = shown.config
    found: dict[str, SAE[Any]] = {}
    if rows is not None:
        curve = tuning_curve(start, rows, _sizes(config), config.recipe(shown.seed), fitted_on=shown.fitted_on(point))
        for done, one in enumerate(curve, start=1):
            found |= {f"tuned {one.rows}": one.tuned, f"frozen {one.rows}": one.frozen, f"scratch {one.rows}": one.scratch}
            tell(f"tuning at {point}", done, len(_sizes(config)))
    return found


def _crosscoder(seed: _Seed, point: HookPoint, place: Path) -> CrosscoderEntry:
    """Returns how one dictionary of both models does, after saving it."""
    config, shown = seed.there.config, (seed.own, seed.there)
    source, there = (side[: config.crosscoder] for side in seed.pairs[point])
    told = config.recipe(seed.own.seed)
    batch = min(told.batch, len(source))
    steps = min(told.steps, PASSES * len(source) // batch)
    crosscoder = train_crosscoder(
        source,
        there,
        CrosscoderRecipe(d_sae=told.d_sae, k=told.k, steps=steps, batch=batch, lr=told.lr, seed=told.seed),
        models=(shown[0].model.name, shown[1].model.name),
        fitted_on=(shown[0].fitted_on(point), shown[1].fitted_on(point)),
        hook_point=str(point),
    )
    save_crosscoder(crosscoder, place / CROSSCODER)
    found = evaluate_crosscoder(crosscoder, *seed.held_out[point])
    kinds = kinds_of(crosscoder, scale_latents(crosscoder, source, there)).counts()
    return CrosscoderEntry.model_validate({"pairs": len(source), **asdict(found), **kinds})
