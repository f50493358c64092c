"""Any statistic as a figure and as a table, and the page of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plotly.graph_objects import Figure

from interp.faithfulness.battery import FaithfulnessReport
from interp.report import Estimate
from interp.statistics import Measured, Role, Statistic, label_of
from interp.studies.base import StudyReport
from interp.viz.page import Table, render_page
from interp.viz.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, Series, add_bars, add_line, finish, small_multiples

_COLORS = (BLUE, VERMILION, ORANGE, PURPLE, SKY)
_DASHES = ("solid", "dash", "dashdot", "longdash", "longdashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "star", "triangle-down", "cross")
_MOST_TICKS = 12
_BY_ROLE: dict[Role, tuple[str, tuple[str, ...]]] = {"floor": (GREY, ("dot", "dash", "dashdot")), "reference": (GREEN, ("longdash", "dot"))}


def _looks(statistic: Statistic) -> dict[str, Series]:
    """Returns how each line is drawn: floors grey, references green, the others in colours of their own."""
    looks: dict[str, Series] = {}
    counts: dict[Role | None, int] = {}
    for index, line in enumerate(statistic.by_line(statistic.values)):
        role = statistic.roles.get(line)
        place = counts.get(role, 0)
        counts[role] = place + 1
        color, dashes = (_COLORS[place % len(_COLORS)], _DASHES) if role is None else _BY_ROLE[role]
        dash = dashes[(place + place // len(_COLORS)) % len(dashes)]
        label = line if role is None else f"{role}: {line}"
        looks[line] = Series(line, label, color, dash, _SYMBOLS[index % len(_SYMBOLS)], 2.4 if role is None else 1.6)
    return looks


def _x_of(value: Measured, axis: str) -> str | int:
    x = value.at[axis]
    return x.replace("_", " ") if isinstance(x, str) else x


def statistic_figure(statistic: Statistic) -> Figure:
    """Returns one panel a value of the panel axes; lines over a numeric axis, bars over a named one, each with its interval.

    Raises:
        ValueError: On a statistic without values.
    """
    if not statistic.values:
        raise ValueError(f"{statistic.name!r} has no values; a figure needs at least one")
    panels, looks = statistic.by_panel(), _looks(statistic)
    numeric = all(isinstance(value.at[statistic.x], int) for value in statistic.values)
    figure, places = small_multiples([*panels], wide=3 if numeric else 1, spacing=0.08)
    x_name = statistic.x.replace("_", " ")
    for place, values in zip(places, panels.values(), strict=True):
        for line, own in statistic.by_line(values).items():
            x, estimates = [_x_of(value, statistic.x) for value in own], [value.estimate for value in own]
            (add_line if numeric else add_bars)(figure, place, x, estimates, looks[line], f"{line}, {x_name} %{{x}}:")
    for line in looks:  # a line that the first panel lacks is listed all the same
        figure.update_traces(showlegend=False, selector={"meta": line})
        next(figure.select_traces({"meta": line})).showlegend = True
    figure.update_yaxes(title_text=statistic.unit, col=1)
    if statistic.unit.startswith("share"):
        figure.update_yaxes(range=[-0.02, 1.02])
    figure.update_xaxes(title_text=x_name, type="log" if statistic.log_x else None)
    ticks = {value.at[statistic.x] for value in statistic.values}
    if numeric and len(ticks) <= _MOST_TICKS:
        figure.update_xaxes(tickvals=sorted(ticks))
    figure.update_layout(barmode="group", bargap=0.25)
    rows = places[-1][0]
    return finish(figure, statistic.title, statistic.about, height=100 + 300 * rows, legend_rows=1 + len(looks) // 3)


def _shown(estimate: Estimate | None, unit: str) -> str:
    if estimate is None:
        return "-"
    if unit.startswith("share"):
        return f"{100 * estimate.value:.1f} % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}], {estimate.n}"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}], {estimate.n}"


def statistic_table(statistic: Statistic) -> Table:
    """Returns the same numbers, a column a panel, a row a line and place on the horizontal axis."""
    panels = list(statistic.by_panel())
    cells: dict[tuple[str, str], dict[str, Estimate]] = {}
    for value in statistic.values:
        row = (label_of(value.at, statistic.lines), str(_x_of(value, statistic.x)))
        cells.setdefault(row, {})[label_of(value.at, statistic.panels)] = value.estimate
    columns = (", ".join(statistic.lines).replace("_", " "), statistic.x.replace("_", " "), *panels)
    rows = tuple((*row, *(_shown(found.get(panel), statistic.unit) for panel in panels)) for row, found in cells.items())
    return Table(f"{statistic.title} ({statistic.unit})", columns, rows, "Brackets hold 95 % intervals; n stands behind them.")


def _page(title: str, about: str, findings: Sequence[str], statistics: Sequence[Statistic], frame: Mapping[str, str] | None = None) -> str:
    return render_page(
        title=title,
        frame=frame,
        traces=(),
        figures=[statistic_figure(statistic) for statistic in statistics if statistic.values],
        findings=findings,
        tables=[statistic_table(statistic) for statistic in statistics],
        intro=about,
    )


def study_page(report: StudyReport) -> str:
    """Returns the standalone page of a study: claim, design, limits and command, findings, figures, and every number in tables."""
    frame = {"Claim": report.claim, "Limits": report.limits, "Command": report.command}
    return _page(report.title, report.about, report.findings, report.statistics, frame)


def battery_page(report: FaithfulnessReport) -> str:
    """Returns the standalone page of a battery of tests, in the same form; tests that were not made say why."""
    made = [entry for entry in report.tests if entry.skipped is None]
    findings = [f"{entry.name}: {finding}" for entry in made for finding in entry.findings]
    findings += [f"Not made: {entry.title} {entry.skipped}." for entry in report.tests if entry.skipped is not None]
    about = (
        f"{report.n} runs of {report.model} ({report.task}, {report.policy}, {report.calls} calls in the mean, seed {report.seed}) are "
        "stopped, changed and resumed. Every test stands beside its control. Between calls a run carries nothing but tokens, so there its "
        "record is causally complete; what is claimed of the inside of a call is tested by pushing activations."
    )
    statistics = [statistic for entry in made for statistic in entry.statistics]
    return _page(f"How far can an account of {report.model} be believed?", about, findings, statistics)
