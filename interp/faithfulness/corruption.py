"""Does a wrong token spread, and is it mended? One written token is replaced, the noise held, and the run resumed (2307.13702)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.faithfulness.base import (
    Case,
    FaithfulnessError,
    FaithfulnessTest,
    Gathered,
    course,
    drawn,
    middle_of,
    named,
    share,
    solutions,
    stops,
    unwritten,
    words_of,
    written,
)
from interp.statistics import Statistic, label_of
from models.tasks.sudoku.board import N_CELLS, PEERS
from models.tasks.sudoku.task import SOLUTION, SUDOKU
from models.trajectory import Trajectory

REVISING = ("mgdm", "remdm_conf", "token_editing")
"""Policies that can rewrite, which go on with a corrupted run in place of its own."""
NEAR = 8
"""Tokens of a text so many places away or fewer are near."""
NOTHING = "nothing"
IN_SIGHT, UNSEEN, SPENT = "a digit wrong in sight", "a digit wrong out of sight", "a wrong digit among written ones"
WORD = "another word"


@dataclass(frozen=True)
class _Wounds:
    """One written position a sample and the token put there; positions are -1 where there is none to choose."""

    position: Int[np.ndarray, " batch"]
    token: Int[np.ndarray, " batch"]


def _standing(case: Case, step: int) -> Bool[np.ndarray, "batch pos"]:
    """Returns where the run wrote a token that is right (or, without ground truth, is any)."""
    found, right = written(case, step), solutions(case)
    return found if right is None else found & (case.run.tokens(step) == right)


def _on_boards(case: Case, step: int, rng: np.random.Generator) -> dict[str, _Wounds]:
    """Returns one wrong digit a board of each kind."""
    canvas = case.run.tokens(step)
    boards, standing = SUDOKU.boards(canvas), _standing(case, step)[:, SOLUTION]
    digits = np.arange(1, 10)
    seen = (boards[:, PEERS][..., None] == digits).any(axis=2)
    other = standing[..., None] & (boards[..., None] != digits)
    busy = unwritten(case, step)[:, SOLUTION][:, PEERS].any(axis=2, keepdims=True)
    found = {}
    for kind, chances in ((IN_SIGHT, other & seen & busy), (UNSEEN, other & ~seen & busy), (SPENT, other & ~busy)):
        choice = drawn(chances, rng)
        found[kind] = _Wounds(np.where(choice < 0, -1, choice // 9 + SOLUTION.start), choice % 9 + 1)
    return found


def _in_text(case: Case, step: int, rng: np.random.Generator) -> dict[str, _Wounds]:
    """Returns one other word a text, drawn as words are frequent in all of them."""
    canvas, words = case.run.tokens(step), words_of(case)
    place = drawn(_standing(case, step) & words[canvas.clip(0)], rng)
    pool = canvas[words[canvas.clip(0)]]
    own = canvas[np.arange(len(canvas)), place]
    chances = pool[None] != own[:, None]
    choice = drawn(chances, rng)
    return {WORD: _Wounds(np.where(choice < 0, -1, place), pool[choice] if len(pool) else choice)}


def _wounds(case: Case, step: int) -> dict[str, _Wounds]:
    make = _on_boards if case.run.task == SUDOKU.name else _in_text
    return make(case, step, np.random.default_rng((case.seed, step)))


def _near(case: Case, position: Int[np.ndarray, " batch"]) -> Bool[np.ndarray, "batch pos"]:
    """Returns which positions lie near one: cells that share a unit with it, or tokens at most ``NEAR`` away."""
    places = np.arange(case.run.tokens(0).shape[1])
    if case.run.task != SUDOKU.name:
        return np.abs(places - position[:, None]) <= NEAR
    cells = np.clip(position - SOLUTION.start, 0, N_CELLS - 1)
    return (places[None, :, None] == PEERS[cells][:, None] + SOLUTION.start).any(axis=2)


def _resumed(case: Case, step: int, wounds: _Wounds | None, policy: str) -> Trajectory:
    """Returns the run gone on with from a step, wounded or not; another policy has its own defaults, and as many calls in all."""
    moment = case.run.at(step)
    if wounds is not None:
        for sample in np.flatnonzero(wounds.position >= 0).tolist():
            moment = moment.edit({int(wounds.position[sample]): int(wounds.token[sample])}, sample=sample)
    if policy == case.run.policy:
        return moment.resume(case.model)
    return moment.resume(case.model, policy=policy, steps=case.run.n_steps)


def _mended_after(case: Case, run: Trajectory, step: int, position: Int[np.ndarray, " batch"]) -> Float[np.ndarray, " batch"]:
    """Returns after how many calls the token at a position is for good what it was before step ``step``'s wound; NaN if never."""
    rows = np.arange(len(position))
    own = case.run.tokens(step)[rows, position]
    again = run.data["token"].values[rows, step:, position] == own[:, None]
    for_good = np.flip(np.logical_and.accumulate(np.flip(again, axis=1), axis=1), axis=1)
    return np.where(for_good.any(axis=1) & (position >= 0), for_good.argmax(axis=1), np.nan)


