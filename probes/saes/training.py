"""Training sparse autoencoders on activations that are already here, or that come pool by pool and need never be kept."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.errors import ProbeError, check_finite
from probes.saes.folding import Scaling
from probes.saes.recipe import SaeRecipe
from probes.saes.trainer import SaeTrainer

if TYPE_CHECKING:
    from sae_lens import SAE

ROWS_A_LATENT = 8
"""With fewer activations a latent, a warning says so."""
PROGRESS_NAME = "training.json"

Pool = Mapping[str, Float[Tensor, "row d_model"]]
"""Rows of every hook point, of the same sites."""


def within_norm(x: Float[Tensor, "row d_model"], most: float = 10.0) -> Bool[Tensor, " row"]:
    """Returns which rows are at most ``most`` times as long as the median row.

    Fewer than 1 % of a language model's activations, such as those of a first token, are longer by far; they ruin the training of an SAE
    and its transfer to another model (Kissane et al. 2024).
    """
    norms = x.float().norm(dim=1)
    return norms <= most * norms.median()


def _warn_of_few(rows: int, d_sae: int) -> None:
    if rows < ROWS_A_LATENT * d_sae:
        warnings.warn(
            f"{rows} activations for {d_sae} latents; with fewer than {ROWS_A_LATENT} a latent an SAE learns them by heart",
            UserWarning,
            stacklevel=3,
        )


def _batches(rows: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Yields the numbers of the rows of each batch without end: every row once before any row twice."""
    generator = torch.Generator().manual_seed(seed)
    waiting = torch.empty(0, dtype=torch.int64)
    while True:
        while len(waiting) < batch:
            waiting = torch.cat([waiting, torch.randperm(rows, generator=generator)])
        yield waiting[:batch]
        waiting = waiting[batch:]


def train_sae(
    activations: Float[Tensor, "row d_model"],
    recipe: SaeRecipe,
    *,
    hook_name: str = "",
    fitted_on: str = "",
    start: SAE[Any] | None = None,
    freeze_decoder: bool = False,
    on_step: Callable[[int, float], None] = lambda step, fvu: None,
) -> SAE[Any]:
    """Returns a sparse autoencoder of raw activations: silent, and the same for the same recipe and machine.

    SAELens leaves the decoder bias at 0 and does not centre, so activations are centred and scaled here, and the map is folded into
    the weights at the end. Decoder rows have unit norm, so a latent's value is its length in activation space. Weights come frozen;
    gradients still flow to activations.

    Args:
        activations: Rows to learn from, on the device to train on.
        recipe: Architecture, size and length.
        hook_name: Where the activations came from, in TransformerLens's vocabulary; splicing needs it.
        fitted_on: Fingerprint of where they came from: model and hook point.
        start: An SAE of raw activations to go on from, of the recipe's shape; None begins at random.
        freeze_decoder: Whether the dictionary and its bias stay as they are, so that only the encoder learns.
        on_step: Called with the number of steps done and the batch's fraction of variance unexplained.

    Raises:
        ProbeError: On activations that are not finite or do not vary, a ``start`` that does not fit, or a loss that is not a number.
    """
    scaling = Scaling.of(activations)
    _warn_of_few(len(activations), recipe.d_sae)
    device = activations.device
    trainer = SaeTrainer(
        recipe, scaling, hook_name=hook_name, fitted_on=fitted_on, device=device, start=start, freeze_decoder=freeze_decoder
    )
    batches = _batches(len(activations), recipe.batch, recipe.seed)
    for step in range(1, recipe.steps + 1):
        on_step(step, trainer.step(activations[next(batches).to(device)]))
    return trainer.finish(activations)


