"""What a model loses when it must read its own activations through a sparse autoencoder: the loss that it recovers over ablation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from interp.canvases import Canvases
from interp.concepts import Kind
from interp.harvest import BATCH
from interp.report import Estimate, SpliceScores
from interp.scoring import RATE_WIDTH, rate_bin
from interp.splicing import Replace, SplicingError, predicting, rebuilt, replacing
from interp.statistics import Measured, Statistic
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from probes.metrics import resample_counts

if TYPE_CHECKING:
    from sae_lens import SAE


_CLEAN, _SPLICED, _ZERO, _MEAN, _KL, _WEIGHT = range(6)


def splice_scores(
    model: LanguageModel,
    saes: Mapping[HookPoint, SAE[Any]],
    canvases: Canvases,
    *,
    kinds: Sequence[Kind] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> list[SpliceScores]:
    """Returns what each SAE costs where it is spliced in alone: see ``splice_scores_at``, which scores several at one hook point."""
    return [
        one
        for point, sae in saes.items()
        for one in splice_scores_at(model, point, [sae], canvases, kinds=kinds, n_resamples=n_resamples, seed=seed)[0]
    ]


@torch.no_grad()
def splice_scores_at(
    model: LanguageModel,
    point: HookPoint,
    saes: Sequence[SAE[Any]],
    canvases: Canvases,
    *,
    kinds: Sequence[Kind] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> list[list[SpliceScores]]:
    """Returns what each SAE of a hook point costs where it is spliced in: over all tokens, at each mask rate, and of the denoising bound.

    Scored are the true tokens at masked positions, which is a masked model's denoising loss; of a causal model's whole sequences, all that
    is asked for. The bound is that of MDLM (2406.07524) and LLaDA (2502.09992, equation 6) a token: the mean over uniform mask rates of
    the masked tokens' mean cross-entropy, by the midpoint rule over the canvases' nominal rates. It is given where masks were drawn.
    The network runs untouched, for the mean, with zeros, with the mean, and once an SAE.

    Args:
        model: Either twin.
        point: Where the SAEs are put, one at a time.
        saes: They read and write raw activations.
        canvases: Of ``interp.canvases``; intervals resample their groups, as ratios of sums.
        kinds: Replaces only the activations that predict positions of these kinds; None is all activations, as in DLM-Scope (2602.05859).
        n_resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        SplicingError: On an SAE of another width, canvases without a token to score, or without a position of the kinds.
        HookPointError: Where the model lacks the point.
    """
    scored = canvases.kind == Kind.MASKED
    scored[:, : model.facts.logit_shift] = False
    if not scored.any():
        raise SplicingError(f"{len(canvases)} canvases without a masked position that {model.name} predicts; give some with one")
    where = None if kinds is None else _of_kinds(canvases, kinds, model.facts.logit_shift)
    mean = _mean(model, point, canvases, where)
    parts: list[list[Tensor]] = [[] for _ in saes]
    for start in range(0, len(canvases), BATCH):
        batch = slice(start, start + BATCH)
        here = None if where is None else where[batch]
        read = _Batch(canvases.tokens[batch], canvases.truth[batch], scored[batch], here)
        for own, found in zip(parts, _scored_batch(model, point, saes, mean, read), strict=True):
            own.append(found)
    named = "everywhere" if kinds is None else ", ".join(kind.name.lower() for kind in kinds)
    places = _slices(canvases, scored)
    group = torch.unique(canvases.group, return_inverse=True)[1][torch.nonzero(scored)[:, 0]]
    return [
        [
            SpliceScores(
                hook_point=str(point),
                layer=-1 if point.layer is None else point.layer,
                spliced_at=named,
                weights="tokens" if name != "bound" else "bound",
                mask_rate=name if isinstance(name, float) else None,
                tokens=int((weights > 0).sum()),
                **_estimates(torch.cat(found), weights, group, n_resamples, seed),
            )
            for name, weights in places.items()
        ]
        for found in parts
    ]


def _of_kinds(canvases: Canvases, kinds: Sequence[Kind], shift: int) -> Bool[Tensor, "canvas pos"]:
    """Returns the positions of some kinds that anything predicts."""
    where = torch.isin(canvases.kind, torch.tensor([*kinds], dtype=torch.uint8))
    where[:, :shift] = False
    if not where.any():
        there = ", ".join(Kind(kind).name.lower() for kind in torch.unique(canvases.kind).tolist())
        asked = ", ".join(kind.name.lower() for kind in kinds) or "no kind"
        raise SplicingError(f"a splice at {asked} positions; the canvases have {there}")
    return where


@dataclass(frozen=True, eq=False)
class _Batch:
    """Canvases that are read together, what is scored of them, and where they are spliced."""

    tokens: Int[Tensor, "batch pos"]
    truth: Int[Tensor, "batch pos"]
    scored: Bool[Tensor, "batch pos"]
    where: Bool[Tensor, "batch pos"] | None

    def predicted(self, model: LanguageModel, replacements: Mapping[HookPoint, Replace]) -> Float[Tensor, "token vocab"]:
        """Returns the log-probabilities at the scored tokens, with replacements in place."""
        if not replacements:
            return model.logits(self.tokens)[self.scored.to(model.device)].float().log_softmax(-1)
        with model.hooks(replacing(model, replacements, self.where)):
            return self.predicted(model, {})


def _scored_batch(
    model: LanguageModel, point: HookPoint, saes: Sequence[SAE[Any]], mean: Float[Tensor, " d_model"], batch: _Batch
) -> Iterator[Float[Tensor, "token 5"]]:
    """Yields for each SAE the cross-entropies of each scored token, clean, spliced, at zero and at the mean, and the divergence."""
    clean = batch.predicted(model, {})
    target = batch.truth[batch.scored].to(clean.device)[:, None]

    def loss(told: Float[Tensor, "token vocab"]) -> Float[Tensor, " token"]:
        return -told.gather(1, target)[:, 0]

    zero, at_mean = (loss(batch.predicted(model, {point: replace})) for replace in (torch.zeros_like, partial(_constant, mean)))
    for sae in saes:
        spliced = batch.predicted(model, {point: partial(rebuilt, sae, False)})
        divergence = functional.kl_div(spliced, clean, reduction="none", log_target=True).sum(1)
        yield torch.stack([loss(clean), loss(spliced), zero, at_mean, divergence], 1).double().cpu()


def _constant(value: Float[Tensor, " d_model"], x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    return value.to(x).expand_as(x)


def _mean(
    model: LanguageModel, point: HookPoint, canvases: Canvases, where: Bool[Tensor, "canvas pos"] | None
) -> Float[Tensor, " d_model"]:
    """Returns the mean of the activations that are replaced."""
    every = torch.ones_like(canvases.kind, dtype=torch.bool)
    replaced = every if where is None else predicting(where, model.facts.logit_shift)
    total = torch.zeros(model.d_model, dtype=torch.float64, device=model.device)
    for start in range(0, len(canvases), BATCH):
        batch = slice(start, start + BATCH)
        rows, positions = torch.nonzero(replaced[batch], as_tuple=True)
        total += model.activations(canvases.tokens[batch], (point,), rows, positions)[point].sum(0, dtype=torch.float64)
    return total / replaced.sum().clamp(min=1)


def _slices(canvases: Canvases, scored: Bool[Tensor, "canvas pos"]) -> dict[float | Literal["all", "bound"], Float[Tensor, " token"]]:
    """Returns by slice what each scored token counts in it."""
    row = torch.nonzero(scored)[:, 0]
    found: dict[float | Literal["all", "bound"], Tensor] = {"all": torch.ones(len(row), dtype=torch.float64)}
    bins = rate_bin(_rates(canvases)[scored])
    present = torch.unique(bins).tolist()
    if len(present) > 1:
        found |= {round((one + 0.5) * RATE_WIDTH, 3): (bins == one).double() for one in present}
    if not canvases.causal and not canvases.step.any():
        found["bound"] = _bound_weights(canvases, scored)[row]
    return found


def _rates(canvases: Canvases) -> Float[Tensor, "canvas pos"]:
    """Returns the mask rate that each position is seen from: for a causal model, the share of what is asked for that is still to come."""
    if not canvases.causal:
        return canvases.mask_rate[:, None].expand(canvases.kind.shape)
    asked = canvases.kind == Kind.MASKED
    return asked.flip(1).cumsum(1).flip(1) / asked.sum(1, keepdim=True).clamp(min=1)


def _bound_weights(canvases: Canvases, scored: Bool[Tensor, "canvas pos"]) -> Float[Tensor, " canvas"]:
    """Returns what a canvas's every scored token counts in the bound: L / l times the share of mask rates that its own stands for."""
    rates = torch.unique(canvases.mask_rate.double())
    edges = torch.cat([torch.zeros(1).double(), (rates[1:] + rates[:-1]) / 2, torch.ones(1).double()])
    share = edges.diff()[torch.searchsorted(rates, canvases.mask_rate.double())]
    asked = (canvases.kind != Kind.PROMPT).sum(1)
    return share * asked / scored.sum(1).clamp(min=1)


