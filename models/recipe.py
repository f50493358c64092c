"""Recipes: the trainings that made a bundled model, stage by stage, as one TOML file each."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file

from models.plan import TrainingPlan
from models.train import TrainingStatus, train

RECIPES = Path(__file__).parent / "recipes"
WEIGHTS, SETTINGS = "model.safetensors", ("generation_config.json", "config.json")
"""Of a model folder."""


class RecipeError(ValueError):
    """A name or file that is no recipe."""


@dataclass(frozen=True)
class Average:
    """A mean of the weights of earlier stages of one training (Wortsman et al. 2022): by stage, its share; they add up to 1."""

    shares: Mapping[str, float]


@dataclass(frozen=True)
class Stage:
    """One step of a recipe: a training, or a mean of earlier ones."""

    name: str
    plan: TrainingPlan | Average


def recipe_names() -> list[str]:
    """Returns the names of the recipes that come with denoscope."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def read_recipe(name: str, out: Path, files: tuple[str, ...] = ()) -> list[Stage]:
    """Returns the stages of a recipe, to be trained below ``out``.

    In the file a stage's table holds the fields of ``TrainingPlan``; an ``init`` that is the name of an earlier stage is its folder. With
    nothing but ``average``, shares by stage, it is a mean of the weights of those stages.

    Args:
        name: The name of a recipe that comes with denoscope, or a TOML file.
        out: Where its stages go.
        files: Text files to learn from, for the tasks that do.

    Raises:
        RecipeError: Where there is none, or it is no list of trainings.
    """
    path = RECIPES / f"{name}.toml" if name in recipe_names() else Path(name)
    if not path.is_file():
        raise RecipeError(f"{name!r} is no recipe; choose from {', '.join(recipe_names())}, or name a TOML file")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        averages = {name: Average(table["average"]) for name, table in tables.items() if set(table) == {"average"}}
        trained = {name: table for name, table in tables.items() if name not in averages}
        plans = TypeAdapter(dict[str, TrainingPlan]).validate_python(trained)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is no TOML file: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(f"{path} is no recipe: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    stages: list[Stage] = []
    for stage in tables:
        if stage in averages:
            _check_shares(averages[stage], [earlier.name for earlier in stages], f"{path}: {stage}")
            stages.append(Stage(stage, averages[stage]))
        else:
            plan = plans[stage]
            init = str(out / plan.init) if plan.init in plans else plan.init
            stages.append(Stage(stage, replace(plan, init=init, data=replace(plan.data, files=files))))
    if not stages:
        raise RecipeError(f"{path} holds no stage")
    return stages


def _check_shares(average: Average, earlier: list[str], where: str) -> None:
    unknown = [name for name in average.shares if name not in earlier]
    if unknown or abs(sum(average.shares.values()) - 1) > 1e-6:
        wrong = f"no earlier stage is called {unknown[0]!r}" if unknown else f"its shares add up to {sum(average.shares.values()):g}"
        raise RecipeError(f"{where}: {wrong}; an average takes shares, adding up to 1, of {', '.join(earlier) or 'stages above it'}")


def average_models(average: Average, stages: Path, out: Path) -> None:
    """Writes the model whose weights are the mean of those of some stages' models, which are folders of ``stages``."""
    parts = [(load_file(stages / name / WEIGHTS), share) for name, share in average.shares.items()]
    mean = {
        name: sum((part[name].float() * share for part, share in parts), torch.zeros(())).to(first.dtype)
        for name, first in parts[0][0].items()
    }
    out.mkdir(parents=True, exist_ok=True)
    save_file(mean, out / WEIGHTS, metadata={"format": "pt"})
    for name in SETTINGS:
        shutil.copy(stages / next(iter(average.shares)) / name, out / name)


def run_recipe(
    stages: list[Stage], out: Path, on_step: Callable[[str, TrainingStatus], None] = lambda stage, status: None
) -> Iterator[tuple[Stage, TrainingStatus | None]]:
    """Yields each stage with its last status, made in ``out``/name; a stage already finished is not trained again.

    A mean has no status.
    """
    for stage in stages:
        if isinstance(stage.plan, Average):
            average_models(stage.plan, out, out / stage.name)
            yield stage, None
        else:
            yield stage, train(stage.plan, out / stage.name, on_step=lambda status, name=stage.name: on_step(name, status))  # type: ignore[misc]
