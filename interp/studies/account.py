"""How far the pseudo chain of thought can be believed, and what it costs to learn its readers on the causal twin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool

from interp.boards import mixed_boards
from interp.grading import Tally, Verdict, joined, verdict_of
from interp.narration import Statement, TokensOnly, fit_tokens_only, narrate, narrate_board, narrate_tokens
from interp.reading import Reader, Reading, Source, puzzle_readers, read
from interp.report import Estimate
from interp.statistics import Coordinate, Measured, Role, Statistic
from interp.studies.base import Request, Study, twins_of
from interp.verdict import MEASURES, Graded, Layout, difference, verdicts
from models.decoding import Decoding
from models.denoise import denoise
from models.language_model import LanguageModel
from models.tasks.sudoku.generator import RUNGS, Puzzles
from models.tasks.sudoku.task import SUDOKU
from models.trajectory import Trajectory

POLICIES = ("low_confidence", "threshold", "topk_margin", "random", "mgdm")
ARMS = ("ar", "diffusion", "random", "tokens", "board")
ALL = "all"
ROLES: Mapping[str, Role] = {"random": "floor", "tokens": "floor", "diffusion": "reference", "board": "reference"}
COMPARED = ("diffusion", "tokens", "random")
"""The accounts that the moved readers' is compared with."""
TOPICS = {
    "reasons": {"sound": "sound", "coverage": "given", "explained": "given and sound"},
    "decided": {"decided_run": "written later", "decided_recall": "foreseen", "lead": "ahead by"},
    "next": {"next_precision": "written next"},
}
"""What findings say, in how many words; every measure is in the statistics."""
HOW = (
    "Of the same runs: `ar` is told by readers learned on the causal twin and moved, `diffusion` by readers learned on the diffusion model "
    "itself, `random` by random directions, `tokens` by tokens, proposals and confidences with no look inside, `board` by the rules on the "
    "visible board with no model at all. Readers are fitted and calibrated on other boards. Intervals resample boards."
)


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    boards: int
    """To tell and grade runs of, an equal share of every rung."""
    fitted: int
    """To fit readers on."""
    calibrated: int
    """To calibrate them on."""
    baseline: int
    """To fit the account of tokens and confidences on, by runs of each policy."""
    at_once: int = 20
    """Boards that are denoised, read and graded together; the figures do not depend on it."""


@dataclass(frozen=True)
class Arms:
    """Everything that tells runs of one model."""

    model: LanguageModel
    readers: Mapping[Source, Mapping[str, Reader]]
    """By source and concept."""


def readings_of(arms: Arms, trajectory: Trajectory) -> dict[str, Reading]:
    """Returns the reading of each source, all from one pass."""
    named = {f"{source}/{name}": reader for source, readers in arms.readers.items() for name, reader in readers.items()}
    whole = read(arms.model, trajectory, named)
    return {
        source: Reading(trajectory, dict(readers), {name: whole.scores[f"{source}/{name}"] for name in readers})
        for source, readers in arms.readers.items()
    }


def fit_narrator(arms: Arms, puzzles: Puzzles, policy: str, seed: int) -> TokensOnly:
    """Returns the narrator of tokens and confidences, fitted on a policy's runs of some boards."""
    return fit_tokens_only(denoise(arms.model, SUDOKU.prompt(puzzles), Decoding(policy, seed=seed)))


def tell_run(arms: Arms, narrator: TokensOnly, trajectory: Trajectory) -> dict[str, list[Statement]]:
    """Returns every arm's account of a run."""
    return {
        **{source: narrate(reading) for source, reading in readings_of(arms, trajectory).items()},
        "tokens": narrate_tokens(trajectory, narrator),
        "board": narrate_board(trajectory),
    }


@dataclass(frozen=True)
class Asked:
    """Runs to tell and grade."""

    policy: str
    puzzles: Puzzles
    at_once: int
    seed: int


def graded(arms: Arms, narrator: TokensOnly, asked: Asked, on_board: Callable[[int], None] = lambda done: None) -> dict[str, Verdict]:
    """Returns the verdict on every arm's account of one policy's runs, some boards at a time."""
    parts: dict[str, list[Verdict]] = {arm: [] for arm in ARMS}
    for first in range(0, len(asked.puzzles), asked.at_once):
        some = asked.puzzles[first : first + asked.at_once]
        ids = range(first, first + len(some))
        run = denoise(arms.model, SUDOKU.prompt(some), Decoding(asked.policy, seed=asked.seed), sample_ids=ids)
        truth = SUDOKU.encode(some).numpy()
        for arm, statements in tell_run(arms, narrator, run).items():
            parts[arm].append(verdict_of(run, statements, truth))
        on_board(first + len(some))
    return {arm: joined(verdicts) for arm, verdicts in parts.items()}


def _rows(verdict: Verdict, keep: Bool[np.ndarray, " sample"]) -> Verdict:
    return {key: Tally(tally.hits[keep], tally.of[keep]) for key, tally in verdict.items()}


def _tables(found: Mapping[tuple[str, str], Verdict], n: int, seed: int) -> list[Statistic]:
    """Returns the statistics of all accounts, by (policy, arm): every measure by kind of board, precision by lead time over all kinds."""
    rung = np.arange(n) % len(RUNGS)
    kinds: dict[str, Bool[np.ndarray, " sample"]] = {ALL: rung >= 0, **{name: rung == index for index, name in enumerate(RUNGS)}}
    told = [
        Graded({"boards": kind, "account": arm, "policy": policy}, _rows(verdict, keep))
        for kind, keep in kinds.items()
        for (policy, arm), verdict in found.items()
    ]
    return verdicts(told, Layout(("boards",), ("account",), "policy", ROLES, HOW), seed)


