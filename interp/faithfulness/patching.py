"""What carries the answer: written tokens, or activations of one call? The state of one run is put into another (causal mediation)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from interp.dynamics import writable
from interp.faithfulness.base import (
    Case,
    FaithfulnessError,
    FaithfulnessTest,
    Gathered,
    mask_of,
    middle_of,
    named,
    share,
    shuffled,
    spoken,
    stops,
    with_canvas,
)
from interp.statistics import Measured, Statistic
from models.hookpoints import resid_post
from models.surgery import Moment
from models.trajectory import Trajectory

OTHER, OWN, MIXED = "another run's", "its own", "another run's, shuffled"
EVERYWHERE, QUESTION, ANSWER, ITSELF = "everywhere", "where the question is read", "where the answer is written", "everywhere, its own"
CALL_FIGURES = {
    "patching_call": (
        "Proposes what the other run's call did",
        "Of the positions unwritten in both runs for which their own calls proposed different tokens, the share for which the changed call "
        "proposes the other's.",
    ),
    "patching_end": (
        "Ends as in the other run",
        "Of the positions unwritten then at which the two runs ended differently, the share that ends as in the other.",
    ),
}
"""Title and meaning of what is measured of patched activations."""


@dataclass(frozen=True)
class _Pair:
    """Every run, and as its donor the run of the sample before it."""

    case: Case
    donor: Trajectory

    def among(self, canvas: Int[np.ndarray, "batch pos"]) -> Bool[np.ndarray, "batch pos"]:
        """Returns where a canvas is unwritten and the two runs end differently."""
        different = self.donor.tokens(-1) != self.case.run.tokens(-1)
        return writable(self.case.run) & (canvas == mask_of(self.case)) & different


def _paired(case: Case) -> _Pair:
    n = case.run.n_samples
    lengths = (case.run.tokens(0) >= 0).sum(axis=1)
    if n < 2 or len(set(lengths.tolist())) > 1:
        raise FaithfulnessError(f"{n} samples of {sorted(set(lengths.tolist()))} positions; patching needs 2 or more of one length")
    return _Pair(case, Trajectory(case.run.data.isel(sample=np.roll(np.arange(n), 1))))


def _tokens(pair: _Pair, gathered: Gathered) -> None:
    """Gathers what becomes of runs whose written tokens are another run's."""
    case, run = pair.case, pair.case.run
    rng, may, steps = np.random.default_rng(case.seed), writable(run), stops(run)
    for done, step in enumerate(steps):
        case.on_step(done, len(steps) + 1)
        theirs = np.where(may, pair.donor.tokens(step), run.tokens(step))
        mixed = shuffled(theirs, may & (theirs != mask_of(case)), rng)
        for line, canvas in ((OTHER, theirs), (MIXED, mixed), (OWN, run.tokens(step))):
            final = with_canvas(run.at(step), canvas).resume(case.model).tokens(-1)
            among = pair.among(canvas)
            for whose, end in ((OTHER, pair.donor), (OWN, run)):
                if (line, whose) != (OWN, OTHER):
                    gathered.add("patching_tokens", share(final == end.tokens(-1), among), tokens=line, follows=whose, step=step)


def _places(case: Case) -> dict[str, tuple[int, ...] | None]:
    """Returns the positions of the network at which the question stands alone, and those from which an answer is predicted."""
    first = int(writable(case.run).any(axis=0).argmax())
    split, end = max(case.model.reading_position(first), 1), case.run.tokens(0).shape[1]
    return {QUESTION: tuple(range(split)), ANSWER: tuple(range(split, end))}


def _patches(pair: _Pair, step: int) -> Iterator[tuple[str, int, Moment]]:
    """Yields (where, layer, moment): either part of the positions at up to three depths short of the last, and all at the middle one.

    All positions at once make the call wholly the other run's, whatever the depth.
    """
    n, here, there = pair.case.model.n_layers, pair.case.run.at(step), pair.donor.at(step)
    middle = (n - 1) // 2
    for layer in sorted({0, middle, max(n - 2, 0)}):
        for where, positions in _places(pair.case).items():
            yield where, layer, here.patch(resid_post(layer), there, positions)
    yield EVERYWHERE, middle, here.patch(resid_post(middle), there)
    yield ITSELF, middle, here.patch(resid_post(middle), here)


