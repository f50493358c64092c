"""A causal checkpoint in the layout of a published diffusion family: its tensors, opened as a masked model that is still to be trained.

What others do to their parents before they train them: dLLM's A2D (2602.22661) names another class, DiffuLLaMA (2410.17891) other tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

from models.facts import CONFIG_KEY
from models.families import FAMILIES, Family
from models.opening import TOKENIZER_FILES, card_of, opening, silent_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INDEX = "model.safetensors.index.json"
"""Of a checkpoint in several files: which tensor is in which."""
OWN = (CONFIG_KEY, "auto_map", "is_causal", "transformers_version")
"""What a parent's ``config.json`` says of itself alone."""


class ConvertError(ValueError):
    """A checkpoint that cannot be laid out as a model of a family."""


@dataclass(frozen=True)
class Layout:
    """How a family's checkpoints differ from its parents'."""

    model_type: str
    """Of its ``config.json``."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Its names of tensors, by regular expressions of the parents'; of several that fit, the first."""
    dropped: str = r"(?!)"
    """Tensors that it does not have."""


LAYOUTS: dict[str, Layout] = {
    "a2d-llama": Layout("a2d-llama"),
    "a2d-qwen2": Layout("a2d-qwen2"),
    "a2d-qwen3": Layout("a2d-qwen3"),
    "diffugpt": Layout(
        "gpt2",
        {r"^(?:transformer\.)?wte\.": "embed_tokens.", r"^(?:transformer\.)?(?=h\.|wpe\.|ln_f\.)": "denoise_model."},
        r"\.attn\.(masked_)?bias$",
    ),
}
"""By name in ``models.families.FAMILIES``; a2d after dLLM pipelines/a2d/convert.py, diffugpt after DiffuLLaMA model.py:15."""


def convert(source: str | Path, family: str, out: Path, mask_token: str | None = None) -> int:
    """Returns the mask token of the model it writes: a checkpoint of ``family`` with the tensors and the tokenizer of ``source``.

    Example:
        >>> convert("Qwen/Qwen3-0.6B", "a2d-qwen3", Path("a2d"))  # doctest: +SKIP
        151669

    Args:
        source: A causal model as ``models.load.load`` takes it, or a masked one with the facts of the family.
        family: A name in ``LAYOUTS``.
        out: A folder that is not there, or empty.
        mask_token: The text of its mask token, added to the tokenizer if need be; None is that of the tokenizer, or the family's.

    Raises:
        ConvertError: Where the source is of another network or kind, lacks safetensors or a tokenizer, or has no row for the mask token.
        models.load.ModelError: Where the source cannot be had or read.
    """
    if family not in LAYOUTS:
        raise ConvertError(f"nothing is converted to the family {family!r}; choose from {', '.join(LAYOUTS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConvertError(f"{out} is there already and not empty; choose another folder")
    target, layout = FAMILIES[family], LAYOUTS[family]
    folder = _checked(source, target)
    raw: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = _tokenizer(folder)
    mask = _mask_token(tokenizer, target, mask_token, int(raw["vocab_size"]))
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    _write_tensors(folder, layout, out)
    stated = {name: value for name, value in raw.items() if name not in OWN}
    config = stated | {"model_type": layout.model_type, "architectures": [target.reads[0]], "mask_token_id": mask}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")  # last: it makes the folder a model
    return mask


def _checked(source: str | Path, family: Family) -> Path:
    """Returns the folder of a source that a family can be made of."""
    found = opening(card_of(source))
    kind, facts = found.architecture.model_type, found.facts
    if kind != family.network:
        fit = [name for name in LAYOUTS if FAMILIES[name].network == kind]
        raise ConvertError(
            f"{source} is a {kind}, and {family.name} is made of a {family.network}; it can become: {', '.join(fit) or 'none'}"
        )
    wanted = (family.behaviour.attention, family.behaviour.logit_shift)
    if facts.objective == "masked" and (facts.attention, facts.logit_shift) != wanted:
        raise ConvertError(
            f"{source} is a masked model with {facts.attention} attention and logit_shift {facts.logit_shift}; those of {family.name} have "
            f"{wanted[0]} attention and logit_shift {wanted[1]}"
        )
    if not any(found.folder.glob("model*.safetensors")):
        raise ConvertError(f"{found.folder} holds no safetensors; other files are not read")
    return found.folder


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise ConvertError(f"{folder} has no tokenizer, which a model of text needs; put its tokenizer.json there")
    with silent_transformers():
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return found


def _mask_token(tokenizer: PreTrainedTokenizerBase, family: Family, asked: str | None, rows: int) -> int:
    """Returns the mask token, which the tokenizer has from then on: as asked, its own, the family's by number, or the family's by text."""
    behaviour, known = family.behaviour, tokenizer.get_vocab()
    if asked in known and (asked not in tokenizer.get_added_vocab() or asked in _other_ends(tokenizer)):
        raise ConvertError(f"{asked!r} means something else to the tokenizer already; name a mask token that no text holds")
    has = [text for text in (*behaviour.mask_tokens, tokenizer.mask_token) if text in known]
    if asked is None and not has and behaviour.mask_token_id is not None:
        mask, text = behaviour.mask_token_id, f"number {behaviour.mask_token_id}"
    else:
        text = asked or (*has, *behaviour.mask_tokens)[0]
        tokenizer.add_special_tokens({"mask_token": text})
        mask = tokenizer.get_vocab()[text]
    if mask >= rows:
        raise ConvertError(f"the mask token {text!r} would be token {mask}, and the network has {rows} tokens; name one of those")
    return mask


def _other_ends(tokenizer: PreTrainedTokenizerBase) -> list[str | None]:
    """Returns the special tokens that are no mask."""
    return [tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token]


def _write_tensors(folder: Path, layout: Layout, out: Path) -> None:
    """Writes the tensors file by file, renamed, and the list of which is where."""

    def renamed(name: str) -> str:
        fit = next((pattern for pattern in layout.names if re.search(pattern, name)), None)
        return name if fit is None else re.sub(fit, layout.names[fit], name)

    placed: dict[str, str] = {}
    size = 0
    for path in sorted(folder.glob("model*.safetensors")):
        tensors = {renamed(name): tensor for name, tensor in load_file(path).items() if not re.search(layout.dropped, name)}
        save_file(tensors, out / path.name, metadata={"format": "pt"})
        placed |= dict.fromkeys(tensors, path.name)
        size += sum(tensor.nbytes for tensor in tensors.values())
    if (folder / INDEX).exists():
        index = {"metadata": {"total_size": size}, "weight_map": placed}
        (out / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
