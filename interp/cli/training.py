"""Commands that make models: train, and convert."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from interp.cli.app import GREATEST_SEED, OutputError, app, errors, out, resumable
from interp.cli.running import Model

if TYPE_CHECKING:
    from models.train import TrainingStatus

Files = Annotated[list[Path] | None, typer.Option(help="A text file to learn from, for stories; repeat for more.")]


class _Objective(StrEnum):
    CAUSAL = "causal"
    MASKED = "masked"


class Show(Protocol):
    """Draws where a training stands."""

    def __call__(self, stage: str, status: TrainingStatus) -> None:
        """Draws it; ``stage`` comes before the text."""
        ...


@contextmanager
def training_bar(folder: Path) -> Iterator[Show]:
    """Yields ``show(stage, status)``, a bar with loss, throughput and time left; says on Ctrl-C that the work is kept."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as bars:
        bar = bars.add_task("preparing data", total=1.0)

        def show(stage: str, status: TrainingStatus) -> None:
            text = f"{stage}step {status.step}  loss {status.loss:.4f}  {status.examples_per_second:.0f} sequences/s"
            bars.update(bar, completed=status.progress, description=text)

        def kept() -> str:
            return "the same command goes on from the checkpoint" if any(folder.rglob("checkpoint.safetensors")) else "nothing was kept"

        with resumable(kept):
            yield show


def _report(target: Path, status: TrainingStatus) -> None:
    from interp.viz.losses import write_losses

    write_losses([target], target / "loss.html")
    ended = "it was finished already" if math.isnan(status.loss) else f"last loss {status.loss:.4f}"
    out.print(f"{target}: {status.step} steps, {status.seconds:.0f} s, {ended}; loss curve in {target / 'loss.html'}")


def _mix(texts: list[str] | None) -> dict[str, float]:
    shares = {}
    for text in texts or ():
        level, found, share = text.partition("=")
        try:
            shares[level] = float(share)
        except ValueError:
            found = ""
        if not found:
            raise OutputError(f"--mix is {text!r}; it must be LEVEL=SHARE, such as hidden_singles=0.3")
    return shares


