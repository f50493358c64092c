"""Backtracking: the concept of a wrong digit, what becomes of written tokens, and whether it is foreseen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from interp.backtracking.doubters import BEFORE, WRONG, Doubter, doubts
from interp.backtracking.fates import (
    ASKED,
    FALSE_ALARMS,
    LATER,
    MENDED,
    NEXT,
    NOW,
    SPOILED,
    BacktrackingError,
    Fates,
    alarms,
    doubt_at_writing,
    fates,
    foresight,
    outscored,
    revisions,
    within,
)
from interp.backtracking.mistakes import Mistaken, drawn_cells, mistaken_for, planted
from interp.backtracking.revising import DECIDERS, LOG_P, OTHER, Direction, Targets, revised, taken_back
from interp.boards import mixed_boards
from interp.concepts import CONCEPTS, ConceptError, Kind, features_of, labels_of
from interp.corpus import Corpus, puzzle_corpus
from interp.studies import StudyError, StudyReport, run_study
from interp.studies.backtracking import BACKTRACKING, Sizes
from interp.studies.doubting import DOSES, RANDOM
from interp.studies.foreseeing import BY_CHANCE, REVISING
from interp.viz.statistics import statistic_figure
from models.decoding import Decoding
from models.denoise import denoise
from models.hookpoints import resid_post
from models.tasks.sudoku.board import PEERS
from models.tasks.sudoku.generator import RUNGS
from models.tasks.sudoku.task import MASK_ID, SOLUTION, SUDOKU
from models.trajectory import State, Trajectory
from probes.linear import LinearProbe
from probes.metrics import bootstrap_auc

MASK = 9


def run_of(token: np.ndarray) -> Trajectory:
    """Returns a run whose canvases are these [batch, step, pos]; what is written is what was proposed, with confidence 1 / (1 + step)."""
    n_samples, n_steps, n_positions = token.shape
    state = np.zeros(token.shape, dtype=np.int8)
    for step in range(n_steps):
        before = (token[:, :step] != MASK).any(1) if step else np.zeros((n_samples, n_positions), dtype=bool)
        state[:, step] = np.where(token[:, step] == MASK, np.where(before, State.REMASKED, State.MASKED), State.COMMITTED)
    dims = ("sample", "step", "position")
    confidence = np.broadcast_to(1 / (1 + np.arange(n_steps))[:, None], token.shape)
    proposal = np.where(np.arange(n_steps)[:, None] == 0, -1, token)
    data = xr.Dataset({"token": (dims, token), "state": (dims, state), "proposal": (dims, proposal), "confidence": (dims, confidence)})
    return Trajectory(data.assign(calls=("sample", np.full(n_samples, n_steps - 1))))


@lru_cache(1)
def restless() -> Trajectory:
    """A run whose cells are written, rewritten and masked again at random; the first canvas is blank."""
    rng = np.random.default_rng(0)
    token = np.full((12, 15, 20), MASK)
    for step in range(1, 15):
        moved = rng.random((12, 20)) < 0.2
        token[:, step] = np.where(moved, rng.integers(0, MASK + 1, (12, 20)), token[:, step - 1])
    return run_of(token)


RIGHT = np.random.default_rng(1).integers(0, 3, (12, 20))


def plain_fate(token: list[int], step: int) -> tuple[bool, int, int]:
    """Whether a token stands when a call reads, the call that takes it back, and what is written next, told from one cell's history."""
    own = token[step - 1]
    if own == MASK:
        return False, 0, -1
    for later in range(step, len(token)):
        if token[later] != own:
            return True, later, next((one for one in token[later:] if one != MASK), -1)
    return True, 0, -1


def foreknown(found: Fates) -> np.ndarray:
    """Returns a score that is 1 where the token will be taken back, by whichever call."""
    return (found.end > 0).astype(float)


# ---------------------------------------------------------------- the concept


