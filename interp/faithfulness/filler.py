"""Is it what is written that counts, or how much? What a run wrote is shuffled, or masked again, and the run resumed (2307.13702)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interp.faithfulness.base import (
    Case,
    FaithfulnessTest,
    Gathered,
    mask_of,
    named,
    share,
    shuffled,
    solutions,
    spoken,
    stops,
    unwritten,
    with_canvas,
    written,
)
from interp.statistics import Statistic

AS_WRITTEN, SHUFFLED, MASKED = "as written", "shuffled", "masked again"


def measure(case: Case) -> list[Statistic]:
    """Returns, by step and by what became of the written tokens, how the rest ends."""
    gathered, right, whole = Gathered(case.seed), solutions(case), case.run.tokens(-1)
    steps, rng = stops(case.run), np.random.default_rng(case.seed)
    for done, step in enumerate(steps):
        case.on_step(done, len(steps))
        canvas, left, stood = case.run.tokens(step), unwritten(case, step), written(case, step)
        ends = {
            line: with_canvas(case.run.at(step), changed).resume(case.model).tokens(-1)
            for line, changed in ((SHUFFLED, shuffled(canvas, stood, rng)), (MASKED, np.where(stood, mask_of(case), canvas)))
        }
        for line, final in {AS_WRITTEN: whole, **ends}.items():
            gathered.add("filler_agreement", share(final == whole, left), written=line, step=step)
            if right is not None:
                gathered.add("filler_right", share(final == right, left), written=line, step=step)
    how = (
        "Of the positions unwritten at the step. `Shuffled` keeps as many tokens and the same ones, in other places: content is lost, "
        "amount kept. `Masked again` leaves the prompt and the calls that are left."
    )
    titles = {"filler_agreement": "Ends as in the untouched run", "filler_right": "Right in the end"}
    return [
        Statistic(
            name=name,
            title=title,
            about=how,
            unit="share of positions",
            panels=(),
            lines=("written",),
            x="step",
            roles={AS_WRITTEN: "reference", MASKED: "floor"},
            values=gathered.values[name],
        )
        for name, title in titles.items()
        if name in gathered.values
    ]


def findings(statistics: Sequence[Statistic]) -> list[str]:
    """Returns whether content or amount counts, and the figures."""
    found = named(statistics)
    judged = found.get("filler_right", found["filler_agreement"])
    of = "right in the end" if "filler_right" in found else "as in the untouched run"
    said = []
    for step in dict.fromkeys(one.at["step"] for one in judged.values):
        own, mixed, bare = (judged.at(written=line, step=step) for line in (AS_WRITTEN, SHUFFLED, MASKED))
        if mixed.high < bare.low:
            verdict = "wrong content is worse than none, so content is read, and its amount alone does not help"
        elif mixed.low > bare.high:
            verdict = "shuffled content is better than none, so some of the help is in the amount or the set of tokens"
        elif own.low > mixed.high:
            verdict = "shuffled content is no better than none and worse than the real one, so content helps"
        else:
            verdict = "no difference is beyond doubt"
        figures = f"{spoken(own)} {of} as written, {spoken(mixed)} shuffled, {spoken(bare)} masked again (n = {own.n})"
        said.append(f"After call {step}: {figures}; {verdict}.")
    return said


FILLER = FaithfulnessTest(
    title="Does the content count, or the amount?",
    about=(
        "If written tokens only give the network room, shuffling them costs nothing. The reference is the run as it was; the floor has all "
        "that was written masked again, with the calls that are left."
    ),
    measure=measure,
    findings=findings,
    with_truth="the share of right digits",
)
