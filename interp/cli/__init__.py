"""The command ``denoscope``. Importing this imports neither torch nor plotly: commands import what they need when they run."""

from interp.cli import catalogue, harvesting, probing, running, saes, studying, texts, training, viewing  # noqa: F401 (each registers its commands)
from interp.cli.app import main

__all__ = ["main"]