def wrong_sites() -> Mistaken:
    puzzles = mixed_boards(8, 3, RUNGS)
    corpus = puzzle_corpus(SUDOKU, puzzles)
    return Mistaken(planted(corpus.sequences, corpus.asked, 0), corpus.sequences, corpus.asked, corpus.group, torch.ones(8).bool())


def test_wrong_is_a_written_digit_that_is_not_the_solutions() -> None:
    some = wrong_sites()
    rows, cells = torch.nonzero(some.written, as_tuple=True)
    labels = labels_of(CONCEPTS["wrong"], some.sites(rows, cells))[:, 0]
    expected = [some.tokens[row, 82 + cell] != some.truth[row, 82 + cell] for row, cell in zip(rows.tolist(), cells.tolist(), strict=True)]
    assert labels.tolist() == expected
    assert torch.equal(labels, some.wrong[rows, cells])
    assert labels.any()
    assert not CONCEPTS["wrong"].by_default


@pytest.mark.parametrize("kind", [Kind.PROMPT, Kind.MASKED])
def test_wrong_is_asked_of_written_cells_only(kind: Kind) -> None:
    some = wrong_sites()
    rows, cells = torch.nonzero(some.written, as_tuple=True)
    sites = some.sites(rows[:4], cells[:4])
    unlike = replace(sites, kind=torch.tensor([Kind.SETTLED, Kind.COMMITTED, int(kind), Kind.SETTLED]))
    with pytest.raises(ConceptError, match=f"position {int(sites.position[2])} .{kind.name.lower()}. holds no written digit"):
        labels_of(CONCEPTS["wrong"], unlike)
    hidden = sites.seen.clone()
    hidden[1, sites.position[1]] = MASK_ID
    with pytest.raises(ConceptError, match=f"position {int(sites.position[1])} .settled. holds no written digit"):
        labels_of(CONCEPTS["wrong"], replace(sites, seen=hidden))


def test_its_baseline_is_shown_which_rules_the_digit_breaks() -> None:
    some = wrong_sites()
    rows, cells = torch.nonzero(some.written, as_tuple=True)
    breaks = features_of(CONCEPTS["wrong"])(some.sites(rows, cells))[:, 210:213]
    assert (breaks.any(axis=1) == some.clash[rows, cells].numpy()).all()


# ---------------------------------------------------------------- fates


def test_fates_are_those_of_each_cells_own_history() -> None:
    run = restless()
    found, token = fates(run), run.data["token"].values
    for sample in range(12):
        for step in range(1, 15):
            for place in range(20):
                told = tuple(one[sample, step, place].item() for one in (found.standing, found.end, found.becomes))
                assert told == plain_fate(token[sample, :, place].tolist(), step)
    assert not found.standing[:, 0].any()


def test_doubt_when_written_is_of_the_call_that_wrote_the_token() -> None:
    run = restless()
    found, token, doubt = fates(run), run.data["token"].values, doubt_at_writing(run)
    for sample, step, place in np.argwhere(found.standing)[::7]:
        history = token[sample, :step, place]
        written = int(np.flatnonzero(history != history[-1])[-1]) + 1
        assert doubt[sample, step, place] == pytest.approx(1 - 1 / (1 + written))


def test_an_announced_revision_is_foreseen_and_shuffled_scores_foresee_nothing() -> None:
    found = fates(restless())
    told = foresight(found, RIGHT, foreknown(found), LATER, seed=0)
    assert told is not None
    assert told.value == 1
    by_kind = {asked: revisions(found, RIGHT, asked)[1].astype(float) for asked in ASKED}
    noise = np.random.default_rng(2).random(found.end.shape)
    for asked in ASKED:
        told, by_chance = (foresight(found, RIGHT, scores, asked, seed=0) for scores in (by_kind[asked], noise))
        assert told is not None
        assert by_chance is not None
        assert told.value == 1
        assert abs(by_chance.value - 0.5) < 0.06
        assert by_chance.low < 0.5 < by_chance.high


