"""What any run is made of: a model, what it is shown, and where it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, field_validator, model_validator

from interp.canvases import MASK_RATES, Decoded, Masked, Source, Whole, kinds_of
from interp.concepts import Kind
from interp.runs.settings import Settings, read_settings
from models.decoding import Decoding
from models.language_model import LanguageModel
from models.load import bundled_names


class CorpusConfig(Settings):
    """What the model is shown; give one of `examples`, `files`, `labels`, `contrast`."""

    examples: int | None = Field(default=None, ge=10, description="So many generated puzzles.")
    files: tuple[Path, ...] = Field(default=(), description="Files of texts.")
    labels: Path | None = Field(default=None, description="JSONL or Parquet of texts or puzzles; every further column is a concept.")
    contrast: tuple[Path, Path] | None = Field(default=None, description="Two files of prompts, one a line: the concept holds, does not.")
    limit: int | None = Field(default=None, ge=10, description="Only the first so many documents of `files`.")

    @model_validator(mode="after")
    def _one_source(self) -> CorpusConfig:
        given = [name for name in ("examples", "files", "labels", "contrast") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"give one of examples, files, labels, contrast; {' and '.join(given) or 'none'} given")
        if self.limit is not None and not self.files:
            raise ValueError(f"limit is for files, and {given[0]} is given; leave it out")
        return self

    @property
    def read(self) -> tuple[Path, ...]:
        """The files that it reads."""
        return (*self.files, *([self.labels] if self.labels else ()), *(self.contrast or ()))

    def beside(self, folder: Path) -> CorpusConfig:
        """Returns the same with all paths counted from a folder."""
        paths = {
            "files": tuple(folder / path for path in self.files),
            "labels": self.labels and folder / self.labels,
            "contrast": self.contrast and tuple(folder / path for path in self.contrast),
        }
        return self.model_copy(update=paths)


class CanvasConfig(Settings):
    """What a masked model is shown of each sequence; a causal one reads it whole."""

    mask_rates: tuple[float, ...] = MASK_RATES
    corrupt: float = Field(default=0.0, ge=0, le=1, description="Share of the visible answer that is replaced by wrong tokens.")
    policy: str | None = Field(default=None, description="Take the canvases of the model's own runs by this policy, not random masks.")
    every: int = Field(default=1, ge=1, description="Of those, every so many-th.")

    @model_validator(mode="after")
    def _heeded(self) -> CanvasConfig:
        Masked(self.mask_rates, corrupt=self.corrupt)  # says which rates there may be
        if self.policy is not None:
            Decoding(self.policy)  # and this, which policies
            if self.corrupt or self.mask_rates != MASK_RATES:
                raise ValueError("mask_rates and corrupt are for masks drawn at random, and policy is given; leave them out")
        elif self.every != 1:
            raise ValueError(f"every is {self.every}, which is for the calls of a policy, and none is given; leave it out")
        return self

    def source(self, model: LanguageModel, seed: int) -> Source:
        """Returns where the model's canvases come from."""
        if model.facts.objective == "causal":
            return Whole()
        if self.policy is not None:
            return Decoded(Decoding(self.policy, seed=seed), every=self.every)
        return Masked(self.mask_rates, corrupt=self.corrupt)


Seed = Annotated[int, Field(ge=0, le=2**32 - 2)]
"""Masks of the sequences to score on are drawn with the next one."""


class RunConfig(Settings):
    """What every run says."""

    model: str = Field(description="A bundled name, or a model folder.")
    corpus: CorpusConfig
    points: tuple[str, ...] = Field(
        default=("hook_resid_post",), min_length=1, description="Hook points; a component alone is that of every layer."
    )
    canvases: CanvasConfig = CanvasConfig()
    kinds: tuple[str, ...] = Field(default=("masked",), min_length=1, description="Kinds of positions to read at.")
    sites_per_canvas: int = Field(default=8, ge=1, description="At most so many places of each kind are read of each canvas.")
    held_out: float = Field(default=0.3, gt=0, lt=1, description="Share of puzzles or documents that is scored on.")
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1, description="Each redoes everything: split, masks, draws, controls.")

    @property
    def position_kinds(self) -> tuple[Kind, ...]:
        """The kinds of positions to read at."""
        return kinds_of(self.kinds)

    @field_validator("kinds")
    @classmethod
    def _known_kinds(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        kinds_of(kinds)
        return kinds

    @field_validator("points", "kinds", "seeds")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return each_once(values)


def each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns the values; raises ValueError where one is there twice."""
    twice = [value for place, value in enumerate(values) if value in values[:place]]
    if twice:
        raise ValueError(f"{twice[0]!r} is given twice; give each once")
    return values


C = TypeVar("C", bound=RunConfig)


def read_config(path: Path, kind: type[C]) -> C:
    """Returns what a run's file says. Paths in it, the model's too, are counted from the file's folder.

    Raises:
        RunError: Naming the file, the line and the choices, where it is no such file.
        OSError: Where it cannot be read.
    """
    config, folder = read_settings(path, kind), path.parent.resolve()
    model = config.model if config.model in bundled_names() else str(folder / config.model)
    return config.model_copy(update={"model": model, "corpus": config.corpus.beside(folder)})
