"""Opening a bundled model or a model folder: the network, the facts stated beside its weights, and their proof."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from models.checks import prove
from models.facts import CONFIG_KEY, FactsError, ModelFacts
from models.families import FAMILIES
from models.language_model import LanguageModel
from models.tasks import TASKS

PRETRAINED = Path(__file__).parent / "pretrained"
"""Where the bundled models are."""


class ModelError(ValueError):
    """A name or folder that is no usable model."""


def bundled_names() -> list[str]:
    """Returns the names of the bundled models."""
    if not PRETRAINED.exists():
        return []
    return sorted(folder.name for folder in PRETRAINED.iterdir() if (folder / "config.json").exists())


def model_folder(name: str | Path) -> Path:
    """Returns the folder of a bundled model or of a path.

    Raises:
        ModelError: Where there is neither, naming the bundled ones.
    """
    for folder in (PRETRAINED / name, Path(name)):
        if (folder / "config.json").is_file():
            return folder
    what = "has no config.json" if Path(name).exists() else "does not exist"
    raise ModelError(f"{str(name)!r} is no model: the path {what}; bundled models: {', '.join(bundled_names())}")


def read_facts(folder: Path) -> ModelFacts:
    """Returns the facts a model folder states; raises ModelError where it states none that can be used."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        facts = ModelFacts.from_config(config.get(CONFIG_KEY))
    except (FactsError, json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ModelError(f"{folder} cannot be used: {error}") from None
    if config.get("model_type") not in FAMILIES:
        raise ModelError(f"{folder} is of the family {config.get('model_type')!r}; supported: {', '.join(FAMILIES)}")
    if facts.task not in TASKS:
        raise ModelError(f"{folder} speaks the task {facts.task!r}; known tasks: {', '.join(TASKS)}")
    return facts


@contextmanager
def silent_transformers() -> Iterator[None]:
    """Keeps the Hugging Face library from drawing bars and printing warnings inside the block."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def bare_module(folder: Path, device: str | torch.device = "cpu") -> tuple[PreTrainedModel, ModelFacts]:
    """Returns the Hugging Face network in float32, evaluation mode, and its facts. Nothing is fetched, no code is run.

    Raises:
        ModelError: Where the folder is missing, its facts are, or its weights do not fit its configuration.
    """
    folder = model_folder(folder)
    facts = read_facts(folder)
    try:
        with silent_transformers():
            opened: tuple[PreTrainedModel, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(  # type: ignore[assignment]
                folder,
                dtype=torch.float32,
                attn_implementation="eager",
                local_files_only=True,
                use_safetensors=True,  # never a pickle
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"the weights in {folder} cannot be loaded: {' '.join(str(error).split())}") from None
    module, report = opened
    for key, what in (("missing_keys", "lack"), ("unexpected_keys", "have")):
        names = sorted(report[key])
        if names:
            rule = "of its configuration" if what == "lack" else "that its configuration has no place for"
            raise ModelError(f"the weights in {folder} {what} {len(names)} tensors {rule}, {names[0]} among them")
    nn.Module.to(module, device)
    return module.eval(), facts


def load(name: str | Path, device: str | torch.device = "cpu", backend: str | None = None) -> LanguageModel:
    """Returns a bundled model (by name) or the model in a folder, proved to be what its facts say.

    Example:
        >>> load("sudoku-diffusion").facts.attention
        'full'

    Args:
        name: A bundled name or a folder.
        device: Where to put the weights.
        backend: What alone names and edits activations, one of ``models.backends.BACKENDS``; None is plain hooks where these have all
            points of a forward pass, and a TransformerLens bridge where not.

    Raises:
        ModelError: Where there is no such model or it cannot be opened.
        ModelCheckError: Where the network is not what its facts say.
    """
    folder = model_folder(name)
    model = LanguageModel(folder.resolve().name, *bare_module(folder, device), backend)
    prove(model)
    return model
