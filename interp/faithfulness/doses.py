"""Directions to push along, how long they naturally are, and controls of equal length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from interp.faithfulness.claims import BATCH, CONCEPT_OF, DIGITS, Claims, digit_log_probabilities
from interp.scoring import estimate
from interp.statistics import Coordinate, Measured, Statistic
from interp.steering import Push, adding, axes_of, context_of, edits_of
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from models.tasks.sudoku.task import SOLUTION
from probes.controls import random_directions
from probes.linear import LinearProbe
from probes.metrics import bootstrap_ratio

DOSES = (0.1, 0.25, 0.5, 1.0, 2.0)
"""Lengths of a push over its natural length."""


@dataclass(frozen=True, eq=False)
class Directions:
    """The nine digit directions of a concept at a hook point."""

    vectors: Float[Tensor, "digit d_model"]
    """Each as long as the means of its two classes are apart along it: its natural length."""
    spread: float
    """The layer's own scale, to compare with: the root of the summed variance of its activations."""


Arm = Mapping[tuple[str, HookPoint], Directions]
"""Directions of one origin, by concept and hook point."""


def directions_of(probe: LinearProbe, x: Float[Tensor, "row d_model"], y: Bool[Tensor, "row head"]) -> Directions:
    """Returns a probe's directions, measured on labelled activations of the model that is pushed."""
    return Directions(axes_of(probe, x, y).natural.float(), float(x.float().var(0).sum().sqrt()))


def patterns_of(probe: LinearProbe, x: Float[Tensor, "row d_model"], y: Bool[Tensor, "row head"]) -> Directions:
    """Returns what varies with a probe's scores: a head's covariance with the activations (Haufe et al. 2014, equation 6).

    A probe's weights also cancel what it must not be misled by, so a push along them need not look like anything that the model does. A
    push along the pattern, of natural length, moves the probe's score as far as its classes' mean scores are apart.
    """
    scores, centred = probe.scores(x.float()).float(), x.float() - x.float().mean(0)
    slopes = (scores - scores.mean(0)).T @ centred / (scores - scores.mean(0)).square().sum(0)[:, None]
    apart = torch.stack([scores[y[:, head], head].mean() - scores[~y[:, head], head].mean() for head in range(y.shape[1])])
    return Directions(slopes * apart[:, None], float(x.float().var(0).sum().sqrt()))


def unembedding(model: LanguageModel) -> Float[Tensor, "digit d_model"]:
    """Returns what the output reads of the residual stream for each digit, through the scale of the final norm."""
    weight = model.module.get_output_embeddings().weight[DIGITS]
    norm = model.module.get_submodule(model.network.architecture.readout[0])
    return (weight * norm.weight).float().cpu()


def swap(vectors: Float[Tensor, "digit d_model"], claims: Claims) -> Float[Tensor, "claim d_model"]:
    """Returns, for each claim, the push away from its own digit and towards the other."""
    return vectors[claims.other - 1] - vectors[claims.own - 1]


def as_long_as(vectors: Float[Tensor, "claim d_model"], length: Float[Tensor, " claim"]) -> Float[Tensor, "claim d_model"]:
    """Returns vectors of the same directions and given lengths."""
    return functional.normalize(vectors, dim=1) * length[:, None]


def other_digits(claims: Claims, seed: int) -> tuple[Int[Tensor, " claim"], Int[Tensor, " claim"]]:
    """Returns two digits a claim that are neither its own nor the other, drawn."""
    draw = torch.rand(len(claims), 9, generator=torch.Generator().manual_seed(seed))
    draw.scatter_(1, torch.stack([claims.own, claims.other], 1) - 1, -1.0)
    best = draw.topk(2, dim=1).indices + 1
    return best[:, 0], best[:, 1]


@dataclass(frozen=True, eq=False)
class Nudge:
    """One displacement a claim, and the cell whose prediction it acts on."""

    vectors: Float[Tensor, "claim d_model"]
    cell: Int[Tensor, " claim"]


def controls(
    directions: Directions,
    rival: Directions | None,
    output: Float[Tensor, "digit d_model"],
    claims: Claims,
    *,
    draws: int,
    seed: int,
) -> dict[str, list[Nudge]]:
    """Returns by name pushes that are each as long as the claim's own swap along some directions.

    They go along random directions (several draws), along the same directions of two digits that the claim is not about, along its swap
    at a far cell, along the swap of the same two digits by another concept (None leaves it out), and along what the output reads.
    """
    own = swap(directions.vectors, claims)
    length, vectors = own.norm(dim=1), directions.vectors
    up, down = other_digits(claims, seed)
    random = [as_long_as(random_directions(len(claims), vectors.shape[1], seed + draw), length) for draw in range(draws)]
    found = {
        RANDOM: [Nudge(one, claims.cell) for one in random],
        OTHER_DIGITS: [Nudge(as_long_as(vectors[up - 1] - vectors[down - 1], length), claims.cell)],
        FAR: [Nudge(own, claims.far)],
        OUTPUT: [Nudge(as_long_as(swap(output, claims), length), claims.cell)],
    }
    if rival is not None:
        found[OTHER_CONCEPT] = [Nudge(as_long_as(swap(rival.vectors, claims), length), claims.cell)]
    return found


