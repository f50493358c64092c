"""A study: a set of questions about some models, answered with statistics and kept in ``study.json``."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from interp.clock import Clock, Progress
from interp.report import Entry, ModelEntry
from interp.statistics import Statistic
from interp.transfer import TransferError, Twins, model_entry
from models.language_model import LanguageModel
from models.load import load


class StudyError(ValueError):
    """A study that cannot be made of what was asked."""


@dataclass(frozen=True)
class Request:
    """What a study is asked to measure."""

    models: tuple[LanguageModel, ...]
    sizes: Any
    """How much of everything: one of the study's ``sizes``."""
    seed: int = 0
    puzzles: tuple[Path, ...] = ()
    """The user's own files."""
    clock: Clock = field(default_factory=Clock)
    work: Path | None = None
    """Where a study that resumes keeps what is finished, so that it can go on after a stop; None is a folder that goes away."""


def twins_of(request: Request, task: str) -> Twins:
    """Returns the models of a request as twins; raises StudyError where they are no causal and masked model of the task."""
    named = ", ".join(f"{model.name} ({model.facts.objective}, {model.facts.task})" for model in request.models)
    rule = f"this study needs a causal and a masked model of {task}, in this order; got {named}"
    if len(request.models) != 2 or any(model.facts.task != task for model in request.models):
        raise StudyError(rule)
    try:
        return Twins(*request.models)
    except TransferError as error:
        raise StudyError(f"{rule}: {error}") from None


@dataclass(frozen=True)
class Study:
    """A study that can be run."""

    title: str
    claim: str
    """The sentence, or the sentences, that it puts to the test."""
    about: str
    """Its design: what is measured beside what, in a paragraph."""
    limits: str
    """What it cannot tell."""
    models: tuple[str, ...]
    """The models it is about unless others are named; none where it makes its own."""
    sizes: Mapping[str, Any]
    """By scale, a dataclass: ``small`` takes minutes on one core, ``full`` rests on a thousand boards or more."""
    measure: Callable[[Request], list[Statistic]]
    findings: Callable[[Sequence[Statistic]], list[str]]
    """What the statistics say, in sentences, whichever way they came out."""
    takes_puzzles: bool = False
    """Whether it measures on the user's files as well."""
    resumes: bool = False
    """Whether it keeps what is finished in ``Request.work``."""


class StudyReport(Entry):
    """All that one run of a study measured."""

    schema_version: Literal[1] = 1
    study: str
    title: str
    claim: str = Field(description="What is put to the test.")
    about: str = Field(description="The design.")
    limits: str = Field(description="What the study cannot tell.")
    scale: str
    command: str = Field(description="What was run.")
    sizes: dict[str, int] = Field(description="How many boards, sites and so on the scale stands for.")
    seed: int
    models: list[ModelEntry]
    puzzles: list[str] = Field(description="The user's files.")
    findings: list[str] = Field(description="What the statistics say, in sentences, whichever way they came out.")
    statistics: list[Statistic]
    seconds: dict[str, float] = Field(description="Wall-clock seconds by stage, and `total`.")


def _loaded(names: Sequence[str]) -> tuple[LanguageModel, ...]:
    models = tuple(load(name) for name in names)
    twice = [name for name, count in Counter(model.name for model in models).items() if count > 1]
    if twice:
        raise StudyError(f"several models are called {', '.join(twice)}; the folders of a study's models need names of their own")
    return models


def _command(name: str, scale: str, seed: int, models: Sequence[str], puzzles: Sequence[Path]) -> str:
    given = [word for model in models for word in ("--model", model)] + [word for path in puzzles for word in ("--puzzles", str(path))]
    return shlex.join(["denoscope", "study", name, "--scale", scale, "--seed", str(seed), *given, "--out", f"runs/{name}"])


def run_study(
    name: str,
    study: Study,
    *,
    models: Sequence[str] = (),
    scale: str = "small",
    seed: int = 0,
    puzzles: Sequence[Path] = (),
    work: Path | None = None,
    tell: Progress = lambda stage, done, total: None,
) -> StudyReport:
    """Returns what a study measured.

    Args:
        name: Of the study.
        study: The study.
        models: Bundled names or folders; none is the study's own.
        scale: One of the study's scales.
        seed: Of everything that is drawn.
        puzzles: Files to measure on as well.
        work: A folder in which a study that resumes goes on where it was stopped.
        tell: Told (stage, done, total).

    Raises:
        StudyError: On an unknown scale, or models or files that are not for this study.
    """
    if scale not in study.sizes:
        raise StudyError(f"unknown scale {scale!r}; choose from {', '.join(study.sizes)}")
    if models and not study.models:
        raise StudyError(f"the study {name!r} makes its own models; it takes none")
    if puzzles and not study.takes_puzzles:
        raise StudyError(f"the study {name!r} takes no puzzle files")
    started, clock = time.monotonic(), Clock(tell)
    with clock.stage("load"):
        loaded = _loaded(models or study.models)
    statistics = study.measure(Request(loaded, study.sizes[scale], seed, tuple(puzzles), clock, work))
    return StudyReport(
        study=name,
        title=study.title,
        claim=study.claim,
        about=study.about,
        limits=study.limits,
        scale=scale,
        command=_command(name, scale, seed, models, puzzles),
        sizes=asdict(study.sizes[scale]),
        seed=seed,
        models=[model_entry(model) for model in loaded],
        puzzles=[str(path) for path in puzzles],
        findings=study.findings(statistics),
        statistics=statistics,
        seconds={**clock.seconds, "total": round(time.monotonic() - started, 2)},
    )


def write_study(report: StudyReport, path: Path) -> None:
    """Writes a study's report as JSON."""
    path.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_study(path: Path) -> StudyReport:
    """Returns a study's report; raises pydantic's ValidationError where it does not fit the schema."""
    return StudyReport.model_validate_json(path.read_text(encoding="utf-8"))
