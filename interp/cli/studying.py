"""The command that runs a study."""

from __future__ import annotations

import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from interp.cli.app import GREATEST_SEED, app, out, progress_bars, whole_folder


class _Scale(StrEnum):
    SMALL = "small"
    FULL = "full"


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="The study, such as `sudoku_pair`.")],
    target: Annotated[Path, typer.Option("--out", help="Folder for study.json and index.html.")],
    scale: Annotated[_Scale, typer.Option(help="`small` takes minutes on one core (`adaptation`: two hours).")] = _Scale.SMALL,
    model: Annotated[list[str] | None, typer.Option(help="A bundled name or a folder; repeat it. Default: the study's own.")] = None,
    puzzles: Annotated[list[Path] | None, typer.Option(help="A file of puzzles to measure on as well; repeat it.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=GREATEST_SEED, help="Reproduces the study.")] = 0,
) -> None:
    """Run a study and write `study.json`, every figure with its interval, and `index.html`, a page to open.

    `sudoku_pair` measures the two sudoku models: boards solved by difficulty and policy, by number of network calls, in which order, and
    what the left-to-right model knows before it writes it.

    `policies` runs every unmasking policy on the same boards: solved, calls, cells taken back, order.

    `adaptation` trains: it grows diffusion models by each method and compares them. Interrupt it as you like: the same command goes on.

    Example: `denoscope study sudoku_pair --out runs/pair --scale small`
    """
    work = target.resolve().with_name(f".{target.resolve().name}.work")
    with whole_folder(target, "study.json") as folder:
        with progress_bars() as tell:
            from interp.studies import run_study, study_named, write_study
            from interp.viz.page import write_page
            from interp.viz.statistics import study_page

            report = run_study(
                name,
                study_named(name),
                models=model or (),
                scale=scale.value,
                seed=seed,
                puzzles=puzzles or (),
                work=work,
                tell=tell,
            )
        write_page(study_page(report), folder / "index.html")
        write_study(report, folder / "study.json")
    shutil.rmtree(work, ignore_errors=True)
    for finding in report.findings:
        out.print(f"- {finding}", markup=False)
    out.print(f"{report.seconds['total']:.0f} s; open {target / 'index.html'}")
