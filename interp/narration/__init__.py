"""The pseudo chain of thought: what was read and written in a run, as events and in words."""

from interp.narration.events import Claims, Event, Leads, claims_of, events, leads_of
from interp.narration.ladder import JUSTIFICATIONS, UNREASONED
from interp.narration.levels import LEVELS, everything, line_a_step, paragraph
from interp.narration.statements import (
    Evidence,
    Statement,
    StatementError,
    Support,
    read_jsonl,
    statement_schema,
    to_jsonl,
    with_support,
)
from interp.narration.sudoku import lead_steps, narrate
from interp.narration.tokens_only import TokensOnly, fit_tokens_only, narrate_board, narrate_tokens

__all__ = [
    "JUSTIFICATIONS",
    "LEVELS",
    "UNREASONED",
    "Claims",
    "Event",
    "Evidence",
    "Leads",
    "Statement",
    "StatementError",
    "Support",
    "TokensOnly",
    "claims_of",
    "events",
    "everything",
    "fit_tokens_only",
    "lead_steps",
    "leads_of",
    "line_a_step",
    "narrate",
    "narrate_board",
    "narrate_tokens",
    "paragraph",
    "read_jsonl",
    "statement_schema",
    "to_jsonl",
    "with_support",
]
