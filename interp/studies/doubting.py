"""Whether the twins tell that a written digit is wrong, and whether making them doubt it makes a policy take it back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.backtracking.doubters import (
    AFFINE,
    AT_TOKEN,
    BEFORE,
    DOUBT,
    INPUT,
    MOVED,
    NATIVE,
    SHUFFLED,
    UNTRAINED,
    Doubter,
    Fitted,
    doubts,
    visible_doubt,
)
from interp.backtracking.fates import within
from interp.backtracking.mistakes import Mistaken, mistaken_for
from interp.backtracking.revising import DECIDERS, LOG_P, OTHER, Direction, Targets, revised
from interp.corpus import Corpus
from interp.scoring import estimate
from interp.statistics import Coordinate, Measured, Role, Statistic
from interp.transfer import Twins, shuffled_weights
from models.language_model import LanguageModel
from models.tasks.sudoku.task import MASK_ID, SOLUTION
from probes.controls import random_directions
from probes.metrics import Interval, bootstrap_mean

OWN, PLANTED = "its own mistakes", "planted mistakes"
ALL, QUIET = "all cells", "no visible clash"
RIGHT, WRONG, QUIETLY = "right", "wrong", "wrong, no visible clash"
CLASH = "visible clash"
DOSES = (0, 100, 400, 1600)
"""Lengths of pushes, in percent of the distance between the class means."""
RANDOM_DRAWS = 3
RANDOM = "random direction"


@dataclass(frozen=True, eq=False)
class Read:
    """Canvases with mistakes, and what each reader says of them, by (reader, place, layer); layer -1 is said of no layer."""

    model: str
    mistaken: Mistaken
    said: dict[tuple[str, str, int], Float[Tensor, "canvas cell"]]


def _parts(mistaken: Mistaken) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """Yields (whose mistakes, which cells, the canvases, the cells compared)."""
    for whose, keep in ((OWN, mistaken.own), (PLANTED, ~mistaken.own)):
        for cells, among in ((ALL, mistaken.written), (QUIET, mistaken.written & ~mistaken.clash)):
            yield whose, cells, keep, among


def _auc(read: Read, scores: Tensor, keep: Bool[Tensor, " canvas"], among: Bool[Tensor, "canvas cell"], seed: int) -> Interval | None:
    some = read.mistaken
    return within(scores[keep].double().numpy(), some.wrong[keep].numpy(), among[keep].numpy(), some.group[keep].numpy(), seed=seed)


def _key(one: Doubter) -> tuple[str, str, int]:
    return one.name, one.place, int(one.point.layer or 0)


def read_all(twins: Twins, fitted: Fitted, test: Corpus, seed: int) -> list[Read]:
    """Returns what the readers say of test boards: those of the causal twin at home, then all of them in the diffusion twin."""
    home = [one for one in fitted.doubters if (one.name, one.place) in ((MOVED, AT_TOKEN), (SHUFFLED, AT_TOKEN))]
    found = []
    for model, readers in ((twins.ar, home), (twins.diffusion, fitted.doubters)):
        mistaken = mistaken_for(model, test, seed)
        *by_reader, own = doubts(model, mistaken.tokens, readers)
        said = {_key(one): scores for one, scores in zip(readers, by_reader, strict=True)}
        said |= {(DOUBT, BEFORE, -1): own, (CLASH, BEFORE, -1): mistaken.clash.float()}
        found.append(Read(model.name, mistaken, said))
    noise, mistaken = shuffled_weights(twins.diffusion, seed), found[1].mistaken
    by_reader = doubts(noise, mistaken.tokens, fitted.untrained)
    found[1].said.update({_key(one): scores for one, scores in zip(fitted.untrained, by_reader, strict=False)})
    found[1].said[INPUT, BEFORE, -1] = visible_doubt(fitted.visible, mistaken)
    return found


def readable(reads: Sequence[Read], n_layers: int, seed: int) -> Statistic:
    """Returns how well each reader tells wrong written digits from right ones of the same canvas."""
    values = []
    for read in reads:
        for (reader, place, layer), scores in read.said.items():
            for whose, cells, keep, among in _parts(read.mistaken):
                found = _auc(read, scores, keep, among, seed)
                for x in range(n_layers) if layer < 0 else (layer,):
                    at: dict[str, Coordinate] = {"model": read.model, "mistakes": whose, "cells": cells, "reader": reader}
                    at |= {"place": "" if layer < 0 else place, "layer": x}
                    if found is not None:
                        values.append(Measured(at=at, estimate=estimate(found)))
    about = (
        "The chance that a wrong written digit scores above a right one of the same canvas, so that nothing counts that "
        "merely tells boards or shares unwritten apart. Readers are fitted on the causal twin at the digit's own token (`moved`; `affine` "
        "through a map fitted on unlabelled pairs), or on the diffusion twin (`native`), on other boards. They are read at that token or "
        "where it was predicted. `Digit reader disagrees`: the causal twin's reader of the solution's digit against the digit written. "
        "`The model's own doubt`: minus the log-probability that the model gives the written digit in the same call. Floors: "
        "shuffled labels, a network with shuffled weights, and a reader of visible peers and broken rules, without a network."
    )
    roles: dict[str, Role] = {f"{name}, {place}": "floor" for name in (SHUFFLED, UNTRAINED) for place in (AT_TOKEN, BEFORE)}
    roles |= {f"{INPUT}, ": "floor", f"{CLASH}, ": "floor", f"{DOUBT}, ": "reference"}
    return Statistic(
        name="wrong",
        title="Is a written digit's being wrong readable?",
        about=about,
        unit="AUC within a canvas",
        panels=("model", "mistakes", "cells"),
        lines=("reader", "place"),
        x="layer",
        roles=roles,
        values=values,
    )


def kept(reads: Sequence[Read], twins: Twins, seed: int) -> Statistic:
    """Returns what the twins themselves propose for digits that are written already."""
    values = []
    for model, read in zip((twins.ar, twins.diffusion), reads, strict=True):
        some, groups = read.mistaken, read.mistaken.group
        proposed = _proposals(model, some.tokens)
        for whose, keep in ((OWN, some.own), (PLANTED, ~some.own)):
            for cells, among in _classes(some):
                rows, cell = torch.nonzero(among & keep[:, None], as_tuple=True)
                for measure, target in (("the written digit", some.tokens), ("the solution's digit", some.truth)):
                    if len(rows):
                        same = (proposed[rows, cell] == target[rows, SOLUTION.start + cell]).double()
                        at: dict[str, Coordinate] = {"model": model.name, "mistakes": whose, "proposed": measure, "cells": cells}
                        values.append(Measured(at=at, estimate=estimate(bootstrap_mean(same, groups[rows], seed=seed))))
    return Statistic(
        name="kept",
        title="What a model proposes where a digit stands",
        about="How often its likeliest digit for a written cell is the one that is written, or the solution's. That a masked model "
        "proposes its own wrong digits as often as right ones is its preservation bias. A causal twin is asked before it sees the digit.",
        unit="share of cells",
        panels=("model", "mistakes"),
        lines=("proposed",),
        x="cells",
        values=values,
    )


@torch.no_grad()
def _proposals(model: LanguageModel, tokens: Tensor) -> Tensor:
    mask = torch.tensor([MASK_ID])
    return torch.cat([model.logits(part).index_fill(-1, mask, -torch.inf)[:, SOLUTION].argmax(-1) for part in tokens.split(64)])


def chosen(fitted: Fitted, model: LanguageModel) -> dict[str, Doubter]:
    """Returns the readers, moved, native and of digits, of the layers and places that tell own mistakes best on the fit boards."""
    *said, _ = doubts(model, fitted.canvases.tokens, fitted.doubters)
    read = Read(model.name, fitted.canvases, {})
    best: dict[str, tuple[float, Doubter]] = {}
    for one, scores in zip(fitted.doubters, said, strict=True):
        name = MOVED if one.name == AFFINE else one.name
        found = _auc(read, scores, fitted.canvases.own, fitted.canvases.written, 0)
        if name != SHUFFLED and found is not None and found.value > best.get(name, (0.0,))[0]:
            best[name] = found.value, one
    return {name: one for name, (_, one) in best.items()}


def _classes(some: Mistaken) -> tuple[tuple[str, Bool[Tensor, "canvas cell"]], ...]:
    return (RIGHT, some.written & ~some.wrong), (WRONG, some.wrong), (QUIETLY, some.wrong & ~some.clash)


def _targets(some: Mistaken, among: Bool[Tensor, "canvas cell"], most: int, seed: int) -> tuple[Targets, Tensor]:
    """Returns a drawn cell of at most ``most`` drawn canvases with a model's own mistakes, and the boards they are of."""
    chance = torch.rand(among.shape, generator=torch.Generator().manual_seed(seed))
    there = torch.nonzero(some.own & among.any(1)).flatten()
    rows = there[chance[there, 0].argsort()[:most]]
    cell = chance[rows].masked_fill(~among[rows], -1).argmax(1)
    return Targets(some.tokens[rows], some.asked[rows], SOLUTION.start + cell), some.group[rows]


