"""Tasks whose runs can be told: one file each, one line in ``TELLERS``."""

from typing import Any

from interp.tellers.base import Account, OnStep, Teller
from interp.tellers.boards import BOARDS, BoardAccount, solutions_of
from interp.tellers.stories import STORY_RUNS, StoryAccount

TELLERS: dict[str, Teller[Any, Any]] = {"sudoku": BOARDS, "stories": STORY_RUNS}

__all__ = ["BOARDS", "STORY_RUNS", "TELLERS", "Account", "BoardAccount", "OnStep", "StoryAccount", "Teller", "solutions_of"]
