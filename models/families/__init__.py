"""Families: how published models are opened and what is true of them; one value each, one line in ``FAMILIES``."""

from models.families.base import Family
from models.families.bert import BERT, MODERNBERT, ROBERTA
from models.families.dit import BD3LM, GIDD, MDLM, SEDD
from models.families.dream import DREAM
from models.families.gemma import GEMMA, GEMMA2, GEMMA3
from models.families.gpt2 import DIFFUGPT, GPT2
from models.families.llada import LLADA
from models.families.llada_moe import LLADA2, LLADA_MOE
from models.families.llama import A2D_LLAMA, DIFFULLAMA, ILLADA, LLAMA
from models.families.qwen import A2D_BD3LM, A2D_QWEN2, A2D_QWEN3, QWEN2, QWEN3
from models.families.sdar import FAST_DLLM, SDAR

_CAUSAL = (GPT2, LLAMA, QWEN2, QWEN3, GEMMA, GEMMA2, GEMMA3)
_GROWN = (DIFFUGPT, DIFFULLAMA, A2D_LLAMA, A2D_QWEN2, A2D_QWEN3, A2D_BD3LM, DREAM, SDAR, FAST_DLLM, LLADA2)
_FROM_SCRATCH = (LLADA, ILLADA, LLADA_MOE, MDLM, BD3LM, SEDD, GIDD, BERT, ROBERTA, MODERNBERT)
FAMILIES: dict[str, Family] = {one.name: one for one in (*_CAUSAL, *_GROWN, *_FROM_SCRATCH)}
"""By name."""

__all__ = ["FAMILIES", "Family"]