RANDOM, OTHER_DIGITS, FAR = "random direction", "two other digits", "at a far cell"
OTHER_CONCEPT, OUTPUT = "the same digits of the other concept", "what the output reads"
FLOORS = (RANDOM, OTHER_DIGITS, FAR)
"""Controls that do not say what the claim says, and so must do less than the push."""
RIVALS = (OTHER_CONCEPT, OUTPUT)
"""Other directions for the same two digits: where one does as much, what acts is not this concept's alone."""


@dataclass(frozen=True, eq=False)
class Effect:
    """What a push, or a token written, did inside the same call, a number a claim."""

    flipped: Float[Tensor, " claim"]
    """Whether the likeliest digit at the claim's cell is the one pushed towards."""
    peers: Float[Tensor, " claim"]
    """How far log-probabilities moved as the rules demand, in nats, where the claim's cell bears on them ..."""
    elsewhere: Float[Tensor, " claim"]
    """... and the same on cells that it does not bear on."""
    consequence: Float[Tensor, " claim"]
    """How far the only candidate that would be left rose over the other; NaN where there is no such cell."""

    @property
    def use(self) -> Float[Tensor, " claim"]:
        """How much of the move is the rules': ``peers`` less ``elsewhere``."""
        return self.peers - self.elsewhere


def effect_of(claims: Claims, after: Float[Tensor, "claim cell digit"]) -> Effect:
    """Returns what differs between the undisturbed call and another."""
    moved = after - claims.base
    peers, elsewhere, consequence = ((weights * moved).sum((1, 2)) for weights in (claims.expected, claims.elsewhere, claims.consequence))
    top = after[torch.arange(len(claims)), claims.cell].argmax(1) + 1
    there = claims.consequence.abs().sum((1, 2)) > 0
    return Effect((top == claims.other).float(), peers, elsewhere, consequence.masked_fill(~there, torch.nan))


def pushed(model: LanguageModel, claims: Claims, point: HookPoint, nudge: Nudge, dose: float = 1.0) -> Effect:
    """Returns what a push does in the call that the claims are about."""
    parts = []
    for rows in torch.arange(len(claims)).split(BATCH):
        tokens = claims.tokens[rows]
        where = torch.zeros(tokens.shape, dtype=torch.bool)
        where[torch.arange(len(rows)), SOLUTION.start + nudge.cell[rows]] = True
        edits = edits_of(model, Push(point, adding(nudge.vectors[rows]), where, dose))
        with model.hooks(edits(context_of(model, tokens))):
            parts.append(digit_log_probabilities(model, tokens))
    return effect_of(claims, torch.cat(parts))


def written(model: LanguageModel, claims: Claims) -> Effect:
    """Returns what writing the other digit into the claim's cell does: the most that the rest can make of it."""
    tokens = claims.tokens.clone()
    tokens[torch.arange(len(claims)), SOLUTION.start + claims.cell] = claims.other
    return effect_of(claims, digit_log_probabilities(model, tokens))


def averaged(effects: list[Effect]) -> Effect:
    """Returns the mean over draws."""
    columns = (torch.stack([getattr(one, name) for one in effects]).mean(0) for name in ("flipped", "peers", "elsewhere", "consequence"))
    return Effect(*columns)


def length_statistic(claims: Mapping[str, Claims], arms: Mapping[str, Arm], seed: int) -> Statistic:
    """Returns how long natural pushes are beside the layer's own scale, by kind, origin of the directions, and layer."""
    values = []
    for kind, some in claims.items():
        for name, arm in arms.items():
            for point in sorted(point for concept, point in arm if concept == CONCEPT_OF[kind]):
                directions = arm[CONCEPT_OF[kind], point]
                length = swap(directions.vectors, some).norm(dim=1)
                found = bootstrap_ratio(length, torch.full_like(length, directions.spread), some.sample, seed=seed)
                at: dict[str, Coordinate] = {"kind": kind, "directions": name, "layer": point.layer or 0}
                values.append(Measured(at=at, estimate=estimate(found)))
    return Statistic(
        name="statement_lengths",
        title="How long is a push of natural length?",
        about=(
            "The natural length is how far the classes' means are apart along the directions: of the digit pushed out and of the one "
            "pushed in, together. The layer's scale is the root of the summed variance of its activations at unwritten cells. Intervals "
            "resample boards."
        ),
        unit="length over the layer's scale",
        panels=("kind",),
        lines=("directions",),
        x="layer",
        values=values,
    )
