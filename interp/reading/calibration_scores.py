"""How far calibrated readers can be believed on other boards: calibration error, false alarms and recall, by how much is unwritten."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.concepts import labels_of
from interp.harvest import Harvest
from interp.reading.calibration import Calibration
from interp.reading.readers import Reader
from interp.scoring import estimate
from interp.statistics import Measured, Role, Statistic
from probes.metrics import Interval, bootstrap_mean, bootstrap_ratio, calibration_error, resample_counts

RESAMPLES = 100
"""Of the boards, for the interval of the calibration error."""
_ROLES: dict[str, Role] = {"random": "floor", "diffusion": "reference"}


@dataclass(frozen=True)
class _Told:
    """What a reader says and claims at some places."""

    probabilities: Float[Tensor, "row head"]
    claims: Bool[Tensor, "row head"]
    labels: Bool[Tensor, "row head"]
    boards: Int[Tensor, " row"]
    exclusive: bool

    def rows(self, keep: Bool[Tensor, " row"]) -> _Told:
        return _Told(self.probabilities[keep], self.claims[keep], self.labels[keep], self.boards[keep], self.exclusive)


def _error(told: _Told, seed: int) -> Interval:
    """Returns the calibration error, mean over heads, with an interval that resamples boards.

    Resampling repeats rows and so adds to the scatter of the bins, which the error counts: the interval is moved back by that much.
    """
    names, board = torch.unique(told.boards, return_inverse=True)
    counts = resample_counts(len(names), RESAMPLES, torch.Generator().manual_seed(seed)).long()
    drawn = (torch.arange(len(board)).repeat_interleave(times[board]) for times in counts.T)
    errors = torch.stack([calibration_error(told.probabilities[rows], told.labels[rows]).mean() for rows in drawn])
    value = calibration_error(told.probabilities, told.labels).mean()
    low, high = torch.quantile((errors - errors.mean() + value).clamp(min=0), torch.tensor([0.025, 0.975], dtype=errors.dtype)).tolist()
    return Interval(float(value), low, high, len(names))


def _false_alarms(told: _Told, seed: int) -> Interval:
    wrong = told.claims & ~told.labels
    if told.exclusive:
        return bootstrap_mean(wrong.any(1), told.boards, seed=seed)
    return bootstrap_ratio(wrong.sum(1).double(), (~told.labels).sum(1).double(), told.boards, seed=seed)


def _recall(told: _Told, seed: int) -> Interval:
    return bootstrap_ratio((told.claims & told.labels).sum(1).double(), told.labels.sum(1).double(), told.boards, seed=seed)


def calibration_scores(sets: Mapping[str, Mapping[str, Reader]], test: Harvest, *, seed: int = 0) -> list[Statistic]:
    """Returns calibration error, false-alarm rate and recall of readers by concept, set and band of the share unwritten.

    Args:
        sets: Readers by set and concept, as ``reader_sets`` returns them; every line is a set, ``random`` the floor.
        test: Unwritten sites on boards that nothing was fitted, calibrated or chosen on.
        seed: Of the intervals.
    """
    about = f"On {len(torch.unique(test.sites.group))} boards that nothing was fitted on, by the share of the board still unwritten."
    asked = sorted({reader.calibration.alpha for readers in sets.values() for reader in readers.values()})
    wanted = f"Thresholds were set for {', '.join(f'{alpha:.0%}' for alpha in asked)}"
    told = {
        "calibration_error": ("Calibration error", about, "|share true - probability said|", _error),
        "false_alarms": (
            "False alarms",
            f"{about} {wanted}: of the places where a head is false, the share that claims it; of exclusive heads, of all places.",
            "share of places",
            _false_alarms,
        ),
        "recall": (
            "Recall",
            f"{about} {wanted}. Of the places where a head is true, the share that claims it.",
            "share",
            _recall,
        ),
    }
    return [
        Statistic(
            name=name,
            title=title,
            about=text,
            unit=unit,
            panels=("concept",),
            lines=("readers",),
            x="unwritten",
            roles={line: role for line, role in _ROLES.items() if line in sets},
            values=list(_measured(sets, test, measure, seed)),
        )
        for name, (title, text, unit, measure) in told.items()
    ]


def _measured(
    sets: Mapping[str, Mapping[str, Reader]], test: Harvest, measure: Callable[[_Told, int], Interval], seed: int
) -> Iterator[Measured]:
    share = test.sites.mask_rate
    for line, readers in sets.items():
        for name, reader in readers.items():
            probabilities = reader.probabilities(test.activations[reader.point], share)
            labels = labels_of(reader.concept, test.sites)
            told = _Told(probabilities, reader.claims(probabilities, share), labels, test.sites.group, reader.concept.exclusive)
            for place, rows in _bands(reader.calibration, share).items():
                if rows.any():
                    yield Measured(
                        at={"concept": name, "readers": line, "unwritten": place}, estimate=estimate(measure(told.rows(rows), seed))
                    )


def _bands(calibration: Calibration, share: Float[Tensor, " row"]) -> dict[str, Bool[Tensor, " row"]]:
    """Returns which rows lie in each band, and all of them, by what to call it."""
    band, ends = calibration.band(share), calibration.bands
    names = (f"{start:.0%} to {end:.0%}" for start, end in zip((0.0, *ends[:-1]), ends, strict=True))
    return {**{name: band == index for index, name in enumerate(names)}, "all": torch.ones_like(band, dtype=torch.bool)}
