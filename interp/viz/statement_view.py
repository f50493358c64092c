"""A statement as a viewer lists it, as plain values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from interp.narration import Statement

EVIDENCE_SHOWN = 3


@dataclass(frozen=True)
class StatementView:
    """One sentence of the pseudo chain of thought, with what it rests on."""

    step: int
    """The network call it speaks of, counted from 1; 0 speaks of the canvas before the first call."""
    kind: str
    """Its template, such as ``only_candidate``."""
    text: str
    places: tuple[int, ...]
    """Cells or tokens it is about, as the viewer counts them, lit while one points at it."""
    sound: bool | None
    """Whether the rules agree; None where the statement cannot be checked."""
    evidence: str
    """Place, score, reader, layer, in words."""
    support: str = "readable"
    """How far the claim has been tested: ``readable``, ``decisive`` or ``used``."""


def _evidence(statement: Statement) -> str:
    shown = [f"{item.head} in {item.place}: {item.probability:.2f}" for item in statement.evidence[:EVIDENCE_SHOWN]]
    more = len(statement.evidence) - len(shown)
    readers = dict.fromkeys(f"{item.reader} @ {item.point}" for item in statement.evidence)
    return "; ".join([*shown, *([f"and {more} more"] if more > 0 else []), *readers])


def statement_views(statements: Iterable[Statement], sample: int, window: slice) -> tuple[StatementView, ...]:
    """Returns one sample's statements; places count from the first token that the viewer shows, and others are left out."""
    return tuple(
        StatementView(
            step=one.step,
            kind=one.kind,
            text=one.text,
            places=tuple(position - window.start for position in one.positions if window.start <= position < window.stop),
            sound=one.sound,
            evidence=_evidence(one),
            support=one.support,
        )
        for one in statements
        if one.sample == sample
    )


def statement_payload(statement: StatementView) -> dict[str, object]:
    """Returns a statement as the page's script takes it."""
    return asdict(statement)
