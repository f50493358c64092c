"""Labelled rows that may not fit into memory, and the sums over them that closed-form readers need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.errors import ProbeError, check_finite

Chunk = tuple[Tensor, Tensor]
"""Activations [row, d_model] of any float dtype, and their labels [row, head] of truth values."""
Chunks = Iterable[Chunk]
"""Rows in order, a chunk at a time; it can be gone through again, and then gives the same rows. A list or tuple is in memory whole."""

ROWS_AT_ONCE = 4096
"""Rows whose labels are held as floats together."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over labelled rows, in float64. Activations are counted from ``origin``, so that a far mean costs no digits."""

    origin: Float[Tensor, " d_model"]
    rows: int
    sum: Float[Tensor, " d_model"]
    squares: Float[Tensor, " d_model"]
    """Sum of the squared activations."""
    products: Float[Tensor, "d_model d_model"] | None
    """Sum of x x', where it was asked for."""
    positives: Float[Tensor, " head"]
    """True rows of each head."""
    positive_sum: Float[Tensor, "head d_model"]
    """Sum of the activations of each head's true rows."""

    @property
    def mean(self) -> Float[Tensor, " d_model"]:
        """Mean activation."""
        return self.origin + self.sum / self.rows

    @property
    def rate(self) -> Float[Tensor, " head"]:
        """Share of true rows a head."""
        return self.positives / self.rows

    @property
    def spread(self) -> Float[Tensor, " d_model"]:
        """Standard deviation of each feature; 1 where it does not vary."""
        variance = self.squares / self.rows - (self.sum / self.rows).square()
        least = torch.finfo(torch.float64).eps * self.squares / self.rows
        return torch.where(variance > least, variance, 1.0).sqrt()

    @property
    def correlation(self) -> Float[Tensor, "d_model d_model"]:
        """Covariance of the features divided by their spreads."""
        return self.covariance / torch.outer(self.spread, self.spread)

    @property
    def covariance(self) -> Float[Tensor, "d_model d_model"]:
        """Mean of (x - mean)(x - mean)' over all rows."""
        if self.products is None:
            raise ProbeError("these moments were counted without products; a covariance needs them")
        offset = self.sum / self.rows
        return self.products / self.rows - torch.outer(offset, offset)

    @property
    def class_means(self) -> tuple[Float[Tensor, "head d_model"], Float[Tensor, "head d_model"]]:
        """Means of the true and of the false rows a head, from the overall mean."""
        negatives = self.rows - self.positives
        summed = self.positive_sum - torch.outer(self.positives, self.sum / self.rows)
        return summed / self.positives[:, None], -summed / negatives[:, None]

    def __add__(self, other: Moments) -> Moments:
        """Returns the moments of both sets of rows together; both must count from one origin."""
        if self.positive_sum.shape != other.positive_sum.shape or not torch.equal(self.origin, other.origin):
            raise ProbeError(
                f"moments of {tuple(self.positive_sum.shape)} and {tuple(other.positive_sum.shape)} [head, d_model]; "
                "only those of one shape and one origin add up"
            )
        products = None if self.products is None or other.products is None else self.products + other.products
        return Moments(
            self.origin,
            self.rows + other.rows,
            self.sum + other.sum,
            self.squares + other.squares,
            products,
            self.positives + other.positives,
            self.positive_sum + other.positive_sum,
        )

    @classmethod
    def of(
        cls, x: Float[Tensor, "row d_model"], y: Bool[Tensor, "row head"], origin: Float[Tensor, " d_model"], *, products: bool
    ) -> Moments:
        """Returns the moments of rows in memory; sums over the rows of a class run in float32, a block at a time."""
        heads, d_model = y.shape[1], x.shape[1]
        total, squares = torch.zeros_like(origin), torch.zeros_like(origin)
        positive_sum = torch.zeros(heads, d_model, dtype=torch.float64, device=x.device)
        outer = torch.zeros(d_model, d_model, dtype=torch.float64, device=x.device) if products else None
        for x_block, y_block in zip(x.split(ROWS_AT_ONCE), y.split(ROWS_AT_ONCE), strict=True):
            moved = x_block.double() - origin
            total += moved.sum(0)
            squares += moved.square().sum(0)
            positive_sum += y_block.T.float() @ moved.float()
            if outer is not None:
                outer.addmm_(moved.T, moved)
        return cls(origin, len(x), total, squares, outer, y.sum(0).double(), positive_sum)


