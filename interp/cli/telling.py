"""Commands that tell a run as a pseudo chain of thought, and test how far to believe it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interp.cli.app import OutputError, app, out, print_json, progress_bars, whole_folder
from interp.cli.decoding import Policy, Seed, Settings, Steps, decoding_of
from interp.cli.running import Model, TaskName, model_for

if TYPE_CHECKING:
    import torch

    from models.language_model import LanguageModel
    from models.tasks.sudoku.generator import Puzzles

Causal = Annotated[
    str | None, typer.Option("--ar", help="The causal twin that readers are learned on; default: the bundled one of the task.")
]
Readers = Annotated[Path | None, typer.Option(help="Readers that `denoscope read` or `demo` wrote; without, they are fitted now.")]


class _Level(StrEnum):
    PARAGRAPH = "paragraph"
    STEPS = "steps"
    EVERYTHING = "everything"


@app.command()
def read(
    source: Annotated[Path, typer.Argument(help="A trajectory that `denoscope trace` wrote.")],
    target: Annotated[Path, typer.Option("--out", help="Folder for reading.jsonl, readers/ and index.html.")],
    level: Annotated[_Level, typer.Option(help="How much the terminal shows; files hold everything.")] = _Level.STEPS,
    readers: Readers = None,
    support: Annotated[Path | None, typer.Option(help="A faithfulness.json of this model: marks which kinds are decisive or used.")] = None,
    model: Annotated[str | None, typer.Option(help="The model of the trajectory, if it is not where it was.")] = None,
    ar: Causal = None,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON in place of the account.")] = False,
) -> None:
    """Tell a trajectory as a pseudo chain of thought: statements on the terminal, as JSON lines, and as a page.

    Each statement names the call, what was read, where and how surely. Of a puzzle the rules grade it; of a text, what the run ends with.

    Example: `denoscope read board.zarr --out board --level paragraph`
    """
    from models.load import ModelError
    from models.trajectory import Trajectory

    trajectory = Trajectory.load(source)
    try:
        loaded = model_for(model or trajectory.model, trajectory.task)
    except ModelError as error:
        hint = "" if model else f"; {source} was written by a model of that name, say where it is with --model"
        raise ModelError(f"{error}{hint}") from None
    with whole_folder(target, "reading.jsonl") as folder:
        with progress_bars() as tell:
            from interp.account import account_of, readers_for, save_readers_of, verdict_lines, write_account
            from interp.faithfulness.battery import read_battery, support_of
            from interp.narration.levels import LEVELS
            from interp.reading import check_model

            check_model(loaded, trajectory)
            found = readers_for(loaded, readers, ar, seed=seed, tell=tell)
            earned = {} if support is None else support_of(read_battery(support), loaded)
            account = account_of(loaded, trajectory, found, support=earned, on_step=lambda done, total: tell("read", done, total))
        write_account(account, folder)
        if readers is None:
            save_readers_of(loaded, found, folder / "readers")
    verdict = verdict_lines(account)
    if as_json:
        print_json(verdict)
        return
    for line in LEVELS[level.value](account.statements):
        out.print(line, markup=False)
    for name, said in verdict.items():
        out.print(f"{name}: {said}", markup=False)
    out.print(f"{len(account.statements)} statements; open {target / 'index.html'}")


STEPS = {"sudoku": 12, "stories": 32}
"""By task, the network calls of a run unless others are asked for."""


@app.command()
def faithfulness(
    model: Model,
    target: Annotated[Path, typer.Option("--out", help="Folder for faithfulness.json and index.html.")],
    task: TaskName = None,
    n: Annotated[int, typer.Option(min=4, help="Boards or prompts.")] = 100,
    test: Annotated[list[str] | None, typer.Option(help="Only this test; repeat it. Default: all.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Puzzles or prompts of your own; default: unseen boards of every kind, or what the causal twin writes."),
    ] = None,
    readers: Readers = None,
    ar: Causal = None,
    policy: Policy = "low_confidence",
    settings: Settings = None,
    steps: Steps = None,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON in place of the findings.")] = False,
) -> None:
    """Test how far an account of runs can be believed: every test with its control, n and interval, and a page.

    `early`: is the answer there before it is written. `corruption`: what a wrong token does to the rest. `paraphrase`: is the same said
    otherwise answered the same. `restart`: do tokens alone carry the state. `filler`: does what is written matter, or only how much.
    `patching`: another run's state put into this one. `statements`: is what a statement claims readable, decisive, used.
    `simulatability`: does reading the account foretell the next call. What needs ground truth or readers is skipped where there are none.

    Example: `denoscope faithfulness sudoku-diffusion --task sudoku --n 100 --out runs/faithful`
    """
    loaded = model_for(model, task)
    decoding = decoding_of(policy, settings, steps=STEPS.get(loaded.facts.task) if steps is None else steps, seed=seed)
    if loaded.facts.objective != "masked":
        raise OutputError(f"{loaded.name} is a {loaded.facts.objective} model; runs of a masked one are tested")
    with whole_folder(target, "faithfulness.json") as folder:
        with progress_bars() as tell:
            from interp.account import CAUSAL, readers_for
            from interp.clock import Clock
            from interp.faithfulness.base import Case
            from interp.faithfulness.battery import check_tests, run_battery, write_battery
            from interp.viz.page import write_page
            from interp.viz.statistics import battery_page
            from models.denoise import denoise

            names = check_tests(test)
            puzzles, tokens = _material(loaded, prompts, n, ar or CAUSAL.get(loaded.facts.task), seed)
            found = readers_for(loaded, readers, ar, seed=seed, tell=tell) if puzzles is not None else None
            run = denoise(loaded, tokens, decoding, on_step=lambda done, left: tell("write", done, done + left))
            report = run_battery(Case(loaded, run, puzzles, found, seed), names, Clock(tell))
        write_page(battery_page(report), folder / "index.html")
        write_battery(report, folder / "faithfulness.json")
    if as_json:
        print_json(report.model_dump(mode="json"))
        return
    for entry in report.tests:
        for finding in [f"skipped: {entry.skipped}"] if entry.skipped else entry.findings:
            out.print(f"{entry.name}: {finding}", markup=False)
    out.print(f"{report.seconds['total']:.0f} s; open {target / 'index.html'}")


def _material(model: LanguageModel, path: Path | None, n: int, ar: str | None, seed: int) -> tuple[Puzzles | None, torch.Tensor]:
    """Returns puzzles, where the task has them, and the prompts."""
    from interp.boards import mixed_boards
    from interp.reading.stories import sampled_texts, story_prompts
    from interp.tellers.boards import CALIBRATED, FITTED
    from models.load import load
    from models.tasks import PuzzleTask
    from models.tasks.sudoku.generator import RUNGS

    if isinstance(model.task, PuzzleTask):
        fitted = FITTED + CALIBRATED  # of the same stream: readers learn from its beginning
        puzzles = mixed_boards(fitted + n, seed, RUNGS)[fitted:] if path is None else model.task.read(path, n)
        return puzzles, model.task.prompt(puzzles)
    if path is not None:
        return None, model.task.prompt(model.task.read(path, n))
    if ar is None:
        raise OutputError(f"{model.name} writes text of its own tokens: give --prompts, a file of prompts with [MASK:n]")
    return None, story_prompts(sampled_texts(load(ar), 2 * n, seed), "genre and title")[:n]
