"""Readers and readings: moved maps compose, calibration is calibrated, and nothing of another model is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.account import account_of, fit_readers, write_account
from interp.concepts import CONCEPTS
from interp.corpus import puzzle_corpus
from interp.reading import Reader, ReadingError, _moved, load_readers, random_reader, read, save_readers
from interp.transfer import Twins, collect
from interp.viz.sudoku_view import board_traces
from models.decoding import Decoding
from models.denoise import denoise
from models.hookpoints import resid_post
from models.language_model import LanguageModel
from models.load import load
from models.tasks.sudoku.generator import generate
from models.tasks.sudoku.task import SUDOKU
from models.trajectory import Trajectory
from probes.align import Alignment
from probes.linear import LinearProbe

BOARDS = generate(2, "naked_singles", seed=31)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load("sudoku-diffusion")


@pytest.fixture(scope="module")
def readers(model: LanguageModel) -> dict[str, Reader]:
    return fit_readers("sudoku-ar", model, sizes=(60, 30))


@pytest.fixture(scope="module")
def trajectory(model: LanguageModel) -> Trajectory:
    return denoise(model, SUDOKU.prompt(BOARDS), Decoding("low_confidence", steps=6))


def test_moving_a_probe_is_reading_the_moved_activations() -> None:
    generator = torch.Generator().manual_seed(0)
    probe = LinearProbe(torch.randn(3, 5, generator=generator), torch.randn(3, generator=generator), ("a", "b", "c"), "logistic", "ar:0")
    alignment = Alignment(torch.randn(5, 5, generator=generator), torch.randn(5, generator=generator), "ridge_affine")
    x = torch.randn(7, 5, generator=generator)
    torch.testing.assert_close(_moved(probe, alignment).scores(x), probe.scores(alignment(x)))


def test_a_reading_is_the_probe_on_what_each_call_saw(model: LanguageModel, readers: dict[str, Reader], trajectory: Trajectory) -> None:
    reading = read(model, trajectory, readers)
    reader = readers["candidates"]
    canvases = torch.from_numpy(trajectory.tokens(2))
    _, cache = model.run_with_cache(canvases, [reader.point])
    cell = 40
    expected = reader.probe.probabilities(cache[reader.point][:, 82 + cell - 1])
    torch.testing.assert_close(torch.from_numpy(reading.scores["candidates"].values[:, 3, cell]), expected, atol=1e-5, rtol=1e-4)
    assert np.isnan(reading.scores["candidates"].values[:, 0]).all()
    assert reading.scores["candidates"].dims == ("sample", "step", "position", "head")


def test_the_account_of_a_run_is_written_and_drawn(
    model: LanguageModel, readers: dict[str, Reader], trajectory: Trajectory, tmp_path: Path
) -> None:
    account = account_of(model, trajectory, readers)
    assert (account.solutions == BOARDS.solutions).all()
    written = [statement for statement in account.statements if statement.kind not in ("decided", "revised")]
    assert len(written) == (BOARDS.givens == 0).sum()
    write_account(account, tmp_path)
    assert len((tmp_path / "reading.jsonl").read_text().splitlines()) == len(account.statements)
    assert "<script" in (tmp_path / "index.html").read_text()
    views = board_traces(account.reading, account.solutions, account.statements)
    for view, calls in zip(views, trajectory.calls, strict=True):
        assert len(view.steps) == calls + 1
        assert sum(len(step.written) for step in view.steps) == view.givens.count(0)


def test_readers_are_saved_and_tied_to_their_model(model: LanguageModel, readers: dict[str, Reader], tmp_path: Path) -> None:
    save_readers(readers, tmp_path / "readers")
    loaded = load_readers(tmp_path / "readers", model)
    assert set(loaded) == {"candidates", "digit"}
    x = torch.randn(3, model.d_model)
    torch.testing.assert_close(loaded["digit"].probe.scores(x), readers["digit"].probe.scores(x))
    with pytest.raises(ReadingError, match=r"reads sudoku-masked:\w+, and the model is sudoku-causal:\w+"):
        load_readers(tmp_path / "readers", load("sudoku-ar"))
    with pytest.raises(ReadingError, match="holds no readers; `denoscope demo"):
        load_readers(tmp_path / "nothing", model)


def test_a_trajectory_of_another_model_is_not_read(model: LanguageModel, readers: dict[str, Reader], trajectory: Trajectory) -> None:
    other = Trajectory(trajectory.data.assign_attrs(fingerprint="other:0"))
    with pytest.raises(ReadingError, match="the trajectory is of other:0"):
        read(model, other, readers)
    with pytest.raises(ReadingError, match="reads other:0"):
        read(model, trajectory, {"digit": replace(readers["digit"], reads="other:0")})


def test_a_random_reader_keeps_the_form_and_loses_the_content(model: LanguageModel, readers: dict[str, Reader]) -> None:
    boards = generate(40, "naked_singles", seed=33)
    fit, test = (puzzle_corpus(model.task, part) for part in (boards[:10], boards[10:]))
    data = collect(Twins(load("sudoku-ar"), model), fit, test, [resid_post(3)], untrained=False)
    reader = replace(readers["candidates"], point=resid_post(3))
    control = random_reader(reader, data, seed=0)
    assert control.probe.weight.shape == reader.probe.weight.shape
    assert control.exact < 0.5
    assert control.concept is CONCEPTS["candidates"]
