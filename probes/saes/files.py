"""SAEs on disk: SAELens' folders, and the files of Qwen-Scope."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from probes.artefact import check_fitted_on
from probes.errors import ProbeError
from probes.saes.folding import built, centring_folded

if TYPE_CHECKING:
    from sae_lens import SAE

CONFIG_NAME, WEIGHTS_NAME = "cfg.json", "sae_weights.safetensors"


def save_sae(sae: SAE[Any], folder: Path) -> None:
    """Writes SAELens' ``cfg.json`` and ``sae_weights.safetensors``, which ``sae_lens.SAE.load_from_disk`` reads."""
    sae.save_model(folder)


def load_sae(path: Path, fitted_on: str | None = None, *, k: int | None = None) -> SAE[Any]:
    """Returns the SAE in a SAELens folder or in a Qwen-Scope file (``layer{n}.sae.pt``), with frozen weights.

    Args:
        path: The folder or the file.
        fitted_on: Fingerprint of what it is to be used on; None accepts any.
        k: Active latents of a Qwen-Scope SAE; None reads it from the name of a folder around the file (``...-L0_50``).

    Raises:
        ProbeError: Where there is no whole SAE, one of unknown architecture, or one fitted on something else (both are named).
    """
    if path.is_file():
        sae = _from_qwen_scope(path, k)
    elif k is not None:
        raise ProbeError(f"k is {k} for the folder {path}; a SAELens folder states its own (k is for files such as layer0.sae.pt)")
    else:
        sae = _from_folder(path)
    found = sae.cfg.metadata.fitted_on
    check_fitted_on("" if found is None else str(found), fitted_on, path)
    return centring_folded(sae.requires_grad_(False).eval())


def _from_folder(folder: Path) -> SAE[Any]:
    missing = [name for name in (CONFIG_NAME, WEIGHTS_NAME) if not (folder / name).is_file()]
    if missing:
        raise ProbeError(f"{folder} lacks {' and '.join(missing)}; a SAELens folder holds both")
    from sae_lens import SAE

    _check_config(folder)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="\\s*This SAE has non-empty model_from_pretrained_kwargs")  # see centring_folded
            return SAE.load_from_disk(folder)
    except (RuntimeError, KeyError, TypeError) as error:
        line = " ".join(str(error).split())
        raise ProbeError(f"{folder} holds no whole SAE ({type(error).__name__}: {line}); its weights must fit its cfg.json") from None


def _check_config(folder: Path) -> None:
    """Raises ProbeError where a folder's configuration cannot be used, or is not that of its weights."""
    from sae_lens.registry import SAE_CLASS_REGISTRY

    try:
        config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        with safe_open(folder / WEIGHTS_NAME, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (ValueError, OSError, SafetensorError) as error:
        raise ProbeError(f"{folder} holds no readable SAE ({error}); SAELens writes {CONFIG_NAME} and {WEIGHTS_NAME}") from None
    architecture = config.get("architecture") if isinstance(config, dict) else None
    if architecture not in SAE_CLASS_REGISTRY:
        raise ProbeError(f"{folder} is of architecture {architecture!r}; known are {', '.join(sorted(SAE_CLASS_REGISTRY))}")
    if config.get("normalize_activations") == "expected_average_only_in":
        raise ProbeError(f"{folder} scales activations by a factor that it does not hold; fold it with SAELens before saving")
    stated = (config.get("d_sae"), config.get("d_in"))
    if shapes.get("W_dec", stated) != stated:
        raise ProbeError(f"{folder} states d_sae, d_in of {stated} and its decoder is {shapes['W_dec']}; they must be the same")


def _from_qwen_scope(path: Path, k: int | None) -> SAE[Any]:
    """Returns a TopK SAE of Qwen-Scope (arXiv:2605.11887), of the residual stream after a layer.

    By the cards of Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_50 and its 13 siblings a file holds W_enc [d_sae, d_in], W_dec [d_in, d_sae], b_enc
    and b_dec, and its latents are the k largest of W_enc x + b_enc: of raw activations, from which b_dec is not subtracted. SAELens sets
    those of the k that are negative to 0; the card keeps them.
    """
    content = _read_torch(path)
    weights = _oriented({name: content[name].float() for name in ("W_enc", "W_dec", "b_enc", "b_dec")}, path)
    d_sae, d_in = weights["W_dec"].shape
    named = re.findall(r"L0_(\d+)", str(path.resolve()))
    if k is None and not named:
        raise ProbeError(f"{path} does not say how many latents are active, nor does a folder around it (...-L0_50); give k")
    k = int(named[-1]) if k is None else k
    if not 1 <= k <= d_sae:
        raise ProbeError(f"k is {k}; it must lie in 1 to d_sae, {d_sae}")
    layer = re.fullmatch(r"layer(\d+)\.sae\.pt", path.name)
    metadata = {"hook_name": f"blocks.{layer.group(1)}.hook_resid_post"} if layer else {}
    config = {"architecture": "topk", "d_in": d_in, "d_sae": d_sae, "k": k, "apply_b_dec_to_input": False, "metadata": metadata}
    return built(config, weights)


def _oriented(weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Returns the weights with W_enc [d_in, d_sae] and W_dec [d_sae, d_in], whichever way round each was."""
    shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in weights.items())
    if weights["b_enc"].ndim != 1 or weights["b_dec"].ndim != 1 or weights["b_enc"].shape == weights["b_dec"].shape:
        raise ProbeError(f"{path} has {shapes}; b_enc [d_sae] and b_dec [d_in], of two lengths, must tell which way round the others are")
    d_sae, d_in = len(weights["b_enc"]), len(weights["b_dec"])
    for name, shape in (("W_enc", (d_in, d_sae)), ("W_dec", (d_sae, d_in))):
        if tuple(weights[name].shape) == shape[::-1]:
            weights[name] = weights[name].T.contiguous()
        if tuple(weights[name].shape) != shape:
            raise ProbeError(f"{path} has {shapes}; W_enc must be [d_sae, d_in] and W_dec [d_in, d_sae]")
    return weights


def _read_torch(path: Path) -> dict[str, Tensor]:
    """Returns the four tensors of a file of ``torch.save``, read so that it runs no code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 (so it runs no code)
    except Exception as error:  # what is damaged makes an unpickler raise anything
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            raise ProbeError(f"{path} holds code ({code.group(1)}), which is never run; save its four tensors alone") from None
        raise ProbeError(f"{path} is damaged, or no file of torch.save ({type(error).__name__})") from None
    names = ("W_enc", "W_dec", "b_enc", "b_dec")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), Tensor) for name in names):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ProbeError(f"{path} holds {found}; a Qwen-Scope SAE is the tensors {', '.join(names)}")
    return content
