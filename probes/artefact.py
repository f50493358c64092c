"""Readers on disk: their tensors in ``model.safetensors``, and what they are and were fitted on in ``config.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from probes.errors import ProbeError

FORMAT_VERSION = 1
"""Of the ``config.json`` beside every saved reader."""
WEIGHTS_NAME = "model.safetensors"


@runtime_checkable
class Reader(Protocol):
    """What is known of everything that is fitted on activations."""

    @property
    def kind(self) -> str:
        """The fitter that made it."""
        ...

    @property
    def fitted_on(self) -> str:
        """Fingerprint of where its activations came from."""
        ...

    @property
    def heads(self) -> tuple[str, ...]:
        """What it was fitted for."""
        ...


def write_artefact(folder: Path, artefact: str, reader: Reader, tensors: Mapping[str, Tensor], **more: Any) -> None:
    """Writes a reader's tensors, and its kind, fingerprint, heads and whatever ``more`` there is to say, making the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS_NAME)
    config = {"artefact": artefact, "format_version": FORMAT_VERSION, "kind": reader.kind, **more}
    config |= {"fitted_on": reader.fitted_on, "heads": list(reader.heads)}
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_artefact(folder: Path, artefact: str, tensors: tuple[str, ...], *more: str, fitted_on: str | None) -> dict[str, Any]:
    """Returns the fields of a saved reader: the named tensors, ``kind``, ``fitted_on``, ``heads``, and ``more``.

    Args:
        folder: Where it was written.
        artefact: What it must be.
        tensors: Those it must have.
        more: What its ``config.json`` must say besides.
        fitted_on: Fingerprint of what it is to be used on; None accepts any.

    Raises:
        ProbeError: Where the folder holds no whole one, or one fitted on something else (both are named).
    """
    config = read_config(folder, artefact)
    try:
        stored = load_file(folder / WEIGHTS_NAME)
        found = {name: stored[name] for name in tensors} | {name: config[name] for name in ("kind", "fitted_on", *more)}
        found["heads"] = tuple(config["heads"])
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise ProbeError(f"{folder} holds no whole {artefact} ({type(error).__name__}: {error})") from None
    check_fitted_on(found["fitted_on"], fitted_on, folder)
    return found


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
