"""Linear readers that doubt what is written, beside what the model itself says of it.

A reader is fitted on the causal twin where it has just read a digit, at the digit's own token, and moved to the diffusion twin; there it
is tried at that token and at the one before, from which the digit was predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.backtracking.mistakes import Mistaken, drawn_cells, mistaken_for
from interp.concepts import CONCEPTS, Sites, features_of, labels_of
from interp.corpus import Corpus
from interp.harvest import BATCH, activations_at, harvest
from interp.transfer import Twins, shuffled_weights
from models.hookpoints import HookPoint, resid_post
from models.language_model import LanguageModel
from models.tasks.sudoku.board import N_CELLS
from models.tasks.sudoku.task import MASK_ID, SOLUTION
from probes.align import Alignment, ridge_affine
from probes.controls import shuffle_labels
from probes.linear import LinearProbe, fit_logistic

WRONG, DIGIT = CONCEPTS["wrong"], CONCEPTS["digit"]
PAIRS = 600
"""Unlabelled pairs of sites for an affine map."""
AT_TOKEN, BEFORE = "at the digit", "where it was predicted"
MOVED, AFFINE, NATIVE = "moved", "moved, affine", "native"
SHUFFLED, UNTRAINED, INPUT = "shuffled labels", "untrained network", "input only"
DISAGREES, DOUBT = "digit reader disagrees", "the model's own doubt"


@dataclass(frozen=True, eq=False)
class Doubter:
    """A linear reader of written cells: the greater its score, the likelier the digit is wrong."""

    name: str
    point: HookPoint
    place: str
    """``AT_TOKEN`` or ``BEFORE``."""
    probe: LinearProbe
    """Of ``wrong``; or of ``digit``, whose other digits together are then held against the written one."""
    alignment: Alignment | None = None

    def scores(
        self, activation: Float[Tensor, "canvas pos d_model"], tokens: Int[Tensor, "canvas pos"], shift: int
    ) -> Float[Tensor, "canvas cell"]:
        """Returns what it says of every cell of canvases, from the activations of all their positions."""
        first = SOLUTION.start - (shift if self.place == BEFORE else 0)
        x = activation[:, first : first + N_CELLS]
        said = self.probe.scores(x if self.alignment is None else self.alignment(x))
        if self.probe.heads == WRONG.heads:
            return said[..., 0]
        digit = (tokens[:, SOLUTION] - 1).clamp(0, said.shape[-1] - 1)
        return -said.log_softmax(-1).gather(-1, digit[..., None])[..., 0]


@torch.no_grad()
def doubts(model: LanguageModel, tokens: Int[Tensor, "canvas pos"], doubters: Sequence[Doubter]) -> list[Float[Tensor, "canvas cell"]]:
    """Returns what each reader says of every cell of the canvases; the last is the model's own doubt: minus its log-probability."""
    points = list(dict.fromkeys(one.point for one in doubters))
    parts = []
    for canvases in tokens.split(BATCH):
        logits, cache = model.run_with_cache(canvases, points)
        log_p = logits.index_fill(-1, torch.tensor([MASK_ID]), -torch.inf).log_softmax(-1)[:, SOLUTION]
        own = -log_p.gather(-1, canvases[:, SOLUTION, None])[..., 0]
        parts.append([*(one.scores(cache[one.point], canvases, model.facts.logit_shift) for one in doubters), own])
    return [torch.cat(columns) for columns in zip(*parts, strict=True)]


Activations = Mapping[HookPoint, Float[Tensor, "row d_model"]]


@dataclass(frozen=True)
class Learned:
    """Sites on fit boards, and a model's activations there, by place."""

    sites: Sites
    at: Mapping[str, Activations]


def learned(model: LanguageModel, mistaken: Mistaken, most: int, seed: int) -> Learned:
    """Returns drawn written cells of canvases with the activations at their tokens and, of a masked model, where they are predicted."""
    rows, cells = drawn_cells(mistaken, most, seed)
    sites, points = mistaken.sites(rows, cells), [resid_post(layer) for layer in range(model.n_layers)]
    shift = {AT_TOKEN: model.facts.logit_shift} | ({} if mistaken.causal else {BEFORE: 0})
    return Learned(sites, {place: activations_at(model, mistaken.tokens, rows, sites.position + by, points) for place, by in shift.items()})


