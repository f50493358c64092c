"""Loads denoising traces, our own and those of other tools: Prophet's files, and token histories as dLLM's samplers return them.

Foreign files are read as tensors and plain values only; code that a file holds is never run. What they do not say is absent:
confidences are NaN, model and task are unknown unless told.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.recorder import Recorder
from models.trajectory import Trajectory
from models.trajectory_store import TrajectoryError

LLADA_MASK_TOKEN_ID = 126336
"""The mask token of LLaDA, which all public files of Prophet's are of; they do not say it."""
UNKNOWN = "unknown"


def load_trace(path: Path | str, *, mask_token_id: int | None = None, model: str | None = None, task: str | None = None) -> Trajectory:
    """Returns the trajectory at ``path``, whichever tool wrote it.

    It may be a Zarr folder of ours; a file of Prophet's (2508.19982), whose positions are the generated ones, since it does not hold the
    prompt; or token histories in a .pt, .npz or .safetensors file: ``histories`` (a list of canvases, or one array [step, batch,
    pos]), or an array a step, numbered by the end of its name. ``mask_token_id`` may stand in the file beside them.

    Args:
        path: Folder or file.
        mask_token_id: Of a foreign trace; None is what its file says, or LLaDA's in a file of Prophet's.
        model: Name of the model of a foreign trace; None is "unknown".
        task: Name of the task of a foreign trace; None is unknown.

    Raises:
        TrajectoryError: Where there is no trace, it is cut short, holds code, or is of another shape or a newer format; or where ours,
            which says these itself, is given a mask token, model or task.
    """
    path = Path(path)
    if path.is_dir():
        told = [name for name, value in {"mask_token_id": mask_token_id, "model": model, "task": task}.items() if value is not None]
        if told:
            raise TrajectoryError(f"{path} says its {', '.join(told)} itself; only foreign traces are told")
        return Trajectory.load(path)
    if path.suffix not in _READERS:
        raise TrajectoryError(f"{path} is no trace; one is a Zarr folder as `denoscope trace` writes it, or a {', '.join(_READERS)} file")
    if not path.is_file():
        raise TrajectoryError(f"there is no file {path}")
    try:
        content = _READERS[path.suffix](path)
        if "x0_history" in content:
            return _from_prophet(content, LLADA_MASK_TOKEN_ID if mask_token_id is None else mask_token_id, model or UNKNOWN, task or "")
        mask = np.asarray(content.get("mask_token_id") if mask_token_id is None else mask_token_id)
        if mask.size != 1 or not np.issubdtype(mask.dtype, np.integer):
            raise TrajectoryError("it does not say which token is the mask; pass mask_token_id")
        return from_token_histories(_histories(content), int(mask.item()), model=model or UNKNOWN, task=task or "")
    except TrajectoryError as error:
        raise TrajectoryError(f"{path} cannot be read: {error}") from None


def from_token_histories(
    histories: Sequence[Tensor | np.ndarray], mask_token_id: int, *, model: str = UNKNOWN, task: str = "", policy: str = "dllm"
) -> Trajectory:
    """Returns the trajectory of a run of which only the canvases are known, such as ``BaseSamplerOutput.histories`` of dLLM.

    The run may write what is masked in the first canvas. What a call said is known only where it was written. Canvases may grow from
    block to block (as those of block diffusion): what was not yet there counts as masked.

    Args:
        histories: Canvases [batch, pos] of token ids; the first stands before the first network call, each other one after one call.
        mask_token_id: The mask token.
        model: Name of the model.
        task: Name of the task, if it is one of ours.
        policy: Name of what wrote the canvases.

    Raises:
        TrajectoryError: Where the canvases are no such sequence, or the first holds no mask token.
    """
    tokens = _canvases(histories, mask_token_id)
    writable = tokens[0] == mask_token_id
    if not writable.any():
        span = f"{tokens[0].min()} to {tokens[0].max()}"
        raise TrajectoryError(f"the mask token {mask_token_id} is not in the first canvas (tokens {span}), so nothing could be written")
    changed = np.argwhere((tokens != tokens[0]) & ~writable)
    if len(changed):
        step, sample, position = changed[0]
        raise TrajectoryError(f"step {step} changes position {position} of sample {sample}, not masked at first; a prompt must stay")
    written = np.diff(tokens, axis=0, prepend=tokens[:1]) != 0
    said = np.where(written & (tokens != mask_token_id), tokens, -1)
    return _recorded(tokens, said.astype(np.int32), mask_token_id, {"model": model, "task": task, "policy": policy})


