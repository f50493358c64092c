"""The page of a run of SAEs: all figures, and links to the page of each SAE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from interp.report import SaeEntry, over_all_sites
from interp.runs.folder import MOVED, RUN, open_run, read_entries
from interp.runs.settings import RunError
from interp.saes.folder import SaeRun
from interp.saes.summary import STATISTICS
from interp.viz.page import Table, render_page
from interp.viz.statistics import statistic_figure, statistic_table

INTRO = (
    "A sparse autoencoder writes a model's activations as sums of few directions, its latents. Each score here is of puzzles or documents "
    "that it did not learn from. What was learned on one model is worth something on another if it does better there than an SAE that is "
    "turned at random and than one of an untrained network; the ceiling is an SAE that learned there."
)


def saes_page(folder: Path) -> str:
    """Returns the standalone page of a run and all its moves, as HTML.

    Raises:
        RunError: Where the folder is no run, or nothing of it is finished.
    """
    folders = [folder, *(one.parent for one in sorted(folder.glob(f"{MOVED}/*/{RUN}")))]
    parts = {place: (open_run(place, SaeRun), read_entries(place, SaeEntry)) for place in folders}
    if not parts[folder][1]:
        raise RunError(f"nothing of {folder} is finished; run `denoscope sae train` to its end first")
    figures, tables = [], []
    for run, entries in parts.values():
        for make in STATISTICS if entries else ():
            found = make(entries)
            if found.values:
                found = found.model_copy(update={"title": f"{found.title}: {run.moved_to or run.model}"})
                figures.append(statistic_figure(found))
                tables.append(statistic_table(found))
        tables += _tables(entries, run.moved_to or run.model)
    links = {
        str(page.parent.relative_to(folder)): str(page.relative_to(folder)) for page in sorted(folder.glob("**/seed-*/*/*/index.html"))
    }
    return render_page(title=f"SAEs of {parts[folder][0].model}", traces=(), figures=figures, tables=tables, intro=INTRO, links=links)


def _tables(entries: Sequence[SaeEntry], name: str) -> list[Table]:
    """Returns what is no figure: probing by few latents, what became of latents, matches, crosscoders."""
    whole = sorted(over_all_sites(entries), key=lambda entry: (entry.layer, entry.seed))
    probing = [(entry, score, scores.probing) for entry in whole for score, scores in entry.scores.items() if scores.probing]
    found = [
        _table(
            f"Concepts told by few latents: {name}",
            [({"hook point": entry.hook_point, "seed": entry.seed, "SAE": score}, values) for entry, score, values in probing],
            "Mean AUC over a concept's heads of probes that may use so many latents (the number after the comma).",
        ),
        _table(
            f"What became of the latents: {name}",
            [({"hook point": entry.hook_point, "seed": entry.seed}, entry.states) for entry in whole if entry.states],
            "Alive: fires at home and away, at rates within a factor of 4; shifted: at others; dead: at home alone; born: away alone.",
        ),
        _table(
            f"Nearest decoder directions: {name}",
            [
                ({"hook point": entry.hook_point, "seed": entry.seed, "between": between}, match.model_dump())
                for entry in whole
                for between, match in entry.matches.items()
            ],
            "Largest cosine of each live latent to one of the other SAE: mean, shares above .7 and .9, and the mean of as many random "
            "directions. Seeds: two native SAEs that differ in the seed alone, the most that can be asked for.",
        ),
        _table(
            f"Crosscoders: {name}",
            [
                (
                    {"hook point": entry.hook_point, "seed": entry.seed, "pairs": entry.crosscoder.pairs},
                    {"FVU": entry.crosscoder.fvu_source, "FVU there": entry.crosscoder.fvu_target, **entry.crosscoder.by_scaling},
                )
                for entry in whole
                if entry.crosscoder is not None
            ],
            "One dictionary for both models; latents of each kind by Latent Scaling.",
        ),
    ]
    return [table for table in found if table.rows]


def _table(title: str, rows: Sequence[tuple[Mapping[str, object], Mapping[str, float | int]]], note: str) -> Table:
    """Returns a table of labelled rows of numbers."""
    columns = dict.fromkeys(name for labels, _ in rows for name in labels) | dict.fromkeys(name for _, values in rows for name in values)
    cells = tuple(tuple(_cell({**labels, **values}.get(name)) for name in columns) for labels, values in rows)
    return Table(title, tuple(name.replace("_", " ") for name in columns), cells, note)


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
