"""How well a model does a task: exact, valid, cells right, network calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Int

from models.denoise import denoise, write_left_to_right
from models.language_model import LanguageModel
from models.tasks import Verdicts

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
    seconds: float


def evaluate(
    model: LanguageModel,
    examples: Any,
    *,
    policy: str = "threshold",
    options: Mapping[str, float] | None = None,
    steps: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Returns the verdicts on ``examples`` (of the model's task), in their order; a masked model denoises, a causal one writes greedily."""
    task, causal = model.task, model.facts.objective == "causal"
    prompts = task.prompt(examples)
    parts: list[Verdicts] = []
    calls: list[np.ndarray] = []
    started = time.monotonic()
    for start in range(0, len(prompts), BATCH):
        batch = slice(start, min(start + BATCH, len(prompts)))
        if causal:
            answers = write_left_to_right(model, prompts[batch])
            calls.append((prompts[batch] == task.mask_token_id).sum(1).numpy())
        else:
            ids = range(batch.start, batch.stop)
            run = denoise(
                model, prompts[batch], policy=policy, options=options, steps=steps, temperature=temperature, seed=seed, sample_ids=ids
            )
            answers = prompts.new_tensor(run.tokens(-1))
            calls.append(run.calls)
        parts.append(task.verify(answers, examples[batch]))
        on_batch(batch.stop, len(prompts))
    verdicts = Verdicts(**{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Verdicts)})
    return Evaluation(model.name, "greedy" if causal else policy, verdicts, np.concatenate(calls), time.monotonic() - started)
