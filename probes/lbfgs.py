"""Many small convex problems minimised side by side, each at its own pace, from gradients alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

HISTORY = 12
"""Pairs of steps and gradient changes that are remembered."""
TURN = 0.9
"""A step was too long if the slope along it has turned, and is steeper than this share of what it was at first."""
FLOOR = 1e-4
"""Change of the weights that never matters; in float32 a problem whose minimum is 0 comes no nearer."""

Gradient = Callable[[Float[Tensor, "problem part size"], Int[Tensor, " problem"]], Float[Tensor, "problem part size"]]
"""From points, and which problems they are of, to the gradients there."""


@dataclass(frozen=True, eq=False)
class Start:
    """Where each problem begins. A point is weights a part and, last, the part's bias."""

    point: Float[Tensor, "problem part size"]
    gradient: Float[Tensor, "problem part size"]
    curvature: Float[Tensor, "problem part size"]
    """Diagonal of the Hessian, or near it."""


@dataclass
class _Search:
    """The problems that are still under way."""

    index: Int[Tensor, " problem"]
    point: Float[Tensor, "problem part size"]
    gradient: Float[Tensor, "problem part size"]
    curvature: Float[Tensor, "problem part size"]
    direction: Float[Tensor, "problem part size"]
    length: Float[Tensor, " problem"]
    """How far the next trial goes along the direction."""
    pairs: list[tuple[Tensor, Tensor]]
    """Steps and the changes of the gradient along them, newest first; 0 for a problem that did not step."""

    def move(self, trial: Float[Tensor, "problem part size"], gradient: Float[Tensor, "problem part size"]) -> None:
        """Goes to the trial points, or (where the step was too long) back to where the slope should have been 0."""
        before, after = _dot(self.gradient, self.direction), _dot(gradient, self.direction)
        kept = after <= TURN * before.abs()
        change = gradient - self.gradient
        curved = (kept & (after > before))[:, None, None]
        self.pairs.insert(0, (torch.where(curved, trial - self.point, 0.0), torch.where(curved, change, 0.0)))
        del self.pairs[HISTORY:]
        self.point = torch.where(kept[:, None, None], trial, self.point)
        self.gradient = torch.where(kept[:, None, None], gradient, self.gradient)
        self.direction = torch.where(kept[:, None, None], self._quasi_newton(), self.direction)
        self.length = torch.where(kept, 1.0, self.length * (before / (before - after)).clamp(0.1, 0.7))

    def _quasi_newton(self) -> Float[Tensor, "problem part size"]:
        """Returns minus the inverse Hessian times the gradient (Nocedal & Wright 2006, algorithm 7.4, from a scaled diagonal)."""
        found, scale, used = -self.gradient, torch.ones_like(self.length), []
        for step, change in self.pairs:
            inverse = _reciprocal(_dot(step, change))
            share = inverse * _dot(step, found)
            found = found - share[:, None, None] * change
            used.append((inverse, share))
        for step, change in reversed(self.pairs):
            newest = _dot(step, change) * _reciprocal(_dot(change, change / self.curvature))
            scale = torch.where(newest > 0, newest, scale)
        found = found / self.curvature * scale[:, None, None]
        for (step, change), (inverse, share) in zip(reversed(self.pairs), reversed(used), strict=True):
            found = found + (share - inverse * _dot(change, found))[:, None, None] * step
        return found

    def finished(self, tolerance: float) -> Bool[Tensor, " problem"]:
        """Returns where the next step would move neither the weights nor a bias by more than a share of ``tolerance``."""
        weights, biases = self.point[..., :-1], self.point[..., -1]
        small = self.direction[..., :-1].norm(dim=(1, 2)) <= tolerance * weights.norm(dim=(1, 2)) + FLOOR
        return small & (self.direction[..., -1].abs() <= tolerance * (1 + biases.abs())).all(1)

    def keep(self, kept: Bool[Tensor, " problem"]) -> None:
        """Drops all other problems."""
        for name in ("index", "point", "gradient", "curvature", "direction", "length"):
            setattr(self, name, getattr(self, name)[kept])
        self.pairs = [(step[kept], change[kept]) for step, change in self.pairs]


def minimise(gradient: Gradient, start: Start, *, tolerance: float, max_iterations: int) -> Float[Tensor, "problem part size"]:
    """Returns the minimum of every problem. Warns where one was given up.

    Quasi-Newton steps need no loss: the problems are convex, so the slope at the end of a step tells on which side of the lowest point
    it ended, and how far. A problem is done when its next step would hardly move it; that step is still taken.

    Args:
        gradient: Called on the problems that are still under way.
        start: Points, gradients and curvatures to begin with.
        tolerance: Largest last step, as a share of the length of the weights.
        max_iterations: Most gradients a problem.
    """
    found, everything = start.point.clone(), torch.arange(len(start.point), device=start.point.device)
    direction, length = -start.gradient / start.curvature, torch.ones(len(found), device=found.device)
    search = _Search(everything, start.point, start.gradient, start.curvature, direction, length, [])
    for _ in range(max_iterations):
        trial = search.point + search.length[:, None, None] * search.direction
        search.move(trial, gradient(trial, search.index))
        done = search.finished(tolerance)
        found[search.index] = torch.where(done[:, None, None], search.point + search.direction, search.point)
        search.keep(~done)
        if not len(search.index):
            return found
    warnings.warn(
        f"{len(search.index)} of {len(found)} fits stopped after {max_iterations} iterations, before they had converged",
        RuntimeWarning,
        stacklevel=2,
    )
    return found


def _dot(one: Float[Tensor, "problem part size"], two: Float[Tensor, "problem part size"]) -> Float[Tensor, " problem"]:
    return (one * two).sum((1, 2))


def _reciprocal(values: Float[Tensor, " problem"]) -> Float[Tensor, " problem"]:
    return torch.where(values > 0, 1 / values, 0.0)
