"""SAEs that others have published: files and folders that were fetched, and the releases in SAELens' registry."""

from __future__ import annotations

import difflib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probes.errors import ProbeError
from probes.saes.files import load_sae
from probes.saes.folding import centring_folded

if TYPE_CHECKING:
    from sae_lens import SAE

QWEN_SCOPE = ".sae.pt"
"""How the names of Qwen-Scope's files end."""


def load_public_sae(
    source: str | Path, sae_id: str | None = None, *, d_model: int | None = None, k: int | None = None, fitted_on: str | None = None
) -> SAE[Any]:
    """Returns a published SAE that reads and writes raw activations, with frozen weights; its metadata name its hook point.

    ``load_public_sae("SAE-Res-Qwen3-1.7B-Base-W32K-L0_50", "layer14")`` reads a fetched folder, and with
    ``"qwen-scope-3-1.7b-base-w32k-l50"`` in its place the release of that name, from the hub or its cache on this machine.

    Args:
        source: A SAELens folder, a Qwen-Scope file, a folder of either, or the name of a release in SAELens' registry.
        sae_id: Which SAE of a folder of several, or of a release; the registry's ids are ``layer14`` for Qwen-Scope.
        d_model: Width of the activations that it is to read; None accepts any.
        k: Active latents of a Qwen-Scope SAE whose folder does not name them.
        fitted_on: Fingerprint of what it is said to be of, which no public SAE states: written into its metadata, for ``save_sae``.

    Raises:
        ProbeError: Where there is no such SAE, it cannot be fetched, or it is of another width.
    """
    path = Path(source)
    if path.exists():
        sae = load_sae(_chosen(path, sae_id), k=k)
    elif sae_id is None:
        raise ProbeError(f"{source} is no file or folder; of a release in SAELens' registry give the id of an SAE too")
    elif k is not None:
        raise ProbeError(f"k is {k} for the release {source}; a release states its own")
    else:
        sae = _from_registry(str(source), sae_id)
    if d_model not in (None, sae.cfg.d_in):
        raise ProbeError(f"{source} reads activations of width {sae.cfg.d_in}; those of the model are {d_model} wide")
    if fitted_on is not None:
        sae.cfg.metadata.fitted_on = fitted_on
    return sae


def _chosen(path: Path, sae_id: str | None) -> Path:
    """Returns the file or folder of one SAE in a folder of several; a path to a single one is itself."""
    if path.is_file() or (path / "cfg.json").is_file():
        if sae_id is not None:
            raise ProbeError(f"{path} is one SAE; it has none of the id {sae_id!r}")
        return path
    files = {file.name.removesuffix(QWEN_SCOPE): file for file in path.glob(f"*{QWEN_SCOPE}")}
    found = {config.parent.relative_to(path).as_posix(): config.parent for config in path.rglob("cfg.json")} | files
    if sae_id not in found:
        raise ProbeError(f"{path} holds no SAE of the id {sae_id!r}; {_near(sae_id or '', found)}")
    return found[sae_id]


def _from_registry(release: str, sae_id: str) -> SAE[Any]:
    """Returns an SAE of a release that SAELens knows; files of Qwen-Scope are read here, where nothing in them can run."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError
    from sae_lens import SAE
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    releases = get_pretrained_saes_directory()
    if release not in releases:
        raise ProbeError(f"{release!r} is no file, folder or release in SAELens' registry; {_near(release, releases)}")
    entry = releases[release]
    if sae_id not in entry.saes_map:
        raise ProbeError(f"the release {release} has no SAE {sae_id!r}; {_near(sae_id, entry.saes_map)}")
    try:
        if entry.conversion_func == "qwen_scope":
            return load_sae(Path(hf_hub_download(entry.repo_id, entry.saes_map[sae_id])))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it says of activations is put right below
            sae = SAE.from_pretrained(release, sae_id)
    except (OSError, EntryNotFoundError) as error:
        line = " ".join(str(error).split())[:120]
        raise ProbeError(
            f"{entry.saes_map[sae_id]} of {entry.repo_id} is neither in the cache of the hub on this machine nor within reach ({line}); "
            f"run `hf download {entry.repo_id}` where there is a network, and give that folder"
        ) from None
    if sae.cfg.normalize_activations == "expected_average_only_in":
        raise ProbeError(f"{sae_id} of {release} scales activations by a factor that SAELens does not know; it cannot read raw ones")
    return centring_folded(sae.requires_grad_(False).eval())


def _near(asked: str, names: Any) -> str:
    """Returns what there is of nearly that name."""
    near = difflib.get_close_matches(asked, names, n=3, cutoff=0.0) or ["none"]
    return f"of {len(names)} the nearest are {', '.join(near)}"