def _estimates(
    told: Float[Tensor, "token 5"], weights: Float[Tensor, " token"], group: Int[Tensor, " token"], n_resamples: int, seed: int
) -> dict[str, Estimate]:
    """Returns every figure with its interval, resampling groups as ratios of sums."""
    used = torch.unique(group[weights > 0], return_inverse=True)[1]
    columns = torch.cat([told, torch.ones_like(told[:, :1])], 1)[weights > 0] * weights[weights > 0][:, None]
    members = int(used.max()) + 1
    sums = torch.zeros(members, 6, dtype=torch.float64).index_add_(0, used, columns)
    counts = resample_counts(members, n_resamples, torch.Generator().manual_seed(seed)).double()
    values, drawn = _figures(sums.sum(0)[None]), _figures(counts.T @ sums)
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    found = {}
    for name, value in values.items():
        low, high = torch.nanquantile(drawn[name], ends).tolist()
        found[name] = Estimate(value=float(value[0]), low=low, high=high, n=members)
    return found


def _figures(sums: Float[Tensor, "draw 6"]) -> dict[str, Float[Tensor, " draw"]]:
    clean, through, zero, mean, kl = (sums[:, column] / sums[:, _WEIGHT] for column in (_CLEAN, _SPLICED, _ZERO, _MEAN, _KL))
    shares = {"recovered": (zero - through) / (zero - clean), "recovered_over_mean": (mean - through) / (mean - clean)}
    return {"clean": clean, "spliced": through, "zero": zero, "mean": mean, "delta": through - clean, "kl": kl, **shares}


