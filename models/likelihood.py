"""How probable a model finds held-out text: exactly for a causal model, by its evidence bound for a masked one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.language_model import LanguageModel
from models.ngram import fit_ngrams, log_probabilities
from models.objective import token_nll
from models.tasks import Batch, Document

BATCH = 32


class LikelihoodError(ValueError):
    """A likelihood that cannot be estimated as asked."""


@dataclass(frozen=True)
class Likelihood:
    """Nats that a model spends on each document, the token and byte counts to share them among."""

    model: str
    nats: Float[np.ndarray, " document"]
    """Of all scored tokens; for a masked model an unbiased estimate of an upper bound."""
    n_tokens: Int[np.ndarray, " document"]
    n_bytes: Int[np.ndarray, " document"]
    seconds: float

    @property
    def bits_per_byte(self) -> float:
        """Bits a UTF-8 byte of text, over all documents together."""
        return float(self.nats.sum() / np.log(2) / self.n_bytes.sum())

    def interval(self, *, seed: int = 0, draws: int = 2000) -> tuple[float, float]:
        """Returns the 95 % interval of ``bits_per_byte``, resampling documents."""
        rows = np.random.default_rng(seed).integers(0, len(self.nats), (draws, len(self.nats)))
        drawn = self.nats[rows].sum(1) / np.log(2) / self.n_bytes[rows].sum(1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        return float(low), float(high)


def _drawn_masks(
    target: Bool[Tensor, "batch pos"], generator: torch.Generator
) -> tuple[Bool[Tensor, "batch pos"], Float[Tensor, " batch"]]:
    """Returns which tokens to mask, a number of them uniform on 1 to L, and the weight L / number of each sequence."""
    length = target.sum(1)
    share = (torch.rand(1, generator=generator) + torch.arange(len(target)) / len(target)) % 1  # evenly spread: less variance
    number = 1 + (share * length).long().clamp(max=length - 1)
    rank = torch.rand(target.shape, generator=generator).masked_fill(~target, 2.0).argsort(1).argsort(1)
    return rank < number[:, None], length / number


@torch.no_grad()
def _window_nats(model: LanguageModel, windows: Batch, samples: int, generator: torch.Generator) -> Float[Tensor, " batch"]:
    """Returns the nats of each window's scored tokens."""
    mask = model.facts.mask_token_id
    tokens, target = windows.tokens.to(model.device), windows.target
    rows = len(tokens)
    if mask is None:
        nll, _ = token_nll(model.network, tokens, tokens, target.to(model.device))
        return torch.zeros(rows).index_add_(0, torch.nonzero(target)[:, 0], nll.cpu())
    total = torch.zeros(rows)
    for _ in range(samples):
        masked, weight = _drawn_masks(target, generator)
        seen = tokens.masked_fill(masked.to(model.device), mask)
        nll, _ = token_nll(model.network, seen, tokens, masked.to(model.device))
        row = torch.nonzero(masked)[:, 0]
        total.index_add_(0, row, nll.cpu() * weight[row] / samples)
    return total


def likelihood(
    model: LanguageModel,
    documents: Sequence[Document],
    *,
    samples: int = 8,
    seed: int = 0,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> Likelihood:
    """Returns the likelihood of documents under a model.

    A masked model's is bounded as LLaDA does (2502.09992, equation 6): of a window's L scored tokens a number l is drawn uniformly, l of
    them are masked, and their cross-entropy counts L/l times; equal in expectation to MDLM's continuous-time bound, with less variance.

    Args:
        model: A causal or masked model.
        documents: Of the model's task.
        samples: Maskings a window, for a masked model.
        seed: Of the maskings.
        on_batch: Told (windows done, windows in all).

    Raises:
        LikelihoodError: On no documents or no samples.
    """
    if not documents or samples < 1:
        raise LikelihoodError(f"there are {len(documents)} documents and {samples} samples; at least one of each is needed")
    started = time.monotonic()
    tokens, target = (torch.cat([getattr(document.windows, name) for document in documents]) for name in ("tokens", "target"))
    owner = torch.repeat_interleave(torch.arange(len(documents)), torch.tensor([len(document.windows.tokens) for document in documents]))
    nats = torch.zeros(len(documents), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    for rows in torch.arange(len(tokens)).split(BATCH):
        found = _window_nats(model, Batch(tokens[rows], target[rows]), samples, generator)
        nats.index_add_(0, owner[rows], found.double())
        on_batch(int(rows[-1]) + 1, len(tokens))
    n_tokens = torch.zeros(len(documents), dtype=torch.long).index_add_(0, owner, target.sum(1))
    n_bytes = np.array([document.n_bytes for document in documents])
    return Likelihood(model.name, nats.numpy(), n_tokens.numpy(), n_bytes, time.monotonic() - started)


def ngram_likelihood(train: Sequence[Int[np.ndarray, " _"]], documents: Sequence[Document], vocabulary_size: int) -> Likelihood:
    """Returns the likelihood of the same documents under a 5-gram Kneser-Ney model of the training text: the bar for a network.

    Args:
        train: The training documents, whole.
        documents: What the networks are scored on; the n-grams reach across their windows.
        vocabulary_size: Number of tokens.
    """
    started = time.monotonic()
    model = fit_ngrams(train, vocabulary_size)
    n_tokens = np.array([int(document.windows.target.sum()) for document in documents])
    nats = np.array([-log_probabilities(model, one.whole)[len(one.whole) - n :].sum() for one, n in zip(documents, n_tokens, strict=True)])
    n_bytes = np.array([document.n_bytes for document in documents])
    return Likelihood("5-gram Kneser-Ney", nats, n_tokens, n_bytes, time.monotonic() - started)
