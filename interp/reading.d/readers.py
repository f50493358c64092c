"""What moved probes read in a denoising run, at every step and position.

Between steps a masked diffusion model without a cache carries nothing but tokens. So a reading needs no recorded activations: it runs the
model again on the canvases the trajectory recorded, which is exactly what each call saw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp.concepts import CONCEPTS, Concept, labels_of
from interp.harvest import Harvest, activations_at
from interp.transfer import TransferData, alignment_at, fit_reader
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from models.tasks import puzzle_task
from models.trajectory import Trajectory
from probes.align import Alignment
from probes.controls import random_directions
from probes.linear import LinearProbe, fit_logistic, load_probe, save_probe


class ReadingError(ValueError):
    """A trajectory that these readers cannot read."""


@dataclass(frozen=True)
class Reader:
    """A probe of the causal twin made ready for the diffusion twin: moved there and calibrated, one linear map in all."""

    concept: Concept
    point: HookPoint
    probe: LinearProbe
    """Reads raw activations of ``reads``; its sigmoid is a calibrated probability."""
    reads: str
    """Fingerprint of the model it reads."""
    exact: float
    """Share of held-out sites with every head right."""

    @property
    def name(self) -> str:
        """Where it came from and where it reads."""
        return f"{self.probe.kind} {self.concept.name} @ {self.point}"


def _moved(probe: LinearProbe, alignment: Alignment) -> LinearProbe:
    """Returns the probe of ``alignment(x)`` as a probe of ``x``."""
    weight = probe.weight @ alignment.matrix.T
    return replace(probe, weight=weight, bias=probe.bias + probe.weight @ alignment.offset)


def calibrate(probe: LinearProbe, held_out: Harvest, concept: Concept, point: HookPoint) -> LinearProbe:
    """Returns the probe with each head's score rescaled to log odds on held-out sites (Platt 1999): two numbers a head.

    The ranking of a moved probe survives better than its threshold, which drifts with the space it is moved to.
    """
    scores, labels = probe.scores(held_out.activations[point]), labels_of(concept, held_out.sites)
    heads = [
        fit_logistic(scores[:, [head]], labels[:, [head]], heads=[name], fitted_on=probe.fitted_on)
        for head, name in enumerate(concept.heads)
    ]
    scale, offset = torch.cat([head.weight[:, 0] for head in heads]), torch.cat([head.bias for head in heads])
    return replace(probe, weight=probe.weight * scale[:, None], bias=probe.bias * scale + offset)


def _reader(probe: LinearProbe, data: TransferData, concept: Concept, point: HookPoint) -> Reader:
    held_out = data.diffusion.test
    probe = calibrate(probe, held_out, concept, point)
    right = (probe.scores(held_out.activations[point]) > 0) == labels_of(concept, held_out.sites)
    return Reader(concept, point, probe, data.fingerprints["diffusion"], right.all(1).double().mean().item())


def best_reader(
    data: TransferData, concept: Concept, points: Sequence[HookPoint], *, source: str = "ar", alignment: str = "identity"
) -> Reader:
    """Returns the calibrated reader of a concept at the hook point where it gets most held-out sites wholly right.

    Args:
        data: Harvests; calibration and choice use ``diffusion.test``.
        concept: What to read.
        points: Where to try.
        source: ``ar`` for a probe of the causal twin moved over, ``diffusion`` for one fitted natively.
        alignment: How a probe of the causal twin is moved.
    """
    readers = []
    for point in points:
        probe = fit_reader(data, source, concept, point)
        if source == "ar":
            probe = _moved(probe, alignment_at(data, point, alignment))
        readers.append(_reader(probe, data, concept, point))
    return max(readers, key=lambda reader: reader.exact)


def random_reader(reader: Reader, data: TransferData, seed: int) -> Reader:
    """Returns the control of a reader: random directions in place of the probe's, calibrated the same way."""
    directions = random_directions(len(reader.probe.weight), reader.probe.d_model, seed)
    probe = replace(reader.probe, weight=directions, bias=torch.zeros(len(directions)), kind="random")
    return _reader(probe, data, reader.concept, reader.point)


