"""Simulatability: does reading the account of a run foretell what the next call writes, better than not reading it?

After Doshi-Velez & Kim (1702.08608) and Hase & Bansal (2005.01831): a simulator is shown what an explanation says, and has to say what the
model does next, on ordinary runs and, in the counterfactual form, on runs that an edit has changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from interp.faithfulness.base import Case, FaithfulnessError, FaithfulnessTest
from interp.faithfulness.simulator import Places, Told, features, fit_simulator, foretold, places_of, told
from interp.grading import Tally
from interp.narration import narrate
from interp.reading import Reader, read
from interp.report import Estimate
from interp.statistics import Coordinate, Measured, Statistic
from interp.verdict import difference
from models.tasks.sudoku.generator import Puzzles
from models.tasks.sudoku.task import MASK_ID, SOLUTION, SUDOKU
from models.trajectory import Trajectory
from probes.controls import random_directions

AFTER = 5
"""So many calls after an edit are simulated."""
NOTHING, READERS, RANDOM, OTHER = "nothing", "the readers", "random readers", "another run"
ACCOUNTS = (NOTHING, READERS, RANDOM, OTHER)
KNOWS = ("tokens", "tokens and confidences")
COMPARED = ((READERS, NOTHING), (READERS, RANDOM), (READERS, OTHER), (RANDOM, NOTHING), (OTHER, NOTHING))
ORDINARY, UNTOUCHED, CORRUPTED = "all calls", "the calls of the next panel, without the edit", "calls after an edit"
RUNS = (ORDINARY, UNTOUCHED, CORRUPTED)


def random_like(readers: Mapping[str, Reader], seed: int) -> dict[str, Reader]:
    """Returns readers along random directions, as long as theirs, with their thresholds."""
    found = {}
    for offset, (name, reader) in enumerate(readers.items()):
        directions = random_directions(len(reader.probe.weight), reader.probe.d_model, seed + offset)
        weight = directions * reader.probe.weight.norm(dim=1, keepdim=True)
        found[name] = replace(reader, probe=replace(reader.probe, weight=weight, kind="random"))
    return found


def accounts_of(case: Case, trajectory: Trajectory) -> dict[str, Told | None]:
    """Returns what is told of a run by each account; what another run's account tells is that of the sample before."""
    assert case.readers is not None
    found: dict[str, Told | None] = {NOTHING: None}
    for name, readers in ((READERS, case.readers), (RANDOM, random_like(case.readers, case.seed))):
        found[name] = told(trajectory, narrate(read(case.model, trajectory, readers)))
    own = found[READERS]
    assert own is not None
    found[OTHER] = own.of_others()
    return found


