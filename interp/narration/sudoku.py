"""The pseudo chain of thought of a sudoku run: statements from templates, each with its evidence, each graded by the rules.

A statement comes from what the readers found and what the policy wrote, never from the board. The board that the call saw only grades it:
a reason is sound where the same rule, in the same unit, holds on the true candidates, whether or not the digit is right. What is said to
be decided is sound where the run ends with it: the claim is about the model, not about the puzzle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

import numpy as np
from jaxtyping import Float, Int, Int8

from interp.concepts.sudoku import DIGITS, candidate_sets
from interp.narration.events import Claims, Event, asked, claims_of, events, leads_of
from interp.narration.ladder import EXCLUDED, POSSIBLE, in_words, kind_of, reason_for, rests_on, sureness
from interp.narration.statements import Evidence, Statement
from interp.reading import Reading
from models.tasks.sudoku.board import PEERS, cell_name
from models.tasks.sudoku.deductions import Deduction, Grid
from models.tasks.sudoku.task import SOLUTION, SUDOKU
from models.trajectory import Trajectory

SPOKEN = {int(digit): digit for digit in DIGITS}
"""The head that each token says."""
EVIDENCE = 4
"""At most so many absent candidates are named as evidence, the most doubtful first."""
NAMED = 3
"""At most so many cells are named where more have something in common."""


@dataclass(frozen=True)
class Call:
    """One network call of one sample: the board it saw and the board it left, with the digit reader's claims."""

    claims: Claims
    boards: Int8[np.ndarray, "sample step cell"]
    sample: int
    step: int

    @property
    def before(self) -> Int8[np.ndarray, " cell"]:
        """The board that the call saw; 0 is unwritten."""
        return self.boards[self.sample, self.step - 1]

    @property
    def after(self) -> Int8[np.ndarray, " cell"]:
        """The board that it left."""
        return self.boards[self.sample, self.step]

    @property
    def end(self) -> Int8[np.ndarray, " cell"]:
        """The board that the run ends with."""
        return self.boards[self.sample, -1]

    @cached_property
    def truth(self) -> Grid:
        """The candidates by the rules, on the board that the call saw."""
        return candidate_sets(self.before[None])[0]

    def say(
        self, kind: str, text: str, cells: Iterable[int], value: str, evidence: tuple[Evidence, ...] = (), *, sound: bool | None = None
    ) -> Statement:
        """Returns a statement about cells in this call."""
        cells = tuple(cells)
        positions, places = tuple(SOLUTION.start + cell for cell in cells), tuple(map(cell_name, cells))
        named = tuple(replace(item, place=cell_name(item.position - SOLUTION.start)) for item in evidence)
        return Statement(self.sample, self.step, kind, text, positions, value, named, sound, places=places)

    def give(self, reason: Deduction, evidence: tuple[Evidence, ...], sure: str = "") -> Statement:
        """Returns the statement that a reason is why its cell was written, graded."""
        text = f"{cell_name(reason.cell)} = {reason.digit}: {in_words(reason)}{sure}"
        return self.say(kind_of(reason), text, [reason.cell], str(reason.digit), evidence, sound=reason.holds(self.truth))


Justify = Callable[[Call, int], Statement]
"""How a narrator says why a call wrote a cell."""


