"""Recipes: every bundled one is read, and a mean of stages is the mean of their weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.load import load
from models.plan import TrainingPlan
from models.recipe import Average, RecipeError, average_models, read_recipe, recipe_names, run_recipe
from models.tasks import TrainingData

TINY = """
[first]
task = "sudoku"
objective = "masked"
size = "nano"
steps = 2
batch = 4
data = { examples = 8, mix = { naked_singles = 1.0 } }

[second]
task = "sudoku"
objective = "masked"
init = "first"
steps = 1
batch = 4
seed = 1
data = { examples = 8, mix = { naked_singles = 1.0 } }

[mean]
average = { first = 0.25, second = 0.75 }
"""


@pytest.mark.parametrize("name", recipe_names())
def test_bundled_recipes_are_read(name: str, tmp_path: Path) -> None:
    stages = read_recipe(name, tmp_path, ("a.txt",))
    assert all(isinstance(stage.plan, TrainingPlan | Average) for stage in stages)
    assert len({stage.name for stage in stages}) == len(stages)


def test_a_recipe_trains_its_stages_and_averages_them(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(TINY)
    stages = read_recipe(str(tmp_path / "recipe.toml"), tmp_path)
    assert stages[0].plan.data == TrainingData(examples=8, mix={"naked_singles": 1.0})  # type: ignore[union-attr]
    assert [(stage.name, status and status.step) for stage, status in run_recipe(stages, tmp_path)] == [
        ("first", 2),
        ("second", 1),
        ("mean", None),
    ]
    first, second, mean = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second", "mean"))
    for name, weight in mean.items():
        expected = (0.25 * first[name].float() + 0.75 * second[name].float()).to(weight.dtype)
        assert torch.equal(weight, expected), name
    assert load(str(tmp_path / "mean")).facts == load(str(tmp_path / "second")).facts


def test_a_mean_of_one_stage_is_that_stage(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(TINY)
    list(run_recipe(read_recipe(str(tmp_path / "recipe.toml"), tmp_path)[:1], tmp_path))
    average_models(Average({"first": 1.0}), tmp_path, tmp_path / "same")
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == (tmp_path / "first" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ("{ first = 0.5, second = 0.2 }", r"mean: its shares add up to 0.7; an average takes shares, adding up to 1, of first, second"),
        ("{ first = 0.5, third = 0.5 }", r"mean: no earlier stage is called 'third'"),
    ],
)
def test_wrong_shares_are_named(tmp_path: Path, shares: str, said: str) -> None:
    (tmp_path / "recipe.toml").write_text(TINY.replace("{ first = 0.25, second = 0.75 }", shares))
    with pytest.raises(RecipeError, match=said):
        read_recipe(str(tmp_path / "recipe.toml"), tmp_path)
