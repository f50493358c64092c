"""Interventions on a run: stop it at any step, edit the canvas or the activations, branch, and go on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.backends import Edit
from models.decoding import Decoding, Stopping
from models.denoise import Canvas, Denoiser, OnStep, StepContext, StepEdits, attributes_of, blank_canvas
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from models.numerals import GREATEST, whole, wholes
from models.prompt import check_tokens
from models.recorder import Record, Recorder, check_point
from models.trajectory import SURGERY, State, Trajectory
from models.trajectory_store import TrajectoryError
from models.turn import PolicyError


@dataclass(frozen=True)
class Patch:
    """Activations of another run, put in place of this one's in the next call."""

    point: HookPoint
    source: Moment
    positions: tuple[int, ...] | None
    """Which positions of the network's activation (token p is predicted at p less the model's logit shift); None is all."""


@dataclass(frozen=True)
class Moment:
    """The state of a run after a step, perhaps changed; ``Trajectory.at`` makes one. Nothing happens before ``resume``."""

    trajectory: Trajectory
    step: int
    edited: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """The tokens changed, by (sample, position)."""
    seed: int | None = None
    """The seed from here on; None is the run's own."""
    patches: tuple[Patch, ...] = ()

    @property
    def tokens(self) -> Int[np.ndarray, "batch pos"]:
        """The canvases, edits made."""
        tokens = self.trajectory.tokens(self.step)
        for place, token in self.edited.items():
            tokens[place] = token
        return tokens

    def edit(self, tokens: Mapping[int, int], *, sample: int | None = None) -> Moment:
        """Returns the moment with other tokens at some positions, in one sample or in all; the mask token takes back what is written.

        Raises:
            TrajectoryError: On a sample or position that is not there, or a token that is no whole number from 0.
        """
        if not isinstance(tokens, Mapping):
            raise TrajectoryError(f"the edit is {tokens!r}; it must be a mapping of positions to tokens, such as {{3: 7}}")
        first = self.trajectory.tokens(0)
        made = {}
        for one in range(len(first)) if sample is None else (_one_of("sample", sample, len(first), "the trajectory"),):
            for position, token in tokens.items():
                place = _one_of("position", position, int((first[one] >= 0).sum()), f"sample {one}")
                made[one, place] = whole(f"the token at position {place}", token, TrajectoryError)
        return replace(self, edited={**self.edited, **made})

    def branch(self, seed: int) -> Moment:
        """Returns the moment with another seed from here on.

        Raises:
            PolicyError: On what is no whole number from 0.
        """
        return replace(self, seed=whole("seed", seed, PolicyError, most=None))

    def patch(self, point: HookPoint, source: Moment, positions: tuple[int, ...] | None = None) -> Moment:
        """Returns the moment whose next call takes its activations at a hook point, at all positions or some, from another moment's.

        ``source`` has as many samples, or one that serves for all; the same model reads its canvas.

        Raises:
            TrajectoryError: On what is no hook point or moment, a position that is not there, or a source of other samples.
        """
        check_point(point)
        if not isinstance(source, Moment):
            raise TrajectoryError(f"the source of a patch is a {type(source).__name__}; it must be a moment, such as trajectory.at(3)")
        mine, theirs = ((moment.tokens >= 0).sum(1) for moment in (self, source))
        if len(theirs) not in (1, len(mine)) or (theirs != mine).any():
            raise TrajectoryError(
                f"a patch takes activations of samples of {theirs.tolist()} positions to samples of {mine.tolist()}; "
                "they must agree, and a single one may serve for all"
            )
        if positions is not None:
            positions = wholes("positions", positions, TrajectoryError)
            outside = [position for position in positions if position >= mine.min()]
            if outside:
                raise TrajectoryError(f"a patch names the position {outside[0]}; the samples have positions 0 to {mine.min() - 1}")
        if source.patches:
            raise TrajectoryError("the source of a patch is itself patched; resume it, and take a moment of what comes of it")
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

        With nothing changed it is the trajectory that was, exactly, up to and with the surgery done at this step; interventions on
        activations are not made again. ``record`` is what the steps to come keep; what they do not keep, and the earlier steps did, is
        NaN there. Channels are read by a hooked network, which rounds otherwise than the bare one: with others than the run had, what
        is said of the steps to come may differ by some 1e-6.

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
        known = {one.name for one in fields(Decoding)}
        if wrong := sorted(set(changes) - known):
            raise PolicyError(f"a run cannot be resumed with another {wrong[0]!r}; choose from {', '.join(sorted(known))}")
        if self.seed is not None:
            changes = {"seed": self.seed, **changes}
        before = self._decoding()
        if "policy" in changes:
            changes = {"options": {}, **changes}
        elif isinstance(changes.get("options"), Mapping):
            changes["options"] = {**before.options, **changes["options"]}
        decoding = replace(before, **changes)
        mask = cast("int", model.facts.mask_token_id)
        tokens = torch.from_numpy(self.tokens).to(model.device)
        check_tokens(model, tokens)
        for patch in self.patches:
            check_tokens(model, torch.from_numpy(patch.source.tokens))
        denoiser = Denoiser(
            model=model,
            decoding=decoding,
            canvas=self._canvas(tokens, mask),
            sample_ids=self.trajectory.data["sample"].values.tolist(),
            mask_token_id=mask,
            record=record or Record(),
            edits=(*(self._patched(model, patch) for patch in self.patches), *((edits,) if edits else ())),
            calls=self.step,
        )
        denoiser.reopen(anew=decoding.block_length != before.block_length)
        surgery = self._surgery(before, decoding, steered=edits is not None)
        attributes = {**attributes_of(model, decoding), **({SURGERY: json.dumps(surgery)} if surgery else {})}
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
        by_hand = {entry["step"]: entry.get("edited", []) for entry in self.trajectory.surgery}
        for step in range(1, self.step + 1):
            own = np.where(token[:, step] == proposal[:, step], confidence[:, step], np.nan)
            found = np.where(token[:, step] == token[:, step - 1], found, own)
            for sample, position, _ in by_hand.get(step, ()):
                found[sample, position] = np.nan
        return np.where(token[:, self.step] == self.tokens, found, np.nan)

    def _patched(self, model: LanguageModel, patch: Patch) -> StepEdits:
        """Returns the edits of the next call that one patch makes."""

        def edits(context: StepContext) -> Mapping[HookPoint, Edit]:
            return {patch.point: _replacing(model, patch, context)} if context.step == self.step + 1 else {}

        return edits

    def _decoding(self) -> Decoding:
        """Returns the decoding in force at this step: the trajectory's, less what was changed after it."""
        decoding = self.trajectory.decoding
        for entry in reversed(self.trajectory.surgery):
            if entry["step"] > self.step:
                was = {name: values[0] for name, values in entry.get("changed", {}).items()}
                if was.get("stop"):
                    was["stop"] = Stopping(**was["stop"])
                decoding = replace(decoding, **was)
        return decoding

    def _surgery(self, before: Decoding, after: Decoding, *, steered: bool) -> list[dict[str, Any]]:
        """Returns the list of what was done up to this step, and now."""
        past = [entry for entry in self.trajectory.surgery if entry["step"] <= self.step]
        lost = ("patched", "steered")  # at this very step they acted on the next call, which is made anew
        past = [{name: one for name, one in entry.items() if entry["step"] < self.step or name not in lost} for entry in past]
        tokens = self.trajectory.tokens(self.step)
        one, other = asdict(before), asdict(after)
        patched = [{"point": str(one.point), "positions": one.positions, "from_step": one.source.step} for one in self.patches]
        done = {
            "edited": [[*place, token] for place, token in sorted(self.edited.items()) if tokens[place] != token],
            "patched": patched,
            "changed": {name: [one[name], other[name]] for name in one if one[name] != other[name]},
            "steered": steered,
        }
        now = {"step": self.step, **{name: value for name, value in done.items() if value}}
        return [entry for entry in (*past, now) if len(entry) > 1]


