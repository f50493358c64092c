"""Moving a run's readers to another model: which, where to, and where results go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from interp.runs.folder import MOVED, Run, contents_of
from interp.runs.settings import RunError
from models.hookpoints import HookPoint
from models.language_model import LanguageModel


def move_folder(folder: Path, to: LanguageModel, policy: str | None, layers: str = "depth") -> Path:
    """Returns where the results of moving a run's readers to a model are."""
    parts = (to.name, *([policy] if policy else []), *([layers] if layers != "depth" else []))
    return folder / MOVED / "-".join(parts)


LAYERS = ("depth", "cka")
"""How the layer is chosen at which the other model is read: the one of the same relative depth, or the most alike."""


def candidates(points: Sequence[HookPoint], source: LanguageModel, to: LanguageModel, layers: str) -> dict[HookPoint, list[HookPoint]]:
    """Returns where the other model may be read for each hook point.

    Raises:
        RunError: On an unknown way to choose layers.
    """
    if layers not in LAYERS:
        raise RunError(f"unknown way to choose layers {layers!r}; choose from {', '.join(LAYERS)}")

    def there(point: HookPoint) -> list[HookPoint]:
        if point.layer is None:
            return [point]
        if layers == "cka":
            return [HookPoint(layer, point.component) for layer in range(to.n_layers)]
        depth = (point.layer + 0.5) / source.n_layers
        return [HookPoint(min(round(depth * to.n_layers - 0.5), to.n_layers - 1), point.component)]

    return {point: there(point) for point in points}


def check_move(run: Run, model: LanguageModel, to: LanguageModel) -> None:
    """Returns nothing.

    Raises:
        RunError: Where the run's model has changed, or the other model cannot be read by its readers.
    """
    if model.fingerprint != run.fingerprint:
        raise RunError(f"the run is of {run.fingerprint}, and {run.config.model} is now {model.fingerprint}; train it again")
    if contents_of(run.config.corpus) != run.contents:
        raise RunError(
            f"the files of the run's corpus have changed ({', '.join(map(str, run.config.corpus.read))}), so that what was fitted on could "
            "be scored on; train it again"
        )
    if (to.facts.task, to.d_model) != (model.facts.task, model.d_model):
        raise RunError(
            f"{to.name} is of the task {to.facts.task!r} with width {to.d_model}, and the run's {model.name} of {model.facts.task!r} with "
            f"width {model.d_model}; readers move between models of one task and width"
        )
