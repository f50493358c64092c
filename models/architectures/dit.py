"""The diffusion transformer of SEDD, MDLM, BD3-LM and GIDD, written anew so that their checkpoints open without remote code or flash-attn.

All four are the text DiT of Lou et al. (2310.16834), after Peebles and Xie (2212.09748): pre-norm blocks with rotary positions, whose
norms are shifted and scaled, and whose branches are gated, by linear maps of an embedding of the noise level sigma (adaLN). They differ
in what they are told: SEDD is told sigma, GIDD (2503.04482) the time t, MDLM (2406.07524) and BD3-LM (2503.09573) always sigma = 0; and
BD3-LM has a block-causal mask.

A token is masked with probability 1 - exp(-sigma). What SEDD publishes as its output, the logarithm of the score, is at a masked
position ``logits - log(exp(sigma) - 1) - log(vocab_size - 1)``: the same distribution over tokens as these logits.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import MaskedLMOutput

from models.architectures.base import Architecture, Site, seeded

MLP_RATIO = 4
BASE = 10_000
"""Of the frequencies of positions and of noise levels."""
N_NOISE_FEATURES = 256
ALWAYS_KEPT = 1e-3
"""The share of tokens that SEDD's log-linear schedule leaves unmasked at its end."""
FIRST_TIME = 1e-4
"""The least t that GIDD is trained at, and the least by which t falls short of 1 (its ``t_eps``)."""


class DiTError(ValueError):
    """A configuration that is no such diffusion transformer, or an input that it cannot be run on."""


@no_type_check  # of its fields at run time, for transformers also passes what is none of them
class DiTConfig(PreTrainedConfig):
    """The shape of a diffusion transformer for text, and what its forward pass depends on."""

    model_type = "denoscope_dit"

    vocab_size: int = 50258
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    cond_dim: int = 128
    """Width of the embedded noise level."""
    max_position_embeddings: int = 1024
    """The length it was trained at; no weight depends on it."""
    is_causal: bool = False
    """Whether a position sees only those up to it, where no mask is given."""
    adaptive: bool = True
    """Whether the noise level shifts, scales and gates at all."""
    time_conditioning: bool = False
    """Whether it is told the noise level; if not, that is 0 whatever it is given."""
    p_uniform: float | None = None
    """With ``time_conditioning``, the largest share of tokens that GIDD's hybrid noise replaces at random; None is told sigma."""
    mask_token_id: int = 50257
    """With ``time_conditioning``, the token whose share in a canvas tells its noise level."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        if self.hidden_size % (step := 2 * self.num_attention_heads):
            raise DiTError(f"hidden_size is {self.hidden_size}; for {step // 2} heads of rotary positions it must be a multiple of {step}")


Modulation = tuple[Tensor, Tensor, Tensor] | tuple[float, float, float]
"""Shift and scale of a norm's output, and gate of what its branch adds; tensors broadcast to (batch, pos, d_model)."""
PLAIN: Modulation = (0.0, 0.0, 1.0)


class ZeroLinear(nn.Linear):
    """A linear map that starts at zero: each block starts as the identity, and all tokens as likely (adaLN-Zero, Peebles and Xie)."""


def rotary_angles(position_ids: Int[Tensor, "#batch pos"], d_head: int) -> Float[Tensor, "#batch 1 pos d_head"]:
    """Returns by how many radians the coordinates i and i + d_head / 2 of queries and keys are turned at each position."""
    frequencies = BASE ** (-torch.arange(0, d_head, 2, device=position_ids.device) / d_head)
    return (position_ids[:, None, :, None] * frequencies).repeat(1, 1, 1, 2)


def turned(x: Float[Tensor, "batch head pos d_head"], angles: Float[Tensor, "#batch 1 pos d_head"]) -> Tensor:
    """Returns queries or keys with rotary positions (Su et al., 2104.09864)."""
    first, second = x.chunk(2, dim=-1)
    return x * angles.cos().to(x.dtype) + torch.cat([-second, first], dim=-1) * angles.sin().to(x.dtype)


