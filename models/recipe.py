"""Recipes: the trainings that made a bundled model, stage by stage, as one TOML file each."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from models.plan import TrainingPlan
from models.train import TrainingStatus, train

RECIPES = Path(__file__).parent / "recipes"


class RecipeError(ValueError):
    """A name or file that is no recipe."""


@dataclass(frozen=True)
class Stage:
    """One training of a recipe."""

    name: str
    plan: TrainingPlan


def recipe_names() -> list[str]:
    """Returns the names of the recipes that come with denoscope."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def read_recipe(name: str, out: Path, files: tuple[str, ...] = ()) -> list[Stage]:
    """Returns the stages of a recipe, to be trained below ``out``.

    In the file a stage's table holds the fields of ``TrainingPlan``; an ``init`` that is the name of an earlier stage is its folder.

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
        plans = TypeAdapter(dict[str, TrainingPlan]).validate_python(tables)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is no TOML file: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(f"{path} is no recipe: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    stages = []
    for stage, plan in plans.items():
        init = str(out / plan.init) if plan.init in plans else plan.init
        stages.append(Stage(stage, replace(plan, init=init, data=replace(plan.data, files=files))))
    if not stages:
        raise RecipeError(f"{path} holds no stage")
    return stages


def run_recipe(
    stages: list[Stage], out: Path, on_step: Callable[[str, TrainingStatus], None] = lambda stage, status: None
) -> Iterator[tuple[Stage, TrainingStatus]]:
    """Yields each stage with its last status, trained into ``out``/name; a stage already finished is not trained again."""
    for stage in stages:
        yield stage, train(stage.plan, out / stage.name, on_step=lambda status, name=stage.name: on_step(name, status))  # type: ignore[misc]
