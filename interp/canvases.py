"""What a model is shown: canvases with masks drawn at random, those that the model itself made while it denoised, or whole sequences.

The canvases of a sequence depend on it, its number in the corpus and the seed alone: never on the other sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from interp.concepts import Kind, Sites
from interp.corpus import Corpus
from models.decoding import Decoding, stated
from models.denoise import denoise
from models.language_model import LanguageModel
from models.network import PADDING
from models.tasks.base import Task

MASK_RATES = (0.1, 0.3, 0.5, 0.7, 0.9)
_MASKS, _PLACES = 0, 1
ABSENT = 255
"""In place of a kind: a sample has no such position."""
"""What a canvas's random numbers are for."""


class CanvasError(ValueError):
    """Canvases that cannot be made."""


@dataclass(frozen=True)
class Masked:
    """Random masks: each sequence once at every rate."""

    rates: tuple[float, ...] = MASK_RATES
    """Shares of the positions asked for to mask, each greater than 0 and at most 1."""
    corrupt: float = 0.0
    """Share of the tokens asked for and visible that are replaced by others of the sequence, 0 to 1."""

    def __post_init__(self) -> None:
        wrong = [rate for rate in self.rates if not 0 < rate <= 1]
        if wrong:
            raise CanvasError(f"a mask rate is {wrong[0]:g}; it must be greater than 0 and at most 1")
        if not self.rates:
            raise CanvasError("there are no mask rates; give at least one")
        if not 0 <= self.corrupt <= 1:
            raise CanvasError(f"the share to corrupt is {self.corrupt:g}; it must lie in 0 to 1")


@dataclass(frozen=True)
class Decoded:
    """The canvases that the model makes while it writes what is asked for."""

    decoding: Decoding = field(default_factory=Decoding)
    every: int = 1
    """Keeps the canvases of the network calls 1, 1 + every, 1 + 2 every and so on."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise CanvasError(f"every is {self.every}; it must be at least 1 network call")


@dataclass(frozen=True)
class Whole:
    """Whole sequences, which a causal model reads once: at each position it sees what comes before."""

    worth: int = len(MASK_RATES)
    """A sequence counts as so many canvases where sites are drawn: as many as it makes for a masked model."""


Source = Masked | Decoded | Whole
"""Where canvases come from."""


def stated_source(source: Source) -> dict[str, Any]:
    """Returns a source as JSON can hold it."""
    name = type(source).__name__.lower()
    if isinstance(source, Decoded):
        decoding = source.decoding
        return {"source": name, "every": source.every, "policy": decoding.policy, "seed": decoding.seed, **stated(decoding)}
    return {"source": name, **asdict(source)}


@dataclass(frozen=True)
class Canvases:
    """What forward passes read, one a row: sequence after sequence, and a sequence's own in their order."""

    tokens: Int[Tensor, "canvas pos"]
    truth: Int[Tensor, "canvas pos"]
    """The sequence of the corpus, whatever a denoising run wrote in the end."""
    sample: Int[Tensor, " canvas"]
    """The sequence, as a row of its corpus."""
    group: Int[Tensor, " canvas"]
    turn: Int[Tensor, " canvas"]
    """Which of its sequence's canvases it is, counted from 0."""
    mask_rate: Float[Tensor, " canvas"]
    """Share of the positions asked for that are unwritten; the nominal one where masks were drawn."""
    step: Int[Tensor, " canvas"]
    """The network call of a denoising run that read it, from 1; 0 outside a run."""
    kind: UInt8[Tensor, "canvas pos"]
    """A ``Kind`` each."""
    next: Bool[Tensor, "canvas pos"]
    """What that call wrote; false outside a run."""
    causal: bool = False
    """Whether a place sees only what comes before it; then all that is asked for is of the kind masked."""

    def __len__(self) -> int:
        return len(self.tokens)

    def sites(self, rows: Int[Tensor, " row"], positions: Int[Tensor, " row"], task: Task) -> Sites:
        """Returns places in these canvases; what a model cannot see from one, masked or still to come, is the task's hidden token."""
        seen, rate = self.tokens[rows], self.mask_rate[rows]
        if self.causal:
            asked = self.kind[rows] == Kind.MASKED
            hidden = asked & (torch.arange(seen.shape[1]) >= positions[:, None])
            seen, rate = seen.masked_fill(hidden, task.hidden_token_id), hidden.sum(1) / asked.sum(1).clamp(min=1)
        else:
            seen = seen.masked_fill(seen == task.mask_token_id, task.hidden_token_id)
        kind, written = self.kind[rows, positions].long(), self.next[rows, positions]
        return Sites(seen, self.truth[rows], positions, self.sample[rows], self.group[rows], rate, kind, self.step[rows], written)


