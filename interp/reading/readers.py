"""Readers: probes of the causal twin moved to the diffusion twin and calibrated there, their ceiling and their floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from interp.concepts import Concept, labels_of
from interp.harvest import Harvest
from interp.reading.calibration import ALPHA, UNCALIBRATED, Calibration, fit_calibration, measured, platt
from interp.scoring import Said
from interp.transfer import TransferData, alignment_at, fit_reader
from models.hookpoints import HookPoint
from probes.align import ALIGNMENTS, Alignment
from probes.controls import random_directions
from probes.linear import LinearProbe

Source = Literal["ar", "diffusion", "random"]
SOURCES: tuple[Source, ...] = get_args(Source)


class ReadingError(ValueError):
    """Readers, or a trajectory, that cannot be used."""


@dataclass(frozen=True)
class Reader:
    """A probe made ready for the diffusion twin: moved there and calibrated."""

    concept: Concept
    point: HookPoint
    probe: LinearProbe
    """Reads raw activations of ``reads``; its sigmoid is a probability that is right on average over a run."""
    reads: str
    """Fingerprint of the model it reads."""
    exact: float
    """Share of sites with every head right, on boards that nothing was fitted or chosen on."""
    source: Source = "ar"
    """The twin that its directions were learned on, or ``random`` for a control."""
    alignment: str = "identity"
    """The map that it was moved with: a name in ``ALIGNMENTS``."""
    calibration: Calibration = UNCALIBRATED
    """What the probe's scores mean by how much is unwritten."""

    @property
    def name(self) -> str:
        """Where it came from and where it reads."""
        kind = self.probe.kind if self.source == "random" else f"{self.source} {self.probe.kind}"
        return f"{kind} {self.concept.name} @ {self.point}"

    @property
    def heads(self) -> tuple[str, ...]:
        """What each head reads."""
        return self.concept.heads

    def probabilities(self, x: Float[Tensor, "row d_model"], share: Float[Tensor, " row"] | None = None) -> Float[Tensor, "row head"]:
        """Returns the probability of each head where this share of the canvas is unwritten; on average over a run without it."""
        return self.probe.probabilities(x) if share is None else torch.sigmoid(self.calibration.logits(self.probe.scores(x), share))

    def claims(self, probabilities: Float[Tensor, "*row head"], share: Float[Tensor, "*row"]) -> Tensor:
        """Returns which heads are claimed, given ``probabilities`` at these shares."""
        return self.calibration.claims(probabilities, share, exclusive=self.concept.exclusive)


