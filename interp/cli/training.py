"""The command that trains."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from interp.cli.app import GREATEST_SEED, OutputError, app, errors, out


class _Objective(StrEnum):
    CAUSAL = "causal"
    MASKED = "masked"


@app.command()
def train(
    task: Annotated[str, typer.Argument(help="The task, such as `sudoku`.")],
    target: Annotated[Path, typer.Option("--out", help="Folder for checkpoint, log and finished model.")],
    objective: Annotated[_Objective, typer.Option(help="`causal` for the AR twin, `masked` for the diffusion twin.")],
    init: Annotated[Path | None, typer.Option(help="Model to start from: give the causal twin to grow a masked one.")] = None,
    size: Annotated[str | None, typer.Option(help="Network shape by name: nano, tiny (the default), small, base.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Train for so long; the schedule follows the clock.")] = None,
    steps: Annotated[int | None, typer.Option(help="Train for so many steps; reproducible.")] = None,
    batch: Annotated[int, typer.Option(help="Sequences a step.")] = 128,
    examples: Annotated[int, typer.Option(help="Examples generated before augmentation.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, max=GREATEST_SEED, help="Of weights, boards, augmentation and masks.")] = 0,
) -> None:
    """Train a causal twin, or grow a diffusion twin from one. Interrupt it as you like: the same command goes on from its checkpoint.

    Example: `denoscope train sudoku --objective masked --init runs/ar --minutes 30 --out runs/diffusion`
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from models.checkpoint import CHECKPOINT_NAME
    from models.train import TrainingPlan, TrainingStatus
    from models.train import train as run

    if target.exists() and not target.is_dir():
        raise OutputError(f"{target} exists and is no folder; choose another --out")
    if (target / "config.json").exists() and not (target / CHECKPOINT_NAME).exists():
        raise OutputError(f"{target} holds a model and no checkpoint of a training; choose another --out")
    plan = TrainingPlan(
        task=task,
        objective=objective.value,
        size=size,
        init=None if init is None else str(init),
        steps=steps,
        minutes=minutes,
        batch=batch,
        examples=examples,
        seed=seed,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as bars:
        bar = bars.add_task("preparing boards", total=1.0)

        def show(status: TrainingStatus) -> None:
            text = f"step {status.step}  loss {status.loss:.4f}  {status.examples_per_second:.0f} sequences/s"
            bars.update(bar, completed=status.progress, description=text)

        try:
            status = run(plan, target, on_step=show)
        except KeyboardInterrupt:
            kept = (target / CHECKPOINT_NAME).exists()
            errors.print(f"interrupted; {'the same command goes on from the checkpoint' if kept else 'nothing was kept'}")
            raise
    ended = "it was finished already" if math.isnan(status.loss) else f"last loss {status.loss:.4f}"
    out.print(f"{target}: {status.step} steps, {status.seconds:.0f} s, {ended}")