def pushes(model: LanguageModel, some: Mistaken, fitted: Fitted, readers: Mapping[str, Doubter], most: int, seed: int) -> Statistic:
    """Returns what becomes of written digits that are pushed along the readers' directions, or along random ones of the same length."""
    values = []
    for cells, among in _classes(some):
        targets, groups = _targets(some, among, most, seed)
        for name in (MOVED, NATIVE):
            towards, n = _unmoved(readers[name]), len(groups)
            random = [random_directions(n, len(towards), seed + draw) for draw in range(RANDOM_DRAWS)]
            for label, vectors in ((f"{name} wrong", [towards.expand(n, -1)]), (f"{RANDOM}, as far as {name}", random)):
                for dose in DOSES:
                    draws = [revised(model, targets, _direction(model, readers[name], fitted, one), dose / 100) for one in vectors]
                    for what in draws[0]:
                        mean = torch.stack([draw[what] for draw in draws]).mean(0).double()
                        at: dict[str, Coordinate] = {"what": what, "cells": cells, "push": label, "dose": dose}
                        values.append(Measured(at=at, estimate=estimate(bootstrap_mean(mean, groups, seed=seed))))
    return _push_statistic(values)


def _direction(model: LanguageModel, one: Doubter, fitted: Fitted, vectors: Float[Tensor, "canvas d_model"]) -> Direction:
    back = model.facts.logit_shift if one.place == BEFORE else 0
    return Direction(one.point, back, fitted.gap[one.point, one.place] * vectors)


def _unmoved(one: Doubter) -> Float[Tensor, " d_model"]:
    """Returns the unit vector, in the space of what is read, along which a reader's score rises fastest."""
    weight = one.probe.weight[0] if one.alignment is None else one.alignment.matrix @ one.probe.weight[0]
    return weight / weight.norm()


def _push_statistic(values: list[Measured]) -> Statistic:
    return Statistic(
        name="pushes",
        title="Does pushing a written digit towards “wrong” make it be taken back?",
        about="One written digit a canvas of the model's own making; in one call its activation is moved, at the place and layer of the "
        "reader that tells the model's own mistakes best on other boards, along that reader's direction or random ones (mean of "
        f"{RANDOM_DRAWS}). The dose is in percent of the distance between the means of activations of wrong and of right digits; "
        f"0 is no push. `{LOG_P}` is in nats; `{OTHER}`, and being taken back in this call by {' or '.join(DECIDERS)}, are shares.",
        unit="nats, or share of cells",
        panels=("what", "cells"),
        lines=("push",),
        x="dose",
        roles={f"{RANDOM}, as far as {name}": "floor" for name in (MOVED, NATIVE)} if values else {},
        values=values,
    )
