"""What holds for every policy: what it does with given scores."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from turns import MASK, scores_of, some_turn, streams, turn_of

from models.turn import Move, PolicyError, Scores, Turn
from models.unmasking import POLICIES, policy_options, resolve_policy


def row_of(turn: Turn, row: int, seed: int) -> Turn:
    """Returns one row of ``some_turn`` on its own, with its own random numbers."""
    one = slice(row, row + 1)
    values = {name: getattr(turn, name)[one] for name in ("tokens", "masked", "writable", "written_with", "step")}
    scores = Scores(*(getattr(turn.scores, name)[one] for name in ("proposal", "confidence", "margin", "entropy")))
    steps = None if turn.steps is None else turn.steps[one]
    return Turn(scores=scores, steps=steps, uniform=streams(range(row, row + 1), turn.masked.shape[1], seed), **values)


def canvas_after(turn: Turn, move: Move) -> Tensor:
    canvas = torch.where(move.write, turn.scores.proposal, turn.tokens)
    if move.remask is not None:
        canvas = canvas.masked_fill(move.remask, MASK)
    return canvas if move.redraw is None else canvas.masked_fill(move.redraw, 10)


def more_of(move: Move) -> Tensor:
    return torch.zeros(len(move.write), dtype=torch.bool) if move.more is None else move.more


def sure_of(confidence: list[list[float]]) -> Scores:
    """Returns scores that propose token 0 everywhere, sorted alike by confidence, margin and entropy."""
    values = torch.tensor(confidence)
    return Scores(torch.zeros(values.shape, dtype=torch.long), values, values, 1 - values)


def where(chosen: Tensor | None) -> list[list[int]]:
    assert chosen is not None
    return [torch.nonzero(row).flatten().tolist() for row in chosen]


ORDERS = {
    "random": lambda turn: turn.uniform(),
    "low_confidence": lambda turn: turn.scores.confidence,
    "maskgit_plus": lambda turn: turn.scores.confidence,
    "topk_margin": lambda turn: turn.scores.margin,
    "entropy": lambda turn: -turn.scores.entropy,
    "sequential": lambda turn: -torch.arange(float(turn.masked.shape[1])).expand(turn.masked.shape),
    "threshold": lambda turn: turn.scores.confidence,
    "factor": lambda turn: turn.scores.confidence,
    "low_confidence_static": lambda turn: turn.scores.confidence,
    "low_confidence_dynamic": lambda turn: turn.scores.confidence,
    "entropy_bounded": lambda turn: -turn.scores.entropy,
}
"""Policies that write each masked position once and take nothing back, and what they put first."""
SURE: dict[str, dict[str, float]] = {
    "threshold": {"threshold": 1.0},
    "factor": {"factor": 0.0},
    "low_confidence_dynamic": {"threshold": 1.0},
    "entropy_bounded": {"entropy_bound": 0.0},
}
"""Of these, the ones that may write more than their quota, with options that keep them from it."""
REWRITING = ["mgdm", "remdm_cap", "remdm_rescale", "remdm_conf", "remdm_loop", "token_editing", "uniform_renoise"]
CLOCKED = {
    "ddpm": 128,
    "ddpm_cache": 128,
    "mgdm": 20,
    **dict.fromkeys((name for name in POLICIES if "remdm" in name), 128),
    "uniform_renoise": 48,
}
"""Policies that have a number of steps of their own where there is no budget."""
sizes = {"batch": st.integers(1, 4), "pos": st.integers(1, 9), "seed": st.integers(0, 999)}
few = settings(max_examples=25)
clocks = st.lists(st.integers(1, 12), min_size=4, max_size=4)


def test_every_policy_is_of_a_known_kind() -> None:
    assert set(POLICIES) == {*ORDERS, *REWRITING, "ddpm", "ddpm_cache"}


@pytest.mark.parametrize("name", POLICIES)
@few
@given(**sizes, step=clocks, steps=st.none() | clocks)
def test_a_policy_touches_only_what_is_writable_and_each_position_once(
    name: str, batch: int, pos: int, seed: int, step: list[int], steps: list[int] | None
) -> None:
    turn = some_turn(batch, pos, seed, step=step[:batch], steps=steps and steps[:batch])
    move = POLICIES[name](turn)
    touched = [chosen for chosen in (move.write, move.remask, move.redraw) if chosen is not None]
    assert not (torch.stack(touched).any(0) & ~turn.writable).any()
    assert torch.stack(touched).sum(0).max() <= 1


@pytest.mark.parametrize("name", POLICIES)
@few
@given(**sizes, steps=clocks, late=st.integers(0, 3))
def test_the_last_step_of_a_budget_leaves_nothing_masked(name: str, batch: int, pos: int, seed: int, steps: list[int], late: int) -> None:
    budget = torch.tensor(steps[:batch])
    turn = some_turn(batch, pos, seed, step=budget + late, steps=budget)
    move = POLICIES[name](turn)
    assert not more_of(move).any()
    assert not (canvas_after(turn, move) == MASK).any()


@pytest.mark.parametrize("name", POLICIES)
@few
@given(**sizes, step=clocks, steps=st.none() | clocks)
def test_a_row_does_not_depend_on_the_others(name: str, batch: int, pos: int, seed: int, step: list[int], steps: list[int] | None) -> None:
    def turn() -> Turn:
        return some_turn(batch, pos, seed, step=step[:batch], steps=steps and steps[:batch])

    together = POLICIES[name](turn())
    for row in range(batch):
        alone = POLICIES[name](row_of(turn(), row, seed))
        for part in ("write", "remask", "redraw", "more", "steps"):
            whole, one = getattr(together, part), getattr(alone, part)
            assert (whole is None) == (one is None)
            assert whole is None or torch.equal(whole[row : row + 1], one)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("steps", [None, [1, 2, 7, 30]])
def test_a_run_ends_within_its_budget_or_its_own_number_of_steps(name: str, steps: list[int] | None) -> None:
    pos, generator, uniform = 9, torch.Generator().manual_seed(0), streams(range(4), 9, 1)
    tokens, step, active = torch.full((4, pos), MASK), torch.ones(4, dtype=torch.long), torch.ones(4, dtype=torch.bool)
    own = {"token_editing": pos + 16} | CLOCKED
    allowed = torch.tensor(steps or [own.get(name, pos)] * 4)
    while active.any():
        scores = scores_of(4 * torch.randn(4, pos, 11, generator=generator))
        known = torch.where(tokens == MASK, math.nan, 0.5)
        every = torch.ones_like(tokens, dtype=torch.bool)
        turn = turn_of(scores, tokens == MASK, step=step, steps=steps, writable=every, tokens=tokens, written_with=known, uniform=uniform)
        move = POLICIES[name](turn)
        assert (step[active] <= allowed[active]).all()
        tokens = torch.where(active[:, None], canvas_after(turn, move), tokens)
        step = step + (1 if move.steps is None else move.steps)
        active &= (tokens == MASK).any(1) | more_of(move)
    assert not (tokens == MASK).any()


@pytest.mark.parametrize("name", ORDERS)
@few
@given(**sizes, step=clocks, steps=st.none() | clocks)
def test_a_filling_policy_takes_masked_positions_and_its_quota(
    name: str, batch: int, pos: int, seed: int, step: list[int], steps: list[int] | None
) -> None:
    turn = some_turn(batch, pos, seed, step=step[:batch], steps=steps and steps[:batch])
    move = POLICIES[name](turn)
    assert (move.remask, move.redraw, move.more, move.steps) == (None, None, None, None)
    assert not (move.write & ~turn.masked).any()
    written = move.write.sum(1)
    assert (written >= turn.quota).all() if name in SURE else torch.equal(written, turn.quota)


@given(masked=st.integers(1, 40), step=st.integers(1, 50), steps=st.none() | st.integers(1, 50))
def test_the_quota_is_what_is_left_over_the_steps_that_are_left(masked: int, step: int, steps: int | None) -> None:
    quota = int(turn_of(sure_of([[0.5] * masked]), torch.ones(1, masked, dtype=torch.bool), step=step, steps=steps).quota)
    assert quota == (1 if steps is None else math.ceil(masked / max(1, steps - step + 1)))


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("steps", [None, 1, [1, 2, 3]])
def test_a_policy_takes_the_first_of_its_order(name: str, seed: int, steps: Any) -> None:
    turn = some_turn(3, 8, seed, steps=steps)
    chosen = where(POLICIES[name](turn, **SURE.get(name, {})).write)
    for row, order in enumerate(ORDERS[name](some_turn(3, 8, seed, steps=steps))):
        masked = torch.nonzero(turn.masked[row]).flatten().tolist()
        best = sorted(masked, key=lambda position: -float(order[position]))[: int(turn.quota[row])]
        assert chosen[row] == sorted(best)


@pytest.mark.parametrize("name", sorted(set(ORDERS) - {"random"}))
def test_ties_go_to_the_leftmost(name: str) -> None:
    masked = torch.tensor([[False, True, True, False, True, True]])
    chosen = POLICIES[name](turn_of(sure_of([[0.5] * 6]), masked, steps=2), **SURE.get(name, {})).write
    assert where(chosen) == [[1, 2]]


def test_an_unknown_policy_or_option_names_the_choices() -> None:
    with pytest.raises(PolicyError, match=r"unknown policy 'greedy'; choose from random, low_confidence, maskgit_plus"):
        resolve_policy("greedy", {})
    with pytest.raises(PolicyError, match="policy 'threshold' has no option 'tau'; it has threshold"):
        resolve_policy("threshold", {"tau": 0.5})
    with pytest.raises(PolicyError, match="policy 'random' has no option 'k'; it has none"):
        resolve_policy("random", {"k": 1.0})


@pytest.mark.parametrize("name", POLICIES)
def test_options_are_filled_in(name: str) -> None:
    assert resolve_policy(name, {}) == policy_options(name)
    assert policy_options("threshold") == {"threshold": 0.9999}
    assert resolve_policy("mgdm", {"noise": 0.5}) == {"calls": 20, "noise": 0.5}


def test_options_become_numbers_of_the_kind_of_their_defaults() -> None:
    found = resolve_policy("mgdm", {"calls": 20.0, "noise": 1})
    assert [type(value) for value in found.values()] == [int, float]
    for value in (2.5, math.nan, math.inf):
        with pytest.raises(PolicyError, match=f"calls is {value}; it must be a whole number"):
            resolve_policy("ddpm", {"calls": value})


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_says_what_it_returns_and_where_it_was_published(name: str) -> None:
    said = POLICIES[name].__doc__ or ""
    assert said.startswith("Returns ")
    assert any(word in said for word in ("25", "24", "26", "DiffusionGemma", "remdm_cap"))
