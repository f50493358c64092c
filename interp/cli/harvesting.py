"""The command that harvests activations to disk."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.app import OutputError, app, out, print_json, progress_bars, resumable
from interp.cli.decoding import Seed, Settings, Steps, decoding_of
from interp.cli.running import Model

if TYPE_CHECKING:
    from interp.canvases import Source
    from interp.corpus import Corpus
    from models.language_model import LanguageModel

EXAMPLES = 1000


class _Dtype(StrEnum):
    FLOAT32 = "float32"
    FLOAT16 = "float16"


class _Split(StrEnum):
    TEST = "test"
    TRAIN = "train"


def _corpus(model: LanguageModel, puzzles: Path | None, files: list[Path] | None, split: str | None, examples: int, seed: int) -> Corpus:
    """Returns what to read the model on; raises OutputError where the options are not those of its task."""
    from interp.boards import mixed_boards
    from interp.corpus import puzzle_corpus, text_corpus
    from models.tasks import PuzzleTask

    task = model.task
    if isinstance(task, PuzzleTask):
        if files or split:
            raise OutputError(f"{model.name} solves puzzles: --files and --split are for text; give --puzzles, or --examples alone")
        return puzzle_corpus(task, task.read(puzzles, examples) if puzzles else mixed_boards(examples, seed))
    if puzzles or not files:
        raise OutputError(f"{model.name} writes text: give --files with stories, or --labels, and no --puzzles")
    return text_corpus(task, tuple(map(str, files)), split="train" if split == "train" else "test", limit=examples, seed=seed)


def _labelled(model: LanguageModel, labels: Path) -> Corpus:
    """Returns the texts or puzzles of a file of labels."""
    from interp.concepts.labelled import labelled_corpus

    return labelled_corpus(labels, model.task)[0]


def _source(model: LanguageModel, masked: dict[str, Any], decoded: dict[str, Any], *, run: bool, seed: int) -> Source | None:
    """Returns what the model is to be shown; raises OutputError on options that it would not heed."""
    from interp.canvases import Decoded, Masked

    given = [f"--{name}" for name, value in {**masked, **decoded}.items() if value is not None]
    if model.facts.objective == "causal":
        if given or run:
            raise OutputError(f"{model.name} is a causal model: it reads whole sequences, without {', '.join(given) or '--decoded'}")
        return None
    unheeded = [f"--{name}" for name, value in (masked if run else decoded).items() if value is not None]
    if unheeded:
        rule = "is for masks drawn at random; leave out --decoded" if run else "is for a denoising run; add --decoded"
        raise OutputError(f"{unheeded[0]} {rule}")
    if run:
        policy = "low_confidence" if decoded["policy"] is None else decoded["policy"]
        decoding = decoding_of(policy, decoded["set"], steps=decoded["steps"], seed=seed)
        return Decoded(decoding) if decoded["every"] is None else Decoded(decoding, decoded["every"])
    rates = {} if masked["mask-rates"] is None else {"rates": tuple(masked["mask-rates"])}
    return Masked(**rates, corrupt=0.0 if masked["corrupt"] is None else masked["corrupt"])


@app.command()
def harvest(
    model: Model,
    target: Annotated[Path, typer.Option("--out", help="Folder for the shards; one that was begun by the same command is gone on with.")],
    points: Annotated[
        list[str] | None,
        typer.Option(help="`hook_resid_post` (every block's, the default), `all`, or one such as `blocks.3.hook_resid_post`. Repeat it."),
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="So many boards or stories, at most.")] = EXAMPLES,
    puzzles: Annotated[Path | None, typer.Option(help="A file of puzzles; without, boards are generated that no training sees.")] = None,
    files: Annotated[list[Path] | None, typer.Option(help="A text file of stories, for a model of text; repeat for more.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Texts or puzzles with labels (JSONL or Parquet), as a sweep's corpus.")] = None,
    split: Annotated[_Split | None, typer.Option(help="Stories no training sees (`test`, the default), or the others.")] = None,
    kinds: Annotated[
        list[str] | None,
        typer.Option(help="Positions to read: masked (the default), prompt, settled; in a run also committed, just written. Repeat it."),
    ] = None,
    mask_rates: Annotated[list[float] | None, typer.Option(help="A share to mask; repeat it. Default: .1, .3, .5, .7, .9.")] = None,
    corrupt: Annotated[float | None, typer.Option(help="Replace this share of the visible answer by other tokens of it.")] = None,
    decoded: Annotated[bool, typer.Option("--decoded", help="Read the canvases that the model makes while it denoises.")] = False,
    policy: Annotated[str | None, typer.Option(help="With --decoded: the unmasking policy (default low_confidence).")] = None,
    settings: Settings = None,
    steps: Steps = None,
    every: Annotated[int | None, typer.Option(help="With --decoded: keep every so many network calls, from the first on.")] = None,
    sites_per_canvas: Annotated[int, typer.Option(help="At most so many positions of each kind of a canvas.")] = 8,
    dtype: Annotated[_Dtype, typer.Option(help="What activations are stored in.")] = _Dtype.FLOAT32,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Harvest activations to disk, as Arrow that `datasets.load_from_disk` opens and SAELens trains on: one row a position.

    Interrupt it as you like: the same command goes on. A causal model reads whole sequences, a masked one canvases with masks.

    Example: `denoscope harvest sudoku-diffusion --out runs/harvest --examples 5000 --points all --kinds masked --kinds settled`
    """
    from interp.canvases import kinds_of
    from interp.harvest import points_of
    from interp.store import harvest_to
    from models.load import load

    if labels and (puzzles or files or split):
        raise OutputError("--labels is a corpus of its own; leave out --puzzles, --files and --split")
    kept = kinds_of(kinds or ["masked"])
    loaded = load(model)
    masked = {"mask-rates": mask_rates or None, "corrupt": corrupt}
    source = _source(loaded, masked, {"policy": policy, "set": settings or None, "steps": steps, "every": every}, run=decoded, seed=seed)
    wanted = points_of(loaded, points or ["hook_resid_post"])
    with progress_bars() as tell, resumable(lambda: "the shards that are whole are kept, and the same command goes on from there"):
        stored = harvest_to(
            target,
            loaded,
            _labelled(loaded, labels) if labels else _corpus(loaded, puzzles, files, split, examples, seed),
            wanted,
            canvases=source,
            kinds=kept,
            sites_per_canvas=sites_per_canvas,
            seed=seed,
            dtype=dtype.value,
            on_sequence=lambda done, total: tell("sequences", done, total),
        )
    record = stored.record
    size = sum(path.stat().st_size for path in target.glob("*.arrow"))
    if as_json:
        print_json({"folder": str(target), **record.model_dump(), "sites": len(stored), "shards": record.n_shards, "bytes": size})
        return
    what = f"{len(stored):,} sites of {record.n_sequences:,} sequences at {len(record.points)} hook points"
    out.print(f"{target}: {what}, {size / 2**20:.1f} MiB in {record.n_shards} shards; open it with interp.store.open_harvest", markup=False)
