"""What is kept of a run: channels, a store that it streams to, and the past that a resumed run takes over."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from models.decoding import Decoding
from models.denoise import denoise
from models.hookpoints import resid_post
from models.language_model import LanguageModel
from models.recorder import Channel, Record, Recorder
from models.trajectory import State, Trajectory
from models.trajectory_store import TrajectoryError
from models.unmasking import POLICIES, policy_options

MASK = 11
TOKENS = torch.tensor([[1, MASK, 2, MASK, MASK, MASK, 3, MASK, MASK, MASK], [4, 5, MASK, MASK, 6, MASK, MASK, 7, 8, MASK]])
CALLS = {name: {"calls": 7} for name in POLICIES if "calls" in policy_options(name)}


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Any]) -> LanguageModel:
    found: LanguageModel = tiny_model()
    return found


def test_channels_hold_what_the_network_reads_for_each_token(model: LanguageModel) -> None:
    point = resid_post(0)
    record = Record(
        top_k=2,
        channels={
            "state": Channel(point),
            "norm": Channel(point, lambda activation: activation.norm(dim=-1), positions=(0, 3, 9), steps=range(2, 4)),
        },
    )
    run = denoise(model, TOKENS, "sequential", record=record)
    assert denoise(model, TOKENS, "sequential").data["token"].equals(run.data["token"])
    shift = model.facts.logit_shift
    for step in (1, 3):
        rows = np.flatnonzero(run.calls >= step)
        _, cache = model.run_with_cache(torch.from_numpy(run.tokens(step - 1)[rows]), [point])
        writable = (run.data["state"].values[rows, 0] == State.MASKED)[..., None]
        expected = np.full((len(rows), 10, model.d_model), np.nan)
        expected[:, shift:] = cache[point][:, : 10 - shift].numpy()
        np.testing.assert_allclose(run.channel("state").values[rows, step], np.where(writable, expected, np.nan), atol=1e-2, rtol=1e-3)
    norm = run.channel("norm").values
    assert norm.shape == (2, run.n_steps + 1, 10)
    assert np.argwhere(~np.isnan(norm[0])).tolist() == [[2, 3], [2, 9], [3, 3], [3, 9]]
    top = run.data["top_token"].values
    spoken = run.data["proposal"].values >= 0
    assert (top[spoken][:, 0] == run.data["proposal"].values[spoken]).all()
    assert (top[~spoken] == -1).all()
    with pytest.raises(TrajectoryError, match="no channel 'other' was recorded; choose from state, norm"):
        run.channel("other")


@pytest.mark.parametrize("flushed", [1, 3, 100])
def test_a_streamed_run_is_the_run_in_memory(model: LanguageModel, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, flushed: int) -> None:
    monkeypatch.setattr("models.recorder.FLUSHED_STEPS", flushed)
    asked = Decoding("remdm_cap", {"calls": 7, "eta": 0.5}, temperature=1.0)
    channels = {"late": Channel(resid_post(1), steps=(5,))}
    streamed = denoise(model, TOKENS, asked, record=Record(2, channels, tmp_path / "run.zarr"))
    memory = denoise(model, TOKENS, asked, record=Record(2, channels))
    assert streamed.data.identical(memory.data)
    assert Trajectory.load(tmp_path / "run.zarr").data.identical(memory.data)
    memory.save(tmp_path / "saved.zarr")
    assert Trajectory.load(tmp_path / "saved.zarr").data.identical(memory.data)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["run.zarr", "saved.zarr"]


def test_a_resumed_run_can_keep_more_and_replaces_a_stored_one_whole(
    model: LanguageModel, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.recorder.FLUSHED_STEPS", 2)
    path = tmp_path / "run.zarr"
    probe = torch.nn.Linear(model.d_model, 3)
    record = Record(2, {"late": Channel(resid_post(0), probe)}, path)
    plain = denoise(model, TOKENS, record=Record(store=path))
    more = plain.at(5).resume(model, record=record)
    assert more.data["token"].equals(plain.data["token"])
    late = more.channel("late").values
    assert late.shape == (2, plain.n_steps + 1, 10, 3)
    assert np.isnan(late[:, :6]).all()
    assert not np.isnan(late[:, 6:]).all()
    denoise(model, TOKENS, "sequential", record=record)
    with pytest.raises(TrajectoryError, match=r"run\.zarr no longer holds the trajectory whose channel 'late' is asked for"):
        more.channel("late")


@pytest.mark.parametrize("kept", [(2, 5), (5,), (), range(1, 20)])
def test_a_run_with_channels_resumes_to_the_last_digit(model: LanguageModel, kept: Any) -> None:
    record = Record(channels={"some": Channel(resid_post(0), lambda one: one.norm(dim=-1), steps=kept)})
    run = denoise(model, TOKENS, "sequential", record=record)
    for step in range(run.n_steps + 1):
        assert run.at(step).resume(model, record=record).data.identical(run.data), step


def test_a_run_resumed_with_other_channels_differs_in_the_last_digits_at_most(model: LanguageModel) -> None:
    run = denoise(model, TOKENS, "sequential", record=Record(channels={"all": Channel(resid_post(0))}))
    again = run.at(2).resume(model)
    assert again.data["token"].equals(run.data["token"])
    for name in ("confidence", "margin", "entropy"):
        np.testing.assert_allclose(again.data[name], run.data[name], atol=2e-6)


def test_a_resumed_run_copies_its_past_through_the_store(model: LanguageModel, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.recorder.FLUSHED_STEPS", 3)
    held: list[int] = []
    kept = Recorder._keep

    def keep(recorder: Recorder, *args: Any) -> None:
        kept(recorder, *args)
        held.append(len(recorder._steps))

    monkeypatch.setattr(Recorder, "_keep", keep)
    tokens = torch.full((1, 7), MASK)
    channels = {"state": Channel(resid_post(0))}
    record = Record(2, channels, tmp_path / "run.zarr")
    run = denoise(model, tokens, "sequential", record=record)
    whole = denoise(model, tokens, "sequential", record=Record(2, channels))
    held.clear()
    assert run.at(5).resume(model, record=Record(2, channels, tmp_path / "other.zarr")).data.identical(whole.data)
    assert run.at(7).resume(model, record=record).data.identical(whole.data), "in the place of the run itself"
    assert len(held) == 16
    assert max(held) <= 3


def test_what_was_recorded_is_copied_from_the_run_itself_and_fits_what_will_be(model: LanguageModel, tmp_path: Any) -> None:
    record = Record(2, {"state": Channel(resid_post(0))}, tmp_path / "run.zarr")
    run = denoise(model, TOKENS, record=record)
    with pytest.raises(TrajectoryError, match=r"top_(token|probability) has 2 numbers a position in some steps and 3 in others"):
        run.at(2).resume(model, record=Record(3))
    denoise(model, TOKENS, "sequential", record=record)
    with pytest.raises(TrajectoryError, match=r"run\.zarr no longer holds the trajectory whose channel 'state'"):
        run.at(2).resume(model)


def test_channels_may_have_any_name_and_must_fit_positions(model: LanguageModel) -> None:
    plain = denoise(model, TOKENS)
    named = denoise(model, TOKENS, record=Record(channels={"confidence": Channel(resid_post(0), lambda one: one.norm(dim=-1))}))
    assert named.data["token"].equals(plain.data["token"])
    np.testing.assert_allclose(named.data["confidence"], plain.data["confidence"], atol=1e-6)
    with pytest.raises(TrajectoryError, match=r"the channel 'mean' reads \(2, 64\) from \(2, 10, 64\)|one number, or one vector"):
        denoise(model, TOKENS, record=Record(channels={"mean": Channel(resid_post(0), lambda one: one.mean(1))}))
    with pytest.raises(TrajectoryError, match="top_k is 13; tiny has 12 tokens"):
        denoise(model, TOKENS, record=Record(top_k=13))


def test_ids_and_attributes_are_part_of_what_is_checked(model: LanguageModel, tmp_path: Any) -> None:
    path = tmp_path / "run.zarr"
    denoise(model, TOKENS, sample_ids=[5, 2]).save(path)
    whole = json.loads((path / "zarr.json").read_text())
    (path / "zarr.json").write_text(json.dumps({**whole, "attributes": {**whole["attributes"], "seed": 9}}))
    with pytest.raises(TrajectoryError, match="damaged"):
        Trajectory.load(path)


def test_a_run_that_fails_leaves_nothing_and_keeps_the_earlier_one(model: LanguageModel, tmp_path: Any) -> None:
    record = Record(store=tmp_path / "run.zarr")
    before = denoise(model, TOKENS, record=record)

    def stop(done: int, left: int) -> None:
        if left < 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        denoise(model, TOKENS, "sequential", record=record, on_step=stop)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.zarr"]
    assert Trajectory.load(tmp_path / "run.zarr").data.identical(before.data)
