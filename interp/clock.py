"""Seconds by stage of a long run, told while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Progress = Callable[[str, int, int], None]
"""Told (stage, done, total)."""


@dataclass
class Clock:
    """Seconds by stage."""

    tell: Progress = lambda stage, done, total: None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Times the block, and yields what is to be told (done, total) inside it."""
        started = time.monotonic()
        self.tell(name, 0, 1)
        yield lambda done, total: self.tell(name, done, total)
        self.tell(name, 1, 1)
        self.seconds[name] = round(time.monotonic() - started, 2)
