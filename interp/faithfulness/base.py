"""A test of faithfulness: what it needs, what it measures, and its control beside it.

Every test stops finished runs between two calls, changes what the next call will read, lets the run go on, and compares how it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped

from interp.dynamics import writable
from interp.reading import Reader
from interp.report import Estimate
from interp.scoring import estimate
from interp.statistics import Coordinate, Measured, Statistic
from models.language_model import LanguageModel
from models.surgery import Moment
from models.tasks.stories.task import END_ID, STORIES
from models.tasks.sudoku.generator import Puzzles
from models.tasks.sudoku.task import SUDOKU
from models.trajectory import Trajectory
from probes.metrics import bootstrap_mean

SHARES = (0.25, 0.5, 0.75)
"""After which shares of its calls a run is stopped and changed."""


class FaithfulnessError(ValueError):
    """A test that cannot be made of what was given."""


@dataclass(frozen=True)
class Case:
    """Finished runs of a model, and what is known about them."""

    model: LanguageModel
    run: Trajectory
    """One sample a puzzle or prompt, made by ``denoise`` with this model; its ``decoding`` is how it was written."""
    puzzles: Puzzles | None = None
    """The boards of the samples; None where the task has no ground truth."""
    readers: Mapping[str, Reader] | None = None
    """Readers of the model by concept; None where there are none."""
    seed: int = 0
    """Of everything that is drawn."""
    on_step: Callable[[int, int], None] = lambda done, total: None
    """Told (done, total)."""


@dataclass(frozen=True)
class FaithfulnessTest:
    """One test of the battery: a question about runs, answered with statistics that hold its control as a line of their own."""

    title: str
    about: str
    """What is done, what is expected of a faithful account, and what the control is."""
    measure: Callable[[Case], list[Statistic]]
    findings: Callable[[Sequence[Statistic]], list[str]]
    """What the statistics say, in sentences, whichever way they came out."""
    needs_truth: bool = False
    needs_readers: bool = False
    with_truth: str = ""
    """What it measures only where the task has ground truth, such as "shares of right digits"; empty where there is no such part."""


class Gathered:
    """Estimates by statistic, while a test measures."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.values: dict[str, list[Measured]] = {}

    def add(self, name: str, values: Shaped[np.ndarray, " batch"], **at: Coordinate) -> None:
        """Takes the mean of one value a sample into a statistic, with an interval resampled by sample; NaN does not count."""
        said = values[np.isfinite(values)]
        if len(said):
            found = estimate(bootstrap_mean(torch.from_numpy(said), seed=self.seed))
            self.values.setdefault(name, []).append(Measured(at=at, estimate=found))


def stops(run: Trajectory) -> tuple[int, ...]:
    """Returns the steps after which runs are stopped: ``SHARES`` of the calls of the longest.

    Raises:
        FaithfulnessError: Where there is no step between two calls.
    """
    found = sorted({round(run.n_steps * share) for share in SHARES} & set(range(1, run.n_steps)))
    if not found:
        raise FaithfulnessError(f"the longest run has {run.n_steps} network calls; only a run of at least 2 can be stopped between calls")
    return tuple(found)


def middle_of(run: Trajectory) -> int:
    """Returns the middle one of ``stops``."""
    found = stops(run)
    return found[len(found) // 2]


def mask_of(case: Case) -> int:
    """Returns the mask token's id."""
    return cast("int", case.model.facts.mask_token_id)


def counted(case: Case) -> Bool[np.ndarray, "batch pos"]:
    """Returns the positions that are judged: writable ones, without those after the end of a text."""
    judged = writable(case.run)
    return judged & (case.run.tokens(-1) != END_ID) if case.run.task == STORIES.name else judged


def unwritten(case: Case, step: int) -> Bool[np.ndarray, "batch pos"]:
    """Returns the judged positions that are masked after a step."""
    return counted(case) & (case.run.tokens(step) == mask_of(case))


def written(case: Case, step: int) -> Bool[np.ndarray, "batch pos"]:
    """Returns the judged positions that the run wrote by a step, in samples that are not finished."""
    return counted(case) & (case.run.tokens(step) != mask_of(case)) & unwritten(case, step).any(axis=1, keepdims=True)


def solutions(case: Case) -> Int[np.ndarray, "batch pos"] | None:
    """Returns the right canvases; None where there is no ground truth."""
    return None if case.puzzles is None else SUDOKU.encode(case.puzzles).numpy()


def with_canvas(moment: Moment, canvas: Int[np.ndarray, "batch pos"]) -> Moment:
    """Returns the moment with other canvases, edited wherever they differ."""
    different = canvas != moment.tokens
    for sample in np.flatnonzero(different.any(axis=1)).tolist():
        places = np.flatnonzero(different[sample])
        moment = moment.edit(dict(zip(places.tolist(), canvas[sample, places].tolist(), strict=True)), sample=sample)
    return moment


def share(marks: Bool[np.ndarray, "batch pos"], among: Bool[np.ndarray, "batch pos"]) -> Float[np.ndarray, " batch"]:
    """Returns for each sample the share of the positions ``among`` that are marked; NaN where there are none."""
    n = among.sum(axis=1)
    return (marks & among).sum(axis=1) / np.where(n > 0, n, np.nan)


def drawn(chances: Bool[np.ndarray, "batch ..."], rng: np.random.Generator) -> Int[np.ndarray, " batch"]:
    """Returns for each sample one of its chances, equally likely, as an index into the flattened rest; -1 where it has none."""
    flat = chances.reshape(len(chances), -1)
    return np.where(flat.any(axis=1), np.where(flat, rng.random(flat.shape), -1.0).argmax(axis=1), -1)


def shuffled(
    canvas: Int[np.ndarray, "batch pos"], among: Bool[np.ndarray, "batch pos"], rng: np.random.Generator
) -> Int[np.ndarray, "batch pos"]:
    """Returns canvases whose tokens at the positions ``among`` changed places with each other."""
    found = canvas.copy()
    for row, places in zip(found, among, strict=True):
        row[places] = rng.permutation(row[places])
    return found


def words_of(case: Case) -> Bool[np.ndarray, " token"]:
    """Returns which tokens of the vocabulary are the beginnings of words, with their blank."""
    return np.array([text[:1] == " " and text[1:].isalpha() for text in case.model.task.vocabulary])


def spoken(one: Estimate) -> str:
    """Returns a share as text, with its interval."""
    return f"{one.value:.1%} [{one.low:.1%}, {one.high:.1%}]"


def named(statistics: Sequence[Statistic]) -> dict[str, Statistic]:
    """Returns statistics by name."""
    return {one.name: one for one in statistics}


def course(statistic: Statistic, **line: Coordinate) -> str:
    """Returns the shares of one line as text, from left to right."""
    values = [one for one in statistic.values if line.items() <= one.at.items()]
    n = [one.estimate.n for one in values]
    where = ", ".join(str(one.at[statistic.x]) for one in values)
    fewest = f"{min(n)}" if min(n) == max(n) else f"{min(n)} to {max(n)}"
    return f"{', '.join(spoken(one.estimate) for one in values)} at {statistic.x} {where} (n = {fewest})"
