"""SAE latents over the steps of a denoising run: when they are born and peak, how steady they are before a token is written and after.

All figures but those of ``latent_dynamics`` are functions of a ``LatentTrace`` alone: no network runs. DLM-Scope reads a token at its own
position in the network; here it is where the token is predicted, which is the position before in a model with a logit shift.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.latents.traces import LatentTrace, LatentTraceError, record_latents
from interp.scoring import estimate
from interp.statistics import Measured, Statistic
from models.decoding import Decoding
from models.denoise import denoise
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from probes.metrics import bootstrap_mean

if TYPE_CHECKING:
    from sae_lens import SAE


@dataclass(frozen=True)
class _Shown:
    """The latents of some places, side by side with those of others."""

    latent: Int[np.ndarray, "batch pos top"]
    value: Float[np.ndarray, "batch pos top"]

    @property
    def n(self) -> Int[np.ndarray, "batch pos"]:
        return (self.latent >= 0).sum(-1)

    def matches(self, other: _Shown) -> Bool[np.ndarray, "batch pos top top"]:
        """Returns which of these latents (rows) are which of the others (columns)."""
        return (self.latent[..., :, None] == other.latent[..., None, :]) & (self.latent >= 0)[..., :, None]


def _at(trace: LatentTrace, step: int) -> _Shown:
    return _Shown(trace.latent[:, step], trace.value[:, step])


def _at_commit(trace: LatentTrace) -> _Shown:
    step = np.maximum(trace.commit_step, 0)[:, None, :, None]
    return _Shown(*(np.take_along_axis(of, step, axis=1)[:, 0] for of in (trace.latent, trace.value)))


def jaccard(one: _Shown, other: _Shown) -> Float[np.ndarray, "batch pos"]:
    """Returns what two sets of latents share, over what either has; 1 for two empty ones."""
    shared = one.matches(other).sum((-1, -2))
    either = one.n + other.n - shared
    return np.where(either == 0, 1.0, shared / np.maximum(either, 1))


def cosine(one: _Shown, other: _Shown) -> Float[np.ndarray, "batch pos"]:
    """Returns the cosine of two places' kept latents; 1 where neither has any, 0 where one has none."""
    product = np.einsum("...i,...ij,...j->...", one.value, one.matches(other).astype(np.float32), other.value)
    norms = np.linalg.norm(one.value, axis=-1) * np.linalg.norm(other.value, axis=-1)
    return np.where((one.n == 0) & (other.n == 0), 1.0, product / np.where(norms == 0, 1.0, norms))


Similarity = Literal["jaccard", "cosine"]
SIMILARITIES: dict[str, Callable[[_Shown, _Shown], Float[np.ndarray, "batch pos"]]] = {"jaccard": jaccard, "cosine": cosine}
"""Of the latents of two places, 0 to 1."""


def pre_mask_stability(trace: LatentTrace, similarity: Similarity = "jaccard") -> Float[np.ndarray, "batch pos"]:
    """Returns S_pre of each position: how alike its strongest latents are from a call to the next as long as it is unwritten.

    The mean over calls s of similarity(s, s - 1) where the canvases of both were unwritten there, as in the released code of DLM-Scope
    (2602.05859, section 5.2: its ``dlm_order``), with its top-K sets of latents and Jaccard index. NaN where fewer than two calls found
    it unwritten.
    """
    pairs = [_pair(trace, step, trace.unwritten, similarity) for step in range(1, trace.latent.shape[1])]
    return _mean(pairs, trace.commit_step)


def post_decode_drift(
    trace: LatentTrace, similarity: Similarity = "jaccard", *, since: Literal["call before", "commit"] = "call before"
) -> Float[np.ndarray, "batch pos"]:
    """Returns D_post of each position: how far its strongest latents move after its token is in place.

    Since the call before: the mean over calls s of 1 - similarity(s, s - 1) where the canvases of both had a token there, which is
    what the released code of DLM-Scope (2602.05859, section 5.2) computes. Since the commit: the mean over s > c of 1 - similarity(s, c),
    with c the call that wrote the final token: how far it is in the end, however small the steps. NaN where there is no such call. The
    last canvas of a run is read by no call.
    """
    steps = range(1, trace.latent.shape[1])
    if since == "call before":
        pairs = [_pair(trace, step, trace.written, similarity) for step in steps]
    else:
        written_at = _at_commit(trace)
        after = [trace.written[:, step] & (trace.commit_step > 0) & (step > trace.commit_step) for step in steps]
        pairs = [(SIMILARITIES[similarity](_at(trace, step), written_at), where) for step, where in zip(steps, after, strict=True)]
    return 1 - _mean(pairs, trace.commit_step)


