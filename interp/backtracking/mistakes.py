"""Boards with wrong digits written in them: the models' own mistakes, and planted ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.canvases import Decoded, decoded_canvases
from interp.concepts import Kind, Sites
from interp.corpus import Corpus
from models.decoding import Decoding
from models.language_model import LanguageModel
from models.left_to_right import write_left_to_right
from models.tasks.sudoku.board import N_CELLS, PEERS
from models.tasks.sudoku.task import MASK_ID, SOLUTION, SUDOKU

RATES = (0.2, 0.5, 0.8)
"""Shares of the cells asked for that are unwritten in a masked model's canvases with planted mistakes."""
PLANTED_SHARE = 0.15
"""Of the written cells, how many show a wrong digit; half of these show one that no visible peer shows, where there is one."""
OWN_STEPS, OWN_EVERY = 18, 3
_EARLIER = np.arange(N_CELLS)[:, None] > PEERS
"""``[cell, 20]``: which peers come before each cell."""


@dataclass(frozen=True)
class Mistaken:
    """Canvases, some of whose written digits are wrong."""

    tokens: Int[Tensor, "canvas pos"]
    truth: Int[Tensor, "canvas pos"]
    asked: Bool[Tensor, "canvas pos"]
    group: Int[Tensor, " canvas"]
    own: Bool[Tensor, " canvas"]
    """Whether the mistakes are the model's own, and not planted."""
    causal: bool = False
    """Whether a place is read seeing only what comes before it, and its own token."""

    @property
    def written(self) -> Bool[Tensor, "canvas cell"]:
        """Where a cell that was asked for holds a token."""
        return (self.asked & (self.tokens != MASK_ID))[:, SOLUTION]

    @property
    def wrong(self) -> Bool[Tensor, "canvas cell"]:
        """Where that token is not the solution's."""
        return self.written & (self.tokens != self.truth)[:, SOLUTION]

    @property
    def clash(self) -> Bool[Tensor, "canvas cell"]:
        """Where a visible peer shows the same digit."""
        boards = SUDOKU.boards(self.tokens)
        same = (boards[:, :, None] == boards[:, PEERS]) & _visible_peers(self.asked, self.causal)
        return torch.from_numpy(same.any(axis=2) & (boards > 0))

    def sites(self, rows: Int[Tensor, " row"], cells: Int[Tensor, " row"]) -> Sites:
        """Returns written cells as sites."""
        position, asked = cells + SOLUTION.start, self.asked[rows]
        later = asked & self.causal & (torch.arange(asked.shape[1]) > position[:, None])
        seen = self.tokens[rows].masked_fill(later, MASK_ID)
        rate = (asked & (seen == MASK_ID)).sum(1) / asked.sum(1)
        kind, none = torch.full_like(rows, Kind.SETTLED), torch.zeros_like(rows)
        return Sites(seen, self.truth[rows], position, rows, self.group[rows], rate, kind, none, none.bool())


def _visible_peers(asked: Bool[Tensor, "canvas pos"], causal: bool) -> Bool[np.ndarray, "canvas cell peer"]:
    """Returns which peers of each cell can be seen from it: all or, with a causal model, givens and those that come before it."""
    given = ~asked[:, SOLUTION].numpy()[:, PEERS]
    return given | _EARLIER if causal else np.ones_like(given)


def planted(
    tokens: Int[Tensor, "canvas pos"], asked: Bool[Tensor, "canvas pos"], seed: int, *, share: float = PLANTED_SHARE, causal: bool = False
) -> Int[Tensor, "canvas pos"]:
    """Returns the canvases with other digits in that share of the written cells asked for, drawn cell by cell.

    Half of them are any other digit, half one that no visible peer showed before, so that no rule gives it away; where there is none of
    these, any other.
    """
    rng, boards = np.random.default_rng(seed), SUDOKU.boards(tokens)
    held = np.where(_visible_peers(asked, causal), boards[:, PEERS], 0)
    other = boards[..., None] != np.arange(1, 10)
    quiet = other & ~(held[..., None] == np.arange(1, 10)).any(axis=2)
    quiet &= (rng.random(boards.shape) < 0.5)[..., None]
    allowed = np.where(quiet.any(axis=2, keepdims=True), quiet, other)
    digit = np.where(allowed, rng.random(allowed.shape), -1).argmax(axis=2) + 1
    drawn = asked[:, SOLUTION].numpy() & (boards > 0) & (rng.random(boards.shape) < share)
    found = tokens.clone()
    found[:, SOLUTION] = torch.where(torch.from_numpy(drawn), torch.from_numpy(digit), tokens[:, SOLUTION])
    return found


def mistaken_for(model: LanguageModel, corpus: Corpus, seed: int) -> Mistaken:
    """Returns canvases with a model's own mistakes, then canvases with planted ones, of the same boards.

    A causal model's own are what it writes greedily, whole. A masked model's are from runs that write in random order, in 18 calls, every
    third of which is kept; its planted ones are masked at ``RATES``.
    """
    copies, causal = (1, True) if model.facts.objective == "causal" else (len(RATES), False)
    own = _own_of_a_causal(model, corpus) if causal else _own_of_a_masked(model, corpus, seed)
    rows = torch.arange(len(corpus)).repeat(copies)
    truth, asked, group = corpus.sequences[rows], corpus.asked[rows], corpus.group[rows]
    chance = torch.rand(truth.shape, generator=torch.Generator().manual_seed(seed))
    rate = torch.zeros(len(corpus)) if causal else torch.tensor(RATES).repeat_interleave(len(corpus))
    partial = planted(truth.masked_fill(asked & (chance < rate[:, None]), MASK_ID), asked, seed, causal=causal)
    tokens, truth, asked, group = (torch.cat(pair) for pair in zip(own, (partial, truth, asked, group), strict=True))
    whose = torch.arange(len(own[0]) + len(rows)) < len(own[0])
    return Mistaken(tokens, truth, asked, group, whose, causal)


def _own_of_a_causal(model: LanguageModel, corpus: Corpus) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    written = write_left_to_right(model, corpus.sequences.masked_fill(corpus.asked, MASK_ID)).tokens(-1)
    return torch.from_numpy(written), corpus.sequences, corpus.asked, corpus.group


def _own_of_a_masked(model: LanguageModel, corpus: Corpus, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    runs = decoded_canvases(model, corpus, Decoded(Decoding("random", steps=OWN_STEPS, seed=seed), OWN_EVERY))
    begun = runs.turn > 0
    return runs.tokens[begun], runs.truth[begun], (runs.kind != Kind.PROMPT)[begun], runs.group[begun]


def drawn_cells(mistaken: Mistaken, most: int, seed: int) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
    """Returns (canvas, cell) of at most ``most`` wrong and ``most`` right written cells of each canvas, drawn uniformly."""
    chance = torch.rand(mistaken.written.shape, generator=torch.Generator().manual_seed(seed))
    kept = torch.zeros_like(mistaken.written)
    for among in (mistaken.wrong, mistaken.written & ~mistaken.wrong):
        rank = chance.masked_fill(~among, 2.0).argsort(1).argsort(1)
        kept |= among & (rank < most)
    rows, cells = torch.nonzero(kept, as_tuple=True)
    return rows, cells
