"""Tuned lenses (Belrose et al. 2303.08112): translators trained so that each layer says what the network will say in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from interp.corpus import Corpus
from interp.harvest import harvest
from interp.lens.lenses import Lens, LensError, last_point, logit_lens, spoken
from models.hookpoints import HookPoint
from models.language_model import LanguageModel
from probes.align import Alignment

GLANCE_RATE = 5
"""A glance starts from nothing and a translator from the identity: at a translator's rate it would be a floor that is too low."""


@dataclass(frozen=True)
class Schedule:
    """How translators are trained: Adam from the identity, its rate falling linearly to 0."""

    steps: int = 400
    batch: int = 512
    """Rows a step, drawn with replacement."""
    rate: float = 2e-3
    seed: int = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.rate <= 0:
            raise LensError(f"steps {self.steps}, batch {self.batch}, rate {self.rate:g}; all must be greater than 0")


def _descended(
    start: tuple[Float[Tensor, "feature d_model"], Float[Tensor, " d_model"]],
    x: Float[Tensor, "row feature"],
    final: Float[Tensor, "row d_model"],
    model: LanguageModel,
    schedule: Schedule,
) -> tuple[Float[Tensor, "feature d_model"], Float[Tensor, " d_model"]]:
    """Returns matrix and offset, trained so that what the model ends with, from the rows they make of ``x``, is what it ends with."""
    matrix, offset = (part.clone().requires_grad_() for part in start)
    optimiser = torch.optim.Adam([matrix, offset], lr=schedule.rate, eps=1e-5)
    generator = torch.Generator().manual_seed(schedule.seed)
    for step in range(schedule.steps):
        rows = torch.randint(len(x), (schedule.batch,), generator=generator)
        said, wanted = spoken(model, x[rows] @ matrix + offset), spoken(model, final[rows])
        loss = functional.kl_div(said, wanted, reduction="batchmean", log_target=True)
        optimiser.zero_grad()
        loss.backward()
        optimiser.param_groups[0]["lr"] = schedule.rate * (1 - step / schedule.steps)
        optimiser.step()
    return matrix.detach(), offset.detach()


def fit_translator(
    x: Float[Tensor, "row d_model"], final: Float[Tensor, "row d_model"], model: LanguageModel, schedule: Schedule
) -> Alignment:
    """Returns the affine map, from the identity, that brings what a lens says of ``x`` closest to what the network says in the end.

    The loss is the mean KL divergence in nats from the distribution of the end to the lens's (Belrose et al. 2303.08112).

    Args:
        x: Activations of the layer.
        final: Of the same places, after the last block of ``model``.
        model: The network of the read-out.
        schedule: How.
    """
    width = x.shape[1]
    return Alignment(*_descended((torch.eye(width), torch.zeros(width)), x, final, model, schedule), "tuned")


@dataclass(frozen=True, eq=False)
class Glance:
    """A floor: a lens of what is visible instead of activations, an affine map into the residual stream and the read-out."""

    matrix: Float[Tensor, "feature d_model"]
    offset: Float[Tensor, " d_model"]
    readout: LanguageModel

    def log_probabilities(self, x: Float[Tensor, "row feature"]) -> Float[Tensor, "row head"]:
        """Returns what the visible tokens alone let one affine map say."""
        return spoken(self.readout, x @ self.matrix + self.offset)


def fit_glance(x: Float[Tensor, "row feature"], final: Float[Tensor, "row d_model"], model: LanguageModel, schedule: Schedule) -> Glance:
    """Returns the floor, trained as lenses are, from the mean of ``final`` and at ``GLANCE_RATE`` times the rate.

    Args:
        x: What is visible, of ``interp.concepts.INPUT_FEATURES``.
        final: Activations of the same places, after the last block of ``model``.
        model: The network of the read-out.
        schedule: How lenses are trained.
    """
    start = torch.zeros(x.shape[1], final.shape[1]), final.mean(0)
    return Glance(*_descended(start, x, final, model, replace(schedule, rate=GLANCE_RATE * schedule.rate)), model)


def fit_lenses(
    model: LanguageModel,
    activations: Mapping[HookPoint, Float[Tensor, "row d_model"]],
    final: Float[Tensor, "row d_model"],
    schedule: Schedule | None = None,
    *,
    reads: str | None = None,
    on_lens: Callable[[int, int], None] = lambda done, total: None,
) -> dict[HookPoint, Lens]:
    """Returns a tuned lens a hook point, from activations already there.

    Args:
        model: The network whose final distribution is to be met; its final norm and unembedding are the read-out.
        activations: What the lenses read; of another network, where a floor is wanted.
        final: After the last block of ``model``, at the same places.
        schedule: How they are trained.
        reads: Fingerprint of the network that the activations are of; None is ``model``.
        on_lens: Told (lenses trained, total).

    Raises:
        LensError: Where a point is no residual stream.
    """
    found = {}
    for point, x in activations.items():
        translator = fit_translator(x, final, model, schedule or Schedule())
        found[point] = replace(logit_lens(model, point), translator=translator, reads=reads or model.fingerprint, kind="tuned")
        on_lens(len(found), len(activations))
    return found


def train_tuned_lens(
    model: LanguageModel,
    corpus: Corpus,
    points: Sequence[HookPoint],
    schedule: Schedule | None = None,
    *,
    sites_per_canvas: int = 16,
    on_lens: Callable[[int, int], None] = lambda done, total: None,
) -> dict[HookPoint, Lens]:
    """Returns a tuned lens a hook point, trained on what the model is about to predict in sequences that it is shown.

    A masked model is shown each sequence at every mask rate of ``interp.canvases.MASK_RATES``, a causal one its prefixes. After the last
    block there is nothing to train: there the lens is the logit lens, which is the model itself.

    Args:
        model: Either twin.
        corpus: Sequences; some hundred, since a translator has d_model squared numbers.
        points: Residual streams.
        schedule: How the lenses are trained; its seed is also that of the masks.
        sites_per_canvas: See ``harvest``.
        on_lens: Told (lenses trained, total).

    Raises:
        LensError: Where a point is no residual stream.
    """
    start = {point: logit_lens(model, point) for point in points}
    schedule, end = schedule or Schedule(), last_point(model)
    found = harvest(model, corpus, list(dict.fromkeys([*points, end])), sites_per_canvas=sites_per_canvas, seed=schedule.seed)
    below = {point: found.activations[point] for point in points if point != end}
    return start | fit_lenses(model, below, found.activations[end], schedule, on_lens=on_lens)
