"""Training: what is learned from, exact resumption, and that whatever goes wrong the last checkpoint stays good."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models import checkpoint
from models import train as train_module
from models.adapt import Adaptation
from models.architectures import ARCHITECTURES
from models.facts import CONFIG_KEY, ModelFacts
from models.load import ModelError, bare_module, load
from models.objective import TrainingObjective
from models.plan import SIZES, PlanError, TrainingPlan
from models.tasks import TrainingData
from models.train import TrainingError, TrainingStatus, initial_module, learning_rate_factor, train

CAUSAL = TrainingPlan(task="sudoku", objective="causal", size="nano", steps=6, batch=4, data=TrainingData(examples=50))
MASKED = replace(CAUSAL, objective="masked")
PLANS = pytest.mark.parametrize("plan", [CAUSAL, MASKED], ids=["causal", "masked"])


def stop_at(step: int, error: type[BaseException] = KeyboardInterrupt) -> Callable[[TrainingStatus], None]:
    def on_step(status: TrainingStatus) -> None:
        if status.step == step:
            raise error

    return on_step


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def checkpoint_of(out: Path) -> dict[str, Tensor]:
    return load_file(out / "checkpoint.safetensors")


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both objectives trained without a stop."""
    folders = {plan.objective: tmp_path_factory.mktemp("straight") / plan.objective for plan in (CAUSAL, MASKED)}
    for plan in (CAUSAL, MASKED):
        train(plan, folders[plan.objective])
    return folders


# ---------------------------------------------------------------- what a run leaves


@PLANS
def test_a_finished_training_is_a_model_with_its_facts(plan: TrainingPlan, straight: dict[str, Path]) -> None:
    out = straight[plan.objective]
    module, facts = bare_module(out)
    masked = plan.objective == "masked"
    assert facts == ModelFacts(
        objective=plan.objective,
        attention="full" if masked else "causal",
        logit_shift=1,
        mask_token_id=11 if masked else None,
        task="sudoku",
    )
    assert module.config.is_causal != masked
    assert {"config.json", "model.safetensors", "checkpoint.safetensors", "log.jsonl"} <= {path.name for path in out.iterdir()}
    assert not [path for path in out.iterdir() if "partial" in path.name]
    assert {name.removeprefix("model.") for name in checkpoint_of(out) if name.startswith("model.")} == set(module.state_dict())


@PLANS
def test_the_log_is_one_json_a_step(plan: TrainingPlan, straight: dict[str, Path]) -> None:
    lines = log_of(straight[plan.objective])
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert [line["progress"] for line in lines] == pytest.approx([step / 6 for step in range(1, 7)])
    assert all(line["examples_per_second"] > 0 for line in lines)


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    train(replace(CAUSAL, steps=40, batch=8), tmp_path / "out")
    losses = [line["loss"] for line in log_of(tmp_path / "out")]
    assert losses[0] == pytest.approx(np.log(12), abs=1e-3)
    assert np.mean(losses[-5:]) < losses[0] - 0.15


@PLANS
def test_a_training_is_reproduced(plan: TrainingPlan, straight: dict[str, Path], tmp_path: Path) -> None:
    train(plan, tmp_path)
    assert same(checkpoint_of(tmp_path), checkpoint_of(straight[plan.objective]))
    train(replace(plan, seed=1), tmp_path / "other")
    assert not same(checkpoint_of(tmp_path), checkpoint_of(tmp_path / "other"))


# ---------------------------------------------------------------- resuming


@PLANS
@pytest.mark.parametrize("stops", [[3], [1, 2, 5]], ids=str)
def test_a_resumed_training_takes_the_very_steps(plan: TrainingPlan, stops: list[int], straight: dict[str, Path], tmp_path: Path) -> None:
    for step in stops:
        with pytest.raises(KeyboardInterrupt):
            train(plan, tmp_path, on_step=stop_at(step))
        assert not (tmp_path / "config.json").exists()
    train(plan, tmp_path)
    expected = straight[plan.objective]
    assert same(checkpoint_of(tmp_path), checkpoint_of(expected))
    assert same(load_file(tmp_path / "model.safetensors"), load_file(expected / "model.safetensors"))
    assert [(line["step"], line["loss"]) for line in log_of(tmp_path)] == [(line["step"], line["loss"]) for line in log_of(expected)]
    seconds = [line["seconds"] for line in log_of(tmp_path)]
    assert seconds == sorted(seconds)


