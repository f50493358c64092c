"""Three ways to name and edit activations: plain hooks on the network itself, a TransformerLens bridge, and an nnsight trace.

All speak TransformerLens's names and give the same numbers; to choose, see ``BACKENDS``. None changes the network it is made for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.facts import Attention
from models.families import FAMILIES
from models.hookpoints import HookPoint

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


class BackendError(ValueError):
    """An unknown backend, or one that cannot do what was asked."""


Edit = Callable[[Tensor], Tensor | None]
"""What a hook does with an activation: return its replacement, or None to leave it."""


@runtime_checkable
class Backend(Protocol):
    """A forward pass whose activations have names."""

    name: str

    @property
    def hook_points(self) -> tuple[HookPoint, ...]:
        """Every hook point, in the order of the forward pass."""
        ...

    def run(
        self, tokens: Int[Tensor, "batch pos"], edits: Mapping[HookPoint, Edit], points: Collection[HookPoint]
    ) -> tuple[Float[Tensor, "batch pos vocab"], dict[HookPoint, Tensor]]:
        """Returns the raw outputs and the activations at ``points``, after the edits; an edit is called once a forward pass."""
        ...


def site_points(module: PreTrainedModel) -> tuple[HookPoint, ...]:
    """Returns the hook points that a network's family gives a place for, in the order of the forward pass."""
    sites = FAMILIES[module.config.model_type].sites
    return tuple(HookPoint(layer, component) for layer in range(module.config.num_hidden_layers) for component in sites)


class _EnoughError(Exception):
    """Ends a forward pass of which nothing more is wanted."""


class HooksBackend:
    """PyTorch's forward hooks on the untouched network: the hook points its family gives a place for, and no library to import."""

    name = "hooks"

    def __init__(self, module: PreTrainedModel, attention: Attention) -> None:  # noqa: ARG002 (the network has its regime itself)
        self._module, self._family = module, FAMILIES[module.config.model_type]
        self.hook_points = site_points(module)

    @contextmanager
    def _hooked(self, edits: Mapping[HookPoint, Edit], looks: Mapping[HookPoint, Callable[[Tensor], None]]) -> Iterator[None]:
        """Puts each point through its edit, and then before its look, in every forward pass inside the block."""

        def pass_by(point: HookPoint, *ends: Any) -> Any:  # a module, its inputs and, after it, its output
            value = ends[-1]
            activation = value[0] if isinstance(value, tuple) else value
            edited = edits[point](activation) if point in edits else None
            if point in looks:
                looks[point](activation if edited is None else edited)
            if edited is None:
                return None
            return (edited, *value[1:]) if isinstance(value, tuple) else edited

        with ExitStack() as hooks:
            for point in {**edits, **looks}:
                site = self._family.sites[point.component]
                part: nn.Module = self._module.get_submodule(site.path.format(layer=point.layer))
                register = part.register_forward_pre_hook if site.end == "input" else part.register_forward_hook
                hooks.callback(register(partial(pass_by, point)).remove)
            yield

    def run(
        self, tokens: Int[Tensor, "batch pos"], edits: Mapping[HookPoint, Edit], points: Collection[HookPoint]
    ) -> tuple[Float[Tensor, "batch pos vocab"], dict[HookPoint, Tensor]]:
        """See ``Backend.run``."""
        found: dict[HookPoint, Tensor] = {}
        with self._hooked(edits, {point: partial(found.__setitem__, point) for point in points}):
            raw = self._module(input_ids=tokens, use_cache=False).logits
        return raw, {point: found[point] for point in points}

    def read(
        self,
        tokens: Int[Tensor, "batch pos"],
        edits: Mapping[HookPoint, Edit],
        points: Collection[HookPoint],
        rows: Int[Tensor, " row"],
        positions: Int[Tensor, " row"],
    ) -> dict[HookPoint, Float[Tensor, "row ..."]]:
        """Returns the activations at ``points`` of some places in the batch only; without edits, the pass ends at the last point."""
        found: dict[HookPoint, Tensor] = {}

        def look(point: HookPoint, activation: Tensor) -> None:
            found[point] = activation[rows, positions]
            if len(found) == len(wanted) and not edits:  # an edit further on must be reached
                raise _EnoughError

        wanted = set(points)
        with self._hooked(edits, {point: partial(look, point) for point in wanted}), suppress(_EnoughError):
            self._module(input_ids=tokens, use_cache=False)
        return {point: found[point] for point in points}


