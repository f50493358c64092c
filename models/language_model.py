"""One type for causal and diffusion language models: a Hugging Face network, its facts, and its TransformerLens bridge."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from models.facts import ModelFacts
from models.families import FAMILIES
from models.hookpoints import HookPoint, HookPointError
from models.tasks import TASKS, Task

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Edit = Callable[[Tensor], Tensor | None]
"""What a hook does with an activation: return its replacement, or None to leave it."""


def _sharing_weights(module: PreTrainedModel) -> PreTrainedModel:
    """Returns a copy of the network's structure over the very same parameters and buffers."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared)


class LanguageModel:
    """A causal or masked-diffusion model. Make one with ``models.load.load``, which proves it first.

    The bare network does all plain forward passes. The bridge, which names and edits activations, is built over the same
    weights the first time it is asked for, and proved then.
    """

    def __init__(self, name: str, module: PreTrainedModel, facts: ModelFacts) -> None:
        self.name = name
        self.module = module.requires_grad_(False).eval()
        self.facts = facts
        self.family = FAMILIES[module.config.model_type]
        self._edits_active = False

    def __repr__(self) -> str:
        return f"LanguageModel({self.name!r}, {self.n_parameters:,} parameters, {self.facts})"

    @property
    def task(self) -> Task:
        """The task whose vocabulary the model speaks."""
        return TASKS[self.facts.task]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.module.device

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return int(self.module.config.num_hidden_layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.module.config.hidden_size)

    @cached_property
    def n_parameters(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    @cached_property
    def fingerprint(self) -> str:
        """A hash of facts and weights, which ties probes, SAEs and trajectories to this model."""
        digest = hashlib.sha256(repr(self.facts).encode())
        for name, value in self.module.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return f"{self.name}:{digest.hexdigest()[:16]}"

    @cached_property
    def bridge(self) -> TransformerBridge:
        """The TransformerLens bridge, proved against the bare network (importing TransformerLens takes some seconds).

        Raises:
            ModelCheckError: Where the bridge computes something else than the network.
        """
        from models.checks import prove_bridge

        bridge = self.build_bridge()
        prove_bridge(self, bridge)
        return bridge

    def build_bridge(self) -> TransformerBridge:
        """Returns a fresh, unproved bridge over the same weights; the bare network is left as it is."""
        from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

        twin = _sharing_weights(self.module)
        bridge: TransformerBridge = build_bridge_from_module(twin, architecture=self.family.bridge_architecture, hf_config=twin.config)
        return bridge

    def bridge_arguments(self, tokens: Int[Tensor, "batch pos"]) -> dict[str, Any]:
        """Returns what the bridge must be given besides the tokens to keep the model's attention regime."""
        mask = self.family.bridge_mask(tokens, self.facts.attention)
        return {} if mask is None else {"attention_mask": mask}

    @cached_property
    def hook_points(self) -> tuple[HookPoint, ...]:
        """Every hook point of the model, in the order of the forward pass."""
        tokens = torch.zeros(1, 2, dtype=torch.long, device=self.device)
        _, cache = self.bridge.run_with_cache(tokens, **self.bridge_arguments(tokens))
        return tuple(HookPoint.parse(name) for name in cache)

    def check_hook_points(self, points: Collection[HookPoint]) -> None:
        """Raises HookPointError where the model lacks one of ``points``, naming what it has."""
        unknown = [str(point) for point in points if point not in self.hook_points]
        if unknown:
            components = sorted({point.component for point in self.hook_points if point.layer is not None})
            raise HookPointError(
                f"no such hook points: {unknown}; {self.name} has blocks.0 to blocks.{self.n_layers - 1} with {', '.join(components)}"
            )

    def align(self, raw: Float[Tensor, "batch pos vocab"]) -> Float[Tensor, "batch pos vocab"]:
        """Returns raw outputs moved so that index i scores token i. With a shift, token 0 is never predicted: all zeros, no opinion."""
        if self.facts.logit_shift == 0:
            return raw
        return torch.cat([torch.zeros_like(raw[:, :1]), raw[:, :-1]], dim=1)

    def reading_position(self, position: int) -> int:
        """Returns the index of the residual stream from which the token at ``position`` is predicted."""
        return position - self.facts.logit_shift

    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocab"]:
        """Returns scores whose index i is about token i, whatever the model's shift; edits of an enclosing ``hooks`` apply."""
        tokens = tokens.to(self.device)
        if self._edits_active:
            return self.align(self.bridge(tokens, **self.bridge_arguments(tokens)))
        return self.align(self.module(input_ids=tokens, use_cache=False).logits)

    def run_with_cache(
        self, tokens: Int[Tensor, "batch pos"], points: Collection[HookPoint]
    ) -> tuple[Float[Tensor, "batch pos vocab"], dict[HookPoint, Tensor]]:
        """Returns the logits (index i scores token i) and the activations at ``points``, where position p is position p of the network.

        Raises:
            HookPointError: Where the model lacks one of the points.
        """
        self.check_hook_points(points)
        names = {str(point) for point in points}
        tokens = tokens.to(self.device)
        raw, cache = self.bridge.run_with_cache(tokens, names_filter=lambda name: name in names, **self.bridge_arguments(tokens))
        return self.align(raw), {point: cache[str(point)] for point in points}

    @contextmanager
    def hooks(self, edits: Mapping[HookPoint, Edit]) -> Iterator[None]:
        """Edits activations in every forward pass inside the block.

        Raises:
            HookPointError: Where the model lacks one of the points, or an edit was never reached by the passes made.
        """
        self.check_hook_points(edits)
        fired: Counter[HookPoint] = Counter()

        def attach(point: HookPoint, edit: Edit) -> Callable[..., Tensor | None]:
            def hook(activation: Tensor, hook: object) -> Tensor | None:  # noqa: ARG001 (TransformerLens passes it by name)
                fired[point] += 1
                return edit(activation)

            return hook

        outer = self._edits_active
        with self.bridge.hooks(fwd_hooks=[(str(point), attach(point, edit)) for point, edit in edits.items()]):
            self._edits_active = True
            try:
                yield
            finally:
                self._edits_active = outer
        silent = [str(point) for point in edits if not fired[point]]
        if silent:
            raise HookPointError(f"these hooks were never reached by a forward pass: {silent}")
