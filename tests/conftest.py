"""What holds for every test: one thread, nothing fetched, and shapes checked."""

import inspect
import os
from collections.abc import Callable
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import numba
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("denoscope", deadline=None, derandomize=True)
settings.load_profile("denoscope")

_njit = numba.njit


def _njit_unwrapped(*args: Any, **options: Any) -> Any:
    """Compiles the function inside the shape check that --jaxtyping-packages wraps around it; numba cannot compile the check."""
    if args and inspect.isfunction(args[0]):
        return _njit(inspect.unwrap(args[0]), *args[1:], **options)
    decorate: Callable[[Any], Any] = _njit(*args, **options)
    return lambda function: decorate(inspect.unwrap(function))


numba.njit = _njit_unwrapped
