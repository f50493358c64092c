"""Where an SAE's activations come from: pool after pool, made as they are needed, or read from a harvest on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.canvases import canvases_of, drawn_places
from interp.corpus import Corpus
from interp.harvest import BATCH, Plan, harvest_parts
from interp.store import Stored
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from probes.saes.trainer import bfloat16_is_fast
from probes.saes.training import within_norm

POOL_BYTES, POOL_ROWS = 256 * 2**20, 65536
"""A pool is about so large at most, and never less than one sequence."""
SPARE = 1.03
"""A live model makes so many times the rows that are wanted, because a few are left out."""
COUNTED = 32
"""The first so many sequences tell how many rows a sequence has."""
CPU_BATCH = 16
"""Canvases of a forward pass on a CPU, few enough for its cache: 1.4 times as many a second as with 64 (163 tokens, width 128)."""

Pools = Callable[[int], Mapping[str, Float[Tensor, "row d_model"]]]
"""Pool number 0, 1, ... to rows by hook point, the same places for all: a function of the number."""


def _usual(rows: Mapping[HookPoint, Float[Tensor, "row d_model"]], outliers: float) -> Bool[Tensor, " row"]:
    """Returns which places are usual at every hook point; a place of another norm (the first token, often) ruins an SAE."""
    return torch.stack([within_norm(values, outliers) for values in rows.values()]).all(0)


def _named(rows: Mapping[HookPoint, Float[Tensor, "row d_model"]], outliers: float) -> dict[str, Float[Tensor, "kept d_model"]]:
    kept = _usual(rows, outliers)
    return {str(point): values[kept] for point, values in rows.items()}


@dataclass(frozen=True)
class LivePools:
    """Pools that a model makes as they are asked for: sequences in a new order and with new masks in each round.

    The forward pass is in bfloat16 where the hardware is fast at that, as the training is.
    """

    model: LanguageModel
    corpus: Corpus
    points: tuple[HookPoint, ...]
    plan: Plan
    outliers: float
    wanted: int
    """Rows that are wanted of all pools together; they are spread evenly over as few pools as hold them."""

    @cached_property
    def of_a_sequence(self) -> tuple[float, float]:
        """How many (canvases, rows) a sequence has, about."""
        few = self.corpus.rows(torch.arange(min(COUNTED, len(self.corpus))))
        canvases = canvases_of(self.model, few, self.plan.canvases, self.plan.seed)
        rows, _ = drawn_places(canvases, self.plan.kinds, self.plan.most, self.plan.seed, self.model.facts.logit_shift)
        return len(canvases) / len(few), len(rows) / len(few)

    @property
    def sequences(self) -> int:
        """How many sequences a pool is made of."""
        most = min(POOL_ROWS, POOL_BYTES // (4 * self.model.d_model * len(self.points)))
        rows = SPARE * self.wanted / ceil(SPARE * self.wanted / most)
        return min(len(self.corpus), max(1, ceil(rows / self.of_a_sequence[1])))

    def __call__(self, pool: int) -> dict[str, Float[Tensor, "row d_model"]]:
        """Returns the rows of a pool."""
        a_round = len(self.corpus) // self.sequences
        order = torch.randperm(len(self.corpus), generator=torch.Generator().manual_seed(self.plan.seed + pool // a_round))
        first = pool % a_round * self.sequences
        chosen = self.corpus.rows(order[first : first + self.sequences])
        plan = replace(self.plan, seed=(self.plan.seed + 1_000_003 * pool) % 2**32)
        device = self.model.device.type
        size = max(1, int((CPU_BATCH if device == "cpu" else BATCH) / self.of_a_sequence[0]))
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16_is_fast(self.model.device)):
            parts = [
                part
                for start in range(0, len(chosen), size)
                for part in harvest_parts(self.model, chosen, self.points, plan, first=start, stop=min(start + size, len(chosen)))
            ]
        return _named({point: torch.cat([part.activations[point] for part in parts]) for point in self.points}, self.outliers)


@dataclass(frozen=True)
class StoredPools:
    """Pools of a harvest on disk: its shards, over and over."""

    stored: Stored
    points: tuple[HookPoint, ...]
    outliers: float

    def __call__(self, pool: int) -> dict[str, Float[Tensor, "row d_model"]]:
        """Returns the rows of a pool."""
        return _named(self.stored.shard(pool % self.stored.record.n_shards, self.points), self.outliers)
