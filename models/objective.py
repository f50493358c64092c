"""What a training minimises: next-token cross-entropy for a causal model, a denoising loss for a masked one."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from models.adapt import METHODS, Adaptation, HiddenStates
from models.losses import LOSSES, Noise, draw_noise
from models.network import Network
from models.tasks import Batch


def token_nll(
    network: Network,
    seen: Int[Tensor, "batch pos"],
    tokens: Int[Tensor, "batch pos"],
    scored: Bool[Tensor, "batch pos"],
    *,
    visible: Bool[Tensor, "pos pos"] | None = None,
    with_hidden: bool = False,
) -> tuple[Float[Tensor, " scored"], HiddenStates]:
    """Returns the cross-entropy in nats of each ``scored`` token, in row-major order, and the hidden states after each block.

    The network reads ``seen``; its unembedding is run where it predicts a scored token and nowhere else.

    Args:
        network: The network.
        seen: What it reads.
        tokens: The true tokens.
        scored: Which of them to score; none before the position of its logit shift.
        visible: Which positions (columns) each position (rows) sees, where it is not what its facts say.
        with_hidden: Whether to return hidden states; they are empty otherwise.
    """
    module, shift = network.module, network.facts.logit_shift
    given = network.inputs(seen)
    if visible is not None:
        given["attention_mask"] = torch.where(visible, 0.0, torch.finfo(torch.float32).min).to(seen.device)[None, None]
    if with_hidden:
        given["output_hidden_states"] = True

    def predicting(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return inputs[0][:, : seen.shape[1] - shift][scored[:, shift:]]

    unembedding: nn.Module = module.get_output_embeddings()
    kept = unembedding.register_forward_pre_hook(predicting)
    try:
        out = module(**given)  # what the network does to logits, such as Gemma 2's cap, is done to these
    finally:
        kept.remove()
    nll = functional.cross_entropy(out.logits.float(), tokens[:, shift:][scored[:, shift:]], reduction="none")
    return nll, out.hidden_states[1:] if with_hidden else ()


class TrainingObjective(nn.Module):
    """A network with its loss as one module, which is what a distributed wrapper needs to see every use of a weight."""

    def __init__(self, network: Network, adaptation: Adaptation | None, twin: nn.Module | None) -> None:
        super().__init__()
        self.module = network.module
        self.network = network
        self.adaptation = adaptation
        self.twin = None if twin is None else twin.requires_grad_(False)

    def draw(self, batch: Batch, generator: torch.Generator) -> Noise | None:
        """Returns the noise of a step; None for a causal model."""
        return None if self.adaptation is None else draw_noise(batch.target, self.adaptation.schedule, generator)

    def forward(self, batch: Batch, noise: Noise | None, progress: float, generator: torch.Generator) -> Float[Tensor, ""]:
        """Returns the loss of a batch."""
        facts = self.network.facts
        if self.adaptation is None or noise is None or facts.mask_token_id is None:
            scored = batch.target.clone()
            scored[:, : facts.logit_shift] = False
            return token_nll(self.network, batch.tokens, batch.tokens, scored)[0].mean()
        method = METHODS[self.adaptation.method]
        visible = method.visible(batch.tokens.shape[1], progress, generator) if method.visible else None
        seen = batch.tokens.masked_fill(noise.masked, facts.mask_token_id)
        aligned = method.penalty is not None
        nll, hidden = token_nll(self.network, seen, batch.tokens, noise.masked, visible=visible, with_hidden=aligned)
        loss = LOSSES[self.adaptation.loss](nll, noise)
        if method.penalty is not None and self.twin is not None:
            with torch.no_grad():
                twins = self.twin(input_ids=batch.tokens, use_cache=False, output_hidden_states=True)
            loss = loss + method.penalty(hidden, twins.hidden_states[1:])
        return loss
