"""Lenses: what each layer of a network would answer if it ended there, in a causal model, its diffusion twin, and from one to the other."""

from interp.lens.depth import Depths, decision_depths, depth_statistics
from interp.lens.lenses import Lens, LensError, load_lens, logit_lens, move_lens, save_lens
from interp.lens.scores import Judged, lens_scores, lenses_of
from interp.lens.training import Schedule, fit_lenses, train_tuned_lens

__all__ = [
    "Depths",
    "Judged",
    "Lens",
    "LensError",
    "Schedule",
    "decision_depths",
    "depth_statistics",
    "fit_lenses",
    "lens_scores",
    "lenses_of",
    "load_lens",
    "logit_lens",
    "move_lens",
    "save_lens",
    "train_tuned_lens",
]
