"""What every reader refuses: unusable data and files of another model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

FORMAT_VERSION = 1
"""Of the ``config.json`` beside every saved reader."""


class ProbeError(ValueError):
    """Data that no reader can be fitted on, or a saved reader that does not belong to what it is used on."""


def check_finite(x: Float[Tensor, "*shape"], name: str = "activations") -> None:
    """Returns nothing.

    Raises:
        ProbeError: Where ``x`` is empty, or holds a NaN or an infinity.
    """
    if x.numel() == 0:
        raise ProbeError(f"the {name} have shape {tuple(x.shape)}; at least one value is needed")
    bad = int((~torch.isfinite(x)).sum())
    if bad:
        raise ProbeError(f"{bad} of {x.numel()} values of the {name} are NaN or infinite; all must be finite")


def check_fitted_on(found: str, expected: str | None, source: Path) -> None:
    """Returns nothing; with ``expected`` None every reader is accepted.

    Raises:
        ProbeError: Where the reader in ``source`` was fitted on something else than what is expected.
    """
    if expected is not None and found != expected:
        raise ProbeError(f"{source} was fitted on {found!r}, and is to be used on {expected!r}; they must be the same")


def read_config(folder: Path, artefact: str) -> dict[str, Any]:
    """Returns the ``config.json`` of a saved reader.

    Raises:
        ProbeError: Where it is missing, unreadable, of another artefact, or of a version that is not read here.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProbeError(f"{folder} holds no readable config.json ({error}); a saved {artefact} does") from None
    if not isinstance(config, dict) or config.get("artefact") != artefact:
        raise ProbeError(f'{path} does not describe a {artefact}; those have "artefact": "{artefact}"')
    if config.get("format_version") != FORMAT_VERSION:
        raise ProbeError(f"{path} has format_version {config.get('format_version')!r}; this version of denoscope reads {FORMAT_VERSION}")
    return config
