"""How far an account of a run can be believed: soundness, coverage, lead time."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from interp.narration import Statement, lead_steps
from interp.reading import Reading
from interp.report import Estimate, ReadingEntry
from interp.scoring import estimate
from models.trajectory import State
from probes.metrics import bootstrap_mean

JUSTIFICATIONS = ("only_candidate", "only_place")
NOT_ABOUT_WRITING = ("decided", "revised")


def _share_sound(statements: Sequence[Statement], seed: int) -> Estimate:
    """Returns the share of the gradable statements that the rules confirm; NaN of n 0 where there are none."""
    graded = [statement for statement in statements if statement.sound is not None]
    if not graded:
        return Estimate(value=float("nan"), low=float("nan"), high=float("nan"), n=0)
    values = torch.tensor([bool(statement.sound) for statement in graded])
    return estimate(bootstrap_mean(values, torch.tensor([statement.sample for statement in graded]), seed=seed))


def judge(reading: Reading, statements: Sequence[Statement], control: Sequence[Statement], *, seed: int = 0) -> ReadingEntry:
    """Returns the report's verdict on an account, beside that of the random-direction ``control``. Intervals resample boards."""
    by_kind: dict[str, list[Statement]] = {}
    for statement in statements:
        by_kind.setdefault(statement.kind, []).append(statement)
    written = [statement for statement in statements if statement.kind not in NOT_ABOUT_WRITING]
    explained = torch.tensor([statement.kind in JUSTIFICATIONS for statement in written])
    leads, samples = lead_steps(reading)
    states = reading.trajectory.data["state"].values
    writable = states[:, 0] == State.MASKED
    revised = (states == State.REVISED).any(axis=1) & writable
    return ReadingEntry(
        reader="; ".join(reader.name for reader in reading.readers.values()),
        boards=reading.trajectory.n_samples,
        policy=reading.trajectory.policy,
        statements={kind: len(members) for kind, members in by_kind.items()},
        sound=_share_sound(statements, seed),
        sound_by_kind={kind: _share_sound(members, seed) for kind, members in by_kind.items() if members[0].sound is not None},
        random_reader_sound=_share_sound(control, seed),
        random_reader_statements=len(control),
        coverage=estimate(bootstrap_mean(explained, torch.tensor([statement.sample for statement in written]), seed=seed)),
        lead_steps=estimate(bootstrap_mean(torch.from_numpy(leads), torch.from_numpy(samples), seed=seed)),
        revised=float(revised.sum() / writable.sum()),
    )
