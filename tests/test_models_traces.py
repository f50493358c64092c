"""Traces of other tools become trajectories that say what is known and nothing else, and files that hold code never run it."""

# ruff: noqa: TID251 (it writes the files that are to be read, and those to be refused)

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import save_file

from models.recorder import Recorder
from models.traces import LLADA_MASK_TOKEN_ID, from_token_histories, load_trace
from models.trajectory import State, Trajectory
from models.trajectory_store import TrajectoryError

M = 9
L = LLADA_MASK_TOKEN_ID
# Two samples: a prompt of one token, and three positions to write; the second run masks one again.
CANVASES = [
    [[1, M, M, M], [2, M, M, M]],
    [[1, 5, M, M], [2, 4, 4, M]],
    [[1, 5, 6, M], [2, 4, M, 3]],
    [[1, 5, 6, 7], [2, 4, 8, 3]],
]


def histories() -> list[torch.Tensor]:
    return [torch.tensor(canvas) for canvas in CANVASES]


def prophet(**changes: Any) -> dict[str, Any]:
    """Returns what Prophet's script saves of a prompt of two tokens and two blocks of two, the last position forced to be 77."""
    trace = {
        "x0_history": [
            torch.tensor([[50, 51, 10, 11, 12, 13], [50, 51, 20, 21, 22, 23]]),
            torch.tensor([[50, 51, 30, 31, 32, 33], [50, 51, 40, 41, 42, 43]]),
        ],
        "true_indices_history": [
            [torch.tensor([[0, 3]]), torch.tensor([[0, 2]])],
            [torch.tensor([[0, 4]]), torch.zeros(0, 2, dtype=torch.long)],
        ],
        "correct": True,
        "pred_text": "text",
        "ans_posidx": 4,
        "pred_ans": "3",
        "gt_text": "3",
        "pred_token_id": [32],
        "gt_token_id": [32],
        "prompt_token_len": 2,
        "gen_ids": [20, 11, 32, 77],
    }
    return {name: value for name, value in {**trace, **changes}.items() if value is not None}


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def refused(path: Path, message: str, **told: Any) -> None:
    with pytest.raises(TrajectoryError, match=message) as caught:
        load_trace(path, **told)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_histories_tell_what_was_written_and_when() -> None:
    run = from_token_histories(histories(), M)
    np.testing.assert_array_equal(run.data["token"].values.swapaxes(0, 1), CANVASES)
    assert run.data["commit_step"].values.tolist() == [[0, 1, 2, 3], [0, 1, 3, 2]]
    assert run.calls.tolist() == [3, 3]
    assert run.data["state"].values[1, :, 2].tolist() == [State.MASKED, State.COMMITTED, State.REMASKED, State.REVISED]
    nothing = [-1, -1, -1, -1]
    assert run.data["proposal"].values[1].tolist() == [nothing, [-1, 4, 4, -1], [-1, -1, -1, 3], [-1, -1, 8, -1]]
    assert all(np.isnan(run.data[name].values).all() for name in ("confidence", "margin", "entropy"))
    assert {name: run.data.attrs[name] for name in ("model", "fingerprint", "task", "policy", "options", "seed")} == {
        "model": "unknown",
        "fingerprint": "",
        "task": "",
        "policy": "dllm",
        "options": "{}",
        "seed": 0,
    }


@settings(max_examples=30)
@given(arrays(np.int64, st.tuples(st.integers(2, 5), st.integers(1, 3), st.integers(1, 4)), elements=st.sampled_from([0, 1, M])))
def test_histories_are_what_a_recorder_sees(canvases: np.ndarray) -> None:
    canvases[0, :, 0] = M
    canvases[1:] = np.where(canvases[0] == M, canvases[1:], canvases[0])
    recorder = Recorder(canvases[0], canvases[0] == M, M)
    for canvas in canvases[1:]:
        recorder.add(np.arange(len(canvas)), canvas, {})
    expected = recorder.finish({})
    assert expected is not None
    found = from_token_histories(list(canvases), M)
    for name in ("token", "state", "commit_step", "calls"):
        np.testing.assert_array_equal(found.data[name].values, expected.data[name].values)


