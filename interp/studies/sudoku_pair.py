"""The sudoku twins: how well each solves, in how many calls and which order, and what the left-to-right twin knows in advance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from interp.boards import mixed_boards
from interp.report import Estimate
from interp.statistics import Statistic
from interp.studies.ahead import INPUT, PROBE, SHUFFLED, UNTRAINED, WRITTEN, Readable, ahead_statistic, ahead_values, later_cells, readable
from interp.studies.base import Request, Study, StudyError
from interp.studies.solving import (
    BY_WAVES,
    SEQUENTIAL,
    board_sets,
    budget_statistic,
    calls_statistic,
    order_statistic,
    solve_in_budgets,
    solve_sets,
    solved_statistic,
)
from models.language_model import LanguageModel
from models.tasks.sudoku.generator import RUNGS
from models.tasks.sudoku.task import SUDOKU

ABOUT = (
    "Two models of one shape, the diffusion twin grown from the causal one. The causal twin writes a board left to right and greedily; the "
    "diffusion twin in any order, some cells in every network call. How well does each solve boards that no training saw, by the hardest "
    "rule they need; how does that depend on the unmasking policy and the number of calls; does the diffusion twin write in the order of "
    "deduction; and does the causal twin hold an answer before its turn comes to write it?"
)


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    boards: int
    """A cell of the table of boards solved."""
    mixed: int
    """A budget of calls."""
    fitted: int
    """Boards to fit probes on."""
    tested: int
    """Boards to test them on."""
    places: int
    """Places a board from which probes look ahead."""


def _sorted_out(models: Sequence[LanguageModel]) -> list[LanguageModel]:
    """Returns the causal models, or raises StudyError where the study is not about these models."""
    for model in models:
        if model.facts.task != SUDOKU.name:
            raise StudyError(f"{model.name} was trained on the task {model.facts.task!r}; this study needs models of {SUDOKU.name!r}")
    causal = [model for model in models if model.facts.objective == "causal"]
    if not 0 < len(causal) < len(models):
        named = ", ".join(f"{model.name} ({model.facts.objective})" for model in models)
        raise StudyError(f"this study compares a causal with a masked model, one of each at least; got {named}")
    return causal


def measure(request: Request) -> list[Statistic]:
    """Returns the statistics of the study.

    Raises:
        StudyError: On models of another task, or of one kind only, or kinds of boards of one name.
    """
    causal, sizes, seed = _sorted_out(request.models), request.sizes, request.seed
    sets = board_sets(sizes.boards, seed, request.puzzles)
    with request.clock.stage("solve") as on_board:
        runs = solve_sets(request.models, sets, seed, on_board)
    with request.clock.stage("budgets") as on_board:
        budgets = solve_in_budgets(request.models, mixed_boards(sizes.mixed, seed, RUNGS), seed, on_board)
    with request.clock.stage("order"):
        order = order_statistic(runs, sets, seed)
    with request.clock.stage("ahead") as on_ahead:
        pool = mixed_boards(sizes.fitted + sizes.tested, seed, RUNGS)
        fit, test = (later_cells(part, sizes.places, seed) for part in (pool[: sizes.fitted], pool[sizes.fitted :]))
        data: dict[str, Readable] = {model.name: readable(model, fit, test, seed) for model in causal}
        ahead = ahead_statistic([value for name, read in data.items() for value in ahead_values(name, read, seed, on_ahead)])
    return [solved_statistic(runs, seed), calls_statistic(runs, seed), budget_statistic(budgets, seed), order, ahead]


def _percent(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} [{estimate.low:.1%}, {estimate.high:.1%}]"


def _number(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _axis(statistic: Statistic, axis: str) -> list[str]:
    return list(dict.fromkeys(str(value.at[axis]) for value in statistic.values))


def _solving(solved: Statistic, calls: Statistic) -> Iterator[str]:
    who = list(dict.fromkeys((str(value.at["model"]), str(value.at["policy"])) for value in solved.values))
    for boards in _axis(solved, "boards"):
        told = []
        for model in _axis(solved, "model"):
            exact = {policy: solved.at(measure="exact", model=model, policy=policy, boards=boards) for m, policy in who if m == model}
            best = max(exact, key=lambda policy: exact[policy].value)
            cost = calls.at(model=model, policy=best, boards=boards).value
            told.append(f"{model} solves {_percent(exact[best])} with {best} in {cost:.0f} calls")
        n = next(value.estimate.n for value in solved.values if value.at["boards"] == boards)
        yield f"Of {n} boards ({boards.replace('_', ' ')}), {'; '.join(told)} (each with the policy that does best)."


def _order(order: Statistic) -> Iterator[str]:
    for model in _axis(order, "model"):
        for boards in _axis(order, "boards"):
            found = {str(v.at["policy"]): v.estimate for v in order.values if (v.at["model"], v.at["boards"]) == (model, boards)}
            own = {policy: estimate for policy, estimate in found.items() if policy not in ("random", SEQUENTIAL, BY_WAVES)}
            best = max(own, key=lambda policy: own[policy].value)
            above = own[best].low > max(found["random"].high, found[SEQUENTIAL].high)
            yield (
                f"On {boards.replace('_', ' ')} boards {model} {'follows' if above else 'is not shown to follow'} the waves of singles: "
                f"tau-b {_number(own[best])} with {best}, {_number(found['random'])} with random, {_number(found[SEQUENTIAL])} left to "
                f"right; {found[BY_WAVES].value:.2f} is what one cell a call can reach."
            )


def _ahead(ahead: Statistic) -> Iterator[str]:
    for values in ahead.by_panel().values():
        where = {axis: values[0].at[axis] for axis in ahead.panels}
        probes = [value for value in values if value.at["reader"] == PROBE]
        best = max(probes, key=lambda value: value.estimate.value)
        at = {reader: ahead.at(**where, reader=reader, layer=best.at["layer"]) for reader in (INPUT, SHUFFLED, UNTRAINED, WRITTEN)}
        above = best.estimate.low > max(at[reader].high for reader in (INPUT, SHUFFLED, UNTRAINED))
        what = f"the cell {where['cells_ahead']} ahead" if where["cells_ahead"] else "the cell it is about to write"
        yield (
            f"About {what}, a probe of {where['model']} gets {_percent(best.estimate)} right (after layer {best.at['layer']}), the visible "
            f"peers alone {at[INPUT].value:.1%}, an untrained network {at[UNTRAINED].value:.1%}, shuffled labels {at[SHUFFLED].value:.1%}: "
            f"it {'beats' if above else 'does not beat'} them all. Left to write on, the model gets {_percent(at[WRITTEN])} right."
        )


def findings(statistics: Sequence[Statistic]) -> list[str]:
    """Returns what the statistics say, in sentences."""
    named = {statistic.name: statistic for statistic in statistics}
    return [*_solving(named["solved"], named["calls"]), *_order(named["order"]), *_ahead(named["ahead"])]


SUDOKU_PAIR = Study(
    title="The sudoku twins",
    claim="A diffusion model of six million parameters solves the boards that its causal twin fails at, the easy cells first",
    about=ABOUT,
    limits="One pair, of one size and one run of training each; both of the same data, and the diffusion model of more steps.",
    models=("sudoku-ar", "sudoku-diffusion"),
    sizes={
        "small": Sizes(boards=20, mixed=20, fitted=300, tested=150, places=8),
        "full": Sizes(boards=1000, mixed=1000, fitted=3000, tested=1000, places=8),
    },
    measure=measure,
    findings=findings,
    takes_puzzles=True,
)
