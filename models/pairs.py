"""Published pairs: a causal model and the diffusion model that was grown from its weights, and what has to be known to read both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from models.families import FAMILIES, Family


class PairError(ValueError):
    """A name that is no published pair."""


@dataclass(frozen=True)
class Member:
    """One model of a pair."""

    hub: str
    """Its repository on the hub."""
    family: str
    """See ``models.families.FAMILIES``."""
    config: Mapping[str, Any]
    """Sizes of its native configuration, for counting what it takes before anything is fetched."""
    revision: str | None = None
    """A commit; None is not pinned: choose a commit."""

    @property
    def known(self) -> Family:
        """What is known of its family."""
        return FAMILIES[self.family]

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return int(self.config.get("num_hidden_layers", self.config.get("n_layer", 0)))

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.config.get("hidden_size", self.config.get("n_embd", 0)))


@dataclass(frozen=True)
class PublicSae:
    """A published SAE of the causal model, as ``probes.saes.public.load_public_sae`` reads it."""

    release: str
    """In SAELens' registry."""
    sae_id: str
    point: str
    """The hook point that it reads."""


@dataclass(frozen=True)
class Pair:
    """A causal model and a diffusion model of one shape."""

    name: str
    causal: Member
    diffusion: Member
    tokenizer: Literal["same", "same plus a mask token"]
    mask_token: int
    """Of the diffusion model."""
    traps: str
    source: str
    """Where this was read."""
    sae: PublicSae | None = None
    """Of the causal model, of raw activations in the middle."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """To hold both in."""
    grown: bool = True
    """Whether the diffusion model's training began from the causal model's weights, so that both share a basis."""

    @property
    def logit_shifts(self) -> tuple[int, int]:
        """Which token position i scores, as an offset: of the causal model, of the diffusion model."""
        return self.causal.known.behaviour.logit_shift, self.diffusion.known.behaviour.logit_shift


def _gpt2(n_embd: int, n_layer: int, n_head: int, vocab_size: int = 50257) -> dict[str, Any]:
    return {"n_embd": n_embd, "n_layer": n_layer, "n_head": n_head, "vocab_size": vocab_size}


def _gated(width: int, mlp: int, layers: int, heads: tuple[int, int], vocab: int, **more: Any) -> dict[str, Any]:
    """Returns sizes of a Llama or Qwen; ``heads`` are those of queries, and of keys and values."""
    sizes = {"hidden_size": width, "intermediate_size": mlp, "num_hidden_layers": layers, "vocab_size": vocab}
    return {**sizes, "num_attention_heads": heads[0], "num_key_value_heads": heads[1], "tie_word_embeddings": False, **more}


_LLAMA2_7B = _gated(4096, 11008, 32, (32, 32), 32000)
_QWEN25_7B = _gated(3584, 18944, 28, (28, 4), 152064)
_QWEN25_HALF = _gated(896, 4864, 24, (14, 2), 151936)
_QWEN3_06B = _gated(1024, 3072, 28, (16, 8), 151936, head_dim=128, tie_word_embeddings=True)
_QWEN3_17B = _gated(2048, 6144, 28, (16, 8), 151936, head_dim=128)
_QWEN3_8B = _gated(4096, 12288, 36, (32, 8), 151936, head_dim=128)
_TIED: dict[str, Any] = {"tie_word_embeddings": True}

_QWEN3_06B_CAUSAL = Member("Qwen/Qwen3-0.6B", "qwen3", _QWEN3_06B, "c1899de289a04d12100db370d81485cdf75e47ca")
_A2D_TRAP = (
    "the parent is the model after its instruction tuning, not Qwen3-0.6B-Base; its chat template thinks unless told enable_thinking=False"
)
_A2D_SOURCE = "cards of dllm-hub's collection Tiny-A2D; ZHZisZZ/dllm examples/a2d/README.md"
_SDAR_TRAP = (
    "the parent is the base model that the conversion began from; the diffusion model has also been tuned to chat, so part of what differs "
    "is no matter of diffusion"
)
_SDAR_SOURCE = "JetAstra/SDAR README.md:171 (parents); file sizes on the hub"

_PAIRS = (
    Pair(
        "diffugpt-s",
        Member("openai-community/gpt2", "gpt2", _gpt2(768, 12, 12), "607a30d783dfa663caf39e06633721c8d4cfcd7e"),
        Member("diffusionfamily/diffugpt-s", "diffugpt", _gpt2(768, 12, 12)),
        "same",
        10541,
        "public SAEs of GPT-2 are of TransformerLens's centred residual stream: load_public_sae folds the centring into them",
        "card of diffusionfamily/diffugpt-s; HKUNLP/DiffuLLaMA README.md (--base_model_name gpt2)",
        PublicSae("gpt2-small-res-jb", "blocks.6.hook_resid_pre", "blocks.6.hook_resid_pre"),
        dtype="float32",
    ),
    Pair(
        "diffugpt-m",
        Member("openai-community/gpt2-medium", "gpt2", _gpt2(1024, 24, 16), "6dcaa7a952f72f9298047fd5137cd6e4f05f41da"),
        Member("diffusionfamily/diffugpt-m", "diffugpt", _gpt2(1024, 24, 16, 50258), "7d726bb89ab2ef14b825c8059f5e9184decce8b3"),
        "same plus a mask token",
        50257,
        "the diffusion model's table of embeddings has a row more than its parent's, for the mask",
        "card of diffusionfamily/diffugpt-m (base_model gpt2-medium); HKUNLP/DiffuLLaMA model.py:42",
        dtype="float32",
    ),
    Pair(
        "diffullama",
        Member("meta-llama/Llama-2-7b-hf", "llama", _LLAMA2_7B, "01c7f73d771dfac7d292323805ebc428287df4f9"),
        Member("diffusionfamily/diffullama", "diffullama", _LLAMA2_7B),
        "same",
        811,
        "the parent is gated: ask for access on its page, then log in with `hf auth login`",
        "card of diffusionfamily/diffullama; HKUNLP/DiffuLLaMA DiffuLLaMA-training/train.py:304",
    ),
    Pair(
        "dream-7b",
        Member("Qwen/Qwen2.5-7B", "qwen2", _QWEN25_7B, "d149729398750b98c0af14eb82c78cfe92750796"),
        Member("Dream-org/Dream-v0-Base-7B", "dream", _QWEN25_7B, "6572adb5535263e4d1a337b56942ba48b6dee2a9"),
        "same plus a mask token",
        151666,
        "a beginning-of-text token (151665) is added too, and whether it stands before a text is for the user to say",
        "arXiv:2508.15487 (begun from an autoregressive model); sizes are those of Qwen2.5-7B; files of Dream-v0-Instruct-7B",
    ),
    Pair(
        "diffucoder-7b",
        Member("Qwen/Qwen2.5-Coder-7B", "qwen2", _QWEN25_7B, "0396a76181e127dfc13e5c5ec48a8cee09938b02"),
        Member("apple/DiffuCoder-7B-Base", "dream", _QWEN25_7B, "a2c33054cbe99b9ab7af074f09b1d13943157ff1"),
        "same plus a mask token",
        151666,
        "its tokenizer pads with <|dlm_pad|> (151667) while its configuration says 151643",
        "card of apple/DiffuCoder-7B-Base (base_model Qwen/Qwen2.5-Coder-7B; modelling code of Dream)",
    ),
    Pair(
        "a2d-mdlm-0.6b",
        _QWEN3_06B_CAUSAL,
        Member("dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1", "a2d-qwen3", _QWEN3_06B, "39c33255701becfc61f3052d4b86c80b6d36603f"),
        "same plus a mask token",
        151669,
        _A2D_TRAP,
        _A2D_SOURCE,
        dtype="float32",
    ),
    Pair(
        "a2d-bd3lm-0.6b",
        _QWEN3_06B_CAUSAL,
        Member("dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1", "a2d-bd3lm", _QWEN3_06B),
        "same plus a mask token",
        151669,
        _A2D_TRAP,
        _A2D_SOURCE,
        dtype="float32",
    ),
    Pair(
        "a2d-coder-0.5b",
        Member("Qwen/Qwen2.5-Coder-0.5B-Instruct", "qwen2", _QWEN25_HALF | _TIED, "ea3f2471cf1b1f0db85067f1ef93848e38e88c25"),
        Member(
            "dllm-hub/Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm-v0.1",
            "a2d-qwen2",
            _QWEN25_HALF,
            "a284e895a6248256baf2f60502e54aba61b24c1a",
        ),
        "same plus a mask token",
        151665,
        "its file is larger than its parent's by an unembedding of its own; the parent's is its embedding",
        f"{_A2D_SOURCE}; file sizes on the hub",
        dtype="float32",
    ),
    Pair(
        "sdar-1.7b",
        Member("Qwen/Qwen3-1.7B-Base", "qwen3", _QWEN3_17B | _TIED, "ea980cb0a6c2ae4b936e82123acc929f1cec04c1"),
        Member("JetLM/SDAR-1.7B-Chat", "sdar", _QWEN3_17B),
        "same plus a mask token",
        151669,
        f"{_SDAR_TRAP}; its unembedding is its own, the parent's is its embedding",
        _SDAR_SOURCE,
        PublicSae("qwen-scope-3-1.7b-base-w32k-l50", "layer14", "blocks.14.hook_resid_post"),
    ),
    Pair(
        "sdar-8b",
        Member("Qwen/Qwen3-8B-Base", "qwen3", _QWEN3_8B, "49e3418fbbbca6ecbdf9608b4d22e5a407081db4"),
        Member("JetLM/SDAR-8B-Chat", "sdar", _QWEN3_8B, "ac4528d2c076b04e02a03e6f430efa4385331ce8"),
        "same plus a mask token",
        151669,
        _SDAR_TRAP,
        f"{_SDAR_SOURCE}; its index has the bytes of these sizes",
        PublicSae("qwen-scope-3-8b-base-w64k-l50", "layer18", "blocks.18.hook_resid_post"),
    ),
)
PAIRS: dict[str, Pair] = {pair.name: pair for pair in _PAIRS}
"""By name. Every commit was read in public sources that open the model at it; where none was found there is none."""


def pair_of(name: str) -> Pair:
    """Returns a published pair by name; raises PairError where there is none, naming all."""
    if name not in PAIRS:
        raise PairError(f"unknown pair {name!r}; choose from {', '.join(PAIRS)}")
    return PAIRS[name]
