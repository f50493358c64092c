"""Block diffusion: a block-causal model writes its own blocks one after the other, and what comes later is never seen."""

import pytest
import torch
from torch import Tensor

from models.architectures import ARCHITECTURES
from models.architectures.base import set_attention
from models.decoding import Decoding
from models.denoise import denoise
from models.facts import ModelFacts
from models.language_model import LanguageModel, wrap
from models.trajectory import Trajectory
from models.turn import PolicyError

SIZE, MASK, VOCABULARY = 4, 29, 30


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    """A random Qwen3 that sees in blocks of 4, as SDAR does."""
    architecture = ARCHITECTURES["qwen3"]
    module = architecture.build(vocab_size=VOCABULARY, n_positions=64, d_model=32, n_layers=2, n_heads=4)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for weight in module.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.3)
    set_attention(architecture, module.config, "block-causal")
    return wrap("blocks", module, ModelFacts("masked", "block-causal", 0, MASK, "text", SIZE))


def canvas(prompt: int, length: int, seed: int = 0) -> Tensor:
    tokens = torch.randint(0, MASK, (1, length), generator=torch.Generator().manual_seed(seed))
    tokens[:, prompt:] = MASK
    return tokens


def block_by_block(model: LanguageModel, tokens: Tensor, policy: str) -> Tensor:
    """SDAR's procedure: the canvas ends with the block that is being written (generate.py of JetAstra/SDAR)."""
    written = tokens.clone()
    for end in range(SIZE, tokens.shape[1] + SIZE, SIZE):
        if (written[:, :end] == MASK).any():
            written[:, :end] = torch.from_numpy(denoise(model, written[:, :end], policy).tokens(-1)).long()
    return written


def commit_steps(run: Trajectory) -> Tensor:
    return torch.from_numpy((run.data["token"].values != MASK).argmax(1))[0]


@pytest.mark.parametrize("policy", ["low_confidence", "threshold", "sequential"])
@pytest.mark.parametrize("prompt", [1, 3, 4, 6])
def test_it_writes_what_block_by_block_generation_writes(model: LanguageModel, policy: str, prompt: int) -> None:
    tokens = canvas(prompt, 15)
    assert torch.equal(torch.from_numpy(denoise(model, tokens, policy).tokens(-1)).long(), block_by_block(model, tokens, policy))


def test_blocks_count_from_the_first_position_prompt_included(model: LanguageModel) -> None:
    steps = commit_steps(denoise(model, canvas(6, 15), "low_confidence"))
    assert steps[6:8].max() < steps[8:12].min()
    assert steps[8:12].max() < steps[12:].min()


def test_gaps_in_several_blocks_are_written_in_their_order(model: LanguageModel) -> None:
    tokens = canvas(16, 16)
    tokens[0, [1, 9, 10, 15]] = MASK
    steps = commit_steps(denoise(model, tokens, "low_confidence"))
    assert steps[1] < steps[[9, 10]].min()
    assert steps[[9, 10]].max() < steps[15]


def test_samples_of_other_lengths_change_nothing(model: LanguageModel) -> None:
    samples = [canvas(3, 14, seed=1)[0], canvas(5, 9, seed=2)[0]]
    together = denoise(model, samples, "low_confidence")
    for row, sample in enumerate(samples):
        alone = denoise(model, sample[None], "low_confidence").tokens(-1)[0]
        assert (together.tokens(-1)[row, : len(sample)] == alone).all()


def test_a_budget_is_spread_over_its_blocks(model: LanguageModel) -> None:
    assert denoise(model, canvas(6, 15), Decoding("random", steps=6)).n_steps == 6
    with pytest.raises(PolicyError, match="steps is 2; 3 blocks of 4 positions need at least 3"):
        denoise(model, canvas(6, 15), Decoding("random", steps=2))


def test_blocks_of_another_length_are_refused(model: LanguageModel) -> None:
    with pytest.raises(PolicyError, match="block_length is 8; blocks sees in blocks of 4, and writes in those"):
        denoise(model, canvas(6, 15), Decoding("random", block_length=8))
