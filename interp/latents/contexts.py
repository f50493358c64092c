"""Places where latents fire: which to show, and what is shown of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.concepts import Kind
from interp.concepts.sudoku import visible_boards
from interp.harvest import Harvest, activations_at
from interp.latents.entries import Band, Context
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from models.tasks.sudoku.board import N_CELLS
from models.tasks.sudoku.task import SOLUTION, SUDOKU
from probes.saes.quality import ROWS_AT_ONCE

if TYPE_CHECKING:
    from sae_lens import SAE

BEFORE, AFTER = 28, 16
"""Tokens of a text that are shown on either side of a place."""
LOWER: dict[Band, tuple[float, float]] = {"middle": (0.4, 0.6), "low": (0.0, 0.2)}
"""Quantiles of the values above 0 between which places are drawn that are no maxima."""
EACH = 2
"""Places drawn between each two quantiles."""


@torch.no_grad()
def columns(sae: SAE[Any], activations: Float[Tensor, "row d_model"], latents: Int[Tensor, " latent"]) -> Float[Tensor, "row latent"]:
    """Returns the values of some latents on raw activations; never those of all latents for all rows at once."""
    found = torch.empty(len(activations), len(latents))
    for start in range(0, len(activations), ROWS_AT_ONCE):
        rows = activations[start : start + ROWS_AT_ONCE].to(sae.W_dec.device).float()
        found[start : start + len(rows)] = sae.encode(rows)[:, latents.to(rows.device)].cpu()
    return found


def places_to_show(values: Float[Tensor, " row"], groups: Int[Tensor, " row"], n: int, rng: np.random.Generator) -> list[tuple[Band, int]]:
    """Returns rows at which a latent fires, all of different puzzles or documents: the ``n`` largest, then some drawn from lower values."""
    fires = torch.nonzero(values > 0).flatten().numpy()
    own, group = values.numpy()[fires], groups.numpy()[fires]
    order = np.argsort(-own, kind="stable")
    _, first = np.unique(group[order], return_index=True)
    shown: list[tuple[Band, int]] = [("top", int(row)) for row in order[np.sort(first)[:n]]]
    for band, between in LOWER.items():
        if not shown:
            break
        low, high = np.quantile(own, between)
        taken = {group[row] for _, row in shown}
        drawn: dict[int, int] = {}
        for row in rng.permutation(np.flatnonzero((own >= low) & (own <= high))).tolist():
            if len(drawn) < EACH and group[row] not in taken:
                drawn.setdefault(int(group[row]), row)
        shown += [(band, row) for row in sorted(drawn.values(), key=lambda row: -own[row])]
    return [(band, int(fires[row])) for band, row in shown]


def _spelled(model: LanguageModel, tokens: Int[Tensor, " pos"]) -> list[str]:
    words = model.task.vocabulary
    return [words[token] if token < len(words) else f"#{token}" for token in tokens.tolist()]


def _board(harvest: Harvest, row: int) -> tuple[list[str], list[str], str]:
    """Returns the visible digits of the 81 cells, those of the solution, and a letter a cell."""
    sites = harvest.sites.rows(torch.tensor([row]))
    (board,), (truth,) = visible_boards(sites), SUDOKU.boards(sites.truth)
    given = sites.seen[0, :N_CELLS].numpy() > 0
    states = "".join("g" if known else "w" if digit else "m" for known, digit in zip(given, board, strict=True))
    return [str(digit) if digit else "" for digit in board.tolist()], [str(digit) for digit in truth.tolist()], states


def _text(model: LanguageModel, harvest: Harvest, row: int, window: slice) -> tuple[list[str], list[str], str]:
    """Returns the visible text of a window, the true one, and a letter a token."""
    hidden = (harvest.sites.seen[row] == model.task.hidden_token_id).tolist()[window]
    seen, truth = _spelled(model, harvest.sites.seen[row, window]), _spelled(model, harvest.sites.truth[row, window])
    return ["" if gone else word for gone, word in zip(hidden, seen, strict=True)], truth, "".join("wm"[gone] for gone in hidden)


def is_board(model: LanguageModel) -> bool:
    """Returns whether what the model reads is drawn as boards."""
    return model.facts.task == SUDOKU.name


def _window(model: LanguageModel, position: int) -> slice:
    """Returns the positions that are shown around one: the half of a board it lies in, or the text near it."""
    if is_board(model):
        return SOLUTION if position >= SOLUTION.start - 1 else slice(0, N_CELLS)
    return slice(max(0, position - BEFORE), min(model.task.length, position + AFTER + 1))


def contexts_of(
    sae: SAE[Any], latent: int, model: LanguageModel, harvest: Harvest, point: HookPoint, shown: list[tuple[Band, int]]
) -> tuple[Context, ...]:
    """Returns what is seen at some rows of a harvest, with a latent's value wherever a token of the canvas is predicted.

    A causal model is shown the whole sequence, as it was harvested, and values later than the place are left out: what it saw there does
    not come into them.
    """
    if not shown:
        return ()
    rows, causal, shift = torch.tensor([row for _, row in shown]), model.facts.objective == "causal", model.facts.logit_shift
    sites = harvest.sites.rows(rows)
    canvases = sites.truth if causal else sites.seen
    length = canvases.shape[1]
    positions = torch.arange(shift, length).repeat(len(rows))
    of_canvas = torch.arange(len(rows)).repeat_interleave(length - shift)
    read = activations_at(model, canvases, of_canvas, positions, (point,))[point]
    found = columns(sae, read, torch.tensor([latent])).view(len(rows), length - shift)
    return tuple(_context(model, harvest, row, band, found[place]) for place, (band, row) in enumerate(shown))


def _context(model: LanguageModel, harvest: Harvest, row: int, band: Band, found: Float[Tensor, " read"]) -> Context:
    sites, shift = harvest.sites, model.facts.logit_shift
    position, window = int(sites.position[row]), _window(model, int(sites.position[row]))
    tokens, truth, states = _board(harvest, row) if is_board(model) else _text(model, harvest, row, window)
    last = position if model.facts.objective == "causal" else len(found) + shift
    shown = range(window.start, window.stop)
    return Context(
        band=band,
        value=float(found[position - shift]),
        group=int(sites.group[row]),
        position=position,
        mask_rate=float(sites.mask_rate[row]),
        kind=Kind(int(sites.kind[row])).name.lower(),
        step=int(sites.step[row]),
        tokens=tuple(tokens),
        truth=tuple(truth),
        states=states,
        values=tuple(round(float(found[at - shift]), 4) if shift <= at <= last else None for at in shown),
        place=position - window.start if position in shown else None,
    )
