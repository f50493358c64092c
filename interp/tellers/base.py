"""What a task needs for its runs to be told as a pseudo chain of thought."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

from interp.clock import Progress
from interp.narration import Statement, Support
from models.language_model import LanguageModel
from models.trajectory import Trajectory

OnStep = Callable[[int, int], None]
"""Told (calls read, calls)."""


@runtime_checkable
class Account(Protocol):
    """A trajectory that was told; what else it holds is its task's own."""

    @property
    def trajectory(self) -> Trajectory:
        """The run that it tells."""

    @property
    def statements(self) -> list[Statement]:
        """What is said of it."""


ReadersT = TypeVar("ReadersT")
AccountT = TypeVar("AccountT", bound=Account)


@dataclass(frozen=True)
class Teller(Generic[ReadersT, AccountT]):
    """How the runs of one task are told."""

    causal: str
    """The bundled causal twin that readers are learned on."""
    fit: Callable[[str, LanguageModel, int, Progress], ReadersT]
    """Returns readers learned on a causal twin (a bundled name or a folder) for a diffusion twin, of a seed."""
    save: Callable[[ReadersT, Path], None]
    """Writes readers into a folder."""
    load: Callable[[Path, LanguageModel], ReadersT]
    """Returns the readers of a folder; raises ReadingError where they are not whole, or of another model."""
    tell: Callable[[LanguageModel, Trajectory, ReadersT, Mapping[str, Support], OnStep], AccountT]
    """Returns the account of a run; statements get the support that was found for their kind."""
    verdict: Callable[[AccountT, int], dict[str, str]]
    """Returns what is known of how far an account can be believed, by what is asked; intervals over samples, of a seed."""
    draw: Callable[[AccountT], str]
    """Returns the standalone page of an account."""
