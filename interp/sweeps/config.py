"""A sweep's file: which model, what it is shown, what is asked, by which readers."""

from __future__ import annotations

from typing import Any

from pydantic import Field, PositiveFloat, field_validator

from interp.runs.config import RunConfig, each_once
from probes.fitters import FITTERS


class SweepConfig(RunConfig):
    """A sweep: one probe a concept's head, hook point, reader and seed, and its controls."""

    concepts: tuple[str, ...] = Field(default=(), description="Names of concepts; none is all that the task has.")
    readers: tuple[str, ...] = Field(default=("logistic",), min_length=1, description="How probes are fitted.")
    l2: tuple[PositiveFloat, ...] = Field(
        default=(1e-3,),
        min_length=1,
        description="Penalties of the logistic reader; of several, each head's is chosen on puzzles set apart.",
    )
    apart: bool = Field(default=False, description="Whether probes are also fitted for each mask rate apart.")

    @field_validator("readers")
    @classmethod
    def _known_readers(cls, readers: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [reader for reader in readers if reader not in FITTERS]
        if wrong:
            raise ValueError(f"unknown reader {wrong[0]!r}; choose from {', '.join(FITTERS)}")
        return readers

    @field_validator("concepts", "readers")
    @classmethod
    def _asked_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return each_once(values)