def rows_wanted(recipe: SaeRecipe, passes: int) -> int:
    """Returns how many rows, all pools together, a training needs that learns from each pool so often: never less than a batch."""
    return max(recipe.batch, -(-recipe.steps * recipe.batch // passes))


def train_saes(
    pools: Callable[[int], Pool],
    recipes: Mapping[str, SaeRecipe],
    *,
    passes: int = 1,
    fitted_on: Mapping[str, str] | None = None,
    device: torch.device | str = "cpu",
    checkpoint: Path | None = None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, SAE[Any]]:
    """Returns a sparse autoencoder of each hook point, all trained in one pass; one pool of activations is held at a time.

    Each pool is shuffled, gives its whole batches to every training, and is replaced by the next one, until all steps are taken. The
    first decides how activations are centred and scaled, the last the thresholds of SAEs that are trained by batch. A pool of a live model
    is slow to make and fast to learn from, so it can be learned from several times; then 1 / ``passes`` of all rows are distinct.

    Args:
        pools: Returns pool number 0, 1, ...: raw rows by hook point, as many of each, and the same whenever it is asked for that number.
        recipes: What to train, by name of hook point in TransformerLens's vocabulary; all with the same steps and batch.
        passes: How often each pool is learned from, every time in a new order, before the next one is asked for.
        fitted_on: Fingerprint of model and hook point, by hook point; None leaves them empty.
        device: What to train on.
        checkpoint: Folder to write the state to after each pool, and to resume from; a resumed training gives the same weights.
        on_step: Told (steps done, steps in all).

    Raises:
        ProbeError: On recipes of several lengths, less than one pass, a pool that lacks rows, or a checkpoint of another training.
    """
    if passes < 1:
        raise ProbeError(f"passes is {passes}; each pool must be learned from at least 1 time")
    steps, batch = _common_length(recipes)
    origin = fitted_on or {}
    if checkpoint is not None and (checkpoint / PROGRESS_NAME).exists():
        number, trainers = _resume(checkpoint, recipes, passes, origin, device)
    else:
        number, trainers = 0, {}
        _warn_of_few(steps * batch // passes, max(recipe.d_sae for recipe in recipes.values()))
    while True:
        pool = _checked(pools(number), recipes, batch, number)
        if not trainers:
            trainers = {
                point: SaeTrainer(recipe, Scaling.of(pool[point]), hook_name=point, fitted_on=origin.get(point, ""), device=device)
                for point, recipe in recipes.items()
            }
        orders = {point: _order(len(pool[point]), recipe.seed, number, passes) for point, recipe in recipes.items()}
        done = _train_on(pool, trainers, orders, steps, on_step)
        if done == steps:
            return {point: trainer.finish(pool[point]) for point, trainer in trainers.items()}
        del pool
        number += 1
        if checkpoint is not None:
            _save(checkpoint, number, passes, trainers)


def _common_length(recipes: Mapping[str, SaeRecipe]) -> tuple[int, int]:
    """Returns the steps and the batch that all recipes share."""
    lengths = {(recipe.steps, recipe.batch) for recipe in recipes.values()}
    if len(lengths) != 1:
        found = ", ".join(f"{steps} x {batch}" for steps, batch in sorted(lengths)) or "no recipes"
        raise ProbeError(f"the recipes take steps x rows of {found}; one pass needs them to be the same")
    return lengths.pop()


def _checked(pool: Pool, recipes: Mapping[str, SaeRecipe], batch: int, number: int) -> Pool:
    """Returns a pool that has finite rows for at least a batch at every hook point."""
    missing = [point for point in recipes if point not in pool]
    if missing:
        raise ProbeError(f"pool {number} lacks {', '.join(missing)}; it has {', '.join(pool)}")
    rows = {len(pool[point]) for point in recipes}
    if len(rows) != 1:
        raise ProbeError(f"pool {number} has {', '.join(map(str, sorted(rows)))} rows at its hook points; all need as many")
    if min(rows) < batch:
        raise ProbeError(f"pool {number} has {min(rows)} rows, and a batch is {batch}; make the batch smaller, or show more sequences")
    for point in recipes:
        check_finite(pool[point], f"activations at {point}")
    return pool


def _train_on(
    pool: Pool, trainers: Mapping[str, SaeTrainer], orders: Mapping[str, Tensor], steps: int, on_step: Callable[[int, int], None]
) -> int:
    """Trains on all whole batches of a pool, and returns the steps done since the beginning."""
    done = min(trainer.done for trainer in trainers.values())
    batch = next(iter(trainers.values())).recipe.batch
    for first in range(0, len(next(iter(orders.values()))) // batch * batch, batch):
        for point, trainer in trainers.items():
            trainer.step(pool[point][orders[point][first : first + batch]])
        done += 1
        on_step(done, steps)
        if done == steps:
            break
    return done


def _order(rows: int, seed: int, number: int, passes: int) -> Int[Tensor, " row"]:
    """Returns the order in which the rows of a pool are learned from: all of them once, then again in another order."""
    return torch.from_numpy(np.concatenate([np.random.default_rng((seed, number, turn)).permutation(rows) for turn in range(passes)]))


def _save(checkpoint: Path, number: int, passes: int, trainers: Mapping[str, SaeTrainer]) -> None:
    """Writes the state before pool ``number``; the one before it stays until this one is whole."""
    for point, trainer in trainers.items():
        trainer.save(checkpoint / str(number) / point)
    partial = checkpoint / f"{PROGRESS_NAME}.partial"
    partial.write_text(json.dumps({"pool": number, "passes": passes, "points": list(trainers)}), encoding="utf-8")
    partial.replace(checkpoint / PROGRESS_NAME)
    for folder in checkpoint.iterdir():
        if folder.is_dir() and folder.name != str(number):
            shutil.rmtree(folder)


def _resume(
    checkpoint: Path, recipes: Mapping[str, SaeRecipe], passes: int, fitted_on: Mapping[str, str], device: torch.device | str
) -> tuple[int, dict[str, SaeTrainer]]:
    """Returns the number of the pool to go on with, and the trainers as they were before it."""
    progress = json.loads((checkpoint / PROGRESS_NAME).read_text(encoding="utf-8"))
    if set(progress["points"]) != set(recipes):
        raise ProbeError(
            f"{checkpoint} is of a training at {', '.join(progress['points'])}, not {', '.join(recipes)}; they must be the same"
        )
    if progress["passes"] != passes:
        raise ProbeError(f"{checkpoint} is of a training with {progress['passes']} passes, not {passes}; they must be the same")
    folder = checkpoint / str(progress["pool"])
    return progress["pool"], {
        point: SaeTrainer.resume(folder / point, recipe, hook_name=point, fitted_on=fitted_on.get(point, ""), device=device)
        for point, recipe in recipes.items()
    }
