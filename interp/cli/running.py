"""Commands that run a model: demo, evaluate, trace."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from interp.cli.app import OutputError, app, out, print_json, progress_bars, whole_folder
from interp.cli.decoding import Policy, Seed, Settings, Steps, decoding_of

if TYPE_CHECKING:
    from models.language_model import LanguageModel

Model = Annotated[str, typer.Argument(help="A bundled name (`denoscope models` lists them), a folder, a hub id, or the TOML file of one.")]
Chat = Annotated[
    int | None, typer.Option(min=1, help="Ask --prompt by the tokenizer's chat template, with so many tokens left for the answer.")
]
TaskName = Annotated[str | None, typer.Option(help="Refuse a model of any other task than this.")]


def model_for(model: str, task: str | None) -> LanguageModel:
    """Returns a model, if it is one of the task, where one is named.

    Raises:
        OutputError: On an unknown task.
        ModelError: Where there is no such model, or it is of another task.
    """
    from models.load import ModelError, load
    from models.tasks import TASKS
    from models.tasks.text import Text

    if task not in (None, *TASKS, Text.name):
        raise OutputError(f"unknown task {task!r}; choose from {', '.join((*TASKS, Text.name))}")
    loaded = load(model)
    if task is not None and loaded.facts.task != task:
        raise ModelError(f"{model} was trained on the task {loaded.facts.task!r}, not {task!r}")
    return loaded


@app.command()
def demo(
    target: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("runs/demo"),
    seed: Seed = 0,
) -> None:
    """Walk the whole road on the bundled pair, in three to five minutes, and write a page to open.

    Harvest, probes and an SAE on the causal twin, transfer to the diffusion twin, denoising of unseen boards, the pseudo chain of thought
    and its causal test. Writes `report.json`, `reading.jsonl`, `trace.zarr`, `readers/`, `sae/` and `index.html`.

    Example: `denoscope demo --out runs/demo --seed 1`
    """
    with whole_folder(target, "report.json") as folder, progress_bars() as tell:
        from interp.demo import run_demo

        report, _ = run_demo(folder, seed=seed, tell=tell)
    for finding in report.findings:
        out.print(f"- {finding}")
    out.print(f"{report.seconds['total']:.0f} s; open {target / 'index.html'}")


@app.command()
def evaluate(
    model: Model,
    puzzles: Annotated[Path, typer.Option(help="File of puzzles: 81 characters a line, or a quizzes,solutions CSV.")],
    task: TaskName = None,
    policy: Policy = "low_confidence",
    settings: Settings = None,
    steps: Steps = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure how many puzzles a model solves: exact, valid, cells right, network calls. A causal model writes left to right.

    Example: `denoscope evaluate sudoku-diffusion --task sudoku --puzzles boards.txt --json`
    """
    import torch

    from models.evaluate import evaluate as run
    from models.tasks import puzzle_task
    from probes.metrics import bootstrap_mean

    decoding = decoding_of(policy, settings, steps=steps, seed=seed)
    loaded = model_for(model, task)
    examples = puzzle_task(loaded.task).read(puzzles, limit)
    with progress_bars() as tell:
        result = run(loaded, examples, decoding, on_batch=lambda done, total: tell("boards", done, total))
    shares = {name: asdict(bootstrap_mean(torch.from_numpy(values), seed=seed)) for name, values in asdict(result.verdicts).items()}
    figures: dict[str, Any] = {
        "model": result.model,
        "fingerprint": loaded.fingerprint,
        "policy": result.policy,
        "puzzles": str(puzzles),
        "seed": seed,
        "n": len(examples),
        **{name: share["value"] for name, share in shares.items()},
        "steps": float(result.calls.mean()),
        "seconds": round(result.seconds, 3),
        "intervals": {name: [share["low"], share["high"]] for name, share in shares.items()},
    }
    if as_json:
        print_json(figures)
        return
    table = Table("n", "exact", "valid", "cells", "steps", "seconds", title=f"{result.model}, {result.policy}")
    shown = [f"{share['value']:.1%} [{share['low']:.1%}, {share['high']:.1%}]" for share in shares.values()]
    table.add_row(str(figures["n"]), *shown, f"{figures['steps']:.1f}", f"{figures['seconds']:.1f}")
    out.print(table)


def _check_prompts(prompt: str | None, prompts: Path | None, limit: int | None, chat: int | None) -> None:
    """Raises OutputError on options that do not go together."""
    if (prompt is None) == (prompts is None):
        raise OutputError("give either --prompt or --prompts, and not both")
    if prompt is not None and limit is not None:
        raise OutputError("--limit is for the prompts of a file (--prompts); --prompt is one")
    if prompts is not None and chat is not None:
        raise OutputError("--chat asks one --prompt; a file of prompts holds them as they are")


@app.command()
def trace(
    model: Model,
    target: Annotated[Path, typer.Option("--out", help="Where the trajectory goes (Zarr).")],
    prompt: Annotated[
        str | None, typer.Option(help="A puzzle (81 characters, 0 or . where empty), or text; [MASK:n] is n tokens to write.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="A file of puzzles, or of texts, one a line: all in one trajectory.")] = None,
    chat: Chat = None,
    task: TaskName = None,
    policy: Policy = "low_confidence",
    settings: Settings = None,
    steps: Steps = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many prompts.")] = None,
    top_k: Annotated[int, typer.Option(min=0, help="Also record so many most probable tokens of each position.")] = 0,
    seed: Seed = 0,
) -> None:
    """Denoise prompts and record every step, streaming to disk. A causal model writes left to right.

    Example: `denoscope trace sudoku-diffusion --out boards.zarr --prompts boards.txt --policy threshold --set threshold=0.9`
    """
    import torch

    from models.denoise import denoise
    from models.left_to_right import write_left_to_right
    from models.recorder import Record
    from models.tasks import PuzzleTask, asked, text_task
    from models.trajectory_store import check_free

    check_free(target)
    _check_prompts(prompt, prompts, limit, chat)
    decoding = decoding_of(policy, settings, steps=steps, seed=seed)
    loaded = model_for(model, task)
    examples = loaded.task.parse(asked(loaded.task, prompt or "", chat)) if prompts is None else loaded.task.read(prompts, limit)
    tokens = loaded.task.prompt(examples)
    with progress_bars() as tell:

        def on_step(done: int, left: int) -> None:
            tell("write", done, done + left)

        if loaded.facts.objective == "causal":
            if top_k:
                raise OutputError(f"--top-k is {top_k}, and {loaded.name} is a causal model: of its writing no more than the best is kept")
            run = write_left_to_right(loaded, tokens, decoding, on_step=on_step)
            run.save(target)
        else:
            run = denoise(loaded, tokens, decoding, record=Record(top_k=top_k, store=target), on_step=on_step)
    written = torch.from_numpy(run.tokens(-1))
    out.print(f"{target}: {run.n_samples} prompts, at most {run.n_steps} network calls, {run.policy}", markup=False)
    if isinstance(loaded.task, PuzzleTask):
        exact = loaded.task.verify(written, examples).exact
        out.print(f"{int(exact.sum())} of {len(exact)} solved")
    else:
        for text in text_task(loaded.task).decode(written):
            out.print(text, markup=False)