@dataclass(frozen=True)
class Fitted:
    """Readers of the diffusion twin, and what they were fitted on."""

    doubters: list[Doubter]
    """Of each layer and place the causal twin's as it is, through an affine map, and fitted on shuffled labels; and one fitted there.
    Where digits are predicted, also the causal twin's reader of the solution's digit."""
    untrained: list[Doubter]
    """Of a network with shuffled weights."""
    visible: LinearProbe
    """Of the concept's input-only features."""
    canvases: Mistaken
    """The diffusion twin's."""
    gap: Mapping[tuple[HookPoint, str], float]
    """Distance between the means of activations where the digit is wrong and where it is right, by hook point and place."""


def fit_doubters(twins: Twins, corpus: Corpus, most: int, seed: int) -> Fitted:
    """Returns readers fitted on the boards of a corpus, on at most ``most`` wrong and as many right cells of each canvas.

    A causal canvas, of which there are fewer, gives four times as many.
    """
    ar, diffusion = twins.ar, twins.diffusion
    canvases, noise = mistaken_for(diffusion, corpus, seed), shuffled_weights(diffusion, seed)
    base, there = learned(ar, mistaken_for(ar, corpus, seed), most * 4, seed), learned(diffusion, canvases, most, seed)
    labels = labels_of(WRONG, there.sites)
    visible = torch.from_numpy(features_of(WRONG)(there.sites))
    wrong = labels[:, 0]
    return Fitted(
        [*_moved(twins, base, seed), *_native(NATIVE, diffusion, there), *_digit_readers(ar, corpus, most, seed)],
        list(_native(UNTRAINED, noise, learned(noise, canvases, most, seed))),
        fit_logistic(visible, labels, heads=WRONG.heads, fitted_on="visible tokens"),
        canvases,
        {(point, place): float((x[wrong].mean(0) - x[~wrong].mean(0)).norm()) for place, at in there.at.items() for point, x in at.items()},
    )


def _probe(x: Tensor, labels: Tensor, heads: Sequence[str], model: LanguageModel, point: HookPoint) -> LinearProbe:
    return fit_logistic(x, labels, heads=heads, fitted_on=f"{model.fingerprint}@{point}")


def _moved(twins: Twins, base: Learned, seed: int) -> Iterator[Doubter]:
    truth, shift = labels_of(WRONG, base.sites), twins.diffusion.facts.logit_shift
    pairs = torch.randperm(len(truth), generator=torch.Generator().manual_seed(seed))[:PAIRS]
    same, row = base.sites.rows(pairs), torch.arange(len(pairs))
    points = list(base.at[AT_TOKEN])
    views = {
        place: activations_at(twins.diffusion, same.seen, row, same.position + by, points) for place, by in ((AT_TOKEN, shift), (BEFORE, 0))
    }
    for point, x in base.at[AT_TOKEN].items():
        probe, shuffled = (_probe(x, y, WRONG.heads, twins.ar, point) for y in (truth, shuffle_labels(truth, seed)))
        for place, seen in views.items():
            yield Doubter(MOVED, point, place, probe)
            yield Doubter(AFFINE, point, place, probe, ridge_affine(seen[point], x[pairs]))
            yield Doubter(SHUFFLED, point, place, shuffled)


def _native(name: str, model: LanguageModel, there: Learned) -> Iterator[Doubter]:
    labels = labels_of(WRONG, there.sites)
    for place, at in there.at.items():
        for point, x in at.items():
            yield Doubter(name, point, place, _probe(x, labels, WRONG.heads, model, point))


def _digit_readers(ar: LanguageModel, corpus: Corpus, most: int, seed: int) -> Iterator[Doubter]:
    found = harvest(ar, corpus, [resid_post(layer) for layer in range(ar.n_layers)], sites_per_canvas=most, seed=seed)
    labels = labels_of(DIGIT, found.sites)
    for point, x in found.activations.items():
        yield Doubter(DISAGREES, point, BEFORE, _probe(x, labels, DIGIT.heads, ar, point))


def visible_doubt(probe: LinearProbe, mistaken: Mistaken) -> Float[Tensor, "canvas cell"]:
    """Returns what a reader of visible tokens says of every written cell, without any network; 0 elsewhere."""
    rows, cells = torch.nonzero(mistaken.written, as_tuple=True)
    said = torch.zeros(mistaken.written.shape)
    said[rows, cells] = probe.scores(torch.from_numpy(features_of(WRONG)(mistaken.sites(rows, cells))))[:, 0]
    return said
