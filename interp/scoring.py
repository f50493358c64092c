"""Readers of concepts fitted on harvested activations, and how well they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.concepts import Concept, Kind, Sites, features_of, labels_of
from interp.report import CEILING, CONTROLS, Estimate, ProbeEntry, Scores
from models.hookpoints import HookPoint
from probes.fitters import FITTERS
from probes.linear import LinearProbe, fit_logistic, log_loss
from probes.logistic import Link
from probes.metrics import Interval, bootstrap_auc, bootstrap_mean, calibration_error
from probes.sweep import fit_sweep

FEWEST = 10
"""A head needs so many sites of either class to be fitted on, and so many to be scored on."""
FEWEST_GROUPS = 5
"""A slice of the sites is scored if it is of at least so many puzzles or documents."""
RATE_WIDTH = 0.2


class ScoringError(ValueError):
    """Sites that no reader can be fitted or scored on."""


@dataclass(frozen=True)
class Question:
    """A concept as it is asked of several sets of sites: the heads that both classes occur for in all of them."""

    concept: Concept
    heads: tuple[str, ...]
    truth: tuple[Bool[Tensor, "_ head"], ...]
    """Of each set of sites."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """The heads of the concept that are not asked."""
        return tuple(head for head in self.concept.heads if head not in self.heads)


def question_of(concept: Concept, *parts: Sites) -> Question:
    """Returns the concept's truth at some sets of sites, less the heads that are nearly always or nearly never true in one of them.

    Raises:
        ScoringError: Where no head is left.
    """
    truth = [labels_of(concept, sites) for sites in parts]
    asked = torch.stack([(part.sum(0) >= FEWEST) & ((~part).sum(0) >= FEWEST) for part in truth]).all(0)
    if not asked.any():
        counts = ", ".join(f"{head} ({count} of {len(truth[0])})" for head, count in zip(concept.heads, truth[0].sum(0), strict=True))
        raise ScoringError(
            f"no head of the concept {concept.name!r} is true at {FEWEST} sites and false at {FEWEST}, to fit on as well as to score on: "
            f"{counts[:200]}{'; it is defined in a denoising run only' if concept.of_a_run else ''}"
        )
    heads = tuple(head for head, kept in zip(concept.heads, asked.tolist(), strict=True) if kept)
    return Question(concept, heads, tuple(part[:, asked] for part in truth))


EXCLUSIVE_ONLY = ("multinomial",)
"""Readers that choose between classes, and so read exclusive concepts only."""


def reads(reader: str, concept: Concept) -> bool:
    """Returns whether a reader can read a concept."""
    return concept.exclusive or reader not in EXCLUSIVE_ONLY


Probes = dict[str, LinearProbe]
"""By concept, or by any other name of a set of labels."""


@dataclass(frozen=True)
class Penalties:
    """What logistic readers are penalised by: of several, each head takes the best on a fifth of the groups, and is fitted on all again."""

    l2: tuple[float, ...] = (1e-3,)

    def of_heads(self, x: Float[Tensor, "row d_model"], y: Bool[Tensor, "row head"], groups: Int[Tensor, " row"]) -> Float[Tensor, " head"]:
        """Returns each head's penalty; a head that one class of is missing in either part takes the greatest."""
        chosen = torch.full((y.shape[1],), max(self.l2))
        if len(self.l2) > 1:
            held_out = groups % 5 == 0
            both = torch.stack([part.any(0) & ~part.all(0) for part in (y[held_out], y[~held_out])]).all(0)
            if both.any():
                y = y[:, both]
                heads, rest = tuple(map(str, range(y.shape[1]))), [(x[held_out], y[held_out])]
                fits = (fit_logistic(x[~held_out], y[~held_out], heads=heads, fitted_on="", l2=l2) for l2 in self.l2)
                losses = torch.stack([log_loss(probe, rest) for probe in fits])
                chosen[both] = torch.tensor(self.l2)[losses.argmin(0)]
        return chosen