@dataclass(frozen=True)
class Halves:
    """Held-out sites of the diffusion twin in two halves, by board."""

    fit: Harvest
    """Readers are calibrated and chosen here."""
    test: Harvest
    """Their rates are measured here."""

    @classmethod
    def of(cls, held_out: Harvest, seed: int = 0) -> Halves:
        """Returns held-out sites, their boards dealt at random.

        Raises:
            ReadingError: Where they are of one board only.
        """
        groups = torch.unique(held_out.sites.group)
        if len(groups) < 2:
            raise ReadingError(
                f"the held-out sites are of {len(groups)} board; it takes some boards to calibrate on and others to measure on"
            )
        order = groups[torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))]
        first = torch.isin(held_out.sites.group, order[: (len(order) + 1) // 2])
        return cls(held_out.rows(first), held_out.rows(~first))


def _moved(probe: LinearProbe, alignment: Alignment) -> LinearProbe:
    """Returns the probe of ``alignment(x)`` as a probe of ``x``."""
    weight = probe.weight @ alignment.matrix.T
    return replace(probe, weight=weight, bias=probe.bias + probe.weight @ alignment.offset)


def calibrate(reader: Reader, halves: Halves, alpha: float = ALPHA) -> Reader:
    """Returns the reader calibrated on one half of the held-out sites and measured on the other.

    The ranking of a moved probe survives better than its threshold, which drifts with the space it is moved to. So each head's score is
    rescaled to log odds over all shares of unwritten positions, which the probe keeps, and then by bands of them.
    """
    concept, point, exclusive = reader.concept, reader.point, reader.concept.exclusive
    said = _said(reader.probe, halves.fit, concept, point)
    scale, offset = (part.float() for part in platt(said.logits, said.labels))
    probe = replace(reader.probe, weight=reader.probe.weight * scale[:, None], bias=reader.probe.bias * scale + offset)
    calibration = fit_calibration(_said(probe, halves.fit, concept, point), exclusive=exclusive, alpha=alpha)
    unseen = _said(probe, halves.test, concept, point)
    right = (calibration.logits(unseen.logits, unseen.sites.mask_rate) > 0) == unseen.labels
    rates = measured(calibration, unseen, exclusive=exclusive)
    return replace(reader, probe=probe, calibration=rates, exact=right.all(1).double().mean().item())


def _said(probe: LinearProbe, at: Harvest, concept: Concept, point: HookPoint) -> Said:
    return Said.by(probe, at.activations[point], labels_of(concept, at.sites), at.sites)


def _loss(reader: Reader, halves: Halves) -> float:
    """Returns the mean log loss of the calibrated reader's heads on the half that it was calibrated on, in nats."""
    said = _said(reader.probe, halves.fit, reader.concept, reader.point)
    logits = reader.calibration.logits(said.logits, said.sites.mask_rate)
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, said.labels.float()).item()


def best_reader(
    data: TransferData,
    concept: Concept,
    points: Sequence[HookPoint],
    *,
    source: Literal["ar", "diffusion"] = "ar",
    alignments: Sequence[str] = tuple(ALIGNMENTS),
    halves: Halves | None = None,
    alpha: float = ALPHA,
) -> Reader:
    """Returns the calibrated reader of a concept at the hook point, and by the alignment, where it has the least log loss.

    Args:
        data: Harvests to fit on.
        concept: What to read.
        points: Where to try.
        source: ``ar`` for a probe of the causal twin moved over, ``diffusion`` for one fitted natively, which no map moves.
        alignments: How to try to move a probe of the causal twin.
        halves: Held-out sites; only the half to fit on chooses. None is those of ``data.diffusion.test``.
        alpha: The false-alarm rate to set thresholds for.
    """
    halves = Halves.of(data.diffusion.test) if halves is None else halves
    readers = []
    for point in points:
        probe = fit_reader(data, source, concept, point)
        for name in alignments if source == "ar" else ("identity",):
            moved = _moved(probe, alignment_at(data, point, name)) if source == "ar" else probe
            reader = Reader(concept, point, moved, data.fingerprints["diffusion"], float("nan"), source, name)
            readers.append(calibrate(reader, halves, alpha))
    return min(readers, key=lambda reader: _loss(reader, halves))


def random_reader(reader: Reader, data: TransferData, seed: int, *, halves: Halves | None = None, alpha: float = ALPHA) -> Reader:
    """Returns the control of a reader: random directions at its hook point in place of the probe's, calibrated the same way."""
    halves = Halves.of(data.diffusion.test) if halves is None else halves
    directions = random_directions(len(reader.probe.weight), reader.probe.d_model, seed)
    probe = replace(reader.probe, weight=directions, bias=torch.zeros(len(directions)), kind="random")
    return calibrate(replace(reader, probe=probe, source="random", alignment="identity"), halves, alpha)


def reader_sets(
    data: TransferData,
    concepts: Sequence[Concept],
    points: Sequence[HookPoint],
    *,
    held_out: Harvest | None = None,
    sources: Sequence[Source] = SOURCES,
    alignments: Sequence[str] = tuple(ALIGNMENTS),
    alpha: float = ALPHA,
    seed: int = 0,
) -> dict[Source, dict[str, Reader]]:
    """Returns by source and concept the readers to compare, all calibrated in one way on the same sites.

    ``ar`` are probes of the causal twin moved over, ``diffusion`` native ones (the ceiling), ``random`` are random directions where the
    moved ones read (the floor).

    Args:
        data: Harvests to fit on.
        concepts: What to read.
        points: Where to try.
        held_out: Sites of the diffusion twin on other boards, half of them to calibrate and choose on and half to measure rates on; None
            is ``data.diffusion.test``. Sites of runs (``harvest_runs``) make thresholds that hold in runs of that policy.
        sources: Which to make.
        alignments: How to try to move probes of the causal twin.
        alpha: The false-alarm rate to set thresholds for.
        seed: Of the halves and the random directions.

    Raises:
        CalibrationError: Where the held-out sites are too few.
    """
    halves = Halves.of(data.diffusion.test if held_out is None else held_out, seed)

    def made(source: Source, concept: Concept) -> Reader:
        if source == "random":
            return random_reader(made("ar", concept), data, seed, halves=halves, alpha=alpha)
        if (source, concept.name) not in known:
            reader = best_reader(data, concept, points, source=source, alignments=alignments, halves=halves, alpha=alpha)
            known[source, concept.name] = reader
        return known[source, concept.name]

    known: dict[tuple[Source, str], Reader] = {}
    return {source: {concept.name: made(source, concept) for concept in concepts} for source in sources}