class BridgeBackend:
    """A TransformerLens bridge over the very weights of the network: all of TransformerLens's hook points, attention patterns included."""

    name = "bridge"

    def __init__(self, module: PreTrainedModel, attention: Attention) -> None:
        from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

        self._family, self._attention = FAMILIES[module.config.model_type], attention
        shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
        twin = copy.deepcopy(module, shared)  # a bridge replaces submodules in place; this copy is its own, of structure alone
        self.bridge: TransformerBridge = build_bridge_from_module(
            twin, architecture=self._family.bridge_architecture, hf_config=twin.config
        )
        self.bridge.requires_grad_(False)  # it splits joint weights into new ones, which would record every forward pass

    def arguments(self, tokens: Int[Tensor, "batch pos"]) -> dict[str, Any]:
        """Returns what the bridge must be given besides the tokens to keep the attention regime."""
        mask = self._family.bridge_mask(tokens, self._attention)
        return {} if mask is None else {"attention_mask": mask}

    @cached_property
    def hook_points(self) -> tuple[HookPoint, ...]:
        """Every hook point, found by running the bridge."""
        tokens = torch.zeros(1, 2, dtype=torch.long, device=self.bridge.cfg.device)
        _, cache = self.bridge.run_with_cache(tokens, **self.arguments(tokens))
        return tuple(HookPoint.parse(name) for name in cache)

    def run(
        self, tokens: Int[Tensor, "batch pos"], edits: Mapping[HookPoint, Edit], points: Collection[HookPoint]
    ) -> tuple[Float[Tensor, "batch pos vocab"], dict[HookPoint, Tensor]]:
        """See ``Backend.run``."""
        names = {str(point) for point in points}

        def hook(edit: Edit) -> Callable[..., Tensor | None]:
            return lambda activation, hook: edit(activation)

        with self.bridge.hooks(fwd_hooks=[(str(point), hook(edit)) for point, edit in edits.items()]):
            if not names:
                return self.bridge(tokens, **self.arguments(tokens)), {}
            raw, cache = self.bridge.run_with_cache(tokens, names_filter=lambda name: name in names, **self.arguments(tokens))
        return raw, {point: cache[str(point)] for point in points}


class NnsightBackend:
    """nnsight's trace of the untouched network: the hook points its family gives a place for."""

    name = "nnsight"

    def __init__(self, module: PreTrainedModel, attention: Attention) -> None:  # noqa: ARG002 (the network has its regime itself)
        from nnsight import NNsight

        self._family = FAMILIES[module.config.model_type]
        self._traced = NNsight(module)
        self.hook_points = site_points(module)

    def _envoy(self, point: HookPoint) -> tuple[Any, str]:
        """Returns nnsight's handle of the module that holds a point, and whether it is its input or its output."""
        site = self._family.sites[point.component]
        envoy = self._traced
        for part in site.path.format(layer=point.layer).split("."):
            envoy = envoy[int(part)] if part.isdigit() else getattr(envoy, part)
        return envoy, site.end

    def run(
        self, tokens: Int[Tensor, "batch pos"], edits: Mapping[HookPoint, Edit], points: Collection[HookPoint]
    ) -> tuple[Float[Tensor, "batch pos vocab"], dict[HookPoint, Tensor]]:
        """See ``Backend.run``."""
        found: dict[HookPoint, Tensor] = {}
        places = [(point, *self._envoy(point)) for point in self.hook_points if point in edits or point in points]
        with self._traced.trace(input_ids=tokens, use_cache=False):
            for point, envoy, end in places:  # nnsight wants modules asked for in the order of the forward pass
                value = getattr(envoy, end)
                activation = value[0] if isinstance(value, tuple) else value
                if point in edits and (edited := edits[point](activation)) is not None:
                    setattr(envoy, end, (edited, *value[1:]) if isinstance(value, tuple) else edited)
                    activation = edited
                if point in points:
                    found[point] = activation.save()
            raw = self._traced.output.logits.save()
        return raw, {point: found[point] for point in points}


BACKENDS: dict[str, Callable[[PreTrainedModel, Attention], Backend]] = {
    "hooks": HooksBackend,
    "bridge": BridgeBackend,
    "nnsight": NnsightBackend,
}
"""``hooks`` is fastest and names what the family has sites for; ``bridge`` names everything TransformerLens names, and imports it;
``nnsight`` names what ``hooks`` does, for work with nnsight's own tools."""
DEFAULT_BACKENDS = ("hooks", "bridge")
"""Unless a model is given one backend, each forward pass goes through the first of these that has all the points it edits or reads."""
