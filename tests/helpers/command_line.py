"""What the tests of commands share: how a command ended, and what an error looks like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


Run = Callable[..., Ended]


def refused(ended: Ended, *parts: str, code: int = 2) -> None:
    """Asserts one clear line on stderr (after a bar, if one was drawn), nothing on stdout, and the exit code."""
    assert ended.code == code, ended.stderr
    assert ended.stdout == ""
    (line,) = [line for line in ended.stderr.strip().splitlines() if "error" in line]
    assert line.startswith("error: ")
    for part in parts:
        assert part in line, line


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the bytes of every file in a folder, by its path from there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
