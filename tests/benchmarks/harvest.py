"""``activations_at`` against the bare forward pass, TransformerLens' ``run_with_cache`` and an nnsight trace, on the same network.

Each side is asked for one residual stream (that of the middle block), for the last one alone, and for all of them; the bare pass keeps
none. ``ratio`` is the speed of ``activations_at`` with one hook point over that of the bare pass (1 would be free); ``last_ratio`` and
``all_ratio`` are the same for the last residual stream and for all. ``ratios`` are its speeds over those of the other tools.
``activations_at`` ends a pass at the last point, and also picks the rows asked for out of each batch, which the others don't.
``harvest_ratio`` is the speed of all of ``harvest`` (masks, draws, sites, reading, all residual streams) over that of the bare pass.
"""

from __future__ import annotations

import torch
from side_by_side import clocked, interleaved, parse, parser, show
from torch import Tensor

from interp.boards import mixed_boards
from interp.canvases import Masked
from interp.corpus import puzzle_corpus
from interp.harvest import activations_at, harvest
from models.hookpoints import HookPoint, resid_post
from models.language_model import LanguageModel
from models.load import load


@torch.no_grad()
def transformer_lens(model: LanguageModel, tokens: Tensor, points: list[HookPoint]) -> list[Tensor]:
    names = [str(point) for point in points]
    _, cache = model.bridge.run_with_cache(tokens, names_filter=names, **model.backend.arguments(tokens))
    return [cache[name] for name in names]


@torch.no_grad()
def nnsight_trace(network: object, tokens: Tensor, layers: list[int]) -> list[Tensor]:
    with network.trace(input_ids=tokens, use_cache=False):  # type: ignore[attr-defined]
        found = list().save()  # type: ignore[attr-defined]
        for layer in layers:
            found.append(network.transformer.h[layer].output)  # type: ignore[attr-defined]
    return [value[0] if isinstance(value, tuple) else value for value in found]


@torch.no_grad()
def bare(model: LanguageModel, tokens: Tensor) -> None:
    model.module(input_ids=tokens, use_cache=False)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--model", default="sudoku-diffusion", help="a bundled name or a model folder")
    arguments.add_argument("--boards", type=int, default=64, help="sequences of the one batch (at most 64)")
    options = parse(arguments)
    if not 1 <= options.boards <= 64:
        arguments.error(f"--boards is {options.boards}; it must lie in 1 to 64, the batch of activations_at")
    from nnsight import NNsight

    model = load(options.model)
    boards = mixed_boards(options.boards, options.seed)
    tokens, corpus = model.task.prompt(boards), puzzle_corpus(model.task, boards)
    rows, positions = torch.nonzero(tokens == model.task.mask_token_id, as_tuple=True)
    network = NNsight(model.module)
    every = [resid_post(layer) for layer in range(model.n_layers)]
    one = every[model.n_layers // 2 : model.n_layers // 2 + 1]
    sides = {
        "bare": clocked(lambda: bare(model, tokens)),
        "harvest": clocked(lambda: harvest(model, corpus, every, canvases=Masked((1.0,)))),
    }
    for name, points in (("one", one), ("last", every[-1:]), ("all", every)):
        layers = [point.layer or 0 for point in points]
        sides[f"denoscope_{name}"] = clocked(lambda points=points: activations_at(model, tokens, rows, positions, points))
        sides[f"transformer_lens_{name}"] = clocked(lambda points=points: transformer_lens(model, tokens, points))
        sides[f"nnsight_{name}"] = clocked(lambda layers=layers: nnsight_trace(network, tokens, layers))
    speed = {name: options.boards / taken for name, taken in interleaved(sides, options.repeats).items()}

    ours = activations_at(model, tokens, rows, positions, every)
    others = {
        "transformer_lens": transformer_lens(model, tokens, every),
        "nnsight": nnsight_trace(network, tokens, list(range(model.n_layers))),
    }
    read = positions - model.facts.logit_shift
    differences = {
        name: max(
            ((ours[point] - values[rows, read]).norm() / ours[point].norm()).item() for point, values in zip(every, found, strict=True)
        )
        for name, found in others.items()
    }
    figures = {
        "unit": "sequences a second",
        **speed,
        "ratio": speed["denoscope_one"] / speed["bare"],
        "last_ratio": speed["denoscope_last"] / speed["bare"],
        "all_ratio": speed["denoscope_all"] / speed["bare"],
        "harvest_ratio": speed["harvest"] / speed["bare"],
        "ratios": {
            f"{tool}_{name}": speed[f"denoscope_{name}"] / speed[f"{tool}_{name}"]
            for name in ("one", "last", "all")
            for tool in ("transformer_lens", "nnsight")
        },
        "relative_difference": differences,
    }
    show(options, figures)


if __name__ == "__main__":
    main()
