"""Denoising: one loop that runs any policy, from any state, and records what happened.

The loop owns the canvas, the blocks, each sample's clock and its random numbers; ``models.unmasking`` decides, ``models.recorder`` keeps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from models.backends import Edit
from models.chance import CallNoise, drawn
from models.decoding import Decoding, stated
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from models.prompt import PromptError, check_prompts, identities, padded
from models.recorder import Record, Recorder, capture, forms
from models.trajectory import SURGERY, Trajectory
from models.trajectory_store import CLOCKS, TrajectoryError, TrajectoryStream, writing
from models.turn import Move, PolicyError, Scores, Turn
from models.unmasking import POLICIES


@dataclass(frozen=True)
class StepContext:
    """What a hook may know about the network call it is in."""

    step: int
    """The call, counted from 1."""
    rows: Int[Tensor, " row"]
    """Which samples are in this call, in the order of its batch; finished samples, and those of other lengths, are not."""
    tokens: Int[Tensor, "row pos"]
    """The canvas the call reads."""
    masked: Bool[Tensor, "row pos"]
    """Where that canvas is unwritten."""


StepEdits = Callable[[StepContext], Mapping[HookPoint, Edit]]
"""Returns the edits for one network call; an empty mapping leaves it alone."""
OnStep = Callable[[int, int], None]


@dataclass
class Canvas:
    """A batch in the middle of a run. All about a sample is in its row, and nothing of it depends on the other rows."""

    tokens: Int[Tensor, "batch pos"]
    writable: Bool[Tensor, "batch pos"]
    block: Int[Tensor, " batch"]
    """The block that is being written; the number of blocks where all are."""
    clock: Int[Tensor, " batch"]
    """Steps of the budget used up in that block."""
    stable: Int[Tensor, " batch"]
    """For how many calls in a row the proposals have been those of the call before."""
    proposal: Int[Tensor, "batch pos"]
    """What the last call proposed in the current block; -1 where none did."""
    written_with: Float[Tensor, "batch pos"]
    """Confidence of each token when it was written; NaN elsewhere."""


def blank_canvas(tokens: Int[Tensor, "batch pos"], writable: Bool[Tensor, "batch pos"]) -> Canvas:
    """Returns the state before the first call."""
    zeros = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
    nowhere = torch.full(tokens.shape, torch.nan, device=tokens.device)
    return Canvas(tokens, writable, zeros, zeros.clone(), zeros.clone(), torch.full_like(tokens, -1), nowhere)


def score(logits: Float[Tensor, "batch pos vocab"], proposal: Int[Tensor, "batch pos"], top_k: int = 0) -> dict[str, Tensor]:
    """Returns what is said of every position: the fields of ``Scores``, and ``top_token`` and ``top_probability`` if asked for."""
    log_probabilities = logits.log_softmax(-1)
    probabilities = log_probabilities.exp()
    best, tokens = probabilities.topk(max(2, top_k), dim=-1)
    top = {"top_token": tokens[..., :top_k].int(), "top_probability": best[..., :top_k]} if top_k else {}
    return {
        "proposal": proposal,
        "confidence": probabilities.gather(-1, proposal[..., None])[..., 0],
        "margin": best[..., 0] - best[..., 1],
        "entropy": -(probabilities * log_probabilities.masked_fill(probabilities == 0, 0.0)).sum(-1),
        **top,
    }


@dataclass
class Denoiser:
    """One run: a model, a way of decoding, and the canvas as it stands."""

    model: LanguageModel
    decoding: Decoding
    canvas: Canvas
    sample_ids: Sequence[int]
    mask_token_id: int
    record: Record
    edits: Sequence[StepEdits] = ()
    calls: int = 0
    """Network calls made so far."""

    def __post_init__(self) -> None:
        vocabulary = int(self.model.module.config.vocab_size)
        if self.record.top_k > vocabulary:
            raise TrajectoryError(f"top_k is {self.record.top_k}; {self.model.name} has {vocabulary} tokens")
        own, asked = self.model.facts.block_size, self.decoding.block_length
        if own is not None and asked not in (None, own):
            raise PolicyError(f"block_length is {asked}; {self.model.name} sees in blocks of {own}, and writes in those")
        most = int(self._n_blocks.max())
        if self.decoding.steps is not None and self.decoding.steps < most:
            length = own or asked
            raise PolicyError(f"steps is {self.decoding.steps}; {most} blocks of {length} positions need at least {most}")

    @cached_property
    def _blocks(self) -> Int[Tensor, "batch pos"]:
        """The block of each writable position; -1 elsewhere. A block-causal model has its own, counted from the first position."""
        writable, width = self.canvas.writable, self.canvas.tokens.shape[1]
        size = self.model.facts.block_size
        if size is None:
            return ((writable.cumsum(1) - 1) // (self.decoding.block_length or width)).masked_fill(~writable, -1)
        in_blocks = functional.pad(writable, (0, -width % size)).unflatten(1, (-1, size))
        number = in_blocks.any(2).cumsum(1) - 1  # blocks with nothing to write do not count
        return number.repeat_interleave(size, dim=1)[:, :width].masked_fill(~writable, -1)

    @cached_property
    def _n_blocks(self) -> Int[Tensor, " batch"]:
        return self._blocks.amax(1) + 1

    @property
    def active(self) -> Bool[Tensor, " batch"]:
        """Which samples are not finished."""
        return self.canvas.block < self._n_blocks

    def reopen(self, *, anew: bool) -> None:
        """Goes, in each sample, back to the first block with a mask in it, or on to it from a new one without any; ``anew`` in any case."""
        first = self._unwritten_block(torch.arange(len(self.canvas.tokens), device=self.canvas.tokens.device))
        canvas = self.canvas
        moved = (first < canvas.block) | ((first > canvas.block) & (canvas.clock == 0)) | anew
        canvas.block = torch.where(moved, first, canvas.block)
        canvas.clock, canvas.stable = torch.where(moved, 0, canvas.clock), torch.where(moved, 0, canvas.stable)
        canvas.proposal = canvas.proposal.masked_fill(moved[:, None], -1)

    def _unwritten_block(self, rows: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
        """Returns the first block of each row with a mask in it; the number of blocks where there is none."""
        masked = self.canvas.writable[rows] & (self.canvas.tokens[rows] == self.mask_token_id)
        return torch.where(masked, self._blocks[rows], self._n_blocks[rows, None]).amin(1)

    def _budget(self, rows: Int[Tensor, " row"]) -> Int[Tensor, " row"] | None:
        """Returns the steps of each row's current block: all of them spread evenly, the first blocks taking what is left over."""
        steps, n_blocks = self.decoding.steps, self._n_blocks[rows]
        return None if steps is None else steps // n_blocks + (self.canvas.block[rows] < steps % n_blocks)

    def _logits(self, rows: Int[Tensor, " row"], length: int, found: dict[str, Tensor]) -> Float[Tensor, "row pos vocab"]:
        """Returns the logits of samples of one length; what the record wants of their activations is added to ``found``."""
        tokens = self.canvas.tokens[rows, :length]
        context = StepContext(self.calls, rows, tokens, tokens == self.mask_token_id)
        asked = [edits(context) for edits in self.edits]
        with ExitStack() as hooks:
            for one in (*asked, capture(self.record, self.calls, self.model.facts.logit_shift, found)):
                hooks.enter_context(self.model.hooks(one) if one else nullcontext())
            logits = self.model.logits(tokens)
        if self.decoding.guidance:
            promptless = self.model.logits(tokens.masked_fill(~self.canvas.writable[rows, :length], self.mask_token_id))
            logits = promptless + (1 + self.decoding.guidance) * (logits - promptless)
        if not torch.isfinite(logits).all():
            raise PromptError(f"the logits of call {self.calls} are not finite: an edit of activations, or a guidance, is too large")
        return logits.float().index_fill(-1, torch.tensor([self.mask_token_id], device=logits.device), -torch.inf)

    def _ask(self, rows: Int[Tensor, " row"], noise: CallNoise) -> dict[str, Tensor]:
        """Returns what the network says of the samples ``rows``: scores, and all else that is recorded; 0 beyond a sample's end."""
        lengths = (self.canvas.tokens[rows] >= 0).sum(1)
        width = self.canvas.tokens.shape[1]
        said: dict[str, Tensor] = {}
        for length in lengths.unique().tolist():
            which = torch.nonzero(lengths == length).flatten()
            found: dict[str, Tensor] = {}
            logits = self._logits(rows[which], length, found)
            uniform = noise.for_tokens(which.tolist(), *logits.shape[1:]) if self.decoding.temperature > 0 else None
            proposal = drawn(logits, uniform, self.decoding.temperature, self.decoding.top_p)
            for name, values in (score(logits, proposal, self.record.top_k) | found).items():
                whole = said.setdefault(name, values.new_zeros((len(rows), width, *values.shape[2:])))
                whole[which.to(values.device), :length] = values
        return said

    def _decide(self, rows: Int[Tensor, " row"], scores: Scores, noise: CallNoise) -> tuple[Turn, Move]:
        canvas = self.canvas
        inside = self._blocks[rows] == canvas.block[rows, None]
        tokens = canvas.tokens[rows]
        masked = inside & (tokens == self.mask_token_id)
        budget = self._budget(rows)
        with_what, clock = canvas.written_with[rows], canvas.clock[rows]
        turn = Turn(scores, tokens, masked, inside, with_what, clock + 1, budget, lambda: noise.uniform(tokens.shape[1]))
        move = POLICIES[self.decoding.policy](turn, **self.decoding.options)
        return turn, move if self.decoding.stop is None else self._halted(rows, turn, move)

    def _halted(self, rows: Int[Tensor, " row"], turn: Turn, move: Move) -> Move:
        """Returns the move, made into the last one of its block where proposals are stable and confident."""
        stop = self.decoding.stop
        assert stop is not None
        unsettled = turn.masked if move.redraw is None else turn.writable
        same = ((turn.scores.proposal == self.canvas.proposal[rows]) | ~unsettled).all(1)
        self.canvas.stable[rows] = torch.where(same, self.canvas.stable[rows] + 1, 0)
        calm = (turn.scores.entropy * unsettled).sum(1) < stop.entropy * unsettled.sum(1)
        halt = calm & (self.canvas.stable[rows] >= stop.stable)
        over = halt[:, None]
        return replace(
            move,
            write=torch.where(over, unsettled, move.write),
            remask=None if move.remask is None else move.remask & ~over,
            redraw=None if move.redraw is None else move.redraw & ~over,
            more=None if move.more is None else move.more & ~halt,
        )

    def _apply(self, rows: Int[Tensor, " row"], turn: Turn, move: Move, noise: CallNoise) -> None:
        canvas = self.canvas
        after = torch.where(move.write, turn.scores.proposal, turn.tokens)
        if move.remask is not None:
            after = after.masked_fill(move.remask, self.mask_token_id)
        if move.redraw is not None:
            tokens = (noise.uniform(after.shape[1]) * (int(self.model.module.config.vocab_size) - 1)).long()
            after = torch.where(move.redraw, tokens + (tokens >= self.mask_token_id), after)
        own = torch.where(after == turn.scores.proposal, turn.scores.confidence, torch.nan)
        canvas.written_with[rows] = torch.where(after == turn.tokens, canvas.written_with[rows], own)
        canvas.tokens[rows] = after
        unfinished = (turn.writable & (after == self.mask_token_id)).any(1)
        if move.more is not None:
            unfinished |= move.more
        canvas.proposal[rows] = turn.scores.proposal.masked_fill(~unfinished[:, None], -1)
        canvas.clock[rows] = torch.where(unfinished, turn.step - 1 + (1 if move.steps is None else move.steps), 0)
        canvas.block[rows] = torch.where(unfinished, canvas.block[rows], self._unwritten_block(rows))
        canvas.stable[rows] = torch.where(unfinished, canvas.stable[rows], 0)

    def advance(self, recorder: Recorder) -> None:
        """Makes one network call for every sample that is not finished."""
        self.calls += 1
        rows = torch.nonzero(self.active).flatten()
        noise = CallNoise(self.decoding.seed, [self.sample_ids[row] for row in rows.tolist()], self.calls, rows.device)
        said = self._ask(rows, noise)
        scores = Scores(**{name: said[name] for name in ("proposal", "confidence", "margin", "entropy")})
        self._apply(rows, *self._decide(rows, scores, noise), noise)
        canvas = self.canvas
        said["proposal"] = said["proposal"].int()
        spoken = {name: values.cpu().numpy() for name, values in said.items()}
        clocks = {name: getattr(canvas, name).to("cpu", torch.int32, copy=True).numpy() for name in CLOCKS}
        recorder.add(rows.cpu().numpy(), canvas.tokens[rows].cpu().numpy(), spoken, clocks)

    @torch.no_grad()
    def run(self, before: Callable[[Recorder], None], initial: Tensor, attributes: Mapping[str, object], on_step: OnStep) -> Trajectory:
        """Returns the trajectory, from an initial canvas through what ``before`` adds to the record, to the end."""
        store = self.record.store
        with writing(store) if store else nullcontext() as folder:
            recorder = Recorder(
                initial.cpu().numpy(),
                self.canvas.writable.cpu().numpy(),
                self.mask_token_id,
                sample_ids=torch.tensor(self.sample_ids).numpy(),
                stream=None if folder is None else TrajectoryStream(folder),
            )
            recorder.expect(forms(self.record, self.model, self.canvas.tokens))
            before(recorder)
            while self.active.any():
                self.advance(recorder)
                unwritten = self.canvas.tokens == self.mask_token_id
                on_step(int((self.canvas.writable & ~unwritten).sum()), int(unwritten.sum()))
            if folder is None:
                return recorder.finish(attributes)
            recorder.finish_stream(attributes)
        assert store is not None
        return Trajectory.load(store)


