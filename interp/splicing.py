"""Sparse autoencoders inside the forward pass: activations replaced by their reconstructions, everywhere or at some tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from models.backends import Edit
from models.hookpoints import HookPoint
from models.language_model import LanguageModel

if TYPE_CHECKING:
    from sae_lens import SAE

Replace = Callable[[Float[Tensor, "row d_model"]], Float[Tensor, "row d_model"]]
"""What stands in place of activations."""


class SplicingError(ValueError):
    """An SAE that does not fit where it is to be put, or canvases that nothing can be scored on."""


@contextmanager
def spliced(
    model: LanguageModel, saes: Mapping[HookPoint, SAE[Any]], *, error_term: bool = False, where: Bool[Tensor, "batch pos"] | None = None
) -> Iterator[None]:
    """Replaces activations by their SAE's reconstructions in every forward pass inside the block.

    Of several SAEs each reads what those before it in the network left.

    Args:
        model: Either twin.
        saes: By hook point; they read and write raw activations.
        error_term: Adds back what the SAE leaves out, so that nothing changes but by rounding: what an edit of latents begins from.
        where: Only the activations from which these tokens are predicted, whatever the model's logit shift; None is all of them.

    Raises:
        SplicingError: On an SAE of another width, tokens that nothing predicts, or passes over other canvases than ``where``.
        HookPointError: Where the model lacks one of the points, or no pass is made.
    """
    with model.hooks(replacing(model, {point: partial(rebuilt, sae, error_term) for point, sae in saes.items()}, where)):
        yield


def rebuilt(sae: SAE[Any], error_term: bool, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """Returns what an SAE makes of raw activations; with its error term, the activations."""
    if x.shape[1:] != sae.W_dec.shape[1:]:
        raise SplicingError(f"an SAE of width {sae.W_dec.shape[1]} for activations of width {x.shape[-1]}; they must be the same")
    found = sae.decode(sae.encode(x))
    return (found.double() + (x.double() - found.double())).to(x.dtype) if error_term else found


def predicting(where: Bool[Tensor, "batch pos"], shift: int) -> Bool[Tensor, "batch pos"]:
    """Returns the positions of the network from which tokens are predicted."""
    return functional.pad(where[:, shift:], (0, shift))


def replacing(
    model: LanguageModel, replacements: Mapping[HookPoint, Replace], where: Bool[Tensor, "batch pos"] | None
) -> dict[HookPoint, Edit]:
    """Returns the edits that put replacements at the activations that some tokens are predicted from, or at all.

    Raises:
        SplicingError: On tokens that nothing predicts; in a forward pass over canvases of another shape than ``where``.
    """
    shift = model.facts.logit_shift
    if where is not None and where[:, :shift].any():
        raise SplicingError(f"a splice at token 0; {model.name} predicts from the token before, so choose from token {shift} on")

    def edit(replace: Replace, activation: Tensor) -> Tensor:
        if where is None:
            return replace(activation.flatten(0, 1).float()).to(activation.dtype).view_as(activation)
        if where.shape != activation.shape[:2]:
            raise SplicingError(f"a splice for canvases {tuple(where.shape)}; the pass reads {tuple(activation.shape[:2])}")
        places, edited = predicting(where, shift).to(activation.device), activation.clone()
        edited[places] = replace(activation[places].float()).to(activation.dtype)
        return edited

    return {point: partial(edit, replace) for point, replace in replacements.items()}
