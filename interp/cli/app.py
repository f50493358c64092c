"""The application, its error rule, and what commands share."""

from __future__ import annotations

import _thread
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

BAD_INPUT, FAILURE, INTERRUPTED = 2, 1, 130
GREATEST_SEED = 2**32 - 1
"""Every random generator that a command seeds takes 0 to this."""

app = typer.Typer(
    name="denoscope",
    help="Read what a diffusion language model is thinking while it denoises, with readers learned on its autoregressive twin.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

WIDEST = 180
"""Of a table, in characters."""

errors = Console(stderr=True, highlight=False, soft_wrap=True)
out = Console(highlight=False, soft_wrap=True)


class OutputError(ValueError):
    """A place that cannot take a command's output."""


def _exit_code(error: BaseException) -> int | None:
    """Returns 2 for bad input, 1 for a failure, None for a defect of ours, which keeps its traceback.

    Our own ValueErrors say what was wrong with the input; so does a file that is not there.
    """
    ours = type(error).__module__.split(".")[0] in ("models", "probes", "interp")
    if (ours and isinstance(error, ValueError)) or isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return BAD_INPUT
    if ours or isinstance(error, OSError | MemoryError):
        return FAILURE
    return None


def main() -> None:
    """Runs the command line; every expected error, and every warning, is one line on stderr."""
    warnings.showwarning = _warner()
    try:
        app()
    except KeyboardInterrupt:
        errors.print("interrupted")
        sys.exit(INTERRUPTED)
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        where = str(error)
        if isinstance(error, OSError) and error.strerror:
            where = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        errors.print(f"[bold red]error:[/] {_escaped(' '.join(where.split()))}")
        sys.exit(code)


def _warner() -> Callable[..., None]:
    """Returns what prints a warning as one line, each once."""
    said: set[str] = set()

    def warn(message: Warning | str, *_where: Any) -> None:
        text = " ".join(str(message).split())
        if text not in said:
            errors.print(f"[bold yellow]warning:[/] {_escaped(text)}")
        said.add(text)

    return warn


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def print_wide(table: Table) -> None:
    """Prints a table as wide as it is, on a terminal, or where nobody looks at columns, that is narrower."""
    Console(width=max(out.width, WIDEST), highlight=False, soft_wrap=True).print(table)


def print_json(value: object) -> None:
    """Prints one JSON value to stdout."""
    typer.echo(json.dumps(value, indent=2))


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Yields ``tell(stage, done, total)``, which draws one bar a stage on stderr."""
    columns = (TextColumn("{task.description:<14}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors) as bars:
        tasks = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield tell


@contextmanager
def resumable(kept: Callable[[], str]) -> Iterator[None]:
    """Says after Ctrl-C what is kept.

    A C library that calls back into Python drops a Ctrl-C of that moment, and may fail of it: it is sent again, and the failure is one too.
    """
    dropped, previous = [], sys.unraisablehook

    def send_again(ignored: sys.UnraisableHookArgs) -> None:
        if issubclass(ignored.exc_type, KeyboardInterrupt):
            dropped.append(ignored)
            _thread.interrupt_main()
        else:
            previous(ignored)

    sys.unraisablehook = send_again
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        if not dropped and not isinstance(error, KeyboardInterrupt):
            raise
        errors.print(f"interrupted; {kept()}")
        raise KeyboardInterrupt from None
    finally:
        sys.unraisablehook = previous


@contextmanager
def whole_folder(target: Path, marker: str) -> Iterator[Path]:
    """Yields a folder to write into that becomes ``target`` only when the block ends well.

    An earlier result, known by ``marker``, is replaced; an empty folder is used.

    Raises:
        OutputError: Where ``target`` is something else, at once rather than after the work.
    """
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target} exists and is no folder; choose another --out")
    if target.is_dir() and any(target.iterdir()) and not (target / marker).exists():
        raise OutputError(f"{target} holds other files (no {marker}); choose an empty or new --out")
    target = target.resolve()  # "." has no name, and a link is not to be replaced itself
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise OutputError(f"{target} cannot be made: {error.strerror}; choose another --out") from None
    try:
        yield partial
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
