"""LLaDA 2's tensors as a GLM-4 mixture of experts, which computes the same: its queries, keys and values lie in one tensor."""

from __future__ import annotations

from functools import cache
from typing import no_type_check

from transformers import PreTrainedModel

from models.architectures.decoders import decoder


@cache
def _network() -> type[PreTrainedModel]:
    from transformers import Glm4MoeConfig, Glm4MoeForCausalLM
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
    from transformers.core_model_loading import Split, WeightConverter, WeightRenaming

    @no_type_check  # of its fields at run time, for transformers also passes what is none of them
    class LLaDA2Config(Glm4MoeConfig):
        model_type = "llada2"

    class LLaDA2ForDiffusion(Glm4MoeForCausalLM):
        """A class of its own only so that its tensors are renamed and split as they are read."""

        config_class = LLaDA2Config

    parts = [
        WeightConverter([f"attention.query_key_value.{end}"], [f"self_attn.{part}_proj.{end}" for part in "qkv"], operations=[Split(dim=0)])
        for end in ("weight", "bias")
    ]
    names = [
        WeightRenaming(r"^model\.word_embeddings\.", "model.embed_tokens."),
        WeightRenaming(r"\.attention\.query_layernorm\.", ".self_attn.q_norm."),
        WeightRenaming(r"\.attention\.key_layernorm\.", ".self_attn.k_norm."),
        WeightRenaming(r"\.attention\.dense\.", ".self_attn.o_proj."),
        WeightRenaming(r"mlp\.gate\.expert_bias", "mlp.gate.e_score_correction_bias"),
    ]
    experts = get_checkpoint_conversion_mapping("glm4_moe") or []
    register_checkpoint_conversion_mapping(LLaDA2ForDiffusion.__name__, [*names, *parts, *experts], overwrite=True)
    return LLaDA2ForDiffusion


LLADA2 = decoder(
    "llada2",
    _network,
    "Glm4MoeForCausalLM",
    n_routed_experts=4,
    num_experts_per_tok=2,
    n_shared_experts=1,
    n_group=1,
    topk_group=1,
    first_k_dense_replace=1,
    moe_intermediate_size=32,
    use_qk_norm=True,
)
