"""Directions to push along, how long they naturally are, and controls of equal length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from interp.faithfulness.claims import BATCH, DIGITS, Claims, digit_log_probabilities
from interp.steering import Push, adding, axes_of, context_of, edits_of
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from models.tasks.sudoku.task import SOLUTION
from probes.controls import random_directions
from probes.linear import LinearProbe

DOSES = (0.1, 0.25, 0.5, 1.0, 2.0)
"""Lengths of a push over its natural length."""


@dataclass(frozen=True, eq=False)
class Directions:
    """The nine digit directions of a concept at a hook point."""

    vectors: Float[Tensor, "digit d_model"]
    """Each as long as the means of its two classes are apart along it: its natural length."""
    spread: float
    """The layer's own scale, to compare with: the root of the summed variance of its activations."""


def directions_of(probe: LinearProbe, x: Float[Tensor, "row d_model"], y: Bool[Tensor, "row head"]) -> Directions:
    """Returns a probe's directions, measured on labelled activations of the model that is pushed."""
    return Directions(axes_of(probe, x, y).natural.float(), float(x.float().var(0).sum().sqrt()))


def unembedding(model: LanguageModel) -> Float[Tensor, "digit d_model"]:
    """Returns what the output reads of the residual stream for each digit, through the scale of the final norm."""
    weight = model.module.get_output_embeddings().weight[DIGITS]
    return (weight * model.module.base_model.ln_f.weight).float().cpu()


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
    arms: Sequence[Directions], output: Float[Tensor, "digit d_model"], claims: Claims, *, draws: int, seed: int
) -> dict[str, list[Nudge]]:
    """Returns by name pushes that are as long as the longest swap along any of several origins' directions.

    They go along random directions (several draws), along the first origin's directions of two digits that the claim is not about, along
    its swap at a far cell, and along what the output reads.
    """
    length = torch.stack([swap(one.vectors, claims).norm(dim=1) for one in arms]).amax(0)
    vectors = arms[0].vectors
    up, down = other_digits(claims, seed)
    random = [as_long_as(random_directions(len(claims), vectors.shape[1], seed + draw), length) for draw in range(draws)]
    return {
        RANDOM: [Nudge(one, claims.cell) for one in random],
        OTHER_DIGITS: [Nudge(as_long_as(vectors[up - 1] - vectors[down - 1], length), claims.cell)],
        FAR: [Nudge(as_long_as(swap(vectors, claims), length), claims.far)],
        OUTPUT: [Nudge(as_long_as(swap(output, claims), length), claims.cell)],
    }


RANDOM, OTHER_DIGITS, FAR, OUTPUT = "random direction", "two other digits", "at a far cell", "what the output reads"
FLOORS = (RANDOM, OTHER_DIGITS, FAR)
"""Controls that must do less than the push."""


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
