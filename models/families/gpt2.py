"""GPT-2 and DiffuGPT, which was grown from it."""

from typing import Any

from models.families.base import CAUSAL, Behaviour, Family, Raw, native

GPT2 = Family(
    name="gpt2",
    network="gpt2",
    behaviour=CAUSAL,
    source="transformers.models.gpt2 (5.23)",
    hub=("openai-community/gpt2", "openai-community/gpt2-medium"),
    reads=("GPT2LMHeadModel",),
    about="no beginning-of-text token of its own: <|endoftext|> (50256) stands between documents",
)


def _configuration(raw: Raw) -> dict[str, Any]:
    """Returns a GPT-2 configuration; the medium one has a row more in its table than it states."""
    return native(raw) | {"vocab_size": raw.get("embedding_rows") or raw["vocab_size"]}


DIFFUGPT = Family(
    name="diffugpt",
    network="gpt2",
    behaviour=Behaviour("masked", "full", 1, mask_tokens=("[¨M¨]",), mask_token_id=10541),
    source="HKUNLP/DiffuLLaMA model.py:15-157, ddm/trainer.py:113-190, LLaMA-Factory loader.py:50-155; same logits as GPT-2",
    hub=("diffusionfamily/diffugpt-s", "diffusionfamily/diffugpt-m"),
    reads=("DiscreteDiffusionModel",),
    about=(
        "the small one's mask token 10541 is an ordinary token of GPT-2 that text may hold; position 0 is never written; the canvas is "
        "always full, there is no end token"
    ),
    configuration=_configuration,
    key_mapping={r"^denoise_model\.": "transformer.", r"^embed_tokens\.": "transformer.wte."},
    tokenizer="GPT2TokenizerFast",
)
