"""Is the state between calls nothing but tokens? All else is erased, or other noise goes on from the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from interp.faithfulness.base import (
    Case,
    FaithfulnessTest,
    Gathered,
    course,
    named,
    share,
    spoken,
    stops,
    unwritten,
)
from interp.statistics import Statistic
from models.denoise import denoise
from models.trajectory import Trajectory

SEED, ERASED, FRESH = "another seed from there", "all but tokens erased", "another seed from the prompt"
TEMPERATURE = 1.0


def bare(run: Trajectory) -> Trajectory:
    """Returns a run of which nothing is left but tokens, prompt and clock: no proposal, no score, no channel."""
    data = run.data.drop_vars([name for name in run.data if str(name).startswith(("channel.", "top_"))])
    scores = {name: np.nan for name in ("confidence", "margin", "entropy")}
    blank = {"proposal": -1, "stable": 0, **scores}
    return Trajectory(data.assign({name: data[name].copy(data=np.full_like(data[name].values, value)) for name, value in blank.items()}))


def _anew(case: Case, temperature: float, seed: int) -> Trajectory:
    """Returns a run from the same prompts with another temperature or seed."""
    decoding = replace(case.run.decoding, temperature=temperature, seed=seed)
    rows = [torch.from_numpy(row[row >= 0]) for row in case.run.tokens(0)]
    return denoise(case.model, rows, decoding, sample_ids=case.run.data["sample"].values.tolist())


def measure(case: Case) -> list[Statistic]:
    """Returns how far runs end alike that go on from the same tokens, as they were decoded and at a temperature."""
    gathered, own = Gathered(case.seed), case.run.decoding
    runs = {f"temperature {own.temperature:g}": case}
    if own.temperature == 0:
        runs[f"temperature {TEMPERATURE:g}"] = replace(case, run=_anew(case, TEMPERATURE, own.seed))
    for done, (panel, one) in enumerate(runs.items()):
        run, steps = one.run, stops(one.run)
        whole, seed = run.tokens(-1), own.seed + 1
        fresh = _anew(one, run.decoding.temperature, seed).tokens(-1)
        for number, step in enumerate(steps):
            case.on_step(done * len(steps) + number, len(runs) * len(steps))
            for line, final in (
                (ERASED, bare(run).at(step).resume(case.model).tokens(-1)),
                (SEED, run.at(step).branch(seed).resume(case.model).tokens(-1)),
                (FRESH, fresh),
            ):
                gathered.add("restart_agreement", share(final == whole, unwritten(one, step)), decoding=panel, restart=line, step=step)
    return [
        Statistic(
            name="restart_agreement",
            title="Ends as the run did",
            about=(
                "Of the positions unwritten at the step. With all but tokens (and the clock) erased and the same noise it must be 1 "
                "where the state is tokens only. With other noise it is what those tokens settle; the floor starts from the prompt "
                "again. Without temperature a policy that draws nothing has no noise."
            ),
            unit="share of positions",
            panels=("decoding",),
            lines=("restart",),
            x="step",
            roles={ERASED: "reference", FRESH: "floor"},
            values=gathered.values["restart_agreement"],
        )
    ]


def findings(statistics: Sequence[Statistic]) -> list[str]:
    """Returns whether tokens are all there is, and how much they settle."""
    one = named(statistics)["restart_agreement"]
    erased = [value.estimate.value for value in one.values if value.at["restart"] == ERASED]
    if min(erased) == 1:
        first = "With all but tokens and clock erased between calls, every run ends as it did: nothing else is carried."
    else:
        worst = min((value.estimate for value in one.values if value.at["restart"] == ERASED), key=lambda estimate: estimate.value)
        first = f"With all but tokens and clock erased, as little as {spoken(worst)} ends as it did: this policy carries more than tokens."
    told = [
        f"At {panel}, with {line}, runs end alike in {course(one, decoding=panel, restart=line)}."
        for panel in one.by_panel()
        for line in (SEED, FRESH)
    ]
    return [first, *told]


RESTART = FaithfulnessTest(
    title="Is the state between calls nothing but tokens?",
    about=(
        "An account of what is written can only be whole if nothing else is carried from call to call. The floor is a run from the prompt "
        "with other noise."
    ),
    measure=measure,
    findings=findings,
)
