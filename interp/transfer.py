"""Readers fitted on the causal twin, moved to the diffusion twin grown from it, between their floors and their ceiling."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.concepts import Concept, labels_of
from interp.corpus import Corpus
from interp.harvest import Harvest, activations_at, harvest
from interp.report import ModelEntry, ProbeEntry
from interp.scoring import Asked, Penalties, Probes, Question, Said, entries, fit_readers, input_only, question_of
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from probes.align import ALIGNMENTS, Alignment
from probes.controls import shuffle_labels
from probes.linear import LinearProbe, fit_logistic
from probes.refit import refit

SHARES = (0.001, 0.01, 0.1)
"""Of the labelled sites of the diffusion twin, for readers that are refitted there."""
MOST_PAIRS = 2000
PAIRS = (100, 1000)
"""Of the unlabelled pairs of sites, for affine maps that are fitted on few."""


class TransferError(ValueError):
    """Models that are no twins, or data that lack a floor."""


@dataclass(frozen=True)
class Twins:
    """A causal model and the masked-diffusion model grown from it, of one shape and vocabulary."""

    ar: LanguageModel
    diffusion: LanguageModel

    def __post_init__(self) -> None:
        if self.ar.facts.objective != "causal" or self.diffusion.facts.objective != "masked":
            raise TransferError(
                f"twins are a causal and a masked model; got {self.ar.name} ({self.ar.facts.objective}) and "
                f"{self.diffusion.name} ({self.diffusion.facts.objective})"
            )
        shapes = [(model.facts.task, model.n_layers, model.d_model) for model in (self.ar, self.diffusion)]
        if shapes[0] != shapes[1]:
            raise TransferError(f"twins have one task and shape; {self.ar.name} has {shapes[0]} and {self.diffusion.name} {shapes[1]}")


@dataclass(frozen=True)
class Split:
    """What was harvested from puzzles to fit on, and from others to test on."""

    fit: Harvest
    test: Harvest


@dataclass(frozen=True)
class Pairs:
    """Unlabelled activations of both models of the same places of the same views, for alignment maps, a row a pair.

    A causal model at position p sees what comes before; so the masked one is shown just that, with everything asked for from p on masked.
    Where the two see different parts of a sequence, a map between their activations mixes what they represent with what they see.
    """

    ar: dict[HookPoint, Float[Tensor, "pair d_model"]]
    diffusion: dict[HookPoint, Float[Tensor, "pair d_model"]]


@dataclass(frozen=True)
class TransferData:
    """Every activation that the transfer of a reader is judged by."""

    ar: Split
    diffusion: Split
    untrained: Split | None
    """The diffusion twin's network with the entries of each weight tensor shuffled; None where it was not asked for."""
    pairs: Pairs
    fingerprints: dict[str, str]


def shuffled_weights(model: LanguageModel, seed: int) -> LanguageModel:
    """Returns a network of the same shape whose weight tensors keep their values in random order: the untrained floor."""
    module = copy.deepcopy(model.module)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return LanguageModel(f"{model.name}-shuffled", replace(model.network, module=module), model.task)


def collect(
    twins: Twins,
    fit: Corpus,
    test: Corpus,
    points: Sequence[HookPoint],
    *,
    untrained: bool = True,
    sites_per_canvas: int = 6,
    seed: int = 0,
    on_model: Callable[[int, int], None] = lambda done, total: None,
) -> TransferData:
    """Returns activations of both twins and (if asked) of an untrained network on two disjoint sets of puzzles.

    Args:
        twins: The pair.
        fit: Puzzles or texts that readers and maps are fitted on.
        test: Others that they are scored on.
        points: Hook points.
        untrained: Whether to harvest the untrained floor as well.
        sites_per_canvas: See ``harvest``.
        seed: Of masks, draws and the untrained network.
        on_model: Told (models harvested, total).
    """
    models = {"ar": twins.ar, "diffusion": twins.diffusion} | ({"untrained": shuffled_weights(twins.diffusion, seed)} if untrained else {})
    splits: dict[str, Split] = {}
    for done, (name, model) in enumerate(models.items(), start=1):
        parts = (
            harvest(model, corpus, points, sites_per_canvas=sites_per_canvas, seed=seed + offset)
            for offset, corpus in enumerate((fit, test))
        )
        splits[name] = Split(*parts)
        on_model(done, len(models) + 1)
    base, seen = same_views(splits["ar"].fit, twins.diffusion, points, seed)
    pairs = Pairs(base.activations, seen)
    on_model(len(models) + 1, len(models) + 1)
    fingerprints = {name: model.fingerprint for name, model in models.items()}
    return TransferData(splits["ar"], splits["diffusion"], splits.get("untrained"), pairs, fingerprints)