def _outside_a_run(
    corpus: Corpus, rows: Int[Tensor, " canvas"], tokens: Int[Tensor, "canvas pos"], masked: Bool[Tensor, "canvas pos"], **columns: Any
) -> Canvases:
    """Returns canvases that no denoising run made, of the sequences ``rows``."""
    settled = torch.where(corpus.asked[rows], int(Kind.SETTLED), int(Kind.PROMPT)).masked_fill(corpus.sequences[rows] == PADDING, ABSENT)
    kind = settled.masked_fill(masked, int(Kind.MASKED)).to(torch.uint8)
    never = torch.zeros_like(masked)
    return Canvases(tokens, corpus.sequences[rows], group=corpus.group[rows], kind=kind, step=torch.zeros_like(rows), next=never, **columns)


def masked_canvases(corpus: Corpus, source: Masked, mask_token_id: int, seed: int, first: int = 0) -> Canvases:
    """Returns each sequence at every mask rate: exactly the share asked for is masked, at least one position, drawn uniformly.

    Where tokens are to be corrupted, exactly that share of the visible ones (of those asked for) is replaced by tokens that the sequence
    has elsewhere among those asked for; ``truth`` keeps them, so that a canvas can contradict itself.

    Args:
        corpus: The sequences.
        source: Rates, and the share to corrupt.
        mask_token_id: The mask token.
        seed: Reproduces the draws, with the number of the sequence and of the rate.
        first: Number of the first of these sequences, where they are a part of a corpus.
    """
    turns = len(source.rates)
    rows, turn = torch.arange(len(corpus)).repeat_interleave(turns), torch.arange(turns).repeat(len(corpus))
    asked, tokens = corpus.asked[rows].numpy(), corpus.sequences[rows].numpy().copy()
    masked = np.zeros_like(asked)
    for row, (sample, rate_index) in enumerate(zip(rows.tolist(), turn.tolist(), strict=True)):
        chance = np.random.default_rng((seed, first + sample, rate_index, _MASKS)).random((2, tokens.shape[1]))
        order = np.flatnonzero(asked[row])[chance[0, asked[row]].argsort()]
        count = max(1, round(source.rates[rate_index] * len(order)))
        masked[row, order[:count]] = True
        wrong = order[count:][: round(source.corrupt * len(order[count:]))]
        tokens[row, wrong] = _others(tokens[row], wrong, tokens[row, asked[row]], chance[1])
    tokens[masked] = mask_token_id
    rate = torch.tensor(source.rates)[turn]
    where = torch.from_numpy(masked)
    return _outside_a_run(corpus, rows, torch.from_numpy(tokens), where, sample=first + rows, turn=turn, mask_rate=rate)


def _others(
    tokens: Int[np.ndarray, " pos"], places: Int[np.ndarray, " place"], pool: Int[np.ndarray, " asked"], chance: Float[np.ndarray, " pos"]
) -> Int[np.ndarray, " place"]:
    """Returns for each place a token drawn from those of the pool that are not its own; its own where there is no other."""
    found = tokens[places]
    for index, place in enumerate(places):
        others = pool[pool != tokens[place]]
        if len(others):
            found[index] = others[int(chance[place] * len(others))]
    return found


def decoded_canvases(model: LanguageModel, corpus: Corpus, source: Decoded, first: int = 0) -> Canvases:
    """Returns what each network call read while a masked model wrote what each sequence asks for.

    A position is committed where the call before wrote it, settled where an earlier one did. ``truth`` stays the reference sequence of the
    corpus: what the run wrote in the end is another matter.

    Args:
        model: A masked model.
        corpus: The sequences.
        source: The decoding, and which calls to keep.
        first: Number of the first of these sequences, where they are a part of a corpus; its random numbers depend on it.

    Raises:
        PromptError: On a causal model, or a sequence that asks for nothing.
        PolicyError: On a budget of steps smaller than the number of blocks.
    """
    mask_id = model.task.mask_token_id
    prompts = corpus.sequences.masked_fill(corpus.asked, mask_id)
    run = denoise(model, prompts, source.decoding, sample_ids=range(first, first + len(corpus)))
    tokens = torch.from_numpy(run.data["token"].values).long()  # [sample, step, pos], before the first call at step 0
    calls = torch.arange(run.n_steps)[None] < torch.from_numpy(run.calls)[:, None]
    rows, before = torch.nonzero(calls & (torch.arange(run.n_steps) % source.every == 0), as_tuple=True)
    canvases, asked = tokens[rows, before], corpus.asked[rows]
    masked = asked & (canvases == mask_id)
    committed = asked & ~masked & (canvases != tokens[rows, (before - 1).clamp(min=0)])
    after = tokens[rows, before + 1]
    kind = torch.where(asked, int(Kind.SETTLED), int(Kind.PROMPT)).masked_fill(committed, int(Kind.COMMITTED))
    kind = kind.masked_fill(corpus.sequences[rows] == PADDING, ABSENT)
    return Canvases(
        canvases,
        truth=corpus.sequences[rows],
        sample=first + rows,
        group=corpus.group[rows],
        turn=before // source.every,
        mask_rate=masked.sum(1) / asked.sum(1),
        step=before + 1,
        kind=kind.masked_fill(masked, int(Kind.MASKED)).to(torch.uint8),
        next=asked & (after != canvases) & (after != mask_id),
    )


