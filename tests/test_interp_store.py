"""A harvest on disk is the harvest in memory, however it is cut into shards, wherever it was killed, whoever opens it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interp.canvases import Decoded, Masked, Source
from interp.concepts import Kind, Sites
from interp.corpus import Corpus, puzzle_corpus
from interp.harvest import Harvest, harvest
from interp.shards import RECORD_NAME, StoreError
from interp.store import Stored, harvest_to, open_harvest
from models.decoding import Decoding
from models.hookpoints import HookPoint, HookPointError, resid_post
from models.language_model import LanguageModel, wrap
from models.tasks.sudoku.generator import generate
from models.tasks.sudoku.task import SUDOKU

CORPUS = puzzle_corpus(SUDOKU, generate(10, seed=2))
POINTS = [resid_post(0), resid_post(1)]
Model = Callable[..., LanguageModel]


@pytest.fixture(scope="module")
def model(tiny_model: Model) -> LanguageModel:
    return tiny_model("full")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 2 sequences, and shards of 4: three of them, the last one short."""
    for module in ("harvest", "store"):
        monkeypatch.setattr(f"interp.{module}.BATCH", 2)
    monkeypatch.setattr("interp.store.MOST_CANVASES", 4 * 5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "harvest"


def assert_same(found: Harvest, expected: Harvest) -> None:
    for column in fields(Sites):
        assert torch.equal(getattr(found.sites, column.name), getattr(expected.sites, column.name)), column.name
    assert list(found.activations) == list(expected.activations)
    for point, values in expected.activations.items():
        torch.testing.assert_close(found.activations[point], values, atol=1e-5, rtol=1e-5)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# ---------------------------------------------------------------- the same as in memory


@pytest.mark.parametrize(
    ("regime", "canvases", "kinds"),
    [
        ("full", None, (Kind.MASKED,)),
        ("full", Masked((0.4,), corrupt=0.2), (Kind.SETTLED, Kind.PROMPT)),
        ("full", Decoded(Decoding("random", steps=3, seed=1)), (Kind.MASKED, Kind.COMMITTED)),
        ("causal", None, (Kind.MASKED,)),
    ],
)
def test_what_is_stored_is_what_is_harvested(
    regime: str, canvases: Source, kinds: tuple[Kind, ...], tiny_model: Model, folder: Path
) -> None:
    read = tiny_model(regime)
    stored = harvest_to(folder, read, CORPUS, POINTS, canvases=canvases, kinds=kinds, sites_per_canvas=3, seed=5)
    expected = harvest(read, CORPUS, POINTS, canvases=canvases, kinds=kinds, sites_per_canvas=3, seed=5)
    assert len(stored) == len(expected.sites) > 0
    assert stored.points == tuple(POINTS)
    assert_same(stored.load(POINTS), expected)
    assert_same(open_harvest(folder).load(POINTS[1:]), Harvest(expected.sites, {POINTS[1]: expected.activations[POINTS[1]]}))


@settings(max_examples=4)
@given(canvases=st.integers(1, 60))
def test_any_size_of_shards_gives_the_same_rows(canvases: int, model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp.store.MOST_CANVASES", canvases)
        stored = harvest_to(tmp_path_factory.mktemp("any") / "harvest", model, CORPUS, POINTS, sites_per_canvas=3, seed=5)
    assert_same(stored.load(POINTS), harvest(model, CORPUS, POINTS, sites_per_canvas=3, seed=5))


def test_shards_hold_no_more_than_they_may(model: LanguageModel, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.store.MOST_CANVASES", 8192)
    monkeypatch.setattr("interp.store.MOST_BYTES", 100_000)
    harvest_to(folder, model, CORPUS, POINTS)
    sizes = [path.stat().st_size for path in folder.glob("*.arrow")]
    assert len(sizes) > 2
    assert max(sizes) < 110_000


@pytest.mark.parametrize("rows", [1, 7, 64, 10_000])
def test_chunks_are_the_column_in_order(rows: int, model: LanguageModel, folder: Path) -> None:
    stored = harvest_to(folder, model, CORPUS, POINTS, dtype="float16")
    chunks = list(stored.chunks(POINTS[1], rows))
    assert {len(chunk) for chunk in chunks[:-1]} <= {rows}
    assert all(chunk.dtype == torch.float32 for chunk in chunks)
    expected = harvest(model, CORPUS, POINTS, dtype=torch.float16)
    assert torch.equal(torch.cat(chunks), expected.activations[POINTS[1]].float())
    with pytest.raises(HookPointError, match=r"has no blocks\.1\.hook_resid_pre; choose from blocks\.0\.hook_resid_post, blocks\.1"):
        next(stored.chunks(HookPoint(1, "hook_resid_pre"), 5))
    with pytest.raises(StoreError, match="rows_per_chunk is 0"):
        next(stored.chunks(POINTS[0], 0))


def test_a_shard_without_rows_is_a_shard(model: LanguageModel, folder: Path) -> None:
    stored = harvest_to(folder, model, CORPUS, POINTS, canvases=Decoded(Decoding(steps=1)), kinds=[Kind.COMMITTED])
    assert (len(stored), stored.load(POINTS).activations[POINTS[0]].shape) == (0, (0, 32))
    assert stored.sites.seen.shape == (0, 163)


# ---------------------------------------------------------------- other tools


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_datasets_opens_it(dtype: str, model: LanguageModel, folder: Path) -> None:
    stored = harvest_to(folder, model, CORPUS, POINTS, dtype=dtype)
    opened = datasets.load_from_disk(folder)
    assert len(opened) == len(stored)
    assert set(opened.column_names) == {*map(str, POINTS), "token_ids", *(column.name for column in fields(Sites))}
    opened.set_format("torch")
    row, sites = opened[3], stored.sites
    torch.testing.assert_close(row["blocks.1.hook_resid_post"].float(), next(stored.chunks(POINTS[1], 4))[3:])
    for name in (column.name for column in fields(Sites)):
        assert torch.equal(torch.as_tensor(row[name]).to(getattr(sites, name).dtype), getattr(sites, name)[3]), name
    assert row["token_ids"].tolist() == [sites.seen[3, sites.position[3]].item()]


def test_saelens_trains_on_it(model: LanguageModel, folder: Path) -> None:
    from sae_lens import ActivationsStore

    stored = harvest_to(folder, model, CORPUS, POINTS, dtype="float16")
    store = ActivationsStore(
        model=None,  # not asked for anything
        dataset=None,
        streaming=False,
        hook_name=str(POINTS[1]),
        hook_head_index=None,
        context_size=1,
        d_in=32,
        n_batches_in_buffer=32,
        total_training_tokens=100,
        store_batch_size_prompts=8,
        train_batch_size_tokens=16,
        prepend_bos=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
        cached_activations_path=str(folder),
        disable_concat_sequences=False,
        autocast_lm=False,
        dataset_trust_remote_code=None,
        seqpos_slice=(None,),
        exclude_special_tokens=None,
    )
    activations, tokens = store.get_raw_llm_batch()
    whole = stored.load(POINTS)
    assert torch.equal(activations, whole.activations[POINTS[1]][:8])
    assert torch.equal(tokens, whole.sites.seen[torch.arange(8), whole.sites.position[:8]].to(tokens.dtype))
    known = {tuple(row.tolist()) for row in whole.activations[POINTS[1]]}
    batch = next(iter(store))
    assert batch.shape == (16, 32)
    assert {tuple(row.tolist()) for row in batch.reshape(-1, 32)} <= known


# ---------------------------------------------------------------- broken off and gone on with

KILLED = """
import os, signal, sys
from pathlib import Path
import interp.harvest, interp.store
from interp.corpus import puzzle_corpus
from models.hookpoints import resid_post
from models.load import load
from models.tasks.sudoku.generator import generate
from models.tasks.sudoku.task import SUDOKU

interp.harvest.BATCH = interp.store.BATCH = 2
interp.store.MOST_CANVASES = 20
def tell(done, total):
    if done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
corpus = puzzle_corpus(SUDOKU, generate(10, seed=2))
interp.store.harvest_to(Path(sys.argv[1]), load(sys.argv[2]), corpus, [resid_post(0), resid_post(1)], on_sequence=tell)
"""


@pytest.mark.parametrize(("at", "there"), [(2, 0), (4, 0), (6, 1)])
def test_a_killed_harvest_goes_on_to_the_same_bytes(at: int, there: int, tiny_module: Callable[..., Any], tmp_path: Path) -> None:
    from models.load import load

    place, broken, unbroken = (tmp_path / name for name in ("tiny", "broken", "unbroken"))
    tiny_module("full").save_pretrained(place)
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here: sums over two threads round differently
    command = [sys.executable, "-c", KILLED, broken, place, str(at)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    message = rf"holds {there} of the 3 shards of a harvest that was not finished; the command or call that began it goes on with it"
    with pytest.raises(StoreError, match=message):
        open_harvest(broken)
    so_far = len(datasets.load_from_disk(broken)) if there else 0
    read, made = load(place), []
    harvest_to(broken, read, CORPUS, POINTS, on_sequence=lambda done, total: made.append(done))
    assert made == [4, 8, 10][:there] + [2, 4, 4, 6, 8, 8, 10, 10][3 * there :]
    stored = harvest_to(unbroken, read, CORPUS, POINTS)
    assert so_far == (stored.sites.sample < 4 * there).sum()
    assert contents(broken) == contents(unbroken)


def test_a_full_disk_keeps_the_whole_shards(model: LanguageModel, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on the size of files stands for the end of the disk; the last shard is smaller than the others."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    whole = harvest_to(folder.with_name("whole"), model, CORPUS, POINTS)
    sizes = sorted({path.stat().st_size for path in whole.folder.glob("*.arrow")})
    monkeypatch.setattr("interp.store.MOST_CANVASES", 4 * 5)
    harvest_to(folder, model, CORPUS, POINTS)
    (folder / "shard-00001-of-00003.arrow").unlink()
    resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[-1] - 1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large; 2 of 3 shards are kept, and the same call goes on from there"):
            harvest_to(folder, model, CORPUS, POINTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(folder.glob(".*"))
    harvest_to(folder, model, CORPUS, POINTS)
    assert contents(folder) == contents(whole.folder)


def test_a_finished_harvest_is_not_made_again(model: LanguageModel, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harvest_to(folder, model, CORPUS, POINTS)
    before = contents(folder)
    monkeypatch.setattr("interp.store.harvest_parts", lambda *_, **__: pytest.fail("nothing is left to do"))
    harvest_to(folder, model, CORPUS, POINTS)
    assert contents(folder) == before


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 3}, "whose seed was 0 and is now 3"),
        ({"sites_per_canvas": 2}, "whose sites_per_canvas was 8 and is now 2"),
        ({"kinds": [Kind.SETTLED]}, "whose kinds was masked and is now settled"),
        ({"canvases": Masked((0.5,))}, r"whose canvases' rates was 0\.1, 0\.3, 0\.5, 0\.7, 0\.9 and is now 0\.5"),
        ({"canvases": Decoded(Decoding(steps=1))}, "whose canvases' source was masked and is now decoded"),
        ({"dtype": "float16"}, "whose dtype was float32 and is now float16"),
        ({"points": POINTS[:1]}, r"whose points was .* and is now blocks\.0\.hook_resid_post; choose another folder"),
        ({"corpus": puzzle_corpus(SUDOKU, generate(10, seed=3))}, "whose corpus was .* and is now"),
        ({"corpus": Corpus(CORPUS.sequences[:4], CORPUS.asked[:4], CORPUS.group[:4])}, "whose corpus was"),
    ],
)
def test_other_settings_are_refused_by_name(changes: dict[str, Any], message: str, model: LanguageModel, folder: Path) -> None:
    harvest_to(folder, model, CORPUS, POINTS)
    before = contents(folder)
    with pytest.raises(StoreError, match=message) as error:
        harvest_to(folder, model, **{"corpus": CORPUS, "points": POINTS, **changes})
    assert "\n" not in str(error.value)
    assert contents(folder) == before


def test_another_model_is_refused_but_not_another_name(model: LanguageModel, tiny_model: Model, folder: Path) -> None:
    harvest_to(folder, model, CORPUS, POINTS)
    with pytest.raises(StoreError, match=r"whose fingerprint was sudoku-masked:.* and is now sudoku-masked:"):
        harvest_to(folder, tiny_model("full", seed=1), CORPUS, POINTS)
    harvest_to(folder, wrap("moved", model.module, model.facts), CORPUS, POINTS)


def test_shards_keep_the_size_they_were_begun_with(model: LanguageModel, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harvest_to(folder, model, CORPUS, POINTS)
    before = contents(folder)
    (folder / "shard-00001-of-00003.arrow").unlink()
    monkeypatch.setattr("interp.store.MOST_CANVASES", 8192)
    harvest_to(folder, model, CORPUS, POINTS)
    assert contents(folder) == before


def test_a_bad_request_leaves_nothing_behind(model: LanguageModel, folder: Path) -> None:
    for changes, message in (
        ({"points": [resid_post(7)]}, "no such hook points"),
        ({"points": [HookPoint(0, "attn.hook_z")]}, "a harvest reads 32"),
        ({"dtype": "bfloat16"}, r"cannot be stored as 'bfloat16'; choose from float32, float16 \(Arrow has no bfloat16\)"),
        ({"kinds": [Kind.COMMITTED]}, "no committed positions"),
        ({"corpus": Corpus(CORPUS.sequences[:0], CORPUS.asked[:0], CORPUS.group[:0])}, "no sequences"),
    ):
        with pytest.raises(ValueError, match=message):
            harvest_to(folder, model, **{"corpus": CORPUS, "points": POINTS, **changes})
    assert not folder.exists()


def test_what_is_no_harvest_is_said_so(model: LanguageModel, folder: Path) -> None:
    with pytest.raises(StoreError, match=r"is no harvest \(it has no harvest\.json\)"):
        open_harvest(folder)
    folder.mkdir()
    (folder / "notes").write_text("precious")
    with pytest.raises(StoreError, match="holds other files"):
        harvest_to(folder, model, CORPUS, POINTS)
    with pytest.raises(StoreError, match="exists and is no folder"):
        harvest_to(folder / "notes", model, CORPUS, POINTS)
    with pytest.raises(StoreError, match="cannot be made: Not a directory"):
        harvest_to(folder / "notes" / "inside", model, CORPUS, POINTS)
    for text, message in (("{", "is damaged"), ("[]", "is damaged"), ('{"format_version": 9}', "format_version 9; this version reads 1")):
        (folder / RECORD_NAME).write_text(text)
        with pytest.raises(StoreError, match=message):
            open_harvest(folder)


def test_a_record_with_a_stranger_in_it_is_damaged(model: LanguageModel, folder: Path) -> None:
    harvest_to(folder, model, CORPUS, POINTS)
    record = json.loads((folder / RECORD_NAME).read_text())
    (folder / RECORD_NAME).write_text(json.dumps({**record, "extra": 1}))
    with pytest.raises(StoreError, match="damaged"):
        open_harvest(folder)


@pytest.fixture
def stored(model: LanguageModel, folder: Path) -> Iterator[Stored]:
    yield harvest_to(folder, model, CORPUS, POINTS)
    shutil.rmtree(folder)


@pytest.mark.parametrize("keep", [0, 8, 5000, -8])
def test_a_shard_cut_short_is_named(keep: int, stored: Stored) -> None:
    path = stored.folder / "shard-00001-of-00003.arrow"
    os.truncate(path, keep if keep >= 0 else path.stat().st_size + keep)
    with pytest.raises(
        StoreError, match=r"shard-00001-of-00003\.arrow is (cut short|damaged).*delete it, and what made it makes it again"
    ) as error:
        stored.load(POINTS)
    assert "\n" not in str(error.value)


def test_a_missing_shard_is_made_again(stored: Stored, model: LanguageModel) -> None:
    before: Tensor = stored.load(POINTS).activations[POINTS[0]]
    (stored.folder / "shard-00000-of-00003.arrow").unlink()
    with pytest.raises(StoreError, match="holds 2 of the 3 shards"):
        open_harvest(stored.folder)
    harvest_to(stored.folder, model, CORPUS, POINTS)
    assert torch.equal(open_harvest(stored.folder).load(POINTS).activations[POINTS[0]], before)