def _activations(pair: _Pair, gathered: Gathered) -> None:
    """Gathers what becomes of runs one call of which has another run's activations, at the middle stop."""
    run, step, n = pair.case.run, middle_of(pair.case.run), len(stops(pair.case.run))
    pair.case.on_step(n, n + 1)
    left, theirs = pair.among(run.tokens(step)), pair.donor.tokens(-1)
    own, other = (one.data["proposal"].values[:, step + 1] for one in (run, pair.donor))
    masked = (run.tokens(step) == mask_of(pair.case)) & (pair.donor.tokens(step) == mask_of(pair.case))
    told_apart = writable(run) & masked & (own != other)
    for where, layer, moment in _patches(pair, step):
        changed = moment.resume(pair.case.model)
        proposed = changed.data["proposal"].values[:, step + 1]
        gathered.add("patching_call", share(proposed == other, told_apart), where=where, layer=layer)
        gathered.add("patching_end", share(changed.tokens(-1) == theirs, left), where=where, layer=layer)


def measure(case: Case) -> list[Statistic]:
    """Returns how far runs follow the one whose state they were given: its tokens, and its activations in one call.

    Raises:
        FaithfulnessError: On one sample, samples of several lengths, or runs that all end alike.
    """
    pair, gathered = _paired(case), Gathered(case.seed)
    _tokens(pair, gathered)
    _activations(pair, gathered)
    if not {"patching_tokens", *CALL_FIGURES} <= set(gathered.values):
        raise FaithfulnessError("after the middle of the calls no two runs are unwritten at one position and differ there")
    tokens = Statistic(
        name="patching_tokens",
        title="Which run does it follow?",
        about=(
            "All that a run wrote gives way to what another wrote, prompts stay. Of the positions unwritten then at which the two runs "
            "ended differently, the share that ends as in either run. Floor: the same tokens shuffled. Control: its own tokens, which must "
            "change nothing."
        ),
        unit="share of positions",
        panels=(),
        lines=("tokens", "follows"),
        x="step",
        roles={f"{MIXED}, {OTHER}": "floor", f"{OWN}, {OWN}": "reference"},
        values=gathered.values["patching_tokens"],
    )
    return [tokens, *(_of_activations(name, middle_of(case.run) + 1, gathered.values[name]) for name in CALL_FIGURES)]


def _of_activations(name: str, call: int, values: list[Measured]) -> Statistic:
    title, about = CALL_FIGURES[name]
    return Statistic(
        name=name,
        title=title,
        about=(
            f"In call {call} the residual stream after a layer, at some positions or all, is that of another run's call. {about} Floor: "
            "its own in place of itself."
        ),
        unit="share of positions",
        panels=(),
        lines=("where",),
        x="layer",
        roles={ITSELF: "floor"},
        values=values,
    )


def findings(statistics: Sequence[Statistic]) -> list[str]:
    """Returns whether tokens carry the answer, and the figures."""
    found = named(statistics)
    tokens = found["patching_tokens"]
    said = []
    for step in dict.fromkeys(one.at["step"] for one in tokens.values):
        theirs, own, floor = (tokens.at(tokens=a, follows=b, step=step) for a, b in ((OTHER, OTHER), (OTHER, OWN), (MIXED, OTHER)))
        which = "more than" if theirs.low > floor.high else "not beyond doubt more than"
        said.append(
            f"Given another run's tokens after call {step}, {spoken(theirs)} end as in that run, {which} {spoken(floor)} with them "
            f"shuffled, and {spoken(own)} as in their own (n = {theirs.n})."
        )
    for one in found["patching_end"].values:
        call = found["patching_call"].at(**one.at)
        whose = "its own" if one.at["where"] == ITSELF else "another run's"
        said.append(
            f"With {whose} activations {str(one.at['where']).removesuffix(', its own')} after layer {one.at['layer']} in one call, "
            f"{spoken(call)} of its proposals (where they differ) are the other run's, and {spoken(one.estimate)} of all that was left "
            f"in the end (n = {one.estimate.n})."
        )
    return said


PATCHING = FaithfulnessTest(
    title="What carries the answer?",
    about=(
        "If written tokens carry what a run has found out, a run given another's tokens goes on as the other; what one call's activations "
        "carry is lost unless it is written. Its own state must change nothing."
    ),
    measure=measure,
    findings=findings,
)
