"""Every unmasking policy on the same boards: what it solves, what it costs, what it takes back, and in which order it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int8

from interp import dynamics
from interp.boards import mixed_boards
from interp.statistics import Measured, Statistic
from interp.studies.base import Request, Study, StudyError
from interp.studies.solving import over_boards
from models.decoding import Decoding
from models.denoise import denoise
from models.language_model import LanguageModel
from models.tasks.sudoku.generator import RUNGS, Puzzles
from models.tasks.sudoku.solver import single_waves
from models.tasks.sudoku.task import SOLUTION, SUDOKU
from models.trajectory import Trajectory
from models.unmasking import POLICIES

BATCH = 100


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    boards: int


@dataclass(frozen=True)
class _Solving:
    """A run, the boards it was on, and the wave of singles that fills each cell."""

    run: Trajectory
    puzzles: Puzzles
    waves: Int8[np.ndarray, "board cell"]


@dataclass(frozen=True)
class _Measure:
    title: str
    unit: str
    about: str
    of: Callable[[_Solving], Float[np.ndarray, " board"]]
    """One value a board; NaN where it says nothing."""


def _exact(one: _Solving) -> Float[np.ndarray, " board"]:
    return SUDOKU.verify(torch.from_numpy(one.run.tokens(-1)), one.puzzles).exact.astype(float)


def _revisions(one: _Solving) -> Float[np.ndarray, " board"]:
    census = dynamics.census(one.run)
    return (census.rewritten + census.remasked).sum(1).astype(float)


def _mended(one: _Solving) -> Float[np.ndarray, " board"]:
    turns = dynamics.turns(one.run, SUDOKU.encode(one.puzzles).numpy())
    return (turns.wrong_to_right - turns.right_to_wrong).astype(float)


def _order(one: _Solving) -> Float[np.ndarray, " board"]:
    reference = np.full(one.run.tokens(0).shape, -1)
    reference[:, SOLUTION] = np.where(one.waves > 0, one.waves, -1)
    return dynamics.order_agreement(one.run, reference)


def _early(one: _Solving) -> Float[np.ndarray, " board"]:
    return dynamics.early_answer(one.run).first / np.maximum(one.run.calls, 1)


MEASURES: dict[str, _Measure] = {
    "exact": _Measure("Boards solved", "share of boards", "The board equals its only solution.", _exact),
    "calls": _Measure("Network calls a board", "calls", "What a board costs.", lambda one: one.run.calls.astype(float)),
    "revisions": _Measure("Cells taken back", "a board", "Times a written cell was changed or masked again.", _revisions),
    "mended": _Measure(
        "Cells mended", "a board", "Changes of a written digit from wrong to right, less those from right to wrong.", _mended
    ),
    "order": _Measure(
        "Written in the order of deduction?",
        "Kendall's tau-b",
        "Between the call that wrote a cell's final digit and the wave of naked and hidden singles that fills it; boards without two waves "
        "do not count.",
        _order,
    ),
    "decided": _Measure(
        "Decided before written",
        "share of the calls",
        "How far into the run what was written, filled up with what was proposed, first equals its end (Prophet, 2508.19982).",
        _early,
    ),
}


def _measured(model: LanguageModel, policy: str, boards: tuple[Puzzles, np.ndarray], seed: int) -> dict[str, Float[np.ndarray, " board"]]:
    """Returns every measure of one policy, board by board."""
    puzzles, waves = boards
    values: dict[str, list[np.ndarray]] = {name: [] for name in MEASURES}
    for first in range(0, len(puzzles), BATCH):
        part = slice(first, first + BATCH)
        some = puzzles[part]
        run = denoise(model, SUDOKU.prompt(some), Decoding(policy, seed=seed), sample_ids=range(first, first + len(some)))
        for name, measure in MEASURES.items():
            values[name].append(measure.of(_Solving(run, some, waves[part])))
    return {name: np.concatenate(parts) for name, parts in values.items()}


def _statistic(name: str, values: list[Measured]) -> Statistic:
    one = MEASURES[name]
    how = "Each policy at its own defaults, greedy; an equal share of boards of every rung, which no training saw."
    return Statistic(
        name=name, title=one.title, about=f"{one.about} {how}", unit=one.unit, panels=(), lines=("model",), x="policy", values=values
    )


def measure(request: Request) -> list[Statistic]:
    """Returns every measure of every policy and model, each at the policy's own defaults, over boards of all rungs.

    Raises:
        StudyError: On a model that is not a masked model of sudoku.
    """
    for model in request.models:
        facts = model.facts
        if facts.task != SUDOKU.name or facts.objective != "masked":
            raise StudyError(f"{model.name} is a {facts.objective} model of {facts.task!r}; this study needs masked ones of sudoku")
    puzzles = mixed_boards(request.sizes.boards, request.seed, RUNGS)
    boards = puzzles, np.stack([single_waves(board, hidden=True) for board in puzzles.givens])
    found: dict[str, list[Measured]] = {name: [] for name in MEASURES}
    asked = [(model, policy) for model in request.models for policy in POLICIES]
    with request.clock.stage("denoise") as tell:
        for done, (model, policy) in enumerate(asked):
            tell(done, len(asked))
            for name, values in _measured(model, policy, boards, request.seed).items():
                said = values[np.isfinite(values)]
                if len(said):
                    found[name].append(Measured(at={"model": model.name, "policy": policy}, estimate=over_boards(said, request.seed)))
    return [_statistic(name, values) for name, values in found.items()]


def findings(statistics: Sequence[Statistic]) -> list[str]:
    """Returns a line for each model and policy, the best first."""
    found = {(one.name, value.at["policy"], value.at["model"]): value.estimate for one in statistics for value in one.values}
    said = []
    for (name, policy, model), exact in sorted(found.items(), key=lambda item: -item[1].value):
        if name == "exact":
            calls, revisions = (found[other, policy, model].value for other in ("calls", "revisions"))
            order = found.get(("order", policy, model))
            said.append(
                f"{policy} ({model}): {exact.value:.1%} [{exact.low:.1%}, {exact.high:.1%}] of {exact.n} boards in {calls:.1f} calls, "
                f"{revisions:.1f} revisions a board, tau-b {'not defined' if order is None else f'{order.value:.2f}'}."
            )
    return said


UNMASKING = Study(
    title="Every unmasking policy on the same boards",
    claim="How the places to write are chosen decides how much is solved, and at what cost",
    limits="One model, and each policy at its published defaults; calls are counted, and what a call costs is not.",
    about=(
        "One diffusion model, and every published way to decide what to write next. Which solves most, and at what cost; does taking "
        "cells back mend or spoil; does it write in the order of deduction; and how soon is the answer decided?"
    ),
    models=("sudoku-diffusion",),
    sizes={"small": Sizes(boards=40), "full": Sizes(boards=500)},
    measure=measure,
    findings=findings,
)
