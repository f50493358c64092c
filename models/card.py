"""How to open a model, as one value: a name, or a TOML file that says more."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from models.architectures.base import Architecture, Site
from models.facts import ModelFacts

DType = Literal["float32", "bfloat16", "float16"]


class CardError(ValueError):
    """A file that does not say how to open a model."""


class Layout(BaseModel):
    """Where a network that denoscope does not know holds its activations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sites: Mapping[str, str]
    """By TransformerLens component, ``path:input`` or ``path:output``; ``{layer}`` in the path is the block's number."""
    readout: tuple[str, ...]
    """Paths of the modules that make logits of the last residual stream, one after the other."""
    opened_by: str = "AutoModelForCausalLM"
    """The class of the Hugging Face library that opens it."""


class Card(BaseModel):
    """How to open a model. All but ``model`` may be left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str
    """A bundled name, a folder, or a hub id such as ``GSAI-ML/LLaDA-8B-Base``."""
    revision: str | None = None
    """Branch, tag or commit on the hub; a commit is the only one that stays."""
    family: str | None = None
    """A name in ``models.families.FAMILIES``, where the configuration alone does not tell it."""
    dtype: DType | None = None
    """Of the weights; None is float32 for models made here, and what the checkpoint says for others."""
    device: str = Field(default="cpu", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    """Where to put the weights, unless whoever opens it says otherwise; ``auto`` spreads them over what there is."""
    quantise: Literal["8bit", "4bit"] | None = None
    """By bitsandbytes, on a GPU."""
    trust_remote_code: bool = False
    """Whether code that lies beside the weights may run."""
    facts: Mapping[str, Any] | None = None
    """The facts of a model of no known family, or those that its family has wrong (see ``models.facts.ModelFacts``)."""
    layout: Layout | None = None
    """The layout of a network of no known architecture."""

    @property
    def stated(self) -> ModelFacts | None:
        """The facts that the card states, whole; raises CardError where it leaves out some."""
        if self.facts is None:
            return None
        if lacking := [name for name in ("objective", "attention", "logit_shift") if name not in self.facts]:
            raise CardError(f"{self.model}: its [facts] lack {', '.join(lacking)}, which must be stated of a model of no known family")
        return ModelFacts(**{"mask_token_id": None, "task": "text", **self.facts})

    @field_validator("facts")
    @classmethod
    def _known(cls, facts: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        names = [field.name for field in fields(ModelFacts)]
        if unknown := [name for name in facts or () if name not in names]:
            raise ValueError(f"{unknown[0]!r} is no fact; choose from {', '.join(names)}")
        return facts


def read_card(path: Path) -> Card:
    """Returns the card that a TOML file holds; a relative ``model`` that is a folder beside the file is that folder.

    Raises:
        CardError: Naming the file and each setting that it cannot have.
    """
    try:
        card = Card.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        beside = path.parent / card.model
        card = card.model_copy(update={"model": str(beside)}) if (beside / "config.json").is_file() else card
        if card.layout is not None and card.stated is not None:
            described(card.layout)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CardError(f"{path} is no TOML: {error}") from None
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg'].lower()}" for one in error.errors())
        raise CardError(f"{path} does not say how to open a model: {wrong}; settings: {', '.join(Card.model_fields)}") from None
    except (TypeError, ValueError) as error:
        raise CardError(f"{path}: {error}") from None
    return card


def described(layout: Layout) -> Architecture:
    """Returns the architecture that a layout describes.

    Raises:
        CardError: On a site that is no ``path:input`` or ``path:output``.
    """
    sites = {}
    for component, place in layout.sites.items():
        path, _, end = place.rpartition(":")
        if not path or end not in ("input", "output"):
            raise CardError(f"the site {component!r} is {place!r}; it must be path:input or path:output")
        if re.findall(r"{.*?}", path) not in ([], ["{layer}"]):
            raise CardError(f"the site {component!r} is {place!r}; in braces it can have {{layer}} alone")
        sites[component] = Site(path, end)  # type: ignore[arg-type]
    if "{layer}" not in sites.get("hook_resid_post", Site("", "output")).path or not layout.readout:
        raise CardError("a layout needs the site hook_resid_post, with {layer} in its path, and a readout of at least one module")

    def network() -> Any:
        import transformers

        found = getattr(transformers, layout.opened_by, None)
        if not hasattr(found, "from_pretrained"):
            raise CardError(f"opened_by is {layout.opened_by!r}; it must be a class of the transformers library that opens models")
        return found

    def build(**_: object) -> Any:
        raise CardError("a network known by its layout alone cannot be made anew")

    return Architecture("described", network, build, sites, "", layout.readout, bridge=None, source="its card")
