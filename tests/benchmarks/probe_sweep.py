"""``fit_sweep`` with logistic probes, against a scikit-learn ``LogisticRegression`` a head: the same rows, features and penalty.

Heads: whether digit d is a candidate of cell c of the board visible from a token, for all 81 x 9 pairs, read at any token. Those that
have one class only in the rows to fit on are dropped, and counted in the figures. Hook points: the residual stream in the middle and at
the end of each block, the last ones. ``--d-model`` makes activations up instead, ill-conditioned, with heads planted in them.

Both sides are timed in seconds of processor time, because a sweep is too long to be spared by what else the machine does. scikit-learn
fits a sample of the heads; its time is scaled to all of them. ``ratio`` is its time over ours. Accuracy and cosine are of that sample.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from side_by_side import interleaved, parse, parser, show
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from interp.boards import mixed_boards
from interp.concepts.sudoku import candidate_sets, visible_cells
from interp.corpus import puzzle_corpus
from interp.harvest import harvest
from models.hookpoints import HookPoint
from models.load import load
from probes.moments import Chunk
from probes.sweep import ProbeSweep, estimate_sweep, fit_sweep

L2 = 1e-3
SITES = 25
"""Rows of a board."""
Rows = dict[str, Chunk]


def real(boards: int, points: int, seed: int) -> tuple[Rows, Rows]:
    """Returns labelled rows of the bundled causal model to fit on, and of a quarter as many other boards to test on."""
    model = load("sudoku-ar")
    blocks = [HookPoint(layer, name) for layer in range(model.n_layers) for name in ("hook_resid_mid", "hook_resid_post")]
    chosen = blocks[-points:]
    examples = mixed_boards(boards + max(boards // 4, 1), seed)
    parts = []
    for part in (examples[:boards], examples[boards:]):
        found = harvest(model, puzzle_corpus(model.task, part), chosen, sites_per_canvas=SITES // 5, seed=seed)
        visible, _ = visible_cells(found.sites)
        labels = torch.from_numpy(candidate_sets(visible)).flatten(1)
        parts.append({str(point): (found.activations[point], labels) for point in chosen})
    return parts[0], parts[1]


def made_up(rows: int, points: int, d_model: int, heads: int, seed: int) -> tuple[Rows, Rows]:
    """Returns rows of ill-conditioned activations with planted heads, from common to rare."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(rows + rows // 4, d_model, generator=generator)
    scores = latent @ torch.randn(d_model, heads, generator=generator) * (2 / d_model**0.5)
    labels = scores + torch.randn(scores.shape, generator=generator) > torch.linspace(1, 5.5, heads)
    fit, test = {}, {}
    for point in range(points):
        mixed = torch.linalg.qr(torch.randn(d_model, d_model, generator=generator)).Q
        x = latent * torch.logspace(1.5, -1, d_model) @ mixed
        fit[f"made up {point}"], test[f"made up {point}"] = (x[:rows], labels[:rows]), (x[rows:], labels[rows:])
    return fit, test


def with_both_classes(fit: Rows, test: Rows) -> tuple[Rows, Rows, int]:
    """Returns the rows with the heads that vary in the rows to fit on, and how many do not."""
    labels = next(iter(fit.values()))[1]
    kept = (labels.any(0) & ~labels.all(0)).nonzero().flatten()
    fit, test = ({point: (x, y[:, kept]) for point, (x, y) in part.items()} for part in (fit, test))
    return fit, test, labels.shape[1] - len(kept)


def ours(fit: Rows) -> ProbeSweep:
    """Returns the sweep over all heads and hook points."""
    heads = [str(head) for head in range(next(iter(fit.values()))[1].shape[1])]
    rows = {point: [chunk] for point, chunk in fit.items()}
    return fit_sweep(rows, heads=heads, fitted_on=dict.fromkeys(rows, "benchmark"), options={"logistic": {"l2": L2}})


