"""A lens: an affine translator of one layer's residual stream into the last layer's, then the final norm and the unembedding.

The logit lens (nostalgebraist 2020) translates nothing; the tuned lens (Belrose et al. 2303.08112) is trained, see ``training``. What a
lens says is readable at its layer; whether the network uses it is another question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from models.hookpoints import HookPoint, resid_post
from models.language_model import LanguageModel
from models.tasks import TASKS
from probes.align import Alignment
from probes.artefact import read_artefact, write_artefact

ARTEFACT = "lens"
ANSWERS: Mapping[str, range] = {"sudoku": range(1, 10)}
"""By task, the tokens that can be an answer, where these are not all but the mask token."""


class LensError(ValueError):
    """A lens that does not belong to the model it is used on, or a place where there can be none."""


@cache
def answers(task: str) -> tuple[int, ...]:
    """Returns the ids of the tokens that a place asked for can hold in a task."""
    vocabulary = range(len(TASKS[task].vocabulary))
    return tuple(ANSWERS.get(task, (token for token in vocabulary if token != TASKS[task].mask_token_id)))


def spoken(model: LanguageModel, residual: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row head"]:
    """Returns the log probabilities of the answers that a model ends with, given the residual stream after its last block."""
    return model.unembed(residual)[..., list(answers(model.facts.task))].float().log_softmax(-1)


@dataclass(frozen=True, eq=False)
class Lens:
    """A reader whose heads are the tokens that can be an answer: one distribution, renormalised over them."""

    point: HookPoint
    """Where it reads: a residual stream."""
    translator: Alignment
    """From there to the residual stream after the last block."""
    readout: LanguageModel
    """Whose final norm and unembedding follow."""
    reads: str
    """Fingerprint of the model it reads, which need not be that of the read-out."""
    kind: str
    """How it came to be: ``logit``, ``tuned``, or either of them moved."""

    @property
    def heads(self) -> tuple[str, ...]:
        """The text of each answer."""
        vocabulary = self.readout.task.vocabulary
        return tuple(vocabulary[token] for token in answers(self.readout.facts.task))

    @property
    def fitted_on(self) -> str:
        """Fingerprint of the activations it reads: model and hook point."""
        return f"{self.reads}@{self.point}"

    @property
    def name(self) -> str:
        """What it is and where it reads."""
        return f"{self.kind} lens @ {self.point}"

    def log_probabilities(self, x: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row head"]:
        """Returns the logarithm of ``probabilities``."""
        return spoken(self.readout, self.translator(x)).to(x.device)

    def probabilities(self, x: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row head"]:
        """Returns what the network would say from these activations on, of the token that they predict."""
        return self.log_probabilities(x).exp()


def last_point(model: LanguageModel) -> HookPoint:
    """Returns the residual stream after the last block."""
    return resid_post(model.n_layers - 1)


def logit_lens(model: LanguageModel, point: HookPoint) -> Lens:
    """Returns the lens that translates nothing; after the last block it is the model itself.

    Raises:
        LensError: Where the point is no residual stream of the model.
    """
    if point not in model.plain_points or "resid" not in point.component:
        known = ", ".join(str(known) for known in model.plain_points if "resid" in known.component)
        raise LensError(f"{point} is no residual stream of {model.name}; choose from {known}")
    return Lens(point, unmoved(model.d_model), model, model.fingerprint, "logit")


def unmoved(d_model: int) -> Alignment:
    """Returns the map that changes nothing."""
    return Alignment(torch.eye(d_model), torch.zeros(d_model), "identity")


def move_lens(lens: Lens, alignment: Alignment, target: LanguageModel, readout: LanguageModel | None = None) -> Lens:
    """Returns the lens as one of another model's activations, which go through a map into the space that it was made for.

    Args:
        lens: Of the causal twin, say.
        alignment: From the target's activations at the same point to those that the lens reads; the identity moves it as it is.
        target: The model to read.
        readout: Whose final norm and unembedding to end with; None keeps the lens's own.

    Raises:
        LensError: On models of different widths or tasks.
    """
    for model in (target, readout or target):
        if (model.d_model, model.facts.task) != (lens.readout.d_model, lens.readout.facts.task):
            known = f"{lens.readout.facts.task} of width {lens.readout.d_model}"
            raise LensError(f"{model.name} is {model.facts.task} of width {model.d_model}; this lens can be moved to {known}")
    first, then = alignment, lens.translator
    translator = Alignment(first.matrix @ then.matrix, first.offset @ then.matrix + then.offset, then.name)
    return Lens(lens.point, translator, readout or lens.readout, target.fingerprint, f"{lens.kind}, {alignment.name}")


def save_lens(lens: Lens, folder: Path) -> None:
    """Writes the translator, and fingerprints of the model it reads and of the one it reads out through, making the folder."""
    tensors = {"matrix": lens.translator.matrix, "offset": lens.translator.offset}
    more = {"point": str(lens.point), "translator": lens.translator.name, "reads": lens.reads, "readout": lens.readout.fingerprint}
    write_artefact(folder, ARTEFACT, lens, tensors, **more)


def load_lens(folder: Path, model: LanguageModel, readout: LanguageModel | None = None) -> Lens:
    """Returns the lens that ``save_lens`` wrote.

    Args:
        folder: Where it was written.
        model: The model it is to read.
        readout: The model it reads out through; None is ``model``.

    Raises:
        LensError: Where it reads another model, or reads out through another.
        probes.errors.ProbeError: Where the folder holds no whole lens.
    """
    found = read_artefact(folder, ARTEFACT, ("matrix", "offset"), "point", "translator", "reads", "readout", fitted_on=None)
    through = readout or model
    for does, stored, given in (("reads", found["reads"], model), ("reads out through", found["readout"], through)):
        if stored != given.fingerprint:
            raise LensError(f"{folder} {does} {stored}, and {given.name} is {given.fingerprint}; they must be the same")
    translator = Alignment(found["matrix"], found["offset"], found["translator"])
    return Lens(HookPoint.parse(found["point"]), translator, through, found["reads"], found["kind"])
