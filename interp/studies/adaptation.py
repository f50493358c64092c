"""What is the best way from a causal model to a masked one? Methods, losses and schedules at equal compute, and how far each moves."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from interp.harvest import activations_at
from interp.report import Estimate
from interp.statistics import Measured, Statistic
from interp.studies.base import Request, Study
from models.adapt import Adaptation
from models.decoding import Decoding
from models.evaluate import evaluate
from models.hookpoints import resid_post
from models.language_model import LanguageModel
from models.load import load
from models.plan import TrainingPlan
from models.tasks import TrainingData
from models.tasks.sudoku.task import SOLUTION, SUDOKU
from models.train import TrainingStatus, train
from probes.similarity import linear_cka, mean_cosine

SIZE, BATCH = "mini", 128
LEVEL, GIVENS = "naked_singles", (29, 37)
CALLS = 20
"""Network calls a board at most, with the policy ``threshold``."""
MARKS = (0.5, 0.9)
"""Shares of boards exact whose first reaching is timed."""
VARIANTS: dict[str, Adaptation] = {
    "switch": Adaptation("switch"),
    "anneal": Adaptation("anneal"),
    "align": Adaptation("align"),
    "scratch": Adaptation("scratch"),
    "switch, mdlm loss": Adaptation("switch", loss="mdlm"),
    "switch, mgdm loss": Adaptation("switch", loss="mgdm"),
    "switch, cosine schedule": Adaptation("switch", schedule="cosine"),
    "switch, shift dropped": Adaptation("switch", logit_shift=0),
}
"""By the name they have in the figures. LLaDA's loss is left out: on sequences of one length it is MDLM's."""
OTHER_SEED = "another causal model"
COURSE_NAME = "course.json"
EXAMPLES: int | None = None


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    seeds: int
    variants: int
    """The first so many of ``VARIANTS``."""
    twin_steps: int
    steps: int
    every: int
    """Steps between measurements."""
    boards: int
    drift_boards: int


@dataclass(frozen=True)
class Course:
    """How one training went."""

    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    exact: list[float] = field(default_factory=list)
    measuring: list[float] = field(default_factory=lambda: [0.0])
    """The seconds that measuring took so far, which are no training."""

    def first(self, mark: float, axis: Sequence[int | float]) -> float | None:
        """Returns the value of ``axis`` where the share exact first reached a mark, or None."""
        return next((float(place) for place, share in zip(axis, self.exact, strict=True) if share >= mark), None)


@dataclass(frozen=True)
class Outcome:
    """One variant on one seed."""

    course: Course
    cka: list[float]
    cosine: list[float]


def over_seeds(values: Sequence[float]) -> Estimate:
    """Returns the mean over seeds with Student's 95 % interval; with one seed the interval is the value."""
    found = np.asarray(values, dtype=float)
    half = 0.0
    if len(found) > 1:
        half = float(stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found)))
    mean = float(found.mean())
    return Estimate(value=mean, low=mean - half, high=mean + half, n=len(found))


def _plan(seed: int, steps: int, *, init: Path | None = None, adaptation: Adaptation | None = None) -> TrainingPlan:
    return TrainingPlan(
        task="sudoku",
        objective="masked" if adaptation else "causal",
        size=SIZE,
        init=None if init is None else str(init),
        adaptation=adaptation,
        steps=steps,
        batch=BATCH,
        data=TrainingData(examples=EXAMPLES, mix={LEVEL: 1.0}, givens=GIVENS),
        seed=seed,
    )