def test_what_this_call_changes_is_no_foresight() -> None:
    found = fates(restless())
    deciding = (found.end == found.step) & found.standing
    for asked in (NEXT, LATER, MENDED, SPOILED):
        among, true = revisions(found, RIGHT, asked)
        assert not (among & deciding).any()
        assert not (true & ~among).any()
    assert (revisions(found, RIGHT, NOW)[1] == deciding).all()


def test_mends_and_spoilings_are_told_by_right_and_wrong() -> None:
    token = np.array([[[MASK, MASK, MASK, MASK], [1, 2, 2, 2], [1, 2, 2, 2], [2, 2, 1, 2], [2, 2, 1, 2]]])
    found, solution = fates(run_of(token)), np.full((1, 4), 2)
    assert revisions(found, solution, MENDED)[1][0, 2].tolist() == [True, False, False, False]
    assert revisions(found, solution, SPOILED)[1][0, 2].tolist() == [False, False, True, False]
    assert revisions(found, solution, MENDED)[0][0, 2].tolist() == [True, True, False, True]


def test_scores_of_strangers_and_unknown_questions_are_errors() -> None:
    found = fates(restless())
    with pytest.raises(BacktrackingError, match=r"no question 'soon'; choose from this call, next call, later"):
        revisions(found, RIGHT, "soon")
    with pytest.raises(BacktrackingError, match=r"scores have shape \(12, 15, 3\); the run has \(12, 15, 20\)"):
        alarms(found, np.zeros((12, 15, 3)), seed=0)
    with pytest.raises(BacktrackingError, match="of a written token is NaN"):
        alarms(found, np.full(found.end.shape, np.nan), seed=0)


def test_the_area_within_rows_is_that_of_the_rows_as_strata() -> None:
    rng = np.random.default_rng(3)
    scores, labels, among = rng.integers(0, 5, (40, 9)).astype(float), rng.random((40, 9)) < 0.4, rng.random((40, 9)) < 0.8
    groups = np.arange(40) // 4
    found = within(scores, labels, among, groups, seed=0)
    row, cell = np.nonzero(among)
    columns = [torch.from_numpy(one[row, cell])[:, None] for one in (scores, labels)]
    expected = bootstrap_auc(*columns, torch.from_numpy(groups[row]), strata=torch.from_numpy(row), seed=0)
    assert found is not None
    assert found.value == pytest.approx(expected.value)
    assert found.n == 10
    assert abs(found.low - expected.low) < 0.05
    assert within(scores, labels & False, among, groups, seed=0) is None
    won, pairs = outscored(scores, labels, among)
    assert (won <= pairs).all()


# ---------------------------------------------------------------- alarms


def steady(announced: int) -> tuple[Fates, np.ndarray]:
    """Returns a run whose every third token is rewritten by call 12, and a score that says so so many calls before, else noise."""
    token = np.full((6, 20, 30), MASK)
    token[:, 1:] = 1
    token[:, 12:, ::3] = 2
    found = fates(run_of(token))
    scores = np.random.default_rng(4).random(found.end.shape)
    return found, np.where(foreknown(found).astype(bool) & (found.end - found.step <= announced), 2.0, scores * (found.end == 0))


@pytest.mark.parametrize("announced", [0, 1, 5])
def test_the_lead_is_how_long_before_it_was_announced(announced: int) -> None:
    found = alarms(*steady(announced), seed=0)
    assert found is not None
    assert found.lead.value == announced
    assert found.coming.value == (announced > 0)
    assert found.coming.n == 6


def test_alarms_by_chance_see_as_much_as_the_rate_of_false_ones() -> None:
    run, _ = steady(0)
    told = alarms(run, np.random.default_rng(5).random(run.end.shape), seed=0)
    assert told is not None
    assert told.precision is not None
    assert abs(told.coming.value - FALSE_ALARMS) < 0.08
    stays = run.standing & (run.end != run.step)
    assert abs(told.precision.value - (run.end > 0)[stays].mean()) < 0.1


