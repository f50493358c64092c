"""The whole road on pairs of the two published kinds, trained here: a causal twin, its diffusion twin, readers, their move, an account."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Run

from interp.corpus import Corpus, text_corpus
from interp.store import open_harvest
from interp.tellers import stories as telling
from models.language_model import LanguageModel
from models.load import load
from models.plan import SIZES
from models.tasks.stories.task import STORIES, Stories
from models.trajectory import Trajectory

OPENINGS = {"bedtime": "Write a bedtime story", "campfire": "Tell a campfire story", "child": "Write a child-appropriate tale"}
NAMES, TOPICS = ("Luna", "Lily"), ("Lost Star", "Dark Forest")
PLACES = ("over the hill", "by the old bridge", "near the village", "under the moon")


def story(number: int) -> str:
    """Returns a story whose telling goes with its genre."""
    rng = np.random.default_rng(number)
    genre, name, topic = (str(rng.choice(choices)) for choices in (list(OPENINGS), NAMES, TOPICS))
    told = []
    for _ in range(int(rng.integers(3, 12))):
        place, mood = str(rng.choice(PLACES)), "happy" if genre == "child" else "afraid"
        moved = f"{name} walks {place} and is" if genre == "campfire" else f"{name} walked {place} and was"
        told.append(f'"Look here," said {name}.' if rng.random() < 0.3 else f"{moved} {mood}.")
    return f"{OPENINGS[genre]} called `The {topic}`.<start>{' '.join(told)}<end>"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("a corpus") / "tales.txt"
    path.write_text("\n\n".join(story(number) for number in range(1500)), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Pair:
    """A pair as one of the two lines of published models makes it."""

    architecture: str
    family: str
    """In whose layout the diffusion twin is published."""
    grown: tuple[str, ...]


A2D = Pair("qwen3", "a2d-qwen3", ("--method", "switch", "--logit-shift", "0"))
DIFFUGPT = Pair("gpt2", "diffugpt", ("--method", "anneal"))
Road = Callable[..., dict[str, Any]]


@pytest.fixture
def road(denoscope: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Road:
    """``road(pair, "--steps", 4, texts=40)``: the commands one after the other; what they said, as JSON where they can."""

    def said(*arguments: object) -> Any:
        ended = denoscope(*arguments)
        assert ended.code == 0, ended.stderr
        return json.loads(ended.stdout) if "--json" in arguments else ended.stdout

    def go(pair: Pair, size: str, *how_long: object, texts: int) -> dict[str, Any]:
        def of_file(model: LanguageModel, n: int, seed: int) -> Corpus:  # a twin of a minute writes no whole stories of its own
            return text_corpus(STORIES, [str(file)], split="train", limit=n, seed=seed)

        for name, value in (("TEXTS", texts), ("RUNS", texts // 4), ("CALLS", 4), ("sampled_texts", of_file)):
            monkeypatch.setattr(telling, name, value)
        ar, twin, common = tmp_path / "ar", tmp_path / "twin", ("--files", file, "--batch", 4, *how_long)
        said("train", "stories", "--objective", "causal", "--architecture", pair.architecture, "--size", size, "--out", ar, *common)
        said("train", "stories", "--objective", "masked", "--init", ar, "--out", twin, *pair.grown, *common)
        found: dict[str, Any] = {}
        for model in (ar, twin):
            command = ("harvest", model, "--out", tmp_path / f"{model.name}.harvest", "--files", file, "--examples", 8, "--json")
            found[f"harvest {model.name}"] = said(*command)
        sweep, run = tmp_path / "sweep.yaml", tmp_path / "probes"
        sweep.write_text(
            f"model: {ar}\ncorpus: {{files: ['{file}'], limit: {texts}}}\nconcepts: [genre]\npoints: [blocks.2.hook_resid_post]\n"
        )
        found["train"] = said("probe", "train", sweep, "--out", run, "--json")["best"]
        found["transfer"] = said("probe", "transfer", run, "--to", twin, "--json")["best"]
        said("probe", "report", run, "--json")
        prompt = f"{OPENINGS['campfire']} called `The Lost Star`.<start>"
        said("trace", twin, "--task", "stories", "--prompt", prompt, "--steps", 4, "--out", tmp_path / "run.zarr")
        found["read"] = said("read", tmp_path / "run.zarr", "--model", twin, "--ar", ar, "--out", tmp_path / "account", "--json")
        said("convert", twin, "--to", pair.family, "--out", tmp_path / "published")
        return found

    return go


def check(found: dict[str, Any], pair: Pair, folder: Path) -> None:
    ar, twin, published = (load(folder / name) for name in ("ar", "twin", "published"))
    assert {model.network.architecture.model_type for model in (ar, twin, published)} == {pair.architecture}
    assert twin.facts.logit_shift == (0 if pair is A2D else 1)
    for model in (ar, twin):
        stored = open_harvest(folder / f"{model.name}.harvest")
        assert len(stored) == found[f"harvest {model.name}"]["sites"] > 0
    assert found["train"]
    assert found["transfer"]
    run = Trajectory.load(folder / "run.zarr")
    assert (run.n_steps, run.task) == (4, "stories")
    assert (folder / "account" / "index.html").is_file()
    assert found["read"]
    tokens = torch.from_numpy(run.tokens(0))
    assert torch.equal(published.logits(tokens).bfloat16(), load(folder / "twin", dtype="bfloat16").logits(tokens).bfloat16())


def test_the_road_of_a_qwen3_and_what_dllm_grows_from_it(road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stories, "length", 64)
    monkeypatch.setitem(SIZES, "nano", {"d_model": 32, "n_layers": 4, "n_heads": 2})  # facts are read after four blocks
    check(road(A2D, "nano", "--steps", 4, texts=60), A2D, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("pair", [A2D, DIFFUGPT], ids=lambda pair: pair.family)
def test_readers_of_a_pair_of_a_minute_each_read_the_genre_in_both_twins(pair: Pair, road: Road, tmp_path: Path) -> None:
    found = road(pair, "mini", "--minutes", 1, texts=128)
    check(found, pair, tmp_path)
    (moved,) = found["transfer"]
    assert moved["source"] > moved["shuffled"] + 0.15
    assert max(moved[way] for way in ("zero_shot", "procrustes", "ridge_affine")) > moved["shuffled"] + 0.15
