"""Architectures: the kinds of networks that can be run; one value each, one line in ``ARCHITECTURES``."""

from models.architectures.base import Architecture
from models.architectures.decoders import GEMMA, GEMMA2, GEMMA3, LLAMA, OLMOE, QWEN2, QWEN3, QWEN3_MOE
from models.architectures.dit import DIT
from models.architectures.encoders import BERT, MODERNBERT, ROBERTA
from models.architectures.gpt2 import GPT2
from models.architectures.llada2 import LLADA2

ARCHITECTURES: dict[str, Architecture] = {
    one.model_type: one
    for one in (
        GPT2,
        LLAMA,
        QWEN2,
        QWEN3,
        QWEN3_MOE,
        OLMOE,
        GEMMA,
        GEMMA2,
        GEMMA3,
        LLADA2,
        DIT,
        BERT,
        ROBERTA,
        MODERNBERT,
    )
}
"""By the ``model_type`` of a configuration."""
