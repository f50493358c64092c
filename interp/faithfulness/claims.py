"""What statements about a run claim, as places to intervene at: one cell a board, its digit, another digit, and what the rules say then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.concepts import Sites
from interp.concepts.sudoku import DIGITS as DIGIT_NAMES
from interp.concepts.sudoku import candidate_sets, visible_boards
from interp.faithfulness.base import FaithfulnessError
from interp.narration import Statement
from models.language_model import LanguageModel
from models.tasks.sudoku.board import N_CELLS, PEERS
from models.tasks.sudoku.task import MASK_ID, SOLUTION
from models.trajectory import Trajectory

PARTS = ("early", "middle", "late")
"""The thirds of a run; claims are tested in the middle call of each."""
CONCEPT_OF = {"decided": "digit", "only_candidate": "candidates", "only_place": "candidates", "elimination": "candidates"}
"""Kinds of statements that can be tested, and the concept whose reader they rest on."""
AT_ITSELF = ("decided", "only_candidate")
"""Kinds that claim a digit of the cell they name; the others rest on what is read at other cells."""
DIGITS = slice(1, 10)
"""Token ids of the digits 1 to 9."""
BATCH = 64


@dataclass(frozen=True, eq=False)
class Claims:
    """Claims of statements of one kind, one a row: the place where each is read, and what must follow elsewhere if it were otherwise."""

    part: Int[Tensor, " claim"]
    """Index into ``PARTS``."""
    sample: Int[Tensor, " claim"]
    step: Int[Tensor, " claim"]
    """The network call."""
    tokens: Int[Tensor, "claim pos"]
    """What that call read."""
    cell: Int[Tensor, " claim"]
    """Where the claim is read."""
    stated: Int[Tensor, " claim"]
    """The digit (1 to 9) that the statement names."""
    own: Int[Tensor, " claim"]
    """The digit (1 to 9) that the model holds likeliest there."""
    other: Int[Tensor, " claim"]
    """The digit pushed towards."""
    far: Int[Tensor, " claim"]
    """An unwritten cell that shares no unit with ``cell``."""
    expected: Float[Tensor, "claim cell digit"]
    """Weights of the log-probabilities that must rise or fall, by the rules, if ``cell`` were ``other``."""
    elsewhere: Float[Tensor, "claim cell digit"]
    """The same weights on cells that share no unit with ``cell``."""
    consequence: Float[Tensor, "claim cell digit"]
    """Weights at cells that would keep a single candidate: that one must rise, and ``other`` fall; all 0 where there is no such cell."""
    base: Float[Tensor, "claim cell digit"]
    """Log-probabilities of the digits in the undisturbed call."""

    def rows(self, keep: Bool[Tensor, " claim"]) -> Claims:
        """Returns some of the claims."""
        return Claims(*(getattr(self, column.name)[keep] for column in fields(self)))

    def __len__(self) -> int:
        return len(self.cell)


def middle_calls(run: Trajectory) -> tuple[int, ...]:
    """Returns the middle call of each third of a run, by its median length."""
    length = float(np.median(run.last_step))
    calls = tuple(max(1, round(length * share)) for share in (1 / 6, 1 / 2, 5 / 6))
    if len(set(calls)) < len(PARTS):
        raise FaithfulnessError(f"the runs have {length:g} calls; they must have at least 4 to be told in thirds")
    return calls


@torch.no_grad()
def digit_log_probabilities(model: LanguageModel, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch cell digit"]:
    """Returns the log-probability of each digit among the nine, at every cell; edits of an enclosing ``hooks`` apply."""
    parts = [model.logits(part)[:, SOLUTION, DIGITS].float().log_softmax(-1).cpu() for part in tokens.split(BATCH)]
    return torch.cat(parts)


def candidates_of(tokens: Int[Tensor, "claim pos"]) -> Bool[np.ndarray, "claim cell digit"]:
    """Returns which digits the written cells leave to each cell of some canvases."""
    none = torch.zeros(len(tokens), dtype=torch.long)
    return candidate_sets(visible_boards(Sites.unwritten(tokens, tokens, none, none, none.float())))


def _stands(said: Statement, step: int, free: Bool[np.ndarray, "sample cell"]) -> bool:
    """Returns whether a statement is about a call, or says earlier what a cell will be that the call still finds unwritten."""
    return said.step == step or (
        said.kind == "decided" and said.step < step and bool(free[said.sample, said.positions[0] - SOLUTION.start])
    )


def _drawn(statements: Sequence[Statement], rng: np.random.Generator) -> list[Statement]:
    """Returns one statement a sample, drawn; samples in drawn order."""
    by_sample: dict[int, list[Statement]] = {}
    for one in statements:
        by_sample.setdefault(one.sample, []).append(one)
    one_each = [group[rng.integers(len(group))] for _, group in sorted(by_sample.items())]
    return [one_each[index] for index in rng.permutation(len(one_each))]


@dataclass(frozen=True)
class _Place:
    """Where one claim is read, and the cell it is about."""

    cell: int
    named: int
    digit: int


def _place(said: Statement, tokens: Int[Tensor, " pos"], rng: np.random.Generator) -> _Place | None:
    """Returns the place of a claim; of a reason that rests on other cells, one of those, drawn. None where there is none to push."""
    named = said.positions[0] - SOLUTION.start
    if said.value not in DIGIT_NAMES:
        return None
    if said.kind in AT_ITSELF:
        return _Place(named, named, int(said.value))
    near = set(PEERS[named].tolist())
    others = {one.position - SOLUTION.start for one in said.evidence} & near
    there = sorted(cell for cell in others if int(tokens[SOLUTION.start + cell]) == MASK_ID)
    return _Place(there[rng.integers(len(there))], named, int(said.value)) if there else None


def _weights(cells: Bool[np.ndarray, " cell"], up: int | None, down: int) -> Float[np.ndarray, "cell digit"]:
    """Returns the mean over some cells of a digit's log-probability, less that of another."""
    weights = np.zeros((N_CELLS, 9), dtype=np.float32)
    if cells.any():
        weights[cells, down - 1] = -1 / cells.sum()
        if up is not None:
            weights[cells, up - 1] = 1 / cells.sum()
    return weights


