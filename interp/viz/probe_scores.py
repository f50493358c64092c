"""What the page of a probe sweep shows, as plain values: scores over seeds, shares kept, and where each concept is read best."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from math import hypot
from pathlib import Path

from interp.report import AT_HOME, CEILING, CONTROLS, Estimate, ProbeEntry, over_all_sites
from interp.runs.folder import MOVED, RUN, open_run, read_entries
from interp.statistics import over_seeds
from interp.sweeps.folder import SweepRun
from interp.sweeps.summary import by_place, mean_over_seeds
from interp.viz.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, Series

FLOORS = ("shuffled", "untrained")
Place = tuple[str, str, int, str]
"""Concept, reader, layer, hook point."""
Read = Sequence[ProbeEntry]
"""What was measured at one place, or in one slice of its sites: an entry a seed."""

_SERIES = {
    series.field: series
    for series in (
        Series("source", "source: where it was fitted", BLUE, "solid", "circle"),
        Series("zero_shot", "zero-shot: as it is", VERMILION, "solid", "square", 3.0),
        Series("mean_shift", "aligned: mean shift", ORANGE, "dash", "diamond"),
        Series("ridge_affine", "aligned: affine map", PURPLE, "dashdot", "triangle-up"),
        Series("procrustes", "aligned: rotation", "#a0522d", "longdash", "triangle-down"),
        Series(CEILING, "ceiling: fitted there", GREEN, "longdash", "star", 2.4),
        Series("input_only", "baseline: visible tokens", SKY, "longdashdot", "cross"),
        Series("untrained", "floor: untrained network", GREY, "dash", "x"),
        Series("shuffled", "floor: shuffled labels", GREY, "dot", "circle-open"),
    )
}
_REFIT = "refit "
_OTHERS = (("dot", "star-open"), ("dash", "diamond-open"), ("dashdot", "square-open"), ("longdashdot", "hexagon-open"))
_SHORT = {
    "zero_shot": "zero-shot",
    "ridge_affine": "affine map",
    "procrustes": "rotation",
    "input_only": "visible tokens",
    CEILING: "fitted there",
}


def modes(names: Collection[str]) -> list[str]:
    """Returns the names of scores in the order in which they are shown: as it is, aligned, refitted, ceiling, baseline, floors."""
    first, last = ("source", "zero_shot"), (CEILING, "input_only", "untrained", "shuffled")
    between = sorted((name for name in names if name not in first + last), key=lambda name: name.startswith(_REFIT))
    return [name for name in (*first, *between, *last) if name in names]


def moved_modes(names: Collection[str]) -> list[str]:
    """Returns the names of scores of moved probes alone."""
    return [name for name in modes(names) if name not in (*AT_HOME, *CONTROLS)]


def refits(names: Collection[str]) -> list[str]:
    """Returns the names of scores of refitted probes, fewest labels first."""
    return [name for name in modes(names) if name.startswith(_REFIT)]


def share_of(refit: str) -> str:
    """Returns the share of the labels that a refit had, as it is written."""
    return f"{float(refit.removeprefix(_REFIT).rstrip('%')):g} %"


def short(name: str) -> str:
    """Returns a score's name for the head of a column."""
    return f"refit {share_of(name)}" if name.startswith(_REFIT) else _SHORT.get(name, name.replace("_", " "))


def looks(names: Collection[str]) -> list[Series]:
    """Returns how the lines of scores are drawn, in their order: floors grey, baseline sky blue, what was fitted there green."""
    told: list[Series] = []
    for name in modes(names):
        if name.startswith(_REFIT):
            dash, symbol = _OTHERS[refits(names).index(name) % len(_OTHERS)]
            told.append(Series(name, f"refitted: {share_of(name)} of labels", GREEN, dash, symbol, 1.2))
        elif name not in _SERIES:
            dash, symbol = _OTHERS[sum(one.field not in _SERIES for one in told) % len(_OTHERS)]
            told.append(Series(name, f"aligned: {short(name)}", PURPLE, dash, symbol, 1.2))
        else:
            told.append(_SERIES[name])
    return told


def plain(text: str, most: int = 1000) -> str:
    """Returns a text that plotly shows as it is: no tag, no entity, no template, and no longer than ``most`` characters."""
    shown = text.replace("_", " ").replace("\n", " ")
    shown = shown if len(shown) <= most else f"{shown[: most - 1]}…"
    return escape(shown, quote=False).replace("%{", "%&#123;")


