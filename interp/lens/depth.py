"""At which layer a call decides what it writes: the depth inside a step.

Between steps a masked diffusion model without a cache carries nothing but tokens, so however many calls a run makes, its opaque serial
depth (the longest computation between two texts that can be read, as "How Transparent is DiffusionGemma?", 2606.20560, counts it) is that
of one call: its number of blocks. That is a fact of the architecture. How many of the blocks a lens still sees the answer change in is
measured here: a bound on what is readable, and no proof that the layers after it do nothing for other cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.harvest import activations_at
from interp.lens.lenses import Lens, LensError, answers, last_point, logit_lens
from interp.scoring import RATE_WIDTH, estimate, rate_bin
from interp.statistics import Measured, Statistic
from models.hookpoints import resid_post
from models.language_model import LanguageModel
from models.trajectory import State, Trajectory
from probes.metrics import bootstrap_mean

WRITTEN, WAITING = "written by the call", "still waiting"


@dataclass(frozen=True)
class Depths:
    """One row for each place that a call could write into: hidden, or written by it."""

    sample: Int[Tensor, " row"]
    step: Int[Tensor, " row"]
    """The call, from 1."""
    position: Int[Tensor, " row"]
    depth: Float[Tensor, " row"]
    """Blocks until the lens has the call's proposal for good, 1 to the number of layers; NaN where it was drawn against the odds."""
    written: Bool[Tensor, " row"]
    """Whether the call wrote its proposal there."""
    unwritten: Float[Tensor, " row"]
    """Share of the writable positions that were hidden from the call."""

    def deepest(self) -> Depths:
        """Returns for each call of each sample the deepest of the places that it wrote: how far it had to go before all were decided."""
        rows: dict[tuple[int, int], int] = {}
        for row in torch.nonzero(self.written & torch.isfinite(self.depth)).flatten().tolist():
            call = (int(self.sample[row]), int(self.step[row]))
            if call not in rows or self.depth[row] > self.depth[rows[call]]:
                rows[call] = row
        return self.rows(torch.tensor(list(rows.values()), dtype=torch.long))

    def rows(self, keep: Int[Tensor, " kept"] | Bool[Tensor, " row"]) -> Depths:
        """Returns some of the rows."""
        return Depths(*(getattr(self, column.name)[keep] for column in fields(self)))


