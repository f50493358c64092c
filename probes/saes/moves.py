"""An SAE fitted in one activation space, made to read and write another.

A move wraps an SAE in two affine maps, from the other space into its own and back, and folds both into the weights. So what comes out is
an ordinary SAE of the same architecture, which is saved, spliced and evaluated like any other.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from probes.align import Alignment, ridge_affine
from probes.controls import random_rotation
from probes.errors import ProbeError, check_finite
from probes.saes.folding import IN_LATENT_UNITS, built
from probes.saes.recipe import SaeRecipe
from probes.saes.training import train_sae

if TYPE_CHECKING:
    from sae_lens import SAE

MOVABLE = ("standard", "topk", "jumprelu", "gated")
"""SAELens' architectures that can be moved: BatchTopK and Matryoshka are JumpReLU once trained."""
EQUAL_NORMS = 1e-5
"""Decoder rows whose norms agree to this share of their mean have one norm, to rounding."""
PASSES = 50
"""Most times that ``tuning_curve`` sees a row. On 300 sudoku activations 10 passes left a FVU of .37, 50 one of .11 (scratch: .41, .13)."""


@dataclass(frozen=True, eq=False)
class Moving:
    """What a move may use: activations without labels, of the same tokens at the same positions in the same views."""

    source: Float[Tensor, "row d_model"]
    """Of the model that the SAE was fitted on."""
    target: Float[Tensor, "row d_model"]
    """Of the model that it is carried to."""
    fitted_on: str = ""
    """Fingerprint of where the target's activations came from; moved SAEs bear it."""

    def __post_init__(self) -> None:
        if self.source.ndim != 2 or self.source.shape != self.target.shape or len(self.source) < 2:
            shapes = f"source {tuple(self.source.shape)} and target {tuple(self.target.shape)}"
            raise ProbeError(f"{shapes}; both must be the same [row, d_model], with 2 rows at least")
        check_finite(self.source, "source activations")
        check_finite(self.target, "target activations")


def folded(sae: SAE[Any], into: Alignment, back: Alignment, *, move: str, fitted_on: str = "") -> SAE[Any]:
    """Returns the SAE that computes ``back(decode(encode(into(x))))``, of the same architecture.

    Decoder rows have unit norm and latents are lengths in the new space, except in a TopK SAE whose maps stretch its rows unequally:
    there rescaling the latents would change which of them win, so they keep the units of the old space, and the rows their lengths.

    Args:
        sae: Reads and writes raw activations.
        into: From the other space into the SAE's.
        back: From the SAE's space into the other.
        move: What this is called, kept as ``metadata.move``; ``metadata.moved_from`` keeps what the SAE was fitted on.
        fitted_on: Fingerprint of where the maps were fitted.

    Raises:
        ProbeError: On an architecture that cannot be moved, or a map of another width.
    """
    if len(into.offset) != sae.cfg.d_in or len(back.offset) != sae.cfg.d_in:
        raise ProbeError(f"maps of widths {len(into.offset)} and {len(back.offset)}; this SAE reads width {sae.cfg.d_in}")
    if sae.cfg.architecture() not in MOVABLE or sae.cfg.normalize_activations != "none":
        stated = f"a {sae.cfg.architecture()} SAE with normalize_activations {sae.cfg.normalize_activations!r}"
        raise ProbeError(f"{stated} cannot be moved; one of {', '.join(MOVABLE)} with 'none' can")
    config, weights = sae.cfg.to_dict(), {name: value.double() for name, value in sae.state_dict().items()}
    config["metadata"] |= {"moved_from": sae.cfg.metadata.fitted_on, "fitted_on": fitted_on, "move": move}
    if config.get("rescale_acts_by_decoder_norm"):
        config["rescale_acts_by_decoder_norm"] = False
        weights = _rows_divided(weights, weights["W_dec"].norm(dim=1))
    inward, outward = (_on(sae.W_dec.device, map_) for map_ in (into, back))
    weights = _through(weights, inward, outward, reads_b_dec=sae.cfg.apply_b_dec_to_input)
    norms = weights["W_dec"].norm(dim=1)
    if sae.cfg.architecture() != "topk":
        weights = _rows_divided(weights, norms)
    elif bool(((norms / norms.mean() - 1).abs() <= EQUAL_NORMS).all()):
        weights = _rows_divided(weights, norms.mean().expand_as(norms))  # one factor, so that no rounding decides which latents win
    return built(config, {name: value.to(sae.dtype) for name, value in weights.items()})


