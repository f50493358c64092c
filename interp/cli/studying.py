"""The command that runs a study."""

from __future__ import annotations

import json
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.app import GREATEST_SEED, OutputError, app, out, progress_bars, resumable, whole_folder


class _Scale(StrEnum):
    SMALL = "small"
    FULL = "full"


KEPT = "what is finished is kept, and --resume goes on from there"


def _check_result(target: Path, name: str) -> None:
    """Raises OutputError where a folder holds the result of another study."""
    try:
        held = json.loads((target / "study.json").read_text(encoding="utf-8"))["study"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if held != name:
        raise OutputError(f"{target} holds the study {held!r}, and {name!r} would replace it; choose another --out")


def _work_folder(target: Path, asked: dict[str, Any], resume: bool) -> Path:
    """Returns the folder beside ``target`` in which a study keeps what is finished, with what was asked written in it.

    Raises:
        OutputError: Where an interrupted run lies there, of another request or not to be resumed.
    """
    work = target.resolve().with_name(f".{target.resolve().name}.work")
    stamp = work / "request.json"
    if stamp.exists():
        left = json.loads(stamp.read_text(encoding="utf-8"))
        if not resume:
            raise OutputError(f"an interrupted run of the study {left['study']!r} lies in {work}; give --resume to go on, or remove it")
        different = [key for key in asked if left.get(key) != asked[key]]
        if different:
            told = "; ".join(f"{key} {left.get(key)!r}, not {asked[key]!r}" for key in different)
            raise OutputError(f"the interrupted run in {work} is another: its {told}; choose another --out, or remove it")
    else:
        work.mkdir(parents=True, exist_ok=True)
        stamp.write_text(json.dumps(asked), encoding="utf-8")
    return work


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="The study, such as `sudoku_pair`.")],
    target: Annotated[Path, typer.Option("--out", help="Folder for study.json and index.html.")],
    scale: Annotated[_Scale, typer.Option(help="`small` takes minutes on one core (`adaptation`: two hours).")] = _Scale.SMALL,
    model: Annotated[list[str] | None, typer.Option(help="A bundled name or a folder; repeat it. Default: the study's own.")] = None,
    puzzles: Annotated[list[Path] | None, typer.Option(help="A file of puzzles to measure on as well; repeat it.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=GREATEST_SEED, help="Reproduces the study.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on with what an interrupted run of this very study left.")] = False,
) -> None:
    """Run a study and write `study.json`, every figure with its interval, and `index.html`, a page to open.

    `sudoku_pair` measures the two sudoku models: boards solved by difficulty and policy, by number of network calls, in which order, and
    what the left-to-right model knows before it writes it.

    `policies` runs every unmasking policy on the same boards: solved, calls, cells taken back, order.

    `adaptation`, `memo` and `scaling` train models of their own. Interrupt them as you like: `--resume` goes on.

    Example: `denoscope study sudoku_pair --out runs/pair --scale small`
    """
    from interp.studies import StudyError, run_study, study_named, write_study
    from interp.viz.page import write_page
    from interp.viz.statistics import study_page

    chosen = study_named(name)
    if resume and not chosen.resumes:
        raise StudyError(f"the study {name!r} keeps no part of its work; run it without --resume")
    _check_result(target, name)
    asked = {"study": name, "scale": scale.value, "seed": seed, "models": model or [], "puzzles": [str(path) for path in puzzles or ()]}
    work = _work_folder(target, asked, resume) if chosen.resumes else None
    with whole_folder(target, "study.json") as folder:
        with progress_bars() as tell, resumable(lambda: KEPT if work else "nothing was written"):
            report = run_study(
                name,
                chosen,
                models=model or (),
                scale=scale.value,
                seed=seed,
                puzzles=puzzles or (),
                work=work,
                tell=tell,
            )
        write_page(study_page(report), folder / "index.html")
        write_study(report, folder / "study.json")
    if work:
        shutil.rmtree(work)
    for finding in report.findings:
        out.print(f"- {finding}", markup=False)
    out.print(f"{report.seconds['total']:.0f} s; open {target / 'index.html'}")
