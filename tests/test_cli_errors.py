"""The commands: what bad input costs (one line, the right exit code, nothing left behind), and that JSON is JSON."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import Ended, Run

from interp.cli import main
from interp.cli.app import OutputError, app, whole_folder
from models.tasks.sudoku.board import format_board
from models.tasks.sudoku.generator import generate
from models.trajectory import Trajectory

BOARDS = generate(3, "naked_singles", seed=6)
BOARD = format_board(BOARDS.givens[0])
SOLVED = format_board(BOARDS.solutions[0])
MANY = "8.........59.......76.........832765...476198...951243....9.516...6.4982......437"
IMPOSSIBLE = "5" + "." * 7 + "5" + "." * 72


@pytest.fixture
def puzzles(tmp_path: Path) -> Path:
    path = tmp_path / "boards.txt"
    path.write_text("".join(format_board(board) + "\n" for board in BOARDS.givens))
    return path


def contents(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def refused(ended: Ended, *parts: str, code: int = 2) -> None:
    """Asserts one clear line on stderr, nothing on stdout, and the exit code."""
    assert ended.code == code, ended.stderr
    assert ended.stdout == ""
    lines = ended.stderr.strip().splitlines()
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("error: ")
    assert "Traceback" not in ended.stderr
    for part in parts:
        assert part in lines[0]


# ---------------------------------------------------------------- trace


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (BOARD[:-1], "80 characters"),
        (BOARD + ".", "82 characters"),
        ("x" + BOARD[1:], "character 1 of the puzzle is 'x'"),
        ("[red]" + BOARD[5:], "character 1 of the puzzle is '['"),
        (IMPOSSIBLE, "r1c1 and r1c9 both hold 5"),
        (MANY, "more than one solution"),
        ("", "0 characters"),
        (SOLVED, "no masked position"),
    ],
)
def test_trace_refuses_a_bad_puzzle(prompt: str, message: str, denoscope: Run, twins: dict[str, Path], tmp_path: Path) -> None:
    refused(denoscope("trace", twins["masked"], "--prompt", prompt, "--out", tmp_path / "a" / "run.zarr"), message)
    assert contents(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policy", "best"], "unknown policy 'best'; choose from random, low_confidence"),
        (["--task", "chess"], "unknown task 'chess'; choose from sudoku"),
        (["--steps", "0"], "steps is 0; it must be at least 1"),
        (["--limit", "3"], "--limit is for the prompts of a file"),
    ],
)
def test_trace_refuses_bad_options(options: list[str], message: str, denoscope: Run, twins: dict[str, Path], tmp_path: Path) -> None:
    refused(denoscope("trace", twins["masked"], "--prompt", BOARD, "--out", tmp_path / "run.zarr", *options), message)
    assert contents(tmp_path) == []


def test_a_causal_model_is_traced_left_to_right_and_refuses_what_it_cannot_heed(
    denoscope: Run, twins: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "run.zarr"
    for unheeded, rule in (
        (["--steps", 3], "temperature, top_p and seed"),
        (["--set", "guidance=1"], "temperature, top_p and seed"),
        (["--top-k", 2], "no more than the best is kept"),
    ):
        refused(denoscope("trace", twins["causal"], "--prompt", BOARD, "--out", out, *unheeded), "causal model", rule)
    assert contents(tmp_path) == []
    assert denoscope("trace", twins["causal"], "--prompt", BOARD, "--out", out, "--set", "temperature=2").code == 0
    run = Trajectory.load(out)
    assert run.policy == "left_to_right"
    assert run.n_steps == BOARD.count(".")
    assert denoscope("view", out, "--out", tmp_path / "page.html").code == 0


def test_prompts_of_a_file_are_traced_together(denoscope: Run, twins: dict[str, Path], puzzles: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs.zarr"
    asked = ("trace", twins["masked"], "--out", out, "--policy", "threshold", "--set", "threshold=0.2", "--top-k", 2)
    ended = denoscope(*asked, "--prompts", puzzles, "--limit", 2)
    assert ended.code == 0, ended.stderr
    run = Trajectory.load(out)
    assert run.n_samples == 2
    assert run.data.sizes["rank"] == 2
    assert run.decoding.options == {"threshold": 0.2}
    refused(denoscope(*asked), "either --prompt or --prompts")
    for setting, said in (
        ("speed=1", "no setting 'speed'; choose from threshold, block_length"),
        ("fast", "NAME=VALUE"),
        ("=2", "NAME=VALUE"),
        ("threshold=0.3", "--set gives 'threshold' twice"),
    ):
        refused(denoscope(*asked, "--prompt", BOARD, "--set", setting), said)


@pytest.mark.parametrize("command", ["trace", "evaluate"])
def test_what_is_no_model_is_refused(command: str, denoscope: Run, puzzles: Path, tmp_path: Path) -> None:
    options = {"trace": ["--prompt", BOARD, "--out", tmp_path / "run.zarr"], "evaluate": ["--puzzles", puzzles]}[command]
    refused(denoscope(command, tmp_path / "absent", *options), "absent", "does not exist", "bundled models")
    refused(denoscope(command, tmp_path, *options), "has no config.json")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    refused(denoscope(command, tmp_path, *options), "nowhere stated, which no family reads")


def test_damaged_models_are_refused(denoscope: Run, twins: dict[str, Path], puzzles: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(twins["masked"], damaged)
    (damaged / "model.safetensors").write_bytes(b"1234")
    refused(denoscope("evaluate", damaged, "--puzzles", puzzles), "the weights in")
    shutil.copytree(twins["masked"], tmp_path / "liar")
    config = json.loads((tmp_path / "liar" / "config.json").read_text())
    (tmp_path / "liar" / "config.json").write_text(json.dumps({**config, "is_causal": True}))
    refused(denoscope("evaluate", tmp_path / "liar", "--puzzles", puzzles), "attention is full failed", code=1)


def test_trace_writes_a_trajectory_and_replaces_only_one(denoscope: Run, twins: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.zarr"
    for steps in (2, 3):
        ended = denoscope("trace", twins["masked"], "--prompt", BOARD, "--out", path, "--steps", steps)
        assert ended.code == 0, ended.stderr
        assert f"{steps} network calls" in ended.stdout
        assert Trajectory.load(path).n_steps == steps
    assert [entry.name for entry in path.parent.iterdir()] == ["run.zarr"]


@pytest.mark.parametrize("kind", ["file", "folder", "inside a file"])
def test_trace_refuses_a_place_that_cannot_take_it(kind: str, denoscope: Run, twins: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes").write_text("precious")
    before = contents(tmp_path)
    target = {"file": "file", "folder": "folder", "inside a file": "file/run.zarr"}[kind]
    refused(denoscope("trace", twins["masked"], "--prompt", BOARD, "--out", tmp_path / target), "file" if "file" in kind else "folder")
    assert contents(tmp_path) == before
    assert (tmp_path / "file").read_text() == "precious"


def test_a_place_that_cannot_be_written_is_refused(denoscope: Run, twins: dict[str, Path]) -> None:
    ended = denoscope("trace", twins["masked"], "--prompt", BOARD, "--out", "/proc/nowhere/run.zarr")
    assert ended.code == 2
    assert "could not be written to /proc/nowhere/run.zarr" in ended.stderr.strip().splitlines()[-1]
    refused(denoscope("demo", "--out", "/proc/nowhere"), "/proc/nowhere cannot be made")
    refused(
        denoscope("train", "sudoku", "--objective", "causal", "--steps", "1", "--size", "nano", "--out", "/proc/nowhere"), "/proc/nowhere"
    )


def test_a_disk_that_fills_up_leaves_nothing(
    denoscope: Run, twins: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import xarray as xr

    def full(data: xr.Dataset, path: Path, **options: object) -> None:
        (path / "token").mkdir(parents=True)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_zarr", full)
    ended = denoscope("trace", twins["masked"], "--prompt", BOARD, "--out", tmp_path / "run.zarr", "--steps", "1")
    assert ended.code == 2
    assert ended.stderr.strip().splitlines()[-1].endswith("No space left on device")
    assert contents(tmp_path) == []


# ---------------------------------------------------------------- evaluate


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (BOARD[:-1], "line 2: the puzzle has 80 characters"),
        ("x" + BOARD[1:], "line 2: character 1 of the puzzle is 'x'"),
        (IMPOSSIBLE, "line 2: "),
        (MANY, "line 2: "),
    ],
)
def test_evaluate_names_a_bad_line(line: str, message: str, denoscope: Run, twins: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "boards.txt"
    path.write_text(f"{BOARD}\n{line}\n")
    for model in twins.values():
        refused(denoscope("evaluate", model, "--puzzles", path), str(path), message)


def test_evaluate_refuses_what_is_no_file_of_puzzles(denoscope: Run, twins: dict[str, Path], tmp_path: Path) -> None:
    refused(denoscope("evaluate", twins["masked"], "--puzzles", tmp_path / "absent.txt"), "absent.txt: No such file")
    refused(denoscope("evaluate", twins["masked"], "--puzzles", tmp_path), "Is a directory")
    (tmp_path / "empty.txt").write_text("")
    refused(denoscope("evaluate", twins["masked"], "--puzzles", tmp_path / "empty.txt"), "holds no puzzle")


@pytest.mark.parametrize("model", ["causal", "masked"])
def test_evaluate_refuses_an_unknown_policy_whatever_the_model(model: str, denoscope: Run, twins: dict[str, Path], puzzles: Path) -> None:
    refused(denoscope("evaluate", twins[model], "--puzzles", puzzles, "--policy", "best"), "unknown policy 'best'; choose from")


@pytest.mark.parametrize("model", ["causal", "masked"])
def test_evaluate_prints_one_json_value(model: str, denoscope: Run, twins: dict[str, Path], puzzles: Path) -> None:
    for limit, n in ((1, 1), (99, 3)):
        budget = ("--steps", 2) if model == "masked" else ()
        ended = denoscope("evaluate", twins[model], "--puzzles", puzzles, "--limit", limit, *budget, "--json")
        assert ended.code == 0, ended.stderr
        figures = json.loads(ended.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert {"model", "fingerprint", "policy", "n", "exact", "valid", "cells", "steps", "seconds", "intervals"} <= set(figures)
        assert figures["n"] == n
        assert figures["policy"] == ("greedy" if model == "causal" else "low_confidence")
        assert figures["steps"] == (2 if model == "masked" else pytest.approx((BOARDS.givens[:n] == 0).sum(1).mean()))


def test_steps_are_not_silently_ignored_by_a_causal_model(denoscope: Run, twins: dict[str, Path], puzzles: Path) -> None:
    for unheeded in (["--steps", 2], ["--set", "guidance=1"], ["--set", "block_length=3"]):
        ended = denoscope("evaluate", twins["causal"], "--puzzles", puzzles, *unheeded)
        assert ended.code == 2
        assert "heeds temperature, top_p and seed alone" in ended.stderr


def test_a_full_board_is_judged_without_a_call(denoscope: Run, twins: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "full.txt").write_text("".join(map(str, BOARDS.solutions[0])) + "\n")
    figures = json.loads(denoscope("evaluate", twins["masked"], "--puzzles", tmp_path / "full.txt", "--json").stdout)
    assert (figures["exact"], figures["steps"]) == (1.0, 0.0)


def test_generate_writes_puzzles_that_evaluate_reads(denoscope: Run, twins: dict[str, Path], tmp_path: Path) -> None:
    ended = denoscope("generate", "sudoku", "--n", 3, "--level", "hidden_singles", "--seed", 5, "--out", tmp_path / "boards.txt")
    assert ended.code == 0
    assert json.loads(denoscope("evaluate", twins["masked"], "--puzzles", tmp_path / "boards.txt", "--steps", 1, "--json").stdout)["n"] == 3
    again = denoscope("generate", "sudoku", "--out", tmp_path / "boards.txt")
    assert (again.code, "exists; choose another --out" in again.stderr) == (2, True)
    wrong = denoscope("generate", "sudoku", "--level", "hard", "--out", tmp_path / "other.txt")
    assert (wrong.code, "choose from naked_singles, hidden_singles, eliminations, guessing" in wrong.stderr) == (2, True)
    assert not (tmp_path / "other.txt").exists()


def test_evaluate_shows_a_table_and_repeats_itself(denoscope: Run, twins: dict[str, Path], puzzles: Path) -> None:
    asked = ("evaluate", twins["masked"], "--puzzles", puzzles, "--policy", "random", "--steps", 3, "--set", "temperature=5")
    assert "cells" in denoscope(*asked).stdout
    results = []
    for seed in (1, 1, 2):
        figures = json.loads(denoscope(*asked, "--seed", seed, "--json").stdout)
        figures.pop("seconds")
        results.append(figures)
    assert results[0] == results[1]
    assert results[0]["cells"] != results[2]["cells"]


@pytest.mark.parametrize("seed", ["-1", str(2**32), "1.5"])
def test_a_seed_that_no_generator_takes_is_a_usage_error(seed: str, denoscope: Run, twins: dict[str, Path], puzzles: Path) -> None:
    ended = denoscope("evaluate", twins["masked"], "--puzzles", puzzles, "--seed", seed)
    assert ended.code == 2
    assert "Traceback" not in ended.stderr
    assert "--seed" in ended.stderr


def test_the_greatest_seed_is_taken(denoscope: Run, twins: dict[str, Path], puzzles: Path) -> None:
    options = ("--seed", 2**32 - 1, "--steps", 1, "--policy", "random")
    assert denoscope("evaluate", twins["masked"], "--puzzles", puzzles, *options).code == 0


# ---------------------------------------------------------------- read and demo


def test_read_refuses_what_is_no_trajectory(denoscope: Run, tmp_path: Path) -> None:
    for source in (tmp_path / "absent.zarr", tmp_path):
        refused(denoscope("read", source, "--out", tmp_path / "out"), "is no trajectory")
    assert contents(tmp_path) == []


def test_read_refuses_a_trajectory_whose_model_is_gone(denoscope: Run, twins: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    assert denoscope("trace", twins["masked"], "--prompt", BOARD, "--out", path, "--steps", "1").code == 0
    refused(denoscope("read", path, "--out", tmp_path / "out"), "'masked' is no model", "--model")
    refused(
        denoscope("read", path, "--model", twins["masked"], "--readers", tmp_path / "none", "--out", tmp_path / "out"), "no readers", code=2
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.zarr"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_demo_and_read_refuse_an_out_that_holds_other_things(kind: str, denoscope: Run, twins: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("file", "folder/notes"):
        (tmp_path / name).write_text("precious")
    before = contents(tmp_path)
    refused(denoscope("demo", "--out", tmp_path / kind), str(tmp_path / kind), "choose a")
    refused(denoscope("demo", "--out", tmp_path / "file" / "inside"), "cannot be made")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("place", ["new", "deep/er", "empty", "earlier", "link", "."])
def test_a_whole_folder_appears_at_once(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tmp_path / "real"
    for name in ("empty", "earlier", "real", "cwd"):
        (tmp_path / name).mkdir()
    (tmp_path / "earlier" / "marker").write_text("old")
    (tmp_path / "link").symlink_to(real)
    monkeypatch.chdir(tmp_path / "cwd")
    target = Path(place) if place == "." else tmp_path / place
    with whole_folder(target, "marker") as folder:
        (folder / "marker").write_text("new")
        assert not (tmp_path / place / "marker").exists() or (tmp_path / place / "marker").read_text() == "old"
    where = tmp_path / "cwd" if place == "." else tmp_path / place
    assert (where / "marker").read_text() == "new"
    assert not list(tmp_path.rglob("*partial*"))
    assert (tmp_path / "link").is_symlink()


def test_a_folder_that_was_not_finished_leaves_the_earlier_one(tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "marker").write_text("old")
    for target in (earlier, tmp_path / "new"):
        with pytest.raises(ZeroDivisionError), whole_folder(target, "marker") as folder:
            1 / (folder / "marker").write_text("")
    assert [path.name for path in tmp_path.iterdir()] == ["earlier"]
    assert (earlier / "marker").read_text() == "old"


def test_a_folder_of_other_things_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("precious")
    with pytest.raises(OutputError, match="holds other files"), whole_folder(tmp_path, "marker"):
        pytest.fail("the work must not start")


# ---------------------------------------------------------------- train

TRAIN = ("train", "sudoku", "--size", "nano", "--examples", "50", "--batch", "4")


def test_train_makes_a_pair_and_resumes(denoscope: Run, puzzles: Path, tmp_path: Path) -> None:
    ar, diffusion = tmp_path / "ar", tmp_path / "diffusion"
    ended = denoscope(*TRAIN, "--objective", "causal", "--steps", "2", "--out", ar)
    assert ended.code == 0, ended.stderr
    assert "2 steps" in ended.stdout
    assert "3 steps" in denoscope(*TRAIN, "--objective", "causal", "--steps", "3", "--out", ar).stdout
    ended = denoscope(*TRAIN, "--objective", "causal", "--steps", "3", "--out", ar)
    assert ended.code == 0
    assert "3 steps" in ended.stdout
    assert "it was finished already" in ended.stdout
    assert denoscope(*TRAIN, "--objective", "masked", "--init", ar, "--steps", "2", "--out", diffusion).code == 0
    refused(denoscope(*TRAIN, "--objective", "causal", "--steps", "3", "--seed", "5", "--out", ar), "seed was 0 and is now 5", code=1)
    assert json.loads(denoscope("evaluate", ar, "--puzzles", puzzles, "--limit", "1", "--json").stdout)["policy"] == "greedy"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--steps", "1", "--minutes", "1"], "either steps or minutes"),
        ([], "either steps or minutes"),
        (["--steps", "0"], "steps is 0"),
        (["--steps", "1", "--size", "huge"], "unknown size 'huge'; choose from nano"),
        (["--steps", "1", "--init", "/absent"], "'/absent' is no model"),
    ],
)
def test_train_refuses_an_impossible_plan(changes: list[str], message: str, denoscope: Run, tmp_path: Path) -> None:
    ended = denoscope(*TRAIN, "--objective", "masked", "--out", tmp_path / "out", *changes)
    assert ended.code == 2
    assert message in ended.stderr.strip().splitlines()[-1]
    assert contents(tmp_path) == []


def test_train_refuses_an_unknown_task_and_a_foreign_model(denoscope: Run, twins: dict[str, Path], tmp_path: Path) -> None:
    ended = denoscope("train", "chess", "--objective", "causal", "--steps", "1", "--out", tmp_path / "out")
    refused(ended, "unknown task 'chess'; choose from sudoku")
    before = contents(twins["causal"])
    refused(denoscope(*TRAIN, "--objective", "causal", "--steps", "1", "--out", twins["causal"]), "holds a model and no checkpoint")
    assert contents(twins["causal"]) == before
    (tmp_path / "file").write_text("precious")
    refused(denoscope(*TRAIN, "--objective", "causal", "--steps", "1", "--out", tmp_path / "file"), "file exists and is no folder")
    assert contents(tmp_path) == [tmp_path / "file"]


# ---------------------------------------------------------------- lists and help


def test_models_and_policies_print_one_json_value(denoscope: Run) -> None:
    from models.families import FAMILIES
    from models.load import bundled_names
    from models.unmasking import POLICIES

    listed = json.loads(denoscope("models", "--json").stdout)
    assert set(listed) == {"bundled", "families"}
    assert set(listed["bundled"]) == set(bundled_names())
    assert set(listed["families"]) == set(FAMILIES)
    policies = json.loads(denoscope("policies", "--json").stdout)
    assert set(policies) == set(POLICIES)
    assert policies["threshold"]["options"] == {"threshold": 0.9999}
    assert all(entry["about"] for entry in policies.values())
    unheeded = denoscope("models", "--dtype", "float16", "--family", "gpt2")
    assert unheeded.code == 2
    assert "--family, --dtype without --check; say which model to check" in " ".join(unheeded.stderr.split())
    for command, word in (("models", "gpt2"), ("policies", "topk_margin")):
        ended = denoscope(command)
        assert (ended.code, ended.stderr) == (0, "")
        assert word in ended.stdout


COMMANDS = [command.callback.__name__ for command in app.registered_commands if command.callback]


def test_the_commands_are_those_that_users_rely_on() -> None:
    assert {"demo", "models", "policies", "train", "evaluate", "trace", "read"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example(command: str, denoscope: Run) -> None:
    ended = denoscope(command, "--help")
    assert ended.code == 0
    assert f"Example: denoscope {command}" in ended.stdout


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (OSError(28, "No space left on device"), "No space left on device", 1),
        (OSError(28, "No space left on device", "report.json"), "report.json: No space left on device", 1),
        (FileNotFoundError(2, "No such file or directory", "a [b].txt"), "a [b].txt: No such file or directory", 2),
        (OutputError("two\nlines [red]"), "two lines [red]", 2),
        (MemoryError("too large"), "too large", 1),
    ],
)
def test_an_error_is_said_in_one_line_as_it_is(
    error: Exception, said: str, code: int, denoscope: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing() -> None:
        raise error

    monkeypatch.setattr("interp.cli.app.app", failing)
    ended = denoscope()
    refused(ended, code=code)
    assert ended.stderr.strip() == f"error: {said}"


def test_a_defect_of_ours_keeps_its_traceback(denoscope: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.cli.app.app", lambda: {}["ours"])
    with pytest.raises(KeyError, match="ours"):
        main()


# ---------------------------------------------------------------- real processes


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from interp.cli import main; main()", *map(str, arguments)]


def test_a_real_process_says_one_line(tmp_path: Path) -> None:
    ended = subprocess.run(
        command("trace", tmp_path / "absent", "--prompt", BOARD, "--out", tmp_path / "run.zarr"),
        capture_output=True,
        text=True,
        check=False,
    )
    refused(Ended(ended.returncode, ended.stdout, ended.stderr), "absent", "is no model")


def test_a_real_interrupt_keeps_a_checkpoint(tmp_path: Path) -> None:
    arguments = command(*TRAIN, "--objective", "causal", "--steps", "100000", "--out", tmp_path / "out")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        log, waited = tmp_path / "out" / "log.jsonl", time.monotonic()
        while not (log.exists() and log.stat().st_size):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() - waited < 120
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    assert "Traceback" not in stderr
    assert "interrupted; the same command goes on from the checkpoint" in stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"checkpoint.safetensors", "log.jsonl"}
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))