def _on(device: torch.device, map_: Alignment) -> Alignment:
    """Returns the map on a device, in float64."""
    return replace(map_, matrix=map_.matrix.to(device).double(), offset=map_.offset.to(device).double())


def _through(weights: Mapping[str, Tensor], into: Alignment, back: Alignment, *, reads_b_dec: bool) -> dict[str, Tensor]:
    """Returns the weights of an SAE that is read through ``into`` and written through ``back``."""
    bias = back(weights["b_dec"])
    read_at = into(bias) - weights["b_dec"] if reads_b_dec else into.offset
    shift = read_at @ weights["W_enc"]
    moved = {"W_enc": into.matrix @ weights["W_enc"], "W_dec": weights["W_dec"] @ back.matrix, "b_dec": bias}
    moved |= {name: weights[name] + shift for name in ("b_enc", "b_gate") if name in weights}
    if "b_mag" in weights:
        moved["b_mag"] = weights["b_mag"] + shift * weights["r_mag"].exp()
    return {**weights, **moved}


def _rows_divided(weights: Mapping[str, Tensor], norms: Float[Tensor, " d_sae"]) -> dict[str, Tensor]:
    """Returns the weights with each decoder row divided by a number, and its latent multiplied by it; rows of 0 stay."""
    norms = torch.where(norms > 0, norms, 1.0)
    scaled = {name: weights[name] * norms for name in ("W_enc", *IN_LATENT_UNITS) if name in weights}
    return {**weights, **scaled, "W_dec": weights["W_dec"] / norms[:, None]}


def zero_shot(sae: SAE[Any], _moving: Moving) -> SAE[Any]:
    """Returns the SAE as it is: the twins share a space because one was grown from the other."""
    return sae


def matched(sae: SAE[Any], moving: Moving) -> SAE[Any]:
    """Returns the SAE behind a shift and one scale, that give the target's activations the mean and mean square of the source's.

    Raises:
        ProbeError: Where the target's activations do not vary, and as ``folded``.
    """
    (here, spread), (there, target_spread) = _moments(moving.source), _moments(moving.target)
    if target_spread == 0 or spread == 0:
        raise ProbeError("all rows of one side are equal; matching mean squares needs rows that vary")
    scale = spread / target_spread
    into, back = _scaling(scale, there, here), _scaling(1 / scale, here, there)
    return folded(sae, into, back, move="matched", fitted_on=moving.fitted_on)


def _moments(rows: Float[Tensor, "row d_model"]) -> tuple[Float[Tensor, " d_model"], float]:
    """Returns the mean and the root mean square about it, in float64."""
    mean = rows.mean(0, dtype=torch.float64)
    return mean, math.sqrt(float((rows.double() - mean).square().mean()))


def _scaling(scale: float, start: Float[Tensor, " d_model"], end: Float[Tensor, " d_model"]) -> Alignment:
    """Returns the scaling that takes one point to another."""
    eye = torch.eye(len(start), dtype=torch.float64, device=start.device)
    return Alignment(scale * eye, end - scale * start, "scaling")


def stitched(sae: SAE[Any], moving: Moving, *, l2: float = 100.0) -> SAE[Any]:
    """Returns the SAE behind affine maps fitted on pairs: target to source before the encoder, source to target after the decoder.

    Model stitching (Chen et al. 2025, 2506.06609). With few pairs the maps fall back to the mean shift.

    Args:
        sae: Fitted on the source.
        moving: The pairs.
        l2: Weight of the identity in both maps, as in ``ridge_affine``.

    Raises:
        ProbeError: Where a side does not vary, and as ``folded``.
    """
    into, back = ridge_affine(moving.target, moving.source, l2=l2), ridge_affine(moving.source, moving.target, l2=l2)
    return folded(sae, into, back, move="stitched", fitted_on=moving.fitted_on)


