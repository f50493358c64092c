"""What an account is worth without reading: narrators that see no activations.

`narrate_tokens` sees tokens, proposals and confidences only: what the model says of itself. `narrate_board` sees the board and the rules
and no model: how often a sound reason exists for what was written, which no narrator can exceed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int8

from interp.concepts.sudoku import DIGITS, candidate_sets
from interp.narration.events import Claims
from interp.narration.ladder import reason_for
from interp.narration.statements import Evidence, Statement
from interp.narration.sudoku import SPOKEN, Call, Justify, boards_of, tell
from interp.reading.calibration import ALPHA, threshold_for
from models.tasks.sudoku.board import UNITS, UNITS_OF, cell_name
from models.tasks.sudoku.deductions import Deduction
from models.tasks.sudoku.task import SOLUTION
from models.trajectory import Trajectory

NUMBERS = ("confidence", "margin", "entropy")
"""What a model says of its proposal."""
BANDS = 8
UNIT_KINDS = ("row", "column", "box")
GUESSES = ("only_candidate", *(f"only_place {kind}" for kind in UNIT_KINDS))
"""The reasons that can be guessed with no candidates at hand: where the place is the only one, in which kind of unit."""


class TokensOnlyError(ValueError):
    """Runs that a narrator cannot be fitted on."""


@dataclass(frozen=True)
class TokensOnly:
    """A narrator of tokens and confidences, fitted on runs."""

    threshold: float
    """A proposal is claimed to be decided where the confidence is above this."""
    number: str
    """Which of ``NUMBERS`` tells the reason best."""
    edges: tuple[float, ...]
    """Bounds of its bands, rising, without the outer ones."""
    guesses: tuple[str, ...]
    """For each band the reason that held most often where a cell was written."""


def _said(trajectory: Trajectory, name: str) -> Float[np.ndarray, "sample step cell"]:
    return trajectory.data[name].values[:, :, SOLUTION].astype(np.float32)


def _proposed(trajectory: Trajectory) -> Int[np.ndarray, "sample step cell"]:
    return trajectory.data["proposal"].values[:, :, SOLUTION].astype(np.int64)


def _guessed(guess: str, cell: int, digit: int) -> Deduction:
    kind = guess.partition(" ")[2]
    return Deduction(cell, digit, int(UNITS_OF[cell, UNIT_KINDS.index(kind)]) if kind else None)


def _writings(boards: Int8[np.ndarray, "sample step cell"]) -> Iterator[tuple[int, int, int]]:
    """Yields (sample, step, cell) of every cell that was unwritten and then written."""
    for sample, step, cell in np.argwhere((boards[:, :-1] == 0) & (boards[:, 1:] > 0)).tolist():
        yield sample, step + 1, cell


def _holding(boards: Int8[np.ndarray, "sample step cell"], places: list[tuple[int, int, int]]) -> Bool[np.ndarray, "written guess"]:
    """Returns which of the guesses hold by the rules where a cell was written."""
    grids = candidate_sets(np.stack([boards[sample, step - 1] for sample, step, _ in places]))
    return np.array(
        [
            [_guessed(guess, cell, int(boards[sample, step, cell])).holds(grid) for guess in GUESSES]
            for (sample, step, cell), grid in zip(places, grids, strict=True)
        ]
    )


def _table(values: Float[np.ndarray, " written"], holding: Bool[np.ndarray, "written guess"]) -> tuple[list[float], list[str], float]:
    """Returns bands of a number, the best guess in each, and how often the guesses hold."""
    edges = np.unique(np.quantile(values, np.arange(1, BANDS) / BANDS)).tolist()
    band = np.searchsorted(edges, values, side="right")
    best = [int(holding[band == one].sum(axis=0).argmax()) for one in range(len(edges) + 1)]
    return edges, [GUESSES[guess] for guess in best], float(holding[np.arange(len(band)), np.array(best)[band]].mean())


def _threshold(trajectory: Trajectory, alpha: float) -> float:
    """Returns the confidence from which on proposals are claimed, set as a reader's threshold is (see ``Calibration``)."""
    unwritten = np.roll(boards_of(trajectory), 1, axis=1) == 0
    asked = unwritten & (_proposed(trajectory) >= 0)
    asked[:, 0] = False
    ends = trajectory.tokens(-1)[:, None, SOLUTION]
    confidence, wrong = _said(trajectory, "confidence")[asked], (_proposed(trajectory) != ends)[asked]
    return threshold_for(torch.from_numpy(confidence[wrong]), len(confidence), alpha)