def _train(plan: TrainingPlan, out: Path, sizes: Sizes) -> Course:
    """Trains, or goes on training, and returns the course, which is kept beside the checkpoint."""
    boards = SUDOKU.generate(sizes.boards, LEVEL, givens=GIVENS, seed=plan.seed)
    kept = out / COURSE_NAME
    course = Course(**json.loads(kept.read_text(encoding="utf-8"))) if kept.exists() else Course()

    def measure(status: TrainingStatus, snapshot: Callable[[], LanguageModel]) -> None:
        if status.step in course.steps or (status.step % sizes.every and status.progress < 1):
            return
        found = evaluate(snapshot(), boards, Decoding("threshold", steps=CALLS))
        course.steps.append(status.step)
        course.seconds.append(status.seconds - course.measuring[0])
        course.exact.append(float(found.verdicts.exact.mean()))
        course.measuring[0] += found.seconds
        kept.write_text(json.dumps(asdict(course)), encoding="utf-8")

    train(plan, out, inspect=measure)
    return course


def _states(model: LanguageModel, boards: int, seed: int) -> list[Float[Tensor, "row d_model"]]:
    """Returns, for each layer, the residual stream where solution cells are predicted, on whole solved boards."""
    sequences = SUDOKU.encode(SUDOKU.generate(boards, LEVEL, givens=GIVENS, seed=seed))
    positions = torch.arange(SUDOKU.length)[SOLUTION]
    rows = torch.arange(boards).repeat_interleave(len(positions))
    points = [resid_post(layer) for layer in range(model.n_layers)]
    found = activations_at(model, sequences, rows, positions.repeat(boards), points)
    return [found[point] for point in points]


def _alike(one: list[Tensor], two: list[Tensor]) -> tuple[list[float], list[float]]:
    pairs = list(zip(one, two, strict=True))
    return [linear_cka(x, y) for x, y in pairs], [mean_cosine(x, y) for x, y in pairs]


def _outcomes(request: Request, sizes: Sizes, folder: Path) -> Iterator[tuple[str, int, Outcome]]:
    """Yields every variant on every seed, and how alike two causal models of different seeds are."""
    names = list(VARIANTS)[: sizes.variants]
    total, done = sizes.seeds * (len(names) + 1), 0
    states: list[list[Tensor]] = []
    with request.clock.stage("train") as tell:
        for seed in range(request.seed, request.seed + sizes.seeds):
            twin = folder / f"twin-{seed}"
            train(_plan(seed, sizes.twin_steps), twin)
            tell(done := done + 1, total)
            own = _states(load(twin), sizes.drift_boards, seed=request.seed)
            for name in names:
                out = folder / f"{name}-{seed}"
                course = _train(_plan(seed, sizes.steps, init=twin, adaptation=VARIANTS[name]), out, sizes)
                grown = load(out)
                same_index = grown.facts.logit_shift == 1  # else the two models predict a cell at different positions
                moved = _alike(own, _states(grown, sizes.drift_boards, seed=request.seed)) if same_index else ([], [])
                yield name, seed, Outcome(course, *moved)
                tell(done := done + 1, total)
            for other in states:
                yield OTHER_SEED, seed, Outcome(Course(), *_alike(own, other))
            states.append(own)


SEEDS = "Mean over seeds, each with its own causal twin, data and boards; Student's 95 % interval; n counts seeds."


def _solved(trained: dict[str, list[Outcome]]) -> Statistic:
    where = f"{LEVEL.replace('_', ' ')}, {GIVENS[0]} to {GIVENS[1]} givens, threshold policy, at most {CALLS} calls"
    return Statistic(
        name="exact_by_step",
        title="Boards solved while training",
        about=f"Share of unseen boards exact ({where}). {SEEDS}",
        unit="share of boards",
        panels=(),
        lines=("variant",),
        x="step",
        values=[
            Measured(at={"variant": name, "step": step}, estimate=over_seeds([one.course.exact[index] for one in found]))
            for name, found in trained.items()
            for index, step in enumerate(found[0].course.steps)
        ],
    )


def _time_to_accuracy(trained: dict[str, list[Outcome]], axis: str, unit: str) -> Statistic:
    values = []
    for name, found in trained.items():
        for mark in MARKS:
            reached = [one.course.first(mark, getattr(one.course, axis)) for one in found]
            known = [place for place in reached if place is not None]
            if len(known) == len(found):
                values.append(Measured(at={"share": f"{mark:.0%} exact", "variant": name}, estimate=over_seeds(known)))
    return Statistic(
        name=f"{axis}_to_accuracy",
        title=f"{axis.capitalize()} until a share of boards is solved",
        about=f"Where the curve first reaches the share, among the steps measured; missing where a seed never did. {SEEDS}",
        unit=unit,
        panels=(),
        lines=("share",),
        x="variant",
        values=values,
    )


