"""The page of a probe sweep: what a run's probes read, with their controls, and what is left of that on other models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import wrap

from plotly.graph_objects import Figure

from interp.report import Estimate
from interp.runs.folder import settings_of
from interp.runs.settings import RunError
from interp.viz.page import Table, render_page
from interp.viz.probe_findings import move_findings, run_findings
from interp.viz.probe_grids import AXES, kept_figure, measures_figure, slices_figure
from interp.viz.probe_lines import auc_figure, readers_figure, selectivity_figure
from interp.viz.probe_scores import Part, Place, best_by_reader, best_places, calibration, plain, pooled, read_parts, short

INTRO = (
    "A linear probe reads a concept off a model's activations. Each score here is of puzzles or documents the probe was not fitted on, "
    "and stands beside its floors (the same probe fitted on shuffled labels; a probe of a network with shuffled weights) and a baseline "
    "that sees the visible tokens but no network. Where probes were moved to another model, the ceiling is a probe fitted there with all "
    "labels. AUC is the mean over a concept's heads; .5 is chance."
)
RUN_CAPTION = (
    "Read the probe (blue) against the two grey floors and the sky-blue baseline, which sees visible tokens but no network. "
    "A click in the legend hides a line."
)
MOVE_CAPTION = (
    "Read the probe as it is (vermilion) against the green ceiling, the grey floors and the sky-blue baseline. Aligned: the "
    "activations are first mapped to the probe's own model, without labels. Refitted: adjusted with a share of the labels. A click in the "
    "legend hides a line."
)


def probe_page(folder: Path) -> str:
    """Returns the standalone page of a run and all its moves, as HTML.

    Raises:
        RunError: Where the folder is no run, or nothing of it is finished.
    """
    run, moves = read_parts(folder)
    if not run.entries:
        raise RunError(f"nothing of {folder} is finished; run `denoscope probe train` to its end first")
    places = best_places(run, run.places)
    figures, findings = run_figures(run, places), run_findings(run, places)
    tables = [best_table(run, best_by_reader(run, run.places))]
    for move in moves:
        moved = best_places(run, move.places)
        figures += move_figures(move, moved)
        findings += move_findings(move, moved)
        tables.append(best_table(move, best_by_reader(run, move.places)))
    tables += [*left_out_tables([run, *moves]), settings_table([run, *moves])]
    return render_page(title=f"Probes of {run.name}", traces=(), figures=figures, findings=findings, tables=tables, intro=INTRO)


def _readers_of(part: Part) -> int:
    return len({reader for _, reader, _, _ in part.places})


def run_figures(run: Part, places: Sequence[Place]) -> list[Figure]:
    """Returns the figures of a run's own probes that have data."""
    slices = [slices_figure(run, places, axis) for axis in AXES]
    return [
        auc_figure(run, places, title=f"What is read on {plain(run.name)}", caption=RUN_CAPTION),
        selectivity_figure(run, places),
        *([readers_figure(run, places, "source")] if _readers_of(run) > 1 else []),
        *(figure for figure in slices if figure is not None),
    ]


def move_figures(move: Part, places: Sequence[Place]) -> list[Figure]:
    """Returns the figures of moved probes that have data."""
    slices = [slices_figure(move, places, axis) for axis in AXES]
    depth = any(entry.read_at for entry in move.entries)
    caption = MOVE_CAPTION + (
        " A mean shift moves thresholds alone, so that only readers with a softmax change their AUC by it."
        if "mean_shift" in move.names
        else ""
    )
    caption += " Layers are those of the probe; the other model is read at the same relative depth." if depth else ""
    return [
        auc_figure(move, places, title=f"Moved to {plain(move.name)}", caption=caption),
        kept_figure(move, places),
        measures_figure(move, places),
        *([readers_figure(move, places, "zero_shot")] if _readers_of(move) > 1 else []),
        *(figure for figure in slices if figure is not None),
    ]


def _told(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def best_table(part: Part, places: Sequence[Place]) -> Table:
    """Returns what was measured where each concept is read best, a row a concept and reader."""
    headline = "zero_shot" if "zero_shot" in part.names else "source"
    others = [name for name in part.names if name != headline]
    whole = ("matched", "accuracy", "exact") if headline == "source" else ()
    rows = tuple(
        (
            f"{place[0]}, {place[1].replace('_', ' ')}, layer {place[2]}",
            _told(pooled(read, headline)),
            *(f"{pooled(read, name).value:.3f}" if name in read[0].scores else "-" for name in others),
            *(f"{pooled(read, headline, measure).value:.3f}" for measure in whole),
            *([f"{calibration(read, headline):.3f}"] if whole else []),
            str(len(read[0].heads)),
            str(pooled(read, headline).n),
            str(len(read)),
        )
        for place, read in ((place, part.places[place]) for place in sorted(places, key=lambda place: place[0]))
    )
    columns = ("concept, reader", short(headline), *map(short, others))
    columns += ("in a mask rate", "accuracy", "wholly right", "calibration error") if whole else ()
    note = "Where each reader reads its own model best. Means of AUC over seeds, in brackets over their intervals; n: puzzles or documents."
    return Table(f"Best layers: {part.name}", (*columns, "heads", "n", "seeds"), rows, note)


def left_out_tables(parts: Sequence[Part]) -> list[Table]:
    """Returns a table of the heads that were not asked; none where all were."""
    found: dict[tuple[str, str, str], dict[int, None]] = {}
    for part in parts:
        for entry in part.entries:
            if entry.left_out:
                found.setdefault((entry.concept, part.name, ", ".join(entry.left_out)), {})[entry.seed] = None
    rows = tuple((concept, name, heads, ", ".join(map(str, seeds))) for (concept, name, heads), seeds in found.items())
    note = "Nearly always, or nearly never, true among the sites to fit or to score on; no score here is of them."
    return [Table("Heads left out", ("concept", "read on", "heads", "seeds"), rows, note)] if rows else []


def settings_table(parts: Sequence[Part]) -> Table:
    """Returns what the run and its moves are of."""
    run = parts[0].run
    told = {"fingerprint": run.fingerprint}
    told |= {name: _setting(value) for name, value in json.loads(settings_of(run)).items()}
    for part in parts[1:]:
        told[f"moved to {part.name}"] = f"{part.run.moved_fingerprint}, kinds of positions: {', '.join(part.run.config.kinds)}"
    rows = [(name if first else "", line) for name, text in told.items() for first, line in _lines(text)]
    return Table("Settings", ("setting", "value"), tuple(rows), "What is not named is as it is by default.")


def _setting(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_setting, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _lines(text: str) -> Iterator[tuple[bool, str]]:
    """Yields the lines of a long text, each with whether it is the first."""
    for index, line in enumerate(wrap(text, 90)):
        yield index == 0, line