def scikit_learn(fit: Rows, sample: list[int]) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns weights and biases of the sampled heads by hook point: standardised features, C = 1 / (l2 * rows)."""
    found = {}
    for point, (x, y) in fit.items():
        features = x.numpy()
        mean, spread = features.mean(0), features.std(0)
        features = (features - mean) / spread
        fits = [LogisticRegression(C=1 / (L2 * len(x)), max_iter=1000).fit(features, y[:, head].numpy()) for head in sample]
        weight = np.concatenate([fitted.coef_ for fitted in fits]) / spread
        bias = np.concatenate([fitted.intercept_ for fitted in fits]) - weight @ mean
        found[point] = (torch.from_numpy(weight).float(), torch.from_numpy(bias).float())
    return found


def busy(run: Callable[[], object]) -> Callable[[], float]:
    """Returns ``run`` as a function that returns the processor time it took."""

    def timed() -> float:
        started = time.process_time()
        run()
        return time.process_time() - started

    return timed


def equality(fit: Rows, test: Rows, sample: list[int]) -> dict[str, float]:
    """Returns how far both sides are apart on the sampled heads, over all hook points."""
    sweep, theirs = ours(fit), scikit_learn(fit, sample)
    accuracies, distances = [], []
    for point, (weight, bias) in theirs.items():
        x, y = test[point]
        probe, spread = sweep.at(point, "logistic"), fit[point][0].std(0)
        right = [
            ((scores > 0) == y[:, sample]).double().mean(0) for scores in (probe.scores(x)[:, sample], functional.linear(x, weight, bias))
        ]
        accuracies.append(torch.stack(right))
        distances.append(1 - functional.cosine_similarity(probe.weight[sample] * spread, weight * spread))
    ours_, theirs_ = torch.stack(accuracies).unbind(1)
    apart = torch.cat(distances)
    return {
        "accuracy": ours_.mean().item(),
        "scikit_learn_accuracy": theirs_.mean().item(),
        "mean_accuracy_difference": (ours_ - theirs_).mean().item(),
        "greatest_accuracy_difference": (ours_ - theirs_).abs().max().item(),
        "mean_cosine_distance": apart.mean().item(),
        "greatest_cosine_distance": apart.max().item(),
    }


def growth(rows: int, d_model: int, heads: int, seed: int) -> dict[str, float]:
    """Returns the processor time of one hook point with a quarter of the rows, all, and four times as many, made up."""
    fit, _ = made_up(4 * rows, 1, d_model, heads, seed)
    [(x, y)] = fit.values()
    return {
        f"{count} rows": busy(lambda count=count: ours(with_both_classes({"a": (x[:count], y[:count])}, {})[0]))()
        for count in (rows // 4, rows, 4 * rows)
    }


def main() -> None:
    arguments = parser(__doc__, repeats=1)
    arguments.add_argument("--boards", type=int, default=800, help=f"boards to fit on, {SITES} rows each; a quarter as many are held out")
    arguments.add_argument("--points", type=int, default=8, help="hook points")
    arguments.add_argument("--d-model", type=int, default=0, help="width of made-up activations; 0 reads the bundled sudoku-ar")
    arguments.add_argument("--heads", type=int, default=729, help="heads of made-up activations")
    arguments.add_argument("--sample", type=int, default=10, help="heads that scikit-learn fits at each hook point")
    options = parse(arguments)
    rows = options.boards * SITES
    if options.d_model:
        fit, test = made_up(rows, options.points, options.d_model, options.heads, options.seed)
    else:
        fit, test = real(options.boards, options.points, options.seed)
    fit, test, dropped = with_both_classes(fit, test)
    x, y = next(iter(fit.values()))
    heads = y.shape[1]
    sample = torch.linspace(0, heads - 1, min(options.sample, heads)).long().unique().tolist()
    seconds = interleaved({"fit_sweep": busy(lambda: ours(fit)), "sampled": busy(lambda: scikit_learn(fit, sample))}, options.repeats)
    theirs = seconds["sampled"] * heads / len(sample)
    cost = estimate_sweep(points=len(fit), rows=len(x), d_model=x.shape[1], heads=heads)
    figures: dict[str, Any] = {
        "unit": "seconds of processor time a sweep",
        "points": len(fit),
        "heads": heads,
        "heads_of_one_class": dropped,
        "rows": len(x),
        "d_model": x.shape[1],
        "fit_sweep": seconds["fit_sweep"],
        "scikit_learn": theirs,
        "ratio": theirs / seconds["fit_sweep"],
        **equality(fit, test, sample),
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "estimated_seconds": cost.seconds,
        "estimated_megabytes": cost.bytes / 2**20,
        "growth": growth(len(x), x.shape[1], heads, options.seed),
    }
    show(options, figures)


if __name__ == "__main__":
    main()