def _one_of(name: str, value: object, n: int, whose: str) -> int:
    """Returns a whole number from 0 to below ``n``."""
    found = whole(name, value, TrajectoryError, least=-GREATEST)
    if not 0 <= found < n:
        raise TrajectoryError(f"there is no {name} {found}; {whose} has {name}s 0 to {n - 1}")
    return found


def _replacing(model: LanguageModel, patch: Patch, context: StepContext) -> Edit:
    """Returns the edit that puts the source's activations in place of those of the samples in a call."""
    length = context.tokens.shape[1]
    source = torch.from_numpy(patch.source.tokens).to(context.tokens.device)
    canvas = (source.expand(int(context.rows.max()) + 1, -1) if len(source) == 1 else source)[context.rows, :length]
    _, cache = model.run_with_cache(canvas, [patch.point])
    places = range(length) if patch.positions is None else patch.positions
    if patch.point.by_head and patch.positions is not None:
        raise TrajectoryError(f"{patch.point} is of pairs of positions by head: it is patched whole, without positions")

    def edit(activation: Tensor) -> Tensor:
        if patch.point.by_head:
            return cache[patch.point].to(activation.dtype)
        edited = activation.clone()
        edited[:, list(places)] = cache[patch.point][:, list(places)].to(edited.dtype)
        return edited

    return edit
