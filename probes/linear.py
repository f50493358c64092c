"""Linear probes: one direction and one threshold a head, fitted on labelled activations.

Logistic probes are the field's standard reader (Alain & Bengio 2016); the difference of means (Marks & Tegmark 2023) has
no hyperparameter and tends to name directions that also act when they are added. ``probes.fitters`` has more, and the table of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from probes.artefact import read_artefact, write_artefact
from probes.errors import ProbeError
from probes.logistic import Link, Regression, Rows, principal_axes
from probes.moments import ROWS_AT_ONCE, Chunks, Moments, checked, gather

ARTEFACT = "linear-probe"


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """Fitted readers of one activation space, one a head. Scores are logits."""

    weight: Float[Tensor, "head d_model"]
    bias: Float[Tensor, " head"]
    heads: tuple[str, ...]
    """What each head reads."""
    kind: str
    """The fitter that made it: a name in ``probes.fitters.FITTERS``."""
    fitted_on: str
    """Fingerprint of where its activations came from: model and hook point."""
    link: Link = "sigmoid"
    """What makes probabilities of the logits: heads are independent (sigmoid), or exclusive classes (softmax)."""

    def __post_init__(self) -> None:
        shapes = (self.weight.ndim, self.weight.shape[0], tuple(self.bias.shape))
        if shapes != (2, len(self.heads), (len(self.heads),)):
            raise ProbeError(
                f"weight {tuple(self.weight.shape)} and bias {tuple(self.bias.shape)} do not fit {len(self.heads)} heads; "
                "they must be [head, d_model] and [head]"
            )

    @property
    def d_model(self) -> int:
        """Width of the activations it reads."""
        return self.weight.shape[1]

    def scores(self, x: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row head"]:
        """Returns the logits, in the probe's own dtype."""
        if x.shape[-1] != self.d_model:
            raise ProbeError(f"activations of width {x.shape[-1]}; this probe reads width {self.d_model}")
        return functional.linear(x.to(self.weight.dtype), self.weight, self.bias)

    def probabilities(self, x: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row head"]:
        """Returns the sigmoid of the logits (of independent heads, so they need not sum to 1) or their softmax."""
        scores = self.scores(x)
        return torch.sigmoid(scores) if self.link == "sigmoid" else torch.softmax(scores, -1)

    def directions(self) -> Float[Tensor, "head d_model"]:
        """Returns the weights as unit row vectors."""
        return functional.normalize(self.weight, dim=-1)

    def to(self, device: torch.device | str) -> LinearProbe:
        """Returns the same probe on another device."""
        return replace(self, weight=self.weight.to(device), bias=self.bias.to(device))

    def only(self, heads: Sequence[str]) -> LinearProbe:
        """Returns the probe of some of its heads, in this order: one concept of a sweep. Exclusive classes stay together.

        Raises:
            ProbeError: Where it lacks a head, or its heads are exclusive.
        """
        missing = [name for name in heads if name not in self.heads]
        if missing or self.link == "softmax":
            raise ProbeError(f"no independent heads {', '.join(missing or heads)}; this {self.link} probe has {', '.join(self.heads)}")
        at = {name: place for place, name in enumerate(self.heads)}
        places = [at[name] for name in heads]
        return replace(self, weight=self.weight[places], bias=self.bias[places], heads=tuple(heads))


def fit_logistic(
    x: Tensor | Chunks,
    y: Bool[Tensor, "row head"] | None = None,
    *,
    heads: Sequence[str],
    fitted_on: str,
    l2: float | Sequence[float] | Float[Tensor, " head"] = 1e-3,
    held_out: Chunks | None = None,
    tolerance: float = 0.01,
    max_iterations: int = 200,
    moments: Moments | None = None,
) -> LinearProbe:
    """Returns one L2-regularised logistic regression a head. Deterministic; warns where it did not converge.

    Classes are not reweighted, so probabilities keep the base rates of the labels.

    Args:
        x: Activations [row, d_model] of any float dtype, solved in float32; or chunks of (activations, labels).
        y: Labels; None where ``x`` is chunks.
        heads: What each column of the labels says.
        fitted_on: Fingerprint of where the activations came from.
        l2: Penalty on the squared weights of the *standardised* features, beside the mean loss (scikit-learn's C is 1/(l2 * rows)). One
            for all heads, a tensor with one a head, or several: then each head keeps the one with the least log loss on ``held_out``.
        held_out: Chunks of other puzzles or documents; for several penalties, and only for them.
        tolerance: Largest last step, as a share of the length of the weights.
        max_iterations: Of L-BFGS; some ten are needed, each a pass over the rows.
        moments: Of the same rows, where they have been counted.

    Raises:
        ProbeError: On shapes that do not fit, values that are not finite, a head with one class only (it is named), or a penalty that is
            not above 0.
    """
    penalties = _penalties(l2, len(heads), held_out)
    chunks, moments = gather(x, y, heads, moments)
    frame = principal_axes(moments)
    rows = Rows(chunks, frame.coordinates, moments.rows).held()
    regression = Regression(rows, frame, moments, "sigmoid", tolerance, max_iterations)
    point: Tensor | None = None
    readers = []
    for penalty in penalties:
        point = regression.solve(penalty.to(frame.mean.device), point)
        readers.append(LinearProbe(*frame.reader(point), tuple(heads), "logistic", fitted_on))
    return readers[0] if held_out is None else _best_of(readers, held_out)


def _penalties(l2: float | Sequence[float] | Tensor, heads: int, held_out: Chunks | None) -> list[Float[Tensor, " head"]]:
    """Returns the penalties of all heads, the greatest first: its solution is the nearest to 0, where the search begins."""
    several = isinstance(l2, Sequence)
    if several != (held_out is not None):
        raise ProbeError(
            f"l2 is {l2}, rows held out: {held_out is not None}; several penalties need them and a single one has no use for them"
        )
    values = [torch.as_tensor(value, dtype=torch.float64) for value in (sorted(l2, reverse=True) if isinstance(l2, Sequence) else [l2])]
    if not values or any(bool((value <= 0).any()) or value.shape not in ((), (heads,)) for value in values):
        raise ProbeError(f"l2 is {l2}; it must be greater than 0, one number or a tensor of one for each of the {heads} heads")
    return [value.expand(heads) for value in values]


def _best_of(probes: Sequence[LinearProbe], held_out: Chunks) -> LinearProbe:
    """Returns for each head that of several probes which has the least log loss on these rows."""
    losses = torch.stack([log_loss(probe, held_out) for probe in probes])
    best = losses.argmin(0)
    each = torch.arange(len(best), device=best.device)
    weight, bias = torch.stack([probe.weight for probe in probes]), torch.stack([probe.bias for probe in probes])
    return replace(probes[0], weight=weight[best, each], bias=bias[best, each])


def log_loss(probe: LinearProbe, chunks: Chunks) -> Float[Tensor, " head"]:
    """Returns the mean cross-entropy of each sigmoid head in nats, in float64."""
    total, rows = torch.zeros_like(probe.bias, dtype=torch.float64), 0
    for x, y in checked(chunks, probe.heads):
        for x_block, y_block in zip(x.split(ROWS_AT_ONCE), y.split(ROWS_AT_ONCE), strict=True):
            scores = probe.scores(x_block)
            total += functional.binary_cross_entropy_with_logits(scores, y_block.to(scores.dtype), reduction="none").sum(0)
        rows += len(x)
    return total / rows


def fit_mass_mean(
    x: Tensor | Chunks,
    y: Bool[Tensor, "row head"] | None = None,
    *,
    heads: Sequence[str],
    fitted_on: str,
    moments: Moments | None = None,
) -> LinearProbe:
    """Returns the difference of the class means a head, with score 0 midway between them.

    The direction is scaled by (gap between the means) / (variance within the classes), both measured along it: the log odds of two
    Gaussians of equal variance and equal priors. So scores are logits as those of ``fit_logistic``, but without base rates.

    Raises:
        ProbeError: As ``fit_logistic``.
    """
    _, moments = gather(x, y, heads, moments)
    above, below = moments.class_means
    direction = above - below
    gap = direction.square().sum(1)
    between = moments.rate * (1 - moments.rate) * gap.square()
    variance = ((direction @ moments.covariance) * direction).sum(1) - between
    variance = torch.maximum(variance, 1e-3 * gap.square()).clamp_min(torch.finfo(torch.float64).tiny)
    weight = direction * (gap / variance)[:, None]
    bias = -(weight * (moments.mean + (above + below) / 2)).sum(1)
    return LinearProbe(weight.float(), bias.float(), tuple(heads), "mass_mean", fitted_on)


def save_probe(probe: LinearProbe, folder: Path) -> None:
    """Writes ``model.safetensors`` and ``config.json``, making the folder."""
    write_artefact(folder, ARTEFACT, probe, {"weight": probe.weight, "bias": probe.bias}, link=probe.link)


def load_probe(folder: Path, fitted_on: str | None = None) -> LinearProbe:
    """Returns the probe that ``save_probe`` wrote.

    Args:
        folder: Where it was written.
        fitted_on: Fingerprint of what it is to be used on; None accepts any.

    Raises:
        ProbeError: Where the folder holds no whole probe, or one fitted on something else (both are named).
    """
    return LinearProbe(**read_artefact(folder, ARTEFACT, ("weight", "bias"), "link", fitted_on=fitted_on))
