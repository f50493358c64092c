"""What is known of a model before its weights are read: its files, its family, its facts, its native configuration, its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig
from transformers.utils import logging

from models.architectures import ARCHITECTURES
from models.architectures.base import Architecture, set_attention
from models.card import Card, CardError, described, read_card
from models.facts import CONFIG_KEY, FactsError, ModelFacts
from models.families import FAMILIES, Family
from models.hub import ModelError, model_folder
from models.tasks import TASKS
from models.tasks.text import Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class Opening:
    """All that is known of a model before its weights are read."""

    folder: Path
    made_here: bool
    """Whether its configuration states its facts."""
    facts: ModelFacts
    architecture: Architecture
    config: PreTrainedConfig | None
    """The configuration of the native network; None is the one in the folder."""
    key_mapping: Mapping[str, str]
    tokenizer: PreTrainedTokenizerBase | None
    """Of a model whose task is ``text``."""
    unread: tuple[str, ...] = ()
    """How the names of tensors begin that its checkpoint holds and its network has no place for."""


def card_of(name: str | Path | Card) -> Card:
    """Returns how to open a model: a card as it is, the card in a ``.toml`` file, or one that says only its name."""
    if isinstance(name, Card):
        return name
    return read_card(Path(name)) if str(name).endswith(".toml") else Card(model=str(name))


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


def read_facts(folder: Path) -> ModelFacts:
    """Returns the facts that a model folder states; raises ModelError where it states none that can be used."""
    raw = _raw(folder)
    try:
        facts = ModelFacts.from_config(raw.get(CONFIG_KEY))
    except FactsError as error:
        raise ModelError(f"{folder} cannot be used: {error}") from None
    if raw.get("model_type") not in ARCHITECTURES:
        raise ModelError(f"{folder} is of the architecture {raw.get('model_type')!r}; supported: {', '.join(ARCHITECTURES)}")
    return _known_task(facts, folder)


def _known_task(facts: ModelFacts, folder: Path) -> ModelFacts:
    """Returns the facts, or raises ModelError where they name no task that there is."""
    if facts.task not in (*TASKS, Text.name):
        raise ModelError(f"{folder} speaks the task {facts.task!r}; known tasks: {', '.join((*TASKS, Text.name))}")
    return facts


def _raw(folder: Path) -> dict[str, Any]:
    """Returns what a folder's ``config.json`` holds."""
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{folder} cannot be used: its config.json is no JSON ({error})") from None
    if not isinstance(raw, dict):
        raise ModelError(f"{folder} cannot be used: its config.json holds a {type(raw).__name__}, and must hold an object")
    return raw


def family_of(raw: Mapping[str, Any], name: str | None, what: str) -> Family:
    """Returns the family of a published configuration, by its name, its hub id, or the class that it states.

    Raises:
        ModelError: On a name that is none, or a configuration of none, with how to describe it.
    """
    if name is not None:
        if name not in FAMILIES:
            raise ModelError(f"unknown family {name!r}; choose from {', '.join(FAMILIES)}")
        return FAMILIES[name]
    stated = raw.get("architectures") or []
    classes = stated if isinstance(stated, list) else [stated]
    for family in FAMILIES.values():
        if what in family.hub:
            return family
    for family in FAMILIES.values():
        if any(one in family.reads for one in classes):
            return family
    runs = _own_code(raw)
    raise ModelError(
        f"{what} is of the architecture {', '.join(map(str, classes)) or 'nowhere stated'}, which no family reads "
        f"({', '.join(FAMILIES)}); name the family it is like, or describe it in a TOML file with model, [facts] and [layout] (see "
        "`denoscope models --example`) and give that file as the model"
        + (f"; it brings code of its own ({runs}), which runs with trust_remote_code = true alone" if runs else "")
    )


def _own_code(raw: Mapping[str, Any]) -> str:
    """Returns the names of the classes beside the weights that a configuration would have run, in one line."""
    codes = raw.get("auto_map") or {}
    return ", ".join(map(str, codes.values() if isinstance(codes, dict) else [codes]))


def _embedding_rows(folder: Path) -> int | None:
    """Returns how many tokens the embedding of a checkpoint in one file has; None where there is none of a usual name."""
    weights = folder / "model.safetensors"
    if not weights.exists():
        return None
    try:
        with safe_open(weights, "pt") as file:
            names = [name for name in file.keys() if name.endswith(("embed_tokens.weight", "wte.weight"))]  # noqa: SIM118 (no mapping)
            return int(file.get_slice(names[0]).get_shape()[0]) if names else None
    except SafetensorError as error:
        raise ModelError(f"the weights in {folder} cannot be loaded: {error}") from None


def _tokenizer(folder: Path, family: Family | None, *, trusted: bool) -> PreTrainedTokenizerBase | None:
    """Returns the tokenizer beside the weights; None where there is none."""
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        return None
    import transformers

    kind = transformers.AutoTokenizer if family is None or family.tokenizer is None else getattr(transformers, family.tokenizer)
    given = {} if _raw(folder).get("model_type") in transformers.CONFIG_MAPPING else {"config": PreTrainedConfig()}  # or it would be read
    try:
        with silent_transformers():
            found: PreTrainedTokenizerBase = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted, **given)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"the tokenizer in {folder} cannot be loaded: {' '.join(str(error).split())[:300]}") from None
    return found


