"""The pseudo chain of thought of a run that writes a story: what will be in the text, told before it is written.

A statement comes from what the readers found in the places that were not written, and from what was written. It is about the text as a
whole, and between steps: the reading re-runs the model on the canvas that the call saw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from interp.narration.statements import Evidence, Statement
from interp.reading.stories import MOVED, StoryReading
from interp.reading.story_claims import Claims
from interp.reading.story_facts import FACTS, Fact
from interp.reading.story_thresholds import StoryThresholds, claims_of_story
from models.hookpoints import resid_post
from models.tasks.stories.task import MASK_ID


@dataclass(frozen=True)
class _Head:
    """One head of one fact in one run."""

    reading: StoryReading
    claims: Claims
    fact: Fact
    sample: int
    place: int
    """Among the heads of the fact that are read."""

    @property
    def name(self) -> str:
        return self.reading.readers.heads[self.fact.name][self.place]

    @property
    def first(self) -> int:
        """The first call that claims it."""
        return int(self.claims.first[self.sample, self.place])

    @property
    def shown(self) -> int:
        """The step that writes it for good; one more than the last step where none does."""
        return int(self.claims.shown[self.sample, self.place])

    @property
    def comes(self) -> bool:
        return self.shown < self.claims.probability.shape[1]

    @property
    def last(self) -> int:
        """The last network call of the run."""
        return int(self.reading.trajectory.calls[self.sample])

    def claimed(self, step: int) -> bool:
        """Returns whether a call claims it."""
        return bool(self.claims.probability[self.sample, step, self.place] > self.claims.threshold[self.sample])

    def read_at(self, step: int) -> tuple[int, ...]:
        """Returns the places that a call's reading is the mean of: what it found unwritten, and the fact is asked of."""
        canvas = self.reading.trajectory.tokens(step - 1)[self.sample]
        places = np.flatnonzero(canvas == MASK_ID)
        return tuple(places[places >= self.fact.from_place * len(canvas)].tolist())

    def evidence(self, step: int) -> tuple[Evidence, ...]:
        """Returns what a call read: the calibrated probability, and the place where it was read the strongest."""
        probability = self.claims.probability[self.sample, step, self.place]
        if np.isnan(probability):
            return ()
        head = f"{self.fact.name}: {self.name}"
        at = {"sample": self.sample, "step": step, "layer": self.fact.layer, "head": head}
        position = int(self.reading.strongest.sel(at).item())
        reader = f"{MOVED} {self.fact.concept}"
        return (
            Evidence(reader, str(resid_post(self.fact.layer)), step, position, head, round(float(probability), 4), f"token {position}"),
        )

    def say(self, step: int, kind: str, text: str, positions: tuple[int, ...] = (), evidence: tuple[Evidence, ...] = ()) -> Statement:
        """Returns an ungraded statement."""
        return Statement(self.sample, step, kind, text, positions, self.name, evidence)


def _asked(head: _Head) -> Iterator[Statement]:
    """Yields that the prompt shows it, and whether that is read where nothing is written, if it is still asked there."""
    evidence, positions = head.evidence(1), head.read_at(1)
    seen = f" ({'read' if head.claimed(1) else 'not read'} in {_places(positions)})" if evidence else ""
    yield head.say(1, "as_asked", f"{head.fact.name} {head.name}, as asked{seen}", positions if evidence else (), evidence)


def _places(positions: tuple[int, ...]) -> str:
    return f"{len(positions)} unwritten place{'' if len(positions) == 1 else 's'}"


def _foreseen(head: _Head) -> Iterator[Statement]:
    """Yields the first claim, when it is dropped and taken up again, and what becomes of it."""
    step = head.first
    yet = "what is written shows it, but not to stay" if _shows(head, step - 1) else "nothing written shows it yet"
    told = head.fact.claim.format(head=head.name)
    text = f"{told} (read in {_places(head.read_at(step))} after layer {head.fact.layer}; {yet})"
    lead = head.shown - step if head.comes else None
    yield Statement(head.sample, step, "foreseen", text, head.read_at(step), head.name, head.evidence(step), head.comes, lead)
    for call in range(step + 1, min(head.shown, head.last + 1)):
        if head.evidence(call) and head.claimed(call) != head.claimed(call - 1):
            kind, now = ("taken_up", "read again") if head.claimed(call) else ("dropped", "no longer read")
            yield head.say(call, kind, f"{head.fact.name} {head.name}: {now}", head.read_at(call), head.evidence(call))
    if not head.comes:
        yield head.say(head.last, "contradicted", f"{head.fact.name} {head.name}, read since call {step}, never came")


def _shows(head: _Head, step: int) -> bool:
    at = {"sample": head.sample, "step": step, "head": f"{head.fact.name}: {head.name}"}
    return bool(head.reading.shown.sel(at).item())


def _written(head: _Head) -> Iterator[Statement]:
    """Yields that it is written, with the calls since it was first claimed."""
    before, after = (head.reading.trajectory.tokens(step)[head.sample] for step in (head.shown - 1, head.shown))
    foreseen = f", read since call {head.first}" if head.first < head.shown else ", not read before"
    text = f"{head.fact.name} {head.name} is now written{foreseen}"
    lead = head.shown - head.first if head.first < head.shown else None
    positions = tuple(np.flatnonzero(before != after).tolist())
    yield Statement(head.sample, head.shown, "appeared", text, positions, head.name, (), lead=lead)


def _of_head(head: _Head) -> Iterator[Statement]:
    if head.shown == 0:
        yield from _asked(head)
        return
    if head.first < head.shown:
        yield from _foreseen(head)
    if head.comes:
        yield from _written(head)


def narrate_story(reading: StoryReading, thresholds: StoryThresholds) -> list[Statement]:
    """Returns the statements of every run, in the order of its steps.

    ``as_asked``: the prompt shows it, with whether it is read. ``foreseen``: a call claims, for the first time, that the text will show
    something that is not written for good; ``dropped`` and ``taken_up``: later calls do not, or do again. ``appeared``: it is written, and
    stays. ``contradicted``: it was foreseen, and the run ended without it.

    There is no reference text. The truth of a claim that something *will* occur is the text that the run ended with: ``sound`` of
    ``foreseen`` says whether that shows it, and its ``lead`` how many calls later the canvas does for good (None: never). Nothing else is
    graded. Claims hold a rate of false alarms over all calls of a run (``StoryThresholds.false_alarm``, of the runs it was fitted on).

    Args:
        reading: With the moved readers at the layers of the facts.
        thresholds: Of the moved readers.
    """
    found = claims_of_story(reading, thresholds)
    heads = (
        _Head(reading, claims, FACTS[name], sample, place)
        for sample in range(reading.trajectory.n_samples)
        for name, claims in found.items()
        for place in range(claims.shown.shape[1])
    )
    statements = [statement for head in heads for statement in _of_head(head)]
    return sorted(statements, key=lambda statement: (statement.sample, statement.step))
