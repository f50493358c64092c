"""Block diffusion on Qwen: SDAR and Fast-dLLM v2."""

from typing import Any

from models.families.base import Behaviour, Family, Raw, native, refuse

_TRAINING = ("attn_implementation", "block_size", "bd_size", "mask_token_id", "ep_size", "fuse_cross_entropy", "micro_forward", "debug")


def _configuration(raw: Raw) -> dict[str, Any]:
    refuse({"use_sliding_window": False, **raw}, {"use_sliding_window": False})
    return {name: value for name, value in native(raw).items() if name not in (*_TRAINING, "use_deepep", "skip_checkpoint")}


SDAR = Family(
    name="sdar",
    network="qwen3",
    behaviour=Behaviour("masked", "block-causal", 0, mask_tokens=("<|MASK|>",), mask_token_id=151669, block_size=4),
    source="modeling_sdar.py:571-1178, generate.py:83-92 (JetAstra/SDAR); same logits as Qwen3 under a block-causal mask",
    hub=("JetLM/SDAR-1.7B-Chat", "JetLM/SDAR-4B-Chat", "JetLM/SDAR-8B-Chat"),
    reads=("SDARForCausalLM",),
    about="blocks count from the first token, prompt included; its sampler stops after a whole block that holds an end token",
    configuration=_configuration,
)
FAST_DLLM = Family(
    name="fast-dllm-v2",
    network="qwen2",
    behaviour=Behaviour("masked", "block-causal", 1, mask_tokens=("|<MASK>|",), mask_token_id=151665, block_size=32),
    source="Fast-dLLM v2 modeling code, read and not run: the first token of a block is scored by the last row of the one before",
    hub=("Efficient-Large-Model/Fast_dLLM_v2_1.5B", "Efficient-Large-Model/Fast_dLLM_v2_7B"),
    reads=("Fast_dLLM_QwenForCausalLM",),
    configuration=_configuration,
)
