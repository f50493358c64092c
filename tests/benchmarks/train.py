"""A training step of ``models.train`` against a bare loop of the same network and optimisers, written by hand.

``train`` draws, transforms and masks its boards, logs each step and watches the loss; the bare loop has its batches ready in memory.
Steps are timed from the end of the first to the end of the last, so neither side's start counts. ``ratio`` is sequences a second of
``train`` over those of the bare loop.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from side_by_side import interleaved, parse, parser, show
from torch import Tensor
from torch.nn import functional

from models.architectures import ARCHITECTURES
from models.architectures.base import set_attention
from models.plan import SIZES, TrainingPlan
from models.tasks import TrainingData
from models.tasks.sudoku.task import SUDOKU
from models.train import train

DATA = TrainingData(examples=1000, mix={"naked_singles": 1.0})


def library(plan: TrainingPlan) -> float:
    """Returns the seconds of all steps but the first."""
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        train(plan, Path(folder), on_step=lambda status: ends.append(time.perf_counter()), device="cpu")
    return ends[-1] - ends[0]


def bare(batches: Tensor, size: str) -> float:
    """Returns the seconds of all steps but the first."""
    network = ARCHITECTURES["gpt2"].build(vocab_size=len(SUDOKU.vocabulary), n_positions=SUDOKU.length, **SIZES[size])
    set_attention(ARCHITECTURES["gpt2"], network.config, "full")
    network.train()
    matrices = [weight for name, weight in network.named_parameters() if weight.ndim == 2 and ".h." in name]
    others = [weight for name, weight in network.named_parameters() if not (weight.ndim == 2 and ".h." in name)]
    muon = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01, momentum=0.95, nesterov=True, ns_steps=5)
    adamw = torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    ends: list[float] = []
    for tokens in batches:
        rate = 0.02 + 0.98 * torch.rand(len(tokens), 1)
        masked = torch.zeros_like(tokens, dtype=torch.bool)
        masked[:, SUDOKU.target] = torch.rand(len(tokens), 81) < rate
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(input_ids=tokens.masked_fill(masked, SUDOKU.mask_token_id), use_cache=False).logits[:, :-1]
            loss = functional.cross_entropy(logits[masked[:, 1:]].float(), tokens[:, 1:][masked[:, 1:]])
        loss.backward()
        for optimizer in (muon, adamw):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        ends.append(time.perf_counter())
    return ends[-1] - ends[0]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--size", default="tiny", choices=sorted(SIZES), help="network shape")
    arguments.add_argument("--batch", type=int, default=32, help="sequences a step")
    arguments.add_argument("--steps", type=int, default=6, help="timed steps of a run")
    options = parse(arguments)
    plan = TrainingPlan("sudoku", "masked", size=options.size, steps=options.steps + 1, batch=options.batch, data=DATA, seed=options.seed)
    stream = SUDOKU.training_batches(plan.data, plan.batch, plan.seed)
    batches = torch.stack([next(stream).tokens for _ in range(options.steps + 1)])
    seconds = interleaved({"train": lambda: library(plan), "bare": lambda: bare(batches, options.size)}, options.repeats)
    speed = {name: options.steps * options.batch / taken for name, taken in seconds.items()}
    figures = {"unit": "sequences a second", "train": speed["train"], "bare_loop": speed["bare"], "ratio": speed["train"] / speed["bare"]}
    show(options, figures)


if __name__ == "__main__":
    main()
