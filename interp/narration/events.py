"""What happened in a run, as its readers saw it: no task, no words, only readings and tokens.

A claim is a head that passes its reader's threshold (see ``Reading.readable``); of an exclusive concept only the likeliest head can. Only
positions that a call found unwritten are asked. A reading of step s is what stands inside network call s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.narration.statements import Evidence
from interp.reading import Readable, Reader, Reading
from models.trajectory import State, Trajectory

EventKind = Literal["readable", "decided", "next", "committed", "justified", "revised", "remasked", "contradicted", "lost"]


@dataclass(frozen=True)
class Event:
    """Something that happened at a position in a network call.

    ``readable``: a head is claimed for the first time. ``decided``: a head of an exclusive concept is claimed, and was not a call ago, of a
    position that this call leaves unwritten. ``lost``: it was claimed a call ago and now no head is. ``contradicted``: it was claimed, a
    call ago or in this one, and now another head is, or another one is written. ``next``: among the unwritten positions it is read the
    surest, and the next call is expected to write as many as this one, 1 at least. ``committed``: written; ``justified``: the head that
    was written was claimed in that very call; ``revised``: written over; ``remasked``: taken back.
    """

    sample: int
    step: int
    kind: EventKind
    position: int
    head: str | None
    """What is claimed; for what was written, the head of its token, None where it has none."""
    lead: int | None
    """Calls until the position is written (None: never); of ``committed`` how many calls before it its head was first claimed for good."""
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class Claims:
    """What one concept's reader claims in a run, and what was written; heads and tokens as indices of heads, -1 for no head."""

    trajectory: Trajectory
    asked: str
    """What is read, as evidence names it."""
    point: str
    """Where it is read, as evidence names it."""
    exclusive: bool
    """Whether at most one head is true."""
    heads: tuple[str, ...]
    positions: Int[np.ndarray, " place"]
    """Where in the canvas the readings are."""
    probability: Float[np.ndarray, "sample step place head"]
    """What was read; NaN in no call."""
    claimed: Bool[np.ndarray, "sample step place head"]
    """Which heads pass their threshold; of an exclusive concept one at most."""
    spoken: Mapping[int, str]
    """The head that a token says, by token id; tokens that say none are left out."""

    @cached_property
    def claim(self) -> Int[np.ndarray, "sample step place"]:
        """The head claimed, of an exclusive concept, of a position that the call found unwritten."""
        asked = np.roll(self.open, 1, axis=1)
        return np.where(asked & self.claimed.any(axis=-1), self.claimed.argmax(axis=-1), -1)

    @cached_property
    def open(self) -> Bool[np.ndarray, "sample step place"]:
        """Which positions are unwritten after a step."""
        states = self.trajectory.data["state"].values[:, :, self.positions]
        return (states == State.MASKED) | (states == State.REMASKED)

    @cached_property
    def written(self) -> Int[np.ndarray, "sample step place"]:
        """The head of the token in place after a step."""
        tokens = self.trajectory.data["token"].values[:, :, self.positions]
        found = np.full(tokens.shape, -1)
        for token, head in self.spoken.items():
            found[tokens == token] = self.heads.index(head)
        return np.where(self.open, -1, found)

    def evidence(self, sample: int, step: int, place: int, head: int) -> tuple[Evidence, ...]:
        """Returns what was read of a head, as evidence; nothing for no head."""
        if head < 0:
            return ()
        probability = round(float(self.probability[sample, step, place, head]), 4)
        return (Evidence(self.asked, self.point, step, int(self.positions[place]), self.heads[head], probability),)


def claims_of(reading: Reading, name: str, spoken: Mapping[int, str]) -> Claims:
    """Returns what the reader of a concept claims in a run, at its own thresholds.

    Raises:
        ReadingError: Where the reader has no thresholds.
    """
    reader, scores, passed = reading.readers[name], reading.scores[name], reading.readable(name).values
    exclusive = isinstance(reader, Reader) and reader.concept.exclusive
    if exclusive:
        passed = passed & (np.arange(passed.shape[-1]) == scores.values.argmax(axis=-1)[..., None])
    return Claims(
        reading.trajectory,
        asked=asked(reader),
        point=str(reader.point),
        exclusive=exclusive,
        heads=tuple(reader.heads),
        positions=scores["position"].values,
        probability=scores.values,
        claimed=passed,
        spoken=spoken,
    )


def asked(reader: Readable) -> str:
    """Returns what a reader reads, without where."""
    return reader.name.partition(" @ ")[0]


@dataclass(frozen=True)
class Leads:
    """How many calls before its writing the final token of a position was readable, one a written position; 0 is not before."""

    sample: Int[np.ndarray, " written"]
    position: Int[np.ndarray, " written"]
    step: Int[np.ndarray, " written"]
    """The call that wrote it."""
    first: Float[np.ndarray, " written"]
    """Since it was first claimed, whatever was claimed in between."""
    stable: Float[np.ndarray, " written"]
    """Since when it was claimed in every call."""


def _held(claims: Claims, sample: int, step: int, place: int) -> Bool[np.ndarray, " call"]:
    """Returns in which calls, step 0 (never) to ``step``, the head that stands there after the step was claimed."""
    head = claims.written[sample, step, place]
    return claims.claimed[sample, : step + 1, place, head] & (head >= 0)


def _calls_held(held: Bool[np.ndarray, " call"]) -> int:
    """Returns how many calls before the last it has been true without a break, the last included; 0 where it is not."""
    return max(int((~held[::-1]).argmax()) - 1, 0)