def _gains(found: Mapping[tuple[str, str], Verdict], seed: int) -> list[Statistic]:
    """Returns how much better the moved readers' account is than each other one, of the same boards: shares, and calls."""
    gained: dict[str, list[Measured]] = {}
    for (policy, arm), verdict in found.items():
        for name in MEASURES:
            own, other = found[policy, "ar"].get((name, "")), verdict.get((name, ""))
            if arm in COMPARED and own is not None and other is not None and own.of.any() and other.of.any():
                at: dict[str, Coordinate] = {"policy": policy, "than": arm, "measure": name}
                kind = "gain_calls" if MEASURES[name].unit == "calls" else "gain"
                gained.setdefault(kind, []).append(Measured(at=at, estimate=difference(own, other, seed)))
    return [
        Statistic(
            name=name,
            title="What do the moved readers gain or lose?",
            about=f"Each measure of the account of the moved readers, less that of another; boards are resampled in pairs. {HOW}",
            unit="calls" if name == "gain_calls" else "difference of shares",
            panels=("policy",),
            lines=("than",),
            x="measure",
            values=values,
        )
        for name, values in gained.items()
    ]


def _tell_boards(tell: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    tell(before + done, total)


def measure(request: Request) -> list[Statistic]:
    """Returns the figures of every arm's account of every policy's runs.

    Raises:
        StudyError: On models that are not a causal and a masked model of sudoku.
    """
    twins = twins_of(request, SUDOKU.name)
    sizes: Sizes = request.sizes
    puzzles = mixed_boards(sizes.boards + sizes.fitted + sizes.calibrated, request.seed, RUNGS)
    measured, others = puzzles[: sizes.boards], puzzles[sizes.boards :]
    with request.clock.stage("fit readers"):
        arms = Arms(twins.diffusion, puzzle_readers(twins, others, sizes.fitted, seed=request.seed))
    found: dict[tuple[str, str], Verdict] = {}
    with request.clock.stage("tell and grade") as tell:
        for index, policy in enumerate(POLICIES):
            before = index * len(measured)
            narrator = fit_narrator(arms, others[: sizes.baseline], policy, request.seed)
            asked = Asked(policy, measured, sizes.at_once, request.seed)
            mine = graded(arms, narrator, asked, partial(_tell_boards, tell, before, len(POLICIES) * len(measured)))
            found |= {(policy, arm): verdict for arm, verdict in mine.items()}
    return [*_tables(found, len(measured), request.seed), *_gains(found, request.seed)]


def findings(statistics: Sequence[Statistic]) -> list[str]:
    """Returns, for each policy, what the moved readers' account says right, and how much better that is than in each other account."""
    named = {one.name: one for one in statistics}
    policies = dict.fromkeys(str(value.at["policy"]) for value in named["coverage"].values)
    said = [_told(named, policy, topic) for policy in policies for topic in TOPICS]
    return [
        *(line for line in said if line),
        "These are of the moved readers. In brackets stands the 95 % interval, then the difference to other accounts of the same boards: "
        "readers of the diffusion model itself, tokens and confidences alone, random directions; * where its interval leaves out 0.",
    ]


def _told(named: Mapping[str, Statistic], policy: str, topic: str) -> str:
    """Returns a line of figures; empty where none was measured."""
    parts = []
    for name, word in TOPICS[topic].items():
        own = _at(named.get(name), boards=ALL, account="ar", policy=policy)
        if own is not None:
            calls = MEASURES[name].unit == "calls"
            gain = named.get("gain_calls" if calls else "gain")
            others = {arm: _at(gain, policy=policy, than=arm, measure=name) for arm in COMPARED}
            parts.append(_figure(word, own, others, calls=calls))
    return f"{policy}, {topic}: {'; '.join(parts)}." if parts else ""


def _at(statistic: Statistic | None, **coordinates: str) -> Estimate | None:
    values = [] if statistic is None else statistic.values
    return next((value.estimate for value in values if coordinates.items() <= value.at.items()), None)


def _figure(word: str, own: Estimate, others: Mapping[str, Estimate | None], *, calls: bool) -> str:
    """Returns a figure and how it differs, in points or calls, such as ``sound 93.1% [92.0, 94.2] (diffusion +0.2, tokens +9.1*)``."""
    times, sign = (1, " calls") if calls else (100, "%")
    apart = [
        f"{arm} {one.value * times:+.1f}{'*' if one.low > 0 or one.high < 0 else ''}" for arm, one in others.items() if one is not None
    ]
    told = f"{word} {own.value * times:.1f}{sign} [{own.low * times:.1f}, {own.high * times:.1f}]"
    return f"{told} ({', '.join(apart)})" if apart else told


ACCOUNT = Study(
    title="How far can the account of a run be believed?",
    claim="A diffusion model has no faithful chain of thought; one can be read from it",
    limits=(
        "One pair of one size on one task whose reasons a solver can check; a sound reason need not be the model's own, which the tests of "
        "faithfulness ask by intervention (`denoscope faithfulness`)."
    ),
    about=(
        "A run of the diffusion model is told as a pseudo chain of thought by readers learned on its causal twin. Are the reasons sound, "
        "is everything explained, is what is called decided written later, and does the account know what comes next? What is lost against "
        "readers learned on the diffusion model itself, and what is gained over an account that never looks inside?"
    ),
    models=("sudoku-ar", "sudoku-diffusion"),
    sizes={
        "small": Sizes(boards=24, fitted=200, calibrated=80, baseline=20),
        "full": Sizes(boards=500, fitted=400, calibrated=200, baseline=100),
    },
    measure=measure,
    findings=findings,
)
