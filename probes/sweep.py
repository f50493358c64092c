"""Thousands of probes in one go: every head of every concept, at every hook point, with every reader asked for.

Penalties, shuffled labels and seeds are only more heads. What is the same for all readers of a hook point is counted once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from probes.errors import ProbeError
from probes.fitters import FITTERS
from probes.lbfgs import HISTORY
from probes.linear import LinearProbe
from probes.logistic import BLOCK, HEADS_AT_ONCE
from probes.moments import ROWS_AT_ONCE, Chunk, Chunks, count_moments

TRIAL_ROWS, TRIAL_HEADS = 8192, 256
"""Size of the fit that a sweep's seconds are estimated from."""


@dataclass(frozen=True, eq=False)
class ProbeSweep:
    """Probes by hook point and reader."""

    probes: Mapping[tuple[str, str], LinearProbe]

    def at(self, point: str, kind: str) -> LinearProbe:
        """Returns the probe of one hook point and reader; its method ``only`` picks the heads of a concept.

        Raises:
            ProbeError: Where the sweep has none (those that it has are named).
        """
        if (point, kind) not in self.probes:
            raise ProbeError(f"no {kind} probe at {point}; the sweep has {', '.join(f'{kind} at {point}' for point, kind in self.probes)}")
        return self.probes[point, kind]


@dataclass(frozen=True)
class SweepCost:
    """What a sweep is going to take."""

    probes: int
    """Heads, over hook points and readers."""
    bytes: int
    """Most memory held at once beside the rows themselves."""
    seconds: float
    """On this machine as it is now."""


def fit_sweep(
    rows: Mapping[str, Chunks],
    *,
    heads: Sequence[str],
    fitted_on: Mapping[str, str],
    kinds: Sequence[str] = ("logistic",),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    on_probe: Callable[[int, int], None] = lambda done, total: None,
) -> ProbeSweep:
    """Returns every head's probe of each kind at each hook point.

    Args:
        rows: Labelled rows by hook point: chunks of (activations, labels), read anew on each pass. Rows in memory are a list of one chunk.
        heads: What each column of the labels says, at all hook points.
        fitted_on: Fingerprint of each hook point's activations.
        kinds: Readers: names in ``FITTERS``.
        options: By reader, keywords of its fitter, such as ``{"logistic": {"l2": 1e-2}}``.
        on_probe: Told (heads done, total).

    Raises:
        ProbeError: On unknown readers, options of a reader that is not fitted, missing fingerprints, and what the fitters refuse.
    """
    options = options or {}
    _check_kinds(kinds, options)
    if set(rows) != set(fitted_on):
        raise ProbeError(f"rows of {', '.join(rows)} and fingerprints of {', '.join(fitted_on)}; each hook point needs both")
    total, probes = len(rows) * len(kinds) * len(heads), {}
    for point, chunks in rows.items():
        moments = count_moments(chunks, heads, products=any(kind != "k_sparse" for kind in kinds))
        for kind in kinds:
            fit = FITTERS[kind]
            probes[point, kind] = fit(chunks, heads=heads, fitted_on=fitted_on[point], moments=moments, **options.get(kind, {}))
            on_probe(len(probes) * len(heads), total)
    return ProbeSweep(probes)


def estimate_sweep(
    *,
    points: int,
    rows: int,
    d_model: int,
    heads: int,
    kinds: Sequence[str] = ("logistic",),
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> SweepCost:
    """Returns what ``fit_sweep`` would take for rows in memory, from a small fit of made-up rows.

    Seconds grow with hook points, rows and heads. The trial's activations are ill-conditioned and its labels imbalanced, as real
    ones are.

    Args:
        points: Hook points.
        rows: Labelled rows at each.
        d_model: Width of the activations.
        heads: Of all concepts together.
        kinds: As in ``fit_sweep``.
        options: As in ``fit_sweep``.

    Raises:
        ProbeError: On a size below 1, unknown readers, or options of a reader that is not fitted.
    """
    _check_kinds(kinds, options or {})
    for name, size in {"points": points, "rows": rows, "d_model": d_model, "heads": heads}.items():
        if size < 1:
            raise ProbeError(f"{name} is {size}; it must be at least 1")
    names = [str(head) for head in range(min(max(heads, 2), TRIAL_HEADS))]
    chunk = _trial(d_model, len(names), exclusive="multinomial" in kinds)
    started = time.perf_counter()
    fit_sweep({"trial": [chunk]}, heads=names, fitted_on={"trial": "trial"}, kinds=kinds, options=options)
    taken = time.perf_counter() - started
    seconds = taken * points * rows / TRIAL_ROWS * heads / len(names)
    together, size = min(heads, HEADS_AT_ONCE), d_model + 1
    search = 4 * together * size * (2 * HISTORY + 10)
    counted = 8 * (6 * d_model * d_model + 4 * heads * d_model) + ROWS_AT_ONCE * (4 * heads + 12 * d_model)
    held = 4 * rows * size + 8 * BLOCK
    return SweepCost(points * len(kinds) * heads, 4 * points * len(kinds) * heads * size + counted + held + search, seconds)


def _trial(d_model: int, heads: int, *, exclusive: bool) -> Chunk:
    """Returns rows whose features have very unlike variances, with common and rare heads, or with one class a row."""
    generator = torch.Generator().manual_seed(0)
    turned = torch.randn(TRIAL_ROWS, d_model, generator=generator)
    scores = turned @ torch.randn(d_model, heads, generator=generator) * (2 / d_model**0.5)
    scores += torch.randn(TRIAL_ROWS, heads, generator=generator)
    labels = functional.one_hot(scores.argmax(1), heads).bool() if exclusive else scores > torch.linspace(0, 4, heads)
    labels[: 2 * heads] = torch.eye(heads, dtype=torch.bool).repeat(2, 1)
    mixed = torch.linalg.qr(torch.randn(d_model, d_model, generator=generator)).Q
    return turned * torch.logspace(1, -1, d_model) @ mixed, labels


def _check_kinds(kinds: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> None:
    unknown = [kind for kind in (*kinds, *options) if kind not in FITTERS]
    if unknown or not kinds:
        raise ProbeError(f"no such readers: {', '.join(unknown) or '(none named)'}; there are {', '.join(FITTERS)}")
    unused = [kind for kind in options if kind not in kinds]
    if unused:
        raise ProbeError(f"options for {', '.join(unused)}; the sweep fits {', '.join(kinds)}")