def test_a_real_ctrl_c_waits_for_the_end_of_the_step(straight: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update = train_module._Run.update

    def interrupted(run: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)  # as early as can be: nothing of the update is done
        update(run)

    monkeypatch.setattr(train_module._Run, "update", interrupted)
    for step in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            train(MASKED, tmp_path)
        assert [line["step"] for line in log_of(tmp_path)] == list(range(1, step + 1))
    monkeypatch.undo()
    train(MASKED, tmp_path)
    assert same(checkpoint_of(tmp_path), checkpoint_of(straight["masked"]))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_any_error_of_a_callback_keeps_what_was_learned(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        train(CAUSAL, tmp_path, on_step=stop_at(2, ZeroDivisionError))
    assert train(CAUSAL, tmp_path).step == 6
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_killed_run_loses_its_last_steps_and_logs_none_twice(straight: dict[str, Path], tmp_path: Path) -> None:
    kept = tmp_path / "kept.safetensors"

    def on_step(status: TrainingStatus) -> None:
        if status.step == 3:
            (tmp_path / "checkpoint.safetensors").rename(kept)  # the one of step 2
        if status.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(MASKED, tmp_path, on_step=on_step, checkpoint_every=0.0)
    kept.replace(tmp_path / "checkpoint.safetensors")
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "lo')
    train(MASKED, tmp_path)
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert same(checkpoint_of(tmp_path), checkpoint_of(straight["masked"]))


def test_a_finished_training_is_finished(straight: dict[str, Path], tmp_path: Path) -> None:
    train(CAUSAL, tmp_path)
    before = checkpoint_of(tmp_path)
    assert train(CAUSAL, tmp_path).step == 6
    assert same(checkpoint_of(tmp_path), before)
    assert len(log_of(tmp_path)) == 6


def test_a_training_may_go_on_for_longer(tmp_path: Path) -> None:
    train(CAUSAL, tmp_path)
    assert train(replace(CAUSAL, steps=8), tmp_path).step == 8
    assert train(replace(CAUSAL, steps=None, minutes=1e-6), tmp_path).step == 8


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(
    value: float, straight: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(CAUSAL, tmp_path, on_step=stop_at(2))
    good = checkpoint_of(tmp_path)
    calls = []

    forward = TrainingObjective.forward

    def poisoned(self: TrainingObjective, *rest: Any) -> Tensor:
        calls.append(1)
        loss = forward(self, *rest)
        return loss * value if len(calls) == 2 else loss

    monkeypatch.setattr(TrainingObjective, "forward", poisoned)
    with pytest.raises(TrainingError, match=f"the loss is {value} at step 4"):
        train(CAUSAL, tmp_path)
    assert same(checkpoint_of(tmp_path), good)
    assert not (tmp_path / "model.safetensors").exists()
    monkeypatch.undo()
    train(CAUSAL, tmp_path)
    assert same(checkpoint_of(tmp_path), checkpoint_of(straight["causal"]))


def poison_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a weight not a number in the update of a step, as a diverging training does."""
    update, taken = train_module._Run.update, []

    def poisoned(run: Any) -> None:
        update(run)
        taken.append(1)
        if len(taken) == step:
            run.module.lm_head.weight.data[0, 0] = float("nan")

    monkeypatch.setattr(train_module._Run, "update", poisoned)


@pytest.mark.parametrize("checkpoint_every", [0.0, 60.0])
def test_weights_that_are_no_numbers_never_reach_a_checkpoint(
    checkpoint_every: float, straight: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(CAUSAL, tmp_path, on_step=stop_at(1))
    poison_at(3, monkeypatch)
    with pytest.raises(TrainingError, match="after step 4" if checkpoint_every == 0 else "the loss is nan at step 5"):
        train(CAUSAL, tmp_path, checkpoint_every=checkpoint_every)
    assert all(torch.isfinite(value).all() for value in checkpoint_of(tmp_path).values())
    monkeypatch.undo()
    train(CAUSAL, tmp_path)
    assert same(checkpoint_of(tmp_path), checkpoint_of(straight["causal"]))


def test_weights_that_are_no_numbers_at_the_end_make_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison_at(6, monkeypatch)
    with pytest.raises(
        TrainingError, match=r"weights are not numbers after step 6 \(lm_head\.weight among 1 tensors\); there is no earlier"
    ):
        train(CAUSAL, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_full_disk_keeps_the_checkpoint_before(straight: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(CAUSAL, tmp_path, on_step=stop_at(2))
    good = checkpoint_of(tmp_path)

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save_file", full)
    for every in (0.0, 60.0):
        with pytest.raises(TrainingError, match=r"could not be written to .*No space left on device.*the checkpoint before it is kept"):
            train(CAUSAL, tmp_path, checkpoint_every=every)
        assert same(checkpoint_of(tmp_path), good)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.safetensors", "log.jsonl"}
    monkeypatch.undo()
    train(CAUSAL, tmp_path)
    assert same(checkpoint_of(tmp_path), checkpoint_of(straight["causal"]))
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_disk_full_at_the_end_leaves_no_half_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import GPT2LMHeadModel

    def full(self: nn.Module, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(GPT2LMHeadModel, "save_pretrained", full)
    with pytest.raises(TrainingError, match=r"the model could not be written to .*No space left"):
        train(CAUSAL, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.safetensors", "log.jsonl"}
    monkeypatch.undo()
    train(CAUSAL, tmp_path)
    bare_module(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "masked"}, "objective was 'causal' and is now 'masked'"),
        ({"seed": 3}, "seed was 0 and is now 3"),
        ({"batch": 8}, "batch was 4 and is now 8"),
        ({"data": TrainingData(examples=60)}, "data was .*'examples': 50.* and is now .*'examples': 60.*"),
        ({"size": "tiny"}, "size was 'nano' and is now 'tiny'"),
    ],
)
def test_a_checkpoint_of_another_plan_is_refused(changes: dict[str, Any], message: str, straight: dict[str, Path]) -> None:
    before = {path: path.stat().st_mtime_ns for path in straight["causal"].iterdir()}
    with pytest.raises(TrainingError, match=rf"is of another training \({message}\); use another --out, or remove it"):
        train(replace(CAUSAL, **changes), straight["causal"])
    assert {path: path.stat().st_mtime_ns for path in straight["causal"].iterdir()} == before


@pytest.mark.parametrize("kept", [0, 4, 50, -20])
def test_a_truncated_checkpoint_is_named(kept: int, straight: dict[str, Path], tmp_path: Path) -> None:
    whole = (straight["causal"] / "checkpoint.safetensors").read_bytes()
    (tmp_path / "checkpoint.safetensors").write_bytes(whole[:kept])
    with pytest.raises(TrainingError, match=r"checkpoint\.safetensors is no whole checkpoint .*remove it to start again"):
        train(CAUSAL, tmp_path)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == whole[:kept]


def test_another_safetensors_file_is_no_checkpoint(straight: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes((straight["causal"] / "model.safetensors").read_bytes())
    with pytest.raises(TrainingError, match="is no whole checkpoint"):
        train(CAUSAL, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minutes": 1.0}, "either steps or minutes"),
        ({"steps": None}, "either steps or minutes"),
        ({"steps": 0}, "steps is 0; it must be greater than 0"),
        ({"batch": -1}, "batch is -1"),
        ({"size": "huge"}, "unknown size 'huge'; choose from nano, mini, tiny, small, flat, base"),
        ({"task": "chess"}, "unknown task 'chess'; choose from sudoku, stories"),
        ({"architecture": "gpt3"}, "unknown architecture 'gpt3'; choose from gpt2, llama, qwen2, qwen3"),
        ({"architecture": "bert"}, "bert has no causal attention; train it masked, or choose from gpt2, llama"),
        ({"data": TrainingData(examples=0)}, "examples is 0; it must be greater than 0"),
        ({"data": TrainingData(sparse=-1)}, "sparse is -1; it must be greater than 0"),
        ({"adaptation": Adaptation("anneal")}, "a causal model is not adapted"),
        ({"objective": "masked", "adaptation": Adaptation("anneal")}, "needs a model to start from; without one choose scratch"),
    ],
)
def test_an_impossible_plan_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        replace(CAUSAL, **changes)


# ---------------------------------------------------------------- the twin


def test_a_masked_twin_starts_with_the_weights_of_the_causal_one(straight: dict[str, Path]) -> None:
    causal, _ = bare_module(straight["causal"])
    module, facts, twin = initial_module(replace(MASKED, init=str(straight["causal"])))
    assert twin is None
    assert same(module.state_dict(), causal.state_dict())
    assert (facts.attention, facts.logit_shift, facts.mask_token_id) == ("full", 1, 11)
    assert (module.config.is_causal, causal.config.is_causal) == (False, True)
    canvas = torch.randint(0, 12, (1, 163), generator=torch.Generator().manual_seed(0))
    changed = canvas.clone()
    changed[0, -1] = (canvas[0, -1] + 1) % 12
    for network, full in ((causal, False), (module, True)):
        moved = (network(input_ids=canvas).logits - network(input_ids=changed).logits)[0, 0].abs().max()
        assert (moved > 0) == full


def test_a_grown_twin_is_trained_resumed_and_loaded(straight: dict[str, Path], tmp_path: Path) -> None:
    plan = replace(MASKED, init=str(straight["causal"]))
    with pytest.raises(KeyboardInterrupt):
        train(plan, tmp_path, on_step=stop_at(3))
    train(plan, tmp_path)
    model = load(tmp_path)
    assert model.facts.attention == "full"
    assert (model.n_layers, model.d_model) == (SIZES["nano"]["n_layers"], SIZES["nano"]["d_model"])


def test_a_start_that_is_no_model_or_of_another_task_is_refused(
    tmp_path: Path, tiny_module: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="is no model"):
        train(replace(MASKED, init=str(tmp_path / "absent")), tmp_path / "out")
    tiny_module("causal").save_pretrained(tmp_path / "chess")
    config = json.loads((tmp_path / "chess" / "config.json").read_text())
    config[CONFIG_KEY]["task"] = "chess"
    (tmp_path / "chess" / "config.json").write_text(json.dumps(config))
    monkeypatch.setitem(train_module.TASKS, "chess", train_module.TASKS["sudoku"])
    with pytest.raises(ModelError, match="was trained on the task 'chess', and this training is on 'sudoku'"):
        train(replace(MASKED, init=str(tmp_path / "chess")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_start_that_became_another_network_is_refused(tmp_path: Path, tiny_module: Callable[..., Any], straight: dict[str, Path]) -> None:
    plan = replace(MASKED, size=None, init=str(tmp_path / "init"))
    tiny_module("causal").save_pretrained(tmp_path / "init")
    train(plan, tmp_path / "out")
    for path in ("config.json", "model.safetensors"):
        (tmp_path / "init" / path).write_bytes((straight["causal"] / path).read_bytes())
    with pytest.raises(TrainingError, match="of a network of another shape"):
        train(plan, tmp_path / "out")


def test_a_start_of_another_size_is_refused(tmp_path: Path, tiny_module: Callable[..., Any]) -> None:
    tiny_module("causal").save_pretrained(tmp_path / "init")
    with pytest.raises(ModelError, match=r"'d_model': 32.*size 'base' is .*'d_model': 256"):
        train(replace(MASKED, size="base", init=str(tmp_path / "init")), tmp_path / "out")


def test_the_learning_rate_warms_up_stays_and_falls() -> None:
    assert learning_rate_factor(0, 0.0) == pytest.approx(1 / 50)
    assert learning_rate_factor(49, 0.1) == learning_rate_factor(500, 0.41) == 1.0
    assert learning_rate_factor(500, 0.71) == pytest.approx(0.51)
    assert learning_rate_factor(500, 1.0) == pytest.approx(0.02)


# ---------------------------------------------------------------- other architectures


@pytest.mark.parametrize("name", ["qwen3", "llada2", "bert"])
def test_another_architecture_learns_is_resumed_to_the_very_weights_and_opens(name: str, tmp_path: Path) -> None:
    start = CAUSAL if "causal" in ARCHITECTURES[name].regimes else MASKED
    plan = replace(start, architecture=name, steps=16, batch=8)
    train(plan, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        train(plan, tmp_path / "stopped", on_step=stop_at(9))
    train(plan, tmp_path / "stopped")
    assert same(checkpoint_of(tmp_path / "stopped"), checkpoint_of(tmp_path / "straight"))
    losses = [line["loss"] for line in log_of(tmp_path / "stopped")]
    assert losses[-1] < losses[0] - 0.02
    model = load(tmp_path / "stopped")
    assert (model.network.architecture.model_type, model.facts.objective) == (name, plan.objective)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3_text"])
def test_a_twin_of_another_architecture_is_grown_by_every_method(name: str, tmp_path: Path) -> None:
    train(replace(CAUSAL, architecture=name, steps=2), tmp_path / "causal")
    causal, _ = bare_module(tmp_path / "causal")
    for method in ("switch", "anneal", "align", "scratch"):
        plan = replace(MASKED, size=None, init=str(tmp_path / "causal"), adaptation=Adaptation(method), steps=2)
        assert same(initial_module(plan)[0].state_dict(), causal.state_dict()) == (method != "scratch")
        train(plan, tmp_path / method)
        assert load(tmp_path / method).network.architecture.model_type == name


def test_a_start_of_another_architecture_is_refused(straight: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is of the architecture 'gpt2', not 'qwen3'; leave the architecture out"):
        train(replace(MASKED, architecture="qwen3", init=str(straight["causal"])), tmp_path / "out")


# ---------------------------------------------------------------- several processes


@pytest.mark.slow
def test_two_processes_train_as_one_does(straight: dict[str, Path], tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from pathlib import Path\n"
        "from models.plan import TrainingPlan\n"
        "from models.tasks import TrainingData\n"
        "from models.train import train\n"
        "plan = TrainingPlan('sudoku', 'causal', size='nano', steps=6, batch=4, data=TrainingData(examples=50))\n"
        f"train(plan, Path({str(tmp_path / 'out')!r}), device='cpu')\n"
        f"assert (Path({str(tmp_path / 'out')!r}) / 'config.json').exists()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29541", str(program)]
    ran = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    losses = [[line["loss"] for line in log_of(out)] for out in (tmp_path / "out", straight["causal"])]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
