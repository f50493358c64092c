"""Commands for models of text: write, and how probable held-out text is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from interp.cli.app import GREATEST_SEED, app, out, print_json, progress_bars
from interp.cli.decoding import Policy, Settings, Steps, decoding_of
from interp.cli.running import Chat, Model


@app.command()
def write(
    model: Model,
    prompt: Annotated[str, typer.Option(help="Text to go on from, or with [MASK:n] where n tokens are missing.")] = "",
    chat: Chat = None,
    n: Annotated[int, typer.Option("--n", min=1, help="How many texts.")] = 1,
    temperature: Annotated[float, typer.Option(help="0 writes the most probable token.")] = 0.8,
    policy: Policy = "random",
    settings: Settings = None,
    steps: Steps = None,
    seed: Annotated[int, typer.Option(min=0, max=GREATEST_SEED, help="Reproduces the texts.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    r"""Write text: from nothing, from a prompt, or into its gaps. A causal model writes left to right, whatever the policy.

    Example: `denoscope write stories-diffusion --n 2 --prompt "Write a bedtime story called \`The Lost Star\`.<start>"`
    """
    from models.load import load
    from models.tasks import asked, text_task
    from models.writing import write as run

    decoding = decoding_of(policy, [f"temperature={temperature}", *(settings or ())], steps=steps, seed=seed)
    loaded = load(model)
    task = text_task(loaded.task)
    prompts = task.prompt(task.parse(asked(task, prompt, chat))).repeat(n, 1)
    with progress_bars() as tell:
        written = run(loaded, prompts, decoding, on_step=lambda done, left: tell("tokens", done, done + left))
    texts = task.decode(written)
    if as_json:
        print_json({"model": model, "prompt": prompt, "policy": policy, "temperature": temperature, "seed": seed, "texts": texts})
        return
    for text in texts:
        out.print(text, markup=False)
        out.rule()


@app.command()
def likelihood(
    model: Model,
    files: Annotated[list[Path], typer.Option(help="A text file; its held-out documents are scored. Repeat for more.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many documents.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Maskings a window, for a masked model's bound.")] = 8,
    ngram: Annotated[bool, typer.Option("--ngram", help="Also fit a 5-gram Kneser-Ney model on the other documents.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=GREATEST_SEED, help="Of the maskings.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure bits per byte of held-out text: exact for a causal model, an upper bound for a masked one. Each text is told its instruction.

    Example: `denoscope likelihood stories-diffusion --files stories.txt --ngram --json`
    """
    from models.likelihood import likelihood as run
    from models.likelihood import ngram_likelihood
    from models.load import load
    from models.tasks import corpus_task

    loaded = load(model)
    task = corpus_task(loaded.task)
    names = tuple(map(str, files))
    documents = task.held_out(names, limit)
    with progress_bars() as tell:
        found = [run(loaded, documents, samples=samples, seed=seed, on_batch=lambda done, total: tell("windows", done, total))]
    if ngram:
        found.append(ngram_likelihood(task.train_documents(names), documents, len(task.vocabulary)))
    figures: list[dict[str, Any]] = [
        {
            "model": one.model,
            "bound": one.model == loaded.name and loaded.facts.objective == "masked",
            "n": len(documents),
            "bits_per_byte": one.bits_per_byte,
            "interval": list(one.interval(seed=seed)),
            "nats_per_token": float(one.nats.sum() / one.n_tokens.sum()),
            "seconds": round(one.seconds, 1),
        }
        for one in found
    ]
    if as_json:
        print_json(figures)
        return
    table = Table("model", "documents", "bits per byte", "nats per token", "seconds")
    for figure in figures:
        low, high = figure["interval"]
        bits = f"{'≤ ' if figure['bound'] else ''}{figure['bits_per_byte']:.3f} [{low:.3f}, {high:.3f}]"
        table.add_row(figure["model"], str(figure["n"]), bits, f"{figure['nats_per_token']:.3f}", f"{figure['seconds']:.0f}")
    out.print(table)