def test_an_alarm_about_the_token_before_is_none_about_this_one() -> None:
    token = np.full((5, 8, 3), MASK)
    token[:, 1:] = 1
    token[:, 4:, 0], token[:, 5:, 0] = 2, 3
    found = fates(run_of(token))
    scores = np.zeros(found.end.shape)
    scores[:, 2:5, 0] = 1  # on while the first token stands and when the call that ends it reads; the second is read in one call only
    told = alarms(found, scores, seed=0)
    assert told is not None
    assert told.lead.value == 1  # two calls before the first revision, none before the second


def test_a_run_that_takes_nothing_back_has_no_alarms() -> None:
    token = np.full((1, 4, 3), MASK)
    token[:, 1:] = 1
    assert alarms(fates(run_of(token)), np.zeros((1, 4, 3)), seed=0) is None


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize("causal", [False, True])
def test_planted_digits_are_other_ones_and_many_break_no_visible_rule(causal: bool) -> None:
    corpus = puzzle_corpus(SUDOKU, mixed_boards(40, 2, RUNGS))
    half = corpus.asked & (torch.arange(163) % 2 == 0)
    tokens = corpus.sequences.masked_fill(half, MASK_ID)
    found = planted(tokens, corpus.asked, 0, share=0.05, causal=causal)
    changed = found != tokens
    assert not (changed & (half | ~corpus.asked)).any()
    assert 0.03 < changed.sum() / (corpus.asked & ~half).sum() < 0.07
    assert ((found[changed] >= 1) & (found[changed] <= 9)).all()
    some = Mistaken(found, corpus.sequences, corpus.asked, corpus.group, torch.zeros(40).bool(), causal)
    assert torch.equal(some.wrong, changed[:, SOLUTION])
    assert 0.2 < float((some.wrong & ~some.clash).sum() / some.wrong.sum()) < 0.8


def test_a_causal_place_sees_what_comes_before_it_and_itself() -> None:
    some = replace(wrong_sites(), causal=True)
    rows, cells = drawn_cells(some, 3, 0)
    sites = some.sites(rows, cells)
    assert torch.equal(sites.seen[torch.arange(len(rows)), sites.position], some.tokens[rows, sites.position])
    for seen, row, position in zip(sites.seen, rows, sites.position.tolist(), strict=True):
        assert torch.equal(seen[: position + 1], some.tokens[row, : position + 1])
        assert (seen[position + 1 :][some.asked[row, position + 1 :]] == MASK_ID).all()
    for row, cell in zip(rows.tolist(), cells.tolist(), strict=True):
        peers = [int(peer) for peer in PEERS[cell] if peer < cell or not some.asked[row, 82 + peer]]
        assert some.clash[row, cell] == any(some.tokens[row, 82 + peer] == some.tokens[row, 82 + cell] for peer in peers)


def test_as_many_wrong_cells_are_drawn_as_right_ones() -> None:
    some = wrong_sites()
    rows, cells = drawn_cells(some, 4, 0)
    for row in range(8):
        wrong = some.wrong[row, cells[rows == row]]
        assert wrong.sum() == min(4, some.wrong[row].sum())
        assert (~wrong).sum() == 4


@pytest.mark.parametrize("regime", ["causal", "full"])
def test_the_canvases_of_a_model_are_its_own_then_planted(regime: str, tiny_model: Callable[..., Any]) -> None:
    corpus: Corpus = puzzle_corpus(SUDOKU, mixed_boards(4, 2, RUNGS))
    found = mistaken_for(tiny_model(regime), corpus, 0)
    assert found.own[: int(found.own.sum())].all()
    assert torch.equal(found.tokens[~found.asked], found.truth[~found.asked])
    assert found.wrong[found.own].sum() > found.wrong[~found.own].sum()  # a random network is wrong nearly everywhere
    assert set(found.group.tolist()) == {0, 1, 2, 3}
    assert found.causal == (regime == "causal")


# ---------------------------------------------------------------- doubt, and what a policy makes of it


