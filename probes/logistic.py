"""Logistic regressions by the thousand: one pass over the rows gives the gradients of all heads.

Few passes are needed (about 8 for 729 heads of real activations), because

* rows are read in the principal axes of the standardised features, where a head's Hessian at the start, r(1-r) times the variance of
  the axis plus the penalty, is diagonal;
* at the start, with weights 0 and the base rate r, the gradient follows from the class means, so the first Newton step is free;
* each head has steps of its own and leaves the batch when it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from probes.errors import ProbeError
from probes.lbfgs import Start, minimise
from probes.moments import Chunk, Chunks, Moments

Link = Literal["sigmoid", "softmax"]
BLOCK = 1 << 18
"""Logits that are computed together: few enough to stay in the processor's cache."""
HEADS_AT_ONCE = 1024
"""Heads whose search is held in memory together."""


@dataclass(frozen=True, eq=False)
class Frame:
    """Coordinates that a regression is solved in: standardised features, turned to axes that do not correlate."""

    mean: Float[Tensor, " d_model"]
    axes: Float[Tensor, "d_model axis"]
    """From activations, less their mean, to coordinates."""
    variance: Float[Tensor, " axis"]
    """Of the coordinates."""

    def coordinates(self, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row size"]:
        """Returns the coordinates in float32 and, last, the 1 that the bias multiplies."""
        turned = (x.double() - self.mean).float() @ self.axes.float()
        return torch.cat([turned, torch.ones_like(turned[:, :1])], 1)

    def reader(self, point: Float[Tensor, "head size"]) -> tuple[Float[Tensor, "head d_model"], Float[Tensor, " head"]]:
        """Returns the weights and biases that read activations as ``point`` reads coordinates."""
        weight = point[:, :-1].double() @ self.axes.T
        return weight.float(), (point[:, -1] - weight @ self.mean).float()


def principal_axes(moments: Moments) -> Frame:
    """Returns the frame of the correlation matrix's eigenvectors; the penalty means the same in it as on standardised features.

    Features that never vary are left out: they tell nothing, and LAPACK may find no eigenvectors for thousands of them.
    """
    varies = moments.correlation.diagonal() > 0.5  # 1 where a feature varies, and nearly 0 where not
    variance, vectors = torch.linalg.eigh(moments.correlation[varies][:, varies])
    axes = vectors.new_zeros(len(varies), len(variance))
    axes[varies] = vectors / moments.spread[varies, None]
    return Frame(moments.mean, axes, variance.clamp_min(0))


@dataclass(frozen=True, eq=False)
class Rows:
    """Chunks with their activations seen through a map."""

    chunks: Chunks
    view: Callable[[Tensor], Tensor]
    n: int

    def __iter__(self) -> Iterator[Chunk]:
        """Yields what is seen, and labels.

        Raises:
            ProbeError: Where the stream has not as many rows as when it was counted.
        """
        seen = 0
        for x, y in self.chunks:
            seen += len(x)
            yield self.view(x), y
        if seen != self.n:
            raise ProbeError(f"the stream had {self.n} rows at first and {seen} on a later pass; every pass must give the same rows")

    def held(self) -> Iterable[Chunk]:
        """Returns the same; where the chunks are in memory, mapped once and for all."""
        return list(self) if isinstance(self.chunks, list | tuple) else self


def columns(labels: Tensor, index: Int[Tensor, " column"]) -> Tensor:
    """Returns these columns; without a copy where they stand together."""
    first, last = int(index[0]), int(index[-1])
    return labels[:, first : last + 1] if last - first + 1 == len(index) else labels[:, index]


def _gradient_sum(rows: Iterable[Chunk], weight: Float[Tensor, "size head"], index: Int[Tensor, " head"], link: Link) -> Tensor:
    """Returns the gradient [size, head] of the summed cross-entropy, in float64: one pass, a block of logits at a time."""
    total = torch.zeros_like(weight, dtype=torch.float64)
    step = max(64, BLOCK // weight.shape[1])
    for x, y in rows:
        for x_block, y_block in zip(x.split(step), y.view(torch.uint8).split(step), strict=True):
            logits = x_block @ weight
            residual = torch.sigmoid_(logits) if link == "sigmoid" else torch.softmax(logits, 1)
            total += x_block.T @ residual.sub_(columns(y_block, index))
    return total


@dataclass(frozen=True, eq=False)
class Regression:
    """Logistic regressions of the same rows: one a head, or (softmax) one over all heads as exclusive classes."""

    rows: Iterable[Chunk]
    frame: Frame
    moments: Moments
    link: Link
    tolerance: float
    max_iterations: int

    def solve(self, l2: Float[Tensor, " head"], warm: Float[Tensor, "head size"] | None = None) -> Float[Tensor, "head size"]:
        """Returns what minimises mean cross-entropy + l2/2 |weight|^2 a head. Warns where it was given up.

        Args:
            l2: Penalty of each head.
            warm: Solution for another penalty, to begin from.
        """
        together = HEADS_AT_ONCE if self.link == "sigmoid" else len(l2)
        blocks = torch.arange(len(l2), device=l2.device).split(together)
        return torch.cat([self._solve_block(l2, None if warm is None else warm[block], block) for block in blocks])

    def _solve_block(
        self, l2: Float[Tensor, " head"], warm: Float[Tensor, "some size"] | None, block: Int[Tensor, " some"]
    ) -> Float[Tensor, "some size"]:
        penalty = functional.pad(l2[block, None].expand(-1, len(self.frame.variance)), (0, 1)).float()

        def arrange(values: Float[Tensor, "some size"]) -> Float[Tensor, "problem part size"]:
            return values[:, None].float() if self.link == "sigmoid" else values[None].float()

        def gradient(point: Float[Tensor, "problem part size"], which: Int[Tensor, " problem"]) -> Float[Tensor, "problem part size"]:
            flat, heads = point.flatten(0, 1), which if self.link == "sigmoid" else torch.arange(len(block), device=which.device)
            summed = _gradient_sum(self.rows, flat.T.contiguous(), block[heads], self.link)
            return arrange((summed.T / self.moments.rows) + penalty[heads] * flat)

        rate = self.moments.rate[block, None]
        curvature = arrange(torch.cat([rate * (1 - rate) * self.frame.variance, rate * (1 - rate)], 1) + penalty)
        if warm is None:
            slope = -rate * (self.moments.class_means[0][block] @ self.frame.axes)
            base = torch.logit(rate) if self.link == "sigmoid" else torch.log(rate)
            start = Start(arrange(torch.cat([torch.zeros_like(slope), base], 1)), arrange(functional.pad(slope, (0, 1))), curvature)
        else:
            point = arrange(warm)
            start = Start(point, gradient(point, torch.arange(len(point), device=point.device)), curvature)
        return minimise(gradient, start, tolerance=self.tolerance, max_iterations=self.max_iterations).flatten(0, 1)