def test_a_foreign_trajectory_is_saved_as_ours(tmp_path: Path) -> None:
    run = from_token_histories(histories(), M, model="dream", policy="entropy")
    run.save(tmp_path / "run.zarr")
    assert load_trace(tmp_path / "run.zarr").data.identical(run.data)


def test_canvases_that_grow_were_masked_before() -> None:
    grown = [torch.tensor([[1, 2]]), torch.tensor([[1, 2, 5, M]]), torch.tensor([[1, 2, 5, 6]]), torch.tensor([[1, 2, 5, 6, 7, 8]])]
    run = from_token_histories(grown, M)
    assert run.tokens(0).tolist() == [[1, 2, M, M, M, M]]
    assert run.data["commit_step"].values.tolist() == [[0, 0, 1, 2, 3, 3]]


def by_step() -> dict[str, torch.Tensor]:
    """Returns the canvases by name, eleven of them, so that the names do not sort as their numbers do."""
    return {f"step_{step}": canvas for step, canvas in enumerate([*histories(), *(histories()[-1] for _ in range(7))])}


FILES = {
    "list.pt": lambda path: torch.save(histories(), path),
    "output.pt": lambda path: torch.save({"sequences": histories()[-1], "histories": histories()}, path),
    "stacked.pth": lambda path: torch.save(torch.stack(histories()), path),
    "said.pt": lambda path: torch.save({"histories": histories(), "mask_token_id": M}, path),
    "stacked.npz": lambda path: np.savez(path, histories=np.array(CANVASES)),
    "list.npz": lambda path: np.savez(path, *map(np.array, CANVASES)),
    "stacked.safetensors": lambda path: save_file({"histories": torch.stack(histories())}, path),
    "steps.safetensors": lambda path: save_file(by_step(), path),
    "said.safetensors": lambda path: save_file({"histories": torch.stack(histories()), "mask_token_id": torch.tensor(M)}, path),
}


@pytest.mark.parametrize("name", FILES)
def test_histories_are_read_from_any_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    FILES[name](path)
    run = load_trace(path, mask_token_id=None if name.startswith("said") else M, model="llada", task="stories")
    assert run.data["commit_step"].values.tolist() == [[0, 1, 2, 3], [0, 1, 3, 2]]
    assert (run.model, run.task, run.policy) == ("llada", "stories", "dllm")


def test_prophets_steps_are_replayed(tmp_path: Path) -> None:
    run = load_trace(saved(prophet(), tmp_path / "question_0000_steps_004.pt"))
    assert run.data["token"].values[0].tolist() == [[L, L, L, 77], [L, 11, L, 77], [20, 11, L, 77], [20, 11, 32, 77], [20, 11, 32, 77]]
    said = [[-1, -1, -1, -1], [10, 11, 12, -1], [20, 21, 22, -1], [30, 31, 32, -1], [40, 41, 42, -1]]
    assert run.data["proposal"].values[0].tolist() == said
    assert run.data["commit_step"].values.tolist() == [[2, 1, 3, 0]]
    assert (run.model, run.task, run.policy) == ("unknown", "", "prophet")


def test_forced_tokens_of_prophets_are_unknown_without_its_result(tmp_path: Path) -> None:
    run = load_trace(saved(prophet(gen_ids=None), tmp_path / "run.pt"))
    assert run.tokens(-1).tolist() == [[20, 11, 32, -1]]
    assert (run.data["state"].values[0, :, 3] == State.PADDING).all()


def test_prophets_prompt_ends_where_it_first_wrote_unless_said(tmp_path: Path) -> None:
    content = {name: value for name, value in prophet().items() if name.endswith("_history")}
    assert load_trace(saved(content, tmp_path / "run.pt")).tokens(-1).tolist() == [[20, 11, 32, -1]]


def test_a_trace_of_ours_is_loaded_and_not_told(tmp_path: Path) -> None:
    run = from_token_histories(histories(), M)
    run.save(tmp_path / "run.zarr")
    assert isinstance(load_trace(tmp_path / "run.zarr"), Trajectory)
    refused(tmp_path / "run.zarr", "says its mask_token_id itself", mask_token_id=M)
    refused(tmp_path / "run.zarr", "says its model, task itself", model="m", task="t")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    run = from_token_histories(histories(), M)
    Trajectory(run.data.assign_attrs(format_version=99)).save(tmp_path / "run.zarr")
    refused(tmp_path / "run.zarr", "format_version 99")


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def write_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def write_legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_objects(content: Any, path: Path) -> None:
    np.savez(path, histories=np.array([content], dtype=object))