def _recorded(
    tokens: Int[np.ndarray, "step batch pos"], said: Int[np.ndarray, "step batch pos"], mask_token_id: int, names: Mapping[str, str]
) -> Trajectory:
    recorder = Recorder(tokens[0], tokens[0] == mask_token_id, mask_token_id)
    for canvas, proposal in zip(tokens[1:], said[1:], strict=True):
        recorder.add(np.arange(len(canvas)), canvas, {"proposal": proposal})
    return recorder.finish({"fingerprint": "", "options": "{}", "seed": 0, **names})


def _canvases(histories: Sequence[Tensor | np.ndarray], mask_token_id: int) -> Int[np.ndarray, "step batch pos"]:
    """Returns the canvases as one array, those that are narrower than the last filled up with masks."""
    canvases = [np.asarray(torch.as_tensor(canvas).cpu()) for canvas in histories]
    if len(canvases) < 2:
        raise TrajectoryError(f"its histories hold {len(canvases)} canvas(es); a run has one before its first call and one after each")
    for step, canvas in enumerate(canvases):
        if canvas.ndim != 2 or not canvas.size or not np.issubdtype(canvas.dtype, np.integer):
            raise TrajectoryError(f"canvas {step} is {canvas.dtype} {canvas.shape}; it must be integer token ids [batch, pos]")
        before = canvases[max(step - 1, 0)].shape
        if len(canvas) != before[0] or canvas.shape[1] < before[1]:
            raise TrajectoryError(f"canvas {step} is {canvas.shape} after {before}; a run has one batch, and may only grow to the right")
    width = canvases[-1].shape[1]
    grown = [np.pad(canvas, ((0, 0), (0, width - canvas.shape[1])), constant_values=mask_token_id) for canvas in canvases]
    return np.stack(grown).astype(np.int32)


def _from_prophet(trace: Mapping[str, Any], mask_token_id: int, model: str, task: str) -> Trajectory:
    """Returns the trajectory of a file that ``collect_decoding_traj_gsm8k.py`` of Prophet saved.

    ``x0_history`` holds a [step, pos] tensor of raw predictions a block, ``true_indices_history`` a list of [n, 2] tensors (row and
    position committed) a block. Positions never committed were forced from the start; without ``gen_ids`` their tokens are unknown (-1).
    """
    said, committed, final = _prophet_steps(trace)
    width = said.shape[1]
    masked = committed.any(axis=0) | (final == mask_token_id)
    tokens = [np.where(masked, mask_token_id, final)]
    for proposal, new in zip(said, committed, strict=True):
        tokens.append(np.where(new & (tokens[-1] == mask_token_id), proposal, tokens[-1]))
    if "gen_ids" in trace and (tokens[-1] != final).any():
        place = int((tokens[-1] != final).argmax())
        raise TrajectoryError(f"its steps write {tokens[-1][place]} at position {place}, and gen_ids has {final[place]}; it is damaged")
    proposals = np.concatenate([np.full((1, width), -1, np.int32), said])
    names = {"model": model, "task": task, "policy": "prophet"}
    return _recorded(np.stack(tokens)[:, None], proposals[:, None], mask_token_id, names)


