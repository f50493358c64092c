"""Readers fitted on the causal twin, moved to the diffusion twin grown from it, between their floors and their ceiling."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.concepts import INPUT_FEATURES, Concept, Sites, labels_of
from interp.corpus import Corpus
from interp.harvest import MASK_RATES, Harvest, activations_at, harvest
from interp.report import Estimate, ModelEntry, ProbeEntry
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from probes.align import ALIGNMENTS, Alignment
from probes.controls import shuffle_labels
from probes.linear import LinearProbe, fit_logistic
from probes.metrics import Interval, bootstrap_auc, bootstrap_mean


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
class TransferData:
    """Every activation that the transfer of a reader is judged by."""

    ar: Split
    diffusion: Split
    untrained: Split | None
    """The diffusion twin's network with the entries of each weight tensor shuffled; None where it was not asked for."""
    paired_ar: dict[HookPoint, Float[Tensor, "row d_model"]]
    """The causal twin's activations at the sites of ``diffusion.fit``: unlabelled pairs for alignment maps."""
    fingerprints: dict[str, str]


def shuffled_weights(model: LanguageModel, seed: int) -> LanguageModel:
    """Returns a network of the same shape whose weight tensors keep their values in random order: the untrained floor."""
    module = copy.deepcopy(model.module)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return LanguageModel(f"{model.name}-shuffled", module, model.facts)


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
            harvest(model, corpus.sequences, corpus.asked, points, sites_per_canvas=sites_per_canvas, seed=seed + offset)
            for offset, corpus in enumerate((fit, test))
        )
        splits[name] = Split(*parts)
        on_model(done, len(models) + 1)
    sites = splits["diffusion"].fit.sites
    paired = activations_at(twins.ar, fit.sequences, sites.sample, sites.position, points)
    on_model(len(models) + 1, len(models) + 1)
    fingerprints = {name: model.fingerprint for name, model in models.items()}
    return TransferData(splits["ar"], splits["diffusion"], splits.get("untrained"), paired, fingerprints)


def estimate(interval: Interval) -> Estimate:
    """Returns a report's form of an interval."""
    return Estimate(value=interval.value, low=interval.low, high=interval.high, n=interval.n)


def model_entry(model: LanguageModel) -> ModelEntry:
    """Returns a report's form of a model."""
    return ModelEntry(name=model.name, parameters=model.n_parameters, facts=asdict(model.facts))


def alignment_at(data: TransferData, point: HookPoint, name: str) -> Alignment:
    """Returns the named map from the diffusion twin's activations to the causal twin's, fitted without labels."""
    return ALIGNMENTS[name](data.diffusion.fit.activations[point], data.paired_ar[point])


def fit_reader(data: TransferData, which: str, concept: Concept, point: HookPoint, *, shuffle_seed: int | None = None) -> LinearProbe:
    """Returns a logistic probe of a concept fitted on one model's fit puzzles; ``shuffle_seed`` gives it labels of other rows."""
    split: Split = getattr(data, which)
    labels = labels_of(concept, split.fit.sites)
    if shuffle_seed is not None:
        labels = shuffle_labels(labels, shuffle_seed)
    return fit_logistic(split.fit.activations[point], labels, heads=concept.heads, fitted_on=f"{data.fingerprints[which]}@{point}")


def _judge(probe: LinearProbe, x: Tensor, labels: Tensor, sites: Sites, seed: int) -> Estimate:
    return estimate(bootstrap_auc(probe.scores(x), labels, sites.group, seed=seed))


def input_baseline(data: TransferData, concept: Concept, seed: int) -> Estimate:
    """Returns the score of the same reader given the visible tokens that one look-up could fetch, and no network."""
    features = INPUT_FEATURES[concept.task]
    fit, test = data.diffusion.fit.sites, data.diffusion.test.sites
    probe = fit_logistic(torch.from_numpy(features(fit)), labels_of(concept, fit), heads=concept.heads, fitted_on="visible tokens")
    return _judge(probe, torch.from_numpy(features(test)), labels_of(concept, test), test, seed)


def _all_right(probe: LinearProbe, x: Tensor, labels: Tensor, sites: Sites, seed: int) -> Estimate:
    return estimate(bootstrap_mean(((probe.scores(x) > 0) == labels).all(1), sites.group, seed=seed))


def _untrained_floor(data: TransferData, concept: Concept, point: HookPoint, seed: int) -> Estimate:
    if data.untrained is None:
        raise TransferError("a transfer entry needs its untrained floor; collect the data with untrained=True")
    test = data.untrained.test
    return _judge(fit_reader(data, "untrained", concept, point), test.activations[point], labels_of(concept, test.sites), test.sites, seed)


def _transfer_one(data: TransferData, concept: Concept, point: HookPoint, baseline: Estimate, seed: int) -> ProbeEntry:
    reader, ar, diffusion = fit_reader(data, "ar", concept, point), data.ar.test, data.diffusion.test
    x = diffusion.activations[point]
    readings: dict[str, tuple[LinearProbe, Tensor, Sites]] = {
        "ar_on_ar": (reader, ar.activations[point], ar.sites),
        "zero_shot": (reader, x, diffusion.sites),
        "mean_shift": (reader, alignment_at(data, point, "mean_shift")(x), diffusion.sites),
        "affine": (reader, alignment_at(data, point, "ridge_affine")(x), diffusion.sites),
        "native": (fit_reader(data, "diffusion", concept, point), x, diffusion.sites),
        "shuffled": (fit_reader(data, "ar", concept, point, shuffle_seed=seed), x, diffusion.sites),
    }
    labels = {id(sites): labels_of(concept, sites) for sites in (ar.sites, diffusion.sites)}
    scores = {name: _judge(probe, moved, labels[id(sites)], sites, seed) for name, (probe, moved, sites) in readings.items()}
    parts = {f"{rate:g}": diffusion.at_mask_rate(rate) for rate in MASK_RATES}
    untrained, zero_shot = _untrained_floor(data, concept, point, seed), scores["zero_shot"]
    return ProbeEntry(
        concept=concept.name,
        hook_point=str(point),
        layer=-1 if point.layer is None else point.layer,
        heads=len(concept.heads),
        **scores,
        untrained=untrained,
        input_only=baseline,
        all_right={name: _all_right(probe, moved, labels[id(sites)], sites, seed) for name, (probe, moved, sites) in readings.items()},
        zero_shot_by_mask_rate={
            name: _judge(reader, part.activations[point], labels_of(concept, part.sites), part.sites, seed) for name, part in parts.items()
        },
        beats_floors=zero_shot.low > max(scores["shuffled"].high, untrained.high),
        beats_input=zero_shot.low > baseline.high,
    )


def transfer_table(data: TransferData, concepts: Sequence[Concept], points: Sequence[HookPoint], *, seed: int = 0) -> Iterator[ProbeEntry]:
    """Yields one entry a concept and hook point: the AR-fitted probe on both twins, every alignment, floors and ceiling."""
    for concept in concepts:
        baseline = input_baseline(data, concept, seed)
        for point in points:
            yield _transfer_one(data, concept, point, baseline, seed)