def fit_tokens_only(trajectory: Trajectory, *, alpha: float = ALPHA) -> TokensOnly:
    """Returns a narrator of tokens and confidences, fitted on runs of boards that it will not be asked about.

    Its threshold is the confidence at which so small a share of the unwritten places is claimed other than the run ends, as readers have
    it; its reason for a written cell is the one that held most often at this confidence, margin or entropy, whichever tells best.

    Raises:
        TokensOnlyError: Where nothing was written.
    """
    boards = boards_of(trajectory)
    places = list(_writings(boards))
    if not places:
        raise TokensOnlyError("the runs wrote no cell; a narrator is fitted on runs that did")
    holding, index = _holding(boards, places), tuple(np.array(places).T)
    tables = {name: _table(_said(trajectory, name)[index], holding) for name in NUMBERS}
    number = max(NUMBERS, key=lambda name: tables[name][2])
    edges, guesses, _ = tables[number]
    return TokensOnly(_threshold(trajectory, alpha), number, tuple(edges), tuple(guesses))


def _claims(trajectory: Trajectory, asked: str, values: Float[np.ndarray, "sample step cell digit"], threshold: float) -> Claims:
    passed = (np.nan_to_num(values) > threshold) & (np.arange(9) == np.nan_to_num(values).argmax(axis=-1)[..., None])
    return Claims(
        trajectory,
        asked=asked,
        point="output",
        exclusive=True,
        heads=DIGITS,
        positions=np.arange(SOLUTION.start, SOLUTION.stop),
        probability=values,
        claimed=passed,
        spoken=SPOKEN,
    )


def _by_numbers(narrator: TokensOnly, said: Mapping[str, Float[np.ndarray, "sample step cell"]]) -> Justify:
    def justify(call: Call, cell: int) -> Statement:
        place = call.sample, call.step, cell
        digit = int(call.after[cell])
        guess = narrator.guesses[int(np.searchsorted(narrator.edges, said[narrator.number][place], side="right"))]
        evidence = tuple(
            Evidence(name, "output", call.step, SOLUTION.start + cell, DIGITS[digit - 1], round(float(said[name][place]), 4))
            for name in dict.fromkeys(("confidence", narrator.number))
        )
        return call.give(_guessed(guess, cell, digit), evidence)

    return justify


def narrate_tokens(trajectory: Trajectory, narrator: TokensOnly) -> list[Statement]:
    """Returns the account that tokens, proposals and confidences give, of the same kinds as that of the readers and graded the same way."""
    proposed, said = _proposed(trajectory), {name: _said(trajectory, name) for name in NUMBERS}
    values = np.where(proposed[..., None] == np.arange(1, 10), said["confidence"][..., None], 0.0).astype(np.float32)
    return tell(_claims(trajectory, "proposal", values, narrator.threshold), _by_numbers(narrator, said))


def _by_rules(call: Call, cell: int) -> Statement:
    digit = int(call.after[cell])
    reason = reason_for(call.truth.astype(np.float32), call.before == 0, cell, digit)
    if reason is None:
        why = "breaks the rules" if not call.truth[cell, digit - 1] else "no rule gives it"
        return call.say("unexplained", f"{cell_name(cell)} = {digit}: {why}", [cell], str(digit))
    return call.give(reason, ())


def narrate_board(trajectory: Trajectory) -> list[Statement]:
    """Returns the account that the rules alone give of what was written and of what they decide: sound wherever it gives a reason."""
    boards = boards_of(trajectory)
    values = np.zeros((*boards.shape, 9), dtype=np.float32)
    values[:, 1:] = np.stack([_single_digits(step) for step in boards[:, :-1].swapaxes(0, 1)], axis=1)
    return tell(_claims(trajectory, "rules", values, 0.0), _by_rules)


def _single_digits(boards: Int8[np.ndarray, "sample cell"]) -> Float[np.ndarray, "sample cell digit"]:
    """Returns 1 where a digit is a cell's only candidate or a unit's only place for it, 0 elsewhere."""
    grids = candidate_sets(boards)
    lonely = grids[:, UNITS].sum(axis=2) == 1
    single = (grids.sum(axis=2, keepdims=True) == 1) | lonely[:, UNITS_OF].any(axis=2)
    return (grids & single).astype(np.float32)