_Pair = tuple[Float[np.ndarray, "batch pos"], Bool[np.ndarray, "batch pos"]]


def _pair(trace: LatentTrace, step: int, where: Bool[np.ndarray, "batch step pos"], similarity: str) -> _Pair:
    """Returns how alike a step and the one before are, and where both are as asked."""
    return SIMILARITIES[similarity](_at(trace, step), _at(trace, step - 1)), where[:, step] & where[:, step - 1]


def _mean(pairs: Sequence[_Pair], like: np.ndarray) -> Float[np.ndarray, "batch pos"]:
    """Returns the mean of values where they count; NaN where none does."""
    total = np.zeros(like.shape)
    n = np.zeros(like.shape)
    for values, where in pairs:
        total += np.where(where, values, 0.0)
        n += where
    return _ratio(total, n)


def _ratio(total: np.ndarray, n: np.ndarray) -> np.ndarray:
    return np.divide(total, n, out=np.full(n.shape, np.nan), where=n > 0)


def turnover(trace: LatentTrace) -> Float[np.ndarray, "batch step"]:
    """Returns the share of the latents that were not there the call before, averaged over positions unwritten in both.

    Of a position's strongest latents; NaN at steps without such a position, and at steps 0 and 1. By DLM-Scope (2602.05859, section 5.2)
    it is high early on where confidence decides the order, and flat where chance does.
    """
    found = np.full(trace.unwritten.shape[:2], np.nan)
    for step in range(2, trace.unwritten.shape[1]):
        now, before = _at(trace, step), _at(trace, step - 1)
        new = now.n - now.matches(before).sum((-1, -2))
        counts = trace.unwritten[:, step] & trace.unwritten[:, step - 1] & (now.n > 0)
        found[:, step] = _ratio(np.where(counts, new / np.maximum(now.n, 1), 0.0).sum(1), counts.sum(1))
    return found


@dataclass(frozen=True, eq=False)
class Lives:
    """Every latent that was among the strongest of a place in some call, one row each."""

    sample: Int[np.ndarray, " row"]
    position: Int[np.ndarray, " row"]
    """A position of the trajectory."""
    latent: Int[np.ndarray, " row"]
    birth: Int[np.ndarray, " row"]
    """The first call that had it."""
    peak: Int[np.ndarray, " row"]
    """The first call that had it at its greatest."""
    greatest: Float[np.ndarray, " row"]
    calls: Int[np.ndarray, " row"]
    """In how many calls it was there."""
    commit_step: Int[np.ndarray, " row"]
    """The call that wrote the place's final token; not above 0 where none did."""

    def rows(self, keep: Bool[np.ndarray, " row"]) -> Lives:
        """Returns some of the rows."""
        return Lives(*(getattr(self, column.name)[keep] for column in fields(self)))

    def lead(self, moment: Literal["birth", "peak"] = "birth") -> Float[np.ndarray, " row"]:
        """Returns how many calls before its place was written a latent was born or peaked, below 0 after; NaN where no call wrote it."""
        return np.where(self.commit_step > 0, self.commit_step - getattr(self, moment), np.nan)


def life(trace: LatentTrace) -> Lives:
    """Returns the birth and the peak of each latent at each place, in the order of samples, positions and latents."""
    sample, step, place, top = np.nonzero(trace.latent >= 0)
    latent, value = (of[sample, step, place, top] for of in (trace.latent, trace.value))
    order = np.lexsort((step, latent, place, sample))
    keys = np.stack([sample, place, latent])[:, order]
    first = np.flatnonzero(np.any(keys != np.roll(keys, 1, axis=1), axis=0) | (np.arange(len(order)) == 0))
    calls = np.diff(np.append(first, len(order)))
    owner = np.repeat(np.arange(len(first)), calls)
    strongest = order[np.lexsort((step[order], -value[order], owner))][first]
    sample, place, latent = keys[:, first]
    return Lives(
        sample,
        trace.position[place],
        latent,
        birth=step[order][first],
        peak=step[strongest],
        greatest=value[strongest],
        calls=calls,
        commit_step=trace.commit_step[sample, place],
    )


