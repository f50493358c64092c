"""Readers of puzzles, ready to use: fitted on some boards, calibrated on runs of others."""

from __future__ import annotations

from collections.abc import Sequence

from interp.concepts import CONCEPTS
from interp.corpus import puzzle_corpus
from interp.reading.own_runs import harvest_runs
from interp.reading.readers import SOURCES, Reader, Source, reader_sets
from interp.transfer import Twins, collect
from models.decoding import Decoding
from models.hookpoints import resid_post
from models.tasks.sudoku.generator import Puzzles

NARRATED = ("candidates", "digit")
"""The concepts that statements about boards are made of."""
CALIBRATED_ON = Decoding("low_confidence", steps=16)
"""The runs that thresholds are set on where no others are named."""


def puzzle_readers(
    twins: Twins,
    puzzles: Puzzles,
    n_fitted: int,
    *,
    concepts: Sequence[str] = NARRATED,
    sources: Sequence[Source] = SOURCES,
    decoding: Decoding = CALIBRATED_ON,
    seed: int = 0,
) -> dict[Source, dict[str, Reader]]:
    """Returns by source and concept readers of the diffusion twin, of whichever layer and alignment serve best.

    Thresholds are set on the model's own runs: those set on random masks raise several times the false alarms that were asked for.

    Args:
        twins: The pair.
        puzzles: Boards that are measured nowhere else.
        n_fitted: So many of them, the first, fit probes and maps; the rest calibrate.
        concepts: Names in ``CONCEPTS``.
        sources: Which readers to make; see ``reader_sets``.
        decoding: The runs to calibrate on.
        seed: Of masks, draws and directions.

    Raises:
        CalibrationError: Where too few boards are left to calibrate on.
    """
    points = [resid_post(layer) for layer in range(twins.diffusion.n_layers)]
    fit, test = (puzzle_corpus(twins.diffusion.task, part) for part in (puzzles[:n_fitted], puzzles[n_fitted:]))
    data = collect(twins, fit, test, points, untrained=False, seed=seed)
    held_out = harvest_runs(twins.diffusion, test, points, decoding, seed=seed)
    return reader_sets(data, [CONCEPTS[name] for name in concepts], points, held_out=held_out, sources=sources, seed=seed)
