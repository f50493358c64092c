"""Commands that train sparse autoencoders, move them, and report on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from interp.cli.app import app, out, print_json, print_wide, progress_bars, resumable

sae = typer.Typer(help="Train sparse autoencoders, move them to another model, report on them.", no_args_is_help=True)
app.add_typer(sae, name="sae")

KEPT = "what is finished is kept, and so is a training up to its last pool;"

RunFolder = Annotated[Path, typer.Argument(help="A folder that `denoscope sae train` wrote.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@sae.command()
def train(
    config: Annotated[Path, typer.Argument(help="What to train (YAML): model, corpus, points, architecture, d_sae, k, ...")],
    target: Annotated[Path, typer.Option("--out", help="Folder for SAEs and figures.")],
    resume: Annotated[bool, typer.Option(help="Go on in a folder that holds part of this very run.")] = False,
    as_json: Json = False,
) -> None:
    """Train an SAE of every hook point in one pass, and that of an untrained network as the floor. Ctrl-C loses little; `--resume` goes on.

    Such a file; paths in it are counted from its own folder.

        model: sudoku-ar
        corpus: {examples: 2000}
        points: [hook_resid_post]
        architecture: topk
        d_sae: 1024
        k: 16
        activations: 400000

    Example: `denoscope sae train sae.yaml --out runs/saes`
    """
    from interp.runs.config import read_config
    from interp.runs.folder import RUN
    from interp.runs.settings import RunError, in_file
    from interp.saes.config import SaeConfig
    from interp.saes.train import plan_saes
    from interp.saes.train import train as run

    settings = read_config(config, SaeConfig)
    with in_file(config):
        planned = plan_saes(settings)
    if (target / RUN).exists() and not resume:
        raise RunError(f"{target} already holds a run; give --resume to go on with it, or another --out")
    with progress_bars() as tell, resumable(lambda: f"{KEPT} --resume goes on from there"):
        table = run(planned, target, tell)
    _print_scores(target, table, as_json)


@sae.command()
def transfer(
    run: RunFolder,
    to: Annotated[str, typer.Option(help="The model to move the SAEs to: a bundled name or a folder.")],
    kinds: Annotated[list[str] | None, typer.Option(help="Kinds of positions to read it at; repeat it. Default: those of the run.")] = None,
    as_json: Json = False,
) -> None:
    """Move a run's SAEs to another model: as they are, matched, stitched, fine-tuned; between floors and the ceiling of its own SAEs.

    What is finished is kept; the same command goes on where it was stopped.

    Example: `denoscope sae transfer runs/saes --to sudoku-diffusion`
    """
    from interp.runs.moving import move_folder
    from interp.saes.move import move
    from models.load import load

    loaded = load(to)
    with progress_bars() as tell, resumable(lambda: f"{KEPT} the same command goes on from there"):
        table = move(run, loaded, kinds=tuple(kinds or ()), tell=tell)
    _print_scores(move_folder(run, loaded, None), table, as_json)


def _print_scores(folder: Path, table: Path, as_json: bool) -> None:
    """Prints by hook point what each SAE leaves unexplained, a mean over seeds."""
    from interp.report import SaeEntry, over_all_sites
    from interp.runs.folder import read_entries
    from interp.saes.summary import by_point

    rows = by_point(over_all_sites(read_entries(folder, SaeEntry)))
    if as_json:
        print_json({"results": str(table), "fvu": rows})
        return
    shown = Table("", *(row["hook point"] for row in rows), title=f"{folder}: fraction of variance unexplained", box=None)
    for name in list(rows[0])[1:]:
        shown.add_row(name, *(f"{row[name]:.3f}" if isinstance(row[name], float) else str(row[name]) for row in rows))
    print_wide(shown)
    out.print(f"every score: {table}", markup=False)


@sae.command()
def report(
    run: RunFolder,
    latents: Annotated[int, typer.Option(min=1, help="How many latents of each SAE are drawn at random and described.")] = 20,
    as_json: Json = False,
) -> None:
    """Write the pages of a run: all figures (`index.html`), and beside each SAE of the first seed a dashboard of its latents.

    Of a model that the SAEs were moved to, its own ones are described over its denoising.

    Example: `denoscope sae report runs/saes`
    """
    from interp.saes.describe import SUMMARY, describe
    from interp.saes.folder import write_results
    from interp.viz.page import write_page
    from interp.viz.sae_page import sae_page
    from interp.viz.saes import saes_page

    table, pages = write_results(run), []
    with progress_bars() as tell:
        for place, summary in describe(run, latents, tell):
            (place / SUMMARY).write_text(summary.model_dump_json(indent=1) + "\n", encoding="utf-8")
            write_page(sae_page(summary), place / "index.html")
            pages.append(place / "index.html")
    write_page(saes_page(run), run / "index.html")
    if as_json:
        print_json({"results": str(table), "page": str(run / "index.html"), "pages": [str(page) for page in pages]})
        return
    out.print(f"open {run / 'index.html'}; of each SAE: {', '.join(str(page.relative_to(run)) for page in pages)}", markup=False)
