"""Stopping a run at any step, changing it, and going on."""

import inspect
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from models.decoding import Decoding, Stopping
from models.denoise import denoise
from models.hookpoints import resid_post
from models.language_model import LanguageModel
from models.prompt import PromptError, padded
from models.recorder import Record
from models.trajectory import State, Trajectory
from models.trajectory_store import TrajectoryError
from models.turn import PolicyError
from models.unmasking import POLICIES, policy_options

MASK = 11
TOKENS = torch.tensor([[1, MASK, 2, MASK, MASK, MASK, 3, MASK, MASK, MASK], [4, 5, MASK, MASK, 6, MASK, MASK, 7, 8, MASK]])
CALLS = {name: {"calls": 7} for name in POLICIES if "calls" in policy_options(name)}


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Any]) -> LanguageModel:
    found: LanguageModel = tiny_model()
    return found


DECODINGS = {
    **{name: Decoding(name, CALLS.get(name, {}), temperature=1.0, seed=3) for name in POLICIES},
    "blocks": Decoding("low_confidence", block_length=3, steps=5),
    "guidance": Decoding("threshold", {"threshold": 0.15}, guidance=0.7),
    "nucleus": Decoding("random", temperature=1.3, top_p=0.8, steps=4, seed=9),
    "stopping": Decoding("sequential", stop=Stopping(stable=2, entropy=3.0)),
}


@pytest.mark.parametrize("name", DECODINGS)
def test_an_edit_of_nothing_resumes_to_the_identical_trajectory(model: LanguageModel, name: str) -> None:
    run = denoise(model, TOKENS, DECODINGS[name], record=Record(top_k=3), sample_ids=[5, 2])
    for step in range(run.n_steps + 1):
        same = {int(position): int(run.tokens(step)[1, position]) for position in range(10)}
        again = run.at(step).edit(same, sample=1).resume(model, record=Record(top_k=3))
        assert again.data.identical(run.data), step


def test_an_edited_token_stays_and_the_steps_before_are_those_that_were(model: LanguageModel) -> None:
    run = denoise(model, TOKENS, Decoding("sequential"))
    token = (int(run.tokens(2)[0, 1]) + 1) % MASK
    edited = run.at(2).edit({1: token}, sample=0).resume(model)
    assert (
        edited.data.isel(step=slice(0, 2))
        .drop_vars(["commit_step", "calls"])
        .equals(run.data.isel(step=slice(0, 2)).drop_vars(["commit_step", "calls"]))
    )
    assert (edited.data["token"].values[0, 2:, 1] == token).all()
    assert edited.data["state"].values[0, 2, 1] == State.REVISED
    assert edited.data["commit_step"].values[0, 1] == 2
    assert json.loads(edited.data.attrs["surgery"]) == [{"step": 2, "edited": [[0, 1, token]]}]
    assert (edited.data["token"].values[1] == run.data["token"].values[1]).all(), "the other sample was left alone"
    again = edited.at(3).resume(model)
    assert again.data.identical(edited.data)


def test_what_is_masked_again_is_written_again_even_in_a_finished_block(model: LanguageModel) -> None:
    run = denoise(model, TOKENS, Decoding("low_confidence", block_length=2))
    again = run.at(-1).edit({3: MASK}, sample=0).resume(model)
    assert again.n_steps == run.n_steps + 1
    assert again.data["state"].values[0, run.n_steps, 3] == State.REMASKED
    assert (again.tokens(-1) != MASK).all()
    assert again.calls.tolist() == [run.n_steps + 1, int(run.calls[1])]


def test_calls_are_those_a_sample_took_part_in_however_often_it_was_reopened(model: LanguageModel, tmp_path: Any) -> None:
    network = denoise(model, TOKENS, "sequential")
    assert network.calls.tolist() == network.last_step.tolist() == [7, 5]
    reopened = network.at(-1).edit({2: MASK, 3: MASK}, sample=1).resume(model)
    assert (reopened.n_steps, reopened.calls.tolist(), reopened.last_step.tolist()) == (9, [7, 7], [7, 9])
    branched = reopened.at(8).branch(3).resume(model)
    twice = reopened.at(-1).edit({1: MASK}, sample=0).resume(model, record=Record(store=tmp_path / "run.zarr"))
    assert (branched.calls.tolist(), twice.calls.tolist(), twice.last_step.tolist()) == ([7, 7], [8, 7], [10, 9])
    assert Trajectory.load(tmp_path / "run.zarr").calls.tolist() == [8, 7]
    back = twice.at(4).resume(model)
    assert back.data.identical(network.data)
    by_hand = network.at(-1).edit({2: (int(network.tokens(-1)[1, 2]) + 1) % MASK}, sample=1).resume(model)
    assert (by_hand.calls.tolist(), by_hand.last_step.tolist()) == ([7, 5], [7, 7])
    counted = (twice.data["proposal"].values >= 0).any(2).sum(1)
    assert counted.tolist() == twice.calls.tolist()


