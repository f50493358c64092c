"""What a probe sweep and its moves say, in sentences, whichever way they came out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from interp.report import CEILING, Estimate
from interp.sweeps.summary import mean_over_seeds
from interp.viz.probe_scores import (
    FLOORS,
    Part,
    Place,
    Read,
    beats,
    calibration,
    kept,
    moved_modes,
    over_control,
    pooled,
    refits,
    share_of,
    short,
)

MOST_CONCEPTS = 8
"""Each of so many gets sentences of its own; of more, only the best and the worst are named."""
NAMED = 5
ENOUGH = 0.9
"""Share of the ceiling's AUC over the floor that counts as kept."""
CLEAR = 0.01
"""Less of a difference is not worth a word."""


def _number(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _names(concepts: Sequence[str]) -> str:
    return ", ".join(f"“{concept}”" for concept in concepts[:NAMED]) + (
        f" and {len(concepts) - NAMED} more" if len(concepts) > NAMED else ""
    )


def _where(place: Place) -> str:
    _, _, layer, point = place
    return f"layer {layer}" if point.endswith(".hook_resid_post") else point


def run_findings(run: Part, places: Sequence[Place]) -> list[str]:
    """Returns what a run's own probes read, against shuffled labels, an untrained network and the visible tokens alone."""
    told = [_summary(run, places)] if len(places) > 1 else []
    return told + ([_concept(run, place) for place in places] if len(places) <= MOST_CONCEPTS else [_extremes(run, places)])


def _summary(run: Part, places: Sequence[Place]) -> str:
    above = [place for place in places if beats(run.places[place], "source", *FLOORS)]
    inferred = [place for place in above if beats(run.places[place], "source", "input_only")]
    failed = [place[0] for place in places if place not in above]
    return (
        f"Of {len(places)} concepts, {len(above)} are read on {run.name} above shuffled labels and an untrained network in every seed, and "
        f"{len(inferred)} of those above a reader of the visible tokens as well."
        + (f" Not read above its floors: {_names(failed)}." if failed else "")
    )


def _extremes(run: Part, places: Sequence[Place]) -> str:
    auc = {place[0]: mean_over_seeds(run.places[place], "source") for place in places}
    order = sorted(auc, key=auc.__getitem__, reverse=True)
    said = [", ".join(f"“{concept}” ({auc[concept]:.3f})" for concept in part) for part in (order[:3], order[-3:])]
    return f"Read best on {run.name}: {said[0]}; worst: {said[1]} (AUC at each concept's best layer; every one is in the table below)."


def _concept(run: Part, place: Place) -> str:
    concept, reader, _, _ = place
    read = run.places[place]
    auc = pooled(read, "source")
    text = (
        f"“{concept}” is read best on {run.name} at {_where(place)}: AUC {_number(auc)} ({reader.replace('_', ' ')}, {auc.n} puzzles or "
        f"documents, {_seeds(read)}). With shuffled labels it is {mean_over_seeds(read, 'shuffled'):.3f}, so its selectivity is "
        f"{over_control(read, 'shuffled').value:+.3f}; on an untrained network {mean_over_seeds(read, 'untrained'):.3f}. "
    )
    if not beats(read, "source", *FLOORS):
        return text + "It is not clearly above these floors, so the network is not shown to represent it."
    visible = f"a reader of the visible tokens alone ({mean_over_seeds(read, 'input_only'):.3f})"
    if beats(read, "source", "input_only"):
        return text + f"It beats both floors, and {visible} as well."
    return text + f"It beats both floors but not {visible}: what is read is represented, and not shown to be more than what is in sight."


def _seeds(read: Read) -> str:
    return "1 seed" if len(read) == 1 else f"{len(read)} seeds"


def move_findings(move: Part, places: Sequence[Place]) -> list[str]:
    """Returns how much of each probe's reading is left on the other model: as it is, aligned, refitted."""
    told = [_move_summary(move, places)] if len(places) > 1 else []
    return told + ([_moved(move, place) for place in places] if len(places) <= MOST_CONCEPTS else [])


def _move_summary(move: Part, places: Sequence[Place]) -> str:
    reads = {place[0]: move.places[place] for place in places}
    ceiling = [concept for concept, read in reads.items() if beats(read, CEILING, *FLOORS)]
    works = [concept for concept in ceiling if beats(reads[concept], "zero_shot", *FLOORS)]
    most = [concept for concept in works if (kept(reads[concept], "zero_shot") or 0) >= ENOUGH]
    failed = [concept for concept in ceiling if concept not in works]
    none = [concept for concept in reads if concept not in ceiling]
    return (
        f"Of {len(reads)} probes moved to {move.name}, {len(works)} are above their floors there as they are; of those, {len(most)} with "
        f"at least {ENOUGH:.0%} of what a probe fitted there has over its floor."
        + (f" Do not transfer as they are: {_names(failed)}." if failed else "")
        + (f" Not even fitted there do these beat their floors: {_names(none)}." if none else "")
    )


def _moved(move: Part, place: Place) -> str:
    read = move.places[place]
    if not beats(read, CEILING, *FLOORS):
        return (
            f"“{place[0]}” on {move.name}, {_where(place)}: even a probe fitted there ({mean_over_seeds(read, CEILING):.3f}) does not beat "
            f"its floors ({_floors(read)}), so that there is nothing for a moved one to keep (zero-shot "
            f"{mean_over_seeds(read, 'zero_shot'):.3f})."
        )
    drift = _drift(read) if beats(read, "zero_shot", *FLOORS) else ()
    return " ".join((_as_it_is(move, place, read), *_helped(read), *drift, *_elsewhere(move, place)))


def _floors(read: Read) -> str:
    return f"shuffled labels {mean_over_seeds(read, 'shuffled'):.3f}, untrained network {mean_over_seeds(read, 'untrained'):.3f}"


def _as_it_is(move: Part, place: Place, read: Read) -> str:
    auc = _number(pooled(read, "zero_shot"))
    start = f"“{place[0]}” on {move.name}, {_where(place)}, as it is: AUC {auc}"
    beside = f"(fitted there {mean_over_seeds(read, CEILING):.3f}; {_floors(read)})"
    if not beats(read, "zero_shot", *FLOORS):
        return f"{start} {beside}, not clearly above its floors: it does not transfer as it is."
    share = kept(read, "zero_shot") or 0.0
    return f"{start} {beside}; it keeps {share:.0%} of what the probe fitted there has over the higher floor."


def _helped(read: Read) -> Iterator[str]:
    """Yields what maps without labels, and refits with few, keep."""
    names = read[0].scores
    share = {name: kept(read, name) or 0.0 for name in moved_modes(names)}
    aligned = sorted((name for name in share if name != "zero_shot" and name not in refits(names)), key=share.__getitem__, reverse=True)
    if aligned:
        yield _maps(read, aligned, share)
    enough = next((name for name in refits(names) if share[name] >= ENOUGH), None)
    if enough:
        yield f"Refitted with {share_of(enough)} of the labels it keeps {share[enough]:.0%}."
    elif refits(names):
        last = refits(names)[-1]
        yield f"No refit keeps {ENOUGH:.0%}; with {share_of(last)} of the labels it keeps {share[last]:.0%}."


def _maps(read: Read, aligned: Sequence[str], share: Mapping[str, float]) -> str:
    """Returns what maps that were fitted without labels do, given them from the best down."""
    all_of_them = ", ".join(f"{short(name)} {share[name]:.0%}" for name in aligned)
    if not any(beats(read, name, *FLOORS) for name in aligned):
        return f"No map fitted without labels brings it clearly above its floors ({all_of_them})."
    gain = share[aligned[0]] - share["zero_shot"]
    verdict = "helps" if gain >= CLEAR else "changes little" if gain > -CLEAR else "is worse than none"
    return f"Of the maps fitted without labels the best {verdict} (kept: {all_of_them})."


def _drift(read: Read) -> Iterator[str]:
    """Yields how thresholds have drifted, where in every seed accuracy is clearly below that of the probe fitted there."""
    if all(entry.scores["zero_shot"].accuracy.high < entry.scores[CEILING].accuracy.low for entry in read):
        there, moved = (pooled(read, name, "accuracy").value for name in (CEILING, "zero_shot"))
        lost = mean_over_seeds(read, CEILING) - mean_over_seeds(read, "zero_shot")
        yield (
            f"Its thresholds drift: accuracy {moved:.3f} against {there:.3f} fitted there, calibration error "
            f"{calibration(read, 'zero_shot'):.3f} against {calibration(read, CEILING):.3f}, with {lost:.3f} less AUC."
        )


def _elsewhere(move: Part, place: Place) -> Iterator[str]:
    """Yields the layer at which the probe is best as it is, if that is another one and clearly better."""
    own = {one: mean_over_seeds(read, "zero_shot") for one, read in move.places.items() if one[:2] == place[:2]}
    best = max(own, key=own.__getitem__)
    if own[best] - own[place] >= CLEAR:
        yield f"As it is it does best at {_where(best)} (AUC {own[best]:.3f})."
