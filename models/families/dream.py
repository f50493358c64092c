"""Dream and DiffuCoder: Qwen 2.5 with full attention, its shift kept."""

from typing import Any

from models.families.base import Behaviour, Family, Raw, native, refuse


def _configuration(raw: Raw) -> dict[str, Any]:
    refuse(raw, {"use_sliding_window": False})  # theirs ignores the window, the native one would not
    return {name: value for name, value in native(raw).items() if name != "use_mrope"}


DREAM = Family(
    name="dream",
    network="qwen2",
    behaviour=Behaviour("masked", "full", 1, mask_tokens=("<|mask|>",)),
    source="modeling_dream.py, generation_utils.py:414 (as kept in ZHZisZZ/dllm ca17675); same logits as Qwen2 with is_causal False",
    hub=("Dream-org/Dream-v0-Base-7B", "Dream-org/Dream-v0-Instruct-7B", "apple/DiffuCoder-7B-Base"),
    reads=("DreamModel",),
    about=(
        "position 0 is scored by its own row, so it is never written; trained on 2,048 positions though 131,072 are stated; the end token "
        "151643 is also padding and fills the end of the canvas, and commit orders should leave it out"
    ),
    configuration=_configuration,
    tokenizer="Qwen2TokenizerFast",
)
