"""Training of a causal twin, and its continuation as a masked-diffusion twin; resumable and free of TransformerLens.

Recipe: Muon on the matrices of the blocks, AdamW on everything else, bf16 autocast, attention written out on a CPU and fused on a GPU,
a short warm-up, a flat stretch and a linear fall. Devices and processes are Accelerate's.
"""

from __future__ import annotations

import copy
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
from typing import TextIO

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from models.adapt import METHODS
from models.architectures import ARCHITECTURES
from models.architectures.base import set_attention
from models.checkpoint import CHECKPOINT_NAME, LOG_NAME, TrainingError, load_checkpoint, save_checkpoint, save_model, trim_log
from models.facts import CONFIG_KEY, ModelFacts
from models.language_model import LanguageModel, wrap
from models.load import ModelError, bare_module, silent_transformers
from models.losses import Noise
from models.network import Network
from models.objective import TrainingObjective
from models.plan import SIZES, TrainingPlan
from models.tasks import TASKS, Batch, CorpusTask

MUON_LR, ADAMW_LR = 0.02, 2e-3
WARMUP_STEPS, FLAT_UNTIL, LAST_FACTOR = 50, 0.42, 0.02


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


def make_optimizers(module: PreTrainedModel) -> list[torch.optim.Optimizer]:
    """Returns Muon over the blocks' matrices and AdamW over everything else, at their full learning rates."""
    blocks = f"{ARCHITECTURES[module.config.model_type].blocks}."
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        (matrices if parameter.ndim == 2 and name.startswith(blocks) else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.01, momentum=0.95, nesterov=True, ns_steps=5),
        torch.optim.AdamW(others, lr=ADAMW_LR, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def _twin_of(plan: TrainingPlan) -> PreTrainedModel | None:
    """Returns the network a plan starts from, or None.

    Raises:
        ModelError: Where ``init`` is no model, one of another task or vocabulary, or of another size or architecture than the plan's.
    """
    if plan.init is None:
        return None
    module, found = bare_module(Path(plan.init))
    if found.task != plan.task:
        raise ModelError(f"{plan.init} was trained on the task {found.task!r}, and this training is on {plan.task!r}")
    if module.config.vocab_size != len(TASKS[plan.task].vocabulary):
        expected = len(TASKS[plan.task].vocabulary)
        raise ModelError(f"{plan.init} has a vocabulary of {module.config.vocab_size} tokens, and the task {plan.task!r} has {expected}")
    kind = module.config.model_type
    longest, needed = Network(module, found, ARCHITECTURES[kind]).longest, TASKS[plan.task].length
    if longest < needed:
        raise ModelError(f"{plan.init} reads at most {longest} positions, and the task {plan.task!r} has {needed}")
    if plan.architecture not in (None, kind):
        raise ModelError(f"{plan.init} is of the architecture {kind!r}, not {plan.architecture!r}; leave the architecture out")
    if plan.size is not None and _shape(module) != SIZES[plan.size]:
        raise ModelError(f"{plan.init} has the shape {_shape(module)}, and size {plan.size!r} is {SIZES[plan.size]}; leave the size out")
    return module


def _shape(module: PreTrainedModel) -> dict[str, int]:
    config = module.config
    return {"d_model": config.hidden_size, "n_layers": config.num_hidden_layers, "n_heads": config.num_attention_heads}


def initial_module(plan: TrainingPlan) -> tuple[PreTrainedModel, ModelFacts, PreTrainedModel | None]:
    """Returns the network a plan starts from, the facts of the model it makes, and the frozen twin where its method needs one.

    Raises:
        ModelError: Where ``init`` cannot be started from.
    """
    task, adaptation = TASKS[plan.task], plan.adapted
    facts = ModelFacts(
        objective=plan.objective,
        attention="full" if adaptation else "causal",
        logit_shift=adaptation.logit_shift if adaptation else 1,
        mask_token_id=task.mask_token_id if adaptation else None,
        task=plan.task,
    )
    module = _twin_of(plan)
    if module is None or (adaptation and not METHODS[adaptation.method].from_twin):
        shape = _shape(module) if module is not None else SIZES[plan.size or "tiny"]
        seed = plan.seed if module is None else plan.seed + 1  # never the random weights that the twin itself grew from
        kind = module.config.model_type if module is not None else plan.architecture or "gpt2"
        module = ARCHITECTURES[kind].build(vocab_size=len(task.vocabulary), n_positions=task.length, seed=seed, **shape)
    set_attention(ARCHITECTURES[module.config.model_type], module.config, facts.attention)
    setattr(module.config, CONFIG_KEY, facts.to_config())
    return module, facts, _twin_of(plan) if adaptation and METHODS[adaptation.method].penalty else None


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


@contextmanager
def _folder(out: Path) -> Iterator[None]:
    """Makes the folder, before the minutes that the block may take; it is gone again where the block fails and it was not there before."""
    fresh = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if fresh:
            out.rmdir()
        raise


@dataclass(frozen=True)
class _Run:
    """The moving parts of one training."""

    plan: TrainingPlan
    accelerator: Accelerator
    module: PreTrainedModel
    objective: nn.Module
    """The training objective, as Accelerate wraps it."""
    optimizers: list[torch.optim.Optimizer]

    def gradient(self, step: int, progress: float, batch: Batch) -> float:
        """Computes the gradient of one step and sets its learning rates; returns its loss, averaged over processes."""
        factor = learning_rate_factor(step, progress)
        for optimizer, full in zip(self.optimizers, (MUON_LR, ADAMW_LR), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = full * factor
        generator = torch.Generator().manual_seed(self.plan.seed * 1_000_003 + step)
        noise = self.accelerator.unwrap_model(self.objective).draw(batch, generator)
        with self.accelerator.autocast():
            loss = self.objective(*self._own(batch, noise), progress, generator)
        value = float(self.accelerator.reduce(loss.detach(), "mean"))
        if not math.isfinite(value):
            raise TrainingError(f"the loss is {value} at step {step + 1}; the last checkpoint written stays as it was")
        self.accelerator.backward(loss)
        return value

    def _own(self, batch: Batch, noise: Noise | None) -> tuple[Batch, Noise | None]:
        """Returns this process's rows of a batch and of its noise, on its device."""
        rows = slice(self.accelerator.process_index, None, self.accelerator.num_processes)
        values = {name: value[rows].to(self.accelerator.device) for name, value in vars(batch).items()}
        noises = None if noise is None else {name: value[rows].to(self.accelerator.device) for name, value in vars(noise).items()}
        return Batch(**values), None if noises is None else Noise(**noises)

    def update(self) -> None:
        """Takes the optimiser step."""
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def clock(self, seconds: float) -> float:
        """Returns a time on which all processes agree."""
        if self.accelerator.num_processes == 1:
            return seconds
        return float(self.accelerator.reduce(torch.tensor(seconds, device=self.accelerator.device), "mean"))

    def checkpoint(self, out: Path, status: TrainingStatus) -> None:
        """Saves where the run stands, unless it has taken no step."""
        if self.accelerator.is_main_process and math.isfinite(status.loss):
            save_checkpoint(out / CHECKPOINT_NAME, self.module, self.optimizers, stated(self.plan), status.step, status.seconds)

    def log(self, file: TextIO, status: TrainingStatus) -> None:
        """Adds a step to the log."""
        if self.accelerator.is_main_process:
            file.write(json.dumps(asdict(status)) + "\n")

    def snapshot(self) -> LanguageModel:
        """Returns a copy of the model as it stands."""
        return wrap("in training", copy.deepcopy(self.module), ModelFacts.from_config(getattr(self.module.config, CONFIG_KEY)))

    def finish(self, out: Path) -> None:
        """Writes the model folder, weights in bfloat16."""
        if self.accelerator.is_main_process:
            task = TASKS[self.plan.task]
            with silent_transformers():
                if isinstance(task, CorpusTask):
                    task.save_tokenizer(out)
                save_model(self.module.eval().to(torch.bfloat16).save_pretrained, out)
        self.accelerator.wait_for_everyone()


def stated(plan: TrainingPlan) -> dict[str, object]:
    """Returns a plan as a checkpoint holds it: plain values, as JSON reads them back."""
    values: dict[str, object] = json.loads(json.dumps(asdict(plan)))
    return values


def _prepare(plan: TrainingPlan, out: Path, accelerator: Accelerator) -> tuple[_Run, int, float]:
    module, facts, twin = initial_module(plan)
    with silent_transformers():  # which warns of networks that have one implementation alone
        module.set_attn_implementation("eager" if accelerator.device.type == "cpu" else "sdpa")  # the fused backward is slow on a CPU
    nn.Module.to(module, accelerator.device).train()
    optimizers = make_optimizers(module)
    step, seconds = 0, 0.0
    if (out / CHECKPOINT_NAME).exists():
        step, seconds = load_checkpoint(out / CHECKPOINT_NAME, stated(plan), module, optimizers)
    network = Network(module, facts, ARCHITECTURES[module.config.model_type])
    objective = TrainingObjective(network, plan.adapted, None if twin is None else nn.Module.to(twin, accelerator.device))
    wrapped, *optimizers = accelerator.prepare(objective, *optimizers)
    return _Run(plan, accelerator, module, wrapped, optimizers), step, seconds


def train(
    plan: TrainingPlan,
    out: Path,
    *,
    on_step: Callable[[TrainingStatus], None] = lambda status: None,
    inspect: Callable[[TrainingStatus, Callable[[], LanguageModel]], None] = lambda status, snapshot: None,
    checkpoint_every: float = 60.0,
    device: str | None = None,
) -> TrainingStatus:
    """Trains to the end of ``plan`` and writes a Hugging Face model folder (bfloat16); returns the last status.

    A checkpoint in ``out`` is resumed: with ``steps`` the continued run takes the very steps the uninterrupted one would have.
    Started by ``accelerate launch``, it trains on all the processes there are, each with its share of every batch.

    Args:
        plan: What to train.
        out: Where checkpoint, log (JSON lines) and finally the model go.
        on_step: Called after every step.
        inspect: Called after every step with a function that returns a copy of the model as it stands.
        checkpoint_every: Seconds between checkpoints; one is also written on an interrupt.
        device: ``cpu`` to train there though there is a GPU; None is the fastest there is.

    Raises:
        TrainingError: On a loss that is not a number, or a checkpoint that cannot be written or is of another plan.
        ModelError: Where the model to start from cannot be used.
        TaskError: Where the task cannot learn from the plan's data.
    """
    accelerator = Accelerator(mixed_precision="bf16", cpu=device == "cpu")
    run, step, before = _prepare(plan, out, accelerator)
    status = TrainingStatus(step, float("nan"), plan.progress(step, before), before, 0.0)
    if status.progress == 1 and (out / "config.json").exists():
        return status
    batches: Iterator[Batch] = TASKS[plan.task].training_batches(plan.data, plan.batch, plan.seed, step)
    with _folder(out):
        batch = next(batches)
    trim_log(out / LOG_NAME, step)
    started = last_saved = time.monotonic()
    with (out / LOG_NAME).open("a", encoding="utf-8") as log:
        try:
            while status.progress < 1:
                loss = run.gradient(step, status.progress, batch)
                with _uninterrupted():
                    run.update()
                    step += 1
                    seconds = run.clock(before + time.monotonic() - started)
                    speed = plan.batch / max(seconds - status.seconds, 1e-9)
                    status = TrainingStatus(step, loss, plan.progress(step, seconds), seconds, speed)
                    run.log(log, status)
                on_step(status)
                inspect(status, run.snapshot)
                batch = next(batches)
                if time.monotonic() - last_saved > checkpoint_every:
                    log.flush()
                    run.checkpoint(out, status)
                    last_saved = time.monotonic()
        except TrainingError:
            raise  # what is wrong with the run must not replace the last good checkpoint
        except BaseException:
            run.checkpoint(out, status)
            raise
    run.checkpoint(out, status)
    run.finish(out)
    return replace(status, progress=1.0)