def save_readers(readers: Mapping[str, Reader], folder: Path) -> None:
    """Writes each reader's probe to ``folder/<concept>`` with what it reads."""
    for name, reader in readers.items():
        save_probe(replace(reader.probe, fitted_on=f"{reader.reads}@{reader.point}"), folder / name)


def load_readers(folder: Path, model: LanguageModel) -> dict[str, Reader]:
    """Returns the readers of a folder by concept.

    Raises:
        ReadingError: Where there are none, or they read another model.
    """
    readers = {}
    for part in sorted(folder.iterdir()) if folder.is_dir() else ():
        if part.name not in CONCEPTS:
            raise ReadingError(f"{part} is no reader of a known concept; concepts: {', '.join(CONCEPTS)}")
        probe = load_probe(part)
        reads, _, point = probe.fitted_on.partition("@")
        if reads != model.fingerprint:
            raise ReadingError(f"{part} reads {reads}, and the model is {model.fingerprint}; make readers for it with `denoscope demo`")
        readers[part.name] = Reader(CONCEPTS[part.name], HookPoint.parse(point), probe, reads, float("nan"))
    if not readers:
        raise ReadingError(f"{folder} holds no readers; `denoscope demo --out DIR` writes some to DIR/readers")
    return readers


@dataclass(frozen=True)
class Reading:
    """Probabilities of every concept's heads in a trajectory.

    ``scores[concept]`` has the dims ``sample, step, position, head``: step s is what the readers found inside network call s (NaN at step 0
    and after a sample's last call), position is that of the token about to be predicted, only where the trajectory could write.
    """

    trajectory: Trajectory
    readers: dict[str, Reader]
    scores: dict[str, xr.DataArray]


def _empty_scores(trajectory: Trajectory, reader: Reader, positions: Sequence[int]) -> xr.DataArray:
    data = trajectory.data
    return xr.DataArray(
        float("nan"),
        dims=("sample", "step", "position", "head"),
        coords={
            "sample": range(trajectory.n_samples),
            "step": data["step"].values,
            "position": list(positions),
            "head": list(reader.concept.heads),
        },
    ).astype("float32")


def check_model(model: LanguageModel, trajectory: Trajectory) -> None:
    """Raises ReadingError where the trajectory is of another model."""
    if trajectory.fingerprint != model.fingerprint:
        raise ReadingError(f"the trajectory is of {trajectory.fingerprint}, and {model.name} is {model.fingerprint}; trace it again")


def read(
    model: LanguageModel,
    trajectory: Trajectory,
    readers: Mapping[str, Reader],
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Reading:
    """Returns what the readers find in every network call of a trajectory.

    Raises:
        ReadingError: Where the trajectory is of another model, or a reader reads another one.
    """
    check_model(model, trajectory)
    for reader in readers.values():
        if reader.reads != model.fingerprint:
            raise ReadingError(f"{reader.name} reads {reader.reads}, and the model is {model.fingerprint}")
    positions = torch.arange(model.task.length)[puzzle_task(model.task).target]
    scores = {name: _empty_scores(trajectory, reader, positions.tolist()) for name, reader in readers.items()}
    points = sorted({reader.point for reader in readers.values()})
    for step in range(1, trajectory.n_steps + 1):
        rows = torch.from_numpy(trajectory.last_step >= step).nonzero().flatten()
        canvases = torch.from_numpy(trajectory.tokens(step - 1))[rows]
        found = activations_at(
            model, canvases, torch.arange(len(rows)).repeat_interleave(len(positions)), positions.repeat(len(rows)), points
        )
        for name, reader in readers.items():
            probabilities: Float[Tensor, "row head"] = reader.probe.probabilities(found[reader.point])
            scores[name].values[rows.numpy(), step] = probabilities.view(len(rows), len(positions), -1).numpy()
        on_step(step, trajectory.n_steps)
    return Reading(trajectory, dict(readers), scores)
