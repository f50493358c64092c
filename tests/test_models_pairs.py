"""Published pairs: what the table says of them agrees with the families, and the road that is printed of each can be walked."""

from __future__ import annotations

import json
import random
import re
import runpy
import shlex
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from command_line import Run, refused
from tiny_networks import stirred

from interp.cli.app import app
from interp.cli.pairs import ROAD, road
from interp.saes.config import SaeConfig
from interp.sweeps.config import SweepConfig
from models.architectures import ARCHITECTURES
from models.card import Card, read_card
from models.families import FAMILIES
from models.hookpoints import HookPoint
from models.network_shape import shape_of
from models.pairs import PAIRS, Member, Pair, PairError, PublicSae, pair_of
from models.tasks.stories.task import TOKENIZER

EACH = pytest.mark.parametrize("pair", PAIRS.values(), ids=lambda pair: pair.name)
MEMBERS = {member.hub: member for pair in PAIRS.values() for member in (pair.causal, pair.diffusion)}
SHIFTS = {
    "diffugpt-s": 1,
    "diffugpt-m": 1,
    "diffullama": 1,
    "dream-7b": 1,
    "diffucoder-7b": 1,
    "a2d-mdlm-0.6b": 0,
    "a2d-bd3lm-0.6b": 0,
    "a2d-coder-0.5b": 0,
    "sdar-1.7b": 0,
    "sdar-8b": 0,
}
"""As the models' own samplers read them: after Dream and DiffuLLaMA, dLLM and SDAR."""
BYTES = {
    "Qwen/Qwen3-0.6B": 1.192e9,
    "Qwen/Qwen3-1.7B-Base": 3.44e9,
    "JetLM/SDAR-1.7B-Chat": 4.06e9,
    "JetLM/SDAR-8B-Chat": 16_381_470_720,
    "Dream-org/Dream-v0-Base-7B": 15_231_233_024,
    "Qwen/Qwen2.5-Coder-0.5B-Instruct": 988_097_824,
    "dllm-hub/Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm-v0.1": 1.26e9,
    "diffusionfamily/diffugpt-s": 249e6,
    "diffusionfamily/diffugpt-m": 710e6,
    "diffusionfamily/diffullama": 13.48e9,
    "apple/DiffuCoder-7B-Base": 15.23e9,
}
"""Of published weights, two bytes each, as the hub shows them or their index says."""


@EACH
def test_what_is_said_of_a_pair_agrees_with_its_families(pair: Pair) -> None:
    assert pair.causal.known.behaviour.objective == "causal"
    assert pair.diffusion.known.behaviour.objective == "masked"
    assert pair.logit_shifts == (1, SHIFTS[pair.name])
    assert pair.diffusion.known.behaviour.mask_token_id in (None, pair.mask_token) or pair.name == "diffugpt-m"
    assert pair.causal.known.network == pair.diffusion.known.network
    assert (pair.causal.layers, pair.causal.d_model) == (pair.diffusion.layers, pair.diffusion.d_model)
    assert pair.mask_token < int(pair.diffusion.config["vocab_size"])
    for member in (pair.causal, pair.diffusion):
        assert member.family in FAMILIES
        assert member.hub in member.known.hub
        assert member.revision is None or re.fullmatch("[0-9a-f]{40}", member.revision)


@pytest.mark.parametrize("hub", BYTES)
def test_sizes_are_those_of_the_published_weights(hub: str) -> None:
    member = MEMBERS[hub]
    network = ARCHITECTURES[member.known.network].network()
    assert network.config_class is not None
    counted = 2 * shape_of(network.config_class(**member.config), network).parameters
    assert counted == pytest.approx(BYTES[hub], rel=0.002)


def test_public_saes_are_in_the_registry() -> None:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    releases = get_pretrained_saes_directory()
    found = [(pair, pair.sae) for pair in PAIRS.values() if pair.sae]
    assert len(found) == 3
    for pair, sae in found:
        entry = releases[sae.release]
        assert sae.sae_id in entry.saes_map
        point = HookPoint.parse(sae.point)
        assert point.layer == pair.causal.layers // 2
        assert sae.point.endswith("hook_resid_post" if entry.conversion_func == "qwen_scope" else sae.sae_id)
        assert entry.model.split("/")[-1] in (pair.causal.hub.split("/")[-1], "gpt2-small")


