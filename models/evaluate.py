"""How well a model does a task: exact, valid, cells right, network calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from models.decoding import Decoding
from models.denoise import denoise
from models.language_model import LanguageModel
from models.left_to_right import LEFT_TO_RIGHT, check_heeded, write_left_to_right
from models.tasks import Verdicts, puzzle_task

BATCH = 100


@dataclass(frozen=True)
class Evaluation:
    """The verdicts of a model on a set of examples."""

    model: str
    policy: str
    """The unmasking policy; for a causal model ``greedy``, or ``left_to_right`` at a temperature."""
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
    """Returns the verdicts on ``examples`` (of the model's task), in their order; a masked model denoises, a causal one writes on.

    Raises:
        TaskError: On a model of text.
        PolicyError: On an unknown policy or option, whatever the model; on what a causal one cannot heed.
    """
    how = decoding if isinstance(decoding, Decoding) else Decoding(decoding)
    task, causal = puzzle_task(model.task), model.facts.objective == "causal"
    if causal:
        check_heeded(model, how)
    answers = task.prompt(examples)
    unwritten = answers == task.mask_token_id
    calls = unwritten.sum(1).numpy()
    commit_step = np.where(unwritten, unwritten.cumsum(1), 0)
    asked = torch.nonzero(unwritten.any(1)).flatten()
    started = time.monotonic()
    for rows in asked.split(BATCH) if len(asked) else ():
        run = (write_left_to_right if causal else denoise)(model, answers[rows], how, sample_ids=rows.tolist())
        answers[rows], calls[rows.numpy()] = torch.from_numpy(run.tokens(-1)), run.calls
        if not causal:
            commit_step[rows.numpy()] = run.data["commit_step"].values
        on_batch(int(rows[-1]) + 1, len(answers))
    verdicts = task.verify(answers, examples)
    policy = how.policy if not causal else LEFT_TO_RIGHT if how.temperature else "greedy"
    return Evaluation(model.name, policy, verdicts, calls, commit_step, time.monotonic() - started)
