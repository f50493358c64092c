"""What the benchmarks share: arguments, interleaved timing, one JSON object at the end.

Python puts a script's folder first on the path, so no benchmark may be called after one of our packages.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def parser(description: str, *, repeats: int = 3) -> argparse.ArgumentParser:
    """Returns the arguments every benchmark takes; a benchmark adds its sizes."""
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    arguments.add_argument("--json", action="store_true", help="print JSON and nothing else")
    arguments.add_argument("--repeats", type=int, default=repeats, help="timed runs of each side")
    arguments.add_argument("--threads", type=int, default=1, help="torch threads")
    arguments.add_argument("--seed", type=int, default=0, help="of boards and weights")
    return arguments


def parse(arguments: argparse.ArgumentParser) -> argparse.Namespace:
    """Returns the parsed arguments, with the number of threads set."""
    options = arguments.parse_args()
    if options.repeats < 1:
        arguments.error(f"--repeats is {options.repeats}; it must be at least 1")
    torch.set_num_threads(options.threads)
    return options


def clocked(run: Callable[[], object]) -> Callable[[], float]:
    """Returns ``run`` as a function that returns the seconds it took."""

    def timed() -> float:
        started = time.perf_counter()
        run()
        return time.perf_counter() - started

    return timed


def interleaved(sides: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Returns the median seconds of each side, run as A B A B ... after one untimed round, so that a drift of the machine hits all alike.

    A side returns its own seconds (see ``clocked``).
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(repeats + 1):
        for name, side in sides.items():
            taken = side()
            if round_:
                seconds[name].append(taken)
    return {name: statistics.median(values) for name, values in seconds.items()}


def show(options: argparse.Namespace, figures: Mapping[str, Any]) -> None:
    """Prints the figures with the arguments they were measured with."""
    measured = {**figures, "arguments": {name: value for name, value in vars(options).items() if name != "json"}}
    if options.json:
        print(json.dumps(_rounded(measured), indent=2))
        return
    for name, value in _rounded(measured).items():
        print(f"{name}: {value}")
    sys.stdout.flush()


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(part) for name, part in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
