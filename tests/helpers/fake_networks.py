"""A fixed network for runs of the denoising loop: its logits are random, and hang on every token of the canvas."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.facts import ModelFacts
from models.language_model import LanguageModel

MASK, VOCAB, LENGTH = 11, 12, 16


class FakeNetwork(LanguageModel):
    """A fixed network: the logits of a position depend on every token of the canvas, through random tables. The mask is the last token."""

    device = torch.device("cpu")
    fingerprint = "fake:0"

    def __init__(self, seed: int = 0, scale: float = 1.0, length: int = LENGTH, vocab: int = VOCAB) -> None:
        rng = np.random.default_rng(seed)
        self.name, self.mask = "fake", vocab - 1
        facts = ModelFacts(objective="masked", attention="full", logit_shift=0, mask_token_id=self.mask, task="sudoku")
        self.network = SimpleNamespace(longest=length, facts=facts)
        self.module = SimpleNamespace(config=SimpleNamespace(vocab_size=vocab))
        self.bias = scale * rng.normal(size=(length, vocab))
        self.pull = scale * rng.normal(size=(length, length, vocab, vocab))
        self.read: list[Tensor] = []
        """The canvases of every call."""

    def numpy_logits(self, canvases: np.ndarray) -> np.ndarray:
        """Returns the logits of one canvas, or of a batch."""
        place = np.arange(canvases.shape[-1])
        return self.bias[place] + self.pull[place[:, None], place, canvases[..., None, :]].mean(-2)

    def logits(self, tokens: Tensor) -> Tensor:
        self.read.append(tokens.clone())
        return torch.from_numpy(self.numpy_logits(tokens.numpy())).float()

    def softmax(self, logits: np.ndarray) -> np.ndarray:
        """Returns probabilities. The mask is never predicted (MDLM's "zero masking probabilities"; the others trust training)."""
        exponents = np.exp(logits - logits[..., : self.mask].max(-1, keepdims=True))
        exponents[..., self.mask] = 0
        return exponents / exponents.sum(-1, keepdims=True)

    def predict(self, x: Any, temperature: float = 1.0) -> np.ndarray:
        """Returns the probabilities of every position of one canvas."""
        return self.softmax(self.numpy_logits(np.asarray(x)) / temperature)


def prompts(batch: int, pos: int, seed: int = 0, rate: float = 0.6) -> Tensor:
    """Returns random canvases, each with something masked."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, MASK, (batch, pos))
    masked = rng.random((batch, pos)) < rate
    masked[np.arange(batch), rng.integers(0, pos, batch)] = True
    return torch.from_numpy(np.where(masked, MASK, tokens))
