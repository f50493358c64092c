"""The command ``denoscope``. Importing this imports neither torch nor plotly: commands import what they need when they run."""

from interp.cli import (  # noqa: F401 (each registers its commands)
    catalogue,
    harvesting,
    opening,
    pairs,
    probing,
    running,
    saes,
    studying,
    telling,
    texts,
    training,
    viewing,
)
from interp.cli.app import main

__all__ = ["main"]
