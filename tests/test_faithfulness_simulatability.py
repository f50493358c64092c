"""Simulators of planted runs: an account that knows helps, one that does not help costs nothing, and one of another run is no help."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_runs import run_of

from interp.faithfulness import simulatability
from interp.faithfulness.base import Case, FaithfulnessError
from interp.faithfulness.simulatability import (
    ACCOUNTS,
    KNOWS,
    NOTHING,
    OTHER,
    RANDOM,
    READERS,
    RUNS,
    SIMULATABILITY,
    against,
    corrupted,
    findings,
    random_like,
)
from interp.faithfulness.simulator import Told, features, fit_simulator, foretold, places_of, told
from interp.grading import Tally
from interp.narration import Evidence, Statement
from interp.reading import Reader
from interp.statistics import Statistic
from models.decoding import Decoding
from models.denoise import denoise
from models.hookpoints import resid_post
from models.language_model import LanguageModel
from models.load import load
from models.tasks.sudoku.generator import Puzzles, generate
from models.tasks.sudoku.task import MASK_ID, SOLUTION, SUDOKU
from models.trajectory import Trajectory

BOARDS = generate(8, "hidden_singles", seed=41)


def drawn_run(puzzles: Puzzles) -> Trajectory:
    """Three cells a call, in an order that nothing visible tells."""
    prompts, truth, rng = SUDOKU.prompt(puzzles).numpy(), SUDOKU.encode(puzzles).numpy(), np.random.default_rng(0)
    turn = np.where(prompts == MASK_ID, rng.random(prompts.shape), 2).argsort(axis=1).argsort(axis=1) // 3 + 1
    return run_of([np.where((prompts == MASK_ID) & (turn <= step), truth, prompts) for step in range(10)])


RUN = drawn_run(BOARDS)
PLACES = places_of(RUN)


def all_knowing(run: Trajectory = RUN) -> Told:
    """What the next call writes, and the solution."""
    tokens = run.data["token"].values[:, :, SOLUTION]
    written = (tokens[:, :-1] == MASK_ID) & (tokens[:, 1:] != MASK_ID)
    upcoming = np.concatenate([written, np.zeros_like(written[:, :1])], axis=1)
    digit = np.broadcast_to(BOARDS.solutions[:, None], tokens.shape).astype(np.int64)
    return Told(digit, np.full(tokens.shape, 3.0), upcoming)


def silent() -> Told:
    shape = (*RUN.data["token"].shape[:2], 81)
    return Told(np.zeros(shape, dtype=np.int64), np.zeros(shape), np.zeros(shape, dtype=bool))


def bits(account: Told | None) -> float:
    shown = features(RUN, PLACES, account)
    weights = fit_simulator(shown, torch.from_numpy(PLACES.outcome))
    return foretold(shown, PLACES, weights, len(BOARDS))[0].estimate(0).value


def test_places_are_the_unwritten_cells_with_what_the_next_call_writes() -> None:
    assert (PLACES.step >= 1).all()
    tokens = RUN.data["token"].values[:, :, SOLUTION]
    row = PLACES.sample, PLACES.step, PLACES.cell
    assert (tokens[row] == MASK_ID).all()
    after = tokens[PLACES.sample, PLACES.step + 1, PLACES.cell]
    assert (PLACES.outcome == np.where(after == MASK_ID, 0, after)).all()
    assert (np.bincount(PLACES.sample, weights=PLACES.outcome > 0) == 3 * 8).all()


def test_an_account_that_knows_leaves_next_to_nothing_open_and_one_of_another_board_does_not() -> None:
    nothing, knowing, other = bits(None), bits(all_knowing()), bits(all_knowing().of_others())
    assert knowing < 0.1 * nothing
    assert other > 0.8 * nothing


def test_an_account_that_says_nothing_changes_nothing() -> None:
    assert bits(silent()) == pytest.approx(bits(None), abs=1e-3)


def test_the_simulator_is_the_most_likely_conditional_logit() -> None:
    """At the optimum of a multinomial likelihood every feature's expectation equals its sum over what happened (McFadden 1974)."""
    rng = np.random.default_rng(0)
    shown = torch.from_numpy(rng.normal(size=(4000, 9, 3)))
    true = torch.tensor([1.0, -0.5, 0.0], dtype=torch.float64)
    utilities = torch.cat([torch.zeros(4000, 1, dtype=torch.float64), shown @ true], dim=1)
    outcome = torch.distributions.Categorical(logits=utilities).sample()
    torch.testing.assert_close(fit_simulator(shown, outcome), true, atol=0.08, rtol=0)


def test_bits_and_names_of_a_simulator_that_knows_nothing_are_those_of_even_odds() -> None:
    shown = features(RUN, PLACES)
    cost, named = foretold(shown, PLACES, torch.zeros(shown.shape[-1], dtype=torch.float64), len(BOARDS))
    assert cost.estimate(0).value == pytest.approx(np.log2(10))
    assert cost.of.sum() == len(PLACES.sample)
    assert named.of.sum() == (PLACES.outcome > 0).sum()


def test_claims_stand_until_another_is_made() -> None:
    def claim(step: int, digit: int, probability: float) -> Statement:
        evidence = Evidence("logistic digit", "blocks.3.hook_resid_post", step, SOLUTION.start + 7, str(digit), probability)
        return Statement(0, step, "decided", "planted", (SOLUTION.start + 7,), str(digit), (evidence,))

    lost = Statement(0, 6, "lost", "planted", (SOLUTION.start + 7,), "6", ())
    following = Statement(0, 2, "next", "planted", (SOLUTION.start + 7, SOLUTION.start + 9), "", ())
    account = told(RUN, [claim(2, 5, 0.9), claim(4, 6, 0.99), lost, following])
    assert account.digit[0, :8, 7].tolist() == [0, 0, 5, 5, 6, 6, 0, 0]
    assert np.argwhere(account.upcoming).tolist() == [[0, 2, 7], [0, 2, 9]]
    assert account.odds[0, 3, 7] == pytest.approx(np.log(9))
    assert account.digit[1:].sum() == 0


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load("sudoku-diffusion")