def fit_readers(
    readers: Sequence[str],
    x: Float[Tensor, "row d_model"],
    labels: Mapping[str, Bool[Tensor, "row head"]],
    groups: Int[Tensor, " row"],
    *,
    fitted_on: str,
    penalties: Penalties = Penalties(),
) -> dict[str, Probes]:
    """Returns by reader a probe for each named set of labels of the same rows, with heads ``0``, ``1``, ...

    Where heads are independent all are fitted together, and what comes out does not depend on the others. A reader that chooses between
    classes is fitted on the rows that are of one of them. ``groups`` are the puzzles or documents of the rows.
    """
    found: dict[str, Probes] = {}
    counts = {name: part.shape[1] for name, part in labels.items()}
    heads = {name: tuple(f"{name}: {head}" for head in range(count)) for name, count in counts.items()}
    own = {name: tuple(map(str, range(count))) for name, count in counts.items()}
    together = [reader for reader in readers if reader not in EXCLUSIVE_ONLY]
    if together and labels:
        y = torch.cat(list(labels.values()), dim=1)
        every = [head for part in heads.values() for head in part]
        options = {"logistic": {"l2": penalties.of_heads(x, y, groups)}} if "logistic" in together else None
        sweep = fit_sweep({fitted_on: [(x, y)]}, heads=every, fitted_on={fitted_on: fitted_on}, kinds=together, options=options)
        for reader in together:
            probe = sweep.at(fitted_on, reader)
            found[reader] = {name: replace(probe.only(part), heads=own[name]) for name, part in heads.items()}
    for reader in set(readers) - set(together):
        found[reader] = {}
        for name, part in labels.items():
            classed = part.any(1)
            probe = FITTERS[reader](x[classed], part[classed], heads=heads[name], fitted_on=fitted_on)
            found[reader][name] = replace(probe, heads=own[name])
    return found


def input_only(questions: Sequence[Question], fit: Sites, test: Sites, *, part: int) -> dict[str, Float[Tensor, "row head"]]:
    """Returns by concept what a logistic reader of the visible tokens says at the test sites: no network, one look-up.

    ``part`` is the place of the fit sites in the questions' truth.
    """
    said: dict[str, Tensor] = {}
    for features in dict.fromkeys(features_of(one.concept) for one in questions):
        asked = {one.concept.name: one.truth[part] for one in questions if features_of(one.concept) is features}
        probes = fit_readers(["logistic"], torch.from_numpy(features(fit)), asked, fit.group, fitted_on="visible tokens")["logistic"]
        there = torch.from_numpy(features(test))
        said |= {name: probe.scores(there) for name, probe in probes.items()}
    return said


def estimate(interval: Interval) -> Estimate:
    """Returns a report's form of an interval."""
    return Estimate(value=interval.value, low=interval.low, high=interval.high, n=interval.n)


def rate_bin(mask_rate: Float[Tensor, " row"]) -> Int[Tensor, " row"]:
    """Returns which fifth of 0 to 1 each mask rate lies in; its middle is ``(bin + .5) * RATE_WIDTH``."""
    return (mask_rate / RATE_WIDTH).floor().long().clamp(0, round(1 / RATE_WIDTH) - 1)


@dataclass(frozen=True)
class Said:
    """What a reader says at some sites, and the truth there."""

    logits: Float[Tensor, "row head"]
    labels: Bool[Tensor, "row head"]
    sites: Sites
    link: Link = "sigmoid"
    """What makes probabilities of the logits."""

    @classmethod
    def by(cls, probe: LinearProbe, x: Float[Tensor, "row d_model"], labels: Bool[Tensor, "row head"], sites: Sites) -> Said:
        """Returns what a probe says of activations."""
        return cls(probe.scores(x), labels, sites, probe.link)

    def rows(self, keep: Bool[Tensor, " row"]) -> Said:
        """Returns some of the rows."""
        return Said(self.logits[keep], self.labels[keep], self.sites.rows(keep), self.link)

    @property
    def probabilities(self) -> Float[Tensor, "row head"]:
        """That each head is true."""
        return self.logits.sigmoid() if self.link == "sigmoid" else self.logits.softmax(1)