def _where(case: Case, step: int, position: Int[np.ndarray, " batch"]) -> Iterator[tuple[str, Bool[np.ndarray, "batch pos"]]]:
    """Yields the unwritten positions near a wound, and those elsewhere; none in samples without a wound."""
    near, left = _near(case, position), unwritten(case, step) & (position >= 0)[:, None]
    yield "near", left & near
    yield "elsewhere", left & ~near


def _damage(case: Case, gathered: Gathered, step: int, kind: str, run: Trajectory, position: Int[np.ndarray, " batch"]) -> None:
    """Gathers what a wound did under the run's own policy."""
    right, whole, final = solutions(case), case.run.tokens(-1), run.tokens(-1)
    for where, among in _where(case, step, position):
        gathered.add("corruption_damage", share(final != whole, among), corruption=kind, where=where, step=step)
        if right is not None:
            gathered.add("corruption_wrong", share(final != right, among), corruption=kind, where=where, step=step)


def _recovery(case: Case, gathered: Gathered, kind: str, runs: tuple[Trajectory, Trajectory], position: Int[np.ndarray, " batch"]) -> None:
    """Gathers, of a run without and with a wound at the middle stop, whether it is mended, when, and how far it spread."""
    step, (calm, run) = middle_of(case.run), runs
    after = _mended_after(case, run, step, position)
    untouched = case.run if kind == NOTHING else calm
    left = unwritten(case, step) & (position >= 0)[:, None]
    for name, values in (
        ("corruption_mended", np.where(position >= 0, np.isfinite(after), np.nan)),
        ("corruption_calls", after),
        ("corruption_spread", share(run.tokens(-1) != untouched.tokens(-1), left)),
    ):
        gathered.add(name, values, corruption=kind, policy=run.policy)


def _gather(case: Case) -> Gathered:
    """Returns damage by step under the run's own policy, and recovery from wounds at the middle stop under it and those that rewrite."""
    gathered, steps, middle = Gathered(case.seed), stops(case.run), middle_of(case.run)
    own = case.run.policy
    turns = [*((own, step) for step in steps), *((policy, middle) for policy in REVISING if policy != own)]
    for done, (policy, step) in enumerate(turns):
        case.on_step(done, len(turns))
        wounds = {kind: one for kind, one in _wounds(case, step).items() if (one.position >= 0).any()}
        if not wounds:
            continue
        calm, first = _resumed(case, step, None, policy), next(iter(wounds.values()))
        for kind, wound in {**wounds, NOTHING: None}.items():
            if policy != own and kind == SPENT:
                continue
            run = calm if wound is None else _resumed(case, step, wound, policy)
            position = (wound or first).position
            if policy == own:
                _damage(case, gathered, step, kind, run, position)
            if step == middle:
                _recovery(case, gathered, kind, (calm, run), position)
    return gathered