def test_an_unknown_pair_names_all() -> None:
    with pytest.raises(PairError, match=r"unknown pair 'sdar'.*diffugpt-s.*sdar-8b"):
        pair_of("sdar")


# ---------------------------------------------------------------- the printed road


def commands(script: str) -> list[list[str]]:
    """Returns the words of each command of a road."""
    lines = [shlex.split(line, comments=True) for line in script.splitlines()]
    return [words for words in lines if words and words[0] in ("denoscope", "python")]


def parsed(words: list[str]) -> None:
    """Asserts that the command exists and has these options."""
    group: Any = typer.main.get_command(app)
    at = 1
    while at < len(words) and words[at] in getattr(group, "commands", {}):
        group, at = group.commands[words[at]], at + 1
    assert at > 1
    group.make_context(words[at - 1], words[at:])


@EACH
def test_the_files_of_a_road_are_what_its_commands_read(pair: Pair, tmp_path: Path) -> None:
    files = road(pair)
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    for which, member in (("ar", pair.causal), ("diffusion", pair.diffusion)):
        card = read_card(tmp_path / f"{which}.toml")
        expected = Card(model=member.hub, revision=member.revision, family=member.family, dtype=pair.dtype, device="auto")
        assert card == expected
    assert ("not pinned" in files["diffusion.toml"]) == (pair.diffusion.revision is None)
    sweep = SweepConfig.model_validate(yaml.safe_load(files["probes.yaml"]))
    saes = SaeConfig.model_validate(yaml.safe_load(files["saes.yaml"]))
    assert {sweep.model, saes.model} == {"ar.toml"}
    for point in (*sweep.points, *saes.points):
        layer = HookPoint.parse(point).layer
        assert layer is not None
        assert 0 <= layer < pair.causal.layers
    assert ("public_sae.py" in files) == (pair.sae is not None)
    compile(files.get("public_sae.py", ""), "public_sae.py", "exec")
    subprocess.run(["bash", "-n", tmp_path / ROAD], check=True)
    for words in commands(files[ROAD]):
        if words[0] == "denoscope":
            parsed(words)
        else:
            assert words[1] in files


def checkpoint(folder: Path, kind: str, model_type: str) -> None:
    """Writes a random Qwen3 of four blocks as one that is published, with the tokenizer of the stories."""
    from transformers import PreTrainedTokenizerFast

    module = stirred(ARCHITECTURES["qwen3"].build(vocab_size=6000, n_positions=128, d_model=32, n_layers=4, n_heads=4))
    module.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER), mask_token="<mask>", eos_token="<end>").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": [kind], "model_type": model_type}
    (folder / "config.json").write_text(json.dumps(config))


def labels(path: Path) -> None:
    """Writes texts that are calm or wild, with their animals marked."""
    draw, lines = random.Random(0), []
    for number in range(20):
        calm, animal = number % 2 == 0, draw.choice(["fox", "hen", "bear"])
        text = f"The {animal} {'slept and was calm' if calm else 'ran and was wild'}. " + "The moon rose over the hills. " * draw.randint(
            0, 2
        )
        spans = [{"start": 4, "end": 4 + len(animal), "label": "animal"}]
        lines.append(json.dumps({"text": text, "calm": calm, "spans": spans}))
    path.write_text("\n".join(lines))


