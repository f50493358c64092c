"""What reading a model of some configuration is going to take, counted without its weights: memory, disk, arithmetic, hours by GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.hookpoints import HookPoint
from models.network_shape import NetworkShape, shape_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

KINDS = ("harvest", "denoise")
STORED = ("float16", "float32")
BYTES: Mapping[str, float] = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "nf4": 4.5 / 8}
"""Of a weight. ``nf4`` holds 4 bits and one float32 for each 64 weights (QLoRA, Dettmers et al. 2023, section 3).

``int8`` and ``nf4`` are for linear layers other than the unembedding; everything else, and all arithmetic, is then in bfloat16. Experts
that a network holds as one tensor are no linear layers to the library that quantises.
"""
UTILISATION = 0.4
"""Of the peak arithmetic of a GPU: assumed. Large matrices reach more; eager attention over long sequences, and small batches, less."""
USABLE = 0.9
"""Of the memory of a GPU; the rest is for its driver, and for what the allocator cannot use."""
READ_BYTES = 20
"""A logit while a denoiser draws from it: five float32 values, among them itself, its noise and their sum."""


class CostError(ValueError):
    """A plan whose cost cannot be counted."""


@dataclass(frozen=True)
class Gpu:
    """One type of GPU."""

    name: str
    memory: float
    """In bytes."""
    bfloat16: float
    """Multiplications and additions a second with dense bfloat16 matrices, accumulated in float32; float16 is as fast."""
    float32: float
    """The same with float32 matrices, as PyTorch multiplies them unless told otherwise (no TF32)."""


GPUS: tuple[Gpu, ...] = (
    Gpu("RTX 4090", 24e9, 165.2e12, 82.6e12),
    Gpu("L4", 24e9, 121e12, 30.3e12),
    Gpu("A10", 24e9, 125e12, 31.2e12),
    Gpu("A100 40GB", 40e9, 312e12, 19.5e12),
    Gpu("A100 80GB", 80e9, 312e12, 19.5e12),
    Gpu("H100", 80e9, 989.5e12, 67e12),
    Gpu("H200", 141e9, 989.5e12, 67e12),
)
"""From NVIDIA's data sheets, without sparsity: the Ada architecture's (RTX 4090), L4, A10, A100, H100 SXM, H200 SXM."""


@dataclass(frozen=True)
class Memory:
    """Bytes that one forward pass holds. The last three are held one after another: the peak has the largest of them."""

    weights: int
    kept: int
    """Activations that are read."""
    stream: int
    """The residual stream, the embeddings, the input of a sublayer, and the attention mask."""
    attention: int
    """Queries, keys, values and eager scores of one layer: the scores grow with the square of the length."""
    mlp: int
    """The feed-forward sublayer, over which the Hugging Face library still holds the layer's attention."""
    logits: int
    """What is made of the unembedding; 0 for a harvest, whose pass ends before it."""

    @property
    def peak(self) -> int:
        """The most that is held at once."""
        return self.weights + self.kept + self.stream + max(self.attention, self.mlp, self.logits)


@dataclass(frozen=True)
class OnGpu:
    """How a plan goes on one GPU."""

    gpu: str
    fits: bool
    most_batch: int
    """The largest batch that fits; 0 where not even one sequence does."""
    hours: float
    """At ``UTILISATION``, whether it fits or not."""


@dataclass(frozen=True)
class Alternative:
    """A plan that fits where the one asked for does not."""

    gpu: str
    dtype: str
    batch: int


@dataclass(frozen=True)
class Cost:
    """What a plan takes."""

    parameters: int
    active: int
    """Parameters that act on any one token: of a mixture of experts, without those that it is not sent to."""
    weights: Mapping[str, int]
    """Bytes by dtype."""
    memory: Memory
    disk: int
    """Bytes of activations, where those of every position of every pass are kept."""
    flops: int
    """Multiplications and additions, each counted."""
    gpus: tuple[OnGpu, ...]
    instead: tuple[Alternative, ...]
    """Where no GPU holds the plan: by dtype the smallest GPU that does, or the largest batch that fits. Empty where one holds it."""