def _prophet_steps(
    trace: Mapping[str, Any],
) -> tuple[Int[np.ndarray, "step pos"], Bool[np.ndarray, "step pos"], Int[np.ndarray, " pos"]]:
    """Returns what each step predicted after the prompt and where it committed, and the tokens of the end, -1 where they are not said."""
    try:
        said = np.concatenate([np.asarray(block) for block in trace["x0_history"]])
        pairs = [np.asarray(step).reshape(-1, 2) for block in trace["true_indices_history"] for step in block]
        places = [step[:, 1].astype(np.intp) for step in pairs]
        start = int(trace.get("prompt_token_len", min(np.concatenate(places))))
        final = np.array(trace.get("gen_ids", [-1] * (said.shape[1] - start)), np.int32)
    except (KeyError, IndexError, ValueError, TypeError, OverflowError) as error:
        rule = "x0_history must be [step, pos] a block, and true_indices_history [n, 2] a step of a block"
        raise TrajectoryError(f"{rule} ({_line(error)})") from None
    if said.ndim != 2 or not np.issubdtype(said.dtype, np.integer) or any(step[:, 0].any() for step in pairs):
        raise TrajectoryError(f"x0_history is {said.dtype} {said.shape}; it must be the token ids [step, pos] of one sample")
    if len(places) != len(said):
        raise TrajectoryError(f"it is cut short: x0_history has {len(said)} steps, true_indices_history {len(places)}")
    width = said.shape[1]
    if not 0 <= start < width or final.shape != (width - start,):
        raise TrajectoryError(f"gen_ids have shape {final.shape}; x0_history has {width} positions with a prompt of {start}")
    committed = np.zeros(said.shape, bool)
    for step, place in zip(committed, places, strict=True):
        if ((place < start) | (place >= width)).any():
            raise TrajectoryError(f"positions {place.tolist()} are committed; they must be after the prompt, {start} to {width - 1}")
        step[place] = True
    return said[:, start:].astype(np.int32), committed[:, start:], final


def _histories(content: Mapping[str, Any]) -> list[Tensor]:
    """Returns the canvases of a file, in the order of their numbers where each has a name of its own."""
    if "histories" in content:
        try:
            return [torch.as_tensor(canvas) for canvas in content["histories"]]
        except (ValueError, TypeError, RuntimeError) as error:
            raise TrajectoryError(f"its histories are no canvases of token ids ({_line(error)})") from None
    canvases = [name for name in content if name != "mask_token_id"]
    numbers = {name: int(number.group()) for name in canvases if (number := re.search(r"\d+$", name))}
    if not canvases or len(numbers) < len(canvases):
        found = ", ".join(canvases[:8]) or "nothing"
        raise TrajectoryError(f"it holds {found}; a trace has histories, or x0_history and true_indices_history, or numbered canvases")
    return [torch.as_tensor(content[name]) for name in sorted(numbers, key=numbers.__getitem__)]


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


def _read_torch(path: Path) -> Mapping[str, Any]:
    if not _is_zip(path):
        raise TrajectoryError("it is cut short, or no file of torch.save")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 (so it runs no code)
    except Exception as error:  # what is damaged makes an unpickler raise anything
        code = re.search(r"GLOBAL (\S+)", str(error))
        if not code:
            raise TrajectoryError(f"it is damaged ({_line(error)})") from None
        rest = "save tensors, lists and dicts alone (of a dLLM output its `histories`)"
        raise TrajectoryError(f"it holds code ({code.group(1)}), which is never run; {rest}") from None
    if isinstance(content, dict):
        return {str(name): value for name, value in content.items()}
    if isinstance(content, list | tuple | Tensor):
        return {"histories": content}
    raise TrajectoryError(f"it holds a {type(content).__name__}; a trace is a list of canvases or a dict")


def _read_npz(path: Path) -> Mapping[str, Any]:
    if not _is_zip(path):
        raise TrajectoryError("it is cut short, or no file of numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # as above
        raise TrajectoryError(f"it is damaged, or holds objects, which may hide code and are never read ({_line(error)})") from None


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise TrajectoryError(f"it is cut short, or no safetensors file ({_line(error)})") from None


_READERS = {".pt": _read_torch, ".pth": _read_torch, ".npz": _read_npz, ".safetensors": _read_safetensors}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