def same_views(
    base: Harvest, other: LanguageModel, points: Sequence[HookPoint], seed: int, most: int = MOST_PAIRS
) -> tuple[Harvest, dict[HookPoint, Float[Tensor, "pair d_model"]]]:
    """Returns at most so many drawn sites of a harvest, and another model's activations there where it sees just the same."""
    rows = torch.randperm(len(base.sites), generator=torch.Generator().manual_seed(seed))[:most]
    drawn = base.rows(rows)
    canvases, row = torch.unique(drawn.sites.seen, dim=0, return_inverse=True)
    return drawn, activations_at(other, canvases, row, drawn.sites.position, points)


def model_entry(model: LanguageModel) -> ModelEntry:
    """Returns a report's form of a model."""
    return ModelEntry(name=model.name, parameters=model.n_parameters, facts=asdict(model.facts))


def alignment_at(data: TransferData, point: HookPoint, name: str) -> Alignment:
    """Returns the named map from the diffusion twin's activations to the causal twin's, fitted without labels."""
    return ALIGNMENTS[name](data.pairs.diffusion[point], data.pairs.ar[point])


def fit_reader(data: TransferData, which: str, concept: Concept, point: HookPoint) -> LinearProbe:
    """Returns a logistic probe of a concept fitted on one model's fit puzzles."""
    split: Split = getattr(data, which)
    fitted_on = f"{data.fingerprints[which]}@{point}"
    return fit_logistic(split.fit.activations[point], labels_of(concept, split.fit.sites), heads=concept.heads, fitted_on=fitted_on)


AR_FIT, AR_TEST, FIT, TEST = range(4)
"""Places in the truth of a question that is asked of both twins."""


def questions_of(data: TransferData, concepts: Sequence[Concept]) -> list[Question]:
    """Returns concepts as they are asked of both twins.

    Raises:
        ScoringError: Where a concept is nearly always, or never, true.
    """
    sites = [part.sites for split in (data.ar, data.diffusion) for part in (split.fit, split.test)]
    return [question_of(concept, *sites) for concept in concepts]


def source_probes(data: TransferData, questions: Sequence[Question], point: HookPoint, reader: str) -> Probes:
    """Returns by concept the probes that are to be moved, fitted on the causal twin."""
    labels = {one.concept.name: one.truth[AR_FIT] for one in questions}
    fitted_on = f"{data.fingerprints['ar']}@{point}"
    return fit_readers([reader], data.ar.fit.activations[point], labels, data.ar.fit.sites.group, fitted_on=fitted_on)[reader]


@dataclass(frozen=True)
class How:
    """How readers are fitted and scored."""

    reader: str = "logistic"
    seed: int = 0
    """Of shuffles, draws and intervals."""
    penalties: Penalties = field(default_factory=Penalties)


def _controls(
    data: TransferData,
    untrained: Split,
    questions: Sequence[Question],
    place: tuple[HookPoint, HookPoint],
    how: How,
) -> dict[str, Probes]:
    """Returns by name and concept the probes that the moved ones are held against."""
    point, there = place

    def fitted(which: str, split: Split, at: HookPoint, labels: Mapping[str, Tensor]) -> Probes:
        x, groups, fitted_on = split.fit.activations[at], split.fit.sites.group, f"{data.fingerprints[which]}@{at}"
        return fit_readers([how.reader], x, labels, groups, fitted_on=fitted_on, penalties=how.penalties)[how.reader]

    truth = {one.concept.name: one.truth[FIT] for one in questions}
    shuffled = {one.concept.name: shuffle_labels(one.truth[AR_FIT], how.seed) for one in questions}
    return {
        "native": fitted("diffusion", data.diffusion, there, truth),
        "shuffled": fitted("ar", data.ar, point, shuffled),
        "untrained": fitted("untrained", untrained, there, truth),
    }