def plan_cost(
    config: PreTrainedConfig,
    *,
    dtype: str,
    hook_points: Sequence[HookPoint],
    n: int,
    length: int,
    kind: str = "harvest",
    steps: int = 1,
    batch: int = 1,
    stored: str = "float16",
    network: type[PreTrainedModel] | None = None,
) -> Cost:
    """Returns what reading ``n`` sequences takes; nothing is downloaded, and no weight is made.

    Arithmetic is 2 for each weight that a token is multiplied with, and 4 times the length for each number of a query: the scores and the
    sums they weigh (Kaplan et al. 2020, table 1; Hoffmann et al. 2022, appendix F, but for softmax and the look-up of embeddings). Every
    position attends to every other, as eager attention computes it whatever the mask.

    Args:
        config: Of the network.
        dtype: What the weights are held in.
        hook_points: What is read of each pass; a harvest's pass ends at the last of them.
        n: Sequences.
        length: Their positions.
        kind: ``harvest`` reads activations, ``denoise`` also draws from the logits.
        steps: Passes over each sequence: denoising steps, or the canvases of a harvest.
        batch: Sequences a pass.
        stored: What activations are kept on disk in.
        network: See ``shape_of``.

    Raises:
        ShapeError: On a configuration of no language model, or of one that is not counted by block.
        CostError: On a plan that it cannot follow.
    """
    for name, value, choices in (("dtype", dtype, BYTES), ("kind", kind, KINDS), ("stored", stored, STORED)):
        if value not in choices:
            raise CostError(f"unknown {name} {value!r}; choose from {', '.join(choices)}")
    for name, amount in {"n": n, "length": length, "steps": steps, "batch": batch}.items():
        if amount < 1:
            raise CostError(f"{name} is {amount}; it must be at least 1")
    shape = shape_of(config, network)
    deepest = _deepest(shape, hook_points, kind)
    tokens = n * steps * length
    multiplied = deepest * shape.block + (shape.head if kind == "denoise" else 0)
    flops = tokens * (2 * multiplied + 4 * deepest * shape.heads * length)
    memories = {name: _memory(shape, name, len(hook_points), length, batch, kind) for name in BYTES}
    gpus = tuple(_on_gpu(gpu, memories[dtype], batch, flops, dtype) for gpu in GPUS)
    return Cost(
        parameters=shape.parameters,
        active=shape.active,
        weights={name: memory.weights for name, memory in memories.items()},
        memory=memories[dtype],
        disk=tokens * len(hook_points) * shape.d_model * int(BYTES[stored]),
        flops=flops,
        gpus=gpus,
        instead=() if any(one.fits for one in gpus) else _instead(memories, dtype, batch),
    )


def _deepest(shape: NetworkShape, points: Sequence[HookPoint], kind: str) -> int:
    """Returns how many blocks a pass goes through."""
    layers = [shape.n_layers - 1 if point.layer is None else point.layer for point in points]
    if max(layers, default=0) >= shape.n_layers:
        raise CostError(f"a hook point is in block {max(layers)}; there are {shape.n_layers}, counted from 0")
    if kind == "denoise":
        return shape.n_layers
    if not layers:
        raise CostError("a harvest of no hook points; name at least one")
    return 1 + max(layers)


def _memory(shape: NetworkShape, dtype: str, points: int, length: int, batch: int, kind: str) -> Memory:
    """Returns what a pass holds, counted after the forward passes of the Hugging Face library."""
    each = 4 if dtype == "float32" else 2
    tokens, scores = batch * length, batch * shape.n_heads * length**2
    score_bytes = max(8 if shape.upcasts else 0, 2 * each)  # before and after the softmax, or before it and in it
    repeated = 2 * shape.heads if shape.key_heads < shape.heads else 0  # eager attention repeats keys and values for each query head
    return Memory(
        weights=round(shape.linear * BYTES[dtype] + (shape.parameters - shape.linear) * each),
        kept=points * tokens * shape.d_model * each,
        stream=(3 * shape.d_model + length) * tokens * each,
        attention=(shape.heads + 2 * shape.key_heads + repeated) * tokens * each + scores * score_bytes,
        mlp=(shape.mlp * tokens + scores) * each,
        logits=shape.vocab * tokens * READ_BYTES if kind == "denoise" else 0,
    )


def _on_gpu(gpu: Gpu, memory: Memory, batch: int, flops: int, dtype: str) -> OnGpu:
    """Returns how a plan goes on a GPU; all but the weights grows with the batch."""
    free = USABLE * gpu.memory - memory.weights
    most = max(0, int(free * batch // (memory.peak - memory.weights)))
    speed = gpu.float32 if dtype == "float32" else gpu.bfloat16
    return OnGpu(gpu.name, most >= batch, most, flops / (UTILISATION * speed) / 3600)


def _instead(memories: Mapping[str, Memory], asked: str, batch: int) -> tuple[Alternative, ...]:
    """Returns by dtype, from the one asked for to smaller ones, the smallest GPU that holds the batch, or the one that holds most of it."""
    found = []
    for dtype, memory in memories.items():
        if dtype != asked and memory.weights >= memories[asked].weights:
            continue
        places = [_on_gpu(gpu, memory, batch, 0, dtype) for gpu in GPUS]
        best = max(places, key=lambda place: min(place.most_batch, batch))  # of equals the first, the smallest
        if best.most_batch:
            found.append(Alternative(best.gpu, dtype, min(best.most_batch, batch)))
    return tuple(found)
