"""``denoscope sae``: SAEs from a file, what bad ones cost, and trainings that are killed and gone on with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from command_line import Ended, Run, contents, refused

from interp.report import SAE_FLOORS, SaeEntry, over_all_sites
from interp.runs.folder import open_run, read_entries, write_table
from interp.saes.folder import SaeRun
from probes.saes.files import load_sae

SAES = """model: {model}
corpus: {{examples: 60}}
points: [blocks.1.hook_resid_post]
sites_per_canvas: 5
d_sae: 32
k: 4
batch: 64
activations: 2560
passes: 1
tuned: [128]
crosscoder: 100
"""
POINT = "blocks.1.hook_resid_post"


Written = Callable[..., Path]


@pytest.fixture
def sae(denoscope: Run) -> Run:
    """``sae("train", config, "--out", folder)`` in this process, through the real entry point."""
    return partial(denoscope, "sae")


@pytest.fixture
def config(twins: dict[str, Path], tmp_path: Path) -> Written:
    """``config("masked", "seeds: [3]")``: a file for a tiny model, with further lines that replace those of the same field."""

    def write(model: str = "causal", *lines: str) -> Path:
        fields = {line.split(":")[0]: line for line in (*SAES.format(model=twins.get(model, model)).splitlines(), *lines)}
        path = tmp_path / "some saes.yaml"
        path.write_text("\n".join(fields.values()) + "\n", encoding="utf-8")
        return path

    return write


# bad settings


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        (["d_sea: 64"], ["line 12: unknown field 'd_sea'; choose from model, corpus, points", "architecture, d_sae, k, "]),
        (["corpus: {exmples: 60}"], ["line 2: unknown field 'corpus.exmples'; choose from examples, files, labels, contrast, limit"]),
        (["model: absent"], ["line 1: ", "absent' is no model", "bundled models: stories-ar"]),
        (["architecture: transcoder"], ["line 12: architecture: unknown architecture 'transcoder'; choose from standard, gated, topk"]),
        (["points: [blocks.7.hook_resid_post]"], ["line 3: no such hook points", "blocks.0 to blocks.1"]),
        (["points: [blocks.one]"], ["line 3: 'blocks.one' names no hook point; one is such as blocks.1.hook_resid_post"]),
        (["concepts: [candidate]"], ["line 12: causal has no concept 'candidate' (task 'sudoku'); choose from candidates, digit"]),
        (["concepts: [dialogue]"], ["line 12: causal has no concept 'dialogue'", "it is of the task 'stories'; choose from candidates"]),
        (["concepts: [digit, digit]"], ["concepts: 'digit' is given twice"]),
        (["k: 40"], ["k is 40; it must be at most d_sae, 32"]),
        (["d_sae: many"], ["line 5: d_sae: Input should be a valid integer", "it is 'many'"]),
        (["sparsity: 0.1"], ["sparsity is 0.1 for topk; it must be greater than 0, and is for standard, gated, jumprelu"]),
        (["activations: 32"], ["activations is 32; it must be at least one batch of 64"]),
        (["tuned: [1]"], ["line 10: tuned.0: Input should be greater than or equal to 2, and it is 1"]),
        (["tuned: [128, 128]"], ["tuned: 128 is given twice"]),
        (["crosscoder: 1"], ["line 11: crosscoder: 1 pair is given; give at least 2, or 0 for none"]),
        (["kinds: [settled]"], ["line 12: whole canvases: no settled positions; choose from prompt, masked"]),
        (["corpus: {examples: 20}"], ["line 2: 20 puzzles or documents with 0.1 held out leave too few; at least 5"]),
        (["corpus: {files: [absent.txt]}"], ["line 2: ", "sudoku"]),
    ],
)
def test_bad_settings_cost_one_line(lines: list[str], parts: list[str], sae: Run, config: Written, tmp_path: Path) -> None:
    path = config("causal", *lines)
    refused(sae("train", path, "--out", tmp_path / "out"), f"{path}", *parts)
    assert list(tmp_path.iterdir()) == [path]


def test_every_command_gives_an_example(sae: Run) -> None:
    for command in ("train", "transfer"):
        said = sae(command, "--help")
        assert said.code == 0
        assert f"Example: denoscope sae {command} " in " ".join(said.stdout.split()).replace("`", "")


# runs


def test_saes_are_trained_moved_and_refused_where_they_do_not_fit(
    sae: Run, config: Written, twins: dict[str, Path], tmp_path: Path, tiny_module: Callable[..., Any]
) -> None:
    path, out = config("causal", "concepts: [digit]"), tmp_path / "my run"
    ended = sae("train", path, "--out", out, "--json")
    assert ended.code == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert said["results"] == str(out / "results.parquet")
    assert list(said["fvu"][0]) == ["hook point", "source", *SAE_FLOORS, "n", "seeds"]
    (entry,) = over_all_sites(read_entries(out, SaeEntry))
    assert said["fvu"][0]["source"] == pytest.approx(entry.scores["source"].fvu.value, abs=1e-4)
    assert entry.scores["source"].fvu.value < min(entry.scores[floor].fvu.value for floor in SAE_FLOORS)
    assert {"probing digit, 1", "probing digit, 5"} <= set(pq.read_table(out / "results.parquet").column_names)
    refused(sae("train", path, "--out", out), "already holds a run; give --resume to go on with it, or another --out")
    before = contents(out)
    told = sae("train", path, "--out", out, "--resume").stdout
    assert [word in told for word in (POINT, "source", "rotated", "fraction of variance unexplained", "results.parquet")] == [True] * 5
    assert contents(out) == before
    refused(sae("train", config("causal", "d_sae: 48"), "--out", out, "--resume"), "is a run with d_sae 32, and 48 is asked for")
    refused(
        sae("train", config("causal", "corpus: {examples: 70}"), "--out", out, "--resume"), "is a run with corpus {'examples': 60,", "70"
    )

    ended = sae("transfer", out, "--to", twins["masked"], "--json")
    assert ended.code == 0, ended.stderr
    moved = out / "moved" / "masked"
    assert open_run(moved, SaeRun).moved_to == "masked"
    (entry,) = over_all_sites(read_entries(moved, SaeEntry))
    assert set(json.loads(ended.stdout)["fvu"][0]) == {*entry.scores, "hook point", "n", "seeds"}
    assert {"zero_shot", "matched", "stitched", "tuned 128", "native", *SAE_FLOORS} <= set(entry.scores)
    assert entry.crosscoder is not None
    assert entry.crosscoder.pairs == 100
    assert load_sae(moved / "seed-0" / POINT / "native").cfg.d_sae == 32
    before = contents(moved)
    assert "zero_shot" in sae("transfer", out, "--to", twins["masked"]).stdout
    assert contents(moved) == before

    refused(sae("transfer", out, "--to", twins["masked"], "--kinds", "prompt"), "is a run with kinds ['masked'], and ['prompt']")
    refused(sae("transfer", out, "--to", twins["masked"], "--kinds", "blank"), "unknown kind of position 'blank'")
    refused(sae("transfer", out, "--to", tmp_path / "absent"), "absent' is no model")
    refused(sae("transfer", out, "--to", "sudoku-diffusion"), "readers move between models of one task and width")
    refused(sae("transfer", tmp_path, "--to", twins["masked"]), "is no run (it has no run.json); `denoscope sae train` makes one")
    assert sorted(path.name for path in (out / "moved").iterdir()) == ["masked"]
    shutil.rmtree(out / "seed-0")
    refused(sae("transfer", out, "--to", twins["masked"]), "no seed of", "is finished; run `denoscope sae train` to its end first")
    tiny_module("causal", 7).save_pretrained(twins["causal"])
    try:
        refused(sae("transfer", out, "--to", twins["masked"]), "and", "is now", "train it again")
        refused(sae("train", path, "--out", out, "--resume"), "is a run with fingerprint")
    finally:
        tiny_module("causal").save_pretrained(twins["causal"])


def test_a_foreign_folder_is_left_alone(sae: Run, config: Written, twins: dict[str, Path], tmp_path: Path) -> None:
    notes = tmp_path / "mine" / "notes"
    notes.parent.mkdir()
    notes.write_text("precious")
    for target in (notes.parent, notes):
        for option in ([], ["--resume"]):
            refused(sae("train", config(), "--out", target, *option), "exists and is no run (no run.json); choose an empty or new --out")
    probes = {"config": {"model": "sudoku-ar", "corpus": {"examples": 60}, "readers": ["mass_mean"]}, "model": "m", "fingerprint": "f"}
    (notes.parent / "run.json").write_text(json.dumps({**probes, "contents": ""}))
    for command in (["train", config(), "--out", notes.parent, "--resume"], ["transfer", notes.parent, "--to", twins["masked"]]):
        refused(sae(*command), "run.json is not as it should be: config.readers: ", "`denoscope sae train` makes such a folder")
    assert set(contents(notes.parent)) == {"notes", "run.json"}


def test_a_table_has_the_columns_of_all_its_rows(tmp_path: Path) -> None:
    rows = pq.read_table(write_table(tmp_path, [{"fvu": 0.5}, {"fvu": 0.25, "probing digit, 1": 0.75}])).to_pylist()
    assert rows == [{"fvu": 0.5, "probing digit, 1": None}, {"fvu": 0.25, "probing digit, 1": 0.75}]


def test_a_run_of_files_that_changed_is_refused(sae: Run, tmp_path: Path) -> None:
    """Sequences that were fitted on could be scored on."""
    texts, path, out = tmp_path / "texts.jsonl", tmp_path / "saes.yaml", tmp_path / "run"
    stories = [{"text": f"Once there was a cat. It ran and ate and slept. It was day {day}.", "even": day % 2 == 0} for day in range(60)]
    texts.write_text("\n".join(map(json.dumps, stories)), encoding="utf-8")
    lines = SAES.replace("blocks.1", "blocks.0").format(model="stories-ar").replace("{examples: 60}", "{labels: texts.jsonl}")
    path.write_text(lines.replace("activations: 2560", "activations: 256"), encoding="utf-8")
    assert sae("train", path, "--out", out).code == 0
    texts.write_text(texts.read_text().replace("cat", "dog"))
    refused(sae("transfer", out, "--to", "stories-diffusion"), "texts.jsonl", "have changed", "train it again")
    refused(sae("train", path, "--out", out, "--resume"), "is a run with contents")


# in a process of its own: what is said on stderr, and kills

POOL_ROWS = 600
PAUSED = """
import sys, time
import probes.saes.training as training
from interp.cli import main
real, marker, calls = training.{what}, {marker!r}, []
def paused(*given, **named):
    found = real(*given, **named)
    calls.append(given)
    if len(calls) == {call}:
        open(marker, "w").close()
        time.sleep(600)
    return found
