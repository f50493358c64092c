"""Whether a diffusion model's answers to one prompt differ more than its causal twin's, at equal quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from interp.report import Estimate
from interp.statistics import Statistic
from interp.studies.base import Request, Study, StudyError, twins_of
from interp.studies.diversity import boards, texts
from interp.studies.diversity.samples import ALL
from models.tasks.stories.task import STORIES
from models.tasks.sudoku.task import SUDOKU

TASKS = (SUDOKU.name, STORIES.name)


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    boards: int
    """Of each number of solutions."""
    answers: int
    """To each board."""
    instructions: int
    texts: int
    """To each instruction."""
    length: int
    """Tokens of a text."""
    others: int
    """Texts of the causal model that the 5-grams are learned from, where no files are named."""
    budgets: int
    """How many budgets of network calls are tried, the smallest first."""


def _boards(request: Request) -> list[Statistic]:
    twins = twins_of(request, SUDOKU.name)
    sizes: Sizes = request.sizes
    with request.clock.stage("boards") as tell:
        found = boards.sample_boards(twins, sizes.boards, sizes.answers, sizes.budgets, request.seed, tell)
    return boards.board_statistics(found, sizes.boards, sizes.answers, request.seed)


def _texts(request: Request) -> list[Statistic]:
    twins = twins_of(request, STORIES.name)
    sizes: Sizes = request.sizes
    with request.clock.stage("instructions"):
        asked, ngrams = texts.material(twins.ar, sizes.instructions, sizes.length, sizes.others, files=request.puzzles, seed=request.seed)
    with request.clock.stage("stories") as tell:
        found = texts.sample_texts(texts.Judges(twins, ngrams, request.seed), asked, sizes.texts, sizes.budgets, tell)
    return texts.text_statistics(found, asked, sizes.texts, request.seed)


def measure(request: Request) -> list[Statistic]:
    """Returns the figures of boards, of stories, or of both, as there are models for.

    Raises:
        StudyError: On models that are no causal and masked model of sudoku, of stories, or two of each.
    """
    tasks = {model.facts.task for model in request.models}
    if not tasks or not tasks <= set(TASKS):
        raise StudyError(f"the models are of {', '.join(sorted(tasks))}; this study needs a causal and a masked model of sudoku or stories")
    parts = {task: replace(request, models=tuple(model for model in request.models if model.facts.task == task)) for task in tasks}
    return [one for task, part in ((SUDOKU.name, _boards), (STORIES.name, _texts)) if task in parts for one in part(parts[task])]


def _interval(one: Estimate) -> str:
    return f"{one.value:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"


def _side(one: Estimate) -> int:
    return (one.low > 0) - (one.high < 0)


def _sentence(statistic: Statistic, quality: str, measure: str, about: str) -> str | None:
    """Returns what is said of one measure at one kind of quality; None where nothing could be compared."""
    found = {str(v.at["writer"]): v.estimate for v in statistic.values if v.at["quality"] == quality and v.at["measure"] == measure}
    if ALL not in found:
        return None
    pooled = found.pop(ALL)
    word = {1: "more diverse than", -1: "less diverse than", 0: "not told apart from"}[_side(pooled)]
    apart = {side: [name for name, one in found.items() if _side(one) == side] for side in (1, -1)}
    said = [f"{kind} {', '.join(apart[side])}" for side, kind in ((1, "more:"), (-1, "less:")) if apart[side]]
    each = f"; {'; '.join(said)}" if said else f"; none of the {len(found)} ways of denoising is told apart"
    mean = f"{_interval(pooled)} in the mean of the policies (n = {pooled.n})"
    return f"{about}: diffusion is {word} its causal twin at equal quality, {mean}{each}."


def _verdict(statistics: Sequence[Statistic]) -> str:
    """Returns whether the answers of diffusion are more diverse: where half the comparisons say so and none the contrary."""
    asked = {"matched_boards": {boards.COVERAGE, boards.DIFFERENT}, "matched_texts": set(texts.DRAWN)}
    sides: dict[str, list[int]] = {}
    for one in statistics:
        for value in one.values if one.name in asked else ():
            if value.at["measure"] in asked[one.name]:
                sides.setdefault(str(value.at["writer"]), []).append(_side(value.estimate))
    found = sides.pop(ALL, [])
    more, less, n = found.count(1), found.count(-1), len(found)
    word = "supported" if more * 2 >= n > 0 == less else "refuted" if less * 2 >= n > 0 == more else "undecided"
    single = [side for each in sides.values() for side in each]
    return (
        f"'Diffusion answers are more diverse' at equal quality: {word} here. In the mean of the policies {more} of {n} comparisons come "
        f"out more diverse, {less} less; of {len(single)} comparisons of single policies {single.count(1)} come out more diverse, "
        f"{single.count(-1)} less; the others are not told apart."
    )


def findings(statistics: Sequence[Statistic]) -> list[str]:
    """Returns the verdict, and each comparison at equal quality that it rests on."""
    named = {one.name: one for one in statistics}
    said = [_verdict(statistics)]
    words = {
        boards.COVERAGE: "solutions found of those that exist",
        boards.DIFFERENT: "two valid answers to a board differ (1 as uniform draws)",
    }
    asked = [("matched_boards", boards.VALID, measure, f"Boards, {word}") for measure, word in words.items()]
    asked += [
        ("matched_texts", judge, measure, f"Stories, {measure}, judged by the {judge}") for judge in texts.JUDGES for measure in texts.DRAWN
    ]
    for name, quality, measure_, about in asked:
        if name in named:
            sentence = _sentence(named[name], quality, measure_, about)
            said.append(sentence or f"{about}: nothing can be told; one of the twins is better throughout, and less diverse.")
    return said


DIVERSITY = Study(
    title="Are the answers of diffusion more diverse?",
    claim="Diffusion models have more diverse ideas",
    limits=(
        "It crosses one model of each objective with rules of remasking; what the objective does apart from the rest of training "
        "(2605.12522) needs models trained under more objectives."
    ),
    about=(
        "The same prompt, many answers: a causal model and the diffusion model grown from it, each at several temperatures, the diffusion "
        "model in several orders and numbers of calls. Diversity is cheap at the price of quality, so both are measured and compared at "
        "equal quality: on boards whose solutions are counted exactly, and on stories."
    ),
    models=("sudoku-ar", "sudoku-diffusion", "stories-ar", "stories-diffusion"),
    sizes={
        "small": Sizes(boards=4, answers=8, instructions=6, texts=4, length=32, others=10, budgets=1),
        "full": Sizes(boards=125, answers=32, instructions=100, texts=8, length=128, others=400, budgets=2),
    },
    measure=measure,
    findings=findings,
    takes_puzzles=True,
)
