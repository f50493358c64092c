"""Interventions on a run: stop it at any step, edit the canvas or the activations, branch, and go on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.backends import Edit
from models.denoise import Canvas, Denoiser, OnStep, StepContext, StepEdits, attributes_of, blank_canvas
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from models.prompt import PromptError, check_tokens
from models.recorder import Record, Recorder
from models.trajectory import State, Trajectory, TrajectoryError

SURGERY = "surgery"
"""The attribute that lists, as JSON, what was done to a run on its way."""


@dataclass(frozen=True)
class Patch:
    """Activations of another run, put in place of this one's in the next call."""

    point: HookPoint
    source: Moment
    positions: tuple[int, ...] | None
    """Which positions of the network's activation; None is all."""


@dataclass(frozen=True)
class Moment:
    """The state of a run after a step, perhaps changed; ``Trajectory.at`` makes one. Nothing happens before ``resume``."""

    trajectory: Trajectory
    step: int
    edits: Mapping[tuple[int, int], int] | None = None
    """The tokens changed, by (sample, position)."""
    seed: int | None = None
    """The seed from here on; None is the run's own."""
    patches: tuple[Patch, ...] = ()

    @property
    def tokens(self) -> Int[np.ndarray, "batch pos"]:
        """The canvases, edits made."""
        tokens = self.trajectory.tokens(self.step)
        for place, token in (self.edits or {}).items():
            tokens[place] = token
        return tokens

    def edit(self, tokens: Mapping[int, int], *, sample: int | None = None) -> Moment:
        """Returns the moment with other tokens at some positions, in one sample or in all; the mask token takes back what is written.

        Raises:
            TrajectoryError: On a sample or position that is not there, or a prompt position masked after the start.
        """
        n_samples, n_positions = self.trajectory.tokens(0).shape
        if sample is not None and not 0 <= sample < n_samples:
            raise TrajectoryError(f"there is no sample {sample}; the trajectory has samples 0 to {n_samples - 1}")
        for position in tokens:
            if not 0 <= position < n_positions:
                raise TrajectoryError(f"there is no position {position}; the trajectory has positions 0 to {n_positions - 1}")
        samples = range(n_samples) if sample is None else (sample,)
        made = {(one, position): token for one in samples for position, token in tokens.items()}
        return replace(self, edits={**(self.edits or {}), **made})

    def branch(self, seed: int) -> Moment:
        """Returns the moment with another seed from here on."""
        return replace(self, seed=seed)

    def patch(self, point: HookPoint, source: Moment, positions: tuple[int, ...] | None = None) -> Moment:
        """Returns the moment whose next call takes its activations at a hook point, at all positions or some, from another moment's.

        ``source`` has as many samples, or one that serves for all; the same model reads its canvas.
        """
        mine, others = len(self.tokens), len(source.tokens)
        if others not in (1, mine) or source.tokens.shape[1] != self.tokens.shape[1]:
            raise TrajectoryError(
                f"a patch takes activations of {source.tokens.shape} to {self.tokens.shape} (sample, position); "
                "positions must agree, and samples too unless the source has one"
            )
        return replace(self, patches=(*self.patches, Patch(point, source, positions)))

    def resume(
        self,
        model: LanguageModel,
        *,
        record: Record | None = None,
        edits: StepEdits | None = None,
        on_step: OnStep = lambda done, left: None,
        **changes: Any,
    ) -> Trajectory:
        """Returns the whole trajectory: the steps so far, and those that follow from here.

        With nothing changed it is the trajectory that was, exactly. ``record`` is what the steps to come keep; what they do not keep, and
        the earlier steps did, is NaN there.

        Args:
            model: The model of the run.
            record: As in ``denoise``.
            edits: As in ``denoise``.
            on_step: As in ``denoise``.
            changes: Fields of ``Decoding`` to go on with; a new ``policy`` has its default options unless ``options`` are given.

        Raises:
            TrajectoryError: Where the model is another, or the trajectory was not made by ``denoise``.
            PromptError: On a token outside the vocabulary.
            PolicyError: As in ``denoise``.
        """
        if model.fingerprint != self.trajectory.fingerprint:
            raise TrajectoryError(
                f"the trajectory is of {self.trajectory.model} ({self.trajectory.fingerprint}), not of {model.name} ({model.fingerprint})"
            )
        if self.seed is not None:
            changes = {"seed": self.seed, **changes}
        if "policy" in changes:
            changes = {"options": {}, **changes}
        decoding = replace(self.trajectory.decoding, **changes)
        mask = model.facts.mask_token_id
        if mask is None:
            raise PromptError(f"{model.name} is a causal model: it has no mask token to denoise")
        tokens = torch.from_numpy(self.tokens).to(model.device)
        check_tokens(model, tokens)
        denoiser = Denoiser(
            model=model,
            decoding=decoding,
            canvas=self._canvas(tokens, mask),
            sample_ids=self.trajectory.data["sample"].values.tolist(),
            mask_token_id=mask,
            record=record or Record(),
            edits=(*((self._patched(model),) if self.patches else ()), *((edits,) if edits else ())),
            calls=self.step,
        )
        denoiser.reopen()
        attributes = {**attributes_of(model, decoding), **self._surgery(changes)}
        initial = tokens if self.step == 0 else torch.from_numpy(self.trajectory.tokens(0))

        def earlier(recorder: Recorder) -> None:
            recorder.copy_from(self.trajectory, self.step, self.tokens)

        return denoiser.run(earlier, initial.clone(), attributes, on_step)

    def _canvas(self, tokens: Int[Tensor, "batch pos"], mask_token_id: int) -> Canvas:
        """Returns the state of the run, as it can be had from its record."""
        data = self.trajectory.data
        prompt = torch.from_numpy(np.isin(data["state"].isel(step=0).values, (State.PROMPT, State.PADDING))).to(tokens.device)
        unwritten = prompt & (tokens == mask_token_id)
        if self.step and unwritten.any():
            sample, position = torch.nonzero(unwritten)[0].tolist()
            raise TrajectoryError(f"position {position} of sample {sample} is prompt; it can be masked at step 0 only, not at {self.step}")
        canvas = blank_canvas(tokens, ~prompt | unwritten)
        for name in ("block", "clock", "stable"):
            setattr(canvas, name, torch.from_numpy(data[name].isel(step=self.step).values.astype(np.int64)).to(tokens.device))
        begun = canvas.clock[:, None] > 0
        proposal = torch.from_numpy(data["proposal"].isel(step=self.step).values.astype(np.int64)).to(tokens.device)
        canvas.proposal = torch.where(begun, proposal, -1)
        canvas.written_with = torch.from_numpy(self._written_with()).to(tokens.device)
        return canvas

    def _written_with(self) -> Float[np.ndarray, "batch pos"]:
        """Returns the confidence each token had when it was written; NaN where it was not proposed then, or was edited."""
        data = self.trajectory.data.isel(step=slice(0, self.step + 1))
        token, proposal, confidence = (data[name].values for name in ("token", "proposal", "confidence"))
        found = np.full(token[:, 0].shape, np.nan, np.float32)
        for step in range(1, self.step + 1):
            own = np.where(token[:, step] == proposal[:, step], confidence[:, step], np.nan)
            found = np.where(token[:, step] == token[:, step - 1], found, own)
        return np.where(token[:, self.step] == self.tokens, found, np.nan)

    def _patched(self, model: LanguageModel) -> StepEdits:
        """Returns the edits of the next call."""

        def edits(context: StepContext) -> Mapping[HookPoint, Edit]:
            if context.step != self.step + 1:
                return {}
            return {patch.point: _replacing(model, patch, context) for patch in self.patches}

        return edits

    def _surgery(self, changes: Mapping[str, Any]) -> dict[str, str]:
        """Returns the list of what was done so far, if anything was."""
        before = self.trajectory.tokens(self.step)
        done: dict[str, Any] = {}
        changed = self.edits or {}
        if kept := [[*place, token] for place, token in sorted(changed.items()) if before[place] != token]:
            done["edited"] = kept
        if self.patches:
            done["patched"] = [{"point": str(one.point), "positions": one.positions, "from_step": one.source.step} for one in self.patches]
        own = self.trajectory.decoding
        if told := {name: value for name, value in changes.items() if name != "options" and getattr(own, name) != value}:
            done["changed"] = told
        past = json.loads(self.trajectory.data.attrs.get(SURGERY, "[]"))
        return {SURGERY: json.dumps([*past, {"step": self.step, **done}])} if done else {SURGERY: json.dumps(past)} if past else {}


def _replacing(model: LanguageModel, patch: Patch, context: StepContext) -> Edit:
    """Returns the edit that puts the source's activations in place of those of the samples in a call."""
    length = context.tokens.shape[1]
    source = torch.from_numpy(patch.source.tokens).to(context.tokens.device)
    canvas = (source.expand(int(context.rows.max()) + 1, -1) if len(source) == 1 else source)[context.rows, :length]
    _, cache = model.run_with_cache(canvas, [patch.point])
    places = range(length) if patch.positions is None else patch.positions

    def edit(activation: Tensor) -> Tensor:
        edited = activation.clone()
        edited[:, list(places)] = cache[patch.point][:, list(places)].to(edited.dtype)
        return edited

    return edit
