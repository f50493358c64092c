"""Three ways to name and edit activations: plain hooks on the network itself, a TransformerLens bridge, and an nnsight trace.

All speak TransformerLens's names and give the same numbers; to choose, see ``BACKENDS``. None changes the network it is made for.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.architectures.base import Site
from models.hookpoints import HookPoint
from models.network import Network

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


class _EnoughError(Exception):
    """Ends a forward pass of which nothing more is wanted."""


class HooksBackend:
    """PyTorch's forward hooks on the untouched network: the hook points its architecture gives a place for, and no library to import."""

    name = "hooks"

    def __init__(self, network: Network) -> None:
        self._network, self.hook_points = network, network.points

    def _register(self, site: Site, layer: int | None, hook: Callable[[Tensor], Tensor | None]) -> Callable[[], None]:
        """Puts what a site holds through a hook in every forward pass; returns what ends that."""

        def pass_by(*ends: Any) -> Any:  # a module, its inputs and, after it, its output
            value = ends[-1]
            edited = hook(value[0] if isinstance(value, tuple) else value)
            if edited is None:
                return None
            return (edited, *value[1:]) if isinstance(value, tuple) else edited

        part: nn.Module = self._network.module.get_submodule(site.path.format(layer=layer))
        register = part.register_forward_pre_hook if site.end == "input" else part.register_forward_hook
        return register(pass_by).remove

    @contextmanager
    def _hooked(self, edits: Mapping[HookPoint, Edit], looks: Mapping[HookPoint, Callable[[Tensor], None]]) -> Iterator[None]:
        """Puts each point through its edit, and then before its look, in every forward pass inside the block."""
        sites = self._network.architecture.sites

        def pass_by(point: HookPoint, activation: Tensor) -> Tensor | None:
            edited = edits[point](activation) if point in edits else None
            if point in looks:
                looks[point](activation if edited is None else edited)
            return edited

        with ExitStack() as hooks:
            for point in sorted({**edits, **looks}, key=self.hook_points.index):  # of one module, the earlier point's hook comes first
                site = sites[point.component]
                if site.onto is None:
                    hooks.callback(self._register(site, point.layer, partial(pass_by, point)))
                    continue
                base: list[Tensor] = []
                hooks.callback(self._register(sites[site.onto], point.layer, partial(_keep, base)))
                hooks.callback(self._register(site, point.layer, partial(_sum, base, partial(pass_by, point))))
            yield

    def run(
        self, tokens: Int[Tensor, "batch pos"], edits: Mapping[HookPoint, Edit], points: Collection[HookPoint]
    ) -> tuple[Float[Tensor, "batch pos vocab"], dict[HookPoint, Tensor]]:
        """See ``Backend.run``."""
        found: dict[HookPoint, Tensor] = {}
        with self._hooked(edits, {point: partial(found.__setitem__, point) for point in points}):
            raw = self._network.raw(tokens)
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
            found[point] = activation[rows.to(activation.device), positions.to(activation.device)]  # layers may be spread over devices
            if len(found) == len(wanted) and not edits:  # an edit further on must be reached
                raise _EnoughError

        wanted = set(points)
        with self._hooked(edits, {point: partial(look, point) for point in wanted}), suppress(_EnoughError):
            self._network.raw(tokens)
        return {point: found[point] for point in points}


def _keep(base: list[Tensor], activation: Tensor) -> None:
    base[:] = [activation]


def _sum(base: list[Tensor], hook: Callable[[Tensor], Tensor | None], added: Tensor) -> Tensor | None:
    """Gives a hook the sum of what is added and what it is added to; returns what must be added for the sum that the hook makes."""
    edited = hook(base[0] + added)
    return None if edited is None else edited - base[0]


