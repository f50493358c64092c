"""Readers on disk: a folder each, with the probe, its calibration, and what it reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from interp.concepts import CONCEPTS
from interp.reading.calibration import Calibration
from interp.reading.readers import Reader, ReadingError
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from probes.linear import load_probe, save_probe

FORMAT_VERSION = 1
_ABOUT, _CALIBRATION = "reader.json", "calibration.safetensors"
_TENSORS = ("scale", "offset", "threshold", "pooled", "false_alarm", "recall")


def save_readers(readers: Mapping[str, Reader], folder: Path) -> None:
    """Writes each reader to ``folder/<name>``, making the folders."""
    for name, reader in readers.items():
        save_probe(reader.probe, folder / name)
        calibration = {key: value for key, value in vars(reader.calibration).items() if key not in _TENSORS}
        about = {key: getattr(reader, key) for key in ("reads", "exact", "source", "alignment")}
        about |= {"format_version": FORMAT_VERSION, "concept": reader.concept.name, "point": str(reader.point), "calibration": calibration}
        save_file({key: getattr(reader.calibration, key).contiguous() for key in _TENSORS}, folder / name / _CALIBRATION)
        (folder / name / _ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def load_readers(folder: Path, model: LanguageModel) -> dict[str, Reader]:
    """Returns the readers of a folder by name.

    Raises:
        ReadingError: Where there are none, one is not whole, or they read another model.
    """
    parts = sorted(part for part in folder.iterdir() if part.is_dir() and not part.name.startswith(".")) if folder.is_dir() else []
    found = {part.name: _load(part, model) for part in parts}
    if not found:
        raise ReadingError(f"{folder} holds no readers; `denoscope demo --out DIR` writes some to DIR/readers")
    return found


def _load(part: Path, model: LanguageModel) -> Reader:
    try:
        about: dict[str, Any] = json.loads((part / _ABOUT).read_text(encoding="utf-8"))
        tensors = load_file(part / _CALIBRATION)
        if about["format_version"] != FORMAT_VERSION:
            raise ReadingError(f"{part} has format_version {about['format_version']!r}; this version of denoscope reads {FORMAT_VERSION}")
        if about["concept"] not in CONCEPTS:
            raise ReadingError(f"{part} reads the unknown concept {about['concept']!r}; concepts: {', '.join(CONCEPTS)}")
        if about["reads"] != model.fingerprint:
            raise ReadingError(
                f"{part} reads {about['reads']}, and the model is {model.fingerprint}; make readers for it with `denoscope demo`"
            )
        stated: dict[str, Any] = {**about["calibration"], **{key: tensors[key] for key in _TENSORS}}
        calibration = Calibration(**{**stated, "bands": tuple(stated["bands"])})
        own = {key: about[key] for key in ("reads", "exact", "source", "alignment")}
    except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ReadingError(f"{part} holds no whole reader ({type(error).__name__}: {error}); `denoscope demo` writes them") from None
    return Reader(CONCEPTS[about["concept"]], HookPoint.parse(about["point"]), load_probe(part), calibration=calibration, **own)