def _moved(
    x: Float[Tensor, "row d_model"], source: Float[Tensor, "pair d_model"], target: Float[Tensor, "pair d_model"], seed: int
) -> dict[str, Float[Tensor, "row d_model"]]:
    """Returns the diffusion twin's activations by the alignment that they were moved with; the affine map also as few pairs give it."""
    found = {name: fit(source, target)(x) for name, fit in ALIGNMENTS.items() if name != "identity"}
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
    few = {pairs: order[:pairs] for pairs in PAIRS if pairs < len(source)}
    return found | {f"affine {pairs} pairs": ALIGNMENTS["ridge_affine"](source[rows], target[rows])(x) for pairs, rows in few.items()}


def _refits(x: Tensor, truth: Bool[Tensor, "row head"], probe: LinearProbe, seed: int, fitted_on: str) -> Probes:
    """Returns the causal twin's probe, adjusted on the diffusion twin with a drawn share of the labels; none where heads are classes."""
    if probe.link != "sigmoid":
        return {}
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    drawn = {share: order[: max(1, round(share * len(x)))] for share in SHARES}
    return {f"refit {share:.1%}": refit(probe, x[rows], truth[rows], fitted_on=fitted_on) for share, rows in drawn.items()}


def transfer_point(
    data: TransferData,
    questions: Sequence[Question],
    probes: Probes,
    visible: Mapping[str, Float[Tensor, "row head"]],
    place: tuple[HookPoint, HookPoint],
    how: How,
) -> list[ProbeEntry]:
    """Returns the entries of every concept at one hook point, over all sites and every slice of them (see ``ProbeEntry.scores``).

    Args:
        data: Activations of both twins.
        questions: Of ``questions_of``.
        probes: By concept; their heads are the questions', in order.
        visible: By concept, what a reader of visible tokens says at the diffusion twin's test sites.
        place: Where the probes were fitted, and where the diffusion twin is read.
        how: How the probes were fitted; controls and ceiling are fitted alike.

    Raises:
        TransferError: Where the data lack the untrained floor.
    """
    if data.untrained is None:
        raise TransferError("a transfer entry needs its untrained floor; collect the data with untrained=True")
    point, read_at = place
    controls = _controls(data, data.untrained, questions, place, how)
    ar, there, floor = data.ar.test, data.diffusion.test, data.untrained.test
    x, fit_x = there.activations[read_at], data.diffusion.fit.activations[read_at]
    moved = _moved(x, data.pairs.diffusion[read_at], data.pairs.ar[point], how.seed)
    found: list[ProbeEntry] = []
    for question in questions:
        name, truth = question.concept.name, question.truth[TEST]
        probe = probes[name]
        refits = _refits(fit_x, question.truth[FIT], probe, how.seed, f"{data.fingerprints['diffusion']}@{read_at}")
        readings = {
            "zero_shot": (probe, x),
            **{way: (probe, values) for way, values in moved.items()},
            **{way: (adjusted, x) for way, adjusted in refits.items()},
            "native": (controls["native"][name], x),
            "shuffled": (controls["shuffled"][name], x),
            "untrained": (controls["untrained"][name], floor.activations[read_at]),
        }
        said = {"source": Said.by(probe, ar.activations[point], question.truth[AR_TEST], ar.sites)}
        said |= {way: Said.by(one, values, truth, there.sites) for way, (one, values) in readings.items()}
        said["input_only"] = Said(visible[name], truth, there.sites)
        found += entries(Asked(question, point, how.reader, how.seed, read_at=read_at), said)
    return found


def transfer_entries(
    data: TransferData, concepts: Sequence[Concept], points: Sequence[HookPoint], *, reader: str = "logistic", seed: int = 0
) -> Iterator[list[ProbeEntry]]:
    """Yields for each hook point the entries of every concept, with probes fitted on the causal twin's fit puzzles.

    Raises:
        TransferError: Where the data lack the untrained floor.
        ScoringError: Where a concept is nearly always, or never, true.
    """
    questions = questions_of(data, concepts)
    visible = input_only(questions, data.diffusion.fit.sites, data.diffusion.test.sites, part=FIT)
    for point in points:
        probes = source_probes(data, questions, point, reader)
        yield transfer_point(data, questions, probes, visible, (point, point), How(reader, seed))
