"""Using a reader to act: move activations along a concept's directions while a model denoises, go on, and see what comes of it.

A push says where (hook point, tokens, steps) and how activations are moved: towards a head's class, out of it, from one head's class to
another's, or by an eraser. Its control is a push of the same length, at every place it acts, in a random direction.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from interp.report import Entry, Estimate
from interp.scoring import estimate
from models.backends import Edit
from models.decoding import Decoding
from models.denoise import StepContext, StepEdits, denoise
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from models.recorder import Channel, Record
from models.trajectory import Trajectory
from probes.controls import random_directions
from probes.erase import Eraser
from probes.linear import LinearProbe
from probes.metrics import bootstrap_mean

READER = "reader"
"""The channel that a watched probe is recorded in."""


class SteeringError(ValueError):
    """A push that has nowhere to act, or does not fit its samples."""


@dataclass(frozen=True, eq=False)
class Axes:
    """The directions of a concept's heads, and where their classes lie along them."""

    unit: Float[Tensor, "head d_model"]
    absent: Float[Tensor, " head"]
    """Mean along it of the activations where the head is false."""
    present: Float[Tensor, " head"]
    """... and where it is true."""

    @property
    def natural(self) -> Float[Tensor, "head d_model"]:
        """Each direction, as long as its class means are apart along it."""
        return self.unit * (self.present - self.absent)[:, None]


def axes_of(probe: LinearProbe, x: Float[Tensor, "row d_model"], y: Bool[Tensor, "row head"]) -> Axes:
    """Returns a probe's directions with the class means of labelled activations along them."""
    unit = probe.directions()
    along = x.to(unit.dtype) @ unit.T
    absent, present = (torch.stack([along[of[:, head], head].mean() for head in range(len(unit))]) for of in (~y, y))
    return Axes(unit, absent, present)


Move = Callable[[Float[Tensor, "row d_model"], Int[Tensor, " row"]], Float[Tensor, "row d_model"]]
"""How far activations go, a displacement each, given which sample each is of."""


def adding(vectors: Float[Tensor, "batch d_model"]) -> Move:
    """Returns the move along one vector a sample, such as ``axes.natural[head]``, or the difference of two heads'."""
    return lambda x, sample: vectors.to(x)[sample]


def removing(axes: Axes, head: Int[Tensor, " batch"]) -> Move:
    """Returns the move to the mean of a head's negatives along its direction, and nowhere else: one head a sample."""
    return _setting(axes.unit[head][:, None], axes.absent[head][:, None])


def swapping(axes: Axes, source: Int[Tensor, " batch"], target: Int[Tensor, " batch"]) -> Move:
    """Returns the shortest move to the negatives' mean along ``source`` and to the positives' along ``target``: two heads a sample.

    Raises:
        SteeringError: Where the two are the same.
    """
    same = torch.nonzero(source == target).flatten().tolist()
    if same:
        raise SteeringError(f"sample {same[0]} swaps head {int(source[same[0]])} with itself; source and target must differ")
    return _setting(torch.stack([axes.unit[source], axes.unit[target]], 1), torch.stack([axes.absent[source], axes.present[target]], 1))


def erasing(eraser: Eraser) -> Move:
    """Returns the move that an eraser makes."""
    return lambda x, sample: eraser(x) - x


def _setting(units: Float[Tensor, "batch axis d_model"], levels: Float[Tensor, "batch axis"]) -> Move:
    """Returns the shortest move to given levels along given directions, some a sample."""
    back = torch.linalg.pinv(units)

    def move(x: Tensor, sample: Tensor) -> Tensor:
        along = torch.einsum("rad,rd->ra", units.to(x)[sample], x)
        return torch.einsum("rda,ra->rd", back.to(x)[sample], levels.to(x)[sample] - along)

    return move


@dataclass(frozen=True, eq=False)
class Push:
    """Activations moved at some places of a run."""

    point: HookPoint
    move: Move
    where: Bool[Tensor, "batch pos"]
    """Tokens; the activations are those that they are predicted from, whatever the model's logit shift."""
    dose: float = 1.0
    """What the move is multiplied by."""
    steps: Container[int] | None = None
    """Only in these calls, counted from 1; None is in all."""
    while_masked: bool = False
    """Only as long as the token is unwritten."""

    def control(self, seed: int) -> Push:
        """Returns the push that goes as far at every place, in a random direction a sample."""

        def move(x: Tensor, sample: Tensor) -> Tensor:
            directions = random_directions(len(self.where), x.shape[1], seed).to(x)
            return self.move(x, sample).norm(dim=1, keepdim=True) * directions[sample]

        return replace(self, move=move)