training.{what} = paused
import interp.saes.pools
interp.saes.pools.POOL_ROWS = {rows}
main()
"""
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here: sums over two threads round differently


def stopped(arguments: list[object], how: signal.Signals, what: str, call: int, marker: Path) -> Ended:
    """Stops a command after the ``call``-th call of ``what``."""
    code = PAUSED.format(rows=POOL_ROWS, what=what, marker=str(marker), call=call)
    command = [sys.executable, "-c", code, "sae", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ONE_THREAD) as process:
        waited = time.monotonic()
        while not marker.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() - waited < 240
            time.sleep(0.1)
        os.kill(process.pid, how)
        stdout, stderr = process.communicate(timeout=60)
    marker.unlink()
    return Ended(process.returncode, stdout, stderr)


@pytest.mark.filterwarnings("default:1280 activations", "default:left out")
def test_a_stopped_training_goes_on_and_ends_as_an_unbroken_one(
    sae: Run, config: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of a pool, a kill while a checkpoint is half written, and then to the end."""
    path, out, marker = config("causal", "d_sae: 400", "passes: 2", "concepts: [digit, next]"), tmp_path / "out", tmp_path / "marker"
    interrupted = stopped(["train", path, "--out", out], signal.SIGINT, "_train_on", 2, marker)
    assert (interrupted.code, interrupted.stdout) == (130, "")
    (line,) = [line for line in interrupted.stderr.splitlines() if "interrupted" in line]
    assert line == "interrupted; what is finished is kept, and so is a training up to its last pool; --resume goes on from there"
    assert "Traceback" not in interrupted.stderr
    assert "run.json" in contents(out)
    assert not list(out.rglob("entries.json"))
    killed = stopped(["train", path, "--out", out, "--resume"], signal.SIGKILL, "_save", 1, marker)
    assert killed.code == -signal.SIGKILL
    assert list(out.rglob("trainer.safetensors"))
    monkeypatch.setattr("interp.saes.pools.POOL_ROWS", POOL_ROWS)
    assert sae("train", path, "--out", out, "--resume").code == 0
    assert not list(out.rglob(".*"))
    whole = sae("train", path, "--out", tmp_path / "unbroken", "--json")
    assert whole.code == 0, whole.stderr
    assert contents(out) == contents(tmp_path / "unbroken")
    warned = [line for line in whole.stderr.splitlines() if "warning" in line.lower()]
    assert len(warned) == 2
    assert warned[0] == "warning: 1280 activations for 400 latents; with fewer than 8 a latent an SAE learns them by heart"
    assert warned[1].startswith("warning: left out of k-sparse probing: no head of the concept 'next' is true at 10 sites")
    assert json.loads(whole.stdout)["fvu"]
