"""What a table of probes comes down to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from interp.report import CEILING, CONTROLS, ProbeEntry

HEADLINE = ("source", "zero_shot", "mean_shift", "procrustes", "ridge_affine", CEILING, *CONTROLS)


def mean_over_seeds(entries: Iterable[ProbeEntry], name: str) -> float:
    """Returns the mean AUC of a score."""
    values = [entry.scores[name].auc.value for entry in entries]
    return sum(values) / len(values)


def by_place(entries: Iterable[ProbeEntry]) -> dict[tuple[str, str, int, str], list[ProbeEntry]]:
    """Returns entries, a list of seeds each, by concept, reader, layer and hook point."""
    found: dict[tuple[str, str, int, str], list[ProbeEntry]] = {}
    for entry in entries:
        if entry.fitted_at is None:
            found.setdefault((entry.concept, entry.reader, entry.layer, entry.hook_point), []).append(entry)
    return found


def best(entries: Iterable[ProbeEntry]) -> list[dict[str, Any]]:
    """Returns a row for each concept and reader: the hook point where it is read best, and what stands beside that, means over seeds.

    It is read best where the probe does best on the model it was fitted on; no score of a model it was moved to decides. The choice and
    that score rest on the same sites, which flatters it a little.
    """
    chosen: dict[tuple[str, str], tuple[float, list[ProbeEntry]]] = {}
    for (concept, reader, _, _), own in by_place(entries).items():
        value = mean_over_seeds(own, "source")
        if (concept, reader) not in chosen or value > chosen[concept, reader][0]:
            chosen[concept, reader] = (value, own)
    return [
        {
            "concept": concept,
            "reader": reader,
            "layer": own[0].layer,
            **{name: mean_over_seeds(own, name) for name in HEADLINE if name in own[0].scores},
            "n": own[0].scores["input_only"].auc.n,
            "seeds": len(own),
        }
        for (concept, reader), (_, own) in chosen.items()
    ]
