"""Each policy alone: the numbers that its paper gives it, by hand."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from turns import MASK, always, some_turn, turn_of

from models.turn import Move, PolicyError, Scores, Turn
from models.unmasking import POLICIES, policy_options


def canvas_after(turn: Turn, move: Move) -> Tensor:
    canvas = torch.where(move.write, turn.scores.proposal, turn.tokens)
    if move.remask is not None:
        canvas = canvas.masked_fill(move.remask, MASK)
    return canvas if move.redraw is None else canvas.masked_fill(move.redraw, 10)


def sure_of(confidence: list[list[float]]) -> Scores:
    """Returns scores that propose token 0 everywhere, sorted alike by confidence, margin and entropy."""
    values = torch.tensor(confidence)
    return Scores(torch.zeros(values.shape, dtype=torch.long), values, values, 1 - values)


def where(chosen: Tensor | None) -> list[list[int]]:
    assert chosen is not None
    return [torch.nonzero(row).flatten().tolist() for row in chosen]


CLOCKED = {
    "ddpm": 128,
    "ddpm_cache": 128,
    "mgdm": 20,
    **dict.fromkeys((name for name in POLICIES if "remdm" in name), 128),
    "uniform_renoise": 48,
}
"""Policies that have a number of steps of their own where there is no budget."""


@pytest.mark.parametrize("name", ["maskgit_plus", "topk_margin", "entropy"])
def test_above_temperature_0_positions_are_drawn_from_the_softmax_of_their_score(name: str) -> None:
    row = [0.9, 0.6, 0.2, 0.99]
    masked = torch.tensor([[True, True, True, False]]).expand(8000, 4)
    chosen = POLICIES[name](turn_of(sure_of([row] * 8000), masked, uniform=lambda: noise), alg_temp=0.5)
    shares = chosen.write.float().mean(0)
    expected = (torch.tensor(row[:3]) / 0.5).softmax(0)
    assert torch.allclose(shares[:3], expected, atol=0.02)
    assert shares[3] == 0


noise = torch.rand(8000, 4, generator=torch.Generator().manual_seed(0))


def test_threshold_takes_all_that_are_as_sure_and_the_best_where_none_is() -> None:
    scores = sure_of([[0.95, 0.2, 0.97, 0.9], [0.1, 0.4, 0.3, 0.2]])
    turn = turn_of(scores, torch.ones(2, 4, dtype=torch.bool))
    assert where(POLICIES["threshold"](turn, threshold=0.95).write) == [[0, 2], [1]]
    assert where(POLICIES["low_confidence_dynamic"](turn, threshold=0.95).write) == [[2], [1]]


def test_low_confidence_dynamic_falls_back_on_the_static_rule() -> None:
    turn = turn_of(sure_of([[0.5, 0.9, 0.3, 0.7]]), torch.ones(1, 4, dtype=torch.bool), steps=2)
    for threshold, written in ((0.8, [1, 3]), (0.4, [0, 1, 3])):
        assert where(POLICIES["low_confidence_dynamic"](turn, threshold=threshold).write) == [written]
    assert where(POLICIES["low_confidence_static"](turn).write) == [[1, 3]]


@pytest.mark.parametrize(("factor", "written"), [(2.01, [0, 1, 2, 3]), (1.0, [0, 1, 3]), (0.16, [1, 3]), (0.1, [3]), (0.01, [3])])
def test_factor_takes_the_most_for_which_the_least_sure_is_sure_enough(factor: float, written: list[int]) -> None:
    """Sorted, (n + 1) (1 - c_n) is 0.02, 0.15, 0.4 and 2."""
    turn = turn_of(sure_of([[0.9, 0.95, 0.6, 0.99]]), torch.ones(1, 4, dtype=torch.bool))
    assert where(POLICIES["factor"](turn, factor=factor).write) == [written]


@pytest.mark.parametrize(("bound", "written"), [(0.3, [0, 1, 2, 3]), (0.1, [0, 1, 2]), (0.05, [0, 1]), (0.0, [1])])
def test_entropies_but_the_largest_sum_to_the_bound_at_most(bound: float, written: list[int]) -> None:
    """Sorted, the sums of those before are 0, 0.04, 0.09 and 0.29."""
    scores = replace(sure_of([[0.5] * 4]), entropy=torch.tensor([[0.05, 0.04, 0.2, 0.3]]))
    turn = turn_of(scores, torch.ones(1, 4, dtype=torch.bool))
    assert where(POLICIES["entropy_bounded"](turn, entropy_bound=bound).write) == [written]
    move = POLICIES["uniform_renoise"](turn, entropy_bound=bound)
    assert where(move.write) == [written]
    assert where(move.redraw) == [[position for position in range(4) if position not in written]]


def test_uniform_renoise_decides_written_positions_anew_until_the_last_step_writes_all() -> None:
    scores, nowhere = sure_of([[1.0, 0.5, 0.4, 1.0]]), torch.zeros(1, 4, dtype=torch.bool)
    first, last = (
        POLICIES["uniform_renoise"](turn_of(scores, nowhere, step=step, steps=5, writable=[[True, True, True, False]])) for step in (4, 5)
    )
    assert (where(first.write), where(first.redraw)) == ([[0, 1]], [[2]])
    assert (where(last.write), where(last.redraw)) == ([[0, 1, 2]], [[]])
    assert (first.more.tolist(), last.more.tolist()) == ([True], [False])


def test_mgdm_masks_the_least_probable_again_whether_or_not_they_were_written() -> None:
    scores = sure_of([[0.9, 0.1, 0.8, 0.3, 0.2, 0.05]])
    masked = torch.tensor([[True, False, True, False, False, False]])
    turn = turn_of(scores, masked, step=2, steps=4, writable=[[True] * 5 + [False]], tokens=[[MASK, 5, MASK, 5, 5, 7]])
    move = POLICIES["mgdm"](turn)
    assert (where(move.write), where(move.remask), move.more.tolist()) == ([[0, 2, 3]], [[1, 4]], [True])
    assert canvas_after(turn, move).tolist() == [[0, MASK, 0, 0, MASK, 7]]


def test_mgdm_without_a_budget_takes_the_papers_20_calls() -> None:
    turn = some_turn(20, 9, 0, step=range(1, 21))
    n, move = turn.writable.sum(1), POLICIES["mgdm"](turn)
    assert torch.equal(move.write.sum(1), n - n * torch.arange(19, -1, -1) // 20)
    assert move.more.tolist() == [True] * 19 + [False]
    assert POLICIES["mgdm"](some_turn(1, 9, 0, step=4), calls=4).more.tolist() == [False]


def test_the_noise_of_mgdm_moves_what_is_masked_and_fades() -> None:
    turns = [some_turn(1, 9, 1, step=step, steps=1000) for step in (500, 500, 990)]
    quiet, loud, late = (POLICIES["mgdm"](turn, noise=noise).write for turn, noise in zip(turns, (0.0, 1e4, 0.5), strict=True))
    assert quiet.sum() == loud.sum()
    assert not torch.equal(quiet, loud)
    assert torch.equal(late, POLICIES["mgdm"](turns[2]).write)


def rates(name: str, step: int, steps: int, **options: float) -> tuple[float, float]:
    """Returns with what probability a policy writes a masked position, and masks a written one again."""
    n = 4000
    masked = torch.arange(2 * n)[None] < n
    grid = ((torch.arange(n) + 0.5) / n).repeat(2)[None]
    every, scores = torch.ones_like(masked), sure_of([[0.5] * (2 * n)])
    move = POLICIES[name](turn_of(scores, masked, step=step, steps=steps, writable=every, uniform=lambda: grid), **options)
    return int(move.write.sum()) / n, 0.0 if move.remask is None else int(move.remask.sum()) / n


@pytest.mark.parametrize(
    ("name", "options", "step", "steps", "write", "remask"),
    [
        ("ddpm", {}, 1, 4, 1 / 4, 0),
        ("ddpm", {}, 3, 4, 1 / 2, 0),
        ("ddpm", {}, 4, 4, 1, 0),
        ("remdm_cap", {"eta": 0.3}, 1, 4, 1 / 4, 0.3),
        ("remdm_cap", {"eta": 0.3}, 2, 4, (0.5 - 0.7 * 0.25) / 0.75, 0.3),
        ("remdm_cap", {"eta": 0.9}, 3, 4, 1, 0.5),
        ("remdm_cap", {"eta": 0.9}, 4, 4, 1, 0),
        ("remdm_cap", {"eta": 1.0}, 1, 1, 1, 0),
        ("remdm_rescale", {"eta": 0.5}, 2, 4, (0.5 - 0.5 * 0.25) / 0.75, 0.5),
        ("remdm_rescale", {"eta": 0.5}, 3, 4, 0.75, 0.25),
        ("remdm_loop", {}, 1, 20, 0.1, 0),
        ("remdm_loop", {}, 9, 20, 0.5, 0),
        ("remdm_loop", {}, 10, 20, 0.02 * 0.9 / 0.1, 0.02),
        ("remdm_loop", {}, 19, 20, 0.02 * 0.9 / 0.1, 0.02),
        ("remdm_loop", {"eta": 0.9}, 12, 20, 1, 0.1 / 0.9),
        ("remdm_loop", {}, 20, 20, 1, 0),
    ],
)
def test_rates_are_those_of_the_paper(name: str, options: dict[str, float], step: int, steps: int, write: float, remask: float) -> None:
    assert rates(name, step, steps, **options) == pytest.approx((write, remask), abs=3e-4)


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 30])
@pytest.mark.parametrize("eta", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("name", ["remdm_cap", "remdm_rescale", "remdm_loop"])
def test_the_share_that_is_written_grows_as_alpha_whatever_is_masked_again(name: str, eta: float, steps: int) -> None:
    share = 0.0
    for step in range(1, steps + 1):
        write, remask = rates(name, step, steps, eta=eta)
        share = share * (1 - remask) + (1 - share) * write
        if name != "remdm_loop":
            assert share == pytest.approx(step / steps, abs=2e-3)
        elif 0.05 <= 1 - step / steps <= 0.55:
            assert share == pytest.approx(0.9, abs=2e-3)
    assert share == 1


def test_remdm_conf_rather_masks_what_was_written_with_little_confidence() -> None:
    """Weights are exp(-0.9) and exp(-0.2) over their sum, 0.3318 and 0.6682; at step 3 of 4 sigma is half of them."""

    def moved(*uniform: float) -> tuple[list[list[int]], list[list[int]]]:
        turn = turn_of(
            sure_of([[0.5] * 4]),
            [[True, False, False, False]],
            step=3,
            steps=4,
            writable=[[True, True, True, False]],
            written_with=[[math.nan, 0.9, 0.2, 0.1]],
            uniform=always(*uniform),
        )
        move = POLICIES["remdm_conf"](turn)
        return where(move.write), where(move.remask)

    assert moved(0.49, 0.165, 0.333, 0.0) == ([[0]], [[1, 2]])
    assert moved(0.51, 0.167, 0.335, 0.0) == ([[]], [[]])


@given(pos=st.integers(1, 9), seed=st.integers(0, 999), step=st.integers(1, 12), steps=st.integers(1, 12))
def test_ddpm_cache_does_what_the_first_step_of_ddpm_that_writes_does(pos: int, seed: int, step: int, steps: int) -> None:
    turn, cached = (some_turn(1, pos, seed, step=step, steps=steps) for _ in range(2))
    passed = 0
    while not (move := POLICIES["ddpm"](replace(turn, step=turn.step + passed))).write.any():
        passed += 1
    leap = POLICIES["ddpm_cache"](cached)
    assert torch.equal(leap.write, move.write)
    assert leap.steps.tolist() == [passed + 1]


@pytest.mark.parametrize(("name", "calls"), CLOCKED.items())
def test_without_a_budget_a_clock_has_the_published_number_of_steps(name: str, calls: int) -> None:
    turn = some_turn(1, 9, 0, step=calls)
    assert not (canvas_after(turn, POLICIES[name](turn)) == MASK).any()
    assert POLICIES[name](some_turn(1, 9, 0, step=7), calls=7).write[turn.masked].all()
    assert policy_options(name)["calls"] == calls


def edited(masked: list[bool], *, step: int, steps: int | None = None, **options: float) -> Move:
    scores = replace(sure_of([[0.8, 0.6, 0.6, 0.4, 0.9]]), proposal=torch.tensor([[1, 2, 3, 4, 5]]))
    tokens = torch.tensor([[9, 9, 3, 9, 9]]).masked_fill(torch.tensor([masked]), MASK)
    writable = [[True, True, True, True, False]]
    return POLICIES["token_editing"](turn_of(scores, [masked], step=step, steps=steps, writable=writable, tokens=tokens), **options)


def test_token_editing_fills_what_is_sure_and_rewrites_what_it_would_now_write_otherwise() -> None:
    move = edited([True, False, False, True, False], step=2)
    assert (where(move.write), move.steps.tolist(), move.more.tolist()) == ([[0, 1]], [1], [True])
    assert where(edited([True, False, False, True, False], step=2, threshold=0.9).write) == [[0, 1]]
    assert where(edited([True, False, False, True, False], step=2, threshold=0.3).write) == [[0, 1, 3]]
    assert where(edited([False] * 5, step=5).write) == [[0, 1]]
    assert where(edited([False] * 5, step=5, editing_threshold=0.6).write) == [[0]]
    assert where(edited([False] * 5, step=5, editing_threshold=0.0).write) == [[0, 1, 3]]


def test_token_editing_ends_where_nothing_is_masked_and_nothing_changes() -> None:
    assert edited([False] * 5, step=5).more.tolist() == [True]
    assert edited([False] * 5, step=5, editing_threshold=0.8).more.tolist() == [False]


@pytest.mark.parametrize("steps", [None, 50])
@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_token_editing_ends_so_many_rounds_after_the_last_mask(steps: int | None, rounds: int) -> None:
    step, turns = 2, 0
    move = edited([True, False, False, False, False], step=step, steps=steps, max_post_steps=rounds)
    while move.more.any():
        step += int(move.steps)
        turns += 1
        move = edited([False] * 5, step=step, steps=steps, max_post_steps=rounds)
    assert turns == rounds


SHARE = "it must lie in 0 to 1"


@pytest.mark.parametrize(
    ("name", "option", "value", "rule"),
    [
        *((name, "calls", value, "it must be at least 1") for name in CLOCKED for value in (0, -3)),
        *((name, "eta", value, SHARE) for name in CLOCKED if "remdm" in name for value in (-0.1, 1.1, math.nan)),
        *(
            (name, "threshold", value, SHARE)
            for name in ("threshold", "low_confidence_dynamic", "token_editing")
            for value in (-0.1, math.nan)
        ),
        *((name, "alg_temp", -1.0, "it must be 0") for name in ("maskgit_plus", "topk_margin", "entropy")),
        *((name, "entropy_bound", value, "it must be 0") for name in ("entropy_bounded", "uniform_renoise") for value in (-1.0, math.nan)),
        ("factor", "factor", -1.0, "it must be 0"),
        ("mgdm", "noise", -1.0, "it must be 0"),
        ("mgdm", "noise", math.nan, "it must be 0"),
        ("token_editing", "editing_threshold", 2.0, SHARE),
        ("token_editing", "max_post_steps", -1, "it must be 0"),
        ("remdm_loop", "t_on", 1.0, "it must be above 0 and below 1"),
        ("remdm_loop", "t_off", 0.55, "it must be above 0 and below t_on, 0.55"),
        ("remdm_loop", "t_off", 0.0, "it must be above 0 and below t_on, 0.55"),
        ("remdm_loop", "alpha_on", 1.0, "it must be above 0 and below 1"),
    ],
)
def test_a_bad_value_of_an_option_is_named_with_its_rule(name: str, option: str, value: float, rule: str) -> None:
    with pytest.raises(PolicyError, match=f"^{option} is {value}; {rule}"):
        POLICIES[name](some_turn(1, 3, 0), **{option: value})
