"""Opening a model: its network, in memory, with the facts stated beside its weights or known of its family, and their proof."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from models.card import Card, CardError
from models.checks import TOLERANCES, prove
from models.facts import FactsError, ModelFacts
from models.hub import PRETRAINED, ModelError, bundled_names, model_folder
from models.language_model import LanguageModel, task_of
from models.network import Network
from models.opening import Opening, card_of, opening, read_facts, silent_transformers
from models.tasks import Task

_LIBRARY = (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError, AttributeError, ArithmeticError, SafetensorError)
"""What the Hugging Face library raises on weights and configurations that do not go together."""


def _loading(card: Card, found: Opening, device: str | torch.device) -> dict[str, Any]:
    """Returns what ``from_pretrained`` is given besides the folder."""
    wanted: dict[str, Any] = {
        "dtype": getattr(torch, card.dtype) if card.dtype else torch.float32 if found.made_here else "auto",
        "attn_implementation": "eager",
        "local_files_only": True,
        "use_safetensors": True,  # never a pickle
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # and reported below
        "trust_remote_code": card.trust_remote_code,
    }
    if found.config is not None:
        wanted["config"] = found.config
    if found.key_mapping:
        wanted["key_mapping"] = dict(found.key_mapping)
    if str(device) == "auto" or card.quantise:
        wanted["device_map"] = str(device)
    if card.quantise:
        from transformers import BitsAndBytesConfig

        wanted["quantization_config"] = BitsAndBytesConfig(load_in_8bit=card.quantise == "8bit", load_in_4bit=card.quantise == "4bit")
    return wanted


def open_network(card: Card, device: str | torch.device | None = None) -> tuple[Network, Task]:
    """Returns a network in evaluation mode with its facts, and the task that it speaks; no device is the card's.

    Raises:
        ModelError: Where it is missing, of no known family, or its weights do not fit its configuration or the memory.
    """
    device = device or card.device
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"the device is {str(device)!r}, and there is no GPU that PyTorch can use; choose cpu, or auto for what there is")
    found = opening(card)
    module, report = _loaded(card, found, device)
    _check_weights(found, report)
    if module.dtype not in TOLERANCES:
        raise ModelError(f"the weights in {found.folder} are {module.dtype}; give a dtype: float32, bfloat16 or float16")
    network = Network(module.eval(), found.facts, found.architecture)
    _check_places(network, card)
    return network, task_of(network, found.tokenizer)


def _loaded(card: Card, found: Opening, device: str | torch.device) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Returns a network with its weights on its device, and the library's report of which it lacked, had over, or could not fit."""
    wanted, kind = _loading(card, found, device), found.architecture.network()
    try:
        with silent_transformers():
            opened: tuple[PreTrainedModel, dict[str, Any]] = kind.from_pretrained(found.folder, **wanted)  # type: ignore[assignment]
        if "device_map" not in wanted:
            nn.Module.to(opened[0], device)
    except torch.OutOfMemoryError as error:
        raise ModelError(f"{card.model} does not fit into the memory of {device}: {_first_line(error)}; {_smaller(card)}") from None
    except _LIBRARY as error:
        raise ModelError(f"the weights in {found.folder} cannot be loaded: {' '.join(str(error).split())}") from None
    if not isinstance(opened[0], PreTrainedModel):
        raise CardError(f"{card.model} opens as a {type(opened[0]).__name__}, which is no network; correct opened_by")
    return opened


def _check_weights(found: Opening, report: Mapping[str, Any]) -> None:
    """Raises ModelError where the weights are not those of their configuration."""
    for entry in report["mismatched_keys"]:
        raise ModelError(f"the weights in {found.folder} have {entry[0]} of {tuple(entry[1])}; its configuration says {tuple(entry[2])}")
    for key, what in (("missing_keys", "lack"), ("unexpected_keys", "have")):
        names = sorted(name for name in report[key] if not name.startswith(found.unread))
        if names:
            rule = "of its configuration" if what == "lack" else "that its configuration has no place for"
            raise ModelError(f"the weights in {found.folder} {what} {len(names)} tensors {rule}, {names[0]} among them")


def _check_places(network: Network, card: Card) -> None:
    """Raises CardError where a network has no module at a place that its architecture names, or a configuration without its size."""
    lacking = [
        name
        for name in ("hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings")
        if not hasattr(network.module.config, name)
    ]
    if lacking:
        raise CardError(f"{card.model}: its configuration lacks {', '.join(lacking)}, by which every network is known here")
    places = {str(point): network.architecture.sites[point.component].path.format(layer=point.layer) for point in network.points}
    for name, path in {**places, **{f"readout {path}": path for path in network.architecture.readout}}.items():
        try:
            network.module.get_submodule(path)
        except AttributeError:
            raise CardError(f"{card.model}: {name} is sought at {path!r}, where the network has no module") from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]


def _smaller(card: Card) -> str:
    tried = [*(["bfloat16"] if card.dtype in (None, "float32") else []), *(["8bit", "4bit"] if card.quantise is None else [])]
    return f"what takes less: {', '.join(tried)} (`denoscope plan {card.model}` says how much), or device 'auto' to spread it"


def bare_module(name: str | Path, device: str | torch.device = "cpu") -> tuple[PreTrainedModel, ModelFacts]:
    """Returns the network of a model made here, in float32, and its facts.

    Raises:
        ModelError: Where there is none, or it cannot be opened.
    """
    read_facts(model_folder(name))
    network, _ = open_network(Card(model=str(name)), device)
    return network.module, network.facts


def load(name: str | Path | Card, device: str | torch.device | None = None, backend: str | None = None, **settings: Any) -> LanguageModel:
    """Returns a model, proved to be what its facts say.

    Example:
        >>> load("sudoku-diffusion").facts.attention
        'full'

    Args:
        name: A bundled name, a folder, a hub id, or a card (or the ``.toml`` file of one) that says more.
        device: Where to put the weights; ``auto`` spreads them over what there is, and None is where the card says, or else the CPU.
        backend: What alone names and edits activations, one of ``models.backends.BACKENDS``; None is plain hooks where these have all
            points of a forward pass, and a TransformerLens bridge where not.
        settings: Of the card: ``revision``, ``dtype``, ``quantise``, ``family``, ``trust_remote_code``, ``facts``, ``layout``.

    Raises:
        ModelError: Where there is no such model or it cannot be opened.
        CardError: On a setting that there is not.
        ModelCheckError: Where the network is not what its facts say.
    """
    model = unproved(name, device, backend, **settings)
    prove(model)
    return model


def unproved(
    name: str | Path | Card, device: str | torch.device | None = None, backend: str | None = None, **settings: Any
) -> LanguageModel:
    """Returns a model as ``load`` does, of which nothing is proved: for what tells whether it can be."""
    card = _changed(card_of(name), settings)
    try:
        network, task = open_network(card, device)
    except FactsError as error:
        raise ModelError(f"{card.model} cannot be used: {error}") from None
    return LanguageModel(Path(card.model).resolve().name, network, task, backend)


def _changed(card: Card, settings: Mapping[str, Any]) -> Card:
    """Returns a card with some settings of its own replaced."""
    try:
        return Card.model_validate({**card.model_dump(), **settings})
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg'].lower()}" for one in error.errors())
        raise CardError(f"{card.model}: {wrong}; settings: {', '.join(Card.model_fields)}") from None


__all__ = [
    "PRETRAINED",
    "ModelError",
    "bare_module",
    "bundled_names",
    "load",
    "model_folder",
    "open_network",
    "read_facts",
    "silent_transformers",
]
