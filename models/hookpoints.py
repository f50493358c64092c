"""Names of activations, in TransformerLens's vocabulary."""

from __future__ import annotations

import re
from dataclasses import dataclass

_IN_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


class HookPointError(ValueError):
    """A name that is no activation of the model at hand."""


@dataclass(frozen=True, order=True)
class HookPoint:
    """One named activation: ``component`` inside block ``layer``, or outside the blocks where ``layer`` is None.

    ``HookPoint(3, "hook_resid_post")`` is written ``blocks.3.hook_resid_post``.
    """

    layer: int | None
    component: str

    def __post_init__(self) -> None:
        if not self.component or self.component.startswith("blocks.") or (self.layer is not None and self.layer < 0):
            raise HookPointError(f"no hook point has layer {self.layer!r} and component {self.component!r}")

    def __str__(self) -> str:
        return self.component if self.layer is None else f"blocks.{self.layer}.{self.component}"

    @property
    def by_head(self) -> bool:
        """Whether its second axis is heads, and not positions: attention scores and patterns, and rotated queries and keys."""
        return self.component.rsplit(".", 1)[-1] in ("hook_attn_scores", "hook_pattern", "hook_rot_q", "hook_rot_k")

    @classmethod
    def parse(cls, name: str) -> HookPoint:
        """Returns the hook point of a name such as ``blocks.3.hook_resid_post`` or ``hook_embed``."""
        found = _IN_BLOCK.fullmatch(name)
        return cls(int(found[1]), found[2]) if found else cls(None, name)


def resid_post(layer: int) -> HookPoint:
    """Returns the residual stream after block ``layer``, counted from 0."""
    return HookPoint(layer, "hook_resid_post")
