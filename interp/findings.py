"""What a report's figures say, in sentences, whichever way they came out."""

from __future__ import annotations

from collections.abc import Iterator

from interp.report import Estimate, ProbeEntry, Report, SaeScores, over_all_sites


def _percent(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} [{estimate.low:.1%}, {estimate.high:.1%}]"


def _number(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _solving(report: Report) -> Iterator[str]:
    for boards in dict.fromkeys(entry.boards for entry in report.evaluation):
        told = [
            f"{entry.model} solves {_percent(entry.exact)} exactly ({entry.cells.value:.1%} of cells, {entry.steps:.1f} calls a board)"
            for entry in report.evaluation
            if entry.boards == boards
        ]
        n = next(entry.n for entry in report.evaluation if entry.boards == boards)
        yield f"Of {n} unseen boards ({boards.replace('_', ' ')}), {'; '.join(told)}."


def _transfer(entries: list[ProbeEntry]) -> str:
    best = max(entries, key=lambda entry: entry.scores["zero_shot"].auc.value)
    auc = {name: scores.auc for name, scores in best.scores.items()}
    text = (
        f"A probe for “{best.concept}” learned on the causal twin reads the diffusion twin, untouched, with AUC "
        f"{_number(auc['zero_shot'])} after layer {best.layer} (fitted there: {auc['native'].value:.3f}; shuffled "
        f"labels {auc['shuffled'].value:.3f}; untrained network {auc['untrained'].value:.3f}): it "
        f"{'beats' if best.beats('zero_shot', 'shuffled', 'untrained') else 'does not beat'} its floors. Sites wholly right: "
        f"{best.scores['zero_shot'].exact.value:.0%} as it is, {best.scores['mean_shift'].exact.value:.0%} after a mean shift, "
        f"{best.scores['ridge_affine'].exact.value:.0%} through an affine map, {best.scores['native'].exact.value:.0%} if fitted there."
    )
    if best.beats("zero_shot", "input_only"):
        return text + f" It also beats a reader of the visible peer tokens without a network ({auc['input_only'].value:.3f})."
    return text + (
        f" A reader of the visible peer tokens alone reaches {auc['input_only'].value:.3f}, so this shows what the network represents, "
        "not that it infers more than is in sight."
    )


def _reading(report: Report) -> Iterator[str]:
    reading = report.reading
    yield (
        f"Of the checkable statements in the account of {reading.boards} boards, {_percent(reading.sound)} are sound by the rules; with "
        f"random directions in place of the probes, {_percent(reading.random_reader_sound)}. "
        f"{_percent(reading.coverage)} of the written cells get a justification, and a cell's digit is readable "
        f"{reading.lead_steps.value:.1f} steps before it is written."
    )


def _faithfulness(report: Report) -> Iterator[str]:
    entries = [entry for entry in report.faithfulness if entry.dose == 1.0] or report.faithfulness
    best = max(entries, key=lambda entry: entry.own_cell_flipped.value)
    decisive = best.own_cell_flipped.low > best.own_cell_flipped_random.high
    yield (
        f"Pushing an unwritten cell along the causal twin's directions, as far as the two digits lie apart (layer {best.layer}), makes it "
        f"say the pushed digit on {_percent(best.own_cell_flipped)} of boards, a random push of that length on "
        f"{_percent(best.own_cell_flipped_random)}: what is read {'is' if decisive else 'is not shown to be'} decisive for the cell itself."
    )
    far = max(entries, key=lambda entry: entry.unit_moved.value - entry.unit_moved_random.value)
    used = far.unit_moved.low > far.unit_moved_random.high
    yield (
        f"Inside the same call, pushed after layer {far.layer}, the other cells of its units move by {far.unit_moved.value:.2f} nats "
        f"against {far.unit_moved_random.value:.2f} for the random push ({'a clear' if used else 'no clear'} difference), cells elsewhere "
        f"by {far.elsewhere_moved.value:.2f}; after resuming, {_percent(far.final_changed)} of the other cells end differently, against "
        f"{_percent(far.final_changed_random)}."
    )


def _unexplained(scores: SaeScores) -> str:
    return f"{scores.fvu.value:.1%}"


def findings(report: Report) -> list[str]:
    """Returns the sentences, in the order of the road."""
    probes = over_all_sites(report.probes)
    concepts = dict.fromkeys(entry.concept for entry in probes)
    (sae,) = (entry.scores for entry in over_all_sites(report.saes))
    return [
        *_solving(report),
        *(_transfer([entry for entry in probes if entry.concept == concept]) for concept in concepts),
        f"An SAE learned on the causal twin leaves {_unexplained(sae['source'])} of the variance unexplained there and, on the diffusion "
        f"twin, {_unexplained(sae['zero_shot'])} as it is and {_unexplained(sae['stitched'])} between affine maps (one learned on the "
        f"diffusion twin: {_unexplained(sae['native'])}; turned at random: {_unexplained(sae['rotated'])}; one of an untrained network "
        f"between affine maps: {_unexplained(sae['untrained'])}).",
        *_reading(report),
        *_faithfulness(report),
    ]
