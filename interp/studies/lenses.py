"""What each layer of the twins would answer if the network ended there, and after how many blocks an answer is decided."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from interp.boards import mixed_boards
from interp.corpus import puzzle_corpus
from interp.lens import Schedule, decision_depths, depth_statistics, lens_scores, lenses_of
from interp.lens.scores import AS_IS, INPUT, LOGIT, MAPPED, SHUFFLED, TUNED
from interp.report import Estimate
from interp.statistics import Statistic
from interp.studies.base import Request, Study, twins_of
from interp.transfer import shuffled_weights
from models.decoding import Decoding
from models.denoise import denoise
from models.tasks.sudoku.generator import RUNGS
from models.tasks.sudoku.task import SUDOKU

DECODING = Decoding("low_confidence", steps=16)
LENSES = (LOGIT, TUNED, MAPPED, AS_IS, SHUFFLED)
"""Those whose decisions are followed through runs."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    fitted: int
    """Boards that lenses are trained on."""
    tested: int
    """Others, that they are judged on; and as many again to run."""


def measure(request: Request) -> list[Statistic]:
    """Returns what the lenses say at random masks, and the depth of decisions in runs.

    Raises:
        StudyError: On models that are no twins of sudoku.
    """
    twins, sizes, seed = twins_of(request, SUDOKU.name), request.sizes, request.seed
    pool = mixed_boards(sizes.fitted + 2 * sizes.tested, seed, RUNGS)
    fit, test, run = pool[: sizes.fitted], pool[sizes.fitted : -sizes.tested], pool[-sizes.tested :]
    with request.clock.stage("train lenses"):
        judged = lenses_of(twins, puzzle_corpus(SUDOKU, fit), puzzle_corpus(SUDOKU, test), Schedule(seed=seed))
    with request.clock.stage("judge"):
        scores = lens_scores(judged, seed)
    model, last = twins.diffusion, twins.diffusion.n_layers - 1
    with request.clock.stage("follow runs"):
        own = {name: [lens for point, lens in judged["masked"].lenses[name].items() if point.layer != last] for name in LENSES}
        depths = decision_depths(model, denoise(model, SUDOKU.prompt(run), DECODING), own, [shuffled_weights(model, seed)])
    return [*scores, *depth_statistics(depths, seed)]


def _shown(one: Estimate, form: str = ".2f") -> str:
    return f"{one.value:{form}} [{one.low:{form}}, {one.high:{form}}]"


def findings(statistics: Sequence[Statistic]) -> list[str]:
    """Returns how far each lens is from the end of the diffusion twin, layer by layer, half unwritten, and how deep decisions lie."""
    return list(_said({one.name: one for one in statistics}))


def _said(named: dict[str, Statistic]) -> Iterator[str]:
    agreement = named["lens_agreement"]
    here = [one for one in agreement.values if one.at["network"] == "masked" and one.at["percent unwritten"] == 50]
    for line in (LOGIT, TUNED, MAPPED, AS_IS, INPUT, SHUFFLED):
        course = [f"{_shown(one.estimate)} after block {int(one.at['layer']) + 1}" for one in here if one.at["lens"] == line]
        if course:
            n = min(one.estimate.n for one in here if one.at["lens"] == line)
            yield f"{line}, half unwritten, has the network's own answer: {', '.join(course)} (n = {n} boards)."
    for value in named["depth_of_a_call"].values:
        if value.at["lens"] in (TUNED, MAPPED, SHUFFLED) and value.at["percent unwritten"] == 50:
            depth = _shown(value.estimate)
            yield f"{value.at['lens']}: the deepest cell that a call writes is decided after {depth} blocks, half unwritten."


LENS_STUDY = Study(
    title="What would each layer answer?",
    claim="Inside one call the answer is ready layers before the last",
    limits="A lens shows what a linear map reads, not what later blocks use; one pair on one task.",
    about=(
        "Logit and tuned lenses on both twins, the causal twin's also on the diffusion twin, as they are and through a map fitted without "
        "labels. Between two calls of a run nothing passes but tokens; within one, the depth is the network's: after how many of its "
        "blocks can the answer be read? What is readable early need not be used early."
    ),
    models=("sudoku-ar", "sudoku-diffusion"),
    sizes={"small": Sizes(fitted=100, tested=40), "full": Sizes(fitted=300, tested=200)},
    measure=measure,
    findings=findings,
)
