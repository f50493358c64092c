"""Sparse autoencoders scored on harvested activations: all sites and every slice of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.concepts import Concept, Sites
from interp.report import CEILING, SAE_FLOORS, MatchEntry, SaeEntry, SaeScores, SpliceScores
from interp.scoring import FEWEST_GROUPS, ScoringError, Slice, estimate, question_of, slices
from interp.transfer import MOST_PAIRS, TransferData, TransferError
from models.hookpoints import HookPoint
from probes.metrics import auc
from probes.saes.moves import MOVES, Moving, rotated, stitched
from probes.saes.quality import Firing, decoder_matches, evaluate_slices, feature_table
from probes.saes.recipe import SaeRecipe
from probes.saes.training import train_sae
from probes.sparse import fit_k_sparse

if TYPE_CHECKING:
    from sae_lens import SAE

FEW = (1, 5)
"""Latents that a probe may use where concepts are to be told by few (SAEBench's k-sparse probing)."""
PROBED_ROWS = 4000
"""Such probes are fitted and scored on at most so many rows each."""


@dataclass(frozen=True, eq=False)
class Judged:
    """An SAE, and the activations that it is judged by."""

    sae: SAE[Any]
    x: Float[Tensor, "row d_model"]
    sites: Sites
    spliced: Sequence[SpliceScores] = ()
    probing: Mapping[str, float] = field(default_factory=dict)
    """Over all sites."""

    def scores(self, seed: int) -> dict[Slice, SaeScores]:
        """Returns its scores over all sites, and over each slice of enough puzzles or documents."""
        parts = {part: part.keeps(self.sites) for part in slices(self.sites)}
        enough = {part: rows for part, rows in parts.items() if len(torch.unique(self.sites.group[rows])) >= FEWEST_GROUPS}
        names = {str(number): rows for number, rows in enumerate(enough.values())}
        found = evaluate_slices(self.sae, self.x, self.sites.group, names, seed=seed)
        return {
            part: SaeScores(
                fvu=estimate(one.fvu),
                l0=one.l0,
                dead=one.dead,
                dense=one.dense,
                n=one.n,
                spliced=self._spliced(part, "tokens"),
                bound=self._spliced(part, "bound"),
                probing=dict(self.probing) if part == Slice() else {},
            )
            for part, one in zip(enough, found.values(), strict=True)
        }

    def _spliced(self, part: Slice, weights: str) -> SpliceScores | None:
        if part.kind is not None or part.step is not None:
            return None
        return next((one for one in self.spliced if one.mask_rate == part.mask_rate and one.weights == weights), None)


@dataclass(frozen=True)
class SaeFacts:
    """What an SAE is, and was trained on."""

    point: HookPoint
    architecture: str
    d_in: int
    d_sae: int
    training_activations: int
    seed: int

    @property
    def told(self) -> dict[str, Any]:
        """The same in the words of an entry."""
        layer = -1 if self.point.layer is None else self.point.layer
        return {"hook_point": str(self.point), "layer": layer} | {name: value for name, value in asdict(self).items() if name != "point"}


def sae_entries(
    facts: SaeFacts,
    judged: Mapping[str, Judged],
    **more: Any,
) -> list[SaeEntry]:
    """Returns an entry for all sites, with ``more`` in it, and one for each slice that has the controls (see ``SaeEntry.scores``)."""
    said = {name: one.scores(facts.seed) for name, one in judged.items()}
    needed = [name for name in (*SAE_FLOORS, CEILING) if name in judged]
    found = []
    for part in said[needed[0]]:
        scores = {name: by_slice[part] for name, by_slice in said.items() if part in by_slice}
        if all(name in scores for name in needed):
            found.append(SaeEntry.model_validate({**facts.told, **asdict(part), "scores": scores, **(more if part == Slice() else {})}))
    return found


def match_entry(a: SAE[Any], b: SAE[Any], alive: tuple[Firing, Firing], seed: int) -> MatchEntry:
    """Returns how near the decoder directions of ``a`` lie to those of ``b``, of the latents that fire."""
    found = decoder_matches(a, b, alive_a=alive[0].rate > 0, alive_b=alive[1].rate > 0, seed=seed)
    return MatchEntry(**asdict(found.found), chance=found.chance.mean)


def states_of(home: Firing, away: Firing) -> dict[str, int]:
    """Returns how many latents live on, changed, died, or came to life on the other model."""
    return feature_table(home, away).counts


@torch.no_grad()
def _latents(sae: SAE[Any], x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_sae"]:
    return torch.cat([sae.encode(rows) for rows in x.float().split(PROBED_ROWS // 4)])


def few_latents(
    sae: SAE[Any], concepts: Sequence[Concept], fit: tuple[Tensor, Sites], test: tuple[Tensor, Sites], seed: int
) -> dict[str, float]:
    """Returns by concept and number of latents the mean AUC over heads of probes that may use so few, fitted and scored apart.

    Concepts that hardly vary at these sites are left out, and a warning names them.
    """
    found: dict[str, float] = {}
    parts = [_drawn(x, sites, seed) for x, sites in (fit, test)]
    latents = [_latents(sae, x) for x, _ in parts]
    for concept in concepts:
        try:
            question = question_of(concept, *(sites for _, sites in parts))
        except ScoringError as error:
            warnings.warn(f"left out of k-sparse probing: {error}", UserWarning, stacklevel=2)
            continue
        for count in FEW:
            probe = fit_k_sparse(latents[0], question.truth[0], heads=question.heads, fitted_on="", k=count)
            found[f"{concept.name}, {count}"] = float(auc(probe.scores(latents[1]), question.truth[1]).mean())
    return found


def _drawn(x: Tensor, sites: Sites, seed: int) -> tuple[Tensor, Sites]:
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:PROBED_ROWS]
    return x[rows], sites.rows(rows)


def transfer_saes(data: TransferData, point: HookPoint, recipe: SaeRecipe) -> tuple[SAE[Any], list[SaeEntry]]:
    """Returns the causal twin's SAE, fitted on the puzzles to fit on, and what it is worth on the diffusion twin by every move.

    Raises:
        TransferError: Where the data lack the untrained floor.
    """
    if data.untrained is None:
        raise TransferError("an SAE entry needs its untrained floor; collect the data with untrained=True")
    splits = {"ar": data.ar, "diffusion": data.diffusion, "untrained": data.untrained}
    saes = {
        which: train_sae(split.fit.activations[point], recipe, hook_name=str(point), fitted_on=f"{data.fingerprints[which]}@{point}")
        for which, split in splits.items()
    }
    fitted_on = f"{data.fingerprints['diffusion']}@{point}"
    moving = Moving(data.pairs.ar[point], data.pairs.diffusion[point], fitted_on)
    untrained, there = (split.fit.activations[point][:MOST_PAIRS] for split in (data.untrained, data.diffusion))
    test = data.diffusion.test
    moved = {
        **{name: carry(saes["ar"], moving) for name, carry in MOVES.items()},
        CEILING: saes["diffusion"],
        "rotated": rotated(saes["ar"], moving, seed=recipe.seed),
        "untrained": stitched(saes["untrained"], Moving(untrained, there, fitted_on)),
    }
    judged = {name: Judged(sae, test.activations[point], test.sites) for name, sae in moved.items()}
    judged["source"] = Judged(saes["ar"], data.ar.test.activations[point], data.ar.test.sites)
    facts = SaeFacts(point, recipe.architecture, moving.source.shape[1], recipe.d_sae, len(data.ar.fit.sites), recipe.seed)
    return saes["ar"], sae_entries(facts, judged)