class DiTAttention(nn.Module):
    """Norm, modulation, self-attention and gate: its output is what attention adds to the residual stream."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(config.hidden_size, bias=False)
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.out = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        residual: Float[Tensor, "batch pos d_model"],
        modulation: Modulation,
        angles: Float[Tensor, "#batch 1 pos d_head"],
        attention_mask: Float[Tensor, "#batch 1 #pos #pos"] | None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Returns what is added to the residual stream."""
        shift, scale, gate = modulation
        joint = self.qkv(self.norm(residual) * (1 + scale) + shift)
        query, key, value = joint.unflatten(-1, (3, self.config.num_attention_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(
            turned(query, angles),
            turned(key, angles),
            value,
            attn_mask=None if attention_mask is None else attention_mask.to(query.dtype),
            is_causal=attention_mask is None and self.config.is_causal,
        )
        return gate * self.out(mixed.transpose(1, 2).flatten(2))


class DiTMLP(nn.Module):
    """Norm, modulation, two-layer network and gate: its output is what the MLP adds to the residual stream."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, bias=False)
        self.up = nn.Linear(config.hidden_size, MLP_RATIO * config.hidden_size)
        self.down = nn.Linear(MLP_RATIO * config.hidden_size, config.hidden_size)

    def forward(self, residual: Float[Tensor, "batch pos d_model"], modulation: Modulation) -> Float[Tensor, "batch pos d_model"]:
        """Returns what is added to the residual stream."""
        shift, scale, gate = modulation
        return gate * self.down(functional.gelu(self.up(self.norm(residual) * (1 + scale) + shift), approximate="tanh"))


class DiTBlock(nn.Module):
    """One block: the residual stream, plus attention's contribution, plus the MLP's."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.attn = DiTAttention(config)
        self.mlp = DiTMLP(config)
        self.modulation = ZeroLinear(config.cond_dim, 6 * config.hidden_size) if config.adaptive else None

    def forward(
        self,
        residual: Float[Tensor, "batch pos d_model"],
        conditioning: Float[Tensor, "batch seen cond"],
        angles: Float[Tensor, "#batch 1 pos d_head"],
        attention_mask: Float[Tensor, "#batch 1 #pos #pos"] | None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Returns the residual stream after the block."""
        of_attn, of_mlp = PLAIN, PLAIN
        if self.modulation is not None:
            parts = self.modulation(conditioning).chunk(6, dim=-1)
            of_attn, of_mlp = parts[:3], parts[3:]
        residual = residual + self.attn(residual, of_attn, angles, attention_mask)
        return residual + self.mlp(residual, of_mlp)


class NoiseEmbedding(nn.Module):
    """The noise level as a vector: sinusoids of it, through a two-layer network (as in GLIDE, 2112.10741)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(N_NOISE_FEATURES, config.cond_dim)
        self.down = nn.Linear(config.cond_dim, config.cond_dim)

    def forward(self, sigma: Float[Tensor, "*row"]) -> Float[Tensor, "*row cond"]:
        """Returns the vector of each noise level."""
        half = N_NOISE_FEATURES // 2
        angles = sigma[..., None].float() * BASE ** (-torch.arange(half, device=sigma.device) / half)
        features = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.up.weight.dtype)
        return functional.silu(self.down(functional.silu(self.up(features))))


class DiTFinalNorm(nn.Module):
    """Norm and modulation before the unembedding. It holds the noise embedding, so that it can be run on a residual stream alone."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(config.hidden_size, bias=False)
        self.noise = NoiseEmbedding(config) if config.adaptive else None
        self.modulation = ZeroLinear(config.cond_dim, 2 * config.hidden_size) if config.adaptive else None

    def conditioning(self, sigma: Float[Tensor, "*row"]) -> Float[Tensor, "*row cond"]:
        """Returns what blocks and final norm are told of each noise level: nothing, of width 0, where they are not adaptive."""
        if self.noise is None:
            return self.norm.weight.new_zeros(*sigma.shape, 0)
        return self.noise(sigma if self.config.time_conditioning else torch.zeros_like(sigma))

    def forward(
        self, residual: Float[Tensor, "*row d_model"], conditioning: Float[Tensor, "*#row cond"] | None = None
    ) -> Float[Tensor, "*row d_model"]:
        """Returns the normed stream; ``conditioning`` need be given only to a network that is told the noise level.

        Raises:
            DiTError: Where it is not, and must be.
        """
        normed: Tensor = self.norm(residual)
        if self.modulation is None:
            return normed
        if conditioning is None:
            if self.config.time_conditioning:
                raise DiTError("conditioning is None; this network is told the noise level, so give conditioning(sigma)")
            conditioning = self.conditioning(residual.new_zeros([1] * (residual.ndim - 1)))
        shift, scale = self.modulation(conditioning).chunk(2, dim=-1)
        return normed * (1 + scale) + shift


def share_masked(
    masked: Bool[Tensor, "batch pos"], attention_mask: Float[Tensor, "#batch 1 #pos #pos"] | None
) -> Float[Tensor, "batch seen"]:
    """Returns the share of masks among the tokens seen: one a canvas, or with a mask one a position."""
    share = masked.float()
    if attention_mask is None:
        return share.mean(dim=-1, keepdim=True)
    seen = (attention_mask[:, 0] > -1).float().expand(len(masked), masked.shape[1], masked.shape[1])
    return (seen * share[:, None]).sum(dim=-1) / seen.sum(dim=-1).clamp(min=1)


def sigma_of(share: Float[Tensor, "*row"]) -> Float[Tensor, "*row"]:
    """Returns the sigma that masks such a share of tokens.

    A time-conditioned network is so a function of the canvas alone, which loses nothing of the best possible one (2406.03736).
    """
    return -torch.log1p(-share.clamp(max=1 - ALWAYS_KEPT))


def time_of(share: Float[Tensor, "*row"], p_uniform: float) -> Float[Tensor, "*row"]:
    """Returns the time at which GIDD's hybrid noise masks such a share m of tokens (2503.04482, section 3.3, with gamma = 1).

    It masks t / (1 + c) of them and replaces c / (1 + c) at random, c = B sqrt(t (1 - t)), B = 2 p_uniform / (1 - p_uniform): so t is the
    root from m on of (1 + m^2 B^2) t^2 - (2 m + m^2 B^2) t + m^2 = 0.
    """
    b = (share * 2 * p_uniform / (1 - p_uniform)).square()
    linear = 2 * share + b
    root = (linear.square() - 4 * (1 + b) * share.square()).clamp(min=0).sqrt()
    return ((linear + root) / (2 * (1 + b))).clamp(FIRST_TIME, 1 - FIRST_TIME)


class DiTForMaskedDiffusion(PreTrainedModel):
    """Embedding, blocks, final norm and unembedding."""

    config_class = DiTConfig
    config: DiTConfig
    _input_embed_layer = "embed"
    _supports_sdpa = True

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList([DiTBlock(config) for _ in range(config.num_hidden_layers)])
        self.final_norm = DiTFinalNorm(config)
        self.lm_head = ZeroLinear(config.hidden_size, config.vocab_size)
        self._keys_to_ignore_on_load_unexpected = [r"rotary_emb\.\w+$", r"^sampling_eps_(min|max)$"]  # no weights
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, ZeroLinear):
            init.zeros_(module.weight)

    def _sigma(
        self, input_ids: Int[Tensor, "batch pos"], attention_mask: Tensor | None, sigma: Tensor | None
    ) -> Float[Tensor, "batch seen"]:
        if not self.config.time_conditioning:
            return torch.zeros(len(input_ids), 1, device=input_ids.device)
        if sigma is not None:
            return sigma.reshape(len(input_ids), -1)
        share = share_masked(input_ids == self.config.mask_token_id, attention_mask)
        return sigma_of(share) if self.config.p_uniform is None else time_of(share, self.config.p_uniform)

    def _added(self, mask: Tensor) -> Float[Tensor, "#batch 1 #pos #pos"]:
        """Returns a mask as it is added to attention scores; one of padding alone keeps the network's own regime."""
        if mask.ndim == 4 and mask.is_floating_point():
            return mask
        if mask.ndim != 2 or mask.is_floating_point():
            given = f"{mask.dtype} of {mask.ndim} dimensions"
            raise DiTError(f"attention_mask is {given}; it must be floats (batch, 1, pos, pos), or whole numbers (batch, pos)")
        seen = mask.bool()[:, None, None] & torch.ones(mask.shape[1], mask.shape[1], dtype=torch.bool, device=mask.device)
        seen = seen.tril() if self.config.is_causal else seen
        return torch.where(seen, 0.0, torch.finfo(self.dtype).min)

    def forward(
        self,
        input_ids: Int[Tensor, "batch pos"],
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "#batch pos"] | None = None,
        sigma: Float[Tensor, "batch ..."] | None = None,
        use_cache: bool = False,
        output_hidden_states: bool = False,
    ) -> MaskedLMOutput:
        """Returns raw scores, before any parametrisation: index i scores token i, and nothing is forbidden.

        Args:
            input_ids: The canvas.
            attention_mask: Of shape (batch or 1, 1, pos or 1, pos), in place of the network's own regime: 0 where a row sees a column, and
                a large negative number where it does not; or of shape (batch, pos), beside it: 0 at padding.
            position_ids: By default 0, 1, 2, ...
            sigma: Noise level of each canvas, or position: sigma, or with ``p_uniform`` the time; by default, if the network is told it,
                that of the share of masks it sees.
            use_cache: No; there is none.
            output_hidden_states: Whether to return the residual stream before the first block and after each.

        Raises:
            DiTError: Where a cache is wanted, or the mask cannot be added to attention scores.
        """
        if use_cache:
            raise DiTError("use_cache is True; this network keeps no cache, so False")
        if attention_mask is not None:
            attention_mask = self._added(attention_mask)
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        angles = rotary_angles(position_ids, self.config.hidden_size // self.config.num_attention_heads)
        conditioning = self.final_norm.conditioning(self._sigma(input_ids, attention_mask, sigma))
        residual = self.embed(input_ids)
        states = [residual]
        for block in self.blocks:
            residual = block(residual, conditioning, angles, attention_mask)
            if output_hidden_states:
                states.append(residual)
        logits = self.lm_head(self.final_norm(residual, conditioning))
        return MaskedLMOutput(logits=logits, hidden_states=tuple(states) if output_hidden_states else None)


def build(*, vocab_size: int, n_positions: int, d_model: int, n_layers: int, n_heads: int, seed: int = 0) -> DiTForMaskedDiffusion:
    """Returns a fresh network; the last token of its vocabulary is its mask token."""
    config = DiTConfig(
        vocab_size=vocab_size,
        hidden_size=d_model,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        max_position_embeddings=n_positions,
        is_causal=True,
        mask_token_id=vocab_size - 1,
    )
    return seeded(lambda: DiTForMaskedDiffusion(config), seed)  # type: ignore[return-value]


DIT = Architecture(
    model_type=DiTConfig.model_type,
    network=lambda: DiTForMaskedDiffusion,
    build=build,
    sites={
        "hook_embed": Site("embed", "output"),
        "hook_resid_pre": Site("blocks.{layer}", "input"),
        "hook_attn_out": Site("blocks.{layer}.attn", "output"),
        "hook_resid_mid": Site("blocks.{layer}.attn", "output", onto="hook_resid_pre"),
        "hook_mlp_out": Site("blocks.{layer}.mlp", "output"),
        "hook_resid_post": Site("blocks.{layer}", "output"),
    },
    blocks="blocks",
    readout=("final_norm", "lm_head"),
    bridge=None,  # the adapter for BD3-LM takes what attention gives before its gate
    source="kuleshov-group/mdlm models/dit.py, kuleshov-group/bd3lms models/hf, Score-Entropy-Discrete-Diffusion model/transformer.py, "
    "dvruette/gidd gidd/models/modeling_dit.py",
)
