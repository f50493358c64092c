"""One type for causal and diffusion language models: a Hugging Face network, its facts, and a backend that names its activations."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from models.backends import BACKENDS, Backend, BackendError, BridgeBackend, Edit
from models.facts import ModelFacts
from models.hookpoints import HookPoint, HookPointError
from models.tasks import TASKS, Task

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


class LanguageModel:
    """A causal or masked-diffusion model. Make one with ``models.load.load``, which proves it first.

    The bare network does all plain forward passes. The backend, which names and edits activations, is made over the same
    weights the first time it is asked for, and proved then.
    """

    def __init__(self, name: str, module: PreTrainedModel, facts: ModelFacts, backend: str = "bridge") -> None:
        if backend not in BACKENDS:
            raise BackendError(f"unknown backend {backend!r}; choose from {', '.join(BACKENDS)}")
        self.name = name
        self.module = module.requires_grad_(False).eval()
        self.facts = facts
        self._backend_name = backend
        self._edits: dict[HookPoint, tuple[Edit, ...]] = {}
        """In force now, of all enclosing ``hooks`` blocks, the outermost first."""

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
        """A hash of facts and weights, which ties probes, SAEs and trajectories to this model wherever its folder is."""
        digest = hashlib.sha256(repr(self.facts).encode())
        for name, value in self.module.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return f"{self.facts.task}-{self.facts.objective}:{digest.hexdigest()[:16]}"

    @cached_property
    def backend(self) -> Backend:
        """The backend, proved against the bare network (importing its library takes some seconds).

        Raises:
            ModelCheckError: Where it computes something else than the network, or its edits do nothing.
        """
        from models.checks import prove_backend

        backend = BACKENDS[self._backend_name](self.module, self.facts.attention)
        prove_backend(self, backend)
        return backend

    @property
    def bridge(self) -> TransformerBridge:
        """The proved TransformerLens bridge, for TransformerLens's own tools; masked models must be given ``backend.arguments(tokens)``.

        Raises:
            BackendError: Where the backend is another.
        """
        if not isinstance(self.backend, BridgeBackend):
            raise BackendError(f"{self.name} is read through {self._backend_name}, not through a bridge; load it with backend='bridge'")
        return self.backend.bridge

    @property
    def hook_points(self) -> tuple[HookPoint, ...]:
        """Every hook point of the backend, in the order of the forward pass."""
        return self.backend.hook_points

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
        if self._edits:
            return self.align(self._run(tokens, ())[0])
        return self.align(self.module(input_ids=tokens, use_cache=False).logits)

    def run_with_cache(
        self, tokens: Int[Tensor, "batch pos"], points: Collection[HookPoint]
    ) -> tuple[Float[Tensor, "batch pos vocab"], dict[HookPoint, Tensor]]:
        """Returns the logits (index i scores token i) and the activations at ``points``, where position p is position p of the network.

        Raises:
            HookPointError: Where the model lacks one of the points.
        """
        self.check_hook_points(points)
        raw, cache = self._run(tokens.to(self.device), points)
        return self.align(raw), cache

    def _run(
        self, tokens: Int[Tensor, "batch pos"], points: Collection[HookPoint]
    ) -> tuple[Float[Tensor, "batch pos vocab"], dict[HookPoint, Tensor]]:
        def chained(edits: tuple[Edit, ...]) -> Edit:
            def edit(activation: Tensor) -> Tensor:
                for one in edits:
                    replacement = one(activation)
                    activation = activation if replacement is None else replacement
                return activation

            return edit

        return self.backend.run(tokens, {point: chained(edits) for point, edits in self._edits.items()}, points)

    @contextmanager
    def hooks(self, edits: Mapping[HookPoint, Edit]) -> Iterator[None]:
        """Edits activations in every forward pass inside the block.

        Raises:
            HookPointError: Where the model lacks one of the points, or an edit was never reached by the passes made.
        """
        self.check_hook_points(edits)
        fired: Counter[HookPoint] = Counter()

        def counted(point: HookPoint, edit: Edit) -> Edit:
            def counting(activation: Tensor) -> Tensor | None:
                fired[point] += 1
                return edit(activation)

            return counting

        outer = self._edits
        self._edits = outer | {point: (*outer.get(point, ()), counted(point, edit)) for point, edit in edits.items()}
        try:
            yield
        finally:
            self._edits = outer
        silent = [str(point) for point in edits if not fired[point]]
        if silent:
            raise HookPointError(f"these hooks were never reached by a forward pass: {silent}")