def settled_at(tops: Int[Tensor, "row layer"], final: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
    """Returns the first layer, counted from 1, from which all have the final answer; NaN where the last has not."""
    stays = (tops == final[:, None]).flip(1).long().cumprod(1).sum(1)
    return (tops.shape[1] + 1.0 - stays).masked_fill(stays == 0, torch.nan)


def decision_depths(
    model: LanguageModel, trajectory: Trajectory, lenses: Mapping[str, Sequence[Lens]], others: Sequence[LanguageModel] = ()
) -> dict[str, Depths]:
    """Returns, as each set of lenses sees it, the layer at which each call has what it proposes, at every place it could write into.

    Args:
        model: The model that ran.
        trajectory: The run; its calls are made again on the canvases that they read.
        lenses: By name, one for each block but the last, in order; after the last the model itself decides.
        others: Networks besides the model that lenses read, on the same canvases: floors.

    Raises:
        LensError: Where the run is of another model, or a lens is missing or reads a network that is not given.
    """
    networks = {one.fingerprint: one for one in (model, *others)}
    _check(model, trajectory, lenses, networks)
    end, heads = logit_lens(model, last_point(model)), torch.tensor(answers(model.facts.task))
    parts: dict[str, list[Depths]] = {name: [] for name in lenses}
    for step in range(1, trajectory.n_steps + 1):
        before, sample, position, said, written, unwritten = _call(trajectory, step, model.task.mask_token_id)
        points = [*(resid_post(layer) for layer in range(model.n_layers - 1)), end.point]
        seen = {name: activations_at(one, before, sample, position, points) for name, one in networks.items()}
        last = end.log_probabilities(seen[model.fingerprint][end.point]).argmax(1)
        for name, chain in lenses.items():
            tops = [lens.log_probabilities(seen[lens.reads][lens.point]).argmax(1) for lens in chain]
            depth = settled_at(heads[torch.stack([*tops, last], 1)], said)
            parts[name].append(Depths(sample, torch.full_like(sample, step), position, depth, written, unwritten))
    columns = [column.name for column in fields(Depths)]
    return {name: Depths(*(torch.cat([getattr(one, column) for one in found]) for column in columns)) for name, found in parts.items()}


def _call(trajectory: Trajectory, step: int, mask_token_id: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns what call ``step`` read, and of each place that it could write into: sample, position, proposal, written, share unwritten."""
    data = trajectory.data
    before, after = (torch.from_numpy(trajectory.tokens(at)) for at in (step - 1, step))
    first, said = (torch.from_numpy(values).long() for values in (data["state"].values[:, 0], data["proposal"].values[:, step]))
    writable = (first != State.PROMPT) & (first != State.PADDING)
    hidden = writable & (before == mask_token_id)
    written = writable & (after != before) & (after == said)
    sample, position = torch.nonzero((hidden | written) & (said >= 0), as_tuple=True)
    share = hidden.sum(1) / writable.sum(1)
    return before, sample, position, said[sample, position], written[sample, position], share[sample]


def _check(
    model: LanguageModel, trajectory: Trajectory, lenses: Mapping[str, Sequence[Lens]], networks: Mapping[str, LanguageModel]
) -> None:
    """Raises LensError where run, lenses and networks do not belong together."""
    if trajectory.fingerprint != model.fingerprint:
        raise LensError(f"the trajectory is of {trajectory.fingerprint}, and {model.name} is {model.fingerprint}; trace it again")
    for name, chain in lenses.items():
        if [lens.point for lens in chain] != [resid_post(layer) for layer in range(model.n_layers - 1)]:
            points = ", ".join(str(lens.point) for lens in chain) or "none"
            raise LensError(f"{name!r} has lenses at {points}; it needs one after each block but the last, 0 to {model.n_layers - 2}")
        for lens in chain:
            if lens.reads not in networks:
                raise LensError(f"{lens.name} reads {lens.reads}; the networks given are {', '.join(networks)}")


def depth_statistics(depths: Mapping[str, Depths], seed: int = 0) -> list[Statistic]:
    """Returns the mean depth of a place, and that of the deepest place that a call wrote, by lens and share unwritten (in fifths).

    Args:
        depths: By lens, of one run.
        seed: Of the intervals, which resample samples of the run.
    """
    each: list[Measured] = []
    deepest: list[Measured] = []
    for lens, found in depths.items():
        known = found.rows(torch.isfinite(found.depth))
        for cells, kept in ((WRITTEN, known.rows(known.written)), (WAITING, known.rows(~known.written))):
            each += _by_share({"lens": lens, "places": cells}, kept, seed)
        deepest += _by_share({"lens": lens}, known.deepest(), seed)
    about = (
        "The number of blocks after which a lens has what the call proposes in the end, and keeps it in all later layers, by how much the "
        "call found unwritten. After the last block the lens is the model. A lens shows what can be read, not what is used."
    )
    axis = "percent unwritten"
    return [
        Statistic(
            name="depth",
            title="After how many blocks is an answer decided?",
            about=about,
            unit="blocks",
            panels=("lens",),
            lines=("places",),
            x=axis,
            values=each,
        ),
        Statistic(
            name="depth_of_a_call",
            title="How deep is a call?",
            about=about + " Of each call, the deepest of the places that it wrote.",
            unit="blocks",
            panels=(),
            lines=("lens",),
            x=axis,
            values=deepest,
        ),
    ]


def _by_share(at: Mapping[str, str], found: Depths, seed: int) -> list[Measured]:
    """Returns the mean depth in each fifth of the share unwritten."""
    bins, values = rate_bin(found.unwritten), []
    for fifth in bins.unique().tolist():
        here = bins == fifth
        mean = bootstrap_mean(found.depth[here], found.sample[here], seed=seed)
        values.append(Measured(at={**at, "percent unwritten": round((fifth + 0.5) * RATE_WIDTH * 100)}, estimate=estimate(mean)))
    return values
