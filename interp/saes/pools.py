"""Where an SAE's activations come from: pool after pool, made as they are needed, or read from a harvest on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.canvases import Masked, Whole
from interp.corpus import Corpus
from interp.harvest import Plan, harvest_parts
from interp.store import Stored
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from probes.saes.training import within_norm

POOL_BYTES, POOL_ROWS = 256 * 2**20, 65536
"""A pool is at most so large, and never less than one sequence."""

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
    """Pools that a model makes as they are asked for: sequences in a new order and with new masks in each round."""

    model: LanguageModel
    corpus: Corpus
    points: tuple[HookPoint, ...]
    plan: Plan
    outliers: float

    @property
    def sequences(self) -> int:
        """How many sequences a pool is made of."""
        source = self.plan.canvases
        in_a_run = int(self.corpus.asked.sum(1).max())
        canvases = len(source.rates) if isinstance(source, Masked) else 1 if isinstance(source, Whole) else in_a_run
        rows = min(POOL_ROWS, POOL_BYTES // (4 * self.model.d_model * len(self.points)))
        return min(len(self.corpus), max(1, rows // (canvases * len(self.plan.kinds) * self.plan.most)))

    def __call__(self, pool: int) -> dict[str, Float[Tensor, "row d_model"]]:
        """Returns the rows of a pool."""
        a_round = len(self.corpus) // self.sequences
        order = torch.randperm(len(self.corpus), generator=torch.Generator().manual_seed(self.plan.seed + pool // a_round))
        first = pool % a_round * self.sequences
        chosen = self.corpus.rows(order[first : first + self.sequences])
        plan = replace(self.plan, seed=(self.plan.seed + 1_000_003 * pool) % 2**32)
        parts = list(harvest_parts(self.model, chosen, self.points, plan))
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
