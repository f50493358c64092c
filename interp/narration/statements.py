"""What an account is made of, and its form on disk: one JSON object a line, by a published schema."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError

Support = Literal["readable", "decisive", "used"]
SUPPORTS: tuple[Support, ...] = get_args(Support)
"""How far a claim has been tested, weakest first."""
_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class StatementError(ValueError):
    """A line that is no statement."""


@dataclass(frozen=True)
class Evidence:
    """One number that a statement rests on."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    reader: str
    """What was asked of the activations, such as ``logistic candidates``."""
    point: str
    """The hook point it was read at; ``output`` where it was the model's own proposal."""
    step: int
    """The network call it was read in, counted from 1."""
    position: int
    """In the canvas."""
    head: str
    """Which of the reader's yes-or-no questions."""
    probability: float
    place: str = ""
    """What the position is called, such as ``r4c7``; empty where it has no name."""


@dataclass(frozen=True)
class Statement:
    """One claim of the account of a run."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    sample: int
    step: int
    """The network call it is about, counted from 1."""
    kind: str
    """Its template, such as ``only_candidate``."""
    text: str
    positions: tuple[int, ...]
    """The positions of the canvas that it is about."""
    value: str
    """The digit or word that it claims; empty where it claims none."""
    evidence: tuple[Evidence, ...]
    """What was read; empty where it tells only what was written."""
    sound: bool | None = None
    """Whether it holds: a reason by the rules, a claim of what is decided by what the run ends with; None where neither can say."""
    lead: int | None = None
    """Network calls from the claim to the writing of the position; None where that never came, or the claim is of no one position."""
    support: Support = "readable"
    """How far it was tested: what it claims is ``readable``, ``decisive`` for its own output, or ``used`` by the rest."""
    places: tuple[str, ...] = ()
    """What the positions are called, in their order; empty where they have no names."""


_ONE = TypeAdapter(Statement)


def statement_schema() -> dict[str, Any]:
    """Returns the JSON schema of a line of ``reading.jsonl``."""
    return _ONE.json_schema()


def to_jsonl(statements: Iterable[Statement]) -> str:
    """Returns one JSON object a line, as `statement_schema` has it."""
    return "".join(_ONE.dump_json(statement).decode() + "\n" for statement in statements)


def read_jsonl(text: str) -> list[Statement]:
    """Returns the statements of a ``reading.jsonl``.

    Raises:
        StatementError: Naming the line and the first field that does not fit the schema.
    """
    statements = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            statements.append(_ONE.validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "it"
            raise StatementError(f"line {number} is no statement: {where}: {first['msg']}; `statement_schema` says what is") from None
    return statements


def with_support(statements: Iterable[Statement], found: Mapping[str, Support]) -> list[Statement]:
    """Returns the statements with the support that a causal test found for their kind; kinds that it does not name keep theirs."""
    return [replace(statement, support=found.get(statement.kind, statement.support)) for statement in statements]
