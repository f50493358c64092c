"""Named figures with their axes: what a study measures, and all that is needed to draw or tabulate it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import Field, model_validator

from interp.report import Entry, Estimate

Coordinate = str | int
Role = Literal["floor", "reference"]


class Measured(Entry):
    """One estimate and where it was made."""

    at: dict[str, Coordinate] = Field(description="A coordinate an axis of the statistic.")
    estimate: Estimate


class Statistic(Entry):
    """Estimates of one quantity over named axes."""

    name: str
    title: str
    about: str = Field(description="How it was measured and how to read it.")
    unit: str
    panels: tuple[str, ...] = Field(description="The axes that are drawn apart.")
    lines: tuple[str, ...] = Field(description="The axes that are told apart within a panel.")
    x: str = Field(description="The axis that is drawn from left to right; numbers or names.")
    log_x: bool = False
    roles: dict[str, Role] = Field(default={}, description="Which lines, by `label_of`, are a floor or a reference.")
    values: list[Measured]

    @model_validator(mode="after")
    def _coordinates_fit(self) -> Statistic:
        axes = (*self.panels, *self.lines, self.x)
        seen = set()
        for value in self.values:
            if set(value.at) != set(axes):
                raise ValueError(f"a value of {self.name!r} has the coordinates {sorted(value.at)}; its axes are {sorted(axes)}")
            place = tuple(value.at[axis] for axis in axes)
            if place in seen:
                raise ValueError(f"{self.name!r} has two values at {value.at}; it must have one")
            seen.add(place)
        unknown = set(self.roles) - set(self.by_line(self.values))
        if unknown:
            raise ValueError(f"{self.name!r} gives roles to {sorted(unknown)}; its lines are {list(self.by_line(self.values))}")
        return self

    def by_panel(self) -> dict[str, list[Measured]]:
        """Returns the values of each panel, by its label."""
        return _grouped(self.values, self.panels)

    def by_line(self, values: Iterable[Measured]) -> dict[str, list[Measured]]:
        """Returns those of each line, by its label."""
        return _grouped(values, self.lines)

    def at(self, **coordinates: Coordinate) -> Estimate:
        """Returns the one estimate with these coordinates.

        Raises:
            KeyError: Where there is none, or several.
        """
        found = [value.estimate for value in self.values if coordinates.items() <= value.at.items()]
        if len(found) != 1:
            raise KeyError(f"{self.name!r} has {len(found)} values at {coordinates}")
        return found[0]


def label_of(at: Mapping[str, Coordinate], axes: Sequence[str]) -> str:
    """Returns coordinates as text: names as they are, numbers with their axis."""
    words = (str(at[axis]) if isinstance(at[axis], str) else f"{axis} {at[axis]}" for axis in axes)
    return ", ".join(words).replace("_", " ")


def _grouped(values: Iterable[Measured], axes: Sequence[str]) -> dict[str, list[Measured]]:
    groups: dict[str, list[Measured]] = {}
    for value in values:
        groups.setdefault(label_of(value.at, axes), []).append(value)
    return groups


def over_seeds(found: Sequence[Estimate]) -> Estimate:
    """Returns the mean over seeds, to 4 decimals; its bounds are the lowest and the highest end of their intervals, its n the fewest."""
    value = sum(one.value for one in found) / len(found)
    low, high = min(one.low for one in found), max(one.high for one in found)
    return Estimate(value=round(value, 4), low=round(low, 4), high=round(high, 4), n=min(one.n for one in found))
