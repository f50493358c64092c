"""SAEs of one model, trained as a file says, scored beside their floors; finished hook points are kept."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from interp.canvases import Canvases, canvases_of
from interp.concepts import Concept
from interp.corpus import Corpus
from interp.features import Judged, SaeFacts, few_latents, sae_entries
from interp.harvest import Harvest, Plan, harvest
from interp.runs.folder import Tell, begin, contents_of, finished, unit, write_entries
from interp.runs.material import Planned, at_sites, corpus_of, named_concepts, plan, split_groups
from interp.runs.settings import of_setting
from interp.saes.config import SaeConfig
from interp.saes.folder import OWN, TRAINING, UNTRAINED, SaeRun, write_results
from interp.saes.pools import LivePools, Pools, StoredPools
from interp.splice_scores import splice_scores_at
from interp.store import harvest_to
from interp.transfer import MOST_PAIRS, shuffled_weights
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from probes.saes.files import save_sae
from probes.saes.moves import Moving, rotated, stitched
from probes.saes.training import rows_wanted, train_saes

if TYPE_CHECKING:
    from sae_lens import SAE

    Saes = Mapping[str, SAE[Any]]

SPLICED = 60
"""Sequences that models read with SAEs in place."""
SCORED = 400
"""Sequences that SAEs are scored on, at most."""
FITTED = 200
"""Sequences that probes of few latents are fitted on, and maps from the untrained network."""


@dataclass(frozen=True)
class PlannedSaes(Planned):
    """SAEs to train: settings, checked against their model."""

    config: SaeConfig
    concepts: tuple[Concept, ...]

    @property
    def run(self) -> SaeRun:
        """What its folder is of."""
        config, model = self.config, self.model
        return SaeRun(config=config, model=model.name, fingerprint=model.fingerprint, contents=contents_of(config.corpus))


def plan_saes(config: SaeConfig) -> PlannedSaes:
    """Returns SAEs to train whose settings go with their model and corpus, before anything is computed.

    Raises:
        SettingError: Naming the setting that does not, and the choices.
    """
    planned = plan(config)
    with of_setting("concepts"):
        _, own = corpus_of(config, planned.model, config.seeds[0])
        concepts = named_concepts(config.concepts, planned.model, own)
    return PlannedSaes(config, planned.model, planned.points, concepts)


@dataclass(frozen=True)
class Shown:
    """What a model is shown in one seed."""

    config: SaeConfig
    model: LanguageModel
    points: tuple[HookPoint, ...]
    fit: Corpus
    test: Corpus
    seed: int

    @property
    def plan(self) -> Plan:
        """What is read of the sequences."""
        config = self.config
        return Plan(config.canvases.source(self.model, self.seed), config.position_kinds, config.sites_per_canvas, self.seed)

    def pools(self, folder: Path, tell: Tell) -> Pools:
        """Returns where activations to learn from come from; a harvest to disk goes to ``folder``."""
        plan, outliers = self.plan, self.config.outliers
        if not self.config.stored:
            wanted = rows_wanted(self.config.recipe(self.seed), self.config.passes)
            return LivePools(self.model, self.fit, self.points, plan, outliers, wanted)
        stored = harvest_to(
            folder,
            self.model,
            self.fit,
            self.points,
            canvases=plan.canvases,
            kinds=plan.kinds,
            sites_per_canvas=plan.sites_per_canvas,
            seed=self.seed,
            on_sequence=lambda done, total: tell(f"harvest, {self.model.name}, seed {self.seed}", done, total),
        )
        return StoredPools(stored, self.points, outliers)

    def read(self, corpus: Corpus, offset: int) -> Harvest:
        """Returns the activations at some sequences, in memory."""
        plan = self.plan
        return harvest(
            self.model,
            corpus,
            self.points,
            canvases=plan.canvases,
            kinds=plan.kinds,
            sites_per_canvas=plan.sites_per_canvas,
            seed=self.seed + offset,
        )

    @property
    def few(self) -> Corpus:
        """Some of the sequences to fit on."""
        return _drawn(self.fit, FITTED, self.seed)

    @property
    def scored(self) -> Corpus:
        """Those of the held-out sequences that are scored on."""
        return _drawn(self.test, SCORED, self.seed)

    @property
    def canvases(self) -> Canvases:
        """Canvases of sequences to score on, for SAEs that are put in place."""
        return canvases_of(self.model, _drawn(self.test, SPLICED, self.seed), self.plan.canvases, self.seed + 1)

    def fitted_on(self, point: HookPoint) -> str:
        """Returns the fingerprint of a hook point of the model."""
        return f"{self.model.fingerprint}@{point}"

    def facts(self, point: HookPoint) -> SaeFacts:
        """Returns what its SAE at a hook point is."""
        config = self.config
        learned = config.recipe(self.seed).steps * config.batch
        return SaeFacts(point, config.architecture, self.model.d_model, config.d_sae, learned, self.seed)


def _drawn(corpus: Corpus, count: int, seed: int) -> Corpus:
    """Returns so many sequences at most, in their order."""
    order = torch.randperm(len(corpus), generator=torch.Generator().manual_seed(seed))
    return corpus.rows(order[:count].sort().values)


def learn(shown: Shown, folder: Path, name: str, tell: Tell, *, seed: int | None = None) -> Saes:
    """Returns an SAE of every hook point, trained in one pass; what was begun in ``folder`` goes on where it was.

    Args:
        shown: The model and its sequences.
        folder: Of the run.
        name: What these SAEs are called in it.
        tell: Told (stage, done, total).
        seed: Of weights and the order of rows; None is that of what is shown.
    """
    recipe = shown.config.recipe(shown.seed if seed is None else seed)
    place = folder / f"seed-{shown.seed}" / TRAINING
    return train_saes(
        shown.pools(place / f"{shown.model.name}.harvest", tell),
        {str(point): recipe for point in shown.points},
        passes=shown.config.passes,
        fitted_on={str(point): shown.fitted_on(point) for point in shown.points},
        checkpoint=place / name,
        on_step=lambda done, total: tell(f"{name}, seed {shown.seed}", done, total),
    )


def train(planned: PlannedSaes, folder: Path, tell: Tell = lambda stage, done, total: None) -> Path:
    """Returns the table of everything that was measured, after training what is not finished yet in ``folder``.

    Raises:
        RunError: Where the folder is another run's.
        ProbeError: Where a training breaks down. What was finished before is kept.
    """
    begin(folder, planned.run)
    config = planned.config
    for seed in config.seeds:
        if not all(finished(folder, seed, point) for point in planned.points):
            corpus, _ = corpus_of(config, planned.model, seed)
            shown = Shown(config, planned.model, planned.points, *split_groups(corpus, config.held_out, seed), seed)
            _train_seed(shown, planned.concepts, folder, tell)
            shutil.rmtree(folder / f"seed-{seed}" / TRAINING, ignore_errors=True)
    return write_results(folder)


def _train_seed(shown: Shown, concepts: Sequence[Concept], folder: Path, tell: Tell) -> None:
    """Trains the SAEs of one seed, all hook points together, and scores and keeps those that are not finished."""
    untrained_model = shuffled_weights(shown.model, shown.seed)
    saes = {
        OWN: learn(shown, folder, OWN, tell),
        UNTRAINED: learn(replace(shown, model=untrained_model), folder, UNTRAINED, tell),
    }
    fit, test = shown.read(shown.few, 0), shown.read(shown.scored, 1)
    pairs = torch.randperm(len(fit.sites), generator=torch.Generator().manual_seed(shown.seed))[:MOST_PAIRS]
    there = fit.rows(pairs)
    floor = at_sites(untrained_model, shown.few, there.sites, shown.points, tell, f"pairs, seed {shown.seed}")
    left = [point for point in shown.points if not finished(folder, shown.seed, point)]
    for done, point in enumerate(left, start=1):
        name, x = str(point), there.activations[point]
        judged = {
            "source": saes[OWN][name],
            "rotated": rotated(saes[OWN][name], Moving(x, x, shown.fitted_on(point)), seed=shown.seed),
            "untrained": stitched(saes[UNTRAINED][name], Moving(floor.activations[point], x, shown.fitted_on(point))),
        }
        with unit(folder, shown.seed, point) as place:
            for which, own in saes.items():
                save_sae(own[name], place / which)
            write_entries(sae_entries(shown.facts(point), judge(shown, judged, point, fit, test, concepts)), place)
        tell(f"scores, seed {shown.seed}", done, len(left))


def judge(
    shown: Shown, saes: Mapping[str, SAE[Any]], point: HookPoint, fit: Harvest, test: Harvest, concepts: Sequence[Concept]
) -> dict[str, Judged]:
    """Returns SAEs with all that they are judged by at a hook point: test activations, splices, and probes of few latents."""
    spliced = splice_scores_at(shown.model, point, list(saes.values()), shown.canvases, kinds=shown.config.position_kinds, seed=shown.seed)
    return {
        name: Judged(
            sae,
            test.activations[point],
            test.sites,
            of_one,
            few_latents(sae, concepts, (fit.activations[point], fit.sites), (test.activations[point], test.sites), shown.seed),
        )
        for (name, sae), of_one in zip(saes.items(), spliced, strict=True)
    }
