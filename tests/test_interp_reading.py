"""Readers and readings: moved maps compose, calibration is calibrated, and nothing of another model is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.account import account_of, write_account
from interp.concepts import CONCEPTS
from interp.corpus import puzzle_corpus
from interp.harvest import Harvest
from interp.narration import JUSTIFICATIONS, UNREASONED
from interp.reading import (
    Halves,
    Reader,
    ReadingError,
    best_reader,
    calibration_scores,
    harvest_runs,
    latent_reader,
    load_readers,
    random_reader,
    read,
    reader_sets,
    readings,
    recording,
    save_readers,
)
from interp.reading.readers import _moved
from interp.transfer import TransferData, Twins, collect
from interp.viz.sudoku_view import board_traces
from models.backends import Edit
from models.decoding import Decoding
from models.denoise import StepContext, denoise
from models.hookpoints import HookPoint, resid_post
from models.language_model import LanguageModel
from models.load import load
from models.tasks.sudoku.generator import generate
from models.tasks.sudoku.task import MASK_ID, SUDOKU
from models.traces import from_token_histories
from models.trajectory import Trajectory
from models.trajectory_store import TrajectoryError
from probes.align import Alignment
from probes.linear import LinearProbe

BOARDS = generate(2, "naked_singles", seed=31)
POINTS = [resid_post(1), resid_post(3)]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load("sudoku-diffusion")


@pytest.fixture(scope="module")
def data(model: LanguageModel) -> TransferData:
    boards = generate(50, "naked_singles", seed=33)
    fit, test = (puzzle_corpus(model.task, part) for part in (boards[:20], boards[20:]))
    return collect(Twins(load("sudoku-ar"), model), fit, test, POINTS, untrained=False)


@pytest.fixture(scope="module")
def readers(data: TransferData) -> dict[str, Reader]:
    return {name: best_reader(data, CONCEPTS[name], POINTS) for name in ("candidates", "digit")}


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
    share = torch.from_numpy((trajectory.tokens(2)[:, 82:] == MASK_ID).sum(1) / (BOARDS.givens == 0).sum(1)).float()
    np.testing.assert_allclose(reading.unwritten[:, 3], share, atol=1e-6)
    expected = reader.probabilities(cache[reader.point][:, 82 + cell - 1], share)
    torch.testing.assert_close(torch.from_numpy(reading.scores["candidates"].values[:, 3, cell]), expected, atol=1e-5, rtol=1e-4)
    assert np.isnan(reading.scores["candidates"].values[:, 0]).all()
    assert reading.scores["candidates"].dims == ("sample", "step", "position", "head")


def test_the_account_of_a_run_is_written_and_drawn(
    model: LanguageModel, readers: dict[str, Reader], trajectory: Trajectory, tmp_path: Path
) -> None:
    account = account_of(model, trajectory, readers)
    assert (account.solutions == BOARDS.solutions).all()
    written = [statement for statement in account.statements if statement.kind in (*JUSTIFICATIONS, *UNREASONED)]
    assert len(written) == (BOARDS.givens == 0).sum()
    write_account(account, tmp_path)
    assert len((tmp_path / "reading.jsonl").read_text().splitlines()) == len(account.statements)
    assert "<script" in (tmp_path / "index.html").read_text()
    views = board_traces(account.reading, account.solutions, account.statements)
    for view, calls in zip(views, trajectory.calls, strict=True):
        assert len(view.steps) == calls + 1
        assert sum(len(step.written) for step in view.steps) == view.givens.count(0)


def test_readers_are_saved_and_tied_to_their_model(
    model: LanguageModel, readers: dict[str, Reader], trajectory: Trajectory, tmp_path: Path
) -> None:
    save_readers({"digit @ 3": readers["digit"], "candidates": readers["candidates"]}, tmp_path / "readers")
    (tmp_path / "readers" / ".a-result-in-the-making").mkdir()
    loaded = load_readers(tmp_path / "readers", model)
    assert set(loaded) == {"candidates", "digit @ 3"}
    own, again = readers["digit"], loaded["digit @ 3"]
    before, after = (read(model, trajectory.select([1]), {"digit": one}) for one in (own, again))
    np.testing.assert_array_equal(before.scores["digit"].values, after.scores["digit"].values)
    np.testing.assert_array_equal(before.readable("digit").values, after.readable("digit").values)
    np.testing.assert_array_equal(before.false_alarm("digit").values, after.false_alarm("digit").values)
    for field in ("source", "alignment", "exact", "point", "reads", "name"):
        assert getattr(own, field) == getattr(again, field)
    assert (again.calibration.bands, again.calibration.alpha) == (own.calibration.bands, own.calibration.alpha)
    assert again.calibration.boards == own.calibration.boards == 15
    with pytest.raises(ReadingError, match=r"reads sudoku-masked:\w+, and the model is sudoku-causal:\w+"):
        load_readers(tmp_path / "readers", load("sudoku-ar"))
    with pytest.raises(ReadingError, match="holds no readers; `denoscope demo"):
        load_readers(tmp_path / "nothing", model)
    (tmp_path / "readers" / "candidates" / "calibration.safetensors").unlink()
    with pytest.raises(ReadingError, match="candidates holds no whole reader"):
        load_readers(tmp_path / "readers", model)


def test_a_trajectory_of_another_model_is_not_read(model: LanguageModel, readers: dict[str, Reader], trajectory: Trajectory) -> None:
    other = Trajectory(trajectory.data.assign_attrs(fingerprint="other:0"))
    with pytest.raises(ReadingError, match="the trajectory is of other:0"):
        read(model, other, readers)
    with pytest.raises(ReadingError, match="reads other:0"):
        read(model, trajectory, {"digit": replace(readers["digit"], reads="other:0")})


def test_a_random_reader_keeps_the_form_and_loses_the_content(model: LanguageModel, readers: dict[str, Reader], data: TransferData) -> None:
    reader = replace(readers["candidates"], point=resid_post(3))
    control = random_reader(reader, data, seed=0)
    assert control.probe.weight.shape == reader.probe.weight.shape
    assert control.exact < 0.5
    assert control.concept is CONCEPTS["candidates"]
    assert control.source == "random"


def test_sets_of_readers_are_calibrated_alike_and_moved_ones_are_not_chosen_by_the_boards_that_measure_them(data: TransferData) -> None:
    concept, points = CONCEPTS["candidates"], POINTS
    sets = reader_sets(data, [concept], points)
    assert list(sets) == ["ar", "diffusion", "random"]
    for source, found in sets.items():
        reader = found["candidates"]
        assert (reader.source, reader.calibration.boards) == (source, 15)
    assert sets["ar"]["candidates"].exact > sets["random"]["candidates"].exact
    assert sets["random"]["candidates"].point == sets["ar"]["candidates"].point
    assert sets["diffusion"]["candidates"].alignment == "identity"
    halves = Halves.of(data.diffusion.test)
    assert not set(halves.fit.sites.group.tolist()) & set(halves.test.sites.group.tolist())
    other = replace(halves, test=halves.test.rows(torch.arange(40)))
    one, two = (best_reader(data, concept, points, halves=part) for part in (halves, other))
    assert (one.point, one.alignment) == (two.point, two.alignment)
    torch.testing.assert_close(one.calibration.threshold, two.calibration.threshold)


def test_held_out_sites_of_one_board_are_refused(data: TransferData) -> None:
    of_one: Harvest = data.diffusion.test.rows(data.diffusion.test.sites.group == 3)
    with pytest.raises(ReadingError, match="the held-out sites are of 1 board; it takes some boards"):
        Halves.of(of_one)


def test_the_truth_of_a_run_is_what_it_ended_with(model: LanguageModel) -> None:
    decoding = Decoding("random", steps=4)
    corpus = puzzle_corpus(model.task, BOARDS)
    found = harvest_runs(model, corpus, [resid_post(1)], decoding, sites_per_canvas=3)
    end = torch.from_numpy(denoise(model, SUDOKU.prompt(BOARDS), decoding).tokens(-1))
    assert (found.sites.truth == end[found.sites.sample]).all()
    assert (found.sites.seen[torch.arange(len(found.sites)), found.sites.position] == MASK_ID).all()
    assert set(found.sites.step.tolist()) == {1, 2, 3, 4}


def test_a_claim_is_made_at_the_threshold_of_its_band(model: LanguageModel, readers: dict[str, Reader], trajectory: Trajectory) -> None:
    reading = read(model, trajectory, readers)
    for name, reader in readers.items():
        scores, claims = reading.scores[name], reading.readable(name)
        assert claims.dtype == bool
        assert not claims[:, 0].any()
        band = reader.calibration.band(torch.from_numpy(reading.unwritten[1, 2:3]))
        over = scores.values[1, 2] > reader.calibration.threshold[band].numpy()
        if reader.concept.exclusive:
            over &= scores.values[1, 2] == scores.values[1, 2].max(1, keepdims=True)
        np.testing.assert_array_equal(claims.values[1, 2], over)
        rates = reading.false_alarm(name)
        assert rates.dims == ("sample", "step", "head")
        np.testing.assert_array_equal(rates.values[1, 2], reader.calibration.false_alarm[band][0].numpy())
        assert np.isnan(rates.values[:, 0]).all()


def test_parts_of_a_trajectory_read_as_the_whole(model: LanguageModel, readers: dict[str, Reader], trajectory: Trajectory) -> None:
    whole = read(model, trajectory, readers)
    parts = list(readings(model, trajectory, readers, samples_at_once=1))
    assert [part.trajectory.n_samples for part in parts] == [1, 1]
    for name in readers:
        joined = np.concatenate([part.scores[name].values for part in parts])
        np.testing.assert_allclose(joined, whole.scores[name].values, atol=1e-5)
    assert [part.scores["digit"]["sample"].item() for part in parts] == [0, 1]


def test_anything_with_a_point_and_heads_is_read_in_the_same_pass(
    model: LanguageModel, readers: dict[str, Reader], trajectory: Trajectory
) -> None:
    from sae_lens import TopKSAE, TopKSAEConfig

    torch.manual_seed(0)
    sae = TopKSAE(TopKSAEConfig(d_in=model.d_model, d_sae=16, k=4, dtype="float32", device="cpu"))
    with pytest.raises(ReadingError, match="the SAE says it was fitted on ''; to be read in a run it must say"):
        latent_reader(sae, [2])
    sae.cfg.metadata.fitted_on = f"{model.fingerprint}@{resid_post(2)}"
    with pytest.raises(ReadingError, match=r"the latents are \[16\]; give some of the SAE's 0 to 15"):
        latent_reader(sae, [16])
    found = latent_reader(sae, [2, 7])
    reading = read(model, trajectory, {"latents": found, "digit": readers["digit"]})
    _, cache = model.run_with_cache(torch.from_numpy(trajectory.tokens(0)), [resid_post(2)])
    expected = sae.encode(cache[resid_post(2)][:, 81:162]).detach()[..., [2, 7]]
    np.testing.assert_allclose(reading.scores["latents"].values[:, 1], expected.numpy(), atol=1e-4)
    assert reading.scores["latents"]["head"].values.tolist() == ["2", "7"]
    with pytest.raises(ReadingError, match=r"latents 2, 7 @ blocks.2.hook_resid_post has no thresholds"):
        reading.readable("latents")


def test_steered_and_patched_calls_are_read_from_their_record_or_refused(
    model: LanguageModel, readers: dict[str, Reader], trajectory: Trajectory
) -> None:
    reader = {"digit": readers["digit"]}
    point, prompts = readers["digit"].point, SUDOKU.prompt(BOARDS)
    push = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0)) * 5

    def edits(context: StepContext) -> dict[HookPoint, Edit]:
        return {point: lambda activation: activation + push}

    decoding = Decoding("low_confidence", steps=3)
    with pytest.raises(ReadingError, match=rf"the activations of call 1 were patched or steered, and {point} was not recorded"):
        read(model, denoise(model, prompts, decoding, edits=edits), reader)
    kept = denoise(model, prompts, decoding, edits=edits, record=recording(reader))
    reading = read(model, kept, reader)
    _, cache = model.run_with_cache(prompts, [point])
    written = 82 + np.flatnonzero(BOARDS.givens[0] == 0)[0]
    expected = readers["digit"].probabilities(cache[point][:1, written - 1] + push, torch.ones(1))
    np.testing.assert_allclose(reading.scores["digit"].sel(position=written).values[0, 1], expected[0].numpy(), atol=0.02)
    patched = trajectory.at(2).patch(point, trajectory.at(4)).resume(model)
    with pytest.raises(ReadingError, match="the activations of call 3 were patched or steered"):
        read(model, patched, reader)
    edited = trajectory.at(2).edit({100: 5}).resume(model)
    assert np.isfinite(read(model, edited, reader).scores["digit"].values[:, 1:3]).all()
    again = kept.at(2).resume(model)
    np.testing.assert_allclose(
        read(model, again, reader).scores["digit"].values[:, 1:3], reading.scores["digit"].values[:, 1:3], atol=1e-5, equal_nan=True
    )


def test_a_trace_of_another_tool_is_refused(model: LanguageModel, readers: dict[str, Reader]) -> None:
    mask = model.task.mask_token_id
    foreign = from_token_histories([np.full((1, 4), mask), np.array([[1, mask, mask, mask]])], mask)
    with pytest.raises(
        ReadingError, match=r"the trace is of another tool .*; `denoscope trace sudoku-diffusion --out FILE.zarr` records one"
    ):
        read(model, foreign, readers)


def test_samples_that_are_not_there_cannot_be_selected(trajectory: Trajectory) -> None:
    with pytest.raises(TrajectoryError, match="there is no sample 2; the trajectory has samples 0 to 1"):
        trajectory.select([0, 2])


def test_false_alarms_and_recall_of_the_statistics_are_those_that_calibration_measured(data: TransferData) -> None:
    sets = reader_sets(data, [CONCEPTS["digit"]], [resid_post(3)])
    reader = sets["ar"]["digit"]
    test = Halves.of(data.diffusion.test).test
    found = {statistic.name: statistic for statistic in calibration_scores(sets, test)}
    assert set(found) == {"calibration_error", "false_alarms", "recall"}
    rate = found["false_alarms"].at(readers="ar", unwritten="80% to 100%")
    assert rate.value == pytest.approx(reader.calibration.false_alarm[4, 0].item())
    assert (rate.n, found["false_alarms"].roles) == (15, {"random": "floor", "diffusion": "reference"})
    assert rate.low <= rate.value <= rate.high
    recalls = [found["recall"].at(readers=source, unwritten="all").value for source in ("ar", "random")]
    assert recalls[0] > recalls[1]
    error = found["calibration_error"].at(readers="ar", unwritten="all")
    assert 0 <= error.low < error.value < error.high < 0.1
