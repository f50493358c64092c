"""How far each layer is from what the network says in the end, by lens: native ones, those of the causal twin moved over, and floors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.concepts import INPUT_FEATURES
from interp.corpus import Corpus
from interp.harvest import Harvest, activations_at, harvest
from interp.lens.lenses import Lens, answers, last_point, logit_lens, move_lens
from interp.lens.training import Glance, Schedule, fit_glance, fit_lenses
from interp.scoring import RATE_WIDTH, estimate, rate_bin
from interp.statistics import Measured, Role, Statistic
from interp.transfer import Twins, same_views, shuffled_weights
from models.hookpoints import HookPoint, resid_post
from models.language_model import LanguageModel
from probes.align import ALIGNMENTS
from probes.metrics import Interval, bootstrap_mean, bootstrap_ratio

LOGIT, TUNED, ITSELF = "logit lens", "tuned lens", "the model itself"
SHUFFLED, INPUT, MEAN = "tuned, shuffled weights", "input only", "mean distribution"
AS_IS, MAPPED = "causal tuned, as it is", "causal tuned, mapped"
OWN = ", own read-out"
"""Of a moved lens: ends with the diffusion twin's final norm and unembedding, not with the causal twin's."""
MAPPED_LOGIT = "causal logit, mapped"
ROWS = 1024
"""So many distributions are held at once."""

Lenses = Mapping[HookPoint, Lens]


@dataclass(frozen=True)
class Judged:
    """A network at places of unseen sequences, and the lenses that are judged there by what it says in the end."""

    model: LanguageModel
    places: Harvest
    """With the residual streams of all layers."""
    shuffled: Mapping[HookPoint, Float[Tensor, "row d_model"]]
    """Those of the same network with shuffled weights, below its last layer."""
    lenses: Mapping[str, Lenses]
    """By name; ``SHUFFLED`` reads ``shuffled``."""
    mean: Float[Tensor, " head"]
    """What the network says in the end of the places that lenses are fitted on, averaged: the constant floor."""
    glance: Glance
    """What one affine map makes of the visible tokens: the floor without a network."""

    def read_by(self, name: str) -> Mapping[HookPoint, Float[Tensor, "row d_model"]]:
        """Returns the activations that the lenses of a name read."""
        return self.shuffled if name == SHUFFLED else self.places.activations


def layers_of(model: LanguageModel) -> list[HookPoint]:
    """Returns the residual stream after each block."""
    return [resid_post(layer) for layer in range(model.n_layers)]


def _ends(model: LanguageModel, places: Harvest) -> Iterator[Float[Tensor, "row head"]]:
    """Yields the log probabilities that a network ends with, some rows at a time."""
    lens = logit_lens(model, last_point(model))
    for x in places.activations[lens.point].split(ROWS):
        yield lens.log_probabilities(x)


def _activations_there(model: LanguageModel, places: Harvest, points: Sequence[HookPoint]) -> dict[HookPoint, Float[Tensor, "row d_model"]]:
    """Returns another network's activations where it sees the same; a causal one cannot look ahead, and reads whole sequences."""
    shown = places.sites.seen if model.facts.objective == "masked" else places.sites.truth
    canvases, row = torch.unique(shown, dim=0, return_inverse=True)
    return activations_at(model, canvases, row, places.sites.position, points)


def _own_lenses(model: LanguageModel, known: Harvest, places: Harvest, schedule: Schedule) -> Judged:
    """Returns a network's own lenses and floors, fitted on some places, to be judged at others."""
    *below, last = layers_of(model)
    final = known.activations[last]
    blurred = shuffled_weights(model, schedule.seed)
    fit, test = (_activations_there(blurred, part, below) for part in (known, places))
    lenses = {
        LOGIT: {point: logit_lens(model, point) for point in (*below, last)},
        TUNED: fit_lenses(model, {point: known.activations[point] for point in below}, final, schedule),
        SHUFFLED: fit_lenses(model, fit, final, schedule, reads=blurred.fingerprint),
    }
    total = torch.stack([part.exp().sum(0) for part in _ends(model, known)]).sum(0)
    glance = fit_glance(_visible(model, known), final, model, schedule)
    return Judged(model, places, test, lenses, total / len(final), glance)