_TITLES = {
    "delta": ("What splicing an SAE in costs", "nats a token", "Cross-entropy with the SAE's reconstructions, less that without."),
    "recovered": ("Loss recovered", "share of the loss", "(zeros - spliced) / (zeros - clean), of the cross-entropies."),
    "recovered_over_mean": (
        "Loss recovered over the mean",
        "share of the loss",
        "(mean - spliced) / (mean - clean), of the cross-entropies.",
    ),
    "kl": ("Predictions moved by splicing", "nats a token", "KL(clean || spliced)."),
}


def splice_statistic(
    scores: Mapping[str, Sequence[SpliceScores]], figure: Literal["delta", "recovered", "recovered_over_mean", "kl"] = "delta"
) -> Statistic:
    """Returns one figure of splices by layer: a line for each named list of scores, a panel for each slice of the tokens."""

    def panel(one: SpliceScores) -> str:
        return "denoising bound" if one.weights == "bound" else "all tokens" if one.mask_rate is None else f"mask rate {one.mask_rate:g}"

    title, unit, about = _TITLES[figure]
    return Statistic(
        name=f"splice_{figure}",
        title=title,
        about=f"{about} One SAE at a time; intervals resample puzzles or documents.",
        unit=unit,
        panels=("tokens",),
        lines=("sae",),
        x="layer",
        values=[
            Measured(at={"tokens": panel(one), "sae": name, "layer": one.layer}, estimate=getattr(one, figure))
            for name, some in scores.items()
            for one in some
        ],
    )
