"""Concept erasers: affine maps after which no linear reader finds a concept any more, and the control that takes away as much at random.

All move activations within a subspace of low rank and keep their mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.artefact import read_artefact, write_artefact
from probes.errors import ProbeError
from probes.linear import fit_logistic, log_loss
from probes.moments import Chunk, Chunks, Moments, gather

ARTEFACT = "eraser"
ROWS_AT_ONCE = 65_536
"""Rows whose covariances are added at once."""
TOLERANCE = 1e-6
"""Correlations, and parts of unit vectors, below which there is nothing left to erase."""


@dataclass(frozen=True, eq=False)
class Eraser:
    """A fitted map of one activation space into itself, called on activations."""

    left: Float[Tensor, "d_model direction"]
    """Directions that activations are moved along."""
    right: Float[Tensor, "direction d_model"]
    """What reads how far."""
    mean: Float[Tensor, " d_model"]
    """Of the activations it was fitted on; it stays where it is."""
    heads: tuple[str, ...]
    """What it takes away."""
    kind: str
    """The fitter that made it: a name in ``ERASERS``."""
    fitted_on: str
    """Fingerprint of where its activations came from: model and hook point."""

    def __post_init__(self) -> None:
        if not self.left.shape == self.right.T.shape == (len(self.mean), self.rank):
            raise ProbeError(
                f"left {tuple(self.left.shape)}, right {tuple(self.right.shape)} and mean {tuple(self.mean.shape)} do not fit; "
                "they must be [d_model, direction], [direction, d_model] and [d_model]"
            )

    @property
    def rank(self) -> int:
        """Dimensions that it takes away."""
        return self.right.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the activations it maps."""
        return len(self.mean)

    def __call__(self, x: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_model"]:
        """Returns ``x - (x - mean) @ right.T @ left.T`` in the dtype of ``x``, computed in float32 at least."""
        if x.shape[-1] != self.d_model:
            raise ProbeError(f"activations of width {x.shape[-1]}; this eraser maps width {self.d_model}")
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        left, right, mean = (part.to(wide) for part in (self.left, self.right, self.mean))
        return (wide - (wide - mean) @ right.T @ left.T).to(x.dtype)


def fit_leace(
    x: Tensor | Chunks,
    y: Bool[Tensor, "row head"] | None = None,
    *,
    heads: Sequence[str],
    fitted_on: str,
    moments: Moments | None = None,
) -> Eraser:
    """Returns the eraser that leaves no linear trace of the labels and changes activations least (LEACE: Belrose et al. 2306.03819).

    Every covariance between an erased activation and a head is 0 on the rows fitted on, which holds exactly where no linear reader with
    a convex loss beats a constant. The change is least in mean square, whatever inner product it is measured with.

    The covariance of the activations is shrunk for few rows, as ``concept_erasure`` does by default. Two of its defaults are not kept, as
    either lets a trace of the concept remain: that it ignores correlations below .01, and that it mixes in another projection where the
    variance of the activations would grow.

    Args:
        x: Activations [row, d_model] of any float dtype, whose covariances are added up in float64; or chunks of (activations, labels).
        y: Labels; None where ``x`` is chunks.
        heads: What each column of the labels says.
        fitted_on: Fingerprint of where the activations came from.
        moments: Of the same rows, where they have been counted.

    Raises:
        ProbeError: On shapes that do not fit, values that are not finite, or a head with one class only (it is named).
    """
    from concept_erasure import LeaceFitter

    chunks, moments = gather(x, y, heads, moments, products=False)
    fitter = LeaceFitter(
        len(moments.mean), len(heads), device=moments.mean.device, dtype=torch.float64, constrain_cov_trace=False, svd_tol=TOLERANCE
    )
    for rows, labels in chunks:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            fitter.update(rows[start : start + ROWS_AT_ONCE], labels[start : start + ROWS_AT_ONCE])
    found = fitter.eraser
    used = found.proj_left.norm(dim=0) > 0
    return Eraser(found.proj_left[:, used], found.proj_right[used], fitter.mean_x, tuple(heads), "leace", fitted_on)


@dataclass(frozen=True, eq=False)
class _Rest:
    """Chunks in the coordinates that are left, and the heads that are."""

    chunks: Chunks
    mean: Float[Tensor, " d_model"]
    free: Float[Tensor, "direction d_model"]
    heads: Tensor

    def __iter__(self) -> Iterator[Chunk]:
        for x, y in self.chunks:
            yield (x.double() - self.mean) @ self.free.T, y[:, self.heads]


def fit_inlp(
    x: Tensor | Chunks,
    y: Bool[Tensor, "row head"] | None = None,
    *,
    heads: Sequence[str],
    fitted_on: str,
    max_rounds: int = 20,
    l2: float = 1e-3,
    moments: Moments | None = None,
) -> Eraser:
    """Returns the projection onto what is left when logistic probes' directions are taken away, round after round (Ravfogel et al. 2020).

    A head is done when its probe no longer beats its base rate by Akaike's criterion: its likelihood ratio on the rows fitted on is
    at most two a free direction. The paper stops at the majority's accuracy, where rare heads stop while they still rank well.

    A direction taken away leaves all that covaries with it, so on correlated activations this takes many times the dimensions that
    LEACE takes (see ``rank``), up to all.

    Args:
        x: Activations [row, d_model], or chunks of (activations, labels).
        y: Labels; None where ``x`` is chunks.
        heads: What each column of the labels says.
        fitted_on: Fingerprint of where the activations came from.
        max_rounds: Most rounds; each takes away at most one direction a head.
        l2: See ``fit_logistic``.
        moments: Of the same rows, where they have been counted.

    Raises:
        ProbeError: As ``fit_leace``, or on fewer than 1 round.
    """
    if max_rounds < 1:
        raise ProbeError(f"max_rounds is {max_rounds}; it must be at least 1")
    chunks, moments = gather(x, y, heads, moments, products=False)
    mean, rate = moments.mean, moments.rate
    unread = torch.special.entr(rate) + torch.special.entr(1 - rate)
    free = torch.eye(len(mean), dtype=torch.float64, device=mean.device)
    taken, left = free[:0], torch.arange(len(heads), device=mean.device)
    for _ in range(max_rounds):
        rest = _Rest(chunks, mean, free, left)
        probe = fit_logistic(rest, heads=[heads[head] for head in left.tolist()], fitted_on=fitted_on, l2=l2)
        readable = 2 * moments.rows * (unread[left] - log_loss(probe, rest)) > 2 * len(free)
        left = left[readable]
        if not len(left):
            break
        _, values, basis = torch.linalg.svd(probe.directions()[readable].double())
        rank = int((values > TOLERANCE).sum())
        taken, free = torch.cat([taken, basis[:rank] @ free]), basis[rank:] @ free
        if not len(free):
            break
    return Eraser(taken.T.contiguous(), taken, mean, tuple(heads), "inlp", fitted_on)


def fit_random(
    x: Tensor | Chunks,
    y: Bool[Tensor, "row head"] | None = None,
    *,
    heads: Sequence[str],
    fitted_on: str,
    rank: int | None = None,
    seed: int = 0,
    moments: Moments | None = None,
) -> Eraser:
    """Returns the projection away from a uniformly drawn subspace: what erasing that many dimensions costs, whatever they hold.

    Args:
        x: Activations [row, d_model], of which only the mean counts; or chunks of (activations, labels).
        y: Labels, of which only the rank counts; None where ``x`` is chunks.
        heads: What each column of the labels says.
        fitted_on: Fingerprint of where the activations came from.
        rank: Dimensions to take away; None is as many as LEACE takes, the rank of the labels about their mean.
        seed: Of the subspace.
        moments: Of the same rows, where they have been counted.

    Raises:
        ProbeError: As ``fit_leace``, or on a rank outside 1 to the width.
    """
    chunks, moments = gather(x, y, heads, moments, products=False)
    d_model = len(moments.mean)
    if rank is None:
        together = torch.stack([labels.T.double() @ labels.double() for _, labels in chunks]).sum(0) / moments.rows
        rank = min(d_model, int(torch.linalg.matrix_rank(together - torch.outer(moments.rate, moments.rate), rtol=TOLERANCE)))
    if not 1 <= rank <= d_model:
        raise ProbeError(f"rank is {rank}; it must be 1 to the width of the activations, {d_model}")
    drawn = torch.randn(d_model, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    basis = torch.linalg.qr(drawn).Q.to(moments.mean.device)
    return Eraser(basis, basis.T.contiguous(), moments.mean, tuple(heads), "random", fitted_on)


def save_eraser(eraser: Eraser, folder: Path) -> None:
    """Writes ``model.safetensors`` and ``config.json``, making the folder."""
    write_artefact(folder, ARTEFACT, eraser, {"left": eraser.left, "right": eraser.right, "mean": eraser.mean})


def load_eraser(folder: Path, fitted_on: str | None = None) -> Eraser:
    """Returns the eraser that ``save_eraser`` wrote.

    Args:
        folder: Where it was written.
        fitted_on: Fingerprint of what it is to be used on; None accepts any.

    Raises:
        ProbeError: Where the folder holds no whole eraser, or one fitted on something else (both are named).
    """
    return Eraser(**read_artefact(folder, ARTEFACT, ("left", "right", "mean"), fitted_on=fitted_on))


ERASERS: dict[str, Callable[..., Eraser]] = {"leace": fit_leace, "inlp": fit_inlp, "random": fit_random}
"""By name: (x, y, *, heads, fitted_on, moments) or (chunks, *, ...) to an eraser."""
