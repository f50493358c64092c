"""Training of a causal twin, and its continuation as a masked-diffusion twin; resumable and free of TransformerLens.

Recipe: Muon on the matrices of the blocks, AdamW on everything else, bf16 autocast, attention written out (eager), a short
warm-up, a flat stretch and a linear fall. Masked objective: t ~ U(.02, 1), each target token masked with probability t, mean
cross-entropy over masked tokens (MDLM, Sahoo et al. 2024, with the 1/t weight dropped).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from models.facts import CONFIG_KEY, ModelFacts, Objective
from models.families import FAMILIES
from models.load import ModelError, bare_module
from models.tasks import TASKS, Task

SIZES: dict[str, dict[str, int]] = {
    "nano": {"d_model": 64, "n_layers": 2, "n_heads": 2},
    "tiny": {"d_model": 128, "n_layers": 6, "n_heads": 4},
    "small": {"d_model": 192, "n_layers": 6, "n_heads": 6},
    "base": {"d_model": 256, "n_layers": 8, "n_heads": 8},
}
"""Network shapes by name: .1M, 1.2M, 2.7M and 6.4M parameters on sudoku."""

MUON_LR, ADAMW_LR = 0.02, 2e-3
WARMUP_STEPS, FLAT_UNTIL, LAST_FACTOR = 50, 0.6, 0.02
LEAST_MASK_RATE = 0.02
CHECKPOINT_NAME, LOG_NAME = "checkpoint.safetensors", "log.jsonl"


class TrainingError(RuntimeError):
    """A training that cannot start, cannot resume, or went wrong; the last checkpoint stays good."""


@dataclass(frozen=True)
class TrainingPlan:
    """All that determines a training. With ``steps`` a run is reproducible; with ``minutes`` it depends on the machine's speed."""

    task: str
    objective: Objective
    size: str = "tiny"
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
            raise TrainingError("give either steps or minutes, and not both")
        for name in ("steps", "minutes", "batch", "examples"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise TrainingError(f"{name} is {value}; it must be greater than 0")
        for value, choices in ((self.size, SIZES), (self.task, TASKS)):
            if value not in choices:
                raise TrainingError(f"unknown {value!r}; choose from {', '.join(choices)}")

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
    """Returns the factor on both learning rates: warm-up, flat to 60 %, then linear to 2 %."""
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
        module = FAMILIES["gpt2"].build(vocab_size=len(task.vocabulary), n_positions=task.length, seed=plan.seed, **SIZES[plan.size])
    else:
        module, found = bare_module(Path(plan.init))
        if found.task != plan.task:
            raise ModelError(f"{plan.init} was trained on the task {found.task!r}, and this training is on {plan.task!r}")
    FAMILIES[module.config.model_type].set_attention(module.config, facts.attention)
    setattr(module.config, CONFIG_KEY, facts.to_config())
    return module, facts


def _save_checkpoint(path: Path, module: nn.Module, optimizers: list[torch.optim.Optimizer], state: dict[str, object]) -> None:
    """Writes everything a resumed run needs into one safetensors file, replacing the previous one only when whole."""
    tensors = {f"model.{name}": value.contiguous() for name, value in module.state_dict().items()}
    for index, optimizer in enumerate(optimizers):
        for parameter, entries in optimizer.state_dict()["state"].items():
            for name, value in entries.items():
                tensors[f"optimizer.{index}.{parameter}.{name}"] = value
    partial = path.with_suffix(".partial")
    try:
        save_file(tensors, partial, metadata={"state": json.dumps(state)})
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise TrainingError(f"the checkpoint could not be written to {path} ({error}); the one before it is kept") from None


def _load_checkpoint(path: Path, plan: TrainingPlan, module: nn.Module, optimizers: list[torch.optim.Optimizer]) -> tuple[int, float]:
    """Restores a checkpoint in place; returns its step and the seconds spent so far."""
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    except (SafetensorError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} is no whole checkpoint ({error}); remove it to start again") from None
    theirs, ours = state["plan"], asdict(plan)
    changed = [name for name in ours if name not in ("steps", "minutes") and theirs.get(name) != ours[name]]
    if changed:
        differences = ", ".join(f"{name} was {theirs.get(name)!r} and is now {ours[name]!r}" for name in changed)
        raise TrainingError(f"{path} is of another training ({differences}); use another --out, or remove it")
    module.load_state_dict({name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")})
    for index, optimizer in enumerate(optimizers):
        restored: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(f"optimizer.{index}."):
                parameter, entry = name.split(".", 2)[2].split(".", 1)
                restored.setdefault(int(parameter), {})[entry] = value
        optimizer.load_state_dict({"state": restored, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(state["step"]), float(state["seconds"])


@dataclass(frozen=True)
class _Run:
    """The moving parts of one training."""

    plan: TrainingPlan
    module: PreTrainedModel
    facts: ModelFacts
    task: Task
    optimizers: list[torch.optim.Optimizer]
    device: torch.device

    def step(self, step: int, progress: float, tokens: Int[Tensor, "batch pos"]) -> float:
        """Takes one optimiser step; returns its loss."""
        factor = learning_rate_factor(step, progress)
        for optimizer, full in zip(self.optimizers, (MUON_LR, ADAMW_LR), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = full * factor
        generator = torch.Generator().manual_seed(self.plan.seed * 1_000_003 + step)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            loss = objective_loss(self.module, self.facts, tokens.to(self.device), self.task.target, generator)
        value = loss.item()
        if value != value:
            raise TrainingError(f"the loss is not a number at step {step}; the last checkpoint is kept")
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return value

    def checkpoint(self, out: Path, step: int, seconds: float) -> None:
        """Saves where the run stands."""
        state = {"plan": asdict(self.plan), "step": step, "seconds": seconds}
        _save_checkpoint(out / CHECKPOINT_NAME, self.module, self.optimizers, state)


def _prepare(plan: TrainingPlan, out: Path, device: torch.device) -> tuple[_Run, int, float]:
    module, facts = initial_module(plan)
    nn.Module.to(module, device).train()
    run = _Run(plan, module, facts, TASKS[plan.task], make_optimizers(module), device)
    step, seconds = 0, 0.0
    if (out / CHECKPOINT_NAME).exists():
        step, seconds = _load_checkpoint(out / CHECKPOINT_NAME, plan, module, run.optimizers)
    return run, step, seconds


def train(
    plan: TrainingPlan,
    out: Path,
    *,
    on_step: Callable[[TrainingStatus], None] = lambda status: None,
    checkpoint_every: float = 60.0,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
) -> TrainingStatus:
    """Trains to the end of ``plan`` and writes a Hugging Face model folder; returns the last status.

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
    out.mkdir(parents=True, exist_ok=True)
    run, step, before = _prepare(plan, out, torch.device(device))
    batches: Iterator[Tensor] = run.task.training_sequences(plan.examples, plan.batch, plan.seed, step)
    tokens = next(batches)
    started = last_saved = time.monotonic()
    status = TrainingStatus(step, float("nan"), plan.progress(step, before), before, 0.0)
    with (out / LOG_NAME).open("a", encoding="utf-8") as log:
        try:
            while status.progress < 1:
                loss = run.step(step, status.progress, tokens)
                step += 1
                seconds = before + time.monotonic() - started
                status = TrainingStatus(
                    step,
                    loss,
                    plan.progress(step, seconds),
                    seconds,
                    plan.batch * (step - status.step) / max(seconds - status.seconds, 1e-9),
                )
                log.write(json.dumps(asdict(status)) + "\n")
                on_step(status)
                tokens = next(batches)
                if time.monotonic() - last_saved > checkpoint_every:
                    log.flush()
                    run.checkpoint(out, step, seconds)
                    last_saved = time.monotonic()
        finally:
            if step and status.loss == status.loss:
                run.checkpoint(out, status.step, status.seconds)
    run.module.eval().save_pretrained(out)
    return replace(status, progress=1.0)
