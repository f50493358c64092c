"""What a table of SAEs comes down to: by hook point, and as statistics to draw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from interp.report import CEILING, SAE_FLOORS, Estimate, SaeEntry, SaeScores, over_all_sites
from interp.statistics import Coordinate, Measured, Role, Statistic, over_seeds

HEADLINE = ("source", "zero_shot", "matched", "stitched", CEILING, *SAE_FLOORS)
At = Callable[[SaeEntry], Mapping[str, Coordinate]]
"""The coordinates of an entry."""

LEARNED = ("tuned", "frozen", "scratch")
"""What was trained on few activations of the other model, each followed by how many."""


def by_point(entries: Iterable[SaeEntry]) -> list[dict[str, Any]]:
    """Returns a row for each hook point: what each SAE leaves unexplained there, means over seeds."""
    rows = []
    for own in _by_point(entries).values():
        means = {name: over_seeds([one.scores[name].fvu for one in own]).value for name in own[0].scores}
        rows.append({"hook point": own[0].hook_point, **means, "n": own[0].scores[SAE_FLOORS[0]].fvu.n, "seeds": len(own)})
    return rows


def _by_point(entries: Iterable[SaeEntry]) -> dict[tuple[int, str], list[SaeEntry]]:
    """Returns entries, a list of seeds each, by layer and hook point, in order."""
    grouped: dict[tuple[int, str], list[SaeEntry]] = {}
    for entry in entries:
        grouped.setdefault((entry.layer, entry.hook_point), []).append(entry)
    return dict(sorted(grouped.items()))


def _measured(
    entries: Iterable[SaeEntry],
    names: Iterable[str],
    figure: Callable[[SaeScores], Estimate | None],
    at: At,
) -> list[Measured]:
    """Returns one figure of some scores, over seeds, at the coordinates of each entry."""
    found: dict[tuple[tuple[str, Coordinate], ...], list[Estimate]] = {}
    for name in names:
        for entry in entries:
            value = figure(entry.scores[name]) if name in entry.scores else None
            if value is not None:
                found.setdefault((*at(entry).items(), ("sae", name)), []).append(value)
    return [Measured(at=dict(place), estimate=over_seeds(values)) for place, values in found.items()]


def _roles(values: Iterable[Measured]) -> dict[str, Role]:
    roles: dict[str, Role] = {**{name: "floor" for name in SAE_FLOORS}, CEILING: "reference"}
    there = {str(value.at["sae"]) for value in values}
    return {name: role for name, role in roles.items() if name in there}


def _statistic(values: list[Measured], **told: Any) -> Statistic:
    """Returns a statistic with a line an SAE."""
    return Statistic(lines=("sae",), roles=_roles(values), values=values, **told)


def _component(entry: SaeEntry) -> str:
    return entry.hook_point.split(".")[-1]


def unexplained(entries: Iterable[SaeEntry]) -> Statistic:
    """Returns the variance that SAEs leave unexplained, by layer."""
    values = _measured(
        over_all_sites(entries), HEADLINE, lambda one: one.fvu, lambda entry: {"at": _component(entry), "layer": entry.layer}
    )
    return _statistic(
        values,
        name="unexplained",
        title="Variance that SAEs leave unexplained",
        about="0 is perfect, 1 as bad as the mean. Compare what was moved with the green ceiling and the grey floors.",
        unit="FVU",
        panels=("at",),
        x="layer",
    )


def unexplained_by_rate(entries: Iterable[SaeEntry]) -> Statistic:
    """Returns the same by mask rate."""
    there = [entry for entry in entries if entry.mask_rate is not None]
    names = ("source", "zero_shot", "stitched", CEILING)

    def place(entry: SaeEntry) -> Mapping[str, Coordinate]:
        return {"at": entry.hook_point, "percent masked": round(100 * (entry.mask_rate or 0))}

    values = _measured(there, names, lambda one: one.fvu, place)
    return _statistic(
        values,
        name="unexplained_by_rate",
        title="... by share of the answer that is masked",
        about="Variance is about the mean of the activations at each mask rate.",
        unit="FVU",
        panels=("at",),
        x="percent masked",
    )


def cost_of_splicing(entries: Iterable[SaeEntry]) -> Statistic:
    """Returns how much higher the loss is with SAEs in place, by layer, over all tokens and by mask rate."""

    def place(entry: SaeEntry) -> Mapping[str, Coordinate]:
        return {"tokens": "all tokens" if entry.mask_rate is None else f"{entry.mask_rate:.0%} masked", "layer": entry.layer}

    there = [entry for entry in entries if entry.kind is None and entry.step is None]
    values = _measured(there, HEADLINE, lambda one: None if one.spliced is None else one.spliced.delta, place)
    return _statistic(
        values,
        name="cost_of_splicing",
        title="What a model loses with an SAE in place",
        about="Cross-entropy of the true tokens with the activations replaced by the SAE's reconstructions, less without; below 0: a gain.",
        unit="nats a token",
        panels=("tokens",),
        x="layer",
    )


def tuning(entries: Iterable[SaeEntry]) -> Statistic:
    """Returns what SAEs leave unexplained that learned from few activations of the other model."""
    there = over_all_sites(entries)
    learned = {name for entry in there for name in entry.scores if name.split()[0] in LEARNED}
    values = []
    for kind, count in sorted((name.split()[0], int(name.split()[1])) for name in learned):
        found = _measured(there, [f"{kind} {count}"], lambda one: one.fvu, lambda entry: {"at": entry.hook_point})
        values += [Measured(at={**one.at, "sae": kind, "activations": count}, estimate=one.estimate) for one in found]
    return _statistic(
        values,
        name="tuning",
        title="Learning from few activations of the other model",
        about="Tuned: the stitched SAE trained on (frozen: all but its dictionary). Scratch: as many steps on the same, from nothing.",
        unit="FVU",
        panels=("at",),
        x="activations",
        log_x=True,
    )


STATISTICS = (unexplained, unexplained_by_rate, cost_of_splicing, tuning)
"""What the page of a run draws, where it has values."""