def _visible(model: LanguageModel, places: Harvest) -> Float[Tensor, "row feature"]:
    """Returns what the task's readers without a network are given."""
    return torch.from_numpy(INPUT_FEATURES[model.facts.task](places.sites))


def _moved(lenses: Mapping[str, Lenses], known: Harvest, twins: Twins, alignment: str, seed: int) -> dict[str, Lenses]:
    """Returns the causal twin's lenses as ones of the diffusion twin, by name."""
    target, points = twins.diffusion, list(lenses[TUNED])
    drawn, seen = same_views(known, target, points, seed)
    found: dict[str, dict[HookPoint, Lens]] = {name: {} for name in (AS_IS, AS_IS + OWN, MAPPED, MAPPED + OWN, MAPPED_LOGIT)}
    for point in points:
        pair = (seen[point], drawn.activations[point])
        for name, fitter in ((AS_IS, "identity"), (MAPPED, alignment)):
            mapped = ALIGNMENTS[fitter](*pair)
            found[name][point] = move_lens(lenses[TUNED][point], mapped, target)
            found[name + OWN][point] = move_lens(lenses[TUNED][point], mapped, target, readout=target)
        found[MAPPED_LOGIT][point] = move_lens(lenses[LOGIT][point], ALIGNMENTS[alignment](*pair), target)
    return dict(found)


def lenses_of(
    twins: Twins,
    fit: Corpus,
    test: Corpus,
    schedule: Schedule | None = None,
    *,
    alignment: str = "ridge_affine",
    sites_per_canvas: tuple[int, int] = (16, 8),
) -> dict[str, Judged]:
    """Returns by objective (``causal``, ``masked``) all lenses of that twin, and the places of unseen sequences to judge them at.

    The diffusion twin has its own logit and tuned lenses, and the causal twin's as they are and through a map (fitted on sites where both
    see the same), ending with either twin's final norm and unembedding. Floor: lenses trained in the same way on a network with shuffled
    weights, to say what this one says in the end: what can be made of such a view without what was learned.

    Args:
        twins: The pair.
        fit: Sequences that lenses and map are fitted on.
        test: Others.
        schedule: How lenses are trained; its seed is also that of masks, draws and shuffled weights.
        alignment: The map: a name in ``probes.align.ALIGNMENTS``.
        sites_per_canvas: Of ``fit`` and of ``test``; see ``harvest``.
    """
    schedule = schedule or Schedule()
    judged: dict[str, Judged] = {}
    harvests: list[Harvest] = []
    for model in (twins.ar, twins.diffusion):
        parts = [
            harvest(model, corpus, layers_of(model), sites_per_canvas=most, seed=schedule.seed + offset)
            for offset, (corpus, most) in enumerate(zip((fit, test), sites_per_canvas, strict=True))
        ]
        harvests.append(parts[0])
        judged[model.facts.objective] = _own_lenses(model, parts[0], parts[1], schedule)
    own, causal = judged["masked"], judged["causal"]
    moved = _moved(causal.lenses, harvests[0], twins, alignment, schedule.seed)
    return {"causal": causal, "masked": replace(own, lenses={**own.lenses, **moved})}


@dataclass(frozen=True)
class _Rows:
    """What one way of answering gets at every place."""

    nats: Float[Tensor, " row"]
    """KL divergence from what the network says in the end."""
    same: Float[Tensor, " row"]
    """Whether the likeliest answer is the network's."""
    right: Float[Tensor, " row"]
    """Whether it is the truth."""


def _compare(ends: Sequence[Float[Tensor, "_ head"]], said: Iterator[Float[Tensor, "_ head"]], truth: Int[Tensor, " row"]) -> _Rows:
    """Returns how log probabilities compare with those of the end, some rows at a time."""
    nats, same, top = [], [], []
    for wanted, found in zip(ends, said, strict=True):
        nats.append((wanted.exp() * (wanted - found)).sum(1))
        top.append(found.argmax(1))
        same.append(top[-1] == wanted.argmax(1))
    return _Rows(torch.cat(nats), torch.cat(same).float(), (torch.cat(top) == truth).float())


