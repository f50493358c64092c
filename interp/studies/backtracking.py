"""Backtracking: whether the twins tell that a written digit is wrong, and whether what is taken back is foreseen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from interp.backtracking.doubters import DISAGREES, DOUBT, INPUT, MOVED, NATIVE, fit_doubters
from interp.backtracking.fates import LATER, MENDED, NOW, SPOILED
from interp.boards import mixed_boards
from interp.corpus import puzzle_corpus
from interp.report import Estimate
from interp.statistics import Measured, Statistic
from interp.studies.base import Request, Study, twins_of
from interp.studies.doubting import DOSES, QUIETLY, RIGHT, WRONG, chosen, kept, pushes, read_all, readable
from interp.studies.foreseeing import BY_CHANCE, REVISING, traced
from models.tasks.sudoku.generator import RUNGS
from models.tasks.sudoku.task import SUDOKU


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    fitted: int
    """Boards to fit readers on."""
    tested: int
    """Boards to test them on."""
    cells: int
    """At most so many wrong and so many right cells a canvas to fit on."""
    traced: int
    """Of the tested boards, how many are denoised with each policy."""
    calls: int
    """Steps of the policies with a grid of time (ReMDM); their published default is 128."""
    pushed: int
    """Canvases to push in, at most."""


def measure(request: Request) -> list[Statistic]:
    """Returns the statistics of the study.

    Raises:
        StudyError: On models that are no twins of sudoku.
    """
    twins, sizes, seed = twins_of(request, SUDOKU.name), request.sizes, request.seed
    pool = mixed_boards(sizes.fitted + sizes.tested, seed, RUNGS)
    fit, test = pool[: sizes.fitted], pool[sizes.fitted :]
    with request.clock.stage("fit"):
        fitted = fit_doubters(twins, puzzle_corpus(SUDOKU, fit), sizes.cells, seed)
        readers = chosen(fitted, twins.diffusion)
    with request.clock.stage("read"):
        reads = read_all(twins, fitted, puzzle_corpus(SUDOKU, test), seed)
        statistics = [readable(reads, twins.ar.n_layers, seed), kept(reads, twins, seed)]
    statistics += traced(twins.diffusion, test[: sizes.traced], readers, sizes.calls, request)
    with request.clock.stage("push"):
        statistics.append(pushes(twins.diffusion, reads[1].mistaken, fitted, readers, sizes.pushed, seed))
    return statistics


def _told(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _best(values: Sequence[Measured], **at: str) -> Measured | None:
    """Returns the greatest of the values there, whatever their layer and place."""
    found = [one for one in values if at.items() <= one.at.items()]
    return max(found, key=lambda one: one.estimate.value) if found else None


def _readable(wrong: Statistic) -> Iterator[str]:
    for panel in wrong.by_panel().values():
        at = {axis: str(panel[0].at[axis]) for axis in wrong.panels}
        told = [(name, _best(panel, reader=name)) for name in (MOVED, NATIVE, DISAGREES, DOUBT, INPUT)]
        said = [f"{name} {_told(one.estimate)}{_where(one)}" for name, one in told if one is not None]
        n = max(one.estimate.n for one in panel)
        where = f"{at['model']}, {at['mistakes']}, {at['cells']}, {n} boards"
        yield f"Wrong digits among written ones ({where}), best layer: {'; '.join(said)}."


def _where(one: Measured) -> str:
    return f" ({one.at['place']}, layer {one.at['layer']})" if one.at["place"] else ""


def _preserved(kept: Statistic) -> Iterator[str]:
    for panel in kept.by_panel().values():
        shares = {(str(one.at["cells"]), str(one.at["proposed"])): one.estimate for one in panel}
        model, mistakes = (str(panel[0].at[axis]) for axis in kept.panels)
        said = [
            f"{_told(shares[cells, 'the written digit'])} of {cells}"
            for cells in (RIGHT, WRONG, QUIETLY)
            if (cells, "the written digit") in shares
        ]
        yield f"{model}, {mistakes}: it proposes the digit that is written at {', '.join(said)}."


def _foreseen(foresight: Statistic, alarms: Statistic) -> Iterator[str]:
    for policy in REVISING:
        for asked in (NOW, LATER, MENDED, SPOILED):
            here = [one for one in foresight.values if one.at["policy"] == policy and one.at["asked"] == asked]
            if here:
                said = ", ".join(f"{one.at['told by']} {_told(one.estimate)}" for one in sorted(here, key=lambda one: -one.estimate.value))
                yield f"{policy}, taken back {asked}: {said}."
        coming = [one for one in alarms.values if one.at["policy"] == policy and one.at["measure"] == "seen coming"]
        if coming:
            best = max((one for one in coming if one.at["told by"] != BY_CHANCE), key=lambda one: one.estimate.value)
            chance = next(one.estimate for one in coming if one.at["told by"] == BY_CHANCE)
            yield f"{policy}: {best.at['told by']} sees {_told(best.estimate)} of the revisions coming, chance {_told(chance)}."


def _pushed(pushes: Statistic) -> Iterator[str]:
    for panel in pushes.by_panel().values():
        what, cells = (str(panel[0].at[axis]) for axis in pushes.panels)
        none = next(one.estimate for one in panel if one.at["dose"] == 0)
        said = [f"{one.at['push']} {_told(one.estimate)}" for one in panel if one.at["dose"] == DOSES[-1]]
        yield f"Pushed by {DOSES[-1]} % (digits {cells}), {what}: {'; '.join(said)}; without a push {_told(none)}."


def findings(statistics: Sequence[Statistic]) -> list[str]:
    """Returns what the statistics say, in sentences."""
    named = {one.name: one for one in statistics}
    return [
        *_readable(named["wrong"]),
        *_preserved(named["kept"]),
        *_foreseen(named["foresight"], named["alarms"]),
        *_pushed(named["pushes"]),
    ]


BACKTRACKING = Study(
    title="Backtracking: does the model doubt what it wrote?",
    claim="A diffusion model backtracks: it knows when a digit that it wrote is wrong, and takes it back",
    limits="Linear readers alone: what they do not find may be there in another form. One model, which was never trained to revise.",
    about=(
        "A diffusion model that may take back what it wrote: does it hold, in any form that a linear reader finds, that a written digit is "
        "wrong; does its own output; do they tell in advance what a policy takes back, and what it mends from what it spoils; and does "
        "pushing a digit towards “wrong” make it be taken back?"
    ),
    models=("sudoku-ar", "sudoku-diffusion"),
    sizes={
        "small": Sizes(fitted=60, tested=24, cells=4, traced=12, calls=32, pushed=40),
        "full": Sizes(fitted=1000, tested=300, cells=4, traced=300, calls=128, pushed=1000),
    },
    measure=measure,
    findings=findings,
)