def causal_canvases(corpus: Corpus, first: int = 0) -> Canvases:
    """Returns whole sequences, as a causal model reads them: from each place it sees what comes before.

    Everything asked for is of the kind masked, since at its own place it is about to be predicted. The mask rate of a place is the share
    of what is asked for that comes there or later, and ``Canvases.sites`` gives it; that of the canvas as a whole is 1.

    Args:
        corpus: The sequences.
        first: Number of the first of these sequences, where they are a part of a corpus.
    """
    rows = torch.arange(len(corpus))
    columns = {"sample": first + rows, "turn": torch.zeros_like(rows), "mask_rate": torch.ones(len(corpus)), "causal": True}
    return _outside_a_run(corpus, rows, corpus.sequences, corpus.asked, **columns)


def default_source(model: LanguageModel) -> Source:
    """Returns what a model reads unless told: a masked one random masks, a causal one whole sequences."""
    return Masked() if model.facts.objective == "masked" else Whole()


def kinds_of(names: Sequence[str]) -> tuple[Kind, ...]:
    """Returns kinds of positions by name.

    Raises:
        CanvasError: On an unknown one, naming all.
    """
    choices = {kind.name.lower(): kind for kind in Kind}
    wrong = [name for name in names if name not in choices]
    if wrong:
        raise CanvasError(f"unknown kind of position {wrong[0]!r}; choose from {', '.join(choices)}")
    return tuple(choices[name] for name in dict.fromkeys(names))


def check_source(model: LanguageModel, source: Source, kinds: Sequence[Kind], corpus: Corpus) -> None:
    """Raises CanvasError where a model cannot be shown such canvases, or there are no sequences, or no positions of a kind."""
    if not len(corpus):
        raise CanvasError("the corpus has no sequences; give at least one")
    name, causal = type(source).__name__.lower(), model.facts.objective == "causal"
    if causal != isinstance(source, Whole):
        rule = "a causal model, which reads whole sequences" if causal else "a masked model, which reads masked or decoded canvases"
        raise CanvasError(f"the canvases are {name}, and {model.name} is {rule}")
    there = {Masked: (Kind.PROMPT, Kind.MASKED, Kind.SETTLED), Decoded: tuple(Kind), Whole: (Kind.PROMPT, Kind.MASKED)}[type(source)]
    wrong = [kind for kind in kinds if kind not in there]
    if wrong or not kinds:
        asked = f"no {wrong[0].name.lower()} positions" if wrong else "no kind of position was asked for"
        raise CanvasError(f"{name} canvases: {asked}; choose from {', '.join(kind.name.lower() for kind in there)}")


def canvases_of(model: LanguageModel, corpus: Corpus, source: Source, seed: int, first: int = 0) -> Canvases:
    """Returns the canvases of a source for a corpus, or for a part of one that begins with sequence ``first``."""
    if isinstance(source, Masked):
        return masked_canvases(corpus, source, model.task.mask_token_id, seed, first)
    return decoded_canvases(model, corpus, source, first) if isinstance(source, Decoded) else causal_canvases(corpus, first)


def drawn_places(
    canvases: Canvases, kinds: Sequence[Kind], most: int, seed: int, first_position: int
) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
    """Returns (canvas, position) of at most ``most`` places of each kind in each canvas, drawn uniformly, in order.

    Args:
        canvases: Where to look.
        kinds: Which kinds of positions.
        most: At most so many of each kind.
        seed: Reproduces the draws, with the number of a canvas's sequence and its turn.
        first_position: Leaves out all positions before this one.
    """
    kind = canvases.kind.numpy()
    kept = np.zeros(kind.shape, bool)
    for row, (sample, turn) in enumerate(zip(canvases.sample.tolist(), canvases.turn.tolist(), strict=True)):
        chance = np.random.default_rng((seed, sample, turn, _PLACES)).random((kind.shape[1],))
        for one in kinds:
            places = np.flatnonzero(kind[row, first_position:] == one) + first_position
            kept[row, places[chance[places].argsort()[:most]]] = True
    rows, positions = np.nonzero(kept)
    return torch.from_numpy(rows), torch.from_numpy(positions)
