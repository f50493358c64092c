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

from models.architectures import ARCHITECTURES
from models.backends import BACKENDS, Backend, BackendError, BridgeBackend, Edit, HooksBackend, default_backends
from models.facts import FactsError, ModelFacts
from models.hookpoints import HookPoint, HookPointError
from models.network import PADDING, Network
from models.tasks import TASKS, Task
from models.tasks.text import Text

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerBase


class LanguageModel:
    """A causal or masked-diffusion model. Make one with ``models.load.load``, which proves it first.

    The bare network does all plain forward passes. A pass whose activations are read or edited goes through the first backend of
    ``models.backends.default_backends`` that has all its points, or through the one that was asked for. A backend is made over the same
    weights the first time it is needed, and proved then.
    """

    def __init__(self, name: str, network: Network, task: Task, backend: str | None = None) -> None:
        if backend is not None and backend not in BACKENDS:
            raise BackendError(f"unknown backend {backend!r}; choose from {', '.join(BACKENDS)}")
        self.name = name
        self.network = network
        self.module: PreTrainedModel = network.module.requires_grad_(False).eval()
        self.task = task
        """The task whose vocabulary the model speaks."""
        self._backend_names = default_backends(network) if backend is None else (backend,)
        self._backends: dict[str, Backend] = {}
        self._edits: dict[HookPoint, tuple[Edit, ...]] = {}
        """In force now, of all enclosing ``hooks`` blocks, the outermost first."""

    def __repr__(self) -> str:
        return f"LanguageModel({self.name!r}, {self.n_parameters:,} parameters, {self.facts})"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.module.device

    @property
    def facts(self) -> ModelFacts:
        """What is true of it."""
        return self.network.facts

    @property
    def longest(self) -> int:
        """Positions that it can read."""
        return self.network.longest

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
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return f"{self.facts.task}-{self.facts.objective}:{digest.hexdigest()[:16]}"

    def _proved(self, name: str) -> Backend:
        """Returns a backend, made and proved against the bare network the first time.

        Raises:
            ModelCheckError: Where it computes something else than the network, or its edits do nothing.
        """
        from models.checks import prove_backend

        if name not in self._backends:
            backend = BACKENDS[name](self.network)
            prove_backend(self, backend)
            self._backends[name] = backend
        return self._backends[name]

    @property
    def backend(self) -> Backend:
        """The backend that names the most, proved (importing the library of the default one takes some seconds)."""
        return self._proved(self._backend_names[-1])

    @property
    def bridge(self) -> TransformerBridge:
        """The proved TransformerLens bridge, for TransformerLens's own tools; masked models must be given ``backend.arguments(tokens)``.

        Raises:
            BackendError: Where the backend is another.
        """
        if not isinstance(self.backend, BridgeBackend):
            given = self._backend_names[-1]
            raise BackendError(f"{self.name} is read through {given}, not through a bridge; load it with backend='bridge', or without one")
        return self.backend.bridge

    @property
    def hook_points(self) -> tuple[HookPoint, ...]:
        """Every hook point of the backend, in the order of the forward pass."""
        return self.backend.hook_points

    @property
    def plain_points(self) -> tuple[HookPoint, ...]:
        """The hook points that plain hooks have, all of the residual width, in the order of the forward pass."""
        return self.network.points

    def _backend_with(self, points: Collection[HookPoint]) -> Backend:
        """Returns the first backend that has all the points; raises HookPointError where none has, naming what there is."""
        for name in self._backend_names:
            if set(points) <= set(self._proved(name).hook_points):
                return self._proved(name)
        unknown = [str(point) for point in points if point not in self.hook_points]
        components = sorted({point.component for point in self.hook_points if point.layer is not None})
        raise HookPointError(
            f"no such hook points: {unknown}; {self.name} has blocks.0 to blocks.{self.n_layers - 1} with {', '.join(components)}"
        )

    def align(
        self, raw: Float[Tensor, "batch pos vocab"], tokens: Int[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos vocab"]:
        """Returns raw outputs moved so that index i scores token i. With a shift, the first is never predicted: all zeros, no opinion.

        ``tokens`` are needed where samples do not all begin at position 0.
        """
        if self.facts.logit_shift == 0:
            return raw
        moved = torch.cat([torch.zeros_like(raw[:, :1]), raw[:, :-1]], dim=1)
        if tokens is None or bool((tokens[:, 0] != PADDING).all()):
            return moved
        preceded = torch.cat([torch.zeros_like(tokens[:, :1], dtype=torch.bool), tokens[:, :-1] != PADDING], dim=1)
        return moved.masked_fill(~preceded[..., None], 0.0)

    def reading_position(self, position: int) -> int:
        """Returns the index of the residual stream from which the token at ``position`` is predicted."""
        return position - self.facts.logit_shift

    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocab"]:
        """Returns scores whose index i is about token i, whatever the model's shift; edits of an enclosing ``hooks`` apply.

        Samples of different lengths are padded with ``models.network.PADDING``, on the left or on the right.
        """
        tokens = tokens.to(self.device)
        if self._edits:
            return self.align(self._backend_with(self._edits).run(tokens, self._chained(), ())[0], tokens)
        return self.align(self.network.raw(tokens), tokens)

    def unembed(self, residual: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row vocab"]:
        """Returns the scores that the final norm and the unembedding make of a residual stream: after the last block, the model's own.

        Row by row: what is read at position p is about the token at p plus the model's logit shift.
        """
        scores = residual.to(self.device, self.module.dtype)
        for path in self.network.architecture.readout:
            scores = self.module.get_submodule(path)(scores)
        cap: float | None = getattr(self.module.config, "final_logit_softcapping", None)  # of Gemma 2
        return scores if cap is None else cap * torch.tanh(scores / cap)

    def run_with_cache(
        self, tokens: Int[Tensor, "batch pos"], points: Collection[HookPoint]
    ) -> tuple[Float[Tensor, "batch pos vocab"], dict[HookPoint, Tensor]]:
        """Returns the logits (index i scores token i) and the activations at ``points``, where position p is position p of the network.

        Raises:
            HookPointError: Where the model lacks one of the points.
        """
        tokens = tokens.to(self.device)
        raw, cache = self._backend_with({*points, *self._edits}).run(tokens, self._chained(), points)
        return self.align(raw, tokens), cache

    def activations(
        self,
        tokens: Int[Tensor, "batch pos"],
        points: Collection[HookPoint],
        rows: Int[Tensor, " row"],
        positions: Int[Tensor, " row"],
    ) -> dict[HookPoint, Float[Tensor, "row ..."]]:
        """Returns the activations at places of the batch: those of ``run_with_cache`` at ``[rows, positions]``, and none of the logits.

        Where plain hooks have the points and nothing is edited, the forward pass ends at the last of them.

        Raises:
            HookPointError: Where the model lacks one of the points.
        """
        backend = self._backend_with({*points, *self._edits})
        tokens, rows, positions = (given.to(self.device) for given in (tokens, rows, positions))
        if isinstance(backend, HooksBackend):
            return backend.read(tokens, self._chained(), points, rows, positions)
        _, cache = backend.run(tokens, self._chained(), points)
        return {point: cache[point][rows.to(cache[point].device), positions.to(cache[point].device)] for point in points}

    def _chained(self) -> dict[HookPoint, Edit]:
        """Returns the edits in force, as one a point."""

        def chained(edits: tuple[Edit, ...]) -> Edit:
            def edit(activation: Tensor) -> Tensor:
                for one in edits:
                    replacement = one(activation)
                    activation = activation if replacement is None else replacement
                return activation

            return edit

        return {point: chained(edits) for point, edits in self._edits.items()}

    @contextmanager
    def hooks(self, edits: Mapping[HookPoint, Edit]) -> Iterator[None]:
        """Edits activations in every forward pass inside the block.

        Raises:
            HookPointError: Where the model lacks one of the points, or an edit was never reached by the passes made.
        """
        self._backend_with(edits)
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


def wrap(
    name: str, module: PreTrainedModel, facts: ModelFacts, backend: str | None = None, *, tokenizer: PreTrainedTokenizerBase | None = None
) -> LanguageModel:
    """Returns a Hugging Face network that is in memory already as a model, not proved yet (see ``models.checks.prove``).

    Raises:
        FactsError: Where its architecture is none of ``models.architectures.ARCHITECTURES``.
    """
    kind = module.config.model_type
    if kind not in ARCHITECTURES:
        raise FactsError(f"{name} is of the architecture {kind!r}; supported: {', '.join(ARCHITECTURES)}")
    network = Network(module, facts, ARCHITECTURES[kind])
    return LanguageModel(name, network, task_of(network, tokenizer), backend)


def task_of(network: Network, tokenizer: PreTrainedTokenizerBase | None) -> Task:
    """Returns the task that a network's facts name; ``text`` is that of its tokenizer."""
    if network.facts.task in TASKS:
        return TASKS[network.facts.task]
    return Text(tokenizer, int(network.module.config.vocab_size), network.facts.mask_token_id, network.longest)
