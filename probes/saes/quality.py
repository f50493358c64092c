"""What an SAE keeps of some activations, which of its latents fire there, and how two dictionaries resemble each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from probes.controls import random_directions
from probes.errors import ProbeError, check_finite
from probes.metrics import Interval, bootstrap_ratio

if TYPE_CHECKING:
    from sae_lens import SAE

ROWS_AT_ONCE = 4096
"""Rows that are encoded together: the latents of all rows at once would not fit."""
DENSE = 0.1
"""A latent that fires on a larger share of the rows is dense (SAEBench)."""
LEAST_FIRINGS = 3
"""Fewest firings that count: none in n rows bounds a rate at 3/n with 95 % confidence (the rule of three)."""
SHIFT = 4.0
"""Rates that differ by a larger factor have shifted. Chance explains such a difference, of 3 and 12 firings at least, in 1 case of 30."""
STATES = ("alive", "shifted", "dead", "born", "silent")


@dataclass(frozen=True)
class SaeQuality:
    """How much an SAE keeps of some activations, and how sparsely."""

    fvu: Interval
    """Fraction of variance unexplained: sum |x - xhat|^2 / sum |x - mean|^2; resampled by group."""
    l0: float
    """Latents above 0, mean over rows."""
    dead: float
    """Share of latents that fire on none of these rows."""
    dense: float
    """Share of latents that fire on more than 10 % of them."""
    n: int
    """Rows measured."""


@dataclass(frozen=True, eq=False)
class Firing:
    """How often and how strongly each latent fires on some rows."""

    rate: Float[Tensor, " d_sae"]
    """Share of the rows on which it is above 0, in float64."""
    mean: Float[Tensor, " d_sae"]
    """Its mean value where it fires; 0 where it never does."""
    n: int
    """Rows counted."""


@dataclass(frozen=True, eq=False)
class FeatureStates:
    """What became of each latent between two sets of rows."""

    state: Int[Tensor, " d_sae"]
    """Index into ``STATES``."""
    floor: float
    """Rate below which a latent counts as not firing."""

    def are(self, state: str) -> Bool[Tensor, " d_sae"]:
        """Returns which latents are in a state, one of ``STATES``."""
        if state not in STATES:
            raise ProbeError(f"no state {state!r}; latents are {', '.join(STATES)}")
        return self.state == STATES.index(state)

    @property
    def counts(self) -> dict[str, int]:
        """Latents by state, in the order of ``STATES``."""
        return {state: int(self.are(state).sum()) for state in STATES}


@dataclass(frozen=True)
class Closeness:
    """How near some directions lie to the nearest of some others."""

    mean: float
    """Mean of the largest cosines (mean max cosine similarity, Sharkey et al. 2022)."""
    above_07: float
    """Share of them above 0.7."""
    above_09: float
    """Share of them above 0.9."""

    @classmethod
    def of(cls, cosines: Float[Tensor, " latent"]) -> Closeness:
        """Returns the summary of largest cosines."""
        return cls(*(float(column.double().mean()) for column in (cosines, cosines > 0.7, cosines > 0.9)))


@dataclass(frozen=True, eq=False)
class Matches:
    """For each latent of one SAE its nearest in another, by the cosine of decoder rows."""

    cosine: Float[Tensor, " d_sae"]
    """Largest cosine to a latent of the other that is alive; NaN for latents that are not."""
    partner: Int[Tensor, " d_sae"]
    """Which latent of the other that is; -1 for latents that are not alive."""
    found: Closeness
    chance: Closeness
    """Of the same number of directions drawn uniformly, of this SAE and of the other."""


def _encoded(
    sae: SAE[Any], activations: Float[Tensor, "row d_model"]
) -> Iterator[tuple[slice, Float[Tensor, "block d_model"], Float[Tensor, "block d_sae"]]]:
    """Yields blocks of rows: where they are, the rows in float32, and their latents."""
    if activations.ndim != 2 or activations.shape[1] != sae.cfg.d_in:
        raise ProbeError(f"activations have shape {tuple(activations.shape)}; this SAE reads [row, {sae.cfg.d_in}]")
    check_finite(activations)
    for start in range(0, len(activations), ROWS_AT_ONCE):
        rows = activations[start : start + ROWS_AT_ONCE].float()
        yield slice(start, start + len(rows)), rows, sae.encode(rows)


def evaluate_sae(
    sae: SAE[Any],
    activations: Float[Tensor, "row d_model"],
    groups: Int[Tensor, " row"] | None = None,
    *,
    mean: Float[Tensor, " d_model"] | None = None,
    seed: int = 0,
) -> SaeQuality:
    """Returns how well the SAE rebuilds raw activations, at the SAE's own precision.

    Args:
        sae: Reads and writes raw activations.
        activations: Of its hook point.
        groups: Which puzzle or document each row is of, any integers; None makes each row its own.
        mean: What variance is about; None is the mean of these rows.
        seed: Of the bootstrap.

    Raises:
        ProbeError: On activations of another width, that are not finite, or that do not vary.
    """
    every = torch.ones(len(activations), dtype=torch.bool)
    return evaluate_slices(sae, activations, groups, {"all": every}, mean=mean, seed=seed)["all"]


@torch.no_grad()
def evaluate_slices(
    sae: SAE[Any],
    activations: Float[Tensor, "row d_model"],
    groups: Int[Tensor, " row"] | None,
    slices: Mapping[str, Bool[Tensor, " row"]],
    *,
    mean: Float[Tensor, " d_model"] | None = None,
    seed: int = 0,
) -> dict[str, SaeQuality]:
    """Returns the quality on each slice, as if its rows had been evaluated alone, with each row encoded once.

    Args:
        sae: Reads and writes raw activations.
        activations: Of its hook point.
        groups: Which puzzle or document each row is of, any integers; None makes each row its own.
        slices: Rows of each, by name; they may overlap.
        mean: What variance is about; None is the mean of each slice's own rows.
        seed: Of the bootstrap.

    Raises:
        ProbeError: As ``evaluate_sae``, or on a slice without a row (it is named).
    """
    empty = [name for name, rows in slices.items() if not bool(rows.any())]
    if empty or not slices:
        raise ProbeError(f"no row in {', '.join(empty) or 'any slice'}; every slice needs rows")
    device = activations.device
    masks = torch.stack([rows.to(device) for rows in slices.values()])
    lost, active = (torch.zeros(len(activations), dtype=torch.float64, device=device) for _ in range(2))
    fired = torch.zeros(len(masks), sae.cfg.d_sae, dtype=torch.float64, device=device)
    for at, rows, latents in _encoded(sae, activations):
        fires = latents > 0
        lost[at] = (rows.double() - sae.decode(latents).double()).square().sum(1)
        active[at] = fires.sum(1).double()
        fired += masks[:, at].float() @ fires.float()
    found = {}
    for name, mask, firings in zip(slices, masks, fired, strict=True):
        rate = firings / mask.sum()
        variance = _about_mean(activations[mask], mean)
        if not bool(variance.any()):
            raise ProbeError(f"the rows of slice {name!r} are all equal; variance explained needs rows that vary")
        fvu = bootstrap_ratio(lost[mask], variance, None if groups is None else groups[mask.to(groups.device)], seed=seed)
        dead, dense = (float(share.double().mean()) for share in (firings == 0, rate > DENSE))
        found[name] = SaeQuality(fvu, float(active[mask].mean()), dead, dense, int(mask.sum()))
    return found


def _about_mean(rows: Float[Tensor, "row d_model"], mean: Float[Tensor, " d_model"] | None) -> Float[Tensor, " row"]:
    """Returns the squared distance of each row from the mean, in float64."""
    middle = rows.mean(0, dtype=torch.float64) if mean is None else mean.to(rows.device).double()
    return torch.cat([(block.double() - middle).square().sum(1) for block in rows.split(ROWS_AT_ONCE)])


@torch.no_grad()
def firing(sae: SAE[Any], activations: Float[Tensor, "row d_model"]) -> Firing:
    """Returns how often and how strongly each latent fires on raw activations.

    Raises:
        ProbeError: On activations of another width, or that are not finite.
    """
    count, total = (torch.zeros(sae.cfg.d_sae, dtype=torch.float64, device=activations.device) for _ in range(2))
    for _, _, latents in _encoded(sae, activations):
        count += (latents > 0).sum(0)
        total += latents.sum(0, dtype=torch.float64)
    return Firing(count / len(activations), (total / count.clamp_min(1)).float(), len(activations))


def feature_table(home: Firing, away: Firing) -> FeatureStates:
    """Returns what became of each latent: fitted at home, carried away.

    A latent fires in a place if its rate there is at least 3 / (the rows of the smaller sample): what is rarer cannot be told from
    never. Then it is one of

    - ``alive``: its rates differ by a factor of at most 4, and it fires in one place at least;
    - ``shifted``: it fires in both, at rates that differ by more;
    - ``dead``: it fires at home and not away;
    - ``born``: it fires away and not at home;
    - ``silent``: it fires in neither.

    Of two samples of the same kind some latents near the floor come out dead or born by chance, at most 6 in 100 each of those that
    rare: compare with the table of two halves of one sample.

    Raises:
        ProbeError: Where the two have different numbers of latents.
    """
    if home.rate.shape != away.rate.shape:
        raise ProbeError(f"{len(home.rate)} latents at home and {len(away.rate)} away; a feature table is of one SAE")
    floor = LEAST_FIRINGS / min(home.n, away.n)
    here, there = home.rate >= floor, away.rate >= floor
    similar = torch.maximum(home.rate, away.rate) <= SHIFT * torch.minimum(home.rate, away.rate)
    state = torch.full_like(home.rate, STATES.index("silent"), dtype=torch.int64)
    for name, which in (("dead", here & ~there), ("born", there & ~here), ("shifted", here & there), ("alive", (here | there) & similar)):
        state[which] = STATES.index(name)
    return FeatureStates(state, floor)


@torch.no_grad()
def decoder_matches(
    a: SAE[Any],
    b: SAE[Any],
    *,
    alive_a: Bool[Tensor, " d_sae_a"] | None = None,
    alive_b: Bool[Tensor, " d_sae_b"] | None = None,
    seed: int = 0,
) -> Matches:
    """Returns for each latent of ``a`` the nearest latent of ``b`` by the cosine of their decoder rows, beside what chance would give.

    Args:
        a: The SAE whose latents are looked up.
        b: The SAE they are looked up in, of the same width.
        alive_a: Which latents of ``a`` count; None is all. A latent that never fires has an arbitrary direction.
        alive_b: Which latents of ``b`` may be found.
        seed: Of the random directions.

    Raises:
        ProbeError: Where they read activations of different widths, or no latent is alive.
    """
    if a.cfg.d_in != b.cfg.d_in:
        raise ProbeError(f"SAEs of widths {a.cfg.d_in} and {b.cfg.d_in}; their decoders can only be compared in one space")
    ours, theirs = _alive(a, alive_a), _alive(b, alive_b)
    cosines, partners = _nearest(a.W_dec[ours], b.W_dec[theirs])
    drawn = [random_directions(len(which), a.cfg.d_in, seed + 1 + place) for place, which in enumerate((ours, theirs))]
    cosine = torch.full((a.cfg.d_sae,), torch.nan, device=cosines.device)
    partner = torch.full((a.cfg.d_sae,), -1, device=cosines.device)
    cosine[ours], partner[ours] = cosines, theirs[partners]
    return Matches(cosine, partner, Closeness.of(cosines), Closeness.of(_nearest(drawn[0], drawn[1])[0]))


def _alive(sae: SAE[Any], alive: Bool[Tensor, " d_sae"] | None) -> Int[Tensor, " latent"]:
    """Returns the indices of the latents that count."""
    which = torch.arange(sae.cfg.d_sae) if alive is None else alive.nonzero()[:, 0]
    if len(which) == 0 or (alive is not None and len(alive) != sae.cfg.d_sae):
        raise ProbeError(f"{len(which)} latents alive of {sae.cfg.d_sae}; at least one must be, in a mask of all")
    return which.to(sae.W_dec.device)


def _nearest(
    a: Float[Tensor, "latent d_model"], b: Float[Tensor, "other d_model"]
) -> tuple[Float[Tensor, " latent"], Int[Tensor, " latent"]]:
    """Returns the largest cosine of each row of ``a`` to a row of ``b``, and to which."""
    unit = functional.normalize(b.float(), dim=1).T
    best = [(functional.normalize(rows.float(), dim=1) @ unit).max(1) for rows in a.split(ROWS_AT_ONCE)]
    return torch.cat([found.values for found in best]), torch.cat([found.indices for found in best])
