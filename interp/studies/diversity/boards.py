"""Boards with several solutions: how many of them a writer finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Int, Int8

from interp.diversity import differing, evenness, expected_coverage, expected_evenness
from interp.statistics import Coordinate, Measured, Statistic
from interp.studies.diversity.samples import (
    Sampled,
    draw,
    fixed,
    frontier_values,
    matched_statistic,
    matched_values,
    over_prompts,
    roles_in,
    settings_of,
    temperature_values,
)
from interp.transfer import Twins
from models.tasks.sudoku.generator import Puzzles
from models.tasks.sudoku.many import many_solved
from models.tasks.sudoku.task import SUDOKU

SOLUTIONS = (2, 4, 8, 16)
CAUSAL_TEMPERATURES = (50, 100, 150, 200)
TEMPERATURES = (50, 100, 150)
BUDGETS = (8, 32)
UNIFORM = "uniform draws of solutions"
VALID, COVERAGE, EVENNESS, DIFFERENT = "valid", "coverage", "evenness", "different"
MEASURES = (VALID, COVERAGE, EVENNESS, DIFFERENT)
HOW = (
    "Boards with exactly 2, 4, 8 or 16 solutions, equally many of each, and several answers to each. valid: share of the answers that keep "
    "every rule and given (quality). coverage: different solutions found over those that exist; 1 is all. evenness: entropy of how often "
    "each was found over log of how many exist. different: the chance that two valid answers to a board are two solutions, over what it is "
    "where all are alike likely; 1 is as different as uniform draws, however few answers are valid. Boards without (two) valid answers do "
    "not count in the last two. Intervals resample boards."
)


def mixed_many(boards: int, seed: int) -> tuple[Puzzles, Int[np.ndarray, " board"]]:
    """Returns so many boards of each number of solutions, and the number of solutions of each."""
    parts = [many_solved(boards, solutions, seed=seed) for solutions in SOLUTIONS]
    joined = Puzzles(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("givens", "solutions")))
    return joined, np.repeat(SOLUTIONS, boards)


def board_values(
    answers: Int8[np.ndarray, "board sample cell"], valid: Bool[np.ndarray, "board sample"], kinds: Int[np.ndarray, " board"]
) -> dict[str, np.ndarray]:
    """Returns each measure of answers to boards with so many solutions."""
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    for row, right, m in zip(answers, valid, kinds.tolist(), strict=True):
        counts = np.unique(row[right], axis=0, return_counts=True)[1] if right.any() else np.zeros(0, dtype=np.int64)
        found[VALID].append(float(right.mean()))
        found[COVERAGE].append(len(counts) / m)
        found[EVENNESS].append(evenness(counts, m))
        found[DIFFERENT].append(differing(counts) / (1 - 1 / m))
    return {name: np.array(values) for name, values in found.items()}


def sample_boards(twins: Twins, boards: int, samples: int, budgets: int, seed: int, tell: Callable[[int, int], None]) -> list[Sampled]:
    """Returns what each way of writing finds of the same boards."""
    puzzles, kinds = mixed_many(boards, seed)
    several = Puzzles(*(np.repeat(part, samples, axis=0) for part in (puzzles.givens, puzzles.solutions)))
    settings = settings_of(twins, TEMPERATURES, CAUSAL_TEMPERATURES, BUDGETS[:budgets])
    found = []
    for done, setting in enumerate(settings):
        tell(done, len(settings))
        tokens = draw(setting, SUDOKU.prompt(puzzles), samples, seed).flatten(0, 1)
        valid = SUDOKU.verify(tokens, several).valid.reshape(-1, samples)
        answers = SUDOKU.boards(tokens).reshape(len(puzzles), samples, -1)
        found.append(Sampled(setting, board_values(answers, valid, kinds)))
    return found


def _uniform(kinds: Int[np.ndarray, " board"], samples: int) -> dict[str, float]:
    """Returns what uniform draws, all valid, come to in the mean."""
    each = [(expected_coverage(samples, m), expected_evenness(samples, m)) for m in kinds.tolist()]
    coverage, even = np.mean(each, axis=0)
    return {VALID: 1.0, COVERAGE: float(coverage), EVENNESS: float(even), DIFFERENT: 1.0}


def _by_temperature(found: Sequence[Sampled], kinds: np.ndarray, samples: int, seed: int) -> Statistic:
    values = temperature_values(found, MEASURES, "measure", seed)
    for measure, value in _uniform(kinds, samples).items():
        for temperature in CAUSAL_TEMPERATURES:
            at: dict[str, Coordinate] = {"measure": measure, "writer": UNIFORM, "temperature_in_percent": temperature}
            values.append(Measured(at=at, estimate=fixed(value, len(kinds))))
    return Statistic(
        name="diversity_boards",
        title="How many of a board's solutions are found?",
        about=f"{samples} answers a board. {HOW}",
        unit="ratio",
        panels=("measure",),
        lines=("writer",),
        x="temperature_in_percent",
        roles={UNIFORM: "reference"},
        values=values,
    )


def _frontier(found: Sequence[Sampled], kinds: np.ndarray, samples: int, seed: int) -> Statistic:
    values = frontier_values(found, (VALID, "valid_per_mille", 1000), (COVERAGE, DIFFERENT), seed)
    for place in range(100, 1001, 100):
        coverage = float(np.mean([expected_coverage(samples, m, place / 1000) for m in kinds.tolist()]))
        for measure, value in ((COVERAGE, coverage), (DIFFERENT, 1.0)):
            values.append(Measured(at={"measure": measure, "writer": UNIFORM, "valid_per_mille": place}, estimate=fixed(value, len(kinds))))
    return Statistic(
        name="frontier_boards",
        title="Quality against diversity: boards",
        about=f"Each line is one way of writing at several temperatures, {samples} answers a board. The reference draws a solution "
        f"uniformly in that share of its answers. {HOW}",
        unit="ratio",
        panels=("measure",),
        lines=("writer",),
        x="valid_per_mille",
        roles={UNIFORM: "reference"},
        values=values,
    )


def _by_solutions(found: Sequence[Sampled], kinds: np.ndarray, samples: int, seed: int) -> Statistic:
    values = [
        Measured(at={"writer": UNIFORM, "solutions": m}, estimate=fixed(expected_coverage(samples, m), int((kinds == m).sum())))
        for m in SOLUTIONS
    ]
    for one in found:
        for m in SOLUTIONS if one.setting.temperature == 100 else ():
            mean = over_prompts(one.values[COVERAGE][kinds == m], seed)
            assert mean is not None
            values.append(Measured(at={"writer": one.setting.writer, "solutions": m}, estimate=mean))
    return Statistic(
        name="coverage_by_solutions",
        title="Coverage by number of solutions",
        about=f"At temperature 1, {samples} answers a board. {HOW}",
        unit="share of the solutions found",
        panels=(),
        lines=("writer",),
        x="solutions",
        log_x=True,
        roles=roles_in(values, {UNIFORM: "reference"}),
        values=values,
    )


def board_statistics(found: Sequence[Sampled], boards: int, samples: int, seed: int) -> list[Statistic]:
    """Returns the frontier, each measure by temperature, coverage by number of solutions, and differences at equal quality."""
    kinds = np.repeat(SOLUTIONS, boards)
    made = [part(found, kinds, samples, seed) for part in (_frontier, _by_temperature, _by_solutions)]
    matched = matched_values(found, VALID, (COVERAGE, DIFFERENT), seed=seed)
    return [*made, matched_statistic("matched_boards", HOW, matched)]