def edits_of(model: LanguageModel, *pushes: Push) -> StepEdits:
    """Returns the pushes as ``edits`` of ``denoise`` or of ``Moment.resume``, one after the other where they meet.

    Raises:
        SteeringError: On a push at the first token of a model that predicts each token from the one before: nothing predicts it.
    """
    shift = model.facts.logit_shift
    for push in pushes:
        if push.where[:, :shift].any():
            raise SteeringError(f"a push at token 0; {model.name} predicts from the token before, so choose from token {shift} on")

    def edits(context: StepContext) -> Mapping[HookPoint, Edit]:
        acting = [push for push in pushes if push.steps is None or context.step in push.steps]
        places = [(push, _places(push, context, shift)) for push in acting]
        places = [(push, place) for push, place in places if len(place[0])]
        return {point: _edit([one for one in places if one[0].point == point]) for point in {push.point for push, _ in places}}

    return edits


def context_of(model: LanguageModel, tokens: Int[Tensor, "batch pos"]) -> StepContext:
    """Returns what the first call of a run from ``tokens`` knows.

    With it edits act on one call alone, of either twin: ``model.hooks(edits_of(model, push)(context_of(model, tokens)))``.
    """
    return StepContext(1, torch.arange(len(tokens), device=tokens.device), tokens, tokens == model.task.mask_token_id)


_Places = tuple[Int[Tensor, " place"], Int[Tensor, " place"], Int[Tensor, " place"]]


def _places(push: Push, context: StepContext, shift: int) -> _Places:
    """Returns row of the call, position in the network, and sample, of every activation that is moved."""
    length = context.tokens.shape[1]
    if int(context.rows.max()) >= len(push.where) or length > push.where.shape[1]:
        raise SteeringError(
            f"a push for canvases {tuple(push.where.shape)}; the run has a sample {int(context.rows.max())} of {length} positions"
        )
    where = push.where.to(context.tokens.device)[context.rows, :length]
    row, token = torch.nonzero(where & context.masked if push.while_masked else where, as_tuple=True)
    return row, token - shift, context.rows[row]


def _edit(places: Sequence[tuple[Push, _Places]]) -> Edit:
    def edit(activation: Tensor) -> Tensor:
        edited = activation.clone()
        for push, (row, position, sample) in places:
            x = edited[row, position].float()
            edited[row, position] = (x + push.dose * push.move(x, sample)).to(edited.dtype)
        return edited

    return edit


@dataclass(frozen=True, eq=False)
class Watch:
    """What a probe says of the pushed tokens: one head a sample."""

    probe: LinearProbe
    point: HookPoint
    head: Int[Tensor, " batch"]


class Beside(Entry):
    """One figure of a push and of its control; a sample counts once, whatever the number of its pushed tokens."""

    push: Estimate
    random: Estimate = Field(description="Random directions, as far at every place, averaged over draws.")
    gain: Estimate = Field(description="`push` - `random`, sample by sample.")
    undisturbed: float | None = Field(description="The same without any push; None where it is 0 by definition.")


class SteeringEffect(Entry):
    """What a push made of the runs it was made in."""

    changed: Beside = Field(description="Share of the pushed tokens that are finally another than without the push.")
    elsewhere: Beside | None = Field(description="Share of the other tokens written that are another; None where there are none.")
    wanted: Beside | None = Field(description="Share of the pushed tokens that are finally the token pushed towards.")
    read: Beside | None = Field(description="Mean probability that the watched reader gives in the call that writes a pushed token.")


