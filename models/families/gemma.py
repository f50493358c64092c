"""Gemma 1, 2 and 3, as causal parents."""

from models.families.base import CAUSAL, Family


def _gemma(name: str, network: str, architecture: str, hub: tuple[str, ...], about: str = "") -> Family:
    return Family(name, network, CAUSAL, f"transformers.models.{network} (5.23)", hub, (architecture,), about)


GEMMA = _gemma("gemma", "gemma", "GemmaForCausalLM", ("google/gemma-2b",), "wants <bos> first; without it activations are far off")
GEMMA2 = _gemma("gemma2", "gemma2", "Gemma2ForCausalLM", ("google/gemma-2-2b",), "every other block sees a window of 4,096 positions")
GEMMA3 = _gemma("gemma3", "gemma3_text", "Gemma3ForCausalLM", ("google/gemma-3-1b-pt",), "five blocks of six see a window of 512 positions")
