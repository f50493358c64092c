"""Qwen 2, 2.5 and 3, and their conversions by dLLM."""

from models.families.base import CAUSAL, Behaviour, Family

_A2D = Behaviour("masked", "full", 0, mask_tokens=("<|mask|>",))
_A2D_SOURCE = (
    "dLLM dllm/pipelines/a2d (ZHZisZZ/dllm, ca17675): attention without a causal mask, nothing else; trainers/mdlm.py:30 for the shift"
)
_A2D_ABOUT = (
    "answers are padded with the end token inside the loss, so the end of the canvas fills with it; a conversion by bd3lm has the same "
    "configuration: name the family a2d-bd3lm for it"
)

QWEN2 = Family(
    name="qwen2",
    network="qwen2",
    behaviour=CAUSAL,
    source="transformers.models.qwen2 (5.23)",
    hub=("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-Coder-7B", "Qwen/Qwen2.5-Coder-0.5B-Instruct"),
    reads=("Qwen2ForCausalLM",),
)
QWEN3 = Family(
    name="qwen3",
    network="qwen3",
    behaviour=CAUSAL,
    source="transformers.models.qwen3 (5.23)",
    hub=("Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B-Base", "Qwen/Qwen3-8B-Base"),
    reads=("Qwen3ForCausalLM",),
)
A2D_QWEN2 = Family(
    name="a2d-qwen2",
    network="qwen2",
    behaviour=_A2D,
    source=_A2D_SOURCE,
    hub=("dllm-hub/Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm-v0.1",),
    reads=("A2DQwen2LMHeadModel",),
    about=_A2D_ABOUT,
)
A2D_QWEN3 = Family(
    name="a2d-qwen3",
    network="qwen3",
    behaviour=_A2D,
    source=_A2D_SOURCE,
    hub=("dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1",),
    reads=("A2DQwen3LMHeadModel",),
    about=_A2D_ABOUT,
)
A2D_BD3LM = Family(
    name="a2d-bd3lm",
    network="qwen3",
    behaviour=Behaviour("masked", "block-causal", 0, mask_tokens=("<|mask|>",), block_size=32),
    source="dLLM core/trainers/bd3lm.py:84 (block size) and core/samplers/bd3lm.py:143",
    hub=("dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1",),
    about="its own sampler hides written padding tokens, and pads prompts on the left to whole blocks; here from the first token",
)