@dataclass(frozen=True)
class _Runs:
    """What is compared, and by which tokens."""

    pushed: Bool[Tensor, "batch pos"]
    others: Bool[Tensor, "batch pos"]
    before: Trajectory
    wanted: Int[Tensor, " batch"] | None
    watch: Watch | None

    def figures(self, run: Trajectory) -> dict[str, Float[Tensor, " batch"]]:
        """Returns each figure of a run, a number a sample; NaN where a sample has no token that counts."""
        final, was = (torch.from_numpy(one.tokens(-1)) for one in (run, self.before))
        found = {"changed": _mean(final != was, self.pushed), "elsewhere": _mean(final != was, self.others)}
        if self.wanted is not None:
            found["wanted"] = _mean(final == self.wanted.cpu()[:, None], self.pushed)
        if self.watch is not None:
            steps = torch.from_numpy(run.data["commit_step"].values).long()
            read = torch.from_numpy(run.channel(READER).values).float()
            sample, token = torch.nonzero(self.pushed, as_tuple=True)
            at_writing = torch.zeros(steps.shape)
            at_writing[sample, token] = read[sample, steps[sample, token], token, self.watch.head.cpu()[sample]]
            found["read"] = _mean(at_writing, self.pushed)
        return found


def _mean(values: Tensor, among: Bool[Tensor, "batch pos"]) -> Float[Tensor, " batch"]:
    return torch.where(among, values.double(), 0.0).sum(1) / among.sum(1)


def steering_effect(
    model: LanguageModel,
    tokens: Int[Tensor, "batch pos"],
    push: Push,
    decoding: Decoding,
    *,
    wanted: Int[Tensor, " batch"] | None = None,
    watch: Watch | None = None,
    n_random: int = 5,
    groups: Int[Tensor, " batch"] | None = None,
    seed: int = 0,
) -> SteeringEffect:
    """Returns what a push changes in runs from ``tokens`` to their end, beside random pushes of the same length.

    Args:
        model: A masked model.
        tokens: Canvases to begin from, wholly or partly unwritten.
        push: What is done; tokens that the run does not write are pushed too, but do not count in the figures.
        decoding: How the canvases are written; with a temperature, runs share their random numbers, so only the push tells them apart.
        wanted: The token id that a sample is pushed towards, where the concept's heads stand for tokens.
        watch: A reader whose word is taken after the push.
        n_random: Random pushes to compare with.
        groups: The puzzle or document of each sample, which intervals resample; None makes each its own.
        seed: Of random directions and intervals.

    Raises:
        SteeringError: Where a sample has no pushed token that is to be written, or there is no random push.
    """
    unwritten = tokens.cpu() == model.task.mask_token_id
    if push.where.shape != tokens.shape:
        raise SteeringError(f"a push for canvases {tuple(push.where.shape)}, and canvases {tuple(tokens.shape)}; they must be the same")
    pushed = push.where.cpu() & unwritten
    none = torch.nonzero(~pushed.any(1)).flatten().tolist()
    if none or n_random < 1:
        problem = f"sample {none[0]} has no pushed token to be written" if none else f"n_random is {n_random}"
        raise SteeringError(f"{problem}; each sample needs one at least, and so does the control")
    channels = {} if watch is None else {READER: Channel(watch.point, watch.probe.probabilities)}

    def run(one: Push | None) -> Trajectory:
        return denoise(model, tokens, decoding, record=Record(channels=channels), edits=None if one is None else edits_of(model, one))

    runs = _Runs(pushed, unwritten & ~pushed, run(None), wanted, watch)
    without, with_push = runs.figures(runs.before), runs.figures(run(push))
    controls = [runs.figures(run(push.control(seed + draw))) for draw in range(n_random)]
    figures = {
        name: _beside(values, [one[name] for one in controls], without[name] if name in ("wanted", "read") else None, groups, seed)
        for name, values in with_push.items()
    }
    return SteeringEffect.model_validate({"wanted": None, "read": None, **figures})


def _beside(
    values: Float[Tensor, " batch"],
    controls: Sequence[Float[Tensor, " batch"]],
    without: Float[Tensor, " batch"] | None,
    groups: Int[Tensor, " batch"] | None,
    seed: int,
) -> Beside | None:
    there = torch.isfinite(values)
    if not there.any():
        return None
    random = torch.stack(list(controls)).mean(0)
    kept = None if groups is None else groups.cpu()[there]
    push, by_chance, gain = (estimate(bootstrap_mean(one[there], kept, seed=seed)) for one in (values, random, values - random))
    return Beside(push=push, random=by_chance, gain=gain, undisturbed=None if without is None else float(without[there].mean()))
