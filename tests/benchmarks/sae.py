"""Training sparse autoencoders with ``train_saes``, against SAELens' own ``SAETrainer`` fed the same activations from memory.

``sae_lens`` is SAELens' trainer on the activations of one hook point, scaled beforehand, with the same architecture, batch and precision;
``from_memory`` is ours on raw activations of the same pool; ``end_to_end`` is ours with the activations of every pool harvested from the
bundled causal model while it trains. Each is measured with one hook point and with several at once, in activations a second over all of
them. ``ratio`` is the speed end to end over SAELens' with all hook points, ``one_ratio`` with one; ``memory_ratio`` and
``one_memory_ratio`` leave the harvest out. Seconds are of processor time, so that a busy machine spoils them less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle

from side_by_side import interleaved, parse, parser, show
from torch import Tensor

from interp.boards import mixed_boards
from interp.corpus import puzzle_corpus
from interp.harvest import harvest
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from models.load import load
from probes.saes.folding import Scaling
from probes.saes.recipe import SaeRecipe
from probes.saes.trainer import bfloat16_is_fast, untrained
from probes.saes.training import train_saes

SITES = 16
"""Of each of the five canvases that a sequence counts as: nearly every cell that is asked for."""


def sae_lens(x: Tensor, recipe: SaeRecipe) -> None:
    """Trains as SAELens does by itself."""
    from sae_lens import SAETrainer
    from sae_lens.config import LoggingConfig, SAETrainerConfig

    config = SAETrainerConfig(
        total_training_samples=recipe.steps * recipe.batch,
        train_batch_size_samples=recipe.batch,
        lr=recipe.lr,
        lr_end=recipe.lr / 10,
        autocast=bfloat16_is_fast(x.device),
        logger=LoggingConfig(log_to_wandb=False),
    )
    batches = cycle(Scaling.of(x)(x)[: len(x) // recipe.batch * recipe.batch].split(recipe.batch))
    SAETrainer(cfg=config, sae=untrained(recipe, x.shape[1], {}), data_provider=batches).fit()


def busy(run: Callable[[], object]) -> Callable[[], float]:
    """Returns ``run`` as a function that returns the processor time it took."""

    def timed() -> float:
        started = time.process_time()
        run()
        return time.process_time() - started

    return timed


def pool(model: LanguageModel, boards: int, points: Sequence[HookPoint], number: int) -> dict[str, Tensor]:
    """Returns the activations of boards that no other pool has."""
    found = harvest(model, puzzle_corpus(model.task, mixed_boards(boards, number)), points, sites_per_canvas=SITES, seed=number)
    return {str(point): found.activations[point] for point in points}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--model", default="sudoku-ar", help="a bundled name or a model folder")
    arguments.add_argument("--boards", type=int, default=256, help="sequences of a pool")
    arguments.add_argument("--points", type=int, default=8, help="hook points of the wide runs")
    arguments.add_argument("--steps", type=int, default=60, help="optimiser steps of a run")
    arguments.add_argument("--batch", type=int, default=1024, help="rows a step")
    arguments.add_argument("--d-sae", type=int, default=1024, help="latents")
    arguments.add_argument("--k", type=int, default=16, help="latents active in a row")
    options = parse(arguments)
    model = load(options.model)
    recipe = SaeRecipe("topk", options.d_sae, options.k, steps=options.steps, batch=options.batch, seed=options.seed)
    blocks = [HookPoint(layer, name) for layer in range(model.n_layers) for name in ("hook_resid_mid", "hook_resid_post")]
    widths = {"one": blocks[-1:], "all": blocks[-options.points :]}
    held = pool(model, options.boards, widths["all"], 0)
    last = str(blocks[-1])
    sides = {"sae_lens": busy(lambda: sae_lens(held[last], recipe))}
    for name, points in widths.items():
        recipes = {str(point): recipe for point in points}
        sides[f"from_memory_{name}"] = busy(lambda recipes=recipes: train_saes(lambda number: held, recipes))
        sides[f"end_to_end_{name}"] = busy(
            lambda recipes=recipes, points=points: train_saes(lambda number: pool(model, options.boards, points, number), recipes)
        )
    seconds = interleaved(sides, options.repeats)
    rows = options.steps * options.batch
    count = {name: len(points) for name, points in widths.items()}
    speed = {side: rows * count.get(side.rpartition("_")[2], 1) / taken for side, taken in seconds.items()}
    figures = {
        "unit": "activations a second of processor time",
        "points": count["all"],
        "rows_of_a_pool": len(held[last]),
        "d_model": model.d_model,
        **speed,
        "ratio": speed["end_to_end_all"] / speed["sae_lens"],
        "one_ratio": speed["end_to_end_one"] / speed["sae_lens"],
        "memory_ratio": speed["from_memory_all"] / speed["sae_lens"],
        "one_memory_ratio": speed["from_memory_one"] / speed["sae_lens"],
    }
    show(options, figures)


if __name__ == "__main__":
    main()