def test_a_prompt_can_be_changed_and_masked_at_the_start(model: LanguageModel) -> None:
    run = denoise(model, TOKENS)
    other = run.at(0).edit({0: MASK, 2: 9}, sample=0).resume(model)
    assert other.tokens(0)[0].tolist() == [MASK, MASK, 9, *TOKENS[0, 3:].tolist()]
    assert other.data["token"].values[0, -1, 0] != MASK
    assert other.data["state"].values[0, 0, [0, 2]].tolist() == [State.MASKED, State.PROMPT]
    with pytest.raises(TrajectoryError, match="position 0 of sample 0 is prompt; it can be masked at step 0 only, not at 2"):
        run.at(2).edit({0: MASK}, sample=0).resume(model)


def test_a_branch_shares_its_past_and_not_its_future(model: LanguageModel) -> None:
    run = denoise(model, TOKENS, Decoding("random", temperature=3.0, seed=1))
    branches = [run.at(3).branch(seed).resume(model) for seed in range(4)]
    for branch in branches:
        assert (branch.data["token"].values[:, :4] == run.data["token"].values[:, :4]).all()
    assert len({branch.tokens(-1).tobytes() for branch in branches}) == 4
    assert branches[1].data["token"].equals(run.data["token"]), "its own seed is no branch"
    assert branches[2].data.attrs["seed"] == 2


def test_a_run_goes_on_with_another_policy_and_budget(model: LanguageModel) -> None:
    run = denoise(model, TOKENS, "sequential")
    whole = run.at(2).resume(model, policy="threshold", options={"threshold": 0.0})
    assert whole.n_steps == 3
    assert whole.decoding == Decoding("threshold", {"threshold": 0.0})
    assert run.at(1).resume(model, steps=3).n_steps == 3


def test_activations_of_another_run_are_put_in_place_at_the_next_call_only(model: LanguageModel) -> None:
    run = denoise(model, TOKENS, "sequential")
    other = denoise(model, TOKENS.clone().index_fill(1, torch.tensor([0]), 9), "sequential")
    last = resid_post(model.n_layers - 1)
    patched = run.at(2).patch(last, other.at(2)).resume(model)
    spoken = ~np.isnan(patched.data["confidence"].values[:, 3])
    for name in ("confidence", "entropy"):
        np.testing.assert_allclose(patched.data[name].values[:, 3][spoken], other.data[name].values[:, 3][spoken], atol=1e-6)
    assert not patched.data["confidence"].isel(step=3).equals(run.data["confidence"].isel(step=3))
    assert run.at(2).patch(last, run.at(2)).resume(model).data["token"].equals(run.data["token"]), "its own change nothing"
    one = run.at(2).patch(resid_post(0), other.at(2), positions=(4,)).resume(model)
    assert json.loads(one.data.attrs["surgery"])[0]["patched"] == [{"point": "blocks.0.hook_resid_post", "positions": [4], "from_step": 2}]


def test_what_cannot_be_done_is_named(model: LanguageModel, tiny_model: Callable[..., Any]) -> None:
    run = denoise(model, TOKENS)
    with pytest.raises(TrajectoryError, match=r"no step 99; the trajectory has steps 0 to"):
        run.at(99)
    with pytest.raises(TrajectoryError, match=r"no sample 2; the trajectory has samples 0 to 1"):
        run.at(1).edit({1: 3}, sample=2)
    with pytest.raises(TrajectoryError, match=r"no position 10; sample 0 has positions 0 to 9"):
        run.at(1).edit({10: 3})
    with pytest.raises(ValueError, match="token 12; the tokens of"):
        run.at(1).edit({1: 12}).resume(model)
    with pytest.raises(PolicyError, match="unknown policy 'best'"):
        run.at(1).resume(model, policy="best")
    with pytest.raises(TrajectoryError, match=r"is of tiny \(.*\), not of"):
        run.at(1).resume(tiny_model(seed=5))
    with pytest.raises(TrajectoryError, match="they must agree"):
        run.at(1).patch(resid_post(0), denoise(model, TOKENS[:, :9]).at(1))
    foreign = Trajectory(run.data.assign_attrs(policy="prophet", options="{}"))
    with pytest.raises(TrajectoryError, match="decoded by 'prophet', which is no policy here; it can be looked at, not resumed"):
        foreign.at(1).resume(model)


