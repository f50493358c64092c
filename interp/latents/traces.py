"""SAE latents at every place and call of a denoising run, the strongest of each place only.

Between its calls a masked model without a cache carries nothing but tokens, so latents are read by showing it the canvases of a recorded
run again. "At position p" is where the network predicts token p, whatever its logit shift.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.dynamics import writable
from interp.harvest import BATCH, activations_at
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from models.trajectory import Trajectory

if TYPE_CHECKING:
    from sae_lens import SAE

CHUNK = 4_000_000
"""Most latents that are held at once: only the strongest of a place are kept."""


class LatentTraceError(ValueError):
    """A run whose latents cannot be read, or a comparison without runs."""


@dataclass(frozen=True, eq=False)
class LatentTrace:
    """The strongest latents at every position that a run may write, in every call; steps are the trajectory's, with nothing at step 0."""

    latent: Int[np.ndarray, "batch step pos top"]
    """Strongest first; -1 where fewer are above 0, and where nothing was read."""
    value: Float[np.ndarray, "batch step pos top"]
    """0 where there is none."""
    position: Int[np.ndarray, " pos"]
    """Which of the trajectory's positions are here."""
    unwritten: Bool[np.ndarray, "batch step pos"]
    """Where the canvas that the call of a step read was still to be written."""
    written: Bool[np.ndarray, "batch step pos"]
    """... and where a token was in place. Neither is true where the sample was not in the call, and at prompt and padding."""
    commit_step: Int[np.ndarray, "batch pos"]
    """The call that wrote the final token; 0 where none had to, -1 where none did."""


@torch.no_grad()
def record_latents(model: LanguageModel, trajectory: Trajectory, sae: SAE[Any], point: HookPoint, *, top_k: int = 32) -> LatentTrace:
    """Returns the strongest latents of a run at a hook point, by reading its canvases once more up to that point.

    Args:
        model: The model that ran.
        trajectory: Of ``denoise``, in memory or loaded.
        sae: Reads raw activations of the hook point.
        point: Where to read.
        top_k: So many latents are kept of a place.

    Raises:
        LatentTraceError: On another model's run, one whose activations were edited, or a ``top_k`` that the SAE does not have.
        HookPointError: Where the model lacks the point.
    """
    _check_readable(model, trajectory, sae, top_k)
    tokens, may = trajectory.data["token"].values, writable(trajectory)
    may[:, : model.facts.logit_shift] = False
    position = np.flatnonzero(may.any(0))
    called = np.asarray((trajectory.data["proposal"].values >= 0).any(2))
    before = np.roll(tokens, 1, axis=1)[:, :, position]
    here = called[:, :, None] & may[:, None, position]
    unwritten = here & (before == model.task.mask_token_id)
    latent = np.full((*here.shape, top_k), -1, np.int32)
    value = np.zeros(latent.shape, np.float32)
    for sample, step in _canvases(called, (tokens[:, 0] >= 0).sum(1)):
        read = torch.from_numpy(tokens[sample, step - 1, : (tokens[sample[0], 0] >= 0).sum()]).long()
        rows, places = np.nonzero(here[sample, step])
        activations = activations_at(model, read, torch.from_numpy(rows), torch.from_numpy(position[places]), [point])[point]
        latent[sample[rows], step[rows], places], value[sample[rows], step[rows], places] = _strongest(sae, activations, top_k)
    commit_step = trajectory.data["commit_step"].values[:, position]
    return LatentTrace(latent, value, position, unwritten, here & ~unwritten, commit_step)


def _check_readable(model: LanguageModel, trajectory: Trajectory, sae: SAE[Any], top_k: int) -> None:
    if trajectory.fingerprint != model.fingerprint:
        raise LatentTraceError(f"the run is of {trajectory.model} ({trajectory.fingerprint}), not of {model.name} ({model.fingerprint})")
    if any(one.get("steered") for one in trajectory.surgery):
        raise LatentTraceError("activations of the run were edited; latents are read by showing the model its canvases without edits")
    if not 1 <= top_k <= len(sae.W_dec):
        raise LatentTraceError(f"top_k is {top_k}; it must be from 1 to the SAE's {len(sae.W_dec)} latents")


def _canvases(
    called: Bool[np.ndarray, "batch step"], lengths: Int[np.ndarray, " batch"]
) -> Iterator[tuple[Int[np.ndarray, " canvas"], Int[np.ndarray, " canvas"]]]:
    """Yields the (sample, step) of calls, some at a time, of samples of one length."""
    for length in np.unique(lengths):
        sample, step = np.nonzero(called & (lengths == length)[:, None])
        for start in range(0, len(sample), BATCH):
            yield sample[start : start + BATCH], step[start : start + BATCH]


def _strongest(
    sae: SAE[Any], activations: Float[Tensor, "row d_model"], top_k: int
) -> tuple[Int[np.ndarray, "row top"], Float[np.ndarray, "row top"]]:
    parts = [sae.encode(rows.to(sae.W_dec)).topk(top_k, dim=1) for rows in activations.split(max(1, CHUNK // len(sae.W_dec)))]
    value = torch.cat([part.values for part in parts]).float().cpu()
    latent = torch.cat([part.indices for part in parts]).int().cpu()
    return latent.masked_fill(value <= 0, -1).numpy(), value.clamp(min=0).numpy()