@pytest.mark.parametrize(
    ("write", "name", "message"),
    [
        (torch.save, "run.pt", r"holds code \(posix.mkdir\), which is never run"),
        (write_legacy, "run.pt", "no file of torch.save"),
        (write_pickle, "run.pt", "no file of torch.save"),
        (write_pickle, "run.npz", "no file of numpy.savez"),
        (write_pickle, "run.safetensors", "no safetensors file"),
        (write_objects, "run.npz", "may hide code and are never read"),
    ],
    ids=["torch", "torch before 1.6", "pickle", "pickle as npz", "pickle as safetensors", "objects"],
)
def test_code_is_never_run(write: Any, name: str, message: str, tmp_path: Path) -> None:
    trap = tmp_path / "made"
    write({"x0_history": Malicious(trap)}, tmp_path / name)
    refused(tmp_path / name, message, mask_token_id=M)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Malicious(trap)))
    assert trap.exists()  # so the trap works


@pytest.mark.parametrize("name", ["list.pt", "list.npz", "stacked.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_file_cut_short_is_refused(name: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / name
    FILES[name](path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refused(path, "cut short", mask_token_id=M)


def test_what_is_no_trace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    refused(tmp_path / "run.json", r"is no trace; one is a Zarr folder .* or a \.pt, \.pth, \.npz, \.safetensors file")
    refused(tmp_path / "run.pt", "there is no file")
    refused(tmp_path, "is no trajectory")
    refused(saved("words", tmp_path / "words.pt"), "holds a str")
    refused(saved({"weight": torch.zeros(2)}, tmp_path / "model.pt"), "it holds weight; a trace has histories", mask_token_id=M)
    refused(saved({"histories": "words"}, tmp_path / "text.pt"), "no canvases of token ids", mask_token_id=M)
    refused(saved(histories(), tmp_path / "list.pt"), "pass mask_token_id")


@pytest.mark.parametrize(
    ("canvases", "message"),
    [
        ([], r"0 canvas\(es\)"),
        ([[[M]]], r"1 canvas\(es\)"),
        ([[M, M], [1, M]], r"canvas 0 is int64 \(2,\)"),
        ([[[0.5]], [[0.5]]], "float32"),
        ([[[M]], [[1], [2]]], r"canvas 1 is \(2, 1\) after \(1, 1\)"),
        ([[[M, M]], [[1]]], "may only grow"),
        ([[[1, 2]], [[1, 2]]], r"the mask token 9 is not in the first canvas \(tokens 1 to 2\)"),
        ([[[1, M]], [[1, M]], [[3, 2]]], "step 2 changes position 0 of sample 0"),
    ],
)
def test_what_is_no_history_is_refused(canvases: list[Any], message: str) -> None:
    with pytest.raises(TrajectoryError, match=message):
        from_token_histories([torch.tensor(canvas) for canvas in canvases], M)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"true_indices_history": None}, "true_indices_history"),
        ({"true_indices_history": [[torch.tensor([[0, 3]])]]}, "cut short: x0_history has 4 steps, true_indices_history 1"),
        ({"x0_history": [torch.zeros(4, 6)]}, "x0_history is float32"),
        ({"x0_history": [torch.zeros(4, 6, 2, dtype=torch.long)]}, r"x0_history is int64 \(4, 6, 2\)"),
        ({"x0_history": torch.tensor(3)}, r"x0_history must be \[step, pos\] a block"),
        ({"prompt_token_len": 3, "gen_ids": None}, r"positions \[2\] are committed; they must be after the prompt, 3 to 5"),
        ({"gen_ids": [20, 11]}, r"gen_ids have shape \(2,\)"),
        ({"gen_ids": [20, 11, 31, 77]}, "its steps write 32 at position 2, and gen_ids has 31"),
    ],
)
def test_a_damaged_file_of_prophets_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    refused(saved(prophet(**changes), tmp_path / "run.pt"), message)