@app.command()
def train(
    task: Annotated[str, typer.Argument(help="The task: `sudoku` or `stories`.")],
    target: Annotated[Path, typer.Option("--out", help="Folder for checkpoint, log, loss curve and finished model.")],
    objective: Annotated[_Objective, typer.Option(help="`causal` for the AR twin, `masked` for the diffusion twin.")],
    init: Annotated[Path | None, typer.Option(help="Model to start from: give the causal twin to grow a masked one.")] = None,
    method: Annotated[str | None, typer.Option(help="How a masked model grows: switch (the default), anneal, align, scratch.")] = None,
    loss: Annotated[str | None, typer.Option(help="Of a masked model: ce (the default), mdlm, llada, mgdm.")] = None,
    schedule: Annotated[str | None, typer.Option(help="Noise of a masked model: linear (the default), cosine.")] = None,
    logit_shift: Annotated[int | None, typer.Option(help="Of a masked model: 1 (the default) keeps the twin's shift, 0 drops it.")] = None,
    size: Annotated[str | None, typer.Option(help="Network shape by name: nano, mini, tiny (the default), small, flat, base.")] = None,
    architecture: Annotated[str | None, typer.Option(help="Kind of network: gpt2 (the default), llama, qwen3, gemma3_text, ...")] = None,
    minutes: Annotated[float | None, typer.Option(help="Train for so long; the schedule follows the clock.")] = None,
    steps: Annotated[int | None, typer.Option(help="Train for so many steps; reproducible.")] = None,
    batch: Annotated[int, typer.Option(help="Sequences a step.")] = 128,
    examples: Annotated[int | None, typer.Option(help="Puzzles generated before augmentation (default 100,000).")] = None,
    mix: Annotated[list[str] | None, typer.Option(help="LEVEL=SHARE of the puzzles; repeat, shares add up to 1.")] = None,
    givens: Annotated[tuple[int, int] | None, typer.Option(help="Fewest and most givens that the puzzles aim at.")] = None,
    sparse: Annotated[int | None, typer.Option(help="Also so many puzzles of 21 givens at most, a fifth of a second each.")] = None,
    files: Files = None,
    seed: Annotated[int, typer.Option(min=0, max=GREATEST_SEED, help="Of weights, data, augmentation and masks.")] = 0,
) -> None:
    """Train a causal twin, or grow a diffusion twin from one. Interrupt it as you like: the same command goes on from its checkpoint.

    Several GPUs: `accelerate launch -m interp.cli train ...`.

    Example: `denoscope train sudoku --objective masked --init runs/ar --minutes 30 --out runs/diffusion`
    """
    from models.adapt import Adaptation
    from models.checkpoint import CHECKPOINT_NAME
    from models.plan import TrainingPlan
    from models.tasks import TrainingData
    from models.train import train as run

    if target.exists() and not target.is_dir():
        raise OutputError(f"{target} exists and is no folder; choose another --out")
    if (target / "config.json").exists() and not (target / CHECKPOINT_NAME).exists():
        raise OutputError(f"{target} holds a model and no checkpoint of a training; choose another --out")
    stated = {"method": method, "loss": loss, "schedule": schedule, "logit_shift": logit_shift}
    given = {name: value for name, value in stated.items() if value is not None}
    if given and objective is _Objective.MASKED:
        given.setdefault("method", "switch" if init else "scratch")
    plan = TrainingPlan(
        task=task,
        objective=objective.value,
        size=size,
        architecture=architecture,
        init=None if init is None else str(init),
        adaptation=Adaptation(**given) if given else None,  # type: ignore[arg-type]
        steps=steps,
        minutes=minutes,
        batch=batch,
        data=TrainingData(examples=examples, mix=_mix(mix), givens=givens, sparse=sparse, files=tuple(map(str, files or ()))),
        seed=seed,
    )
    with training_bar(target) as show:
        status = run(plan, target, on_step=lambda status: show("", status))
    _report(target, status)


@app.command()
def recipe(
    name: Annotated[str, typer.Argument(help="The name of a bundled model, or a TOML file of stages.")],
    target: Annotated[Path, typer.Option("--out", help="Folder; each stage gets one below it.")],
    files: Files = None,
) -> None:
    """Train a bundled model again, from nothing, stage by stage. Interrupt it as you like: the same command goes on.

    Example: `denoscope recipe sudoku-diffusion --out runs/again`
    """
    from models.recipe import read_recipe, run_recipe

    stages = read_recipe(name, target, tuple(map(str, files or ())))
    with training_bar(target) as show:
        ended = list(run_recipe(stages, target, on_step=lambda stage, status: show(f"{stage}: ", status)))
    for stage, status in ended:
        if status is None:
            out.print(f"{target / stage.name}: mean of the weights of earlier stages")
        else:
            _report(target / stage.name, status)


@app.command()
def convert(
    model: Model,
    family: Annotated[str, typer.Option("--to", help="The family: a2d-llama, a2d-qwen2, a2d-qwen3 or diffugpt.")],
    target: Annotated[Path, typer.Option("--out", help="Folder for the converted model; it must not be there, or be empty.")],
    mask_token: Annotated[str | None, typer.Option(help="Text of the mask token; default: the tokenizer's, or the family's.")] = None,
) -> None:
    """Lay a causal checkpoint out as a diffusion model of a published family, with the same tensors: where its training starts from.

    Example: `denoscope convert Qwen/Qwen3-0.6B --to a2d-qwen3 --out runs/a2d`
    """
    from models.convert import convert as run

    mask = run(model, family, target, mask_token)
    out.print(f"{target}: {model} as a model of the family {family}, mask token {mask}", markup=False)