class BridgeBackend:
    """A TransformerLens bridge over the very weights of the network: all of TransformerLens's hook points, attention patterns included."""

    name = "bridge"

    def __init__(self, network: Network) -> None:
        from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

        module, adapter = network.module, network.architecture.bridge
        if adapter is None:
            raise BackendError(f"TransformerLens has no bridge for {network.architecture.model_type}; choose hooks or nnsight")
        self._network = network
        shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
        twin = copy.deepcopy(module, shared)  # a bridge replaces submodules in place; this copy is its own, of structure alone
        self.bridge: TransformerBridge = build_bridge_from_module(twin, architecture=adapter, hf_config=twin.config)
        self.bridge.requires_grad_(False)  # it splits joint weights into new ones, which would record every forward pass

    def arguments(self, tokens: Int[Tensor, "batch pos"]) -> dict[str, Any]:
        """Returns what the bridge must be given besides the tokens to keep the attention regime: it re-implements attention as causal."""
        given = self._network.inputs(tokens, explicit=True)
        return {name: given[name] for name in ("attention_mask", "position_ids") if name in given}

    @cached_property
    def hook_points(self) -> tuple[HookPoint, ...]:
        """Every hook point, found by running the bridge."""
        tokens = torch.zeros(1, 2, dtype=torch.long, device=self.bridge.cfg.device)
        _, cache = self.bridge.run_with_cache(tokens, **self.arguments(tokens))
        return tuple(HookPoint.parse(name) for name in cache)

    def _fwd_hooks(self, point: HookPoint, edit: Edit) -> list[tuple[str, Callable[..., Tensor | None]]]:
        """Returns TransformerLens's hooks for an edit.

        A bridge's ``hook_resid_mid`` is the input of the second norm: an edit there would miss the stream that goes past the MLP.
        """
        site = self._network.architecture.sites.get(point.component)
        if site is None or site.onto is None:
            return [(str(point), lambda activation, hook: edit(activation))]
        base: list[Tensor] = []
        return [
            (str(HookPoint(point.layer, site.onto)), lambda activation, hook: _keep(base, activation)),
            (str(HookPoint(point.layer, "hook_attn_out")), lambda activation, hook: _sum(base, edit, activation)),
        ]

    def run(
        self, tokens: Int[Tensor, "batch pos"], edits: Mapping[HookPoint, Edit], points: Collection[HookPoint]
    ) -> tuple[Float[Tensor, "batch pos vocab"], dict[HookPoint, Tensor]]:
        """See ``Backend.run``."""
        given, found = self.arguments(tokens), dict[HookPoint, Tensor]()
        hooks: list[tuple[str, Callable[..., Tensor | None]]] = []
        for point in sorted({*edits, *points}, key=self.hook_points.index):  # at one place, the earlier point's hook comes first
            if point in edits:
                hooks += self._fwd_hooks(point, edits[point])
            if point in points:
                hooks.append((str(point), partial(_look, found, point)))
        with self.bridge.hooks(fwd_hooks=hooks):
            raw = self.bridge(self._network.inputs(tokens)["input_ids"], **given)
        return raw, {point: found[point] for point in points}


def _look(found: dict[HookPoint, Tensor], point: HookPoint, activation: Tensor, hook: object) -> None:  # noqa: ARG001 (TransformerLens's)
    found[point] = activation


class NnsightBackend:
    """nnsight's trace of the untouched network: the hook points its architecture gives a place for."""

    name = "nnsight"

    def __init__(self, network: Network) -> None:
        from nnsight import NNsight

        self._network, self.hook_points = network, network.points
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Module .* has a submodule named")  # which is why paths are used
            self._traced = NNsight(network.module)
        self._envoys = {envoy.path.partition(".")[2]: envoy for envoy in self._traced.modules()}
        """By path: as an attribute, a module called output would be taken for its parent's output."""

    def _envoy(self, site: Site, layer: int | None) -> tuple[Any, str]:
        """Returns nnsight's handle of the module that holds a site, and whether it is its input or its output."""
        return self._envoys[site.path.format(layer=layer)], site.end

    def run(
        self, tokens: Int[Tensor, "batch pos"], edits: Mapping[HookPoint, Edit], points: Collection[HookPoint]
    ) -> tuple[Float[Tensor, "batch pos vocab"], dict[HookPoint, Tensor]]:
        """See ``Backend.run``."""
        found: dict[HookPoint, Tensor] = {}
        given, sites = self._network.inputs(tokens), self._network.architecture.sites
        asked = [point for point in self.hook_points if point in edits or point in points]
        bases = {(sites[one.component].onto, one.layer) for one in asked}
        places = [  # nnsight wants modules asked for in the order of the forward pass
            (point, *self._envoy(sites[point.component], point.layer))
            for point in self.hook_points
            if point in asked or (point.component, point.layer) in bases
        ]
        passed: dict[HookPoint, Tensor] = {}
        with self._traced.trace(**given):
            for point, envoy, end in places:
                value = getattr(envoy, end)
                held = value[0] if isinstance(value, tuple) else value
                onto = sites[point.component].onto
                base = 0 if onto is None else passed[HookPoint(point.layer, onto)]
                activation = held + base
                if point in edits and (edited := edits[point](activation)) is not None:
                    setattr(envoy, end, (edited - base, *value[1:]) if isinstance(value, tuple) else edited - base)
                    activation = edited
                passed[point] = activation
                if point in points:
                    found[point] = activation.save()
            raw = self._traced.output.logits.save()
        return raw, {point: found[point] for point in points}


BACKENDS: dict[str, Callable[[Network], Backend]] = {
    "hooks": HooksBackend,
    "bridge": BridgeBackend,
    "nnsight": NnsightBackend,
}
"""``hooks`` is fastest and names what the family has sites for; ``bridge`` names everything TransformerLens names, and imports it;
``nnsight`` names what ``hooks`` does, for work with nnsight's own tools."""


def default_backends(network: Network) -> tuple[str, ...]:
    """Returns the backends of a model that is given none: a pass goes through the first that has all the points it edits or reads."""
    return ("hooks",) if network.architecture.bridge is None else ("hooks", "bridge")
