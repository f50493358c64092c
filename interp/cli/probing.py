"""Commands that train probes by the batch, move them, and report on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from interp.cli.app import app, out, print_json, print_wide, progress_bars, resumable

probe = typer.Typer(help="Train linear probes by the batch, move them to another model, report on them.", no_args_is_help=True)
app.add_typer(probe, name="probe")

FINISHED = "the hook points that are finished are kept"

RunFolder = Annotated[Path, typer.Argument(help="A folder that `denoscope probe train` wrote.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@probe.command()
def train(
    sweep: Annotated[Path, typer.Argument(help="The sweep (YAML): model, corpus, concepts, readers, points, canvases, seeds.")],
    target: Annotated[Path | None, typer.Option("--out", help="Folder for probes and figures.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on in a folder that has finished hook points of this very sweep.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only say what it would take: probes, memory, time.")] = False,
    as_json: Json = False,
) -> None:
    """Train every probe of a sweep, with its controls. Ctrl-C loses at most the hook point at hand; `--resume` goes on.

    A sweep is a file such as the following; paths in it are counted from its own folder.

        model: sudoku-ar
        corpus: {examples: 400}
        concepts: [candidates, digit]
        readers: [logistic, mass_mean]
        seeds: [0, 1, 2]

    Example: `denoscope probe train sweep.yaml --out runs/probes --dry-run`
    """
    from interp.runs.config import read_config
    from interp.runs.folder import RUN
    from interp.runs.settings import RunError, in_file
    from interp.sweeps.config import SweepConfig
    from interp.sweeps.cost import cost_of
    from interp.sweeps.train import plan_sweep
    from interp.sweeps.train import train as run

    config = read_config(sweep, SweepConfig)
    with in_file(sweep):
        planned = plan_sweep(config)
    if dry_run:
        _print_cost(cost_of(planned), as_json)
        return
    if target is None:
        raise RunError("--out is missing; it names the folder for probes and figures (or give --dry-run)")
    if (target / RUN).exists() and not resume:
        raise RunError(f"{target} already holds a run; give --resume to go on with it, or another --out")
    with progress_bars() as tell, resumable(lambda: f"{FINISHED}, and --resume goes on from there"):
        table = run(planned, target, tell)
    _print_best(target, table, as_json)


def _print_cost(cost: Any, as_json: bool) -> None:
    if as_json:
        print_json(cost.model_dump())
        return
    out.print(
        f"{cost.probes:,} probes (of {cost.heads:,} heads x {cost.points} hook points x {cost.readers} readers x {cost.seeds} seeds"
        f"{f' x {cost.sets} sets of sites' if cost.sets > 1 else ''}), each with its controls\n"
        f"{cost.sites:,} sites to fit on; {cost.bytes / 2**30:.2f} GB; about {cost.seconds / 60:.1f} minutes on this machine as it is now"
    )


@probe.command()
def transfer(
    run: RunFolder,
    to: Annotated[str, typer.Option(help="The model to move the probes to: a bundled name or a folder.")],
    policy: Annotated[str | None, typer.Option(help="Score in its own runs by this policy, step by step, and not on random masks.")] = None,
    kinds: Annotated[list[str] | None, typer.Option(help="Kinds of positions to read it at; repeat it. Default: those of the run.")] = None,
    layers: Annotated[
        str, typer.Option(help="Where to read it: the layer of the same `depth`, or the most alike one, by `cka`.")
    ] = "depth",
    as_json: Json = False,
) -> None:
    """Move a run's probes to another model: as they are, through every alignment, refitted with few labels; between floors and ceiling.

    What is finished is kept; the same command goes on where it was stopped.

    Example: `denoscope probe transfer runs/probes --to sudoku-diffusion`
    """
    from interp.runs.moving import move_folder
    from interp.sweeps.move import move
    from models.load import load

    loaded = load(to)
    with progress_bars() as tell, resumable(lambda: f"{FINISHED}, and the same command goes on from there"):
        table = move(run, loaded, policy=policy, kinds=kinds or (), layers=layers, tell=tell)
    _print_best(move_folder(run, loaded, policy, layers), table, as_json)


@probe.command()
def report(run: RunFolder, as_json: Json = False) -> None:
    """Write the page of a run and of all its moves (`index.html`), and the table of every score (`results.parquet`).

    Example: `denoscope probe report runs/probes`
    """
    from interp.sweeps.folder import write_results
    from interp.viz.page import write_page
    from interp.viz.probes import probe_page

    table = write_results(run)
    write_page(probe_page(run), run / "index.html")
    _print_best(run, table, as_json)
    if not as_json:
        out.print(f"open {run / 'index.html'}", markup=False)


def _print_best(folder: Path, table: Path, as_json: bool) -> None:
    """Prints for each concept and reader the hook point where it is read best."""
    from interp.report import ProbeEntry, over_all_sites
    from interp.runs.folder import read_entries
    from interp.sweeps.summary import best

    rows = best(over_all_sites(read_entries(folder, ProbeEntry)))
    if as_json:
        print_json({"results": str(table), "best": rows})
        return
    shown = Table(*rows[0], title=str(folder), box=None)
    for row in rows:
        shown.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    print_wide(shown)
    out.print(f"every score: {table}", markup=False)