def test_a_models_doubt_is_of_the_written_digit(tiny_model: Callable[..., Any]) -> None:
    model, some = tiny_model(), wrong_sites()
    probe = LinearProbe(torch.eye(32)[:1], torch.zeros(1), WRONG.heads, "mine", "")
    said, own = doubts(model, some.tokens, [Doubter("mine", resid_post(0), BEFORE, probe)])
    logits, cache = model.run_with_cache(some.tokens, [resid_post(0)])
    logits[..., MASK_ID] = -torch.inf
    torch.testing.assert_close(said, cache[resid_post(0)][:, 81:162, 0])
    expected = -logits.log_softmax(-1).gather(-1, some.tokens[..., None])[:, SOLUTION, 0]
    torch.testing.assert_close(own, expected)


@pytest.mark.parametrize("policy", DECIDERS)
def test_what_is_taken_back_in_a_call_is_what_a_run_takes_back(policy: str, tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    prompts = SUDOKU.prompt(mixed_boards(3, 2, RUNGS))
    run = denoise(model, prompts, Decoding(policy))
    found, asked = fates(run), prompts == MASK_ID
    for step in range(1, min(20, run.n_steps)):
        on = torch.from_numpy(run.calls >= step)
        tokens = torch.from_numpy(run.tokens(step - 1))
        told = taken_back(model.logits(tokens).detach(), tokens, asked, MASK_ID, policy)
        assert torch.equal(told[on], torch.from_numpy((found.end == found.step)[:, step] & found.standing[:, step])[on])


def test_a_push_along_the_digits_own_read_out_makes_it_less_likely(tiny_model: Callable[..., Any]) -> None:
    model, some = tiny_model(), wrong_sites()
    targets = Targets(some.tokens, some.asked, SOLUTION.start + some.wrong.int().argmax(1))
    written = some.tokens[torch.arange(8), targets.position]
    away = -model.module.lm_head.weight.detach()[written]
    before, same = revised(model, targets, None, 1.0), revised(model, targets, Direction(resid_post(1), 1, away), 0.0)
    after = revised(model, targets, Direction(resid_post(1), 1, away), 50.0)
    assert set(before) == {LOG_P, OTHER, *DECIDERS}
    for name, values in before.items():
        torch.testing.assert_close(same[name], values)
    assert (after[LOG_P] > before[LOG_P]).all()
    assert after[OTHER].all()


# ---------------------------------------------------------------- the study


@pytest.fixture(scope="module")
def report(twins: dict[str, Path]) -> StudyReport:
    study = replace(BACKTRACKING, sizes={"small": Sizes(fitted=6, tested=6, cells=3, traced=5, calls=6, pushed=3)})
    return run_study("backtracking", study, models=[str(twins["causal"]), str(twins["masked"])])


def test_every_policy_and_reader_is_in_the_study(report: StudyReport) -> None:
    named = {one.name: one for one in report.statistics}
    assert set(named) == {"wrong", "kept", "foresight", "alarms", "lead", "taken", "pushes"}
    assert {one.at["policy"] for one in named["taken"].values} == set(REVISING)
    assert BY_CHANCE in {one.at["told by"] for one in named["foresight"].values}
    assert {one.at["dose"] for one in named["pushes"].values} == set(DOSES)
    assert any(str(one.at["push"]).startswith(RANDOM) for one in named["pushes"].values)
    assert all(one.estimate.n <= 6 for statistic in report.statistics for one in statistic.values)
    assert len(report.findings) > 10


def test_its_statistics_can_be_drawn(report: StudyReport) -> None:
    assert all(statistic_figure(one).data for one in report.statistics)


def test_it_needs_twins(twins: dict[str, Path]) -> None:
    with pytest.raises(StudyError, match=r"a causal and a masked model of sudoku, in this order; got causal \(causal, sudoku\)$"):
        run_study("backtracking", BACKTRACKING, models=[str(twins["causal"])])
    with pytest.raises(StudyError, match=r"in this order; got .*: twins are a causal and a masked model"):
        run_study("backtracking", BACKTRACKING, models=[str(twins["masked"]), str(twins["causal"])])
