"""What remains of a push once it is over: the run goes on from the call it was made in, with nothing carried on but tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.faithfulness.claims import PARTS, Claims
from interp.faithfulness.doses import RANDOM, as_long_as, swap
from interp.scoring import estimate
from interp.statistics import Measured, Statistic
from interp.steering import Push, adding, edits_of
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from models.tasks.sudoku.task import MASK_ID, SOLUTION
from models.trajectory import Trajectory
from probes.controls import random_directions
from probes.metrics import bootstrap_mean

ALONG, BY_HAND = "along the claim", "the digit written"
OWN, OTHERS, NEXT, LATER = (
    "the digit is finally written there",
    "other cells finally written otherwise",
    "cells of the next call replaced",
    "runs that differ later although the call wrote the same",
)


@dataclass(frozen=True, eq=False)
class Aftermath:
    """How a run went on, a number a claim."""

    own: Float[Tensor, " claim"]
    """Whether the digit pushed towards is what is finally written at the claim's cell."""
    others: Float[Tensor, " claim"]
    """Share of the other cells, unwritten at the call, that are finally another digit than in the undisturbed run."""
    next: Float[Tensor, " claim"]
    """Share of the cells that the undisturbed run writes in the call after, which this one does not; NaN where it writes none."""
    same: Bool[Tensor, " claim"]
    """Whether the call left the canvas that it leaves undisturbed ..."""
    later: Bool[Tensor, " claim"]
    """... and whether any canvas after that differs."""


def _compared(run: Trajectory, other: Trajectory, claims: Claims, step: int) -> Aftermath:
    sample, cell = claims.sample, claims.cell
    padded = [torch.from_numpy(np.asarray(one.data["token"].values)).long() for one in (run, other)]
    length = max(one.shape[1] for one in padded)
    was, became = (torch.cat([one, one[:, -1:].expand(-1, length - one.shape[1], -1)], 1)[sample][:, :, SOLUTION] for one in padded)
    rows = torch.arange(len(claims))
    unwritten = was[:, step - 1] == MASK_ID
    unwritten[rows, cell] = False
    after = min(step + 1, length - 1)
    written = (was[:, step] == MASK_ID) & (was[:, after] != MASK_ID)
    replaced = written & (became[:, after] == MASK_ID)
    return Aftermath(
        own=(became[rows, -1, cell] == claims.other).float(),
        others=((became[:, -1] != was[:, -1]) & unwritten).sum(1) / unwritten.sum(1),
        next=replaced.sum(1) / written.sum(1),
        same=(became[:, step] == was[:, step]).all(1),
        later=(became[:, step:] != was[:, step:]).flatten(1).any(1),
    )


def pushed_on(
    model: LanguageModel, run: Trajectory, claims: Claims, point: HookPoint, vectors: Float[Tensor, "claim d_model"]
) -> Aftermath:
    """Returns how a run goes on where claims of one call, at most one a sample, were pushed in that call and never again."""
    step = int(claims.step[0])
    shape = run.tokens(0).shape
    where = torch.zeros(shape, dtype=torch.bool)
    where[claims.sample, SOLUTION.start + claims.cell] = True
    by_sample = torch.zeros(shape[0], vectors.shape[1])
    by_sample[claims.sample] = vectors
    edits = edits_of(model, Push(point, adding(by_sample), where, steps=(step,)))
    return _compared(run, run.at(step - 1).resume(model, edits=edits), claims, step)


def written_on(model: LanguageModel, run: Trajectory, claims: Claims) -> Aftermath:
    """Returns how a run goes on where the other digit was written into each claim's cell before the call."""
    step = int(claims.step[0])
    moment = run.at(step - 1)
    for sample, cell, digit in torch.stack([claims.sample, claims.cell, claims.other], 1).tolist():
        moment = moment.edit({SOLUTION.start + cell: digit}, sample=sample)
    return _compared(run, moment.resume(model), claims, step)


def _values(at: Mapping[str, str], found: Aftermath, claims: Claims, seed: int) -> list[Measured]:
    values = []
    quantities = {OWN: found.own, OTHERS: found.others, NEXT: found.next, LATER: torch.where(found.same, found.later.float(), torch.nan)}
    for outcome, quantity in quantities.items():
        keep = torch.isfinite(quantity)
        if keep.any():
            interval = bootstrap_mean(quantity[keep], claims.sample[keep], seed=seed)
            values.append(Measured(at={**at, "outcome": outcome}, estimate=estimate(interval)))
    return values


def after_statistic(
    model: LanguageModel, run: Trajectory, claims: Claims, point: HookPoint, directions: Float[Tensor, "digit d_model"], seed: int
) -> Statistic:
    """Returns what the rest of a run makes of claims pushed at their natural length in one call, by third of the run."""
    values: list[Measured] = []
    for part, name in enumerate(PARTS):
        some = claims.rows(claims.part == part)
        if not len(some):
            continue
        runs, some = run.select(some.sample.tolist()), replace(some, sample=torch.arange(len(some)))
        vectors = swap(directions, some)
        random = as_long_as(random_directions(len(some), vectors.shape[1], seed), vectors.norm(dim=1))
        found = {
            ALONG: pushed_on(model, runs, some, point, vectors),
            RANDOM: pushed_on(model, runs, some, point, random),
            BY_HAND: written_on(model, runs, some),
        }
        for line, one in found.items():
            values += _values({"push": line, "part": name}, one, some, seed)
    return Statistic(
        name="statement_aftermath",
        title="What remains of a push when it is over?",
        about=(
            "A claim is pushed in one call, at its natural length, and the run resumed: nothing is pushed after that call, so whatever "
            "follows went through tokens. Share of claims, of the other cells unwritten then, or of the cells that the next call writes "
            "undisturbed. Where the call wrote just what it writes undisturbed, later calls must not differ at all. For comparison, a "
            "random direction as long, and the digit written by hand before the call. Intervals resample boards."
        ),
        unit="share",
        panels=("outcome",),
        lines=("push",),
        x="part",
        roles={RANDOM: "floor", BY_HAND: "reference"},
        values=values,
    )
