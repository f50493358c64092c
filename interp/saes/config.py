"""A file of SAEs to train: on which model, of what it is shown, of which shape."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PositiveFloat, field_validator, model_validator

from interp.runs.config import RunConfig, each_once
from probes.saes.recipe import ARCHITECTURES, SaeRecipe


class SaeConfig(RunConfig):
    """One sparse autoencoder a hook point and seed, its controls, and what they are scored by."""

    sites_per_canvas: int = Field(default=32, ge=1, description="At most so many places of each kind are read of each canvas.")
    held_out: float = Field(default=0.1, gt=0, lt=1, description="Share of puzzles or documents that is scored on.")
    architecture: str = Field(default="topk", description="One of SAELens'.")
    d_sae: int = Field(default=1024, ge=2, description="Latents.")
    k: int = Field(default=16, ge=1, description="Mean number of active latents, for the kinds that are trained to one.")
    sparsity: PositiveFloat | None = Field(default=None, description="Weight of the penalty, for the other kinds; none is a default.")
    activations: int = Field(default=400_000, ge=1, description="Rows that each SAE learns from; sequences are shown again with new masks.")
    passes: int = Field(default=4, ge=1, description="How often a row is learned from; 1 / passes of `activations` are distinct rows.")
    batch: int = Field(default=1024, ge=1, description="Rows a step.")
    lr: PositiveFloat = Field(default=2e-3, description="Of Adam: warmed up over 5 % of the steps, falling over the last 30 %.")
    outliers: PositiveFloat = Field(default=10.0, description="Rows longer than so many median norms are not learned from.")
    stored: bool = Field(default=False, description="Harvest to disk once and learn from there, in place of a live harvest.")
    concepts: tuple[str, ...] = Field(default=(), description="Concepts that few latents are to tell (k-sparse probing).")
    tuned: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        default=(1_000, 10_000, 100_000), description="After a move: fine-tune on so many activations, where no more than `activations`."
    )
    crosscoder: int = Field(default=5_000, ge=0, description="After a move: a crosscoder of so many pairs of activations; 0 is none.")

    @field_validator("architecture")
    @classmethod
    def _known(cls, architecture: str) -> str:
        if architecture not in ARCHITECTURES:
            raise ValueError(f"unknown architecture {architecture!r}; choose from {', '.join(ARCHITECTURES)}")
        return architecture

    @field_validator("crosscoder")
    @classmethod
    def _enough(cls, pairs: int) -> int:
        if pairs == 1:
            raise ValueError("1 pair is given; give at least 2, or 0 for none")
        return pairs

    @field_validator("concepts", "tuned")
    @classmethod
    def _asked_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return each_once(values)

    @model_validator(mode="after")
    def _whole(self) -> SaeConfig:
        if self.activations < self.batch:
            raise ValueError(f"activations is {self.activations}; it must be at least one batch of {self.batch}")
        self.recipe(0)  # says what does not go together
        return self

    def recipe(self, seed: int) -> SaeRecipe:
        """Returns shape and length of a training."""
        return SaeRecipe(
            architecture=self.architecture,
            d_sae=self.d_sae,
            k=self.k,
            sparsity=self.sparsity,
            steps=self.activations // self.batch,
            batch=self.batch,
            lr=self.lr,
            seed=seed,
        )
