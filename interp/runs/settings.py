"""Settings files: YAML, checked; what is wrong is told with file, line and choices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

LONGEST_VALUE = 60
"""A wrong value is quoted up to so many characters."""


class RunError(ValueError):
    """A run that cannot be made of what was asked, or a folder that is not what it should be."""


class SettingError(RunError):
    """A setting that does not go with its model or its corpus."""

    def __init__(self, field: str, said: str) -> None:
        super().__init__(said)
        self.field = field


@contextmanager
def of_setting(field: str) -> Iterator[None]:
    """Lays what is refused inside the block at the door of a setting, as a SettingError."""
    try:
        yield
    except OSError as error:
        raise SettingError(field, f"{error.filename}: {error.strerror}") from None
    except ValueError as error:
        if type(error).__module__.split(".")[0] not in ("models", "probes", "interp"):
            raise  # a defect, which keeps its traceback
        raise SettingError(field, str(error)) from None


class Settings(BaseModel):
    """Some settings: immutable, and strict about their names."""

    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=Settings)


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


def _fields_at(kind: Any, place: tuple[Any, ...]) -> list[str]:
    model = kind
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
        raise RunError(f"{path}, line {_line_of(path.read_text(encoding='utf-8'), (error.field,))}: {error}") from None


def read_settings(path: Path, kind: type[S]) -> S:
    """Returns what a file says.

    Raises:
        RunError: Naming the file, the line and the choices, where it is no such file.
        OSError: Where it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is not a text file ({error.reason} at byte {error.start})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise RunError(f"{path}{where}: no YAML ({getattr(error, 'problem', None) or error})") from None
    if not isinstance(value, dict):
        needed = " and ".join(name for name, field in kind.model_fields.items() if field.is_required())
        raise RunError(f"{path} holds no settings; it needs at least {needed}; fields: {', '.join(kind.model_fields)}")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")  # a misspelled field is missing, too
        place = tuple(first["loc"])
        name = ".".join(str(step) for step in place)
        if first["type"] == "extra_forbidden":
            said = f"unknown field {name!r}; choose from {', '.join(_fields_at(kind, place[:-1]))}"
        elif first["type"] == "missing":
            said = f"the field {name!r} is missing; it is needed"
        else:
            said = f"{name or 'the settings'}: {first['msg'].removeprefix('Value error, ')}"
            said += "" if first["type"] == "value_error" else f", and it is {repr(first['input'])[:LONGEST_VALUE]}"
        raise RunError(f"{path}, line {_line_of(text, place)}: {said}") from None