def attributes_of(model: LanguageModel, decoding: Decoding) -> dict[str, object]:
    """Returns what a trajectory says of how it came to be."""
    return {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "task": model.facts.task,
        "policy": decoding.policy,
        "options": json.dumps(stated(decoding)),
        "seed": decoding.seed,
    }


def denoise(
    model: LanguageModel,
    tokens: Int[Tensor, "batch pos"] | Sequence[Int[Tensor, " _"]],
    decoding: Decoding | str = "low_confidence",
    *,
    record: Record | None = None,
    sample_ids: Sequence[int] | None = None,
    edits: StepEdits | None = None,
    on_step: OnStep = lambda done, left: None,
) -> Trajectory:
    """Returns the trajectory of writing every masked position of ``tokens``.

    Args:
        model: A masked model.
        tokens: Prompts with the mask token wherever something is to be written (anywhere: filling in is the general case); a list of
            rows where they differ in length.
        decoding: The policy, with its options, budget, blocks, temperature, guidance and seed; or just its name.
        record: What is kept besides tokens, proposals, states and confidences, and where.
        sample_ids: Identity of each sample, on which its random numbers depend; its row number unless given.
        edits: Interventions on activations, asked for before every call, which they know (see ``StepContext``). With guidance they act on
            the pass with the prompt only, and so are multiplied as it is.
        on_step: Told (positions written, positions left) after every call.

    Raises:
        PromptError: On a causal model, a sample with nothing masked, one too long, a token outside the vocabulary, or what are no tokens.
        PolicyError: On an unknown policy or option, or a budget smaller than the number of blocks.
        TrajectoryError: Where the record cannot be kept.
    """
    asked = decoding if isinstance(decoding, Decoding) else Decoding(decoding)
    canvas = padded(tokens).clone().to(model.device)
    mask, ids = check_prompts(model, canvas), identities(sample_ids, len(canvas))
    denoiser = Denoiser(model, asked, blank_canvas(canvas, canvas == mask), ids, mask, record or Record(), (edits,) if edits else ())
    surgery = {SURGERY: json.dumps([{"step": 0, "steered": True}])} if edits else {}
    return denoiser.run(lambda recorder: None, canvas.clone(), {**attributes_of(model, asked), **surgery}, on_step)