@pytest.mark.parametrize("name", ["remdm_conf", "blocks", "stopping"])
def test_a_run_that_was_operated_on_resumes_to_itself_and_from_before_to_the_run_it_came_from(model: LanguageModel, name: str) -> None:
    run = denoise(model, TOKENS, DECODINGS[name])
    masked = np.flatnonzero(run.tokens(2)[0] == MASK)[:1]
    proposed = {int(position): int(run.data["proposal"].values[0, 2, position]) for position in masked}
    operated = run.at(2).edit(proposed, sample=0).branch(8).resume(model, temperature=2.0)
    assert operated.surgery[0]["changed"] == {"seed": [run.decoding.seed, 8], "temperature": [run.decoding.temperature, 2.0]}
    for step in range(2, operated.n_steps + 1):
        assert operated.at(step).resume(model).data.identical(operated.data), step
    for step in (0, 1):
        assert operated.at(step).resume(model).data.identical(run.data), step


def test_interventions_on_activations_are_told_and_not_made_again(model: LanguageModel) -> None:
    def push(context: Any) -> dict[Any, Any]:
        return {resid_post(0): lambda activation: activation + 3 * torch.ones_like(activation).cumsum(-1)}

    plain, steered = denoise(model, TOKENS), denoise(model, TOKENS, edits=push)
    assert (plain.surgery, steered.surgery) == ([], [{"step": 0, "steered": True}])
    assert steered.at(0).resume(model).data.identical(plain.data)
    assert plain.at(3).resume(model, edits=push).surgery == [{"step": 3, "steered": True}]
    patched = plain.at(2).patch(resid_post(0), steered.at(2)).resume(model)
    assert patched.at(2).resume(model).data.identical(plain.data)


def test_patches_at_one_point_add_up(model: LanguageModel) -> None:
    run, point = denoise(model, TOKENS, "sequential"), resid_post(0)
    other = run.at(2).edit({0: 9}, sample=0)
    apart = run.at(2).patch(point, other, (4,)).patch(point, other, (5,)).resume(model)
    together = run.at(2).patch(point, other, (4, 5)).resume(model)
    assert apart.data.drop_attrs().identical(together.data.drop_attrs())


def test_a_run_goes_on_in_blocks_of_another_length(model: LanguageModel) -> None:
    run = denoise(model, torch.full((1, 8), MASK), Decoding("sequential", block_length=4))
    again = run.at(2).resume(model, block_length=2)
    assert again.n_steps == 8
    assert again.data["commit_step"].values[0].tolist() == list(range(1, 9))
    assert run.at(-1).resume(model, block_length=2).n_steps == 8, "nothing was left to write"


def test_tokens_may_be_whole_numbers_of_any_kind(model: LanguageModel) -> None:
    assert denoise(model, TOKENS.int()).data.identical(denoise(model, TOKENS).data)


