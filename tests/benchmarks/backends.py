"""What a forward pass costs through each backend, against the bare network: no point, one residual stream, and all of them, read.

A network of random weights, four blocks of width 64, on one sequence, where a backend's own work weighs most, and on a batch as harvests
make it. ``overhead`` is seconds over those of the bare pass (1: free), by batch and by what is read; ``ratio`` is nnsight's with one
residual stream on the batch. ``edit`` changes that one stream instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from side_by_side import clocked, interleaved, parse, parser, show
from torch import Tensor

from models.architectures import ARCHITECTURES
from models.backends import BACKENDS, Backend, Edit
from models.facts import ModelFacts
from models.hookpoints import HookPoint, resid_post
from models.network import Network

VOCABULARY = 1000


def network_of(architecture: str, length: int, seed: int) -> Network:
    """Returns a random masked network."""
    kind = ARCHITECTURES[architecture]
    module = kind.build(vocab_size=VOCABULARY, n_positions=length, d_model=64, n_layers=4, n_heads=4, seed=seed)
    module.config.is_causal = False
    return Network(module.eval().requires_grad_(False), ModelFacts("masked", "full", 1, VOCABULARY - 1, "text"), kind)


def repeated(run: Callable[[], object], times: int) -> Callable[[], float]:
    """Returns ``run``, several times over, as a function that returns the seconds of one."""
    timed = clocked(lambda: [run() for _ in range(times)])
    return lambda: timed() / times


@torch.no_grad()
def passed(backend: Backend, tokens: Tensor, edits: Mapping[HookPoint, Edit], points: list[HookPoint]) -> None:
    backend.run(tokens, edits, points)


@torch.no_grad()
def bare(network: Network, tokens: Tensor) -> None:
    network.module(input_ids=tokens, use_cache=False)


def overheads(network: Network, tokens: Tensor, passes: int, repeats: int) -> tuple[float, dict[str, dict[str, float]]]:
    """Returns the milliseconds of the bare pass, and each backend's seconds over its, by what is asked."""
    every = [resid_post(layer) for layer in range(4)]
    asked: dict[str, tuple[dict[HookPoint, Edit], list[HookPoint]]] = {
        "none": ({}, []),
        "one": ({}, every[2:3]),
        "all": ({}, every),
        "edit": ({every[2]: lambda activation: activation * 2}, []),
    }
    made = {name: make(network) for name, make in BACKENDS.items() if name != "bridge" or network.architecture.bridge}
    sides = {"bare": repeated(lambda: bare(network, tokens), passes)}
    for name, backend in made.items():
        for what, (edits, points) in asked.items():
            run = lambda backend=backend, edits=edits, points=points: passed(backend, tokens, edits, points)  # noqa: E731
            sides[f"{name} {what}"] = repeated(run, passes)
    seconds = interleaved(sides, repeats)
    return 1000 * seconds["bare"], {name: {what: seconds[f"{name} {what}"] / seconds["bare"] for what in asked} for name in made}


def main() -> None:
    arguments = parser(__doc__, repeats=7)
    arguments.add_argument("--architecture", default="gpt2", choices=sorted(ARCHITECTURES), help="kind of network")
    arguments.add_argument("--batch", type=int, default=64, help="sequences of the batch")
    arguments.add_argument("--length", type=int, default=163, help="tokens of a sequence; a sudoku has 163")
    arguments.add_argument("--passes", type=int, default=20, help="forward passes of a timed run on one sequence; an eighth on the batch")
    options = parse(arguments)
    network = network_of(options.architecture, options.length, options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    tokens = torch.randint(0, VOCABULARY, (options.batch, options.length), generator=generator)
    found, milliseconds = {}, {}
    for rows, passes in ((1, options.passes), (options.batch, max(1, options.passes // 8))):
        milliseconds[f"batch {rows}"], found[f"batch {rows}"] = overheads(network, tokens[:rows], passes, options.repeats)
    ratio = found[f"batch {options.batch}"]["nnsight"]["one"]
    show(options, {"unit": "seconds over those of a bare pass", "bare_milliseconds": milliseconds, "overhead": found, "ratio": ratio})


if __name__ == "__main__":
    main()
