"""What an account of a run got right, sample by sample: sound, complete, early, and right about what comes next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from interp.narration import JUSTIFICATIONS, Statement, Support
from interp.report import Estimate
from interp.scoring import estimate
from models.tasks import TASKS, puzzle_task
from models.trajectory import State, Trajectory
from probes.metrics import bootstrap_mean, bootstrap_ratio

DOUBTS = ("excluded", "contradicted")
"""The kinds that speak against what was written."""
LEADS = {"1": (1, 1), "2": (2, 2), "3-5": (3, 5), "6-10": (6, 10), "> 10": (11, 10**6)}
"""Bands of lead time: how many calls before its writing a token was claimed."""


@dataclass(frozen=True)
class Tally:
    """So many of so many, sample by sample."""

    hits: Float[np.ndarray, " sample"]
    of: Float[np.ndarray, " sample"]

    def estimate(self, seed: int) -> Estimate:
        """Returns sum of hits / sum of what they are of, with an interval that resamples samples; n is the samples that have any.

        A share of exactly 0 or 1 has Wilson's interval. Where no sample has any, the figure is NaN of n 0.
        """
        some = self.of > 0
        if not some.any():
            return Estimate(value=float("nan"), low=float("nan"), high=float("nan"), n=0)
        hits, of = torch.from_numpy(self.hits[some]), torch.from_numpy(self.of[some])
        if bool((hits == of).all() or (hits == 0).all()):
            return estimate(bootstrap_mean(hits / of, seed=seed))
        return estimate(bootstrap_ratio(hits, of, seed=seed))


Verdict = dict[tuple[str, str], Tally]
"""By measure and detail (a band of lead time, or none)."""


@dataclass(frozen=True)
class _Run:
    """What a run wrote, and when."""

    tokens: Int[np.ndarray, "sample step pos"]
    unwritten: Bool[np.ndarray, "sample step pos"]
    """After each step."""
    writes: Bool[np.ndarray, "sample step pos"]
    """Which step put a token where there was a mask."""
    changes: Bool[np.ndarray, "sample step pos"]
    """Which step changed a token, or took it back."""

    @property
    def next_write(self) -> Int[np.ndarray, "sample step pos"]:
        """The first step after each in which a position is written; 0 where there is none."""
        found = np.zeros(self.writes.shape, dtype=int)
        for step in range(self.writes.shape[1] - 2, -1, -1):
            found[:, step] = np.where(self.writes[:, step + 1], step + 1, found[:, step + 1])
        return found

    def tally(self, hits: Bool[np.ndarray, "sample step pos"], of: Bool[np.ndarray, "sample step pos"]) -> Tally:
        """Returns how many of some marks are hits."""
        return Tally((hits & of).sum((1, 2)).astype(float), of.sum((1, 2)).astype(float))


def _run_of(trajectory: Trajectory) -> _Run:
    tokens = trajectory.data["token"].values.astype(np.int64)
    asked = ~np.isin(trajectory.data["state"].values[:, :1], (State.PROMPT, State.PADDING))
    unwritten = asked & (tokens == TASKS[trajectory.task].mask_token_id)
    before, first = unwritten[:, :-1], np.zeros_like(unwritten[:, :1])
    writes = np.concatenate([first, before & ~unwritten[:, 1:]], axis=1)
    changes = np.concatenate([first, asked & ~before & (tokens[:, 1:] != tokens[:, :-1])], axis=1)
    return _Run(tokens, unwritten, writes, changes)


@dataclass(frozen=True)
class _Claims:
    """Statements of some kinds as marks on a run: a row a statement and position."""

    sample: Int[np.ndarray, " row"]
    step: Int[np.ndarray, " row"]
    position: Int[np.ndarray, " row"]
    token: Int[np.ndarray, " row"]
    """-1 where it names none."""

    def marks(self, run: _Run) -> Bool[np.ndarray, "sample step pos"]:
        """Returns where and when there is a claim."""
        marked = np.zeros(run.tokens.shape, dtype=bool)
        marked[self.sample, self.step, self.position] = True
        return marked


def _claims(statements: Iterable[Statement], vocabulary: Sequence[str], kinds: Sequence[str], sound: bool | None = None) -> _Claims:
    """Returns the claims of some kinds, of those only that are sound, or not, where that is asked."""
    ids = {text: token for token, text in enumerate(vocabulary)}
    rows = [
        (one.sample, one.step, position, ids.get(one.value, -1))
        for one in statements
        if one.kind in kinds and (sound is None or one.sound is sound)
        for position in one.positions
    ]
    return _Claims(*np.array(rows, dtype=np.int64).reshape(-1, 4).T)


def _count(samples: Int[np.ndarray, " row"], n: int) -> Float[np.ndarray, " sample"]:
    return np.bincount(samples, minlength=n).astype(float)


def _counted(statements: Sequence[Statement], hit: Callable[[Statement], bool], samples: int) -> Tally:
    """Returns how many of some statements are hits, by sample."""
    whose = np.array([one.sample for one in statements], dtype=np.int64)
    return Tally(_count(whose[np.array([hit(one) for one in statements], dtype=bool)], samples), _count(whose, samples))


def _ahead(run: _Run, claims: _Claims, truth: Int[np.ndarray, "sample pos"]) -> Verdict:
    """Returns, of claims what will be written where nothing is yet: precision by lead time, recall, and lead time."""
    samples = len(run.tokens)
    place = claims.sample, claims.step, claims.position
    lead = run.next_write[place] - claims.step
    kept = run.unwritten[place] & (lead > 0)
    sample, step, position, token, lead = (column[kept] for column in (claims.sample, claims.step, claims.position, claims.token, lead))
    right = {"run": token == run.tokens[sample, -1, position], "truth": token == truth[sample, position]}
    found: Verdict = {}
    for band, (least, most) in {"": (1, 10**6), **LEADS}.items():
        within = (lead >= least) & (lead <= most)
        for name, hit in right.items():
            found[f"decided_{name}", band] = Tally(_count(sample[within & hit], samples), _count(sample[within], samples))
    written = _final_writes(run)
    first = np.full((samples, run.tokens.shape[2]), np.iinfo(np.int64).max)
    np.minimum.at(first, (sample[right["run"]], position[right["run"]]), step[right["run"]])
    late = written > 1
    early = np.where(late & (first < written), written - first, 0).astype(float)
    found["decided_recall", ""] = Tally((early > 0).sum(1).astype(float), late.sum(1).astype(float))
    found["lead", ""] = Tally(early.sum(1), late.sum(1).astype(float))
    return found


def _final_writes(run: _Run) -> Int[np.ndarray, "sample pos"]:
    """Returns the last step that wrote each position where there was a mask, 0 where none did."""
    steps = np.arange(run.writes.shape[1])[:, None]
    return np.where(run.writes, steps, 0).max(1)


def _foreseen(run: _Run, doubts: _Claims) -> Verdict:
    """Returns the share of the changes of written tokens that a doubt about the token came before, and of final tokens under a doubt."""
    marked, doubted = doubts.marks(run), np.zeros(run.tokens.shape, dtype=bool)
    for step in range(1, marked.shape[1]):
        standing = doubted[:, step - 1] & ~run.writes[:, step] & ~run.changes[:, step]
        doubted[:, step] = standing | marked[:, step]
    before = np.concatenate([np.zeros_like(doubted[:, :1]), doubted[:, :-1]], axis=1)
    last = np.zeros_like(doubted)
    last[:, -1] = run.writes.any(1) & ~run.unwritten[:, -1]
    return {("revisions_seen", ""): run.tally(before, run.changes), ("idle_doubts", ""): run.tally(doubted, last)}


def _foretold(run: _Run, claims: _Claims) -> Verdict:
    """Returns precision and recall of claims which positions the next call writes; what the first call writes cannot be claimed."""
    came = np.concatenate([run.writes[:, 1:], np.zeros_like(run.writes[:, :1])], axis=1)
    came[:, 0] = False
    claimed = claims.marks(run)
    return {("next_precision", ""): run.tally(came, claimed), ("next_recall", ""): run.tally(claimed, came)}


def verdict_of(
    trajectory: Trajectory,
    statements: Sequence[Statement],
    truth: Int[np.ndarray, "sample pos"],
    *,
    support: Mapping[str, Support] | None = None,
) -> Verdict:
    """Returns the verdict on an account, one tally a measure (see ``interp.verdict.MEASURES``).

    Args:
        trajectory: The run that was told.
        statements: What was told of it.
        truth: The true token of every position; what is not asked for does not matter.
        support: What a causal test makes of each kind of statement; None where there was none.
    """
    run, samples = _run_of(trajectory), trajectory.n_samples
    vocabulary = puzzle_task(TASKS[trajectory.task]).vocabulary
    graded = [one for one in statements if one.kind in JUSTIFICATIONS and one.sound is not None]
    reasons, sound = (_claims(statements, vocabulary, JUSTIFICATIONS, only).marks(run) for only in (None, True))
    found: Verdict = {
        ("sound", ""): _counted(graded, lambda one: bool(one.sound), samples),
        ("coverage", ""): run.tally(reasons, run.writes),
        ("explained", ""): run.tally(sound, run.writes),
        **_ahead(run, _claims(statements, vocabulary, ("decided",)), truth),
        **_foretold(run, _claims(statements, vocabulary, ("next",))),
        **_foreseen(run, _claims(statements, vocabulary, DOUBTS)),
    }
    if support is not None:
        tested = [one for one in statements if one.kind in support]
        found["supported", ""] = _counted(tested, lambda one: support[one.kind] == "used", samples)
    return found


def joined(parts: Sequence[Verdict]) -> Verdict:
    """Returns one verdict on the samples of several, in their order."""
    return {key: Tally(*(np.concatenate([getattr(part[key], name) for part in parts]) for name in ("hits", "of"))) for key in parts[0]}