def _cells(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def by_readers(reading: Reading) -> Justify:
    """Returns how the readers of candidates and digits say why a cell was written."""
    reader, scores = reading.readers["candidates"], reading.scores["candidates"].values
    asked_of, point = asked(reader), str(reader.point)

    def evidence(call: Call, place: int, head: int) -> Evidence:
        probability = round(float(scores[call.sample, call.step, place, head]), 4)
        return Evidence(asked_of, point, call.step, SOLUTION.start + place, DIGITS[head], probability)

    def justify(call: Call, cell: int) -> Statement:
        read, unwritten = scores[call.sample, call.step], call.before == 0
        digit = int(call.after[cell])
        name, own = f"{cell_name(cell)} = {digit}", evidence(call, cell, digit - 1)
        reason = reason_for(read, unwritten, cell, digit)
        if reason is not None:
            doubtful = [evidence(call, *place) for place in rests_on(reason, read, unwritten)[:EVIDENCE]]
            return call.give(reason, (own, *doubtful), f" (p {sureness(reason, read, unwritten):.2f})")
        if own.probability < EXCLUDED:
            text = f"{name}: written although {digit} reads as excluded (p {1 - own.probability:.2f})"
            return call.say("excluded", text, [cell], str(digit), (own,), sound=not call.truth[cell, digit - 1])
        if call.claims.claim[call.sample, call.step, cell] == digit - 1:
            sure = call.claims.evidence(call.sample, call.step, cell, digit - 1)
            text = f"{name}: read as decided (p {sure[0].probability:.2f}), with no readable reason"
            return call.say("guess", text, [cell], str(digit), sure)
        possible = [head for head in range(9) if read[cell, head] >= POSSIBLE]
        text = f"{name}: no readable reason; {', '.join(DIGITS[head] for head in possible) or 'nothing'} read as possible"
        return call.say("unexplained", text, [cell], str(digit), tuple(evidence(call, cell, head) for head in possible))

    return justify


def _written_since(call: Call, cell: int) -> list[str]:
    """Returns what was written in a cell's units after the cell last was, up to the call before this one."""
    held = call.boards[call.sample, : call.step, cell]
    since = call.step - int((held[::-1] != held[-1]).argmax()) if (held != held[-1]).any() else 0
    earlier, now = call.boards[call.sample, since], call.before
    return [f"{cell_name(peer)} = {now[peer]}" for peer in PEERS[cell].tolist() if now[peer] > 0 and now[peer] != earlier[peer]]


def _no_digit(call: Call, cell: int) -> Statement:
    return call.say("unexplained", f"{cell_name(cell)}: what was written is no digit", [cell], "")


def _changed(call: Call, event: Event, cell: int) -> Statement:
    old, new = int(call.before[cell]), int(call.after[cell])
    since = _written_since(call, cell)
    after = f", after {_cells(since)} {'was' if len(since) == 1 else 'were'} written" if since else ""
    what = f"{old} -> {new}" if new else f"{old} taken back"
    return call.say(event.kind, f"{cell_name(cell)}: {what}{after}", [cell], str(new or old), event.evidence)


def _claimed(call: Call, event: Event, cell: int) -> Statement:
    sure = event.evidence[0].probability
    text = f"{cell_name(cell)} = {event.head} already decided, not yet written (p {sure:.2f})"
    decided = call.say("decided", text, [cell], str(event.head), event.evidence, sound=event.head == str(call.end[cell]))
    return replace(decided, lead=event.lead)


def _taken_back(call: Call, event: Event, cell: int) -> Statement:
    name, first = cell_name(cell), event.evidence[0]
    if event.kind == "lost":
        text = f"{name}: {event.head} no longer reads as decided (p {first.probability:.2f})"
    else:
        now = f"written {call.after[cell]}" if call.after[cell] else f"now as {event.evidence[-1].head}"
        text = f"{name} read as {event.head} at step {first.step}, {now}"
    return call.say(event.kind, text, [cell], str(event.head), event.evidence)


def _about_all(call: Call, happened: list[Event]) -> Iterator[Statement]:
    """Yields what is said of many cells at once: how many are decided, and which come next."""
    standing = np.flatnonzero((call.claims.claim[call.sample, call.step] >= 0) & (call.after == 0)).tolist()
    if standing and any(event.kind in ("decided", "lost", "contradicted") for event in happened):
        text = f"{len(standing)} unwritten cell{'s' if len(standing) > 1 else ''} already decided"
        yield call.say("standing", text, standing, "")
    following = [event for event in happened if event.kind == "next"]
    if following:
        cells = [event.position - SOLUTION.start for event in following]
        text = f"next: {', '.join(f'{cell_name(cell)} = {event.head}' for cell, event in zip(cells, following, strict=True))}"
        evidence = tuple(item for event in following for item in event.evidence)
        said = call.say("next", text, cells, str(following[0].head) if len(cells) == 1 else "", evidence)
        yield replace(said, lead=following[0].lead if len(cells) == 1 else None)


_TELLS: dict[str, Callable[[Call, Event, int], Statement]] = {
    "revised": _changed,
    "remasked": _changed,
    "contradicted": _taken_back,
    "lost": _taken_back,
    "decided": _claimed,
}


def boards_of(trajectory: Trajectory) -> Int8[np.ndarray, "sample step cell"]:
    """Returns the board after every step of every sample, 0 where a cell is unwritten."""
    return np.stack([SUDOKU.boards(trajectory.tokens(step)) for step in range(trajectory.n_steps + 1)], axis=1)


def tell(claims: Claims, justify: Justify) -> list[Statement]:
    """Returns the account of every sample: what the claims of a digit reader and a way to justify what is written make of its events."""
    statements: list[Statement] = []
    boards = boards_of(claims.trajectory)
    for (sample, step), group in groupby(events(claims), key=lambda event: (event.sample, event.step)):
        call, happened = Call(claims, boards, sample, step), list(group)
        for event in happened:
            cell = event.position - SOLUTION.start
            if event.kind == "committed":
                said = _no_digit(call, cell) if event.head is None else justify(call, cell)
                statements.append(replace(said, lead=event.lead))
        for kind, told in _TELLS.items():
            statements += [told(call, event, event.position - SOLUTION.start) for event in happened if event.kind == kind]
        statements += _about_all(call, happened)
    return statements


def narrate(reading: Reading) -> list[Statement]:
    """Returns the statements of every sample, in the order of its steps.

    Of what was written: ``only_candidate``, ``only_place`` and ``elimination`` give the reason that the candidate reader has; without one,
    ``excluded`` says that the digit was read as impossible, ``guess`` that it was read as decided, ``unexplained`` neither. Of what was not
    yet: ``decided`` names a digit that reads as decided, ``standing`` how many do, ``next`` which the next call is expected to write,
    ``lost`` and ``contradicted`` what is taken back. ``revised`` and ``remasked`` tell a change of a written cell, and what had been
    written in its units since.

    Args:
        reading: With the concepts ``candidates`` and ``digit``.
    """
    return tell(claims_of(reading, "digit", SPOKEN), by_readers(reading))


def lead_steps(reading: Reading, *, stable: bool = False) -> tuple[Float[np.ndarray, " cell"], Int[np.ndarray, " cell"]]:
    """Returns, for every cell written, how many steps before its writing its final digit first read as decided; and its sample.

    0 where it never did before.

    Args:
        reading: With the concept ``digit``.
        stable: Count only from where it read as decided in every call up to the writing.
    """
    leads = leads_of(claims_of(reading, "digit", SPOKEN))
    return (leads.stable if stable else leads.first), leads.sample