@pytest.fixture
def walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The files of the road of a random pair of dLLM's kind, in the folder where this process now is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("models.tasks.text.WINDOW", 32)
    checkpoint(tmp_path / "parent", "Qwen3ForCausalLM", "qwen3")
    checkpoint(tmp_path / "grown", "A2DQwen3LMHeadModel", "a2d-qwen3")
    labels(tmp_path / "labels.jsonl")
    shapes = {"W_enc": (64, 32), "W_dec": (32, 64), "b_enc": (64,), "b_dec": (32,)}
    (tmp_path / "public-L0_5").mkdir()
    torch.save({name: torch.randn(shape) for name, shape in shapes.items()}, "public-L0_5/layer2.sae.pt")  # noqa: TID251 (what is read here)
    sizes = {"num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 6000}
    pair = replace(
        PAIRS["a2d-mdlm-0.6b"],
        causal=Member("parent", "qwen3", sizes),
        diffusion=Member("grown", "a2d-qwen3", sizes),
        sae=PublicSae("public-L0_5", "layer2", "blocks.2.hook_resid_post"),
    )
    files = road(pair)
    files["saes.yaml"] = files["saes.yaml"].replace("2000000", "8192") + "batch: 128\ncrosscoder: 0\ntuned: []\n"
    for name, text in files.items():
        Path(name).write_text(text, encoding="utf-8")
    return files


def walk(words: list[str], denoscope: Run) -> str:
    """Returns what a command of a road says, run in this process."""
    ended = denoscope(*words[1:])
    assert ended.code == 0, f"{shlex.join(words)}: {ended.stderr}{ended.stdout}"
    return ended.stdout


def takes_long(words: list[str]) -> bool:
    return words[0] == "python" or words[1] == "sae" or words[1:3] in (["probe", "transfer"], ["probe", "report"])


def test_the_fast_steps_of_a_printed_road_are_walked(walked: dict[str, str], denoscope: Run) -> None:
    for words in commands(walked[ROAD]):
        if not takes_long(words):
            walk(words, denoscope)
    for made in ("probes/results.parquet", "trace.html", "harvest/dataset_info.json"):
        assert Path(made).is_file(), made
    refused(
        denoscope("harvest", "ar.toml", "--labels", "labels.jsonl", "--split", "test", "--out", "more"), "--labels is a corpus of its own"
    )
    Path("ar.toml").write_text(walked["ar.toml"].replace("auto", "gpu"), encoding="utf-8")
    refused(denoscope("harvest", "ar.toml", "--labels", "labels.jsonl", "--out", "more"), "ar.toml", "device")


@pytest.mark.slow
def test_a_printed_road_is_walked_to_its_end(walked: dict[str, str], denoscope: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands(walked[ROAD]):
        if words[0] == "denoscope":
            walk(words, denoscope)
        else:
            runpy.run_path(words[1])
            said = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
            assert said == ["causal model", *(f"diffusion model, {way}" for way in ("zero_shot", "matched", "stitched"))]
    for made in ("probes/index.html", "saes/index.html", "trace.html"):
        assert Path(made).is_file(), made


def test_the_command_lists_writes_and_refuses(denoscope: Run, tmp_path: Path) -> None:
    listed = denoscope("pairs")
    assert listed.code == 0
    assert all(name in listed.stdout and pair.diffusion.hub in listed.stdout for name, pair in PAIRS.items())
    assert set(json.loads(denoscope("pairs", "--json").stdout)) == set(PAIRS)
    one = json.loads(denoscope("pairs", "sdar-8b", "--json").stdout)
    assert one["files"] == road(PAIRS["sdar-8b"])
    assert one["cost"]["diffusion"]["parameters"] * 2 == BYTES["JetLM/SDAR-8B-Chat"]
    pasted = denoscope("pairs", "sdar-8b").stdout
    assert all(text in pasted for name, text in one["files"].items() if name != ROAD)
    subprocess.run(["bash", "-n"], input=pasted, text=True, check=True)
    assert "bash" in denoscope("pairs", "dream-7b", "--out", tmp_path / "a road").stdout
    assert tomllib.loads((tmp_path / "a road" / "ar.toml").read_text())["model"] == "Qwen/Qwen2.5-7B"
    refused(denoscope("pairs", "dream-7b", "--out", tmp_path / "a road"), "ar.toml exists")
    refused(denoscope("pairs", "--out", tmp_path), "name it")
    refused(denoscope("pairs", "dream"), "unknown pair 'dream'", "dream-7b")
