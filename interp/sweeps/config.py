"""A sweep's file: which model, what it is shown, what is asked, by which readers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, field_validator, model_validator

from interp.canvases import MASK_RATES, Decoded, Masked, Source, Whole, kinds_of
from interp.concepts import Kind
from models.decoding import Decoding
from models.language_model import LanguageModel
from models.load import bundled_names
from probes.fitters import FITTERS

LONGEST_VALUE = 60
"""A wrong value is quoted up to so many characters."""


class SweepError(ValueError):
    """A sweep that cannot be made of what was asked, or a folder that is not what it should be."""


class SettingError(SweepError):
    """A setting that does not go with its model or its corpus."""

    def __init__(self, field: str, said: str) -> None:
        super().__init__(said)
        self.field = field


@contextmanager
def of_setting(field: str) -> Iterator[None]:
    """Lays what is refused inside the block at the door of a field of the sweep, as a SettingError."""
    try:
        yield
    except OSError as error:
        raise SettingError(field, f"{error.filename}: {error.strerror}") from None
    except ValueError as error:
        if type(error).__module__.split(".")[0] not in ("models", "probes", "interp"):
            raise  # a defect, which keeps its traceback
        raise SettingError(field, str(error)) from None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CorpusConfig(_Part):
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


class CanvasConfig(_Part):
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


class SweepConfig(_Part):
    """A sweep: one probe a concept's head, hook point, reader and seed, and its controls."""

    model: str = Field(description="A bundled name, or a model folder.")
    corpus: CorpusConfig
    concepts: tuple[str, ...] = Field(default=(), description="Names of concepts; none is all that the task has.")
    readers: tuple[str, ...] = Field(default=("logistic",), min_length=1, description="How probes are fitted.")
    l2: tuple[PositiveFloat, ...] = Field(
        default=(1e-3,),
        min_length=1,
        description="Penalties of the logistic reader; of several, each head's is chosen on puzzles set apart.",
    )
    points: tuple[str, ...] = Field(
        default=("hook_resid_post",), min_length=1, description="Hook points; a component alone is that of every layer."
    )
    canvases: CanvasConfig = CanvasConfig()
    kinds: tuple[str, ...] = Field(default=("masked",), min_length=1, description="Kinds of positions to read at.")
    sites_per_canvas: int = Field(default=8, ge=1, description="At most so many places of each kind are read of each canvas.")
    held_out: float = Field(default=0.3, gt=0, lt=1, description="Share of puzzles or documents that readers are scored on.")
    apart: bool = Field(default=False, description="Whether probes are also fitted for each mask rate apart.")
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

    @field_validator("readers")
    @classmethod
    def _known_readers(cls, readers: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [reader for reader in readers if reader not in FITTERS]
        if wrong:
            raise ValueError(f"unknown reader {wrong[0]!r}; choose from {', '.join(FITTERS)}")
        return readers

    @field_validator("concepts", "readers", "points", "kinds", "seeds")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = [value for place, value in enumerate(values) if value in values[:place]]
        if twice:
            raise ValueError(f"{twice[0]!r} is given twice; give each once")
        return values


def _line_of(text: str, place: tuple[Any, ...]) -> int:
    """Returns the line, from 1, on which the innermost part of ``place`` that the file has begins."""
    node, line = yaml.compose(text), 1
    for step in place:
        found = None
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == step), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            found = (node.value[step], node.value[step])
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def _fields_at(place: tuple[Any, ...]) -> list[str]:
    model: Any = SweepConfig
    for step in place:
        annotation = model.model_fields[step].annotation if step in getattr(model, "model_fields", {}) else None
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else model
    return list(model.model_fields)


@contextmanager
def in_file(path: Path) -> Iterator[None]:
    """Names the file and the line of a setting that is refused inside the block."""
    try:
        yield
    except SettingError as error:
        raise SweepError(f"{path}, line {_line_of(path.read_text(encoding='utf-8'), (error.field,))}: {error}") from None


def read_config(path: Path) -> SweepConfig:
    """Returns what a sweep's file says. Paths in it, the model's too, are counted from the file's folder.

    Raises:
        SweepError: Naming the file, the line and the choices, where it is no such file.
        OSError: Where it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise SweepError(f"{path} is not a text file ({error.reason} at byte {error.start})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise SweepError(f"{path}{where}: no YAML ({getattr(error, 'problem', None) or error})") from None
    if not isinstance(value, dict):
        raise SweepError(f"{path} holds no settings; it needs at least model and corpus; fields: {', '.join(SweepConfig.model_fields)}")
    try:
        return _beside(path.parent.resolve(), SweepConfig.model_validate(value))
    except ValidationError as error:
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")  # a misspelled field is missing, too
        place = tuple(first["loc"])
        name = ".".join(str(step) for step in place)
        if first["type"] == "extra_forbidden":
            said = f"unknown field {name!r}; choose from {', '.join(_fields_at(place[:-1]))}"
        elif first["type"] == "missing":
            said = f"the field {name!r} is missing; it is needed"
        else:
            said = f"{name or 'the sweep'}: {first['msg'].removeprefix('Value error, ')}"
            said += "" if first["type"] == "value_error" else f", and it is {repr(first['input'])[:LONGEST_VALUE]}"
        raise SweepError(f"{path}, line {_line_of(text, place)}: {said}") from None


def _beside(folder: Path, config: SweepConfig) -> SweepConfig:
    """Returns the same with all paths counted from a folder."""
    model = config.model if config.model in bundled_names() else str(folder / config.model)
    return config.model_copy(update={"model": model, "corpus": config.corpus.beside(folder)})
