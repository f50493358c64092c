"""Does the wording matter? A run is paraphrased between calls and resumed; its end must be the paraphrase of its end (2307.13702).

On boards a relabelling of the digits is an exact paraphrase, and so is any symmetry of sudoku (Russell and Jarvis, 2006). In text, words
give way to near synonyms, which no one claims to be exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from interp.faithfulness.base import (
    Case,
    FaithfulnessError,
    FaithfulnessTest,
    Gathered,
    course,
    named,
    share,
    solutions,
    stops,
    unwritten,
    with_canvas,
    words_of,
    written,
)
from interp.statistics import Statistic
from models.surgery import Moment
from models.tasks.sudoku.board import N_CELLS, UNITS_OF
from models.tasks.sudoku.symmetry import Symmetries, random_relabellings, random_symmetries
from models.tasks.sudoku.task import SEPARATOR_ID, SOLUTION, SUDOKU
from models.trajectory import Trajectory

SEED, RELABELLED, SYMMETRY, SWAPPED = "nothing but another seed", "digits relabelled", "any symmetry", "two digits swapped in one row"
SYNONYMS, RANDOM = "synonyms", "random words"
FLOORS = (SWAPPED, RANDOM)
PAIRS = (
    "big large, little small, happy glad, scared afraid, said replied, looked gazed, began started, saw noticed, house home, woods forest, "
    "friend companion, smiled grinned, huge giant, wonderful great, road path, stone rock, child kid, strange odd, bright shining, "
    "found discovered, journey trip, gift present, maybe perhaps, knew understood, evening night, soft gentle, ocean sea, town village, "
    "mother mom, father dad"
)
"""Words that may stand for each other in a children's story."""


@dataclass(frozen=True)
class _Paraphrase:
    """A changed moment, how its run must end, and which of its positions are judged."""

    moment: Moment
    end: Int[np.ndarray, "batch pos"]
    right: Int[np.ndarray, "batch pos"] | None
    among: Bool[np.ndarray, "batch pos"]


@dataclass(frozen=True)
class _Map:
    """A symmetry as it acts on whole sequences, one a sample."""

    tokens: Int[np.ndarray, "batch vocab"]
    """What each token becomes."""
    places: Int[np.ndarray, "batch pos"]
    """Where the new position was before."""

    def moved(self, values: np.ndarray, axis: int = 1) -> np.ndarray:
        """Returns values over (sample, ..., position, ...) at their new positions."""
        shape = [1] * values.ndim
        shape[0], shape[axis] = self.places.shape
        return np.take_along_axis(values, self.places.reshape(shape), axis)

    def renamed(self, tokens: np.ndarray) -> np.ndarray:
        """Returns tokens as their images; -1 stays."""
        row = np.arange(len(tokens)).reshape(-1, *[1] * (tokens.ndim - 1))
        return np.where(tokens >= 0, self.tokens[row, tokens], -1).astype(tokens.dtype)

    def run(self, run: Trajectory) -> Trajectory:
        """Returns the image of a run: what a network that respects the symmetry would have done with the image of the prompt."""
        data = run.data.drop_vars([name for name in run.data if str(name).startswith(("channel.", "top_"))])
        for name, one in data.data_vars.items():
            if "position" in one.dims:
                data[name] = one.copy(data=self.moved(one.values, one.dims.index("position")))
        for name in ("token", "proposal"):
            data[name] = data[name].copy(data=self.renamed(data[name].values))
        return Trajectory(data)


def _map_of(symmetries: Symmetries, vocabulary: int) -> _Map:
    n = len(symmetries.digits)
    tokens = np.tile(np.arange(vocabulary), (n, 1))
    tokens[:, :SEPARATOR_ID] = symmetries.digits
    separator = np.full((n, 1), N_CELLS)
    return _Map(tokens, np.concatenate([symmetries.cells, separator, symmetries.cells + SOLUTION.start], axis=1))


def _mapped(case: Case, step: int, symmetries: Symmetries) -> _Paraphrase:
    """Returns the whole run under a symmetry, a board each."""
    image, right = _map_of(symmetries, len(case.model.task.vocabulary)), solutions(case)
    end = image.renamed(image.moved(case.run.tokens(-1)))
    truth = None if right is None else image.renamed(image.moved(right))
    return _Paraphrase(image.run(case.run).at(step), end, truth, image.moved(unwritten(case, step)))


def _swapped(case: Case, step: int, rng: np.random.Generator) -> _Paraphrase:
    """Returns boards with two digits swapped in the row where most is written: no symmetry, so the end cannot be the swapped one."""
    canvas = case.run.tokens(step)
    rows = np.tile(UNITS_OF[:, 0], 2)
    half = [*range(N_CELLS), *range(SOLUTION.start, SOLUTION.stop)]
    count = np.stack([(SUDOKU.boards(canvas) > 0)[:, UNITS_OF[:, 0] == row].sum(axis=1) for row in range(9)], axis=1)
    inside = np.zeros(canvas.shape, dtype=bool)
    inside[:, half] = rows == count.argmax(axis=1)[:, None]
    swaps = np.tile(np.arange(len(case.model.task.vocabulary)), (len(canvas), 1))
    for swap, there, board in zip(swaps, inside, canvas, strict=True):
        digits = np.unique(board[there & (board > 0) & (board < SEPARATOR_ID)])
        pair = rng.choice(digits, 2, replace=False) if len(digits) > 1 else np.array([1, 2])
        swap[pair] = pair[::-1]
    row = np.arange(len(canvas))[:, None]
    one, end = (np.where(inside, swaps[row, tokens], tokens) for tokens in (canvas, case.run.tokens(-1)))
    return _Paraphrase(with_canvas(case.run.at(step), one), end, None, unwritten(case, step))