def as_chunks(x: Tensor | Chunks, y: Tensor | None) -> Chunks:
    """Returns chunks as they are, and tensors as one chunk."""
    if isinstance(x, Tensor):
        if y is None:
            raise ProbeError("activations without labels; give both as tensors, or an iterable of (activations, labels)")
        return [(x, y)]
    if y is not None or isinstance(x, Iterator):
        raise ProbeError(f"a {type(x).__name__} of chunks; chunks hold their own labels, and must be iterable more than once")
    return x


def check_data(x: Float[Tensor, "row d_model"], y: Bool[Tensor, "row head"], heads: Sequence[str]) -> None:
    """Returns nothing.

    Raises:
        ProbeError: On shapes that do not fit, values that are not finite, or a head with one class only (it is named).
    """
    for _ in checked([(x, y)], heads):
        _check_classes(y.sum(0), len(y), heads)


def checked(chunks: Chunks, heads: Sequence[str]) -> Iterator[Chunk]:
    """Yields the chunks.

    Raises:
        ProbeError: On names that repeat, chunks whose shapes do not fit one another or the heads, or values that are not finite.
    """
    repeated = [name for name, count in Counter(heads).items() if count > 1]
    if repeated:
        raise ProbeError(f"heads named more than once: {', '.join(repeated)}; names must be unique")
    width = None
    for x, y in chunks:
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
            raise ProbeError(f"activations {tuple(x.shape)} and labels {tuple(y.shape)}; they must be [row, d_model] and [row, head]")
        if y.shape[1] != len(heads):
            raise ProbeError(f"labels for {y.shape[1]} heads and {len(heads)} names; give one name a head")
        if y.dtype != torch.bool:
            raise ProbeError(f"labels of {y.dtype}; they must be torch.bool")
        width = x.shape[1] if width is None else width
        if x.shape[1] != width:
            raise ProbeError(f"chunks of width {width} and {x.shape[1]}; all must have one width")
        check_finite(x)
        yield x, y


def _check_classes(positives: Float[Tensor, " head"] | Int[Tensor, " head"], rows: int, heads: Sequence[str]) -> None:
    counts = [int(count) for count in positives.tolist()]
    single = [f"{name} ({count} of {rows} true)" for name, count in zip(heads, counts, strict=True) if count in (0, rows)]
    if single:
        raise ProbeError(f"heads with one class only: {', '.join(single)}; each needs rows of both")


def count_moments(chunks: Chunks, heads: Sequence[str], *, products: bool = True) -> Moments:
    """Returns the moments of all rows, in one pass.

    Args:
        chunks: The rows.
        heads: What each column of their labels says.
        products: Whether to sum x x' as well, which takes d_model² numbers.

    Raises:
        ProbeError: On a stream without rows, unusable chunks (see ``checked``), or a head with one class only (it is named).
    """
    moments: Moments | None = None
    for x, y in checked(chunks, heads):
        if moments is None:
            moments = Moments.of(x, y, x.mean(0, dtype=torch.float64), products=products)
        else:
            moments += Moments.of(x, y, moments.origin, products=products)
    if moments is None:
        raise ProbeError("the stream holds no rows; a reader needs at least two")
    _check_classes(moments.positives, moments.rows, heads)
    return moments


def gather(
    x: Tensor | Chunks, y: Tensor | None, heads: Sequence[str], moments: Moments | None = None, *, products: bool = True
) -> tuple[Chunks, Moments]:
    """Returns the rows as chunks, and their moments: those given, or counted in one pass over the rows."""
    chunks = as_chunks(x, y)
    return chunks, count_moments(chunks, heads, products=products) if moments is None else moments