def leads_of(claims: Claims) -> Leads:
    """Returns the lead of every position that was written for good."""
    commit = claims.trajectory.data["commit_step"].values[:, claims.positions]
    samples, places = np.nonzero(commit > 0)
    first, stable = np.zeros(len(samples)), np.zeros(len(samples))
    for index, (sample, place) in enumerate(zip(samples.tolist(), places.tolist(), strict=True)):
        held = _held(claims, sample, int(commit[sample, place]), place)
        first[index] = len(held) - 1 - held.argmax() if held.any() else 0
        stable[index] = _calls_held(held)
    return Leads(samples, claims.positions[places], commit[samples, places], first, stable)


def _until_written(claims: Claims, sample: int, step: int, place: int) -> int | None:
    """Returns the calls from a step to the one that writes the position next; None where none does."""
    after = ~claims.open[sample, step:, place]
    return int(after.argmax()) if after.any() else None


def _turns(claims: Claims, sample: int, step: int, place: int) -> Iterator[tuple[EventKind, int, tuple[Evidence, ...]]]:
    """Yields kind, head and evidence of the claims made and taken back of one position that the call found unwritten."""
    stood, now = (int(claims.claim[sample, one, place]) for one in (step - 1, step))
    written = int(claims.written[sample, step, place])
    left_open = bool(claims.open[sample, step, place])
    own = claims.evidence(sample, step, place, now)
    if left_open and now >= 0 and now != stood:
        yield "decided", now, own
    if stood >= 0 and now < 0 and left_open:
        yield "lost", stood, claims.evidence(sample, step, place, stood)
    instead = now if left_open else written
    if stood >= 0 and instead >= 0 and stood != instead:
        yield "contradicted", stood, (*claims.evidence(sample, step - 1, place, stood), *claims.evidence(sample, step, place, instead))
    elif not left_open and stood < 0 <= now and now != written:
        yield "contradicted", now, own


def _of_claims(claims: Claims, sample: int, step: int, place: int) -> Iterator[Event]:
    """Yields the claims made and taken back of one position that the call found unwritten."""
    for kind, head, evidence in _turns(claims, sample, step, place):
        lead = _until_written(claims, sample, step, place)
        yield Event(sample, step, kind, int(claims.positions[place]), claims.heads[head], lead, evidence)


def _of_tokens(claims: Claims, sample: int, step: int, place: int) -> Iterator[Event]:
    """Yields what the call did to one position."""
    before, after = claims.written[sample, step - 1 : step + 1, place].tolist()
    was_open, is_open = claims.open[sample, step - 1 : step + 1, place].tolist()
    position = int(claims.positions[place])
    head = claims.heads[after] if after >= 0 else None
    if was_open and not is_open:
        held = _held(claims, sample, step, place)
        lead = _calls_held(held)
        evidence = claims.evidence(sample, step, place, after)
        yield Event(sample, step, "committed", position, head, lead, evidence)
        if held[-1]:
            yield Event(sample, step, "justified", position, head, lead, evidence)
    elif is_open and not was_open:
        yield Event(sample, step, "remasked", position, claims.heads[before] if before >= 0 else None, None, ())
    elif not is_open and before != after:
        yield Event(sample, step, "revised", position, head, None, claims.evidence(sample, step, place, after))


def _next(claims: Claims, sample: int, step: int) -> Iterator[Event]:
    """Yields which positions the next call is expected to write: those read the surest, as many as this call wrote."""
    was_open, is_open = claims.open[sample, step - 1 : step + 1]
    sure = claims.probability[sample, step].max(axis=-1)
    order = np.argsort(np.where(is_open, -sure, np.inf), kind="stable")
    many = max(int((was_open & ~is_open).sum()), 1)
    for place in order[: min(many, int(is_open.sum()))].tolist():
        head = int(claims.probability[sample, step, place].argmax())
        lead, evidence = _until_written(claims, sample, step, place), claims.evidence(sample, step, place, head)
        yield Event(sample, step, "next", int(claims.positions[place]), claims.heads[head], lead, evidence)


def events(claims: Claims) -> Iterator[Event]:
    """Yields what happened to every position of every sample, in the order of its steps.

    Of a concept that is not exclusive only ``readable``, ``committed``, ``justified``, ``revised`` and ``remasked``.
    """
    last = claims.trajectory.last_step
    asked = claims.claimed[:, 1:] & claims.open[:, :-1, :, None]
    first = np.where(asked.any(axis=1), asked.argmax(axis=1) + 1, 0)
    changed = (claims.written[:, 1:] != claims.written[:, :-1]) | (claims.open[:, 1:] != claims.open[:, :-1])
    for sample in range(len(claims.open)):
        for step in range(1, int(last[sample]) + 1):
            for place, head in np.argwhere(first[sample] == step).tolist():
                evidence, lead = claims.evidence(sample, step, place, head), _until_written(claims, sample, step, place)
                yield Event(sample, step, "readable", int(claims.positions[place]), claims.heads[head], lead, evidence)
            for place in np.flatnonzero(claims.open[sample, step - 1] & claims.exclusive).tolist():
                yield from _of_claims(claims, sample, step, place)
            for place in np.flatnonzero(changed[sample, step - 1]).tolist():
                yield from _of_tokens(claims, sample, step, place)
            if claims.exclusive:
                yield from _next(claims, sample, step)