def test_what_a_network_cannot_have_said_stops_the_run(model: LanguageModel) -> None:
    with pytest.raises(PromptError, match="logits of call 1 are not finite"):
        denoise(model, TOKENS, edits=lambda context: {resid_post(0): lambda activation: activation * torch.nan})


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (TOKENS.float(), r"of the kind torch.float32; they must be whole numbers"),
        ([TOKENS[0], TOKENS], r"shapes \[\(2, 10\)\]"),
    ],
)
def test_what_are_no_tokens_is_named(model: LanguageModel, tokens: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        inspect.unwrap(padded)(tokens)


# ---------------------------------------------------------------- ragged batches, blocks, guidance, stopping


RAGGED = [torch.tensor([1, MASK, 2, MASK]), torch.tensor([MASK, 5, MASK, MASK, 6, MASK, MASK]), torch.tensor([3, MASK, 4, MASK])]


@pytest.mark.parametrize("policy", POLICIES)
def test_samples_of_other_lengths_change_nothing(model: LanguageModel, policy: str) -> None:
    asked = Decoding(policy, CALLS.get(policy, {}), temperature=1.0, seed=2)
    together = denoise(model, RAGGED, asked)
    for sample, tokens in enumerate(RAGGED):
        alone = denoise(model, tokens[None], asked, sample_ids=[sample])
        calls, length = int(together.calls[sample]), len(tokens)
        assert alone.calls.tolist() == [calls]
        for name in ("token", "proposal", "state"):
            np.testing.assert_array_equal(together.data[name].values[sample, : calls + 1, :length], alone.data[name].values[0])
        np.testing.assert_allclose(
            together.data["confidence"].values[sample, : calls + 1, :length], alone.data["confidence"].values[0], atol=1e-5
        )
        assert (together.data["token"].values[sample, :, length:] == -1).all()
        assert (together.data["state"].values[sample, :, length:] == State.PADDING).all()


def test_blocks_are_written_in_order_and_share_the_budget(model: LanguageModel) -> None:
    tokens = torch.full((1, 10), MASK)
    run = denoise(model, tokens, Decoding("random", block_length=4, steps=7))
    commit = run.data["commit_step"].values[0]
    assert [sorted(set(commit[block].tolist())) for block in (slice(0, 4), slice(4, 8), slice(8, 10))] == [[1, 2, 3], [4, 5], [6, 7]]
    with pytest.raises(PolicyError, match="steps is 2; 3 blocks of 4 positions need at least 3"):
        denoise(model, tokens, Decoding("random", block_length=4, steps=2))


def test_guidance_moves_away_from_what_is_said_without_the_prompt(model: LanguageModel) -> None:
    tokens = TOKENS[:1]
    writable = tokens == MASK
    blind = model.logits(tokens.masked_fill(~writable, MASK))
    guided = 2.5 * model.logits(tokens) - 1.5 * blind
    guided[..., MASK] = -torch.inf
    run = denoise(model, tokens, Decoding("sequential", guidance=1.5))
    expected = guided.softmax(-1).amax(-1)[writable]
    np.testing.assert_allclose(run.data["confidence"].values[:, 1][writable.numpy()], expected, rtol=1e-4)


def test_a_run_stops_when_its_proposals_are_stable_and_confident(model: LanguageModel) -> None:
    plain = denoise(model, TOKENS, "sequential")
    stopped = denoise(model, TOKENS, Decoding("sequential", stop=Stopping(stable=1, entropy=9.0)))
    for sample in range(2):
        said, masked = plain.data["proposal"].values[sample], plain.data["token"].values[sample] == MASK
        same = [step for step in range(2, plain.n_steps + 1) if (said[step] == said[step - 1])[masked[step - 1]].all()]
        assert stopped.calls[sample] == same[0]
        expected = np.where(masked[same[0] - 1], said[same[0]], plain.data["token"].values[sample, same[0] - 1])
        assert (stopped.tokens(-1)[sample] == expected).all()
    assert denoise(model, TOKENS, Decoding("sequential", stop=Stopping(entropy=1e-9))).data["token"].equals(plain.data["token"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"block_length": 0}, "block_length is 0; it must be at least 1"),
        ({"temperature": -1.0}, "temperature is -1.0; it must be 0"),
        ({"temperature": float("inf")}, "temperature is inf; it must be 0 .greedy., or 1e-06 to 1e+06".replace("+", r"\+")),
        ({"temperature": 1e-300}, "temperature is 1e-300; it must be 0"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p is 0.0; it must be above 0"),
        ({"top_p": 0.5}, "temperature 0, which draws nothing"),
        ({"guidance": -0.1}, "guidance is -0.1"),
        ({"seed": -1}, "seed is -1"),
        ({"policy": "best"}, "unknown policy 'best'; choose from random"),
        ({"policy": "mgdm", "options": {"speed": 1}}, "policy 'mgdm' has no option 'speed'; it has calls, noise"),
    ],
)
def test_an_impossible_decoding_is_named(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Decoding(**asked)


@pytest.mark.parametrize(("asked", "message"), [({"stable": 0}, "stable is 0"), ({"entropy": 0.0}, "entropy is 0.0")])
def test_an_impossible_stop_is_named(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Stopping(**asked)
