"""An account at three levels of detail, in plain text: a paragraph a sample, a line a step, everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

from interp.narration.ladder import JUSTIFICATIONS, UNREASONED
from interp.narration.statements import Statement

NOTHING = "nothing readable"
AHEAD = ("decided", "foreseen")
"""Kinds that tell what is to be written."""
TOGETHER = {"decided": "decided", "lost": "no longer decided"}
"""Kinds that are told of many places at once."""


def _samples(statements: Iterable[Statement]) -> Iterator[tuple[int, list[Statement]]]:
    ordered = sorted(statements, key=lambda statement: statement.sample)
    for sample, group in groupby(ordered, key=lambda statement: statement.sample):
        yield sample, list(group)


def _steps(statements: list[Statement]) -> Iterator[tuple[int, list[Statement]]]:
    for step, group in groupby(sorted(statements, key=lambda statement: statement.step), key=lambda statement: statement.step):
        yield step, list(group)


def _named(statements: list[Statement]) -> str:
    """Returns places and values, such as ``r1c2 = 5``, or how many where the places have no names."""
    named = [f"{' '.join(statement.places)} = {statement.value}" for statement in statements if statement.places]
    return ", ".join(named) or str(len(statements))


def everything(statements: Iterable[Statement]) -> Iterator[str]:
    """Yields every statement with its grade and what it rests on."""
    for _, members in _samples(statements):
        for step, here in _steps(members):
            for one in here:
                grade = {True: " [sound]", False: " [unsound]", None: ""}[one.sound]
                rests = "; ".join(f"{item.head} in {item.place or item.position} {item.probability:.2f}" for item in one.evidence)
                where = ", ".join(dict.fromkeys(f"{item.reader} @ {item.point}" for item in one.evidence))
                yield f"step {step}: {one.text}{grade}" + (f" <- {rests} ({where})" if rests else "")


SHOWN = 3
"""A line a step spells out so many statements of a kind, and counts the rest."""


def _line(here: list[Statement]) -> str:
    parts = []
    for kind in dict.fromkeys(statement.kind for statement in here):
        members = [statement for statement in here if statement.kind == kind]
        if kind in TOGETHER:
            parts.append(f"{TOGETHER[kind]}: {_named(members[:SHOWN])}{_more(members)}")
        elif kind != "next":
            parts.append("; ".join(statement.text for statement in members[:SHOWN]) + _more(members))
    return "; ".join(parts) or NOTHING


def _more(members: list[Statement]) -> str:
    left = len(members) - SHOWN
    return f" and {left} more {members[0].kind.replace('_', ' ')}" if left > 0 else ""


def line_a_step(statements: Iterable[Statement]) -> Iterator[str]:
    """Yields a line for each step of which anything is said: what was written and why, what was decided or taken back."""
    for _, members in _samples(statements):
        for step, here in _steps(members):
            yield f"step {step}: {_line(here)}"


def _counted(members: list[Statement]) -> str:
    """Returns how many of each kind, such as ``31 only candidate, 4 elimination``."""
    return ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in Counter(statement.kind for statement in members).items())


def _about_writing(written: list[Statement]) -> str:
    reasoned = [statement for statement in written if statement.kind in JUSTIFICATIONS]
    confirmed = sum(bool(statement.sound) for statement in reasoned)
    why = (
        f"for {len(reasoned)} a reason was read ({_counted(reasoned)}), and the rules confirm {confirmed}"
        if reasoned
        else "no reason was read"
    )
    rest = [statement for statement in written if statement not in reasoned]
    return f"{len(written)} written: {why}" + (f"; the others: {_counted(rest)}" if reasoned and rest else "")


def _about_leads(decided: list[Statement]) -> str:
    early = [statement for statement in decided if statement.lead is not None]
    mean = f", {sum(statement.lead or 0 for statement in early) / len(early):.0f} calls ahead in the mean" if early else ""
    right = [statement.sound for statement in decided if statement.sound is not None]
    return f"{len(decided)} {decided[0].kind} before they were written{mean}" + (f", {sum(right)} of {len(right)} rightly" if right else "")


def paragraph(statements: Iterable[Statement]) -> Iterator[str]:
    """Yields a paragraph a sample: how much was written and why, how much was decided ahead, what was taken back."""
    for _, members in _samples(statements):
        written = [statement for statement in members if statement.kind in (*JUSTIFICATIONS, *UNREASONED)]
        decided = [statement for statement in members if statement.kind in AHEAD]
        told = (*JUSTIFICATIONS, *UNREASONED, *AHEAD, "next", "standing")
        others = [statement for statement in members if statement.kind not in told]
        parts = [*([_about_writing(written)] if written else []), *([_about_leads(decided)] if decided else [])]
        parts += [f"also {_counted(others)}"] if others else []
        yield ". ".join(part[0].upper() + part[1:] for part in parts) + "." if parts else f"{NOTHING[0].upper()}{NOTHING[1:]}."


LEVELS: dict[str, Callable[[Iterable[Statement]], Iterator[str]]] = {
    "paragraph": paragraph,
    "steps": line_a_step,
    "everything": everything,
}
"""The levels by name, shortest first."""