@dataclass(frozen=True)
class _Figure:
    title: str
    unit: str
    lines: tuple[str, ...]
    x: str
    about: str


_OTHERS = "Of the other positions, unwritten when the token was replaced"
_STOPPED = "Replaced after the middle of the calls; each policy goes on from there."
FIGURES: Mapping[str, _Figure] = {
    "corruption_damage": _Figure(
        "A wrong token's damage",
        "share of positions",
        ("corruption", "where"),
        "step",
        f"{_OTHERS}, the share that ends otherwise than in the untouched run; near is in a unit of the cell, or within {NEAR} tokens. "
        "Control: nothing replaced, which must change nothing.",
    ),
    "corruption_wrong": _Figure(
        "Wrong digits in the end", "share of cells", ("corruption", "where"), "step", f"{_OTHERS}, the share that is wrong in the end."
    ),
    "corruption_spread": _Figure(
        "A wrong token's damage, by policy",
        "share of positions",
        ("corruption",),
        "policy",
        f"{_OTHERS}, the share that ends otherwise than where the same policy goes on with nothing replaced. Floor: nothing replaced, "
        f"against the run itself, which is what the policy changes. {_STOPPED}",
    ),
    "corruption_mended": _Figure(
        "Is the token mended?",
        "share of samples",
        ("corruption",),
        "policy",
        f"The replaced token is in the end what it was. Control: nothing replaced, and it stays. {_STOPPED}",
    ),
    "corruption_calls": _Figure(
        "Calls until it is mended",
        "calls",
        ("corruption",),
        "policy",
        f"Where it is mended, and for good. Floor: nothing replaced, and it stays. {_STOPPED}",
    ),
}


def measure(case: Case) -> list[Statistic]:
    """Returns damage by step and distance, and recovery by policy.

    Raises:
        FaithfulnessError: Where no written token can be made wrong.
    """
    gathered = _gather(case)
    if not gathered.values:
        raise FaithfulnessError(
            "no token that the runs wrote on their way can be made wrong; they write none that is right before they end"
        )
    return [_statistic(name, one, gathered) for name, one in FIGURES.items() if name in gathered.values]


def _statistic(name: str, one: _Figure, gathered: Gathered) -> Statistic:
    values = gathered.values[name]
    untouched = {label_of(value.at, one.lines) for value in values if value.at["corruption"] == NOTHING}
    return Statistic(
        name=name,
        title=one.title,
        about=one.about,
        unit=one.unit,
        panels=(),
        lines=one.lines,
        x=one.x,
        roles=dict.fromkeys(sorted(untouched), "reference" if name == "corruption_mended" else "floor"),
        values=values,
    )


def findings(statistics: Sequence[Statistic]) -> list[str]:
    """Returns how far the damage went and what was mended."""
    found = named(statistics)
    damage, mended = found["corruption_damage"], found["corruption_mended"]
    still = [one.estimate.value for one in damage.values if one.at["corruption"] == NOTHING]
    exact = "repeats the run exactly" if not any(still) else f"changes up to {max(still):.1%} of the rest"
    said = [f"Going on with nothing replaced {exact}."]
    for kind, where in dict.fromkeys((one.at["corruption"], one.at["where"]) for one in damage.values):
        if kind != NOTHING:
            said.append(
                f"With {kind} in place of a written token, {where}, the rest differs in {course(damage, corruption=kind, where=where)}."
            )
    for kind in dict.fromkeys(one.at["corruption"] for one in mended.values):
        if kind != NOTHING:
            said.append(f"The token is what it was before {kind} took its place in {course(mended, corruption=kind)}.")
    return said


CORRUPTION = FaithfulnessTest(
    title="Does a wrong token spread, and is it mended?",
    about=(
        "If the run uses what it wrote, a wrong token damages what depends on it, and little else; a policy that can rewrite may mend it. "
        "The noise is held; the control replaces nothing."
    ),
    measure=measure,
    findings=findings,
    with_truth="whether a replaced token was right, and the share of wrong digits in the end",
)