def corrupted(case: Case, puzzles: Puzzles) -> tuple[Trajectory, int]:
    """Returns the run with one written token of each sample changed, half-way through the median run, and resumed; and that step."""
    step = max(1, int(np.median(case.run.calls)) // 2)
    rng = np.random.default_rng(case.seed)
    moment, tokens = case.run.at(step), case.run.tokens(step)[:, SOLUTION]
    for sample, cells in enumerate(tokens):
        written = np.flatnonzero((cells != MASK_ID) & (puzzles.givens[sample] == 0))
        if len(written) and (cells == MASK_ID).any():
            cell = int(rng.choice(written))
            other = int((cells[cell] - 1 + rng.integers(1, 9)) % 9 + 1)
            moment = moment.edit({SOLUTION.start + cell: other}, sample=sample)
    return moment.resume(case.model), step


@dataclass(frozen=True)
class _Scene:
    """Calls to foretell, and what is told of them."""

    run: Trajectory
    places: Places
    accounts: Mapping[str, Told | None]

    def half(self, odd: int) -> Places:
        """Returns the places of every other board."""
        keep = self.places.sample % 2 == odd
        return Places(*(getattr(self.places, name)[keep] for name in ("sample", "step", "cell", "outcome")))


def _scenes(case: Case, puzzles: Puzzles) -> dict[str, _Scene]:
    edited, step = corrupted(case, puzzles)
    own, others = accounts_of(case, case.run), accounts_of(case, edited)
    return {
        ORDINARY: _Scene(case.run, places_of(case.run), own),
        UNTOUCHED: _Scene(case.run, places_of(case.run, step + 1, step + AFTER), own),
        CORRUPTED: _Scene(edited, places_of(edited, step + 1, step + AFTER), others),
    }


def _foretold(scenes: Mapping[str, _Scene], account: str, confidences: bool, samples: int) -> dict[str, tuple[Tally, Tally]]:
    """Returns bits and hits by run; a board is foretold by the simulator fitted on the ordinary runs of the other half of the boards."""
    found: dict[str, list[tuple[Tally, Tally]]] = {name: [] for name in scenes}
    for odd in (0, 1):
        learned = scenes[ORDINARY]
        places = learned.half(1 - odd)
        shown = features(learned.run, places, learned.accounts[account], confidences=confidences)
        weights = fit_simulator(shown, torch.from_numpy(places.outcome))
        for name, scene in scenes.items():
            places = scene.half(odd)
            if len(places.sample):
                shown = features(scene.run, places, scene.accounts[account], confidences=confidences)
                found[name].append(foretold(shown, places, weights, samples))
    return {name: (_sum([bits for bits, _ in parts]), _sum([hits for _, hits in parts])) for name, parts in found.items() if parts}


def _sum(parts: Sequence[Tally]) -> Tally:
    return Tally(np.sum([part.hits for part in parts], axis=0), np.sum([part.of for part in parts], axis=0))


ABOUT = (
    "A simulator, fitted on other boards, says of every unwritten cell whether the next call writes it, and which digit. It knows the "
    "visible tokens and what the rules make of them, or also the proposals and confidences of the last call; and it is told what an "
    "account says is decided and comes next. Controls: nothing is told, random directions in place of the readers', and the account of "
    "another board's run. After an edit (a written token changed) the simulator of ordinary runs is used as it is."
)


def measure(case: Case) -> list[Statistic]:
    """Returns bits a cell and the share of writings named, by what the simulator knows and what it is told.

    Raises:
        FaithfulnessError: Without readers, without puzzles, on another task, or on fewer than four boards.
    """
    if case.readers is None or case.puzzles is None or case.run.task != SUDOKU.name:
        raise FaithfulnessError(
            f"a run of {case.run.task!r}, readers {case.readers and 'given'}; simulating needs sudoku, puzzles and readers"
        )
    samples = case.run.n_samples
    if samples < 4:
        raise FaithfulnessError(f"{samples} boards; a simulator is fitted on half of them and needs at least 4")
    scenes = _scenes(case, case.puzzles)
    found: dict[str, _Tallies] = {"bits": {}, "named": {}}
    asked = [(knows, account) for knows in KNOWS for account in ACCOUNTS]
    for done, (knows, account) in enumerate(asked):
        case.on_step(done, len(asked))
        for run, tallies in _foretold(scenes, account, knows == KNOWS[1], samples).items():
            for name, tally in zip(found, tallies, strict=True):
                found[name][run, knows, account] = tally
    return [
        _statistic("bits", "How many bits short is the simulator?", "bits a cell", found["bits"], case.seed),
        _statistic("named", "How much of what is written next does the simulator name?", "share of writings", found["named"], case.seed),
        _saved(found["bits"], case.seed),
    ]


_Tallies = dict[tuple[str, str, str], Tally]
"""By run, what is known, and what is told."""


def _statistic(name: str, title: str, unit: str, tallies: _Tallies, seed: int) -> Statistic:
    return Statistic(
        name=f"simulated_{name}",
        title=title,
        about=ABOUT,
        unit=unit,
        panels=("run",),
        lines=("told",),
        x="knows",
        roles={NOTHING: "floor", RANDOM: "floor", OTHER: "floor"},
        values=[
            Measured(at={"run": run, "knows": knows, "told": account}, estimate=tally.estimate(seed))
            for (run, knows, account), tally in tallies.items()
        ],
    )


def _saved(tallies: _Tallies, seed: int) -> Statistic:
    """Returns how many bits fewer one account leaves open than another, on the same boards."""
    values = []
    for run, knows in dict.fromkeys((run, knows) for run, knows, _ in tallies):
        for told_of, than in COMPARED:
            at: dict[str, Coordinate] = {"run": run, "knows": knows, "compared": against(told_of, than)}
            found = difference(tallies[run, knows, than], tallies[run, knows, told_of], seed)
            values.append(Measured(at=at, estimate=found))
    return Statistic(
        name="simulated_saved",
        title="How many bits does an account save the simulator?",
        about=f"Bits a cell told the second, less those told the first; boards are resampled in pairs. {ABOUT}",
        unit="bits a cell",
        panels=("run",),
        lines=("compared",),
        x="knows",
        roles={against(RANDOM, NOTHING): "floor", against(OTHER, NOTHING): "floor"},
        values=values,
    )


def against(told_of: str, than: str) -> str:
    """Returns what a comparison of two accounts is called."""
    return f"{told_of} against {than}"


def findings(statistics: Sequence[Statistic]) -> list[str]:
    """Returns, for each run and each thing known, whether the account helps the simulator more than its controls do, board by board."""
    bits, named, saved = (next(one for one in statistics if one.name == f"simulated_{name}") for name in ("bits", "named", "saved"))
    said = []
    for run in (run for run in RUNS if any(value.at["run"] == run for value in bits.values)):
        for knows in KNOWS:
            cost = {account: bits.at(run=run, knows=knows, told=account) for account in ACCOUNTS}
            hit = {account: named.at(run=run, knows=knows, told=account) for account in ACCOUNTS}
            told_bits = ", ".join(f"{account} {one.value:.3f}" for account, one in cost.items())
            judged = [
                _judged(than, saved.at(run=run, knows=knows, compared=against(READERS, than))) for than in ACCOUNTS if than != READERS
            ]
            said.append(
                f"{run}, knowing {knows}, bits a cell when told: {told_bits}; writings named {hit[READERS].value:.0%} told by the readers, "
                f"{hit[NOTHING].value:.0%} told nothing. The account is {'; '.join(judged)} ({cost[READERS].n} boards)."
            )
    return said


def _judged(than: str, saved: Estimate) -> str:
    """Returns whether the readers' account is better than another, by the interval of what it saves on the same boards."""
    verdict = "better than" if saved.low > 0 else "worse than" if saved.high < 0 else "not to be told from"
    return f"{verdict} {than} ({saved.value:+.3f} [{saved.low:+.3f}, {saved.high:+.3f}])"


SIMULATABILITY = FaithfulnessTest(
    title="Does the account foretell what the model does next?",
    about=ABOUT,
    measure=measure,
    findings=findings,
    needs_truth=True,
    needs_readers=True,
)