def _drift(outcomes: dict[str, list[Outcome]], kind: str, title: str) -> Statistic:
    values = [
        Measured(at={"variant": name, "layer": layer}, estimate=over_seeds([getattr(one, kind)[layer] for one in found]))
        for name, found in outcomes.items()
        for layer in range(len(getattr(found[0], kind)))
    ]
    return Statistic(
        name=f"drift_{kind}",
        title=title,
        about=f"Residual stream after each layer on the same solved boards, where cells are predicted. {SEEDS}",
        unit=kind,
        panels=(),
        lines=("variant",),
        x="layer",
        roles={OTHER_SEED: "floor"} if OTHER_SEED in outcomes else {},
        values=values,
    )


def _statistics(outcomes: dict[str, list[Outcome]]) -> list[Statistic]:
    trained = {name: found for name, found in outcomes.items() if name != OTHER_SEED}
    return [
        _solved(trained),
        _time_to_accuracy(trained, "steps", "optimiser steps"),
        _time_to_accuracy(trained, "seconds", "seconds of training"),
        _drift(outcomes, "cka", "Linear CKA with the causal twin"),
        _drift(outcomes, "cosine", "Cosine with the causal twin"),
    ]


def measure(request: Request) -> list[Statistic]:
    """Returns the courses, times to accuracy and drifts of every variant."""
    sizes: Sizes = request.sizes
    outcomes: dict[str, list[Outcome]] = {}
    with tempfile.TemporaryDirectory() as passing:
        for name, _, outcome in _outcomes(request, sizes, request.work or Path(passing)):
            outcomes.setdefault(name, []).append(outcome)
    return _statistics(outcomes)


def findings(statistics: Sequence[Statistic]) -> list[str]:
    """Returns what the statistics say."""
    by_name = {statistic.name: statistic for statistic in statistics}
    said = []
    last = max(int(value.at["step"]) for value in by_name["exact_by_step"].values)
    for value in by_name["exact_by_step"].values:
        if value.at["step"] == last:
            one = value.estimate
            said.append(
                f"{value.at['variant']}: {one.value:.1%} [{one.low:.1%}, {one.high:.1%}] of boards exact after {last} steps, {one.n} seeds."
            )
    steps = {(value.at["share"], value.at["variant"]): value.estimate for value in by_name["steps_to_accuracy"].values}
    for mark in MARKS:
        share = f"{mark:.0%} exact"
        control = steps.get((share, "scratch"))
        for (at, name), one in steps.items():
            if at == share and name != "scratch":
                ratio = f"1/{control.value / one.value:.2f} of those from scratch" if control else "from scratch not every seed did"
                said.append(f"{name}: {one.value:.0f} steps to {share}; {ratio}.")
    return said


ADAPTATION = Study(
    title="Ways from a causal model to a masked one",
    claim="Growing a diffusion model from a causal one is cheaper than training it from random weights, and keeps its insides in place",
    limits="One architecture, one task and about a million parameters; each method at its own published settings, without a search.",
    about=(
        "A causal model is trained on sudoku, then grown into a masked-diffusion model by each method at equal compute, beside the same "
        "network from random weights. How soon does each solve boards, and how far does each layer move from the causal twin?"
    ),
    models=(),
    sizes={
        "small": Sizes(seeds=3, variants=4, twin_steps=200, steps=700, every=50, boards=100, drift_boards=40),
        "full": Sizes(seeds=5, variants=len(VARIANTS), twin_steps=600, steps=1200, every=20, boards=500, drift_boards=200),
    },
    measure=measure,
    findings=findings,
    resumes=True,
)