def rotated(sae: SAE[Any], moving: Moving, *, seed: int = 0) -> SAE[Any]:
    """Returns the SAE turned by a random rotation about the target's mean: the floor of every move.

    On the target's activations it does what the SAE does on activations turned the other way.

    Raises:
        ProbeError: As ``folded``.
    """
    turn = random_rotation(sae.cfg.d_in, seed).to(moving.target.device).double()
    mean = moving.target.mean(0, dtype=torch.float64)
    into, back = (Alignment(matrix, mean - mean @ matrix, "rotation") for matrix in (turn.T, turn))
    return folded(sae, into, back, move="rotated", fitted_on=moving.fitted_on)


MOVES: dict[str, Callable[[SAE[Any], Moving], SAE[Any]]] = {"zero_shot": zero_shot, "matched": matched, "stitched": stitched}
"""Moves that train nothing, by name: (SAE of the source, activations of both) to an SAE that reads the target."""


def tuned(
    sae: SAE[Any], target: Float[Tensor, "row d_model"], recipe: SaeRecipe, *, freeze_decoder: bool = False, fitted_on: str = ""
) -> SAE[Any]:
    """Returns the SAE trained further on the target's activations.

    Args:
        sae: Where to begin: as it is, or moved.
        target: Raw rows of the other model.
        recipe: Of the SAE's own architecture and shape.
        freeze_decoder: Whether the dictionary stays as it is, so that latents keep their meaning.
        fitted_on: Fingerprint of where the rows came from.

    Raises:
        ProbeError: As ``train_sae``.
    """
    hook_name = sae.cfg.metadata.hook_name or ""
    return train_sae(target, recipe, hook_name=hook_name, fitted_on=fitted_on, start=sae, freeze_decoder=freeze_decoder)


@dataclass(frozen=True, eq=False)
class Tuning:
    """What some activations of the target are worth: to an SAE that was carried over, and to one that begins with nothing."""

    rows: int
    """Activations that both learned from."""
    steps: int
    """Optimiser steps that both took."""
    tuned: SAE[Any]
    frozen: SAE[Any]
    """Tuned, but for its dictionary."""
    scratch: SAE[Any]


def tuning_curve(
    sae: SAE[Any],
    target: Float[Tensor, "row d_model"],
    sizes: Iterable[int],
    recipe: SaeRecipe,
    *,
    passes: int = PASSES,
    fitted_on: str = "",
) -> Iterator[Tuning]:
    """Yields, by number of activations, SAEs tuned on so many, with and without the dictionary, and one trained from scratch on the same.

    The activations of a size are among those of each larger one. All take the recipe's steps, or ``passes`` over the rows where that is
    fewer; a batch is at most all rows. No warning says that they are few.

    Args:
        sae: Where tuning begins: as it is, or moved.
        target: Raw rows of the other model; those used are drawn with the recipe's seed.
        sizes: Numbers of activations.
        recipe: Of the SAE's own architecture and shape.
        passes: Most times that a row is seen.
        fitted_on: Fingerprint of where the rows came from.

    Raises:
        ProbeError: On a size that the target does not have, and as ``train_sae``.
    """
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(recipe.seed)).to(target.device)
    for rows in sizes:
        if not 2 <= rows <= len(target):
            raise ProbeError(f"{rows} activations; a size must be from 2 to the {len(target)} there are")
        batch = min(recipe.batch, rows)
        capped = replace(recipe, batch=batch, steps=max(1, min(recipe.steps, passes * rows // batch)))
        some = target[order[:rows]]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"\d+ activations for", category=UserWarning)
            carried, frozen = (tuned(sae, some, capped, freeze_decoder=kept, fitted_on=fitted_on) for kept in (False, True))
            scratch = train_sae(some, capped, hook_name=sae.cfg.metadata.hook_name or "", fitted_on=fitted_on)
        yield Tuning(rows, capped.steps, carried, frozen, scratch)
