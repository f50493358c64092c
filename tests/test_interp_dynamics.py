"""What the figures of a run say of runs whose course is known, and that they agree with scipy and scikit-learn."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kendalltau, rankdata
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from interp import dynamics
from interp.dynamics import DynamicsError
from models.recorder import Recorder
from models.trajectory import Trajectory

M = 9
ATTRIBUTES = {"model": "m", "fingerprint": "m:0", "task": "", "policy": "by hand", "options": "{}", "seed": 0}
Canvases = list[list[list[int]]]


def run(samples: Canvases, proposals: Canvases | None = None, **spoken: list) -> Trajectory:
    """Returns the trajectory of samples, each a list of canvases that starts with the first; calls propose the next canvas unless told."""
    longest = max(len(canvases) for canvases in samples)
    first = np.array([canvases[0] for canvases in samples])
    recorder = Recorder(first, first == M, M)
    for step in range(1, longest):
        rows = np.array([row for row, canvases in enumerate(samples) if step < len(canvases)])
        canvas = np.array([samples[row][step] for row in rows])
        proposal = canvas if proposals is None else np.array([proposals[row][step - 1] for row in rows])
        said = {name: np.array([values[row][step - 1] for row in rows]) for name, values in spoken.items()}
        recorder.add(rows, canvas, {"proposal": proposal.astype(np.int32), **said})
    trajectory = recorder.finish(ATTRIBUTES)
    assert trajectory is not None
    return trajectory


def in_order(order: list[int], width: int | None = None) -> list[list[int]]:
    """Returns the canvases of a run that writes one position a step, in this order."""
    canvas = [M] * (width or len(order))
    canvases = [canvas.copy()]
    for place in order:
        canvas[place] = place % 8
        canvases.append(canvas.copy())
    return canvases


# A prompt, one written once, one written, masked again and written with another token, one masked at the end; a second sample that
# finishes after one call and is a position shorter.
REVISED = [[3, M, M, M], [3, 5, M, 7], [3, 5, 6, M], [3, 5, 2, M]]
SHORT = [[3, M, M, -1], [3, 1, 2, -1]]


# Any runs at all: positions are written, rewritten and masked as chance has it.
HISTORIES = st.tuples(st.integers(1, 4), st.integers(2, 6), st.integers(1, 5)).flatmap(
    lambda shape: arrays(np.int64, shape, elements=st.sampled_from([0, 1, 2, M]))
)


@settings(max_examples=40)
@given(HISTORIES)
def test_finalised_positions_never_fall_and_are_those_not_masked_at_the_end(canvases: np.ndarray) -> None:
    trajectory = run(canvases.tolist())
    curve = dynamics.finalised_curve(trajectory)
    may = dynamics.writable(trajectory)
    some = may.any(axis=1)
    assert (np.diff(curve[some], axis=1) >= 0).all()
    assert np.isnan(curve[~some]).all()
    left = (trajectory.tokens(-1) == M) & may
    np.testing.assert_allclose(curve[some, -1], 1 - left[some].sum(1) / may[some].sum(1))
    np.testing.assert_array_equal(curve[:, -1], dynamics.written_curve(trajectory)[:, -1])
    assert (curve[some] <= dynamics.written_curve(trajectory)[some]).all()


def test_curves_of_a_run_known_by_hand() -> None:
    trajectory = run([REVISED, SHORT])
    np.testing.assert_allclose(dynamics.finalised_curve(trajectory), [[0, 1 / 3, 1 / 3, 2 / 3], [0, 1, 1, 1]])
    np.testing.assert_allclose(dynamics.written_curve(trajectory), [[0, 2 / 3, 2 / 3, 2 / 3], [0, 1, 1, 1]])
    nan = np.nan
    np.testing.assert_array_equal(dynamics.commit_steps(trajectory), [[nan, 1, 3, nan], [nan, 1, 1, nan]])
    np.testing.assert_array_equal(dynamics.finalisation_ranks(trajectory), [[nan, 1, 2, nan], [nan, 1.5, 1.5, nan]])
    assert dynamics.final_tokens(trajectory).tolist() == [[-1, 5, 2, -1], [-1, 1, 2, -1]]


@settings(max_examples=25)
@given(st.permutations(range(8)))
def test_tau_is_scipys_and_of_a_reversed_order_the_negative(order: list[int]) -> None:
    trajectory = run([in_order(list(order))])
    when = dynamics.commit_steps(trajectory)[0]
    expected = kendalltau(when, np.arange(8)).statistic
    assert dynamics.left_to_right(trajectory)[0] == pytest.approx(expected)
    assert dynamics.order_agreement(trajectory, np.arange(8)[None, ::-1])[0] == pytest.approx(-expected)
    assert dynamics.order_agreement(trajectory, when[None])[0] == pytest.approx(1)
    np.testing.assert_array_equal(dynamics.finalisation_ranks(trajectory)[0], rankdata(when))


def test_a_run_from_left_to_right_agrees_fully_and_is_local() -> None:
    trajectory = run([in_order(list(range(9)))])
    assert dynamics.left_to_right(trajectory).tolist() == [1]
    np.testing.assert_allclose(dynamics.locality(trajectory), 3 / 10)
    assert dynamics.parallelism(trajectory).tolist() == [1]


def test_undefined_places_of_a_reference_do_not_count() -> None:
    trajectory = run([in_order([0, 1, 2, 3])])
    for undefined in (np.nan, -1):
        assert dynamics.order_agreement(trajectory, np.array([[0, 1, undefined, 2]])).tolist() == [1]
        assert np.isnan(dynamics.order_agreement(trajectory, np.array([[0, undefined, undefined, undefined]]))).all()
    assert np.isnan(dynamics.order_agreement(trajectory, np.zeros((1, 4)))).all()


def test_a_reference_of_another_shape_is_refused() -> None:
    with pytest.raises(DynamicsError, match=r"the reference has shape \(1, 5\); the trajectory has \(1, 4\)"):
        dynamics.order_agreement(run([in_order([0, 1, 2, 3])]), np.zeros((1, 5)))


def test_writing_everything_at_once_is_global_and_parallel() -> None:
    trajectory = run([[[M] * 6, [1] * 6]])
    np.testing.assert_allclose(dynamics.locality(trajectory), 1)
    assert dynamics.parallelism(trajectory).tolist() == [6]
    assert np.isnan(dynamics.left_to_right(trajectory)).all()


def test_random_orders_are_global_on_average() -> None:
    shuffled = np.random.default_rng(0)
    trajectory = run([in_order(shuffled.permutation(12).tolist()) for _ in range(400)])
    assert dynamics.locality(trajectory).mean() == pytest.approx(1, abs=0.02)
    assert dynamics.left_to_right(trajectory).mean() == pytest.approx(0, abs=0.03)


@settings(max_examples=20)
@given(st.lists(st.integers(1, 3), min_size=2, max_size=6))
def test_the_locality_of_ties_is_the_mean_over_their_orders(steps: list[int]) -> None:
    when = np.array(steps)
    orders = np.array(list(itertools.permutations(range(len(steps)))))
    allowed = orders[(np.diff(when[orders], axis=1) >= 0).all(axis=1)]
    at_random, found = (np.abs(np.diff(some, axis=1)).mean() for some in (orders, allowed))
    canvases = [np.where(when <= step, 1, M).tolist() for step in range(4)]
    np.testing.assert_allclose(dynamics.locality(run([canvases])), found / at_random)


def test_samples_that_write_nothing_have_no_order() -> None:
    trajectory = run([[[1, M], [1, M]], [[1, 2], [1, 2]]])
    for figure in (dynamics.left_to_right, dynamics.locality, dynamics.parallelism):
        assert np.isnan(figure(trajectory)).all()
    np.testing.assert_array_equal(dynamics.finalised_curve(trajectory), [[0, 0], [np.nan, np.nan]])


@settings(max_examples=25)
@given(st.permutations(range(6)))
def test_a_run_that_never_revises_has_an_empty_census(order: list[int]) -> None:
    trajectory = run([in_order(list(order), 7)], [[list(range(7))] * 6])
    found = dynamics.census(trajectory)
    assert not found.rewritten.any()
    assert not found.remasked.any()
    assert not found.flipped.any()


def test_the_census_of_a_run_known_by_hand() -> None:
    canvases = [[3, M, M], [3, 5, M], [3, M, M], [3, 6, M], [3, 5, M], [3, 5, 1]]
    proposals = [[9, 5, 7], [9, 6, 7], [9, 6, 8], [9, 5, 7], [9, 5, 1]]
    found = dynamics.census(run([canvases], [proposals]))
    assert found.rewritten.tolist() == [[0, 2, 0]]
    assert found.remasked.tolist() == [[0, 1, 0]]
    assert found.flipped.tolist() == [[0, 0, 3]]


def test_turns_tell_right_from_wrong() -> None:
    canvases = [[M, M, M, M], [1, 2, 3, 4], [2, 1, 5, 5], [2, 1, 3, 5]]
    solution = np.array([[1, 1, 8, -1]])
    found = dynamics.turns(run([canvases]), solution)
    assert (found.right_to_wrong.tolist(), found.wrong_to_right.tolist(), found.wrong_to_wrong.tolist()) == ([1], [1], [2])
    proposals = [[5, 1, 1, 0], [6, 2, 1, 1], [1, 2, 1, 2]]
    flips = dynamics.turns(run([[[M] * 4] * 4], [proposals]), solution, of="proposed")
    assert (flips.right_to_wrong.tolist(), flips.wrong_to_right.tolist(), flips.wrong_to_wrong.tolist()) == ([1], [1], [1])


@settings(max_examples=40)
@given(HISTORIES, st.sampled_from(["written", "proposed"]))
def test_turns_add_up_to_the_census(canvases: np.ndarray, of: str) -> None:
    trajectory = run(canvases.tolist())
    solution = np.zeros((trajectory.n_samples, trajectory.data.sizes["position"]), np.int64)
    found, counted = dynamics.turns(trajectory, solution, of=of), dynamics.census(trajectory)
    total = counted.rewritten if of == "written" else counted.flipped
    np.testing.assert_array_equal(found.right_to_wrong + found.wrong_to_right + found.wrong_to_wrong, total.sum(axis=1))


def test_confidence_is_that_of_the_call_that_wrote_the_final_token() -> None:
    nan = math.nan
    said = [[[nan, 0.9, 0.3, 0.2], [nan, 0.8, 0.4, 0.1], [nan, 0.7, 0.5, 0.6]], [[nan, 0.25, 0.75, nan]]]
    trajectory = run([REVISED, SHORT], confidence=said)
    found = dynamics.rated(trajectory, np.array([[3, 5, 6, 7], [3, 1, -1, -1]]))
    np.testing.assert_allclose(found.confidence, [0.9, 0.5, 0.25])
    assert found.right.tolist() == [True, False, True]
    assert found.sample.tolist() == [0, 0, 1]


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=60), st.integers(1, 12))
def test_reliability_is_scikit_learns(rows: list[tuple[int, bool]], n_bins: int) -> None:
    confidence, right = np.array([row[0] / 20 for row in rows]), np.array([row[1] for row in rows])
    table = dynamics.reliability(confidence, right, n_bins=n_bins)
    filled = table.n > 0
    came, said = calibration_curve(right, confidence, n_bins=n_bins) if 0 < right.sum() < len(right) else (None, None)
    if came is not None:
        np.testing.assert_allclose(table.right[filled], came)
        np.testing.assert_allclose(table.confidence[filled], said)
    assert dynamics.brier(confidence, right) == pytest.approx(brier_score_loss(right, confidence, labels=[False, True]))
    assert 0 <= table.error <= 1


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(1, 8), st.randoms(use_true_random=False))
def test_bins_of_equal_mass_do_not_depend_on_the_order_of_rows(values: list[int], n_bins: int, shuffle) -> None:
    confidence, right = np.array(values) / 6, np.array(values) % 2 == 0
    order = np.array(shuffle.sample(range(len(values)), len(values)))
    table = dynamics.reliability(confidence, right, n_bins=n_bins, bins="mass")
    again = dynamics.reliability(confidence[order], right[order], n_bins=n_bins, bins="mass")
    np.testing.assert_array_equal(table.n, again.n)
    assert table.n.sum() == len(values)
    assert table.error == pytest.approx(again.error)


def test_bins_of_equal_mass_are_equal_without_ties() -> None:
    confidence = np.random.default_rng(0).random(30)
    assert dynamics.reliability(confidence, confidence > 0.5, n_bins=5, bins="mass").n.tolist() == [6] * 5


@pytest.mark.parametrize("bins", ["width", "mass"])
def test_the_calibration_error_of_calibrated_confidence_vanishes(bins: str) -> None:
    random = np.random.default_rng(0)
    confidence = random.random(200_000)
    right = random.random(200_000) < confidence
    assert dynamics.reliability(confidence, right, bins=bins).error < 0.01
    assert dynamics.reliability(confidence, ~right, bins=bins).error > 0.4
    assert dynamics.brier(confidence, right) == pytest.approx(1 / 6, abs=0.005)


def test_sure_and_wrong_is_the_worst_calibration() -> None:
    assert dynamics.reliability(np.ones(4), np.zeros(4, bool)).error == 1
    assert dynamics.brier(np.ones(4), np.zeros(4, bool)) == 1


@pytest.mark.parametrize(("confidence", "n_bins"), [([], 10), ([0.5], 0), ([1.5], 10), ([math.nan], 10)])
def test_what_is_no_probability_is_refused(confidence: list[float], n_bins: int) -> None:
    with pytest.raises(DynamicsError, match="confidences in 0 to 1"):
        dynamics.reliability(np.array(confidence), np.ones(len(confidence), bool), n_bins=n_bins)


def early_run() -> Trajectory:
    """Returns a run whose first sample proposes its end, loses it and has it again; the second is done after one call."""
    first = [[3, M, M, M], [3, 5, M, M], [3, 5, 6, M], [3, 5, 6, 7]]
    return run([first, [[3, M, M, -1], [3, 1, 2, -1]]], [[[0, 5, 6, 7], [0, 5, 6, 8], [0, 5, 6, 7]], [[0, 1, 2, 0]]])


def test_early_answers_of_a_run_known_by_hand() -> None:
    trajectory = early_run()
    found = dynamics.early_answer(trajectory)
    nan = np.nan
    np.testing.assert_allclose(found.positions, [[nan, 1, 2 / 3, 1], [nan, 1, 1, 1]])
    np.testing.assert_array_equal(found.whole, [[nan, 1, 0, 1], [nan, 1, 1, 1]])
    assert found.first.tolist() == [1, 1]
    np.testing.assert_allclose(dynamics.area_over(found.whole, trajectory.calls), [1 / 3, 0])
    assert dynamics.completed(trajectory)[0].tolist() == [[3, -1, -1, -1], [3, 5, 6, 7], [3, 5, 6, 8], [3, 5, 6, 7]]


def test_early_answers_against_a_solution_and_among_some_positions() -> None:
    trajectory = early_run()
    solution = np.array([[3, 5, 4, 8], [3, 1, 2, -1]])
    found = dynamics.early_answer(trajectory, solution)
    np.testing.assert_allclose(found.positions[0, 1:], [1 / 3, 2 / 3, 1 / 3])
    assert found.first.tolist() == [-1, 1]
    last = np.array([[False, False, False, True], [False, False, True, False]])
    assert dynamics.early_answer(trajectory, solution, last).first.tolist() == [2, 1]


@settings(max_examples=40)
@given(HISTORIES)
def test_a_run_ends_with_its_own_answer(canvases: np.ndarray) -> None:
    trajectory = run(canvases.tolist())
    found = dynamics.early_answer(trajectory)
    some = (dynamics.final_tokens(trajectory) >= 0).any(axis=1)
    assert (found.whole[some, -1] == 1).all()
    area = dynamics.area_over(found.whole, trajectory.calls)[some]
    assert ((area >= 0) & (area < 1)).all()


def test_early_answers_are_unknown_where_proposals_are() -> None:
    found = dynamics.early_answer(run([[[M, M], [1, M], [1, 2]]], [[[1, -1], [1, 2]]]))
    np.testing.assert_array_equal(found.whole, [[np.nan, np.nan, 1]])


def test_no_calls_have_no_area() -> None:
    assert np.isnan(dynamics.area_over(np.ones((1, 3)), np.array([0]))).all()


def test_final_ranks_of_a_run_known_by_hand() -> None:
    top = [[[[0, 0], [4, 5], [1, 2]], [[0, 0], [5, 4], [6, 2]]]]
    top = [[np.array(step, np.int32) for step in sample] for sample in top]
    trajectory = run([[[3, M, M], [3, 5, M], [3, 5, 6]]], top_token=top)
    assert dynamics.final_ranks(trajectory).tolist() == [[[-1, -1, -1], [-1, 1, 2], [-1, 0, 0]]]


def test_ranks_without_a_record_say_how_to_record() -> None:
    with pytest.raises(DynamicsError, match="`top_k` is 1 or greater"):
        dynamics.final_ranks(early_run())
