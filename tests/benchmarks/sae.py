"""Training sparse autoencoders with ``train_saes``, against SAELens' own ``SAETrainer`` fed the same activations from memory.

``sae_lens`` is SAELens' trainer on the activations of one hook point, scaled beforehand, told all that ours is (architecture, batch,
precision, schedule, when a latent counts as dead); ``sae_lens_window_1000`` calls a latent dead after 1000 steps, SAELens' default, and
so never tries to revive one in a run this short. ``from_memory`` is ours on the same raw activations. ``end_to_end`` is ours with
``LivePools`` of the bundled causal model: nothing is harvested beforehand, and each pool is learned from once, or ``passes`` times. Both
are measured at one hook point, the last, which takes the whole forward pass, and at several at once, in activations a second over all.

``ratios`` are speeds over that of ``sae_lens``. Seconds are of processor time, so that a busy machine spoils them less. ``memory_mib`` is
what the process holds after the third and the last pool but one of a training on small pools.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path

from side_by_side import interleaved, parse, parser, show
from torch import Tensor

from interp.boards import mixed_boards
from interp.canvases import default_source
from interp.corpus import Corpus, puzzle_corpus
from interp.harvest import Plan
from interp.saes.pools import LivePools
from models.hookpoints import HookPoint, resid_post
from models.language_model import LanguageModel
from models.load import load
from probes.saes.folding import Scaling
from probes.saes.recipe import SaeRecipe
from probes.saes.trainer import trainer_config, untrained
from probes.saes.training import rows_wanted, train_saes

SITES, OUTLIERS = 32, 10.0
"""As a run of SAEs has them unless told."""
POOLS = 12
"""Of the training whose memory is looked at."""
PAGE = 4096


def sae_lens(x: Tensor, recipe: SaeRecipe, window: int | None = None) -> None:
    """Trains as SAELens does by itself, with a latent dead after so many steps; None is when it is for us."""
    from sae_lens import SAETrainer

    config = trainer_config(recipe, x.device)
    config = replace(config, dead_feature_window=config.dead_feature_window if window is None else window)
    batches = cycle(Scaling.of(x)(x)[: len(x) // recipe.batch * recipe.batch].split(recipe.batch))
    SAETrainer(cfg=config, sae=untrained(recipe, x.shape[1], {}), data_provider=batches).fit()


def busy(run: Callable[[], object]) -> Callable[[], float]:
    """Returns ``run`` as a function that returns the processor time it took."""

    def timed() -> float:
        started = time.process_time()
        run()
        return time.process_time() - started

    return timed


def live(model: LanguageModel, corpus: Corpus, points: Sequence[HookPoint], wanted: int) -> LivePools:
    """Returns pools as a run of SAEs has them."""
    return LivePools(model, corpus, tuple(points), Plan(default_source(model), sites_per_canvas=SITES), OUTLIERS, wanted)


def resident_mib() -> float:
    """Returns the memory of this process, after what is free has gone back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE / 2**20


def memory(pools: LivePools, point: HookPoint, recipe: SaeRecipe) -> dict[str, float]:
    """Returns the memory when the third and the last but one of ``POOLS`` pools have been learned from."""
    seen: list[float] = []

    def looked(number: int) -> dict[str, Tensor]:
        seen.append(resident_mib())
        return pools(number)

    size = len(pools(0)[str(point)]) // recipe.batch
    train_saes(looked, {str(point): replace(recipe, steps=size * POOLS)})
    return {"pools": POOLS, "after_pool_3": seen[3], f"after_pool_{POOLS - 1}": seen[-1]}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--model", default="sudoku-ar", help="a bundled name or a model folder")
    arguments.add_argument("--boards", type=int, default=2000, help="sequences of the corpus")
    arguments.add_argument("--points", type=int, default=6, help="hook points of the wide runs, the last ones")
    arguments.add_argument("--steps", type=int, default=100, help="optimiser steps of a run")
    arguments.add_argument("--passes", type=int, default=8, help="how often a pool is learned from, besides once")
    arguments.add_argument("--batch", type=int, default=1024, help="rows a step")
    arguments.add_argument("--d-sae", type=int, default=1024, help="latents")
    arguments.add_argument("--k", type=int, default=16, help="latents active in a row")
    options = parse(arguments)
    model = load(options.model)
    corpus = puzzle_corpus(model.task, mixed_boards(options.boards, options.seed))
    recipe = SaeRecipe("topk", options.d_sae, options.k, steps=options.steps, batch=options.batch, seed=options.seed)
    rows = options.steps * options.batch
    blocks = [resid_post(layer) for layer in range(model.n_layers)]
    widths = {"one": blocks[-1:], "all": blocks[-options.points :]}
    held = live(model, corpus, widths["all"], rows_wanted(recipe, options.passes))(0)
    last = str(blocks[-1])
    sides = {
        "sae_lens": busy(lambda: sae_lens(held[last], recipe)),
        "sae_lens_window_1000": busy(lambda: sae_lens(held[last], recipe, 1000)),
    }
    for name, points in widths.items():
        recipes = {str(point): recipe for point in points}
        sides[f"from_memory_{name}"] = busy(lambda recipes=recipes: train_saes(lambda number: held, recipes))
        for passes in (1, options.passes):
            pools = live(model, corpus, points, rows_wanted(recipe, passes))
            sides[f"end_to_end_{passes}_{name}"] = busy(
                lambda pools=pools, recipes=recipes, passes=passes: train_saes(pools, recipes, passes=passes)
            )
    seconds = interleaved(sides, options.repeats)
    count = {name: len(points) for name, points in widths.items()}
    speed = {side: rows * count.get(side.rpartition("_")[2], 1) / taken for side, taken in seconds.items()}
    figures = {
        "unit": "activations a second of processor time",
        "points": count["all"],
        "d_model": model.d_model,
        **speed,
        "ratios": {side: value / speed["sae_lens"] for side, value in speed.items() if not side.startswith("sae_lens")},
        "memory_mib": memory(live(model, corpus, widths["one"], 4 * options.batch), blocks[-1], recipe),
    }
    show(options, figures)


if __name__ == "__main__":
    main()
