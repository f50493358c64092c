"""Where a model's files are: among the bundled ones, in a folder, or on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

PRETRAINED = Path(__file__).parent / "pretrained"
"""Where the bundled models are."""
WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py")
"""What is fetched of a repository: no pickled weights."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class ModelError(ValueError):
    """A name or folder that is no usable model."""


def bundled_names() -> list[str]:
    """Returns the names of the bundled models."""
    if not PRETRAINED.exists():
        return []
    return sorted(folder.name for folder in PRETRAINED.iterdir() if (folder / "config.json").exists())


def model_folder(name: str | Path, revision: str | None = None, *, only_configuration: bool = False) -> Path:
    """Returns the folder of a bundled model, of a path, or of a repository on the hub, fetched unless it is here already.

    Raises:
        ModelError: Where there is none, or it cannot be had, and why.
    """
    for folder in (PRETRAINED / name, Path(name)):
        if (folder / "config.json").is_file():
            if revision is not None:
                raise ModelError(f"{str(name)!r} is a folder, and the revision {revision!r} is asked of it; only the hub has any")
            return folder
    if not Path(name).exists() and _HUB_ID.fullmatch(str(name)):
        return _fetched(str(name), revision, ["config.json"] if only_configuration else list(WANTED))
    what = "has no config.json" if Path(name).exists() else "does not exist"
    raise ModelError(
        f"{str(name)!r} is no model: the path {what}; bundled models: {', '.join(bundled_names())}; a hub id has the form owner/name"
    )


def _fetched(repository: str, revision: str | None, wanted: list[str]) -> Path:
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except hub.GatedRepoError:
        why = "it is gated: ask for access on its page, then log in with `hf auth login`"
    except hub.RepositoryNotFoundError:
        why = "there is no such repository, or it is private: check the name, or log in with `hf auth login`"
    except hub.RevisionNotFoundError:
        why = f"it has no revision {revision!r}: give a branch, a tag or a whole commit hash"
    except hub.LocalEntryNotFoundError:
        why = "it is not among the files fetched before, and the hub cannot be reached (no network, or HF_HUB_OFFLINE is set)"
    except (hub.HfHubHTTPError, hub.HFValidationError, OSError) as error:
        why = " ".join(str(error).split())[:200]
    raise ModelError(f"{repository!r} is no folder, and cannot be had from the hub: {why}; bundled models: {', '.join(bundled_names())}")
