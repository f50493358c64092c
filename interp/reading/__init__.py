"""Reading a run: readers of a model, what their scores mean, and what they find at every step and position."""

from interp.reading.calibration import UNCALIBRATED, Calibration, CalibrationError, fit_calibration, measured
from interp.reading.calibration_scores import calibration_scores
from interp.reading.fitting import CALIBRATED_ON, NARRATED, puzzle_readers
from interp.reading.latents import LatentReader, latent_reader
from interp.reading.own_runs import harvest_runs
from interp.reading.readers import SOURCES, Halves, Reader, ReadingError, Source, best_reader, calibrate, random_reader, reader_sets
from interp.reading.saved import load_readers, save_readers
from interp.reading.scores import Readable, Reading, check_model, read, readings, recording, unwritten_share

__all__ = [
    "CALIBRATED_ON",
    "NARRATED",
    "SOURCES",
    "UNCALIBRATED",
    "Calibration",
    "CalibrationError",
    "Halves",
    "LatentReader",
    "Readable",
    "Reader",
    "Reading",
    "ReadingError",
    "Source",
    "best_reader",
    "calibrate",
    "calibration_scores",
    "check_model",
    "fit_calibration",
    "harvest_runs",
    "latent_reader",
    "load_readers",
    "measured",
    "puzzle_readers",
    "random_reader",
    "read",
    "reader_sets",
    "readings",
    "recording",
    "save_readers",
    "unwritten_share",
]