def labelled(concept: str, layer: int) -> str:
    """Returns a concept and its layer as the name of a row, as ``plain`` shows texts."""
    return f"{plain(concept, 26)}, layer {layer}"


def pooled(read: Read, name: str, measure: str = "auc") -> Estimate:
    """Returns a score over seeds; ``measure`` is a field of ``Scores`` that has an interval."""
    return over_seeds([getattr(entry.scores[name], measure) for entry in read if name in entry.scores])


def calibration(read: Read, name: str) -> float:
    """Returns a score's expected calibration error, its mean over seeds."""
    return sum(entry.scores[name].calibration for entry in read) / len(read)


def difference(one: Estimate, other: Estimate) -> Estimate:
    """Returns one score minus another, with the interval of Newcombe (1998, method 10) for independent ones.

    Scores of the same sites go up and down together, so that the interval is rather too wide than too narrow.
    """
    value = one.value - other.value
    down, up = hypot(one.value - one.low, other.high - other.value), hypot(one.high - one.value, other.value - other.low)
    return Estimate(value=value, low=value - down, high=value + up, n=min(one.n, other.n))


def over_control(read: Read, control: str, name: str = "source") -> Estimate:
    """Returns over seeds a score's AUC minus that of its control."""
    return over_seeds([difference(entry.scores[name].auc, entry.scores[control].auc) for entry in read])


def beats(read: Read, name: str, *controls: str) -> bool:
    """Returns whether in every seed the interval of a score lies above those of all these controls."""
    return all(entry.beats(name, *controls) for entry in read)


def kept(read: Read, name: str) -> float | None:
    """Returns the share of the ceiling's AUC over the floor that a score keeps; None where the ceiling does not clearly beat its floors."""
    if not beats(read, CEILING, *FLOORS):
        return None
    return sum(entry.kept(name) for entry in read) / len(read)


@dataclass(frozen=True)
class Part:
    """A run, or one of its moves: what it is of, and what was measured."""

    run: SweepRun
    entries: tuple[ProbeEntry, ...]

    @property
    def name(self) -> str:
        """The model that was read, and in what."""
        return (self.run.moved_to or self.run.model) + (f", in its runs by {self.run.policy}" if self.run.policy else "")

    @cached_property
    def places(self) -> dict[Place, list[ProbeEntry]]:
        """What was measured over all sites, by place, of probes that were fitted on all mask rates."""
        return by_place(over_all_sites(self.entries))

    @cached_property
    def names(self) -> list[str]:
        """The names of all scores, in order."""
        return modes(dict.fromkeys(name for entry in self.entries for name in entry.scores))


def read_parts(folder: Path) -> tuple[Part, list[Part]]:
    """Returns a run and those of its moves of which something is finished.

    Raises:
        RunError: Where a folder is no run.
    """
    folders = sorted(path.parent for path in (folder / MOVED).glob(f"*/{RUN}"))
    parts = [Part(open_run(one, SweepRun), tuple(read_entries(one, ProbeEntry))) for one in (folder, *folders)]
    return parts[0], [part for part in parts[1:] if part.entries]


def best_by_reader(run: Part, within: Iterable[Place]) -> list[Place]:
    """Returns for each concept and reader where the run's own probe reads it best.

    No score of another model decides; the choice and the run's own figures there rest on the same sites, which flatters those a little.

    Args:
        run: The run itself, not a move.
        within: Places to choose among.
    """
    auc = {place: mean_over_seeds(run.places[place], "source") for place in within}
    chosen: dict[tuple[str, str], Place] = {}
    for place in auc:
        chosen[place[:2]] = max(chosen.get(place[:2], place), place, key=auc.__getitem__)
    return list(chosen.values())


def best_places(run: Part, within: Iterable[Place]) -> list[Place]:
    """Returns for each concept where it is read best by the first of the run's readers that reads it; see ``best_by_reader``."""
    order = run.run.config.readers
    chosen: dict[str, Place] = {}
    for place in sorted(best_by_reader(run, within), key=lambda place: order.index(place[1])):
        chosen.setdefault(place[0], place)
    return list(chosen.values())
