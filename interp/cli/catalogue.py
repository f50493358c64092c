"""Commands that list what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from interp.cli.app import OutputError, app, out, print_json

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def policies(as_json: Json = False) -> None:
    """List the unmasking policies with their options and sources.

    Example: `denoscope policies`
    """
    from models.unmasking import POLICIES, policy_options

    listed: dict[str, dict[str, Any]] = {
        name: {"options": policy_options(name), "about": (policy.__doc__ or "").splitlines()[0]} for name, policy in POLICIES.items()
    }
    if as_json:
        print_json(listed)
        return
    table = Table("policy", "options", "what it writes")
    for name, entry in listed.items():
        options = ", ".join(f"{option}={value}" for option, value in entry["options"].items())
        table.add_row(name, options or "-", str(entry["about"]).removeprefix("Returns "))
    out.print(table)


@app.command()
def generate(
    task: Annotated[str, typer.Argument(help="The task, such as `sudoku`.")],
    target: Annotated[Path, typer.Option("--out", help="File to write, one example a line; it must not exist yet.")],
    n: Annotated[int, typer.Option("--n", min=1, help="How many.")] = 1000,
    level: Annotated[str, typer.Option(help="naked_singles, hidden_singles, eliminations or guessing.")] = "naked_singles",
    givens: Annotated[tuple[int, int] | None, typer.Option(help="Fewest and most givens that a board aims at; default 22 37.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Reproduces the examples.")] = 0,
) -> None:
    """Write fresh examples that no training saw, for `evaluate` and `trace`.

    Example: `denoscope generate sudoku --n 1000 --level naked_singles --givens 29 37 --seed 1 --out boards.txt`
    """
    from models.tasks import TASKS, puzzle_task

    if task not in TASKS:
        raise OutputError(f"unknown task {task!r}; choose from {', '.join(TASKS)}")
    made = puzzle_task(TASKS[task])
    if level not in made.levels:
        raise OutputError(f"unknown level {level!r} of {task}; choose from {', '.join(made.levels)}")
    if target.exists():
        raise OutputError(f"{target} exists; choose another --out")
    lines = made.texts(made.generate(n, level, givens=givens, seed=seed))
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
    out.print(f"{target}: {n} examples, {level}")
