"""``denoscope harvest``: what it writes, and what bad input costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from command_line import Run, refused

from interp.concepts import Kind
from interp.store import open_harvest
from models.tasks.sudoku.board import format_board
from models.tasks.sudoku.generator import generate


@pytest.fixture
def harvest(denoscope: Run) -> Run:
    """``harvest(model, "--out", folder)`` in this process, through the real entry point."""
    return partial(denoscope, "harvest")


def test_it_writes_a_harvest_and_goes_on_with_it(harvest: Run, twins: dict[str, Path], tmp_path: Path) -> None:
    command = (twins["masked"], "--out", tmp_path / "out", "--examples", 4, "--kinds", "masked", "--kinds", "settled", "--mask-rates", 0.5)
    ended = harvest(*command, "--sites-per-canvas", 3, "--seed", 7, "--dtype", "float16")
    assert ended.code == 0, ended.stderr
    assert "24 sites of 4 sequences at 2 hook points" in ended.stdout
    stored = open_harvest(tmp_path / "out")
    assert [str(point) for point in stored.points] == ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    assert stored.sites.kind.unique().tolist() == [Kind.MASKED, Kind.SETTLED]
    assert (stored.sites.mask_rate == 0.5).all()
    again = harvest(*command, "--sites-per-canvas", 3, "--seed", 7, "--dtype", "float16", "--json")
    figures = json.loads(again.stdout)
    assert (figures["sites"], figures["shards"], figures["n_sequences"], figures["dtype"]) == (24, 1, 4, "float16")
    refused(harvest(*command, "--sites-per-canvas", 3, "--dtype", "float16"), "holds a harvest whose", "choose another folder")


def test_points_are_asked_for_by_name_or_all_at_once(harvest: Run, twins: dict[str, Path], tmp_path: Path) -> None:
    counts = {("all",): 11, ("blocks.1.hook_mlp_out", "hook_resid_post"): 3, ("hook_resid_post", "all"): 11}
    for number, (names, count) in enumerate(counts.items()):
        options = [part for name in names for part in ("--points", name)]
        ended = harvest(twins["masked"], "--out", tmp_path / str(number), "--examples", 1, *options, "--json")
        assert len(json.loads(ended.stdout)["points"]) == count


def test_a_run_is_harvested_as_it_was_decoded(harvest: Run, twins: dict[str, Path], tmp_path: Path) -> None:
    run = ("--decoded", "--policy", "random", "--steps", 5, "--every", 2, "--set", "temperature=1", "--kinds", "committed")
    ended = harvest(twins["masked"], "--out", tmp_path / "out", "--examples", 2, *run)
    assert ended.code == 0, ended.stderr
    stored = open_harvest(tmp_path / "out")
    assert stored.sites.step.unique().tolist() == [3, 5]
    assert (stored.record.canvases["policy"], stored.record.canvases["temperature"]) == ("random", 1.0)


def test_puzzles_of_a_file_are_read(harvest: Run, twins: dict[str, Path], tmp_path: Path) -> None:
    boards = generate(3, "naked_singles", seed=6)
    (tmp_path / "boards.txt").write_text("".join(format_board(board) + "\n" for board in boards.givens))
    ended = harvest(twins["causal"], "--out", tmp_path / "out", "--puzzles", tmp_path / "boards.txt", "--examples", 2)
    assert ended.code == 0, ended.stderr
    assert (open_harvest(tmp_path / "out").sites.truth[0, 82:] == open_harvest(tmp_path / "out").sites.truth[1, 82:]).all()
    assert open_harvest(tmp_path / "out").record.n_sequences == 2


@pytest.mark.parametrize(
    ("model", "options", "parts"),
    [
        ("masked", ["--points", "blocks.7.hook_resid_post"], ["no such hook points", "blocks.0 to blocks.1 with", "hook_resid_post"]),
        ("masked", ["--points", "blocks.x"], ["'blocks.x' names no hook point; one is such as blocks.1.hook_resid_post", "or all"]),
        ("masked", ["--kinds", "blank"], ["unknown kind of position 'blank'; choose from prompt, masked, committed, settled"]),
        ("masked", ["--kinds", "committed"], ["no committed positions; choose from prompt, masked, settled"]),
        ("masked", ["--mask-rates", "1.5"], ["a mask rate is 1.5; it must be greater than 0 and at most 1"]),
        ("masked", ["--corrupt", "-1"], ["the share to corrupt is -1"]),
        ("masked", ["--policy", "random"], ["--policy is for a denoising run; add --decoded"]),
        ("masked", ["--decoded", "--corrupt", "0.1"], ["--corrupt is for masks drawn at random; leave out --decoded"]),
        ("masked", ["--decoded", "--policy", "best"], ["unknown policy 'best'; choose from random"]),
        ("masked", ["--decoded", "--every", "0"], ["every is 0; it must be at least 1"]),
        ("masked", ["--sites-per-canvas", "0"], ["sites_per_canvas is 0; it must be at least 1"]),
        ("masked", ["--files", "stories.txt"], ["masked solves puzzles: --files and --split are for text"]),
        ("causal", ["--mask-rates", "0.5"], ["causal is a causal model: it reads whole sequences, without --mask-rates"]),
        ("causal", ["--decoded"], ["without --decoded"]),
        ("causal", ["--kinds", "settled"], ["no settled positions; choose from prompt, masked"]),
        ("absent", [], ["absent", "is no model"]),
    ],
)
def test_bad_options_cost_one_line(
    model: str, options: list[str], parts: list[str], harvest: Run, twins: dict[str, Path], tmp_path: Path
) -> None:
    refused(harvest(twins.get(model, tmp_path / "absent"), "--out", tmp_path / "out", "--examples", 2, *options), *parts)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_other_things_is_left_alone(harvest: Run, twins: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("precious")
    refused(harvest(twins["masked"], "--out", tmp_path, "--examples", 2), "holds other files")
    refused(harvest(twins["masked"], "--out", tmp_path / "notes", "--examples", 2), "exists and is no folder")
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_an_interrupt_says_how_to_go_on(twins: dict[str, Path], tmp_path: Path) -> None:
    small = "import interp.store; interp.store.MOST_CANVASES = 5; from interp.cli import main; main()"
    arguments = ["harvest", twins["masked"], "--out", tmp_path / "out", "--examples", 500, "--points", "all"]
    command = [sys.executable, "-c", small, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        waited = time.monotonic()
        while not list((tmp_path / "out").glob("*.arrow")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() - waited < 120
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    assert "Traceback" not in stderr
    assert "the shards that are whole are kept, and the same command goes on from there" in stderr
    assert not list((tmp_path / "out").glob(".*"))
