"""``fit_logistic`` over all heads at once, against a scikit-learn ``LogisticRegression`` a head, on the same harvested activations.

Both minimise the same penalised loss over the same standardised features, so they are compared at equal accuracy: training loss and
held-out AUC stand beside the times. ``ratio`` is scikit-learn's seconds over ours, summed over all concepts; few heads and few rows
favour scikit-learn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from side_by_side import clocked, interleaved, parse, parser, show
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from interp.boards import mixed_boards
from interp.concepts import CONCEPTS
from interp.harvest import Harvest, harvest
from interp.transfer import Puzzles, labels_of
from models.hookpoints import HookPoint, resid_post
from models.load import load
from probes.linear import LinearProbe, fit_logistic
from probes.metrics import auc

L2 = 1e-3


def scikit_learn(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Returns weights [head, d_model] and biases, as ``fit_logistic`` has them: standardised features, the penalty 1/(l2 * rows)."""
    features = x.numpy()
    mean, spread = features.mean(0), features.std(0)
    features = (features - mean) / spread
    weights, biases = [], []
    for head in range(y.shape[1]):
        fitted = LogisticRegression(C=1 / (L2 * len(x)), max_iter=1000).fit(features, y[:, head].numpy())
        weights.append(fitted.coef_[0] / spread)
        biases.append(fitted.intercept_[0] - weights[-1] @ mean)
    return torch.from_numpy(np.stack(weights)).float(), torch.from_numpy(np.array(biases)).float()


def loss(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> float:
    """Returns what both minimise, summed over heads."""
    penalty = (weight * x.std(0, correction=0)).square().sum()
    fit = functional.binary_cross_entropy_with_logits(x @ weight.T + bias, y.float(), reduction="none").mean(0).sum()
    return (fit + L2 / 2 * penalty).item()


def compare(heads: tuple[str, ...], x: Tensor, y: Tensor, held_x: Tensor, held_y: Tensor, repeats: int) -> dict[str, Any]:
    """Returns the seconds of both on one concept, and that they came to the same."""

    def ours() -> LinearProbe:
        return fit_logistic(x, y, heads=heads, fitted_on="benchmark", l2=L2)

    seconds = interleaved({"fit_logistic": clocked(ours), "scikit_learn": clocked(lambda: scikit_learn(x, y))}, repeats)
    probe = ours()
    found = {"fit_logistic": (probe.weight, probe.bias), "scikit_learn": scikit_learn(x, y)}
    return {
        "heads": len(heads),
        **seconds,
        "ratio": seconds["scikit_learn"] / seconds["fit_logistic"],
        "loss": {name: loss(weight, bias, x, y) for name, (weight, bias) in found.items()},
        "auc": {name: auc(functional.linear(held_x, *reader), held_y).nanmean().item() for name, reader in found.items()},
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--boards", type=int, default=150, help="boards to fit on, 30 rows each; half as many are held out")
    arguments.add_argument("--layer", type=int, default=2, help="block after which the residual stream is read, from 0")
    options = parse(arguments)
    model = load("sudoku-ar")
    point: HookPoint = resid_post(options.layer)
    boards = mixed_boards(options.boards + options.boards // 2, options.seed)
    parts: list[Harvest] = []
    for part in (boards[: options.boards], boards[options.boards :]):
        puzzles = Puzzles.of(model, part)
        parts.append(harvest(model, puzzles.sequences, puzzles.asked, [point], sites_per_canvas=6, seed=options.seed))
    by_concept = {}
    for concept in CONCEPTS.values():
        (x, y), (held_x, held_y) = ((part.activations[point], labels_of(concept, part.sites)) for part in parts)
        by_concept[concept.name] = compare(concept.heads, x, y, held_x, held_y, options.repeats)
    total = {side: sum(entry[side] for entry in by_concept.values()) for side in ("fit_logistic", "scikit_learn")}
    figures = {
        "unit": "seconds a fit of all heads of all concepts",
        "rows": len(parts[0].sites),
        "d_model": model.d_model,
        **total,
        "ratio": total["scikit_learn"] / total["fit_logistic"],
        "by_concept": by_concept,
    }
    show(options, figures)


if __name__ == "__main__":
    main()