TENTHS = range(10, 101, 10)


def latent_dynamics(
    model: LanguageModel,
    tokens: Int[Tensor, "batch pos"],
    sae: SAE[Any],
    point: HookPoint,
    decodings: Mapping[str, Decoding],
    *,
    top_k: int = 32,
    groups: Int[Tensor, " batch"] | None = None,
    seed: int = 0,
) -> tuple[Statistic, Statistic]:
    """Returns by decoding the turnover over a run, and the steadiness of latents before and after writing (S_pre, D_post).

    Turnover is by tenth of each sample's own calls, as decodings differ in how many they make. Every figure is a mean over a sample's
    positions first and over samples then; intervals resample samples, or their groups.

    Args:
        model: A masked model.
        tokens: Canvases to begin from.
        sae: Reads raw activations of the hook point.
        point: Where to read.
        decodings: What to compare, by name.
        top_k: So many latents count of a place.
        groups: The puzzle or document of each sample; None makes each its own.
        seed: Of the intervals.

    Raises:
        LatentTraceError: Where there is nothing to compare, or on a ``top_k`` that the SAE does not have.
    """
    if not decodings:
        raise LatentTraceError("there are no decodings; give at least one")
    turned, steady = [], []
    for name, decoding in decodings.items():
        run = denoise(model, tokens, decoding)
        trace = record_latents(model, run, sae, point, top_k=top_k)
        for tenth, values in zip(TENTHS, _by_tenth(turnover(trace), run.calls).T, strict=True):
            turned += _measured(values, groups, seed, {"decoding": name, "percent_of_the_calls": tenth})
        figures = {
            "S_pre": pre_mask_stability(trace),
            "D_post, since the call before": post_decode_drift(trace),
            "D_post, since the commit": post_decode_drift(trace, since="commit"),
        }
        for figure, values in figures.items():
            steady += _measured(_over_positions(values), groups, seed, {"figure": figure, "decoding": name})
    about = f"The {top_k} strongest latents of a place at {point}, where its token is predicted."
    return (
        Statistic(
            name="latent_turnover",
            title="Latents that are new in a call",
            about=f"{about} Share that the call before did not have, over positions unwritten in both.",
            unit="share of latents",
            panels=(),
            lines=("decoding",),
            x="percent_of_the_calls",
            values=turned,
        ),
        Statistic(
            name="latent_steadiness",
            title="Latents before and after a token is written",
            about=f"{about} S_pre: Jaccard index of calls that follow each other, before. D_post: 1 - Jaccard index, after (2602.05859).",
            unit="share of latents",
            panels=("figure",),
            lines=(),
            x="decoding",
            values=steady,
        ),
    )


def _by_tenth(values: Float[np.ndarray, "batch step"], calls: Int[np.ndarray, " batch"]) -> Float[np.ndarray, "batch tenth"]:
    """Returns the mean of each sample's steps by tenth of its calls; NaN where none is in it."""
    step = np.arange(values.shape[1])
    tenth = np.ceil(10 * step / np.maximum(calls, 1)[:, None])
    counted = [np.isfinite(values) & (tenth == one) for one in range(1, 11)]
    return np.stack([_ratio(np.where(where, values, 0.0).sum(1), where.sum(1)) for where in counted], 1)


def _over_positions(values: Float[np.ndarray, "batch pos"]) -> Float[np.ndarray, " batch"]:
    there = np.isfinite(values)
    return _ratio(np.where(there, values, 0.0).sum(1), there.sum(1))


def _measured(values: Float[np.ndarray, " batch"], groups: Tensor | None, seed: int, at: dict[str, str | int]) -> list[Measured]:
    """Returns the mean of the samples that have a value; nothing where none has."""
    there = torch.from_numpy(np.isfinite(values))
    if not there.any():
        return []
    kept = None if groups is None else groups.cpu()[there]
    return [Measured(at=at, estimate=estimate(bootstrap_mean(torch.from_numpy(values)[there], kept, seed=seed)))]
