"""Verdicts on planted accounts: a perfect one scores 1 everywhere, one of other boards is called out, and boards are what is resampled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted_runs import run_of, wave_run

from interp.grading import LEADS, Tally, Verdict, joined, verdict_of
from interp.narration import Statement
from interp.statistics import Statistic
from interp.verdict import BY_LEAD, MEASURES, Graded, Layout, difference, verdicts
from models.tasks.sudoku.generator import generate
from models.tasks.sudoku.task import MASK_ID, SOLUTION, SUDOKU
from models.trajectory import Trajectory

BOARDS = generate(6, "hidden_singles", seed=21)
RUN = wave_run(BOARDS)
TRUTH = SUDOKU.encode(BOARDS).numpy()
TOKENS = RUN.data["token"].values
WRITTEN = (TOKENS[:, :-1] == MASK_ID) & (TOKENS[:, 1:] != MASK_ID)
UPCOMING = np.concatenate([WRITTEN, np.zeros_like(WRITTEN[:, :1])], axis=1)
"""After each step, what the next call writes."""
SHARES = [name for name, one in MEASURES.items() if one.unit != "calls"]


def claim(sample: int, step: int, position: int, token: int, kind: str = "decided", sound: bool | None = None) -> Statement:
    return Statement(sample, step, kind, "planted", (position,), str(token), (), sound)


def perfect() -> list[Statement]:
    """Every writing has a sound reason, is called decided in the first call that leaves it unwritten, and announced a call before it."""
    said = []
    for sample, step in np.argwhere(UPCOMING.any(2)).tolist():
        if step > 0:
            said.append(Statement(sample, step, "next", "planted", tuple(np.flatnonzero(UPCOMING[sample, step]).tolist()), "", ()))
    for sample, step, position in np.argwhere(WRITTEN).tolist():
        said.append(claim(sample, step + 1, position, TRUTH[sample, position], "only_place", sound=True))
        if step > 0:
            said.append(claim(sample, 1, position, TRUTH[sample, position]))
    return said


def share(verdict: Verdict, name: str, band: str = "") -> float:
    return verdict[name, band].estimate(0).value


def test_a_perfect_account_scores_one_everywhere() -> None:
    verdict = verdict_of(RUN, perfect(), TRUTH, support={"decided": "used", "only_place": "used"})
    for name in ("sound", "coverage", "explained", "supported", "decided_run", "decided_truth", "decided_recall"):
        assert share(verdict, name) == 1, name
    assert share(verdict, "next_precision") == share(verdict, "next_recall") == 1
    assert share(verdict, "idle_doubts") == 0
    waves = np.argwhere(WRITTEN)[:, 1]
    assert share(verdict, "lead") == pytest.approx(waves[waves > 0].mean())
    for band, (least, most) in LEADS.items():
        assert verdict["decided_run", band].of.sum() == ((waves >= least) & (waves <= most)).sum()


def test_an_empty_account_covers_nothing_and_says_nothing_wrong() -> None:
    verdict = verdict_of(RUN, [], TRUTH)
    assert share(verdict, "coverage") == share(verdict, "decided_recall") == share(verdict, "lead") == 0
    assert np.isnan(share(verdict, "sound"))
    assert verdict["sound", ""].estimate(0).n == 0
    assert verdict["next_precision", ""].of.sum() == 0
    assert ("supported", "") not in verdict


def test_an_account_of_other_boards_is_called_out() -> None:
    said = [replace(one, sample=(one.sample + 1) % len(BOARDS)) for one in perfect()]
    verdict = verdict_of(RUN, said, TRUTH)
    for name in ("decided_run", "decided_truth", "decided_recall", "next_recall", "coverage"):
        assert verdict[name, ""].estimate(0).high < 0.75, name


def test_claims_are_counted_by_how_many_calls_they_came_before_the_writing() -> None:
    sample, _, position = next(one for one in np.argwhere(WRITTEN).tolist() if one[1] == 4)
    token = int(TRUTH[sample, position])
    said = [claim(sample, 1, position, token), claim(sample, 4, position, token % 9 + 1), claim(sample, 5, position, token)]
    verdict = verdict_of(RUN, said, TRUTH)
    tallies = {band: (verdict["decided_run", band].hits.sum(), verdict["decided_run", band].of.sum()) for band in LEADS}
    assert tallies == {"1": (0, 1), "2": (0, 0), "3-5": (1, 1), "6-10": (0, 0), "> 10": (0, 0)}
    assert verdict["lead", ""].hits.sum() == 4


def test_what_the_run_writes_and_what_is_true_are_kept_apart() -> None:
    """A claim that foretells a mistake is right about the run and wrong about the board."""
    sample, position = 0, int(np.argwhere(WRITTEN[0, 1])[0, 0])
    wrong = int(TRUTH[sample, position]) % 9 + 1
    data = RUN.data.copy(deep=True)
    data["token"].values[sample, 2:, position] = wrong
    verdict = verdict_of(Trajectory(data), [claim(sample, 1, position, wrong)], TRUTH)
    assert (share(verdict, "decided_run"), share(verdict, "decided_truth")) == (1, 0)


def revising() -> Trajectory:
    """Three cells written in call 1; call 2 changes the first and masks the second, which call 3 writes again."""
    given = np.arange(163)[None] % 9 + 1
    given[:, 81] = 10
    places = SOLUTION.start + np.arange(3)
    canvases = [given.copy() for _ in range(4)]
    canvases[0][0, places] = MASK_ID
    canvases[1][0, places] = 4
    canvases[2][0, places] = (5, MASK_ID, 4)
    canvases[3][0, places] = (5, 6, 4)
    return run_of(canvases)


def test_a_change_is_seen_coming_where_a_doubt_about_the_digit_came_before_it() -> None:
    run, start = revising(), SOLUTION.start
    truth = run.tokens(-1)
    seen = verdict_of(run, [claim(0, 1, start, 4, "excluded", sound=True)], truth)
    assert seen["revisions_seen", ""].hits.tolist() == [1]
    assert seen["revisions_seen", ""].of.tolist() == [2]
    assert seen["idle_doubts", ""].hits.tolist() == [0]
    idle = verdict_of(run, [claim(0, 1, start + 2, 4, "excluded", sound=False)], truth)
    assert (idle["revisions_seen", ""].hits.tolist(), idle["idle_doubts", ""].hits.tolist()) == ([0], [1])
    late = verdict_of(run, [claim(0, 2, start, 4, "contradicted")], truth)
    assert late["revisions_seen", ""].hits.tolist() == [0]


def test_a_cell_masked_again_counts_as_written_twice() -> None:
    verdict = verdict_of(revising(), [], revising().tokens(-1))
    assert verdict["coverage", ""].of.tolist() == [4]


def test_what_comes_next_is_graded_by_what_the_next_call_writes() -> None:
    first = np.flatnonzero(WRITTEN[0, 1])
    later = np.flatnonzero(WRITTEN[0, 2])
    said = Statement(0, 1, "next", "planted", (int(first[0]), int(later[0])), "", ())
    verdict = verdict_of(RUN, [said], TRUTH)
    assert (verdict["next_precision", ""].hits[0], verdict["next_precision", ""].of[0]) == (1, 2)
    assert (verdict["next_recall", ""].hits[0], verdict["next_recall", ""].of[0]) == (1, WRITTEN[0, 1:].sum())


def test_boards_in_chunks_are_graded_as_boards_at_once() -> None:
    whole = verdict_of(RUN, perfect(), TRUTH)
    parts = []
    for rows in (range(2), range(2, 6)):
        said = [replace(one, sample=one.sample - rows.start) for one in perfect() if one.sample in rows]
        parts.append(verdict_of(RUN.select(rows), said, TRUTH[list(rows)]))
    again = joined(parts)
    assert whole.keys() == again.keys()
    for key, tally in whole.items():
        assert (tally.hits == again[key].hits).all(), key
        assert (tally.of == again[key].of).all(), key


def test_intervals_resample_boards() -> None:
    """Saying everything ten times makes no figure surer, and a share of exactly 1 is not certain."""
    tally = Tally(np.array([3.0, 8.0, 5.0, 0.0]), np.array([10.0, 10.0, 10.0, 0.0]))
    many = Tally(tally.hits * 10, tally.of * 10)
    assert tally.estimate(1) == many.estimate(1)
    assert tally.estimate(1).n == 3
    sure = Tally(np.full(4, 50.0), np.full(4, 50.0)).estimate(0)
    assert (sure.value, sure.high, sure.n) == (1, 1, 4)
    assert sure.low < 0.6


def test_an_account_costs_nothing_against_itself_and_pairs_are_sharper_than_apart() -> None:
    rng = np.random.default_rng(0)
    of = np.full(40, 50.0)
    hard = rng.integers(0, 50, 40).astype(float)
    one, other = Tally(hard, of), Tally(np.minimum(hard + 2, of), of)
    same = difference(one, one, 0)
    assert (same.value, same.low, same.high, same.n) == (0, 0, 0, 40)
    less = difference(one, other, 0)
    assert less.high < 0 <= one.estimate(0).high - other.estimate(0).low


def test_every_measure_becomes_a_statistic_with_its_floor_marked() -> None:
    full = verdict_of(RUN, perfect(), TRUTH, support={"decided": "decisive"})
    graded = [Graded({"account": name, "policy": "waves"}, full) for name in ("ar", "random")]
    layout = Layout((), ("account",), "policy", {"random": "floor", "tokens": "floor"}, "How.")
    found: dict[str, Statistic] = {one.name: one for one in verdicts(graded, layout, 0)}
    assert set(found) == {*MEASURES, *(f"{name}_by_lead" for name in BY_LEAD)} - {"revisions_seen"}
    assert found["sound"].roles == {"random": "floor"}
    assert found["decided_run_by_lead"].x == "lead"
    assert found["supported"].at(account="ar").value == 0
    assert all(one.at(account="ar").n == 6 for name, one in found.items() if name in SHARES)
