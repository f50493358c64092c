"""How models solve boards: by kind of board, by policy, by number of calls, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Int8

from interp.dynamics import tau_b
from interp.report import Estimate
from interp.scoring import estimate
from interp.statistics import Coordinate, Measured, Statistic
from interp.studies.base import StudyError
from models.decoding import Decoding
from models.evaluate import Evaluation, evaluate
from models.language_model import LanguageModel
from models.tasks.sudoku.board import N_CELLS
from models.tasks.sudoku.generator import RUNGS, Puzzles, generate
from models.tasks.sudoku.solver import single_waves
from models.tasks.sudoku.task import SOLUTION, SUDOKU
from probes.metrics import bootstrap_mean

GREEDY = "greedy"
"""What `evaluate` calls the one way in which a causal model writes."""
COMPARED = ("random", "low_confidence", "topk_margin", "threshold", "mgdm")
BUDGETED = ("random", "low_confidence", "topk_margin", "mgdm")
BUDGETS = (1, 2, 4, 8, 16, 32, 64)
SHARES = ("exact", "valid", "cells")
SEQUENTIAL, BY_WAVES = "left to right", "wave by wave, one cell a call"


@dataclass(frozen=True)
class _Asked:
    model: LanguageModel
    boards: str
    puzzles: Puzzles
    policy: str
    budget: int = 0


@dataclass(frozen=True)
class Solved:
    """One model on one kind of boards."""

    boards: str
    budget: int
    """At most so many calls; 0 is as many as the policy takes."""
    evaluation: Evaluation

    @property
    def who(self) -> dict[str, Coordinate]:
        """Model and policy, as coordinates."""
        return {"model": self.evaluation.model, "policy": self.evaluation.policy}


def over_boards(values: np.ndarray, seed: int) -> Estimate:
    """Returns the mean over boards, one value each."""
    return estimate(bootstrap_mean(torch.from_numpy(values), seed=seed))


def board_sets(n: int, seed: int, files: Sequence[Path]) -> dict[str, Puzzles]:
    """Returns ``n`` unseen boards of every rung and (at most) the first ``n`` of each file, by name.

    Raises:
        StudyError: Where two files, or a file and a rung, have one name.
        PuzzleError: On a file that holds no puzzles.
    """
    names = [*RUNGS, *(path.name for path in files)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise StudyError(f"several kinds of boards are called {', '.join(twice)}; puzzle files need names of their own")
    return {rung: generate(n, rung, seed=seed) for rung in RUNGS} | {path.name: SUDOKU.read(path, n) for path in files}


def policies_of(model: LanguageModel, choices: Sequence[str]) -> Sequence[str]:
    """Returns the policies to compare; for a causal model one, since it writes greedily whichever is named."""
    return choices[:1] if model.facts.objective == "causal" else choices


def solve_sets(
    models: Sequence[LanguageModel], sets: Mapping[str, Puzzles], seed: int, on_board: Callable[[int, int], None]
) -> list[Solved]:
    """Returns every model on every set of boards with every policy, as many calls as the policy takes."""
    asked = [_Asked(model, name, sets[name], policy) for model in models for policy in policies_of(model, COMPARED) for name in sets]
    return list(_solve(asked, seed, on_board))


def solve_in_budgets(models: Sequence[LanguageModel], boards: Puzzles, seed: int, on_board: Callable[[int, int], None]) -> list[Solved]:
    """Returns every masked model on the boards with every policy and budget of calls."""
    masked = [model for model in models if model.facts.objective == "masked"]
    asked = [_Asked(model, "mix", boards, policy, budget) for model in masked for policy in BUDGETED for budget in BUDGETS]
    return list(_solve(asked, seed, on_board))


def _solve(asked: Sequence[_Asked], seed: int, on_board: Callable[[int, int], None]) -> Iterator[Solved]:
    total, before = sum(len(one.puzzles) for one in asked), 0
    for one in asked:
        evaluation = evaluate(one.model, one.puzzles, Decoding(one.policy, steps=one.budget or None, seed=seed))
        before += len(one.puzzles)
        on_board(before, total)
        yield Solved(one.boards, one.budget, evaluation)


def solved_statistic(runs: Sequence[Solved], seed: int) -> Statistic:
    """Returns the shares of boards solved, kept within the rules, and of cells right."""
    values = [
        Measured(
            at={"measure": measure, **run.who, "boards": run.boards},
            estimate=over_boards(getattr(run.evaluation.verdicts, measure), seed),
        )
        for measure in SHARES
        for run in runs
    ]
    about = (
        "Unseen boards by the hardest rule they need (and your files, if any). exact: the board equals the only solution; valid: it keeps "
        "every rule; cells: share of the unwritten cells that came out right. A causal model writes left to right, greedily; a masked one "
        "in the order of its policy, each as many calls as it takes: compare with the figure of calls."
    )
    return Statistic(
        name="solved",
        title="Boards solved",
        about=about,
        unit="share",
        panels=("measure",),
        lines=("model", "policy"),
        x="boards",
        values=values,
    )


def calls_statistic(runs: Sequence[Solved], seed: int) -> Statistic:
    """Returns the network calls a board."""
    values = [
        Measured(
            at={**run.who, "boards": run.boards},
            estimate=over_boards(run.evaluation.calls.astype(np.float64), seed),
        )
        for run in runs
    ]
    return Statistic(
        name="calls",
        title="Network calls a board",
        about="What the boards of the figure above cost. A causal model's call reads one token, since it keeps what it computed before; a "
        "masked model's call reads the whole canvas.",
        unit="network calls",
        panels=("model",),
        lines=("policy",),
        x="boards",
        values=values,
    )


def budget_statistic(runs: Sequence[Solved], seed: int) -> Statistic:
    """Returns the shares of boards solved and of cells right by budget of calls."""
    values = [
        Measured(
            at={**run.who, "measure": measure, "calls": run.budget},
            estimate=over_boards(getattr(run.evaluation.verdicts, measure), seed),
        )
        for measure in ("exact", "cells")
        for run in runs
    ]
    about = (
        "The same boards, every rung in its turn, written in at most so many network calls. One call writes everything at once. Beyond "
        "the number of unwritten cells a budget changes nothing, except for mgdm, which writes everything anew in every call."
    )
    return Statistic(
        name="budget",
        title="Solving by number of network calls",
        about=about,
        unit="share",
        panels=("model", "measure"),
        lines=("policy",),
        x="calls",
        log_x=True,
        values=values,
    )


def _orders(waves: Int8[np.ndarray, "board cell"]) -> dict[str, Int[np.ndarray, "board cell"]]:
    """Returns the orders that need no network."""
    by_waves = np.argsort(np.argsort(waves, axis=1, kind="stable"), axis=1)
    return {SEQUENTIAL: np.tile(np.arange(N_CELLS), (len(waves), 1)), BY_WAVES: by_waves}


def order_statistic(runs: Sequence[Solved], sets: Mapping[str, Puzzles], seed: int) -> Statistic:
    """Returns how far masked models write in the order in which singles fill the boards."""
    waves = {name: np.stack([single_waves(board, hidden=True) for board in boards.givens]) for name, boards in sets.items()}
    masked = [run for run in runs if run.evaluation.policy != GREEDY]
    orders = [(run.who, run.boards, run.evaluation.commit_step[:, SOLUTION]) for run in masked]
    orders += [
        ({"model": model, "policy": name}, boards, order)
        for model in dict.fromkeys(run.evaluation.model for run in masked)
        for boards in sets
        for name, order in _orders(waves[boards]).items()
    ]
    values = []
    for who, boards, order in orders:
        agreement = np.array([tau_b(*pair) for pair in zip(order, np.where(waves[boards] > 0, waves[boards], -1), strict=True)])
        if np.isfinite(agreement).any():
            agreed = over_boards(agreement[np.isfinite(agreement)], seed)
            values.append(Measured(at={**who, "boards": boards}, estimate=agreed))
    about = (
        "Kendall's tau-b, board by board, between the call that wrote a cell's final digit and the wave of naked and hidden singles in "
        "which deduction would fill it: 1 is the same order, 0 none. Cells that singles never fill do not count, nor do boards without "
        "two waves. Floors: the random policy, and left to right. Reference: a writer that goes through the waves one cell a call; it "
        "stays below 1, since cells of one wave are tied and its own are not. It bounds the policies that write one cell a call, and not "
        "those that write several at once."
    )
    return Statistic(
        name="order",
        title="Written in the order of deduction?",
        about=about,
        unit="Kendall's tau-b",
        panels=("model",),
        lines=("policy",),
        x="boards",
        roles={"random": "floor", SEQUENTIAL: "floor", BY_WAVES: "reference"} if values else {},
        values=values,
    )