def score(said: Said, *, exclusive: bool = False, seed: int = 0) -> Scores:
    """Returns how well a reader tells the truth, with intervals that resample groups."""
    probabilities, labels, groups = said.probabilities, said.labels, said.sites.group
    ranked = said.logits if said.link == "sigmoid" else said.logits.log_softmax(1)
    right = (probabilities > 0.5) == labels
    exact = labels.gather(1, said.logits.argmax(1, keepdim=True))[:, 0] if exclusive else right.all(1)
    rates = rate_bin(said.sites.mask_rate)
    all_rates = bootstrap_auc(ranked, labels, groups, seed=seed)
    return Scores(
        auc=estimate(all_rates),
        matched=estimate(bootstrap_auc(ranked, labels, groups, strata=rates, seed=seed) if (rates != rates[0]).any() else all_rates),
        accuracy=estimate(bootstrap_mean(right.double().mean(1), groups, seed=seed)),
        calibration=float(calibration_error(probabilities, labels).mean()),
        exact=estimate(bootstrap_mean(exact, groups, seed=seed)),
    )


@dataclass(frozen=True)
class Slice:
    """Some of the sites: those of a mask rate, a kind of position, a network call. None is all."""

    mask_rate: float | None = None
    kind: str | None = None
    step: int | None = None

    def keeps(self, sites: Sites) -> Bool[Tensor, " row"]:
        """Returns which sites are in it."""
        kept = torch.ones(len(sites), dtype=torch.bool)
        if self.mask_rate is not None:
            kept &= rate_bin(sites.mask_rate) == rate_bin(torch.tensor([self.mask_rate]))
        if self.kind is not None:
            kept &= sites.kind == Kind[self.kind.upper()]
        return kept if self.step is None else kept & (sites.step == self.step)


def slices(sites: Sites) -> list[Slice]:
    """Returns the slice of all sites, then one for each mask rate, kind of position and network call, where there are several."""
    rates, kinds, steps = (torch.unique(column).tolist() for column in (rate_bin(sites.mask_rate), sites.kind, sites.step))
    return [
        Slice(),
        *(Slice(mask_rate=round((rate + 0.5) * RATE_WIDTH, 3)) for rate in rates if len(rates) > 1),
        *(Slice(kind=Kind(kind).name.lower()) for kind in kinds if len(kinds) > 1),
        *(Slice(step=step) for step in steps if len(steps) > 1),
    ]


@dataclass(frozen=True)
class Asked:
    """What was asked where, of whom."""

    question: Question
    point: HookPoint
    reader: str
    seed: int
    fitted_at: float | None = None
    read_at: HookPoint | None = None


def entries(asked: Asked, said: Mapping[str, Said]) -> list[ProbeEntry]:
    """Returns the entry of everything that was said about a concept at a hook point, over all sites and over every slice of them.

    ``said`` is by name of the score (see ``ProbeEntry.scores``). A slice is left out where a control has too few puzzles or documents in
    it, or no head of both classes; a score of its own is left out where it has.
    """
    found = []
    question, point = asked.question, asked.point
    for part in slices(said["input_only"].sites):
        scores = {}
        for name, one in said.items():
            keep = part.keeps(one.sites)
            if len(torch.unique(one.sites.group[keep])) >= FEWEST_GROUPS:
                told = score(one.rows(keep), exclusive=question.concept.exclusive, seed=asked.seed)
                if isfinite(told.auc.value) and isfinite(told.matched.value):
                    scores[name] = told
        if set(CONTROLS) <= set(scores) and (CEILING in scores or CEILING not in said):
            found.append(
                ProbeEntry(
                    concept=question.concept.name,
                    reader=asked.reader,
                    hook_point=str(point),
                    read_at=None if asked.read_at in (None, point) else str(asked.read_at),
                    fitted_at=asked.fitted_at,
                    layer=-1 if point.layer is None else point.layer,
                    heads=question.heads,
                    left_out=question.left_out,
                    seed=asked.seed,
                    **asdict(part if asked.fitted_at is None else replace(part, mask_rate=asked.fitted_at)),
                    sites=int(part.keeps(said["input_only"].sites).sum()),
                    scores=scores,
                )
            )
    return found
