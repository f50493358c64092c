"""Accounts that see no activations: of tokens and confidences, fitted on planted runs, and of the rules alone."""

from __future__ import annotations

import numpy as np
import pytest
from planted_runs import run_of, wave_run

from interp.narration import JUSTIFICATIONS, UNREASONED, Statement, fit_tokens_only, narrate_board, narrate_tokens
from interp.narration.tokens_only import GUESSES, TokensOnlyError
from interp.reading.calibration import LEAST
from models.tasks.sudoku.generator import Puzzles, generate
from models.tasks.sudoku.task import MASK_ID, SOLUTION, SUDOKU
from models.trajectory import Trajectory

ALPHA = 0.05
WRONG = 0.2
"""How many proposals other than the end are planted."""


def unsure_run(puzzles: Puzzles, seed: int = 0) -> Trajectory:
    """Returns a run of waves whose proposals are wrong now and then, less surely as a rule, and not always."""
    run, rng = wave_run(puzzles), np.random.default_rng(seed)
    data = run.data.copy(deep=True)
    proposal, confidence = data["proposal"].values, data["confidence"].values
    cells = np.zeros(proposal.shape, dtype=bool)
    cells[:, 1:, SOLUTION] = proposal[:, 1:, SOLUTION] > 0
    wrong = cells & (rng.random(cells.shape) < WRONG)
    proposal[wrong] = proposal[wrong] % 9 + 1
    confidence[cells] = np.where(wrong, rng.beta(2, 2, cells.shape), rng.beta(6, 1, cells.shape))[cells]
    return Trajectory(data)


def of_kind(statements: list[Statement], *kinds: str) -> list[Statement]:
    return [one for one in statements if one.kind in kinds]


def false_alarms(run: Trajectory, threshold: float) -> float:
    """Returns the share of the unwritten places at which something other than the end is claimed."""
    tokens, data = run.data["token"].values[:, :, SOLUTION], run.data
    asked = np.zeros(tokens.shape, dtype=bool)
    asked[:, 1:] = tokens[:, :-1] == MASK_ID
    asked &= data["proposal"].values[:, :, SOLUTION] > 0
    wrong = data["proposal"].values[:, :, SOLUTION] != tokens[:, -1:]
    return float((wrong & (data["confidence"].values[:, :, SOLUTION] > threshold))[asked].mean())


FITTED, OTHER = generate(12, "hidden_singles", seed=3), generate(12, "hidden_singles", seed=4)


def test_the_threshold_keeps_the_rate_of_false_alarms_that_was_asked_for() -> None:
    narrator = fit_tokens_only(unsure_run(FITTED), alpha=ALPHA)
    assert narrator.threshold > LEAST
    assert false_alarms(unsure_run(FITTED), LEAST) > ALPHA, "the threshold has something to keep out"
    assert false_alarms(unsure_run(FITTED), narrator.threshold) <= ALPHA
    assert false_alarms(unsure_run(OTHER, 1), narrator.threshold) < 1.5 * ALPHA


def test_a_stricter_rate_claims_less() -> None:
    run = unsure_run(FITTED)
    thresholds = [fit_tokens_only(run, alpha=alpha).threshold for alpha in (0.1, 0.05, 0.01)]
    assert thresholds == sorted(thresholds)
    assert thresholds[0] < thresholds[-1]


def test_tokens_tell_a_reason_of_everything_written_and_are_graded_like_readers() -> None:
    run = unsure_run(OTHER[:2], 1)
    narrator = fit_tokens_only(unsure_run(FITTED), alpha=ALPHA)
    assert set(narrator.guesses) <= set(GUESSES)
    account = narrate_tokens(run, narrator)
    written = of_kind(account, *JUSTIFICATIONS, *UNREASONED)
    assert len(written) == (run.tokens(0) == MASK_ID).sum()
    assert {one.kind for one in written} <= set(JUSTIFICATIONS)
    assert {one.sound for one in written} == {True, False}
    decided = of_kind(account, "decided")
    ends = run.tokens(-1)
    assert decided
    assert all(one.sound == (one.value == str(ends[one.sample, one.positions[0]])) for one in decided)
    assert all(item.point == "output" and item.probability > narrator.threshold for one in decided for item in one.evidence)


@pytest.mark.parametrize("rung", ["naked_singles", "hidden_singles", "guessing"])
def test_the_rules_are_sound_wherever_they_give_a_reason(rung: str) -> None:
    """Also in a run that writes the solution in an order that no rule gives."""
    puzzles = generate(2, rung, seed=9)
    prompt, truth = SUDOKU.prompt(puzzles).numpy(), SUDOKU.encode(puzzles).numpy()
    turn = np.random.default_rng(1).random(prompt.shape).argsort(axis=1).argsort(axis=1) // 40
    account = narrate_board(run_of([prompt, *(np.where((prompt == MASK_ID) & (turn <= step), truth, prompt) for step in range(5))]))
    reasons = of_kind(account, *JUSTIFICATIONS)
    assert reasons
    assert all(one.sound for one in (*reasons, *of_kind(account, "decided")))
    assert len(of_kind(account, *JUSTIFICATIONS, *UNREASONED)) == (prompt == MASK_ID).sum()
    assert not of_kind(account, "excluded", "guess")


def test_the_rules_say_where_what_was_written_breaks_them() -> None:
    puzzles = generate(1, "naked_singles", seed=9)
    prompt = SUDOKU.prompt(puzzles).numpy()
    cell = int(np.flatnonzero(puzzles.givens[0] == 0)[0])
    row = puzzles.givens[0, cell // 9 * 9 : cell // 9 * 9 + 9]
    after = prompt.copy()
    after[0, SOLUTION.start + cell] = row[row > 0][0]
    (told,) = of_kind(narrate_board(run_of([prompt, after])), *JUSTIFICATIONS, *UNREASONED)
    assert told.kind == "unexplained"
    assert told.text.endswith("breaks the rules")


def test_runs_that_wrote_nothing_are_refused() -> None:
    prompt = SUDOKU.prompt(generate(1, seed=1)).numpy()
    with pytest.raises(TokensOnlyError, match="wrote no cell"):
        fit_tokens_only(run_of([prompt, prompt]))
