"""Readers of stories on disk, with the thresholds of their claims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from interp.reading.readers import ReadingError
from interp.reading.stories import TOKENS, StoryReaders
from interp.reading.story_thresholds import StoryThresholds, ToldReaders
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from probes.linear import load_probe, save_probe

FORMAT_VERSION = 1
_ABOUT, _PROBES, _THRESHOLDS = "stories.json", "probes", "thresholds"


def save_story_readers(told: ToldReaders, folder: Path) -> None:
    """Writes ``stories.json``, a probe for each reader and hook point, and the thresholds, making the folders."""
    readers = told.readers
    for name, probes in readers.probes.items():
        for point, probe in probes.items():
            save_probe(probe, folder / _PROBES / name / str(point))
    save_probe(readers.tokens, folder / _PROBES / TOKENS)
    (folder / _THRESHOLDS).mkdir()
    for name, one in told.thresholds.items():
        save_file({key: value.contiguous() for key, value in one.tensors().items()}, folder / _THRESHOLDS / f"{name}.safetensors")
    about = {
        "format_version": FORMAT_VERSION,
        "reads": readers.reads,
        "heads": readers.heads,
        "probes": {name: [str(point) for point in probes] for name, probes in readers.probes.items()},
        "thresholds": {name: {"false_alarm": one.false_alarm, "runs": one.runs} for name, one in told.thresholds.items()},
    }
    (folder / _ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def load_story_readers(folder: Path, model: LanguageModel) -> ToldReaders:
    """Returns the readers that ``save_story_readers`` wrote.

    Raises:
        ReadingError: Where there are none, they are not whole, or read another model.
    """
    try:
        about: dict[str, Any] = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        if about["format_version"] != FORMAT_VERSION:
            raise ReadingError(f"{folder} has format_version {about['format_version']!r}; this version of denoscope reads {FORMAT_VERSION}")
        if about["reads"] != model.fingerprint:
            raise ReadingError(
                f"{folder} reads {about['reads']}, and the model is {model.fingerprint}; make readers for it with `denoscope read`"
            )
        probes = {
            name: {HookPoint.parse(point): load_probe(folder / _PROBES / name / point) for point in points}
            for name, points in about["probes"].items()
        }
        heads = {fact: tuple(names) for fact, names in about["heads"].items()}
        thresholds = {
            name: _thresholds(folder / _THRESHOLDS / f"{name}.safetensors", numbers) for name, numbers in about["thresholds"].items()
        }
    except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ReadingError(
            f"{folder} holds no whole readers of stories ({type(error).__name__}: {error}); `denoscope read` writes them"
        ) from None
    return ToldReaders(StoryReaders(probes, load_probe(folder / _PROBES / TOKENS), heads, about["reads"]), thresholds)


def _thresholds(path: Path, numbers: dict[str, Any]) -> StoryThresholds:
    stated: dict[str, Any] = {**load_file(path), **numbers}
    return StoryThresholds(**stated)