def _mask_token(stated: object, family: Family, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> int | None:
    """Returns the mask token's id: what the configuration states, the tokenizer's, or what its family knows."""
    behaviour = family.behaviour
    if behaviour.objective == "causal":
        return None
    if isinstance(stated, int):
        return stated
    if tokenizer is not None:
        known = tokenizer.get_vocab()
        texts = [text for text in (*behaviour.mask_tokens, tokenizer.mask_token) if text in known]
        if texts:
            return int(known[texts[0]])
    if behaviour.mask_token_id is not None:
        return behaviour.mask_token_id
    sought = ", ".join(behaviour.mask_tokens) or "none"
    raise ModelError(
        f"{folder} names no mask_token_id, and its tokenizer has no mask token (sought: {sought}); give it in a TOML file under [facts]"
    )


def opening(card: Card) -> Opening:
    """Returns all that is known of a model before its weights are read. No code of the model is run unless the card trusts it.

    Raises:
        ModelError: Where its files cannot be had, or it is of no known family, or its configuration cannot be used.
    """
    folder = model_folder(card.model, card.revision)
    raw = _raw(folder)
    if CONFIG_KEY in raw:
        if card.family is not None or card.layout is not None:
            raise CardError(f"{card.model} states what it is: a card may correct its [facts], and has no family or layout")
        stated = read_facts(folder)
        facts = _known_task(ModelFacts(**{**asdict(stated), **(card.facts or {})}), folder)
        architecture = ARCHITECTURES[raw["model_type"]]
        kind = architecture.network().config_class
        assert kind is not None
        config = None
        if facts.attention != stated.attention:
            set_attention(architecture, config := kind.from_dict(raw), facts.attention)
        tokenizer = _tokenizer(folder, None, trusted=False) if facts.task == Text.name else None
        return Opening(folder, True, facts, architecture, config, {}, tokenizer)
    if card.layout is not None:
        if card.stated is None:
            raise CardError(f"{card.model}: a card with a [layout] needs [facts]: objective, attention, logit_shift and mask_token_id")
        if (runs := _own_code(raw)) and not card.trust_remote_code:
            raise ModelError(
                f"{card.model} brings code of its own ({runs}), which runs with trust_remote_code = true alone; it is in {folder}"
            )
        return Opening(
            folder,
            False,
            _known_task(card.stated, folder),
            described(card.layout),
            None,
            {},
            _tokenizer(folder, None, trusted=card.trust_remote_code),
        )
    family = family_of(raw, card.family, card.model)
    raw["embedding_rows"] = _embedding_rows(folder)
    tokenizer = _tokenizer(folder, family, trusted=card.trust_remote_code)
    return Opening(folder, False, *_of_family(family, card, raw, tokenizer, folder), family.key_mapping, tokenizer, family.unread)


def _native(family: Family, raw: Mapping[str, Any], folder: Path) -> tuple[Architecture, PreTrainedConfig, dict[str, Any]]:
    """Returns the architecture that a checkpoint runs as, its configuration, and what of that the checkpoint states."""
    architecture = ARCHITECTURES[family.network]
    kind = architecture.network().config_class
    assert kind is not None
    try:
        translated = family.configuration(raw)
        return architecture, kind.from_dict(translated), translated
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, StrictDataclassError) as error:
        raise ModelError(f"{folder} has no configuration of the family {family.name!r}: {' '.join(str(error).split())}") from None


def configuration_of(card: Card) -> tuple[Architecture, PreTrainedConfig]:
    """Returns the architecture and configuration of a model; of a repository on the hub its ``config.json`` alone is fetched.

    Raises:
        ModelError: Where that cannot be had, or is of no known family.
    """
    folder = model_folder(card.model, card.revision, only_configuration=True)
    raw = _raw(folder)
    if CONFIG_KEY in raw:
        read_facts(folder)
        architecture = ARCHITECTURES[raw["model_type"]]
        kind = architecture.network().config_class
        assert kind is not None
        return architecture, kind.from_dict(raw)
    if card.layout is not None:
        raise ModelError(f"{card.model} is known by its layout alone, and what it takes cannot be counted")
    architecture, config, _ = _native(family_of(raw, card.family, card.model), raw, folder)
    return architecture, config


def _block_size(raw: Mapping[str, Any], family: Family) -> Any:
    """Returns the places of a block: what the configuration states, under either name, or what its family knows."""
    stated = (raw.get(name) for name in ("block_size", "bd_size"))
    return next((size for size in stated if size is not None), family.behaviour.block_size)


def _of_family(
    family: Family, card: Card, raw: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase | None, folder: Path
) -> tuple[ModelFacts, Architecture, PreTrainedConfig]:
    """Returns facts, architecture and native configuration of a checkpoint of a known family."""
    behaviour = family.behaviour
    known = {
        "objective": behaviour.objective,
        "attention": behaviour.attention,
        "logit_shift": behaviour.logit_shift,
        "task": Text.name,
        "block_size": _block_size(raw, family) if behaviour.attention == "block-causal" else None,
    }
    architecture, config, translated = _native(family, raw, folder)
    overrides = dict(card.facts or {})
    if overrides.get("objective") == "causal":
        overrides.setdefault("mask_token_id", None)
    if "mask_token_id" not in overrides:
        stated = raw.get("mask_token_id", translated.get("mask_token_id"))
        overrides["mask_token_id"] = _mask_token(stated, family, tokenizer, folder)
    facts = _known_task(ModelFacts(**{**known, **overrides}), folder)
    set_attention(architecture, config, facts.attention)
    setattr(config, CONFIG_KEY, facts.to_config())
    return facts, architecture, config
