"""What a table of SAEs comes down to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from interp.report import SaeEntry


def by_point(entries: Iterable[SaeEntry]) -> list[dict[str, Any]]:
    """Returns a row for each hook point: what each SAE leaves unexplained there, means over seeds."""
    grouped: dict[str, list[SaeEntry]] = {}
    for entry in entries:
        grouped.setdefault(entry.hook_point, []).append(entry)
    rows = []
    for point, own in sorted(grouped.items(), key=lambda item: (item[1][0].layer, item[0])):
        means = {name: sum(one.scores[name].fvu.value for one in own) / len(own) for name in own[0].scores}
        rows.append({"hook point": point, **means, "n": own[0].scores["rotated"].fvu.n, "seeds": len(own)})
    return rows
