"""Numbers as they are given: Python's and numpy's alike become Python's, and what is none is named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np

GREATEST = 2**31 - 1
"""Of steps, positions and counts, which tensors hold in 32 bits."""


def _real(name: str, value: object, error: type[ValueError]) -> int | float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise error(f"{name} is {value!r}; it must be a number")
    return int(value) if isinstance(value, Integral) else float(value)


def number(name: str, value: object, error: type[ValueError]) -> float:
    """Returns a number as a float; raises the error where it is none (NaN and truth values are not)."""
    real = _real(name, value, error)
    if isinstance(real, float) and math.isnan(real):
        raise error(f"{name} is {value}; it must be a number")
    return math.inf if real > 1e308 else float(real)


def whole(name: str, value: object, error: type[ValueError], *, least: int = 0, most: int | None = GREATEST) -> int:
    """Returns a whole number as an int; raises the error where it is none, or not ``least`` to ``most``."""
    real = _real(name, value, error)
    if real % 1:
        raise error(f"{name} is {value}; it must be a whole number")
    if real < least:
        raise error(f"{name} is {value}; it must be at least {least}")
    if most is not None and real > most:
        raise error(f"{name} is {value}; it must be at most {most}")
    return int(real)


def wholes(name: str, values: object, error: type[ValueError], *, most: int = GREATEST) -> tuple[int, ...]:
    """Returns whole numbers, 0 to ``most``, as a tuple; raises the error where they are no sequence of such."""
    if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str):
        raise error(f"{name} are {values!r}; they must be a list of whole numbers")
    return tuple(whole(f"one of {name}", value, error, most=most) for value in values)
