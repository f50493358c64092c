"""Training of crosscoders: BatchTopK over two models at once (Minder et al. 2025, arXiv 2504.02922); SAELens has no trainer for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from probes.errors import ProbeError
from probes.saes.crosscoder import MODELS, ROWS_AT_ONCE, Crosscoder, check_pairs

AUXILIARY = 1 / 32
"""Weight of the loss that revives dead latents (Gao et al. 2024, AuxK)."""

Folded = tuple[Float[Tensor, "model d_in d_sae"], Float[Tensor, " d_sae"], Float[Tensor, "model d_sae d_in"], Float[Tensor, "model d_in"]]


@dataclass(frozen=True)
class CrosscoderRecipe:
    """Shape and length of a crosscoder's training."""

    d_sae: int = 1024
    """Latents."""
    k: int = 16
    """Latents that are active in a row, mean over rows."""
    steps: int = 1000
    batch: int = 1024
    """Rows a step."""
    lr: float = 2e-3
    """Of Adam: warmed up over 5 % of the steps, falling to a tenth over the last 30 %."""
    seed: int = 0
    """Of weights and order of rows."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "seed" and value <= 0:
                raise ProbeError(f"{name} is {value}; it must be greater than 0")
        if self.k > self.d_sae:
            raise ProbeError(f"k is {self.k}; it must be at most d_sae, {self.d_sae}")


class _Training(torch.nn.Module):
    """A crosscoder in training. It sees activations scaled: centred, and of mean norm sqrt(d_in) in either model.

    Both decoders begin as the same random unit rows, so that latents begin shared, and the encoder as their mean's transpose.
    """

    def __init__(self, d_in: int, recipe: CrosscoderRecipe, device: torch.device) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(recipe.seed)
        rows = functional.normalize(torch.randn(recipe.d_sae, d_in, generator=generator), dim=1).to(device)
        self.recipe = recipe
        self.W_dec = torch.nn.Parameter(rows.repeat(2, 1, 1))
        self.W_enc = torch.nn.Parameter(rows.T.repeat(2, 1, 1) / 2)
        self.b_enc = torch.nn.Parameter(torch.zeros(recipe.d_sae, device=device))
        self.b_dec = torch.nn.Parameter(torch.zeros(2, d_in, device=device))

    def scores(self, z: Float[Tensor, "row model d_in"]) -> Float[Tensor, "row d_sae"]:
        """Returns the latents, none of them cut off, each times the sum of its decoder rows' norms."""
        latents = torch.relu(z.flatten(1) @ self.W_enc.flatten(0, 1) + self.b_enc)
        return latents * self.W_dec.norm(dim=2).sum(0)

    def written(self, scores: Float[Tensor, "row d_sae"]) -> Float[Tensor, "row model d_in"]:
        """Returns the scaled activations that latents given by their scores stand for, without the bias."""
        latents = scores / self.W_dec.norm(dim=2).sum(0)
        return (latents @ self.W_dec.transpose(0, 1).flatten(1)).unflatten(1, (2, -1))

    def loss(
        self, z: Float[Tensor, "row model d_in"], dead: Bool[Tensor, " d_sae"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Bool[Tensor, " d_sae"]]:
        """Returns the loss, the batch's fraction of variance unexplained, and which latents fired.

        The loss is the squared error over both models a row and dimension, with AuxK: up to ``d_in`` dead latents a row are made to write
        what the living ones leave unexplained (Gao et al. 2024, appendix A.2).
        """
        scores = self.scores(z)
        least = scores.flatten().topk(self.recipe.k * len(z), sorted=False).values.min()
        kept = (scores >= least) & (scores > 0)
        left = z - self.b_dec - self.written(scores * kept)
        error = left.square().mean()
        loss = error
        count = min(int(dead.sum()), z.shape[2])
        if count:
            strongest = (scores * dead).topk(count, dim=1, sorted=False)
            revived = torch.zeros_like(scores).scatter(1, strongest.indices, strongest.values)
            loss = loss + AUXILIARY * (left.detach() - self.written(revived)).square().mean()
        return loss, error.detach() / z.square().mean(), kept.any(0)

    @torch.no_grad()
    def folded(self, mean: Float[Tensor, "model d_in"], unit: Float[Tensor, " model"]) -> Folded:
        """Returns encoder, its bias, decoder and its bias for raw activations, with latents in units of their decoder rows."""
        norms = self.W_dec.norm(dim=2).sum(0)
        encoder = self.W_enc * norms / unit[:, None, None]
        bias = self.b_enc * norms - (mean[:, None] @ encoder).sum((0, 1))
        return encoder, bias, self.W_dec / norms[:, None] * unit[:, None, None], self.b_dec * unit[:, None] + mean


def _batches(rows: int, batch: int, seed: int) -> Iterator[Int[Tensor, " batch"]]:
    """Yields places of rows without end: every row once before any row twice."""
    generator = torch.Generator().manual_seed(seed)
    waiting = torch.empty(0, dtype=torch.int64)
    while True:
        while len(waiting) < batch:
            waiting = torch.cat([waiting, torch.randperm(rows, generator=generator)])
        yield waiting[:batch]
        waiting = waiting[batch:]


def _learning_rate(step: int, recipe: CrosscoderRecipe) -> float:
    """Returns the rate at a step, counted from 1: a rise over the first 5 %, a fall to a tenth over the last 30 %."""
    rise = min(1.0, step / max(1.0, 0.05 * recipe.steps))
    fall = min(1.0, (recipe.steps - step) / max(1.0, 0.3 * recipe.steps))
    return recipe.lr * rise * (0.1 + 0.9 * fall)


def _scaling(x: Float[Tensor, "row d_in"], name: str) -> tuple[Float[Tensor, " d_in"], Float[Tensor, ""]]:
    """Returns the mean of one model's rows, and their mean distance from it over sqrt(d_in)."""
    mean = x.mean(0, dtype=torch.float64).float()
    unit = torch.stack([(rows.float() - mean).norm(dim=1).sum() for rows in x.split(ROWS_AT_ONCE)]).sum() / len(x) / x.shape[1] ** 0.5
    if unit == 0:
        raise ProbeError(f"all {name} rows are equal; a crosscoder needs rows that vary")
    return mean, unit


@torch.no_grad()
def _threshold(training: _Training, sample: Float[Tensor, "row model d_in"]) -> float:
    """Returns the score above which k latents a row are, mean over the sample."""
    scores = training.scores(sample).flatten()
    above = training.recipe.k * len(sample)
    return float(scores.topk(above + 1).values[-1]) if above < len(scores) else 0.0


def train_crosscoder(
    source: Float[Tensor, "_ _d"],
    target: Float[Tensor, "_ _d"],
    recipe: CrosscoderRecipe,
    *,
    models: tuple[str, str] = MODELS,
    fitted_on: tuple[str, str] = ("", ""),
    hook_point: str = "",
    on_step: Callable[[int, float], None] | None = None,
) -> Crosscoder:
    """Returns a BatchTopK crosscoder of two models' raw activations; silent, and the same for the same seed and machine.

    A batch of n rows keeps its n * k greatest ``f_i * sum_m |d_i^m|``; where it is used, a threshold does, set on rows of the training so
    that k latents a row are above it.

    Args:
        source: Rows of one model, on the device to train on.
        target: Rows of the other: the same row is the same site.
        recipe: Shape and length of training.
        models: Names of both.
        fitted_on: Fingerprints of both: model and hook point.
        hook_point: Where both were read.
        on_step: Called with the number of steps done and the batch's fraction of variance unexplained over both models.

    Raises:
        ProbeError: On activations that are not paired, not finite or do not vary, or a loss that is not a number.
    """
    check_pairs(source, target)
    (source_mean, source_unit), (target_mean, target_unit) = _scaling(source, "source"), _scaling(target, "target")
    mean, unit = torch.stack([source_mean, target_mean]), torch.stack([source_unit, target_unit])

    def scaled(rows: Int[Tensor, " batch"]) -> Float[Tensor, "batch model d_in"]:
        rows = rows.to(source.device)
        return (torch.stack([source[rows], target[rows]], 1).float() - mean) / unit[:, None]

    training = _Training(source.shape[1], recipe, source.device)
    optimizer = torch.optim.Adam(training.parameters(), lr=recipe.lr)
    window = max(20, min(1000, recipe.steps // 20))
    unfired = torch.zeros(recipe.d_sae, dtype=torch.int64, device=source.device)
    batches = _batches(len(source), recipe.batch, recipe.seed)
    for step in range(1, recipe.steps + 1):
        optimizer.param_groups[0]["lr"] = _learning_rate(step, recipe)
        loss, fvu, fired = training.loss(scaled(next(batches)), unfired >= window)
        if not torch.isfinite(loss):
            raise ProbeError(f"the loss is not a number at step {step}; a lower lr than {recipe.lr} may help")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        unfired = (unfired + 1).masked_fill(fired, 0)
        if on_step is not None:
            on_step(step, float(fvu))
    sample = torch.cat([next(batches) for _ in range(-(-ROWS_AT_ONCE // recipe.batch))])
    return Crosscoder(*training.folded(mean, unit), unit, _threshold(training, scaled(sample)), models, fitted_on, hook_point)
