"""Llama, and what was grown from it under its own tensor names."""

from typing import Any

from models.families.base import CAUSAL, Behaviour, Family, Raw, native, refuse


def _illada(raw: Raw) -> dict[str, Any]:
    absent = {"layer_norm_eps": None, "rope_scaling": None}  # a norm of another kind, and other positions
    refuse({**absent, **raw}, absent)
    return native(raw)


LLAMA = Family(
    name="llama",
    network="llama",
    behaviour=CAUSAL,
    source="transformers.models.llama (5.23)",
    hub=("meta-llama/Llama-2-7b-hf", "meta-llama/Meta-Llama-3-8B"),
    reads=("LlamaForCausalLM",),
)
DIFFULLAMA = Family(
    name="diffullama",
    network="llama",
    behaviour=Behaviour("masked", "full", 1, mask_token_id=811),
    source="HKUNLP/DiffuLLaMA model.py, train.py:304, inf_diffullama.py:32",
    hub=("diffusionfamily/diffullama",),
    about=(
        "its configuration is that of any causal Llama: elsewhere than under its hub id it must be named; token 811, the mask, is "
        "an ordinary one; position 0 is never written; trained on 2,048 positions"
    ),
    key_mapping={r"^denoise_model\.": "model.", r"^embed_tokens\.": "model.embed_tokens."},
)
A2D_LLAMA = Family(
    name="a2d-llama",
    network="llama",
    behaviour=Behaviour("masked", "full", 0, mask_tokens=("<|mask|>",)),
    source="dLLM dllm/pipelines/a2d (ZHZisZZ/dllm, ca17675): attention without a causal mask, nothing else",
    hub=(),
    reads=("A2DLlamaLMHeadModel",),
    about="of Llama 3 the vocabulary is full: a mask token added by the loader lies outside it",
)
ILLADA = Family(
    name="illada",
    network="llama",
    behaviour=Behaviour("masked", "full", 0, mask_tokens=("<[MASK]>",), mask_token_id=5),
    source="its remote code, read and not run: Llama line by line",
    hub=("GSAI-ML/iLLaDA-8B-Base", "GSAI-ML/iLLaDA-8B-Instruct"),
    reads=("ILLaDAForCausalLM",),
    configuration=_illada,
)
