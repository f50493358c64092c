"""How far the pseudo chain of thought can be believed, and what it costs to learn its readers on the causal twin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool

from interp.boards import mixed_boards
from interp.grading import Tally, Verdict, joined, verdict_of
from interp.narration import Statement, TokensOnly, fit_tokens_only, narrate, narrate_board, narrate_tokens
from interp.reading import Reader, Reading, Source, puzzle_readers, read
from interp.report import Estimate
from interp.statistics import Measured, Role, Statistic
from interp.studies.base import Request, Study, StudyError
from interp.transfer import Twins
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
COMPARED = {
    "diffusion": "readers fitted on the diffusion model itself",
    "tokens": "tokens and confidences alone",
    "random": "random directions",
}
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


def tell_run(arms: Arms, narrator: TokensOnly, trajectory: Trajectory, puzzles: Puzzles) -> dict[str, list[Statement]]:
    """Returns every arm's account of a run."""
    return {
        **{source: narrate(reading, puzzles.solutions) for source, reading in readings_of(arms, trajectory).items()},
        "tokens": narrate_tokens(trajectory, narrator, puzzles.solutions),
        "board": narrate_board(trajectory, puzzles.solutions),
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
        for arm, statements in tell_run(arms, narrator, run, some).items():
            parts[arm].append(verdict_of(run, statements, truth))
        on_board(first + len(some))
    return {arm: joined(verdicts) for arm, verdicts in parts.items()}


def _rows(verdict: Verdict, keep: Bool[np.ndarray, " sample"]) -> Verdict:
    return {key: Tally(tally.hits[keep], tally.of[keep]) for key, tally in verdict.items()}


def _tables(found: Mapping[tuple[str, str], Verdict], n: int, seed: int) -> list[Statistic]:
    """Returns the statistics of all accounts, by (policy, arm): every measure by kind of board, precision by lead time over all kinds."""
    rung = np.arange(n) % len(RUNGS)
    kinds = {ALL: rung >= 0, **{name: rung == index for index, name in enumerate(RUNGS)}}
    told = [
        Graded({"boards": kind, "account": arm, "policy": policy}, _rows(verdict, keep))
        for kind, keep in kinds.items()
        for (policy, arm), verdict in found.items()
    ]
    return verdicts(told, Layout(("boards",), ("account",), "policy", ROLES, HOW), seed)


def _costs(found: Mapping[tuple[str, str], Verdict], seed: int) -> Statistic:
    """Returns how much better the moved readers' account is than each other one, of the same boards."""
    values = []
    for (policy, arm), verdict in found.items():
        own = found[policy, "ar"]
        for name, one in MEASURES.items():
            if arm in COMPARED and (name, "") in verdict and one.unit != "calls" and own[name, ""].of.any() and verdict[name, ""].of.any():
                at = {"policy": policy, "than": arm, "measure": name}
                values.append(Measured(at=at, estimate=difference(own[name, ""], verdict[name, ""], seed)))
    about = f"The share of each measure in the account of the moved readers, less that in another; boards are resampled in pairs. {HOW}"
    return Statistic(
        name="gain",
        title="What do the moved readers gain or lose?",
        about=about,
        unit="difference of shares",
        panels=("policy",),
        lines=("than",),
        x="measure",
        values=values,
    )


def _tell_boards(tell: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    tell(before + done, total)


def measure(request: Request) -> list[Statistic]:
    """Returns the figures of every arm's account of every policy's runs.

    Raises:
        StudyError: On models that are not a causal and a masked model of sudoku.
    """
    by_objective = {model.facts.objective: model for model in request.models if model.facts.task == SUDOKU.name}
    if len(request.models) != 2 or set(by_objective) != {"causal", "masked"}:
        told = ", ".join(f"{model.name} ({model.facts.objective}, {model.facts.task})" for model in request.models)
        raise StudyError(f"the models are {told}; this study needs a causal and a masked one of sudoku")
    sizes: Sizes = request.sizes
    puzzles = mixed_boards(sizes.boards + sizes.fitted + sizes.calibrated, request.seed, RUNGS)
    measured, others = puzzles[: sizes.boards], puzzles[sizes.boards :]
    with request.clock.stage("fit readers"):
        twins = Twins(by_objective["causal"], by_objective["masked"])
        arms = Arms(twins.diffusion, puzzle_readers(twins, others, sizes.fitted, seed=request.seed))
    found: dict[tuple[str, str], Verdict] = {}
    with request.clock.stage("tell and grade") as tell:
        for index, policy in enumerate(POLICIES):
            before = index * len(measured)
            narrator = fit_narrator(arms, others[: sizes.baseline], policy, request.seed)
            asked = Asked(policy, measured, sizes.at_once, request.seed)
            mine = graded(arms, narrator, asked, partial(_tell_boards, tell, before, len(POLICIES) * len(measured)))
            found |= {(policy, arm): verdict for arm, verdict in mine.items()}
    return [*_tables(found, len(measured), request.seed), _costs(found, request.seed)]


def findings(statistics: Sequence[Statistic]) -> list[str]:
    """Returns a line for each measure and policy: every account's figure, and what the moved readers' is better than, or not."""
    gain = next(one for one in statistics if one.name == "gain")
    named = {one.name: one for one in statistics}
    said = []
    for name, one in MEASURES.items():
        if name not in named:
            continue
        for policy in dict.fromkeys(str(value.at["policy"]) for value in named[name].values):
            here = {
                str(value.at["account"]): value.estimate
                for value in named[name].values
                if value.at["policy"] == policy and value.at["boards"] == ALL
            }
            figures = ", ".join(f"{arm} {_figure(one.unit, figure)}" for arm, figure in here.items())
            said.append(f"{one.title} ({policy}) {figures}. {' '.join(_compared(gain, policy, name))}".strip())
    return said


def _figure(unit: str, one: Estimate) -> str:
    if unit == "calls":
        return f"{one.value:.1f} [{one.low:.1f}, {one.high:.1f}]"
    return f"{one.value:.1%} [{one.low:.1%}, {one.high:.1%}]"


def _compared(gain: Statistic, policy: str, name: str) -> Iterator[str]:
    """Yields, of each other account, whether the moved readers' is higher or lower, in pairs of boards, or cannot be told from it."""
    for value in gain.values:
        if value.at["policy"] == policy and value.at["measure"] == name:
            one = value.estimate
            verdict = "higher than" if one.low > 0 else "lower than" if one.high < 0 else "not to be told from"
            yield f"Moved readers are {verdict} {COMPARED[str(value.at['than'])]} ({one.value:+.1%} [{one.low:+.1%}, {one.high:+.1%}])."


ACCOUNT = Study(
    title="How far can the account of a run be believed?",
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