def _on_boards(case: Case, step: int) -> Iterator[tuple[str, _Paraphrase]]:
    rng, n = np.random.default_rng((case.seed, step)), case.run.n_samples
    for line, symmetries in ((RELABELLED, random_relabellings(rng, n)), (SYMMETRY, random_symmetries(rng, n))):
        yield line, _mapped(case, step, symmetries)
    yield SWAPPED, _swapped(case, step, rng)


def _in_text(case: Case, step: int) -> Iterator[tuple[str, _Paraphrase]]:
    """Yields every written word that has a synonym replaced by it, and the same places filled with other words of these texts."""
    rng, vocabulary = np.random.default_rng((case.seed, step)), case.model.task.vocabulary
    index = {text: token for token, text in enumerate(vocabulary)}
    other = np.arange(len(vocabulary))
    for pair in PAIRS.split(", "):
        one, two = (index[f" {word}"] for word in pair.split())
        other[[one, two]] = two, one
    canvas = case.run.tokens(step)
    changed = written(case, step) & (other[canvas.clip(0)] != canvas)
    pool = canvas[words_of(case)[canvas.clip(0)] & ~changed]
    among = unwritten(case, step) & changed.any(axis=1)[:, None]
    random = rng.choice(pool, canvas.shape) if len(pool) else canvas
    for line, tokens in ((SYNONYMS, other[canvas.clip(0)]), (RANDOM, random)):
        yield line, _Paraphrase(with_canvas(case.run.at(step), np.where(changed, tokens, canvas)), case.run.tokens(-1), None, among)


def measure(case: Case) -> list[Statistic]:
    """Returns, by step and paraphrase, how far the paraphrased run ends as the paraphrase of the run.

    Raises:
        FaithfulnessError: Where no word of a text has a synonym here.
    """
    gathered, steps = Gathered(case.seed), stops(case.run)
    whole, right, paraphrases = case.run.tokens(-1), solutions(case), _on_boards if case.run.task == SUDOKU.name else _in_text
    for done, step in enumerate(steps):
        case.on_step(done, len(steps))
        again = _Paraphrase(case.run.at(step).branch(case.run.decoding.seed + 1), whole, right, unwritten(case, step))
        for line, one in ((SEED, again), *paraphrases(case, step)):
            if not one.among.any():
                continue
            final = one.moment.resume(case.model).tokens(-1)
            gathered.add("paraphrase_agreement", share(final == one.end, one.among), paraphrase=line, step=step)
            if one.right is not None:
                gathered.add("paraphrase_right", share(final == one.right, one.among), paraphrase=line, step=step)
    if len({value.at["paraphrase"] for value in gathered.values["paraphrase_agreement"]}) == 1:
        raise FaithfulnessError("no written word has a synonym here; there is nothing to paraphrase")
    return [_statistic(name, gathered) for name in gathered.values]


def _statistic(name: str, gathered: Gathered) -> Statistic:
    values = gathered.values[name]
    lines = dict.fromkeys(str(value.at["paraphrase"]) for value in values)
    titles = {"paraphrase_agreement": "Ends as the paraphrase of the run", "paraphrase_right": "Right in the end"}
    return Statistic(
        name=name,
        title=titles[name],
        about=(
            "Of the positions unwritten at the step. 1 is a run that does not care for the wording. Reference: not paraphrased, with "
            "another seed. Floor: a change of the same kind that is no paraphrase."
        ),
        unit="share of positions",
        panels=(),
        lines=("paraphrase",),
        x="step",
        roles={line: "floor" if line in FLOORS else "reference" for line in lines if line in (SEED, *FLOORS)},
        values=values,
    )


def findings(statistics: Sequence[Statistic]) -> list[str]:
    """Returns whether paraphrases are told apart from what is none, and the figures."""
    one = named(statistics)["paraphrase_agreement"]
    lines = {str(value.at["paraphrase"]) for value in one.values}
    floor = next(line for line in FLOORS if line in lines)
    said = [f"Runs end alike with {line} in {course(one, paraphrase=line)}." for line in sorted(lines)]
    for line in sorted(lines - {SEED, floor}):
        steps = [value.at["step"] for value in one.values if value.at["paraphrase"] == line]
        above = [step for step in steps if one.at(paraphrase=line, step=step).low > one.at(paraphrase=floor, step=step).high]
        said.append(f"That with {line} is beyond doubt higher than with {floor} at {len(above)} of {len(steps)} steps.")
    return said


PARAPHRASE = FaithfulnessTest(
    title="Does the wording matter?",
    about=(
        "If meaning is carried and not a code in the wording, a paraphrase between calls changes nothing but the wording of the end. "
        "The control is a change as large that is no paraphrase."
    ),
    measure=measure,
    findings=findings,
    with_truth="the share of right digits",
)
