"""What a trajectory says of a known history, and that it is on disk whole or not at all."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from models.recorder import Recorder
from models.trajectory import State, Trajectory
from models.trajectory_store import TrajectoryError

M = 11
ATTRIBUTES = {"model": "m", "fingerprint": "m:0", "task": "sudoku", "policy": "by hand", "options": "{}", "seed": 0}
P, MASKED, COMMITTED, REVISED, REMASKED, _ = State
# One canvas a line; five positions: a prompt (whose token is never read as written), one committed once, one revised, one masked
# again and rewritten with another token, one masked again and never rewritten.
HISTORY = [
    [3, M, M, M, M],
    [3, 5, 2, 4, 7],
    [3, 5, 6, M, M],
    [3, 5, 6, 8, M],
]
STATES = [
    [P, MASKED, MASKED, MASKED, MASKED],
    [P, COMMITTED, COMMITTED, COMMITTED, COMMITTED],
    [P, COMMITTED, REVISED, REMASKED, REMASKED],
    [P, COMMITTED, REVISED, REVISED, REMASKED],
]


def recorded(history: list[list[int]], writable: list[bool] | None = None) -> Trajectory:
    """Returns the trajectory of one sample with this history; call s is as confident as .1 s everywhere."""
    first = np.array(history[:1])
    recorder = Recorder(first, first == M if writable is None else np.array([writable]), M)
    for step, canvas in enumerate(history[1:], start=1):
        spoken = {name: np.full(first.shape, step / 10, np.float32) for name in ("confidence", "margin", "entropy")}
        recorder.add(np.array([0]), np.array([canvas]), {"proposal": np.array([canvas]), **spoken})
    return recorder.finish(ATTRIBUTES)


def two_samples() -> Trajectory:
    """Returns a trajectory whose second sample ends a call earlier."""
    recorder = Recorder(np.array([[1, M, M], [2, M, 4]]), np.array([[False, True, True], [False, True, False]]), M)
    said = {name: np.array([[0.5, 0.6, 0.7], [0.1, 0.2, 0.3]], np.float32) for name in ("confidence", "margin", "entropy")}
    said["proposal"] = np.array([[9, 5, 8], [9, 6, 9]])
    recorder.add(np.array([0, 1]), np.array([[1, 5, M], [2, 6, 4]]), said)
    later = {name: values[:1] for name, values in said.items()} | {"proposal": np.array([[9, 9, 8]])}
    recorder.add(np.array([0]), np.array([[1, 5, 8]]), later)
    return recorder.finish(ATTRIBUTES)


def test_states_of_a_known_history() -> None:
    run = recorded(HISTORY)
    assert run.data["state"].values[0].tolist() == STATES
    assert run.data["token"].values[0].tolist() == HISTORY


def test_the_commit_step_is_that_of_the_final_token() -> None:
    assert recorded(HISTORY).data["commit_step"].values[0].tolist() == [0, 1, 2, 3, -1]


def test_the_same_token_written_again_is_no_revision() -> None:
    run = recorded([[M], [4], [M], [4]])
    assert run.data["state"].values[0, :, 0].tolist() == [MASKED, COMMITTED, REMASKED, COMMITTED]
    assert run.data["commit_step"].values.tolist() == [[3]]


def test_a_revision_taken_back_stays_a_revision() -> None:
    run = recorded([[M], [4], [6], [4]])
    assert run.data["state"].values[0, :, 0].tolist() == [MASKED, COMMITTED, REVISED, REVISED]


def test_a_mask_token_that_may_not_be_written_is_prompt() -> None:
    run = recorded([[M, M], [M, 3]], writable=[False, True])
    assert run.data["state"].values[0].tolist() == [[P, MASKED], [P, COMMITTED]]
    assert run.data["commit_step"].values.tolist() == [[0, 1]]


def test_a_step_holds_what_its_call_said_and_wrote() -> None:
    run = two_samples()
    assert run.n_samples == 2
    assert run.n_steps == 2
    assert run.calls.tolist() == [2, 1]
    assert run.tokens(0).tolist() == [[1, M, M], [2, M, 4]]
    assert run.tokens(-1).tolist() == [[1, 5, 8], [2, 6, 4]]
    assert run.data["proposal"].values.tolist() == [[[-1, -1, -1], [-1, 5, 8], [-1, 9, 8]], [[-1, -1, -1], [-1, 6, -1], [-1, -1, -1]]]
    nan = float("nan")
    expected = [[[nan, nan, nan], [nan, 0.6, 0.7], [nan, 0.6, 0.7]], [[nan, nan, nan], [nan, 0.2, nan], [nan, nan, nan]]]
    for name in ("confidence", "margin", "entropy"):
        np.testing.assert_allclose(run.data[name].values, expected, rtol=1e-6)
    assert run.data["state"].values[1].tolist() == [[P, MASKED, P], [P, COMMITTED, P], [P, COMMITTED, P]]
    assert run.data["commit_step"].values.tolist() == [[0, 1, 2], [0, 1, 0]]
    assert (run.model, run.fingerprint, run.task, run.policy) == ("m", "m:0", "sudoku", "by hand")


@pytest.mark.parametrize("run", [two_samples(), recorded(HISTORY)], ids=["two samples", "history"])
def test_what_is_saved_is_loaded(run: Trajectory, tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.zarr"
    run.save(path)
    found = Trajectory.load(path)
    assert found.data.identical(run.data)
    assert {name: found.data[name].dtype for name in found.data} == {name: run.data[name].dtype for name in run.data}
    assert [entry.name for entry in path.parent.iterdir()] == ["run.zarr"]
    found.save(path)
    assert Trajectory.load(path).data.identical(run.data)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "run.zarr"
    recorded(HISTORY).save(path)
    return path


def expect_one_line(path: Path, message: str) -> None:
    with pytest.raises(TrajectoryError, match=message) as caught:
        Trajectory.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["token", "proposal", "state", "commit_step", "calls", "confidence", "margin", "entropy"])
def test_a_missing_variable_is_named(saved: Path, name: str) -> None:
    shutil.rmtree(saved / name)
    expect_one_line(saved, f"cut short: it lacks {name}")


@pytest.mark.parametrize("name", ["token", "proposal", "state", "commit_step", "calls", "confidence"])
def test_a_missing_chunk_is_found_though_zarr_reads_it_as_zeros(saved: Path, name: str) -> None:
    shutil.rmtree(saved / name / "c")
    expect_one_line(saved, "damaged")


def test_a_chunk_cut_short_is_found(saved: Path) -> None:
    (chunk,) = (path for path in (saved / "token" / "c").rglob("*") if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-5])
    expect_one_line(saved, "damaged")


@pytest.mark.parametrize("name", ["zarr.json", "token/zarr.json", "step/zarr.json"])
@pytest.mark.parametrize("how", ["gone", "empty", "no json", "list"])
def test_damaged_metadata_is_an_error_of_ours(saved: Path, name: str, how: str) -> None:
    if how == "gone":
        (saved / name).unlink()
    else:
        (saved / name).write_text({"empty": "", "no json": "{", "list": "[]"}[how])
    if (name, how) == ("step/zarr.json", "gone"):
        pytest.skip("the labels of the steps are their numbers; nothing is lost with them")
    expect_one_line(saved, "damaged|cut short|no trajectory")


def edit_attributes(path: Path, **changes: object) -> None:
    whole = json.loads((path / "zarr.json").read_text())
    whole["attributes"] = {name: value for name, value in {**whole["attributes"], **changes}.items() if value is not None}
    (path / "zarr.json").write_text(json.dumps(whole))


@pytest.mark.parametrize("version", [1, 3, "2", None])
def test_a_newer_format_is_named(saved: Path, version: object) -> None:
    edit_attributes(saved, format_version=version)
    expect_one_line(saved, "format_version .*; this version of denoscope reads 2")


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_missing_attribute_is_named(saved: Path, name: str) -> None:
    edit_attributes(saved, **{name: None})
    expect_one_line(saved, f"lacks {name}")


def test_what_is_no_trajectory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "absent", tmp_path, tmp_path / "file"):
        expect_one_line(path, "is no trajectory")


def foreign_zarr(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        xr.Dataset({"precious": ("x", np.arange(3))}).to_zarr(path, zarr_format=3, consolidated=False)


@pytest.mark.parametrize("kind", ["file", "folder", "empty folder", "other zarr"])
def test_only_a_trajectory_is_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "precious"
    if kind == "file":
        path.write_text("x")
    elif kind == "other zarr":
        foreign_zarr(path)
    else:
        path.mkdir()
        if kind == "folder":
            (path / "notes.txt").write_text("x")
    before = sorted(entry.relative_to(tmp_path) for entry in tmp_path.rglob("*"))
    with pytest.raises(TrajectoryError, match="exists and is no trajectory; choose another path"):
        recorded(HISTORY).save(path)
    assert sorted(entry.relative_to(tmp_path) for entry in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("inside", ["run.zarr", "a/b/run.zarr"])
def test_a_path_inside_a_file_is_named(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(TrajectoryError, match=r"run\.zarr.*is no folder"):
        recorded(HISTORY).save(tmp_path / "file" / inside)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_keeps_the_earlier_trajectory_and_leaves_nothing(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Trajectory.load(saved)
    kept = zarr.Array.__setitem__

    def full(array: zarr.Array, where: object, values: object) -> None:
        if array.name.endswith("margin"):
            raise OSError(28, "No space left on device")
        kept(array, where, values)

    monkeypatch.setattr(zarr.Array, "__setitem__", full)
    for path in (saved, saved.with_name("other.zarr")):
        with pytest.raises(TrajectoryError, match=r"could not be written to .*: No space left on device"):
            two_samples().save(path)
    assert [entry.name for entry in saved.parent.iterdir()] == ["run.zarr"]
    assert Trajectory.load(saved).data.identical(before.data)
