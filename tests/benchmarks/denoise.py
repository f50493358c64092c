"""``denoise`` with its record, against LLaDA's published loop written plainly on the same weights; what recording costs; batch 64 and 1.

All write one token a call, the most confident first. ``ratio`` is boards a second of ``denoise`` over those of the plain loop, which
records nothing; ``batch_ratio`` is boards a second of ``denoise`` in one batch over one board at a time. ``record_cost`` is seconds with
tokens and statistics recorded over seconds with no record at all; ``top_k_cost`` and ``residual_cost`` the same with the five best tokens,
and with the residual stream of one layer, recorded at every step.
"""

from __future__ import annotations

from unittest import mock

import torch
from side_by_side import clocked, interleaved, parse, parser, show
from torch import Tensor

import models.denoise
from interp.boards import mixed_boards
from interp.canvases import Masked, masked_canvases
from interp.corpus import puzzle_corpus
from models.denoise import denoise
from models.hookpoints import resid_post
from models.language_model import LanguageModel
from models.load import load
from models.recorder import Channel, Record, Recorder


@torch.no_grad()
def published_loop(model: LanguageModel, tokens: Tensor) -> Tensor:
    """Returns what LLaDA's ``generate`` writes (2502.09992; low confidence, one block, temperature 0), with a logit shift of 1."""
    mask_id = model.facts.mask_token_id
    x = tokens.clone()
    left = (x == mask_id).sum(1)
    steps = int(left.max())
    quota = (left // steps)[:, None].repeat(1, steps)
    for row in range(len(x)):
        quota[row, : int(left[row] % steps)] += 1
    for step in range(steps):
        masked = x == mask_id
        logits = model.module(input_ids=x, use_cache=False).logits
        logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
        best = logits.argmax(-1)
        probability = torch.softmax(logits.to(torch.float64), dim=-1).gather(-1, best[..., None])[..., 0]
        best = torch.where(masked, best, x)
        confidence = torch.where(masked, probability, -torch.inf)
        chosen = torch.zeros_like(masked)
        for row in range(len(x)):
            chosen[row, confidence[row].topk(int(quota[row, step])).indices] = True
        x[chosen] = best[chosen]
    return x


class NoRecorder(Recorder):
    """A recorder that keeps nothing."""

    def add(self, *args: object, **kwargs: object) -> None:
        pass


def unrecorded(model: LanguageModel, tokens: Tensor) -> None:
    """Denoises without a record."""
    with mock.patch.object(models.denoise, "Recorder", NoRecorder):
        denoise(model, tokens)


def canvases(model: LanguageModel, boards: int, share: float, seed: int) -> Tensor:
    """Returns test boards of which a share of the cells asked for is unwritten."""
    corpus = puzzle_corpus(model.task, mixed_boards(boards, seed))
    return masked_canvases(corpus, Masked((share,)), model.task.mask_token_id, seed).tokens


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--boards", type=int, default=64, help="boards of the batch")
    arguments.add_argument("--single", type=int, default=8, help="boards that are also written one at a time")
    arguments.add_argument("--unwritten", type=float, default=0.1, help="share of the cells asked for that is masked; 1 is the whole board")
    options = parse(arguments)
    model = load("sudoku-diffusion")
    tokens = canvases(model, options.boards, options.unwritten, options.seed)
    single = min(options.single, options.boards)
    seconds = interleaved(
        {
            "denoise": clocked(lambda: denoise(model, tokens)),
            "unrecorded": clocked(lambda: unrecorded(model, tokens)),
            "top_k": clocked(lambda: denoise(model, tokens, record=Record(top_k=5))),
            "residual": clocked(lambda: denoise(model, tokens, record=Record(channels={"residual": Channel(resid_post(3))}))),
            "published": clocked(lambda: published_loop(model, tokens)),
            "one_at_a_time": clocked(lambda: [denoise(model, tokens[[row]]) for row in range(single)]),
        },
        options.repeats,
    )
    ours, theirs = options.boards / seconds["denoise"], options.boards / seconds["published"]
    alone = single / seconds["one_at_a_time"]
    same = torch.from_numpy(denoise(model, tokens).tokens(-1)) == published_loop(model, tokens)
    figures = {
        "unit": "boards a second",
        "denoise": ours,
        "published_loop": theirs,
        "ratio": ours / theirs,
        "denoise_one_at_a_time": alone,
        "batch_ratio": ours / alone,
        "record_cost": seconds["denoise"] / seconds["unrecorded"],
        "top_k_cost": seconds["top_k"] / seconds["unrecorded"],
        "residual_cost": seconds["residual"] / seconds["unrecorded"],
        "same_boards": same.all(1).double().mean().item(),
    }
    show(options, figures)


if __name__ == "__main__":
    main()
