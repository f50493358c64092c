"""The command that shows a trajectory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.app import OutputError, app, out


def _folder(tokenizer: Path | None) -> Path | None:
    """Returns the folder of a tokenizer: of a TOML file that of its model."""
    if tokenizer is None or tokenizer.suffix != ".toml":
        return tokenizer
    from models.card import read_card
    from models.hub import model_folder

    card = read_card(tokenizer)
    return model_folder(card.model, card.revision)


@app.command()
def view(
    source: Annotated[Path, typer.Argument(help="A trajectory that `denoscope trace` wrote, or a trace file of Prophet's or dLLM's.")],
    target: Annotated[Path, typer.Option("--out", help="The page to write (HTML).")],
    other: Annotated[Path | None, typer.Argument(help="Another trajectory, to stand beside it.")] = None,
    sample: Annotated[int | None, typer.Option(help="Only this sample, counted from 0; default: the first 16, to choose from.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of the tokenizer, or the TOML file of the model, where the task does not say it.")
    ] = None,
    mask_token: Annotated[int | None, typer.Option(help="Id of the mask token, for a foreign file.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model, for a foreign file.")] = None,
    task: Annotated[str | None, typer.Option(help="The task, if it is one of ours, for a foreign file.")] = None,
) -> None:
    """Write a page to look at a trajectory: steps by positions as a heatmap, and the canvas filling in. It opens with no network.

    Example: `denoscope view board.zarr other-policy.zarr --out board.html`
    """
    from interp.viz.trace_page import check_place, show
    from models.traces import load_trace

    check_place(target)
    paths = [path for path in (source, other) if path is not None]
    told: dict[str, Any] = {"mask_token_id": mask_token, "model": model, "task": task}
    foreign = [path for path in paths if not path.is_dir()]
    if not foreign and any(value is not None for value in told.values()):
        raise OutputError("--mask-token, --model and --task are for foreign files; a trajectory of ours says them itself")
    trajectories = [load_trace(path, **(told if path in foreign else {})) for path in paths]
    page = show(*trajectories, sample=sample, tokenizer=_folder(tokenizer))
    page.save(target)
    out.print(f"{target}: {len(page.html) / 2**20:.1f} MB; open it in a browser", markup=False)
