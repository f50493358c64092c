"""A trajectory told as a pseudo chain of thought, whatever its task: readers made, statements written and graded, a page drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp.clock import Progress
from interp.narration import Support, to_jsonl
from interp.reading import ReadingError
from interp.tellers import TELLERS, Account, OnStep, Teller
from interp.viz.page import write_page
from models.language_model import LanguageModel
from models.trajectory import Trajectory

CAUSAL = {task: teller.causal for task, teller in TELLERS.items()}
"""By task, the bundled causal twin."""


def _teller(task: str) -> Teller[Any, Any]:
    if task not in TELLERS:
        raise ReadingError(f"runs of {task or 'no task'} cannot be told; choose from {', '.join(TELLERS)}")
    return TELLERS[task]


def readers_for(
    model: LanguageModel, folder: Path | None, ar: str | None, *, seed: int = 0, tell: Progress = lambda stage, done, total: None
) -> Any:
    """Returns the readers of a folder, or new ones learned on a causal twin; their type is the task's own (see ``interp.tellers``).

    Args:
        model: The model that they read.
        folder: Where ``save_readers_of`` wrote some; None fits new ones.
        ar: The causal twin, a bundled name or a folder; None is the bundled one of the task.
        seed: Of texts or boards, masks and draws.
        tell: Told (stage, done, total).

    Raises:
        ReadingError: Where the folder's are not whole or of another model, or runs of the task cannot be told.
    """
    teller = _teller(model.facts.task)
    return teller.load(folder, model) if folder else teller.fit(ar or teller.causal, model, seed, tell)


def save_readers_of(model: LanguageModel, readers: Any, folder: Path) -> None:
    """Writes what ``readers_for`` returned."""
    _teller(model.facts.task).save(readers, folder)


def account_of(
    model: LanguageModel,
    trajectory: Trajectory,
    readers: Any,
    *,
    support: Mapping[str, Support] | None = None,
    on_step: OnStep = lambda done, total: None,
) -> Account:
    """Returns the account of a trajectory.

    Args:
        model: The model of the trajectory.
        trajectory: What is told.
        readers: Readers of the model (``readers_for``).
        support: By kind of statement, what a causal test has shown (``interp.faithfulness.support``).
        on_step: Told (calls read, calls).

    Raises:
        ReadingError: Where trajectory, readers and model do not belong together, or runs of the task cannot be told.
        PuzzleError: Where a board has not exactly one solution.
    """
    return _teller(trajectory.task).tell(model, trajectory, readers, support or {}, on_step)


def verdict_lines(account: Account, seed: int = 0) -> dict[str, str]:
    """Returns what is known of how far an account can be believed, by what is asked; shares with 95 % intervals over samples."""
    return _teller(account.trajectory.task).verdict(account, seed)


def write_account(account: Account, folder: Path) -> None:
    """Writes ``reading.jsonl`` and the standalone page ``index.html``."""
    write_page(_teller(account.trajectory.task).draw(account), folder / "index.html")
    (folder / "reading.jsonl").write_text(to_jsonl(account.statements), encoding="utf-8")
