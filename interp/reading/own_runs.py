"""Places in a model's own runs, to calibrate readers on: what is left to write there is not what random masks leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from interp.canvases import Decoded
from interp.corpus import Corpus
from interp.harvest import Harvest, harvest
from models.decoding import Decoding
from models.denoise import denoise
from models.hookpoints import HookPoint
from models.language_model import LanguageModel


def harvest_runs(
    model: LanguageModel,
    corpus: Corpus,
    points: Sequence[HookPoint],
    decoding: Decoding,
    *,
    every: int = 1,
    sites_per_canvas: int = 6,
    seed: int = 0,
) -> Harvest:
    """Returns activations at unwritten places of the model's own runs, where the truth of a place is what the run wrote there in the end.

    So a concept of the answer, such as ``digit``, is asked of the model's answer: a claim of it is false if the run ends otherwise, not if
    the run is wrong. Concepts of the visible canvas, such as ``candidates``, are as they are.

    Args:
        model: A masked model.
        corpus: What to run it on.
        points: Hook points.
        decoding: How.
        every: Reads the network calls 1, 1 + every, 1 + 2 every and so on.
        sites_per_canvas: At most so many unwritten places of each canvas.
        seed: Of the places.
    """
    found = harvest(model, corpus, points, canvases=Decoded(decoding, every), sites_per_canvas=sites_per_canvas, seed=seed)
    prompts = corpus.sequences.masked_fill(corpus.asked, model.task.mask_token_id)
    ends = torch.from_numpy(denoise(model, prompts, decoding).tokens(-1))
    return replace(found, sites=replace(found.sites, truth=ends[found.sites.sample]))
