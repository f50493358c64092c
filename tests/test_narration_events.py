"""Events of planted claims: each kind once, where and when it was planted, and leads counted in calls."""

from __future__ import annotations

import numpy as np
import pytest
from planted_runs import perfect_reading, run_of, wave_run

from interp.narration import Claims, Event, claims_of, events, leads_of
from interp.narration.sudoku import SPOKEN
from models.tasks.sudoku.generator import generate
from models.tasks.sudoku.task import MASK_ID, SOLUTION, SUDOKU
from models.trajectory import Trajectory

PUZZLE = generate(1, "naked_singles", seed=11)
PROMPT = SUDOKU.prompt(PUZZLE).numpy()
OPEN = np.flatnonzero(PUZZLE.givens[0] == 0).tolist()
A, B = OPEN[:2]
"""Two cells; everything else is written by the first call."""
HEADS = tuple("123456789")


def run_writing(*steps: dict[int, int]) -> Trajectory:
    """Returns the run of one board that starts with A and B unwritten and sets these cells in each call; 0 takes one back."""
    first = SUDOKU.encode(PUZZLE).numpy()
    first[0, [SOLUTION.start + A, SOLUTION.start + B]] = MASK_ID
    canvases = [first]
    for written in steps:
        canvases.append(canvases[-1].copy())
        for cell, digit in written.items():
            canvases[-1][0, SOLUTION.start + cell] = digit or MASK_ID
    return run_of(canvases)


def claims(run: Trajectory, read: dict[int, list[int]], *, exclusive: bool = True, sure: float = 0.9) -> Claims:
    """Returns claims of A and B: by cell, the digit that each call reads there, 0 for none."""
    probability = np.full((1, run.n_steps + 1, 2, 9), 0.1, np.float32)
    probability[:, 0] = np.nan
    for place, cell in enumerate((A, B)):
        for step, digit in enumerate(read.get(cell, []), start=1):
            if digit:
                probability[0, step, place, digit - 1] = sure
    positions = np.array([SOLUTION.start + A, SOLUTION.start + B])
    claimed = np.nan_to_num(probability) > 0.5
    return Claims(run, "reader", "point", exclusive, HEADS, positions, probability, claimed, SPOKEN)


def told(found: Claims, cell: int = A, *kinds: str) -> list[tuple[int, str, str | None, int | None]]:
    """Returns (step, kind, head, lead) of what happened to a cell, of all kinds unless some are named."""
    here = [event for event in events(found) if event.position == SOLUTION.start + cell]
    return [(event.step, event.kind, event.head, event.lead) for event in here if not kinds or event.kind in kinds]


RUN = run_writing({}, {}, {A: 5}, {B: 7})


def test_what_is_claimed_until_it_is_written_is_decided_once_and_justified() -> None:
    found = claims(RUN, {A: [0, 5, 5]})
    assert told(found, A, "readable", "decided", "committed", "justified", "lost", "contradicted") == [
        (2, "readable", "5", 1),
        (2, "decided", "5", 1),
        (3, "committed", "5", 1),
        (3, "justified", "5", 1),
    ]


def test_what_is_claimed_in_the_call_that_writes_it_is_justified_and_was_not_decided() -> None:
    assert told(claims(RUN, {A: [0, 0, 5]}), A, "decided", "committed", "justified") == [(3, "committed", "5", 0), (3, "justified", "5", 0)]


def test_a_claim_that_goes_is_lost_and_comes_again() -> None:
    assert told(claims(RUN, {B: [7, 0, 7, 7]}), B, "decided", "lost", "justified") == [
        (1, "decided", "7", 3),
        (2, "lost", "7", 2),
        (3, "decided", "7", 1),
        (4, "justified", "7", 1),
    ]


@pytest.mark.parametrize(
    ("read", "said"),
    [
        ([5, 6, 5], [(2, "contradicted", "5", 1), (3, "contradicted", "6", 0)]),
        ([0, 6, 6], [(3, "contradicted", "6", 0)]),
        ([0, 0, 6], [(3, "contradicted", "6", 0)]),
        ([0, 5, 5], []),
    ],
    ids=["by claims, and by what is written", "by what is written", "in the call that writes", "never"],
)
def test_a_claim_is_contradicted_by_another_claim_or_by_what_is_written(read: list[int], said: list[tuple[int, str, str, int]]) -> None:
    assert told(claims(RUN, {A: read}), A, "contradicted") == said


def test_what_is_claimed_and_never_written_has_no_lead() -> None:
    found = claims(run_writing({B: 7}, {}), {A: [5, 5]})
    assert told(found, A, "decided") == [(1, "decided", "5", None)]
    assert leads_of(found).position.tolist() == [SOLUTION.start + B]


def test_changes_of_written_cells_are_told_apart() -> None:
    found = claims(run_writing({A: 5}, {A: 6}, {A: 0}, {A: 6, B: 7}), {})
    assert told(found, A, "committed", "revised", "remasked") == [
        (1, "committed", "5", 0),
        (2, "revised", "6", None),
        (3, "remasked", "6", None),
        (4, "committed", "6", 0),
    ]


def test_next_is_the_surest_of_the_unwritten_as_many_as_the_call_wrote() -> None:
    found = claims(RUN, {B: [0, 7, 7, 7]})
    assert told(found, B, "next") == [(2, "next", "7", 2), (3, "next", "7", 1)]
    assert [step for step, *_ in told(found, A, "next")] == [1], "in the first call both are read alike"
    both = claims(run_writing({}, {A: 5, B: 7}), {})
    assert len([event for event in events(both) if event.kind == "next"]) == 1


def test_evidence_is_what_was_read_in_that_call() -> None:
    (event,) = (event for event in events(claims(RUN, {A: [0, 5, 5]})) if event.kind == "decided")
    assert isinstance(event, Event)
    (item,) = event.evidence
    assert (item.reader, item.point, item.step, item.position, item.head) == ("reader", "point", 2, SOLUTION.start + A, "5")
    assert item.probability == pytest.approx(0.9)


def test_of_a_concept_that_is_not_exclusive_nothing_is_decided() -> None:
    found = claims(RUN, {A: [5, 6, 5]}, exclusive=False)
    assert {kind for _, kind, *_ in told(found)} == {"readable", "committed", "justified"}
    assert told(found, A, "readable") == [(1, "readable", "5", 2), (2, "readable", "6", 1)]


def test_leads_count_from_the_first_claim_and_from_the_last_unbroken_one() -> None:
    leads = leads_of(claims(RUN, {A: [5, 6, 5], B: [7, 0, 7, 7]}))
    assert leads.position.tolist() == [SOLUTION.start + A, SOLUTION.start + B]
    assert leads.step.tolist() == [3, 4]
    assert leads.first.tolist() == [2, 3]
    assert leads.stable.tolist() == [0, 1]


def test_claims_of_a_reading_are_the_likeliest_heads_above_threshold() -> None:
    run = wave_run(PUZZLE)
    found = claims_of(perfect_reading(run, PUZZLE), "digit", SPOKEN)
    unwritten = run.data["token"].values[:, :-1, SOLUTION] == MASK_ID
    assert (found.claim[:, 1:] == np.where(unwritten, PUZZLE.solutions[:, None] - 1, -1)).all()
    assert (found.claim[:, 0] == -1).all()
    leads = leads_of(found)
    assert (leads.first == leads.step - 1).all()
    assert (leads.stable == leads.first).all()
