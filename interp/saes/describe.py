"""Dashboards of a run's SAEs: what the first model's are on it, and what the other models' own are over their denoising."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from interp.canvases import Decoded
from interp.concepts import CONCEPTS, Concept, Kind
from interp.harvest import Harvest, harvest
from interp.latents.dashboard import Other, describe_latents
from interp.latents.dashboard import Shown as Latents
from interp.latents.entries import SaeSummary
from interp.runs.folder import MOVED, RUN, Tell, finished, open_run, unit_folder
from interp.runs.material import corpus_of, split_groups
from interp.runs.settings import RunError
from interp.saes.folder import NATIVE, OWN, SaeRun
from interp.saes.train import PlannedSaes, Shown, plan_saes
from models.language_model import LanguageModel
from models.load import load
from probes.saes.files import load_sae

SUMMARY = "summary.json"
"""What a page shows, beside it."""


def _asked(planned: PlannedSaes) -> tuple[Concept, ...]:
    """Returns what latents are compared with: the concepts of the run, or the usual ones of the task; none that only runs have."""
    usual = [one for one in CONCEPTS.values() if one.task == planned.model.facts.task and one.by_default]
    return tuple(one for one in planned.concepts or usual if not one.of_a_run)


def _in_runs(shown: Shown, to: LanguageModel) -> Harvest:
    """Returns a masked model's activations at unwritten and at written places of its own runs."""
    kinds = (Kind.MASKED, Kind.COMMITTED, Kind.SETTLED)
    count = max(1, shown.config.sites_per_canvas // 8)
    return harvest(to, shown.scored, shown.points, canvases=Decoded(), kinds=kinds, sites_per_canvas=count, seed=shown.seed)


def describe(folder: Path, latents: int = 20, tell: Tell = lambda stage, done, total: None) -> Iterator[tuple[Path, SaeSummary]]:
    """Yields the folder of each SAE and what it does: those of a run's first seed, and the native ones of the models it was moved to.

    Args:
        folder: Of a run of ``interp.saes.train``.
        latents: How many of each are drawn at random and described.
        tell: Told (stage, done, total).

    Raises:
        RunError: Where the folder is no run, or its first seed is not finished.
    """
    run = open_run(folder, SaeRun)
    planned, seed = plan_saes(run.config), run.config.seeds[0]
    if not all(finished(folder, seed, point) for point in planned.points):
        raise RunError(f"seed {seed} of {folder} is not finished; run `denoscope sae train` to its end first")
    corpus, _ = corpus_of(run.config, planned.model, seed)
    shown = Shown(run.config, planned.model, planned.points, *split_groups(corpus, run.config.held_out, seed), seed)
    moves = [(one.parent, open_run(one.parent, SaeRun)) for one in sorted(folder.glob(f"{MOVED}/*/{RUN}"))]
    others = [(place, replace(shown, config=one.config, model=load(one.moved_to or ""))) for place, one in moves]
    own, away = shown.read(shown.scored, 1), [(there.model, there.read(there.scored, 1)) for _, there in others[:1]]
    asked, total = _asked(planned), len(planned.points) * (1 + len(others))
    drawn = Latents(sampled=latents)
    for done, point in enumerate(planned.points, start=1):
        place = unit_folder(folder, seed, point) / OWN
        sae = load_sae(place, fitted_on=shown.fitted_on(point))
        other = next((Other(model.name, sae, found, point) for model, found in away), None)
        yield place, describe_latents(sae, planned.model, own, point, concepts=asked, shown=drawn, other=other, seed=seed)
        tell("pages", done, total)
    for number, (target, there) in enumerate(others, start=1):
        found = there.read(there.scored, 1) if there.model.facts.objective == "causal" else _in_runs(there, there.model)
        for done, point in enumerate(planned.points, start=1):
            place = unit_folder(target, seed, point) / NATIVE
            if place.is_dir():
                yield (
                    place,
                    describe_latents(
                        load_sae(place, fitted_on=there.fitted_on(point)), there.model, found, point, concepts=asked, shown=drawn, seed=seed
                    ),
                )
            tell("pages", number * len(planned.points) + done, total)