def _rows(judged: Judged) -> Iterator[tuple[str, int, _Rows]]:
    """Yields (line, layer, rows) of every lens; what has no layer is given at all of them."""
    sites, ends = judged.places.sites, list(_ends(judged.model, judged.places))
    heads = torch.tensor(answers(judged.model.facts.task))
    token = sites.truth.gather(1, sites.position[:, None])[:, 0]
    truth = torch.searchsorted(heads, token)
    constant = _compare(ends, (judged.mean.log().expand_as(part) for part in ends), truth)
    itself = _compare(ends, iter(ends), truth)
    visible = _visible(judged.model, judged.places)
    glance = _compare(ends, (judged.glance.log_probabilities(x) for x in visible.split(ROWS)), truth)
    for layer in range(judged.model.n_layers):
        yield MEAN, layer, constant
        yield INPUT, layer, glance
        yield ITSELF, layer, itself
    for name, lenses in judged.lenses.items():
        for point, lens in lenses.items():
            said = (lens.log_probabilities(x) for x in judged.read_by(name)[point].split(ROWS))
            yield name, int(point.layer or 0), _compare(ends, said, truth)


QUANTITIES = {
    "nats": ("lens_kl", "How far is each layer from what the network says in the end?", "KL divergence in nats"),
    "same": ("lens_agreement", "How often does a layer already have the network's own answer?", "share of places"),
    "right": ("lens_accuracy", "How often does a layer have the true answer?", "share of places"),
}
"""By field of ``_Rows``: name, title and unit of its statistic."""
ABOUT = (
    "Each lens reads the residual stream from which a hidden token is predicted, after each block, on unseen sequences with random masks "
    "(causal twin: their prefixes), and answers with a distribution over the possible answers, which is compared with the network's own "
    "at the end, and with the truth. Unwritten: percent of what is asked for that is hidden. Own tuned lens: the ceiling. The causal "
    "twin's lenses are read as they are or through a map fitted without labels, and end with its final norm and unembedding or with the "
    "diffusion twin's own. Floors: the mean distribution; one affine map from the visible tokens to the read-out; and lenses trained "
    "alike on a network with shuffled weights. What a lens finds is readable there; that the network uses it is not shown."
)
ROLES: Mapping[str, Role] = {MEAN: "floor", INPUT: "floor", SHUFFLED: "floor", TUNED: "reference", ITSELF: "reference"}


def _mean(quantity: str, values: Float[Tensor, " row"], groups: Int[Tensor, " row"], seed: int) -> Interval:
    """Returns the mean with its interval; that of a divergence of exactly 0 is no share of successes, and has no width."""
    if quantity == "nats":
        return bootstrap_ratio(values, torch.ones_like(values), groups, seed=seed)
    return bootstrap_mean(values, groups, seed=seed)


def lens_scores(judged: Mapping[str, Judged], seed: int = 0) -> list[Statistic]:
    """Returns KL to the end, agreement with the end, and accuracy, by network, share unwritten (in fifths), lens and layer.

    Args:
        judged: Of ``lenses_of``.
        seed: Of the intervals, which resample boards or documents.
    """
    values: dict[str, list[Measured]] = {quantity: [] for quantity in QUANTITIES}
    for network, one in judged.items():
        bins, group = rate_bin(one.places.sites.mask_rate), one.places.sites.group
        for line, layer, rows in _rows(one):
            for fifth in bins.unique().tolist():
                here = bins == fifth
                at = {"network": network, "percent unwritten": round((fifth + 0.5) * RATE_WIDTH * 100), "lens": line, "layer": layer}
                for quantity in QUANTITIES if line != ITSELF else ("right",):
                    found = _mean(quantity, getattr(rows, quantity)[here], group[here], seed)
                    values[quantity].append(Measured(at=at, estimate=estimate(found)))
    return [
        Statistic(
            name=name,
            title=title,
            about=ABOUT,
            unit=unit,
            panels=("network", "percent unwritten"),
            lines=("lens",),
            x="layer",
            roles={line: role for line, role in ROLES.items() if quantity == "right" or line != ITSELF},
            values=values[quantity],
        )
        for quantity, (name, title, unit) in QUANTITIES.items()
    ]
