"""What a notebook may give instead of what is meant: numbers of numpy are taken, all else is refused in one line."""

import inspect
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.decoding import Decoding, Stopping, decoding_with
from models.denoise import denoise
from models.hookpoints import resid_post
from models.prompt import PromptError, identities, padded
from models.recorder import Channel, Record
from models.surgery import Moment
from models.traces import load_trace
from models.trajectory import Trajectory
from models.trajectory_store import TrajectoryError
from models.turn import PolicyError

MASK = 11
TOKENS = torch.tensor([[1, MASK, 2, MASK], [4, 5, MASK, MASK]])


def bare(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function without the check of types that tests wrap around it and notebooks do not."""
    return inspect.unwrap(function)


def refused(error: type[ValueError], message: str, act: Callable[[], object]) -> None:
    with pytest.raises(error, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def made(kind: type, **fields: Any) -> Any:
    """Returns a frozen value as its class makes it, types unchecked."""
    value = object.__new__(kind)
    for name, one in inspect.signature(kind).parameters.items():
        given = fields.get(name, {} if name in ("options", "channels") else one.default)
        object.__setattr__(value, name, given)
    inspect.unwrap(kind.__post_init__)(value)  # type: ignore[attr-defined]
    return value


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, np.float32, int, float])
def test_numbers_of_any_kind_become_pythons(kind: Any) -> None:
    asked = made(Decoding, policy="mgdm", options={"calls": kind(4), "noise": kind(1)}, steps=kind(4), temperature=kind(2), seed=kind(3))
    plain = Decoding("mgdm", {"calls": 4, "noise": 1.0}, steps=4, temperature=2.0, seed=3)
    assert asked == plain
    assert [type(getattr(asked, name)) for name in ("steps", "temperature", "seed")] == [int, float, int]
    assert [type(one) for one in asked.options.values()] == [int, float]
    assert made(Stopping, stable=kind(2), entropy=kind(1)) == Stopping(2, 1.0)
    assert type(made(Record, top_k=kind(2)).top_k) is int


@pytest.mark.parametrize(
    "value", ["4", True, np.True_, math.nan, np.float64("nan"), 1 + 2j, Decimal(3), [1], torch.tensor(2), np.array([3])]
)
@pytest.mark.parametrize(
    "name", ["steps", "block_length", "temperature", "top_p", "guidance", "seed", "calls", "noise", "stable", "entropy"]
)
def test_what_is_no_number_is_named_with_its_value(name: str, value: Any) -> None:
    rule = rf"^{name} is .*; it must be a (whole )?number$"
    if name in ("calls", "noise"):
        refused(PolicyError, rule, lambda: made(Decoding, policy="mgdm", options={name: value}))
    elif name in ("stable", "entropy"):
        refused(PolicyError, rule, lambda: made(Stopping, **{name: value}))
    else:
        refused(PolicyError, rule, lambda: made(Decoding, **{name: value}))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"steps": 2.5}, "steps is 2.5; it must be a whole number"),
        ({"steps": math.inf}, "steps is inf; it must be a whole number"),
        ({"block_length": 10**30}, "block_length is 1000000000000000000000000000000; it must be at most 2147483647"),
        ({"seed": 10**400, "steps": 0}, "steps is 0"),
        ({"seed": None}, "seed is None; it must be a number"),
        ({"temperature": 10**400}, "temperature is inf"),
        ({"policy": ["random"]}, "unknown policy"),
        ({"policy": None}, "unknown policy None; choose from random"),
        ({"options": 3}, "options are 3; they must be a mapping"),
        ({"options": "threshold"}, "options are 'threshold'"),
        ({"stop": 3}, "stop is 3; it must be a Stopping"),
        ({"policy": "ddpm", "options": {"calls": 10**12}}, "calls is 1000000000000; it must be at most"),
    ],
)
def test_what_no_run_can_heed_is_named(asked: dict[str, Any], message: str) -> None:
    refused(PolicyError, message, lambda: made(Decoding, **asked))


def test_settings_by_name_are_held_to_the_same_rules() -> None:
    assert decoding_with("random", {"block_length": 3.0, "stop_stable": 2.0}) == Decoding("random", block_length=3, stop=Stopping(2))
    refused(PolicyError, "block_length is 1.5; it must be a whole number", lambda: decoding_with("random", {"block_length": 1.5}))
    refused(PolicyError, "stop_stable is 2.5; it must be a whole number", lambda: decoding_with("random", {"stop_stable": 2.5}))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (TOKENS.numpy(), "tokens are a ndarray; they must be a torch tensor"),
        (TOKENS.tolist(), "tokens are a list of list; they must be a torch tensor"),
        ("text", "tokens are a str of str"),
        (3, "tokens are a int"),
        (TOKENS[0], r"shape \(4,\); they must be \(batch, pos\)"),
        (TOKENS[None], r"shape \(1, 2, 4\)"),
        (TOKENS.bool(), "of the kind torch.bool"),
        (TOKENS + 1j, "of the kind torch.complex64"),
        ([], "give at least one sample"),
    ],
)
def test_what_no_network_reads_is_named(tokens: Any, message: str) -> None:
    refused(PromptError, message, lambda: bare(padded)(tokens))


@pytest.mark.parametrize("token", [12, -1, -5, 2**40])
def test_a_token_outside_the_vocabulary_is_named(token: int, tiny_model: Callable[..., Any]) -> None:
    tokens = TOKENS.clone()
    tokens[1, 1] = token
    refused(PromptError, f"the token {token}; the tokens of tiny are 0 to 11", lambda: denoise(tiny_model(), tokens))


def test_ids_of_samples_are_whole_numbers_of_any_kind() -> None:
    assert bare(identities)(np.array([5, 2]), 2) == bare(identities)([np.int32(5), 2], 2) == (5, 2)
    assert identities(None, 3) == (0, 1, 2)
    for ids, message in (([0, 0], "different"), ([-1, 0], "at least 0"), (["a", 1], "'a'; it must be a number"), (3, "must be a list")):
        refused(PromptError, message, lambda ids=ids: bare(identities)(ids, 2))
    refused(PromptError, "a whole number|at most", lambda: identities([2**70, 1], 2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"point": "blocks.0.hook_resid_post"}, "point is 'blocks.0.hook_resid_post'; it must be a HookPoint"),
        ({"read": 3}, "read is 3; it must be a function"),
        ({"positions": 3}, "positions are 3; they must be a list of whole numbers"),
        ({"positions": "12"}, "positions are '12'"),
        ({"positions": (0, 1.5)}, "one of positions is 1.5; it must be a whole number"),
        ({"positions": (-1,)}, "one of positions is -1; it must be at least 0"),
        ({"steps": 3}, "steps are 3; they must be a list or range"),
    ],
)
def test_what_is_no_channel_is_named(fields: dict[str, Any], message: str) -> None:
    refused(TrajectoryError, message, lambda: made(Channel, **({"point": resid_post(0), "read": abs} | fields)))


def test_places_of_numpy_are_taken_in_channels() -> None:
    assert made(Channel, point=resid_post(0), read=abs, positions=np.arange(2), steps=np.array([1, 2])).positions == (0, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"top_k": "3"}, "top_k is '3'; it must be a number"),
        ({"top_k": -1}, "top_k is -1; it must be at least 0"),
        ({"top_k": 1.5}, "top_k is 1.5; it must be a whole number"),
        ({"store": 3}, "store is 3; it must be a path"),
        ({"channels": ["norm"]}, r"channels are \['norm'\]; they must be a mapping"),
        ({"channels": {3: Channel(resid_post(0))}}, "a channel is named 3"),
        ({"channels": {"a": resid_post(0)}}, "the channel 'a' is .*; it must be a Channel"),
    ],
)
def test_what_is_no_record_is_named(fields: dict[str, Any], message: str) -> None:
    refused(TrajectoryError, message, lambda: made(Record, **fields))


def test_a_channel_that_reads_no_tensor_or_no_position_of_the_run_is_named(tiny_model: Callable[..., Any]) -> None:
    def run(channel: Channel) -> object:
        return denoise(tiny_model(), TOKENS, record=Record(channels={"c": channel}))

    refused(
        TrajectoryError,
        "the channel 'c' is about position 4; there are positions 0 to 3",
        lambda: run(Channel(resid_post(0), positions=(4,))),
    )
    foreign = Channel(resid_post(0), lambda activation: activation.numpy())
    refused(TrajectoryError, "the channel 'c' reads a ndarray from blocks.0", lambda: run(foreign))


@pytest.fixture(scope="module")
def run(tiny_model: Callable[..., Any]) -> Trajectory:
    found: Trajectory = denoise(tiny_model(), TOKENS)
    return found


def test_steps_of_numpy_are_steps(run: Trajectory, tiny_model: Callable[..., Any]) -> None:
    at, edit = bare(Trajectory.at), bare(Moment.edit)
    moment = edit(at(run, np.int64(1)), {np.int64(1): np.int32(3)}, sample=np.int64(0))
    assert moment == run.at(1).edit({1: 3}, sample=0)
    assert moment.resume(tiny_model()).surgery in ([], [{"step": 1, "edited": [[0, 1, 3]]}])
    patched = bare(Moment.patch)(moment, resid_post(0), at(run, np.int64(1)), np.array([1, 2])).resume(tiny_model())
    assert patched.surgery[-1]["patched"] == [{"point": "blocks.0.hook_resid_post", "positions": [1, 2], "from_step": 1}]
    assert bare(Moment.branch)(moment, np.int64(4)) == moment.branch(4)
    assert (bare(Trajectory.tokens)(run, np.int8(-1)) == run.tokens(run.n_steps)).all()


@pytest.mark.parametrize("step", ["1", 1.5, True, None, 99, -99])
def test_what_is_no_step_is_named(run: Trajectory, step: Any) -> None:
    for find in (Trajectory.at, Trajectory.tokens):
        refused(TrajectoryError, "step is .*; it must be a (whole )?number|there is no step -?99", lambda find=find: bare(find)(run, step))


def test_what_is_no_surgery_is_named(run: Trajectory, tiny_model: Callable[..., Any]) -> None:
    moment = run.at(1)
    edit, patch = bare(Moment.edit), bare(Moment.patch)
    for tokens, sample, message in (
        ([3], None, r"the edit is \[3\]; it must be a mapping"),
        ({"1": 3}, None, "position is '1'; it must be a number"),
        ({1.5: 3}, None, "position is 1.5; it must be a whole number"),
        ({-1: 3}, None, "there is no position -1; sample 0 has positions 0 to 3"),
        ({1: "3"}, None, "the token at position 1 is '3'; it must be a number"),
        ({1: True}, None, "the token at position 1 is True"),
        ({1: -3}, None, "the token at position 1 is -3; it must be at least 0"),
        ({1: 3}, "0", "sample is '0'; it must be a number"),
        ({1: 3}, 0.5, "sample is 0.5; it must be a whole number"),
    ):
        refused(TrajectoryError, message, lambda tokens=tokens, sample=sample: edit(moment, tokens, sample=sample))
    for seed in ("a", 1.5, -1, True):
        refused(PolicyError, "seed is", lambda seed=seed: bare(Moment.branch)(moment, seed))
    refused(TrajectoryError, "point is 'x'", lambda: patch(moment, "x", moment))
    refused(TrajectoryError, "the source of a patch is a Trajectory", lambda: patch(moment, resid_post(0), run))
    refused(TrajectoryError, "positions are 3", lambda: patch(moment, resid_post(0), moment, 3))
    refused(TrajectoryError, "names the position 4", lambda: patch(moment, resid_post(0), moment, (4,)))
    refused(PolicyError, "another 'speed'; choose from", lambda: moment.resume(tiny_model(), speed=1))


def test_a_trace_may_be_named_by_its_text(run: Trajectory, tmp_path: Path) -> None:
    run.save(str(tmp_path / "run.zarr"))
    assert bare(load_trace)(str(tmp_path / "run.zarr")).data.identical(run.data)
    refused(TrajectoryError, "is no trace", lambda: bare(load_trace)(str(tmp_path / "none")))
