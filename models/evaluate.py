"""How well a model does a task: exact, valid, cells right, network calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from models.decoding import Decoding
from models.denoise import denoise
from models.language_model import LanguageModel
from models.left_to_right import write_left_to_right
from models.tasks import Verdicts, puzzle_task
from models.turn import PolicyError

BATCH = 100


@dataclass(frozen=True)
class Evaluation:
    """The verdicts of a model on a set of examples."""

    model: str
    policy: str
    """The unmasking policy; ``greedy`` for a causal model, which writes left to right."""
    verdicts: Verdicts
    calls: Int[np.ndarray, " batch"]
    """Network calls each example took."""
    commit_step: Int[np.ndarray, "batch pos"]
    """The call that wrote each position's final token; 0 where it was given."""
    seconds: float


def evaluate(
    model: LanguageModel,
    examples: Any,
    decoding: Decoding | str = "low_confidence",
    *,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Returns the verdicts on ``examples`` (of the model's task), in their order; a masked model denoises, a causal one writes greedily.

    Raises:
        TaskError: On a model of text.
        PolicyError: On an unknown policy or option, whatever the model; on anything but a policy and a seed for a causal one.
    """
    how = Decoding(decoding) if isinstance(decoding, str) else decoding
    task, causal = puzzle_task(model.task), model.facts.objective == "causal"
    if causal and replace(how, policy="low_confidence", options={}, seed=0) != Decoding():
        rule = "it writes greedily, one token a call; steps and temperature are not for it, nor blocks, guidance and stopping"
        raise PolicyError(f"{model.name} is a causal model: {rule}")
    answers = task.prompt(examples)
    unwritten = answers == task.mask_token_id
    calls = unwritten.sum(1).numpy()
    commit_step = np.where(unwritten, unwritten.cumsum(1), 0)
    asked = torch.nonzero(unwritten.any(1)).flatten()
    started = time.monotonic()
    for rows in asked.split(BATCH) if len(asked) else ():
        if causal:
            answers[rows] = torch.from_numpy(write_left_to_right(model, answers[rows]).tokens(-1))
        else:
            run = denoise(model, answers[rows], how, sample_ids=rows.tolist())
            answers[rows], calls[rows.numpy()] = torch.from_numpy(run.tokens(-1)), run.calls
            commit_step[rows.numpy()] = run.data["commit_step"].values
        on_batch(int(rows[-1]) + 1, len(answers))
    verdicts = task.verify(answers, examples)
    return Evaluation(model.name, "greedy" if causal else how.policy, verdicts, calls, commit_step, time.monotonic() - started)
