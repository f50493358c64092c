"""When is the answer decided? The early answers of a run (Lanham et al., 2307.13702; Prophet, 2508.19982), and in another order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from interp.dynamics import area_over, early_answer, writable
from interp.faithfulness.base import Case, FaithfulnessTest, Gathered, counted, mask_of, named, share, spoken
from interp.statistics import Statistic

MOST_STEPS = 12
"""Of a longer run so many steps are looked at, evenly spread."""
RUN, ANY_ORDER, PROMPT = "the run", "any order, as many written", "the prompt alone"


def _steps(case: Case) -> list[int]:
    """Returns 0 and the steps that are looked at."""
    n = case.run.n_steps
    return [0, *sorted(set(np.linspace(1, n, min(n, MOST_STEPS)).round().astype(int).tolist()))]


@torch.no_grad()
def _completed(case: Case, canvas: Int[np.ndarray, "batch pos"]) -> Int[np.ndarray, "batch pos"]:
    """Returns canvases filled up by one call."""
    best, mask = canvas.copy(), mask_of(case)
    lengths = (canvas >= 0).sum(axis=1)
    for length in np.unique(lengths).tolist():
        rows = lengths == length
        logits = case.model.logits(torch.from_numpy(canvas[rows, :length]))
        logits[..., mask] = -torch.inf
        best[rows, :length] = logits.argmax(-1).cpu().numpy()
    return np.where(canvas == mask, best, canvas)


def _any_order(case: Case, steps: Sequence[int], rng: np.random.Generator) -> list[Bool[np.ndarray, "batch pos"]]:
    """Returns for each step which positions of the run's answer are shown: as many as the step's call saw written, in a random order."""
    may = writable(case.run)
    rank = np.where(may, rng.random(may.shape), 2.0).argsort(axis=1).argsort(axis=1)
    seen = [(may & (case.run.tokens(step - 1) != mask_of(case))).sum(axis=1) for step in steps]
    return [may & (rank < n[:, None]) for n in seen]


def _gather(case: Case, steps: Sequence[int]) -> dict[str, tuple[Float[np.ndarray, "batch step"], Float[np.ndarray, "batch step"]]]:
    """Returns by line the share of positions as in the run's own answer, and whether all are; NaN at step 0."""
    run, among = case.run, counted(case)
    answer, mask = run.tokens(-1), mask_of(case)
    own = early_answer(run, np.where(among, answer, -1), among)
    found = {RUN: (own.positions[:, steps], own.whole[:, steps])}
    rest = steps[1:]
    shown = _any_order(case, rest, np.random.default_rng(case.seed))
    nothing = np.full(len(answer), np.nan)
    canvases = []
    for done, places in enumerate(shown):
        case.on_step(done, len(rest))
        canvases.append(_completed(case, np.where(writable(run) & ~places, mask, answer)))
    bare = _completed(case, run.tokens(0))
    for line, each in ((ANY_ORDER, canvases), (PROMPT, [bare] * len(rest))):
        positions = np.stack([nothing, *(share(one == answer, among) for one in each)], axis=1)
        found[line] = positions, np.where(np.isnan(positions), np.nan, positions == 1)
    return found


def measure(case: Case) -> list[Statistic]:
    """Returns how much of the answer is there by step, and the area over these curves."""
    steps, gathered = _steps(case), Gathered(case.seed)
    calls = (np.array(steps[1:])[None] <= case.run.calls[:, None]).sum(axis=1)
    for line, curves in _gather(case, steps).items():
        for name, curve in zip(("positions", "whole"), curves, strict=True):
            for column, step in enumerate(steps[1:], start=1):
                gathered.add(f"early_{name}", curve[:, column], order=line, step=step)
            of = "share of positions" if name == "positions" else "whole answer"
            gathered.add("early_area", area_over(curve, calls), order=line, of=of)
    how = (
        "The canvas that call s read, filled up with what the call proposed, against what the run ended with. Floor: one call on the "
        "prompt alone. Reference: as many positions already written, but any ones, with the run's own final tokens."
    )
    titles = {"early_positions": "Positions already as in the end", "early_whole": "Answers already whole"}
    by_step = [
        Statistic(
            name=name,
            title=title,
            about=how,
            unit=f"share of {'positions' if name == 'early_positions' else 'samples'}",
            panels=(),
            lines=("order",),
            x="step",
            roles={PROMPT: "floor", ANY_ORDER: "reference"},
            values=gathered.values[name],
        )
        for name, title in titles.items()
    ]
    area = Statistic(
        name="early_area",
        title="Area over the curve of early answers",
        about=f"Share of a run's calls that left the answer open (AOC): 0 where the first call had it. {how}",
        unit="share of calls",
        panels=(),
        lines=("order",),
        x="of",
        roles={PROMPT: "floor", ANY_ORDER: "reference"},
        values=gathered.values["early_area"],
    )
    return [*by_step, area]


def findings(statistics: Sequence[Statistic]) -> list[str]:
    """Returns how much was open, beside the controls."""
    area = named(statistics)["early_area"]
    found = []
    for of in ("whole answer", "share of positions"):
        run, other, bare = (area.at(order=order, of=of) for order in (RUN, ANY_ORDER, PROMPT))
        found.append(
            f"Area over the curve of early answers ({of}): {spoken(run)}; with as many positions written in any order {spoken(other)}; "
            f"with the prompt alone {spoken(bare)} (n = {run.n})."
        )
    whole = area.at(order=RUN, of="whole answer")
    when = "most" if whole.low > 0.5 else "less than half" if whole.high < 0.5 else "about half"
    return [*found, f"The whole answer stays open for {when} of the calls."]


EARLY = FaithfulnessTest(
    title="When is the answer decided?",
    about=(
        "If the answer stands long before it is written, an account of the later steps tells of no decision. Compared with as many "
        "positions written in any order: does the order in which the run writes matter?"
    ),
    measure=measure,
    findings=findings,
)