@pytest.fixture(scope="module")
def case(model: LanguageModel) -> Case:
    puzzles = generate(4, "naked_singles", seed=43)
    run = denoise(model, SUDOKU.prompt(puzzles), Decoding("low_confidence", steps=6))
    return Case(model, run, puzzles, readers={})


def test_an_edit_changes_one_written_token_of_each_board_and_the_run_goes_on(case: Case) -> None:
    assert case.puzzles is not None
    edited, step = corrupted(case, case.puzzles)
    before, after = case.run.tokens(step), edited.tokens(step)
    assert ((before != after).sum(1) == 1).all()
    assert (edited.tokens(-1)[:, SOLUTION] != MASK_ID).all()


def planted(case: Case, run: Trajectory) -> dict[str, Told | None]:
    """An account that knows, in the place of the readers', beside its controls."""
    tokens = run.data["token"].values[:, :, SOLUTION].astype(np.int64)
    written = (tokens[:, :-1] == MASK_ID) & (tokens[:, 1:] != MASK_ID)
    upcoming = np.concatenate([written, np.zeros_like(written[:, :1])], axis=1)
    own = Told(np.broadcast_to(tokens[:, -1:], tokens.shape), np.full(tokens.shape, 3.0), upcoming)
    empty = Told(np.zeros_like(tokens), np.zeros(tokens.shape), np.zeros(tokens.shape, dtype=bool))
    return {NOTHING: None, READERS: own, RANDOM: empty, OTHER: own.of_others()}


def test_the_whole_test_tells_an_account_that_knows_from_its_controls(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulatability, "accounts_of", planted)
    statistics: list[Statistic] = SIMULATABILITY.measure(case)
    assert [one.name for one in statistics] == ["simulated_bits", "simulated_named", "simulated_saved"]
    assert statistics == SIMULATABILITY.measure(case)
    assert all(one.roles for one in statistics)
    assert all(value.estimate.n <= case.run.n_samples for one in statistics for value in one.values)
    found = {(value.at["run"], value.at["knows"], value.at["told"]): value.estimate for value in statistics[0].values}
    assert set(found) == {(run, knows, account) for run in RUNS for knows in KNOWS for account in ACCOUNTS}
    for knows in KNOWS:
        assert found[RUNS[0], knows, READERS].value < 0.5 * found[RUNS[0], knows, NOTHING].value
        assert found[RUNS[0], knows, OTHER].value > 0.5 * found[RUNS[0], knows, NOTHING].value
    said = findings(statistics)
    assert len(said) == len(RUNS) * len(KNOWS)
    assert all(sentence.endswith(".") for sentence in said)
    assert "better than nothing" in said[0]


def test_accounts_are_compared_board_by_board(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """An account that saves each board the same little is better, however far boards are apart."""
    costs = {NOTHING: 0.01, READERS: 0.0, RANDOM: 0.01, OTHER: 0.0}
    boards = np.array([0.2, 0.9, 0.4, 1.5])

    def foretold_as(scenes: object, account: str, confidences: bool, samples: int) -> dict[str, tuple[Tally, Tally]]:
        bits = Tally(100 * (boards + costs[account]), np.full(4, 100.0))
        return {run: (bits, Tally(np.ones(4), np.full(4, 2.0))) for run in RUNS}

    monkeypatch.setattr(simulatability, "accounts_of", planted)
    monkeypatch.setattr(simulatability, "_foretold", foretold_as)
    bits, _, saved = SIMULATABILITY.measure(case)
    at = {"run": RUNS[0], "knows": KNOWS[0]}
    assert bits.at(**at, told=READERS).high > bits.at(**at, told=NOTHING).low
    for than in (NOTHING, RANDOM):
        found = saved.at(**at, compared=against(READERS, than))
        assert (found.value, found.low, found.high, found.n) == (pytest.approx(0.01), pytest.approx(0.01), pytest.approx(0.01), 4)
    same = saved.at(**at, compared=against(READERS, OTHER))
    assert (same.value, same.low, same.high) == (0, 0, 0)
    said = findings([bits, _, saved])[0]
    assert "better than nothing" in said
    assert "not to be told from another run" in said


def test_random_readers_are_as_long_as_those_they_stand_for(model: LanguageModel) -> None:
    from interp.concepts import CONCEPTS
    from probes.linear import LinearProbe

    probe = LinearProbe(torch.randn(9, model.d_model), torch.zeros(9), CONCEPTS["digit"].heads, "logistic", "ar:0")
    reader = Reader(CONCEPTS["digit"], resid_post(3), probe, model.fingerprint, 1.0)
    like = random_like({"digit": reader}, 0)["digit"].probe
    torch.testing.assert_close(like.weight.norm(dim=1), probe.weight.norm(dim=1))
    assert torch.nn.functional.cosine_similarity(like.weight, probe.weight).abs().max() < 0.5


def test_what_cannot_be_simulated_is_refused(case: Case) -> None:
    with pytest.raises(FaithfulnessError, match="simulating needs sudoku, puzzles and readers"):
        SIMULATABILITY.measure(replace(case, readers=None))
    with pytest.raises(FaithfulnessError, match="needs at least 4"):
        SIMULATABILITY.measure(replace(case, run=case.run.select(range(2))))