def _forced(candidates: Bool[np.ndarray, "cell digit"], peers: Bool[np.ndarray, " cell"], digit: int) -> Float[np.ndarray, "cell digit"]:
    """Returns the weights at peers with two candidates, one of them the digit: the other must rise, and the digit fall."""
    cells = np.flatnonzero(peers & (candidates.sum(1) == 2) & candidates[:, digit - 1])
    weights = np.zeros((N_CELLS, 9), dtype=np.float32)
    for cell in cells:
        weights[cell, candidates[cell]] = 1 / len(cells)
        weights[cell, digit - 1] = -1 / len(cells)
    return weights


def _other_digit(own: int, options: Sequence[Float[np.ndarray, "cell digit"]], rng: np.random.Generator) -> int:
    """Returns a drawn digit that would force some cell; any other where none would."""
    others = [digit for digit in range(1, 10) if digit != own]
    forcing = [digit for digit in others if options[digit - 1].any()]
    return int(rng.choice(forcing or others))


@dataclass(frozen=True)
class _Board:
    """What one call read of one board, and what it said."""

    tokens: Int[Tensor, " pos"]
    base: Float[Tensor, "cell digit"]
    candidates: Bool[np.ndarray, "cell digit"]
    free: Bool[np.ndarray, " cell"]


def _row(board: _Board, said: Statement, rng: np.random.Generator) -> dict[str, Tensor] | None:
    """Returns the columns of one claim that depend on its board; None where there is nothing to push, or to look at."""
    place = _place(said, board.tokens, rng)
    if place is None:
        return None
    own, at_itself = int(board.base[place.cell].argmax()) + 1, said.kind in AT_ITSELF
    near = np.isin(np.arange(N_CELLS), PEERS[place.cell])
    peers, away = near & board.free, ~near & board.free & (np.arange(N_CELLS) != place.cell)
    if away.sum() < 2 or not peers.any():
        return None
    far = int(rng.choice(np.flatnonzero(away)))
    away[far] = False
    options = [_forced(board.candidates, peers, digit) for digit in range(1, 10)]
    other = _other_digit(own, options, rng) if at_itself else place.digit
    if other == own:
        return None
    up = own if at_itself else None
    about = peers if at_itself else np.arange(N_CELLS) == place.named
    weights = {"expected": _weights(about, up, other), "elsewhere": _weights(away, up, other), "consequence": options[other - 1]}
    numbers = {"cell": place.cell, "stated": place.digit, "own": own, "other": other, "far": far}
    found = {name: torch.tensor(value) for name, value in numbers.items()} | {name: torch.from_numpy(one) for name, one in weights.items()}
    return {**found, "tokens": board.tokens, "base": board.base}


def _claims(
    model: LanguageModel, run: Trajectory, statements: Sequence[Statement], most: int | None, rng: np.random.Generator
) -> list[dict[str, Tensor]]:
    """Returns the columns of claims of statements of one kind, a dictionary a claim."""
    found = []
    for part, step in enumerate(middle_calls(run)):
        tokens = torch.from_numpy(run.tokens(step - 1))
        candidates, free = candidates_of(tokens), tokens[:, SOLUTION].numpy() == MASK_ID
        drawn = _drawn([one for one in statements if _stands(one, step, free)], rng)[:most]
        base = digit_log_probabilities(model, tokens[[one.sample for one in drawn]]) if drawn else ()
        for said, spoken in zip(drawn, base, strict=True):
            board = _Board(tokens[said.sample], spoken, candidates[said.sample], free[said.sample])
            row = _row(board, said, rng)
            if row is not None:
                labels = {"part": part, "sample": said.sample, "step": step}
                found.append({**row, **{name: torch.tensor(value) for name, value in labels.items()}})
    return found


def claims_of(
    model: LanguageModel,
    run: Trajectory,
    statements: Sequence[Statement],
    kinds: Sequence[str],
    *,
    most: int | None = None,
    seed: int = 0,
) -> dict[str, Claims]:
    """Returns the claims of each kind of statement in the middle call of each third of a run, one a board and call, drawn.

    A claim about its own cell (``decided``, ``only_candidate``) is put in question there: another digit, if possible one that would leave
    some other cell a single candidate. A reason that rests on other cells is put in question at one of them, drawn: as if the digit went
    there; then the named cell must lose it. Boards without a far unwritten cell drop out, and so do kinds without any claim.

    Args:
        model: The model of the run.
        run: Of one sample a board.
        statements: About the run.
        kinds: Which to test.
        most: At most so many boards a kind and call.
        seed: Of all draws.

    Raises:
        FaithfulnessError: Where no statement of these kinds can be tested.
    """
    found = {}
    for kind in kinds:
        rows = _claims(model, run, [one for one in statements if one.kind == kind], most, np.random.default_rng(seed))
        if rows:
            found[kind] = Claims(*(torch.stack([row[column.name] for row in rows]) for column in fields(Claims)))
    if not found:
        raise FaithfulnessError(f"no statement of the kinds {', '.join(kinds)} can be tested in the calls {middle_calls(run)} of the run")
    return found
