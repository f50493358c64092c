"""Training of a causal twin, and its continuation as a masked-diffusion twin; resumable and free of TransformerLens.

Recipe: Muon on the matrices of the blocks, AdamW on everything else, bf16 autocast, attention written out (eager), a short
warm-up, a flat stretch and a linear fall. Masked objective: t ~ U(.02, 1), each target token masked with probability t, mean
cross-entropy over masked tokens (MDLM, Sahoo et al. 2024, with the 1/t weight dropped).
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from models.checkpoint import CHECKPOINT_NAME, LOG_NAME, TrainingError, load_checkpoint, save_checkpoint, save_model, trim_log
from models.facts import CONFIG_KEY, ModelFacts, Objective
from models.families import FAMILIES
from models.load import ModelError, bare_module, silent_transformers
from models.tasks import TASKS, Task

SIZES: dict[str, dict[str, int]] = {
    "nano": {"d_model": 64, "n_layers": 2, "n_heads": 2},
    "tiny": {"d_model": 128, "n_layers": 6, "n_heads": 4},
    "small": {"d_model": 192, "n_layers": 6, "n_heads": 6},
    "base": {"d_model": 256, "n_layers": 8, "n_heads": 8},
}
"""Network shapes by name: .1M, 1.2M, 2.7M and 6.4M parameters on sudoku."""

MUON_LR, ADAMW_LR = 0.02, 2e-3
WARMUP_STEPS, FLAT_UNTIL, LAST_FACTOR = 50, 0.42, 0.02
LEAST_MASK_RATE = 0.02


class PlanError(ValueError):
    """A plan that no training can follow."""


@dataclass(frozen=True)
class TrainingPlan:
    """All that determines a training. With ``steps`` a run is reproducible; with ``minutes`` it depends on the machine's speed."""

    task: str
    objective: Objective
    size: str | None = None
    """A name in ``SIZES``; None is ``tiny``, or the size of ``init``."""
    init: str | None = None
    """A model folder to start from: the causal twin, to grow a masked one from it. None starts from random weights."""
    steps: int | None = None
    minutes: float | None = None
    batch: int = 128
    examples: int = 100_000
    """How many training examples are generated before augmentation."""
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise PlanError("give either steps or minutes, and not both")
        for name in ("steps", "minutes", "batch", "examples"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise PlanError(f"{name} is {value}; it must be greater than 0")
        for value, choices in ((self.size, SIZES), (self.task, TASKS)):
            if value is not None and value not in choices:
                raise PlanError(f"unknown {value!r}; choose from {', '.join(choices)}")

    def progress(self, step: int, seconds: float) -> float:
        """Returns the share of the plan that is done, 0 to 1."""
        done = step / self.steps if self.steps is not None else seconds / (60 * (self.minutes or 1))
        return min(done, 1.0)


@dataclass(frozen=True)
class TrainingStatus:
    """Where a training stands after a step."""

    step: int
    loss: float
    progress: float
    seconds: float
    examples_per_second: float


def learning_rate_factor(step: int, progress: float) -> float:
    """Returns the factor on both learning rates: warm-up, flat to 42 %, then linear to 2 %."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    fall = 1.0 if progress < FLAT_UNTIL else 1.0 - (progress - FLAT_UNTIL) / (1 - FLAT_UNTIL) * (1 - LAST_FACTOR)
    return warmup * fall


def draw_mask(tokens: Int[Tensor, "batch pos"], target: slice, generator: torch.Generator) -> Bool[Tensor, "batch pos"]:
    """Returns which target tokens to mask: each with its sequence's rate t ~ U(.02, 1), and at least one a sequence."""
    batch, pos = tokens.shape
    rate = LEAST_MASK_RATE + (1 - LEAST_MASK_RATE) * torch.rand(batch, 1, generator=generator)
    chance = torch.full((batch, pos), torch.inf)
    chance[:, target] = torch.rand(chance[:, target].shape, generator=generator)
    masked = chance < rate
    masked |= (chance == chance.amin(1, keepdim=True)) & ~masked.any(1, keepdim=True)
    return masked.to(tokens.device)


def objective_loss(
    module: nn.Module, facts: ModelFacts, tokens: Int[Tensor, "batch pos"], target: slice, generator: torch.Generator
) -> Float[Tensor, ""]:
    """Returns the mean cross-entropy in nats over the target tokens (causal) or over the masked ones (masked)."""
    if facts.mask_token_id is None:
        scored = torch.zeros_like(tokens, dtype=torch.bool)
        scored[:, target] = True
        seen = tokens
    else:
        scored = draw_mask(tokens, target, generator)
        seen = tokens.masked_fill(scored, facts.mask_token_id)
    shift = facts.logit_shift
    raw = module(input_ids=seen, use_cache=False).logits
    raw = raw[:, : raw.shape[1] - shift]
    return functional.cross_entropy(raw[scored[:, shift:]].float(), tokens[:, shift:][scored[:, shift:]])


def make_optimizers(module: nn.Module) -> list[torch.optim.Optimizer]:
    """Returns Muon over the blocks' matrices and AdamW over everything else, at their full learning rates."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        (matrices if parameter.ndim == 2 and ".h." in name else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.01, momentum=0.95, nesterov=True, ns_steps=5),
        torch.optim.AdamW(others, lr=ADAMW_LR, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def initial_module(plan: TrainingPlan) -> tuple[PreTrainedModel, ModelFacts]:
    """Returns the network a plan starts from and the facts of the model it makes.

    A masked model takes the weights as they are: attention becomes full at once and the logit shift is kept, so position i
    goes on predicting token i+1 and both twins are read at the same index (method ``switch``).

    Raises:
        ModelError: Where ``init`` is no model, or one of another task or vocabulary.
    """
    task = TASKS[plan.task]
    masked = plan.objective == "masked"
    facts = ModelFacts(
        objective=plan.objective,
        attention="full" if masked else "causal",
        logit_shift=1,
        mask_token_id=task.mask_token_id if masked else None,
        task=plan.task,
    )
    if plan.init is None:
        shape = SIZES[plan.size or "tiny"]
        module = FAMILIES["gpt2"].build(vocab_size=len(task.vocabulary), n_positions=task.length, seed=plan.seed, **shape)
    else:
        module, found = bare_module(Path(plan.init))
        if found.task != plan.task:
            raise ModelError(f"{plan.init} was trained on the task {found.task!r}, and this training is on {plan.task!r}")
        found_shape = {"d_model": module.config.hidden_size, "n_layers": module.config.num_hidden_layers}
        found_shape["n_heads"] = module.config.num_attention_heads
        if plan.size is not None and found_shape != SIZES[plan.size]:
            raise ModelError(f"{plan.init} has the shape {found_shape}, and size {plan.size!r} is {SIZES[plan.size]}; leave the size out")
    FAMILIES[module.config.model_type].set_attention(module.config, facts.attention)
    setattr(module.config, CONFIG_KEY, facts.to_config())
    return module, facts


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Holds back Ctrl-C until the block is done, so that weights, optimiser and step always agree. Other threads get none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    usual = signal.signal(signal.SIGINT, lambda number, frame: held.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if held and callable(usual):
        usual(*held[0])


@dataclass(frozen=True)
class _Run:
    """The moving parts of one training."""

    plan: TrainingPlan
    module: PreTrainedModel
    facts: ModelFacts
    task: Task
    optimizers: list[torch.optim.Optimizer]
    device: torch.device

    def gradient(self, step: int, progress: float, tokens: Int[Tensor, "batch pos"]) -> float:
        """Computes the gradient of one step and sets its learning rates; returns its loss."""
        factor = learning_rate_factor(step, progress)
        for optimizer, full in zip(self.optimizers, (MUON_LR, ADAMW_LR), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = full * factor
        generator = torch.Generator().manual_seed(self.plan.seed * 1_000_003 + step)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            loss = objective_loss(self.module, self.facts, tokens.to(self.device), self.task.target, generator)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(f"the loss is {value} at step {step}; the last checkpoint written stays as it was")
        loss.backward()
        return value

    def update(self) -> None:
        """Takes the optimiser step."""
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def checkpoint(self, out: Path, step: int, seconds: float) -> None:
        """Saves where the run stands."""
        save_checkpoint(out / CHECKPOINT_NAME, self.module, self.optimizers, asdict(self.plan), step, seconds)


def _prepare(plan: TrainingPlan, out: Path, device: torch.device) -> tuple[_Run, int, float]:
    module, facts = initial_module(plan)
    nn.Module.to(module, device).train()
    run = _Run(plan, module, facts, TASKS[plan.task], make_optimizers(module), device)
    step, seconds = 0, 0.0
    if (out / CHECKPOINT_NAME).exists():
        step, seconds = load_checkpoint(out / CHECKPOINT_NAME, asdict(plan), module, run.optimizers)
    return run, step, seconds


def train(
    plan: TrainingPlan,
    out: Path,
    *,
    on_step: Callable[[TrainingStatus], None] = lambda status: None,
    checkpoint_every: float = 60.0,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
) -> TrainingStatus:
    """Trains to the end of ``plan`` and writes a Hugging Face model folder (bfloat16); returns the last status.

    A checkpoint in ``out`` is resumed: with ``steps`` the continued run takes the very steps the uninterrupted one would have.

    Args:
        plan: What to train.
        out: Where checkpoint, log (JSON lines) and finally the model go.
        on_step: Called after every step.
        checkpoint_every: Seconds between checkpoints; one is also written on an interrupt.
        device: Where to train.

    Raises:
        TrainingError: On a loss that is not a number, or a checkpoint that cannot be written or is of another plan.
        ModelError: Where the model to start from cannot be used.
    """
    run, step, before = _prepare(plan, out, torch.device(device))
    out.mkdir(parents=True, exist_ok=True)
    trim_log(out / LOG_NAME, step)
    batches: Iterator[Tensor] = run.task.training_sequences(plan.examples, plan.batch, plan.seed, step)
    tokens = next(batches)
    started = last_saved = time.monotonic()
    status = TrainingStatus(step, float("nan"), plan.progress(step, before), before, 0.0)
    with (out / LOG_NAME).open("a", encoding="utf-8") as log:
        try:
            while status.progress < 1:
                loss = run.gradient(step, status.progress, tokens)
                with _uninterrupted():
                    run.update()
                    step += 1
                    seconds = before + time.monotonic() - started
                    speed = plan.batch / max(seconds - status.seconds, 1e-9)
                    status = TrainingStatus(step, loss, plan.progress(step, seconds), seconds, speed)
                    log.write(json.dumps(asdict(status)) + "\n")
                on_step(status)
                tokens = next(batches)
                if time.monotonic() - last_saved > checkpoint_every:
                    log.flush()
                    run.checkpoint(out, step, seconds)
                    last_saved = time.monotonic()
        except TrainingError:
            raise  # what is wrong with the run must not replace the last good checkpoint
        except BaseException:
            if math.isfinite(status.loss):
                run.checkpoint(out, status.step, status.seconds)
            raise
    if math.isfinite(status.loss):
        run.checkpoint(out, status.step, status.seconds)
    with silent_transformers():
        save_model(run.module.eval().to(torch.bfloat16).save_pretrained, out)
    return replace(status, progress=1.0)
