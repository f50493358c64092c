"""Is what a probe reads also used? Push an unwritten cell along a moved probe's directions at one call, resume, and look.

Three questions are kept apart: does the push decide the cell's own output, does it move the other cells inside the same call, and does it
change what is finally written elsewhere. Each stands beside a random push of the same length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.concepts import Concept, labels_of
from interp.corpus import Corpus
from interp.report import Estimate, FaithfulnessEntry
from interp.scoring import estimate
from interp.steering import Push, adding, axes_of, context_of, edits_of
from interp.transfer import TransferData
from models.decoding import Decoding
from models.denoise import denoise
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from models.tasks.sudoku.board import PEERS
from models.tasks.sudoku.task import SOLUTION
from probes.linear import fit_mass_mean
from probes.metrics import bootstrap_mean

DOSES = (0.25, 0.5, 1.0, 2.0)
MASK_RATE = 0.6
DIGITS = slice(1, 10)
"""Token ids of the digits 1 to 9."""


@dataclass(frozen=True)
class Trial:
    """One unwritten cell a board whose digit the model would write, and another digit to push towards."""

    canvases: Int[Tensor, "batch pos"]
    unwritten: Bool[Tensor, "batch cell"]
    cell: Int[Tensor, " batch"]
    own: Int[Tensor, " batch"]
    """The digit (1 to 9) that the model would write."""
    pushed: Int[Tensor, " batch"]
    """A digit (1 to 9) that the rules exclude there, drawn at random."""
    log_probabilities: Float[Tensor, "batch cell digit"]
    """Of the undisturbed call."""
    final: Int[Tensor, "batch pos"]
    """What the undisturbed run writes in the end."""
    decoding: Decoding
    """How it is written."""


def _cell_log_probabilities(model: LanguageModel, canvases: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch cell digit"]:
    return model.logits(canvases)[:, SOLUTION, DIGITS].float().log_softmax(-1)


@torch.no_grad()
def make_trial(model: LanguageModel, puzzles: Corpus, decoding: Decoding) -> Trial:
    """Returns boards stopped on the model's own way, a share ``MASK_RATE`` of their cells unwritten, with a drawn cell each.

    Cells with no excluded digit are not drawn; boards without any other cell drop out.
    """
    mask_id = model.task.mask_token_id
    start = puzzles.sequences.masked_fill(puzzles.asked, mask_id)
    run = denoise(model, start, Decoding("low_confidence", seed=decoding.seed))
    unwritten_at = torch.from_numpy(run.data["token"].values == mask_id).sum(2)
    stop = (unwritten_at <= (puzzles.asked.sum(1) * MASK_RATE)[:, None]).int().argmax(1)
    canvases = torch.from_numpy(run.data["token"].values).long()[torch.arange(len(stop)), stop]
    unwritten = canvases[:, SOLUTION] == mask_id
    peers = canvases[:, SOLUTION][:, torch.from_numpy(PEERS)]
    excluded = (peers[..., None] == torch.arange(1, 10)).any(2) & unwritten[..., None]
    generator = torch.Generator().manual_seed(decoding.seed)
    log_probabilities = _cell_log_probabilities(model, canvases)
    own = log_probabilities.argmax(-1)
    excluded.scatter_(2, own[..., None], False)
    keep = excluded.any(2).any(1)
    choice = torch.rand(excluded.shape, generator=generator).masked_fill(~excluded, -1).flatten(1).argmax(1)[keep]
    cell, digit = choice // 9, choice % 9
    kept = canvases[keep]
    final = torch.from_numpy(denoise(model, kept, decoding).tokens(-1))
    own = own[keep].gather(1, cell[:, None])[:, 0] + 1
    return Trial(kept, unwritten[keep], cell, own, digit + 1, log_probabilities[keep], final, decoding)


def natural_push(data: TransferData, concept: Concept, point: HookPoint) -> Float[Tensor, "head d_model"]:
    """Returns for each head its mass-mean direction on the causal twin, as long as the distance between the two class means."""
    activations, labels = data.ar.fit.activations[point].float(), labels_of(concept, data.ar.fit.sites)
    probe = fit_mass_mean(activations, labels, heads=concept.heads, fitted_on=f"{data.fingerprints['ar']}@{point}")
    return axes_of(probe, activations, labels).natural


@dataclass(frozen=True)
class _Effect:
    """What one push did to each board."""

    flipped: Bool[Tensor, " batch"]
    unit: Float[Tensor, " batch"]
    elsewhere: Float[Tensor, " batch"]
    final: Float[Tensor, " batch"]


def _mean_where(values: Float[Tensor, "batch cell"], where: Bool[Tensor, "batch cell"]) -> Float[Tensor, " batch"]:
    return torch.where(where, values, 0.0).sum(1) / where.sum(1).clamp(min=1)


@torch.no_grad()
def _effect(model: LanguageModel, trial: Trial, push: Push) -> _Effect:
    """Returns what a push does in the first call, and in the run that goes on from there."""
    edits = edits_of(model, push)
    with model.hooks(edits(context_of(model, trial.canvases))):
        log_probabilities = _cell_log_probabilities(model, trial.canvases)
    final = torch.from_numpy(denoise(model, trial.canvases, trial.decoding, edits=edits).tokens(-1))
    rows = torch.arange(len(trial.cell))
    towards = trial.pushed[:, None, None].expand(-1, log_probabilities.shape[1], 1) - 1
    moved = (log_probabilities - trial.log_probabilities).gather(2, towards)[..., 0].abs()
    peers = torch.zeros_like(trial.unwritten).scatter_(1, torch.from_numpy(PEERS)[trial.cell], True)
    others = trial.unwritten.clone()
    others[rows, trial.cell] = False
    return _Effect(
        flipped=log_probabilities[rows, trial.cell].argmax(-1) + 1 == trial.pushed,
        unit=_mean_where(moved, others & peers),
        elsewhere=_mean_where(moved, others & ~peers),
        final=_mean_where((final != trial.final)[:, SOLUTION].float(), others),
    )


def causal_test(
    model: LanguageModel,
    data: TransferData,
    concept: Concept,
    points: Sequence[HookPoint],
    trial: Trial,
    *,
    doses: Sequence[float] = DOSES,
    seed: int = 0,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[FaithfulnessEntry]:
    """Yields the effect of pushing along the causal twin's directions (this digit, not that one), by layer and dose, beside random ones.

    A dose of 1 is the natural length: the difference between the class means of the pushed digit, less that of the model's own digit.
    Intervals resample boards.
    """
    done, total = 0, len(points) * len(doses)
    where = torch.zeros(trial.canvases.shape, dtype=torch.bool)
    where[torch.arange(len(where)), trial.cell + SOLUTION.start] = True
    for point in points:
        natural = natural_push(data, concept, point)
        move = adding(natural[trial.pushed - 1] - natural[trial.own - 1])
        for dose in doses:
            push = Push(point, move, where, dose, steps=(1,))
            effects = [_effect(model, trial, one) for one in (push, push.control(seed))]
            columns: dict[str, Estimate] = {}
            for suffix, effect in zip(("", "_random"), effects, strict=True):
                columns[f"own_cell_flipped{suffix}"] = estimate(bootstrap_mean(effect.flipped, seed=seed))
                columns[f"unit_moved{suffix}"] = estimate(bootstrap_mean(effect.unit, seed=seed))
                columns[f"elsewhere_moved{suffix}"] = estimate(bootstrap_mean(effect.elsewhere, seed=seed))
                columns[f"final_changed{suffix}"] = estimate(bootstrap_mean(effect.final, seed=seed))
            done += 1
            on_step(done, total)
            yield FaithfulnessEntry(hook_point=str(point), layer=point.layer or 0, dose=dose, **columns)
