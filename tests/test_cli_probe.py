"""``denoscope probe``: sweeps from a file, what bad ones cost, and runs that are stopped and gone on with."""

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

import pytest
from command_line import Ended, Run, contents, refused

from interp.report import CONTROLS, ProbeEntry
from interp.runs.folder import open_run, read_entries
from interp.sweeps.folder import SweepRun

SWEEP = """model: {model}
corpus: {{examples: 18}}
concepts: [candidates]
readers: [mass_mean]
points: [blocks.1.hook_resid_post]
sites_per_canvas: 5
"""


@pytest.fixture
def probe(denoscope: Run) -> Run:
    """``probe("train", sweep, "--out", folder)`` in this process, through the real entry point."""
    return partial(denoscope, "probe")


@pytest.fixture
def sweep(twins: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """``sweep("masked", "seeds: [3]")``: a file of a sweep of a tiny model, with further lines that replace those of the same field."""

    def write(model: str = "causal", *lines: str, base: str = SWEEP) -> Path:
        fields = {line.split(":")[0]: line for line in (*base.format(model=twins.get(model, model)).splitlines(), *lines)}
        path = tmp_path / "a sweep.yaml"
        path.write_text("\n".join(fields.values()) + "\n", encoding="utf-8")
        return path

    return write


# bad sweeps

KINDS = "choose from prompt, masked, committed, settled"


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        (
            ["reader: [logistic]"],
            ["line 7: unknown field 'reader'; choose from model, corpus, points, canvases, kinds, ", "concepts, readers, l2"],
        ),
        (["corpus: {exmples: 20}"], ["line 2: unknown field 'corpus.exmples'; choose from examples, files, labels, contrast, limit"]),
        (["canvases: {polices: random}"], ["unknown field 'canvases.polices'; choose from mask_rates, corrupt, policy, every"]),
        (["corpus: {examples: many}"], ["line 2: corpus.examples: Input should be a valid integer", "it is 'many'"]),
        (["corpus: {examples: 5}"], ["corpus.examples: Input should be greater than or equal to 10, and it is 5"]),
        (["seeds: 3"], ["line 7: seeds: Input should be a valid tuple, and it is 3"]),
        (["seeds: [0, -1]"], ["line 7: seeds.1: Input should be greater than or equal to 0, and it is -1"]),
        (["seeds: [1, 1]"], ["line 7: seeds: 1 is given twice"]),
        (["held_out: 1.5"], ["held_out: Input should be less than 1, and it is 1.5"]),
        (["corpus: {examples: 20, files: [a.txt]}"], ["line 2: corpus: give one of examples, files, labels, contrast; examples and files"]),
        (["corpus: {}"], ["give one of examples, files, labels, contrast; none given"]),
        (["corpus: {examples: 20, limit: 10}"], ["limit is for files, and examples is given"]),
        (["corpus: {labels: absent.jsonl}"], ["line 2: ", "absent.jsonl: No such file or directory"]),
        (["corpus: {files: [absent.txt]}"], ["line 2: ", "sudoku"]),
        (["corpus: {examples: 12}"], ["12 puzzles or documents with 0.3 held out leave too few; at least 5"]),
        (["readers: [logistic, mlp]"], ["line 4: readers: unknown reader 'mlp'; choose from logistic, ridge, mass_mean, lda"]),
        (["readers: [multinomial]"], ["line 4: 'multinomial' chooses between classes", "candidates"]),
        (["concepts: [candidate]"], ["line 3: causal has no concept 'candidate' (task 'sudoku'); choose from candidates, digit"]),
        (["concepts: [dialogue]"], ["line 3: causal has no concept 'dialogue'", "it is of the task 'stories'; choose from candidates"]),
        (["concepts: [digit, digit]"], ["concepts: 'digit' is given twice"]),
        (["points: [blocks.7.hook_resid_post]"], ["line 5: no such hook points", "blocks.0 to blocks.1"]),
        (["points: [blocks.one]"], ["line 5: 'blocks.one' names no hook point; one is such as blocks.1.hook_resid_post"]),
        (["kinds: [blank]"], [f"line 7: kinds: unknown kind of position 'blank'; {KINDS}"]),
        (["kinds: [settled]"], ["line 7: whole canvases: no settled positions; choose from prompt, masked"]),
        (["canvases: {policy: best}"], ["line 7: canvases: unknown policy 'best'; choose from random, low_confidence"]),
        (["canvases: {mask_rates: [0.5, 1.5]}"], ["line 7: canvases: a mask rate is 1.5; it must be greater than 0 and at most 1"]),
        (["canvases: {policy: random, corrupt: 0.1}"], ["mask_rates and corrupt are for masks drawn at random"]),
        (["canvases: {every: 2}"], ["every is 2, which is for the calls of a policy"]),
        (["model: absent"], ["line 1: ", "absent' is no model", "bundled models: stories-ar"]),
    ],
)
def test_a_bad_sweep_costs_one_line(lines: list[str], parts: list[str], probe: Run, sweep: Callable[..., Path], tmp_path: Path) -> None:
    path = sweep("causal", *lines)
    refused(probe("train", path, "--out", tmp_path / "out"), f"{path}, line", *parts)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("corpus: {examples: 20}\n", ["line 1: the field 'model' is missing; it is needed"]),
        ("model: sudoku-ar\n", ["the field 'corpus' is missing"]),
        ("model: [\n", ["line 2: no YAML"]),
        ("a: b: c\n", ["line 1: no YAML (mapping values are not allowed here)"]),
        ("model: \x00\n", ["no YAML"]),
        ("", ["holds no settings; it needs at least model and corpus"]),
        ("- model\n", ["holds no settings"]),
        ("1: 2\nmodel: sudoku-ar\ncorpus: {examples: 20}\n", ["1"]),
    ],
)
def test_what_is_no_sweep_is_named(text: str, parts: list[str], probe: Run, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    refused(probe("train", path, "--out", tmp_path / "out"), str(path), *parts)
    path.write_bytes(b"model: \xff\n")
    refused(probe("train", path, "--out", tmp_path / "out"), "is not a text file")
    refused(probe("train", tmp_path / "absent.yaml", "--out", tmp_path / "out"), "absent.yaml: No such file or directory")
    refused(probe("train", tmp_path, "--out", tmp_path / "out"), "Is a directory")
    assert list(tmp_path.iterdir()) == [path]


# runs


def test_a_sweep_is_planned_trained_moved_and_refused_where_it_does_not_fit(
    probe: Run, sweep: Callable[..., Path], twins: dict[str, Path], tmp_path: Path
) -> None:
    path, out = sweep(), tmp_path / "my run"
    dry = probe("train", path, "--dry-run", "--json")
    assert json.loads(dry.stdout)["probes"] == 9
    assert list(tmp_path.iterdir()) == [path]
    assert "9 probes" in probe("train", path, "--dry-run").stdout
    refused(probe("train", path), "--out is missing")
    ended = probe("train", path, "--out", out, "--json")
    assert ended.code == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert said["results"] == str(out / "results.parquet")
    assert {"concept", "reader", "layer", "source", *CONTROLS} <= set(said["best"][0])
    refused(probe("train", path, "--out", out), "already holds a run; give --resume to go on with it, or another --out")
    before = contents(out)
    assert "candidates" in probe("train", path, "--out", out, "--resume").stdout
    assert contents(out) == before
    refused(
        probe("train", sweep("causal", "held_out: 0.4"), "--out", out, "--resume"),
        "is a run with held_out 0.3, and 0.4 is asked for",
    )
    assert probe("transfer", out, "--to", twins["masked"], "--json").code == 0
    moved = out / "moved" / "masked"
    assert {"zero_shot", "procrustes", "native"} <= set(read_entries(moved, ProbeEntry)[0].scores)
    assert open_run(moved, SweepRun).moved_to == "masked"
    refused(probe("transfer", out, "--to", twins["masked"], "--kinds", "prompt"), "is a run with kinds ['masked'], and ['prompt']")
    refused(probe("transfer", out, "--to", twins["masked"], "--kinds", "blank"), "unknown kind of position 'blank'", KINDS)
    refused(probe("transfer", out, "--to", twins["masked"], "--policy", "best"), "unknown policy 'best'; choose from random")
    refused(probe("transfer", out, "--to", tmp_path / "absent"), "absent' is no model")
    refused(probe("transfer", out, "--to", "sudoku-diffusion"), "readers move between models of one task and width")
    refused(probe("transfer", tmp_path, "--to", twins["masked"]), "is no run (it has no run.json)")
    assert sorted(path.name for path in (out / "moved").iterdir()) == ["masked"]


def test_a_foreign_folder_is_left_alone(probe: Run, sweep: Callable[..., Path], tmp_path: Path) -> None:
    notes = tmp_path / "mine" / "notes"
    notes.parent.mkdir()
    notes.write_text("precious")
    for target in (notes.parent, notes):
        for option in ([], ["--resume"]):
            refused(probe("train", sweep(), "--out", target, *option), "exists and is no run (no run.json); choose an empty or new --out")
    (notes.parent / "run.json").write_text("{}")
    refused(probe("train", sweep(), "--out", notes.parent, "--resume"), "run.json is not as it should be: config: Field required")
    assert contents(notes.parent) == {"notes": b"precious", "run.json": b"{}"}


def test_nothing_finished_is_said(probe: Run, sweep: Callable[..., Path], twins: dict[str, Path], tmp_path: Path) -> None:
    assert probe("train", sweep(), "--out", tmp_path / "run").code == 0
    shutil.rmtree(tmp_path / "run" / "seed-0")
    refused(probe("transfer", tmp_path / "run", "--to", twins["masked"]), "nothing of", "is finished")
    refused(probe("report", tmp_path / "run"), "nothing of", "is finished")


PAUSED = """
import sys, time
import interp.sweeps.train as training
from interp.cli import main
real, marker, calls = training._train_point, {marker!r}, []
def paused(*given):
    found = real(*given)
    calls.append(given)
    if len(calls) == {call}:
        open(marker, "w").close()
        time.sleep(600)
    return found
training._train_point = paused
main()
"""


def stopped(arguments: list[object], how: signal.Signals, call: int, marker: Path) -> Ended:
    """Stops a command in the middle of its ``call``-th hook point, with its probes on disk."""
    code = PAUSED.format(marker=str(marker), call=call)
    command = [sys.executable, "-c", code, "probe", *map(str, arguments)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here: sums over two threads round differently
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=one_thread) as process:
        waited = time.monotonic()
        while not marker.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() - waited < 240
            time.sleep(0.1)
        os.kill(process.pid, how)
        stdout, stderr = process.communicate(timeout=60)
    marker.unlink()
    return Ended(process.returncode, stdout, stderr)


def test_a_stopped_run_goes_on_and_ends_as_an_unbroken_one(probe: Run, sweep: Callable[..., Path], tmp_path: Path) -> None:
    """Ctrl-C in the first hook point, a kill in the second, and then to the end."""
    path, out, marker = sweep("causal", "seeds: [0, 5]"), tmp_path / "out", tmp_path / "marker"
    interrupted = stopped(["train", path, "--out", out], signal.SIGINT, 1, marker)
    assert (interrupted.code, interrupted.stdout) == (130, "")
    (line,) = [line for line in interrupted.stderr.splitlines() if "interrupted" in line]
    assert line == "interrupted; the hook points that are finished are kept, and --resume goes on from there"
    assert "Traceback" not in interrupted.stderr
    assert sorted(contents(out)) == ["run.json"]
    killed = stopped(["train", path, "--out", out, "--resume"], signal.SIGKILL, 2, marker)
    assert killed.code == -signal.SIGKILL
    (finished,) = out.glob("seed-*/[!.]*/entries.json")
    written = finished.stat().st_mtime_ns
    assert list(out.rglob(".*.partial-*"))
    assert probe("train", path, "--out", out, "--resume").code == 0
    assert finished.stat().st_mtime_ns == written
    assert not list(out.rglob(".*"))
    assert probe("train", path, "--out", tmp_path / "unbroken").code == 0
    assert contents(out) == contents(tmp_path / "unbroken")


# a user's own labels

WORDS = {True: ("fox", "hen", "dog", "cow", "cat"), False: ("cup", "box", "hat", "pan", "bag")}


def stories() -> list[dict[str, Any]]:
    lines = []
    for number in range(40):
        animal = number % 2 == 0
        one, other = (WORDS[animal][(number // 2 * step) % 5] for step in (1, 3))
        does = "ran and ate and slept" if animal else "was on the table and fell down"
        text = f"Once there was a {one}. The {one} {does}. Then a {other} came. The {other} {does} too. It was day {number}."
        first = text.index(one)
        lines.append({"text": text, "animal": animal, "spans": [{"start": first, "end": first + len(one), "label": "first"}]})
    return lines


OWN = """model: stories-ar
corpus: {corpus}
readers: [mass_mean]
points: [blocks.2.hook_resid_post]
sites_per_canvas: 8
"""


def test_labels_of_ones_own_are_read_end_to_end(probe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are counted from the sweep's folder, wherever the command is given."""
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "texts").mkdir()
    path, labels, out = tmp_path / "sweeps" / "own.yaml", tmp_path / "texts" / "labels.jsonl", tmp_path / "run"
    labels.write_text("\n".join(map(json.dumps, stories())), encoding="utf-8")
    path.write_text(OWN.format(corpus="{labels: ../texts/labels.jsonl}"))
    monkeypatch.chdir(tmp_path)
    ended = probe("train", path, "--out", out, "--json")
    assert ended.code == 0, ended.stderr
    best = {row["concept"]: row for row in json.loads(ended.stdout)["best"]}
    assert set(best) == {"animal", "spans"}
    assert best["animal"]["source"] > 0.65 > best["animal"]["shuffled"]
    assert (out / "seed-0" / "blocks.2.hook_resid_post" / "probes" / "mass_mean" / "animal" / "model.safetensors").exists()
    labels.write_text(labels.read_text().replace("table", "floor"))
    refused(probe("transfer", out, "--to", "stories-diffusion"), "labels.jsonl", "have changed", "train it again")
    refused(probe("train", path, "--out", out, "--resume"), "is a run with contents")


def test_two_files_of_prompts_make_a_contrast(probe: Run, tmp_path: Path) -> None:
    for name, animal in (("yes.txt", True), ("no.txt", False)):
        (tmp_path / name).write_text("\n".join(line["text"] for line in stories() if line["animal"] is animal))
    path = tmp_path / "own.yaml"
    path.write_text(OWN.format(corpus="{contrast: [yes.txt, no.txt]}"))
    ended = probe("train", path, "--out", tmp_path / "run", "--json")
    assert ended.code == 0, ended.stderr
    (row,) = json.loads(ended.stdout)["best"]
    assert row["concept"] == "contrast"
    assert row["source"] > 0.65


@pytest.mark.parametrize(
    ("column", "parts"),
    [
        ({"same": True}, ["label 'same' is True on every line; a label needs two values at least"]),
        ({"a/b": 1}, ["the label 'a/b' cannot name the folder of its probes"]),
        ({"..": 1}, ["the label '..' cannot name the folder"]),
        ({"odd": 0.5}, ["line 1: label 'odd' is 0.5; a label is true or false"]),
    ],
)
def test_bad_labels_cost_one_line(column: dict[str, Any], parts: list[str], probe: Run, tmp_path: Path) -> None:
    lines = [{"text": line["text"], **column} for line in stories()]
    if 1 in column.values() and "same" not in column:
        lines = [{**line, **dict.fromkeys(column, number % 2)} for number, line in enumerate(lines)]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    path = tmp_path / "own.yaml"
    path.write_text(OWN.format(corpus="{labels: labels.jsonl}"))
    refused(probe("train", path, "--out", tmp_path / "run"), f"{path}, line 2: ", "labels.jsonl", *parts)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["labels.jsonl", "own.yaml"]
