"""The checkpoint of a training: one safetensors file, replaced only when whole, and the log and model folder that go with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

CHECKPOINT_NAME, LOG_NAME = "checkpoint.safetensors", "log.jsonl"


class TrainingError(RuntimeError):
    """A training that cannot start, cannot resume, or went wrong; the last checkpoint stays good."""


def save_checkpoint(
    path: Path, module: nn.Module, optimizers: list[torch.optim.Optimizer], plan: dict[str, object], step: int, seconds: float
) -> None:
    """Writes everything a resumed run needs into one safetensors file, replacing the previous one only when whole.

    Raises:
        TrainingError: Where it cannot be written, or a weight is not a number.
    """
    broken = [name for name, value in module.state_dict().items() if not torch.isfinite(value).all()]
    if broken:
        raise TrainingError(f"weights are not numbers after step {step} ({broken[0]} among {len(broken)} tensors); {_kept(path)}")
    tensors = {f"model.{name}": value.contiguous() for name, value in module.state_dict().items()}
    for index, optimizer in enumerate(optimizers):
        for parameter, entries in optimizer.state_dict()["state"].items():
            for name, value in entries.items():
                tensors[f"optimizer.{index}.{parameter}.{name}"] = value
    state = {"plan": plan, "step": step, "seconds": seconds}
    partial = path.with_suffix(".partial")
    try:
        save_file(tensors, partial, metadata={"state": json.dumps(state)})
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise TrainingError(f"the checkpoint could not be written to {path} ({error}); {_kept(path)}") from None


def _kept(path: Path) -> str:
    return "the checkpoint before it is kept" if path.exists() else "there is no earlier checkpoint"


def load_checkpoint(path: Path, plan: dict[str, object], module: nn.Module, optimizers: list[torch.optim.Optimizer]) -> tuple[int, float]:
    """Restores a checkpoint in place; returns its step and the seconds spent so far.

    Raises:
        TrainingError: Where it is cut short, no checkpoint, or of another plan (how long to train may differ).
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
        theirs, step, seconds = state["plan"], int(state["step"]), float(state["seconds"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path} is no whole checkpoint ({error}); remove it to start again") from None
    changed = [name for name in plan if name not in ("steps", "minutes") and theirs.get(name) != plan[name]]
    if changed:
        differences = ", ".join(f"{name} was {theirs.get(name)!r} and is now {plan[name]!r}" for name in changed)
        raise TrainingError(f"{path} is of another training ({differences}); use another --out, or remove it")
    weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    ours = {name: value.shape for name, value in module.state_dict().items()}
    if ours != {name: value.shape for name, value in weights.items()}:
        raise TrainingError(
            f"{path} is of a network of another shape (has the model to start from changed?); use another --out, or remove it"
        )
    module.load_state_dict(weights)
    for index, optimizer in enumerate(optimizers):
        restored: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(f"optimizer.{index}."):
                parameter, entry = name.split(".", 2)[2].split(".", 1)
                restored.setdefault(int(parameter), {})[entry] = value
        optimizer.load_state_dict({"state": restored, "param_groups": optimizer.state_dict()["param_groups"]})
    return step, seconds


def trim_log(path: Path, step: int) -> None:
    """Drops the lines of a log beyond ``step``, and a line cut short: a killed run logs steps that its checkpoint does not have."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError):
            break
        kept.append(line + "\n")
    path.write_text("".join(kept), encoding="utf-8")


def save_model(save_pretrained: Callable[[Path], None], out: Path) -> None:
    """Writes a Hugging Face model folder into ``out``; ``config.json``, which makes it one, comes last.

    Raises:
        TrainingError: Where it cannot be written.
    """
    partial = out / "model.partial"
    try:
        save_pretrained(partial)
        for file in sorted(partial.iterdir(), key=lambda file: file.name == "config.json"):
            file.replace(out / file.name)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"the model could not be written to {out} ({error}); {_kept(out / CHECKPOINT_NAME)}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
