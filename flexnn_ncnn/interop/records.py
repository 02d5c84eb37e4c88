"""What FlexNN's files say, as records, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from param_tools.errors import FlexnnError

__all__ = [
    "KINDS",
    "MAX_BYTES",
    "OVERREAD_BYTES",
    "FlexnnPlan",
    "FlexnnProfile",
    "LayerTime",
    "MemoryObject",
    "PlacedObject",
    "check_limits",
    "layer_dependencies",
    "predicted_seconds",
]

KINDS = ("weight", "blob", "workspace")
"""FlexNN's memory types 0, 1 and 2."""
OVERREAD_BYTES = 64
"""What FlexNN's profiler adds to every size."""
MAX_BYTES = (1 << 31) - 1
"""The largest size or offset its int can hold."""

# What its packed keys can hold (flexnnschedule.h, MemoryProfile::memory_index).
_MAX_LAYERS, _MAX_OBJECTS = 1 << 14, 1 << 16


@dataclass(frozen=True, slots=True)
class MemoryObject:
    """One allocation of an inference.

    Attributes:
        kind: one of `KINDS`.
        begin, end: the layers it lives in, half-open.
        size_bytes: bytes asked for, with what kernels may read past the end.
    """

    kind: str
    begin: int
    end: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class LayerTime:
    """What loading and computing one layer takes, in seconds."""

    load_seconds: float
    compute_seconds: float


@dataclass(frozen=True, slots=True)
class FlexnnProfile:
    """A .memprof and a .timeprof.

    Attributes:
        objects: in the order they are allocated in.
        times: per layer.
    """

    objects: tuple[MemoryObject, ...]
    times: tuple[LayerTime, ...]


@dataclass(frozen=True, slots=True)
class PlacedObject:
    """An allocation with its place.

    Attributes:
        memory: the allocation.
        loads_at: layer from which on its place is taken; below `memory.begin` where it is loaded ahead.
        offset_bytes: from the begin of FlexNN's one buffer.
    """

    memory: MemoryObject
    loads_at: int
    offset_bytes: int


@dataclass(frozen=True, slots=True)
class FlexnnPlan:
    """A .malloc, a .dependency and a .layout.

    Attributes:
        placed: every allocation, by `loads_at`, then kind, then in the order they are allocated in.
        persistent: offsets of weights that are loaded once.
        dependencies: per layer how far loading may go once it is computed: the first layer not to load yet.
    """

    placed: tuple[PlacedObject, ...]
    persistent: tuple[int, ...]
    dependencies: tuple[int, ...]

    @property
    def peak_bytes(self) -> int:
        """The size FlexNN's buffer must have."""
        return max((one.offset_bytes + one.memory.size_bytes for one in self.placed), default=0)


def layer_dependencies(placed: Sequence[PlacedObject], layers: int) -> tuple[int, ...]:
    """The .dependency of a layout: when the loader may go on, as FlexNN's planner derives it.

    Layer 0 is the Input, whose turn lets layer 1 load.
    """
    allowed = [layers] * layers
    if layers:
        allowed[0] = min(2, layers)
    for one in placed:
        if one.memory.kind == "weight" and one.loads_at >= 2:
            allowed[one.loads_at - 2] = min(allowed[one.loads_at - 2], one.memory.begin)
    for layer in range(layers - 1, 0, -1):
        allowed[layer - 1] = min(allowed[layer - 1], allowed[layer])
    return tuple(allowed)


def predicted_seconds(times: Sequence[LayerTime], dependencies: Sequence[int]) -> float:
    """One inference with one loader and one computer side by side, each load begun when it is allowed.

    FlexNN's own figure is never larger: it lets a load begin before the layer that it waits for is done.

    Args:
        times: per layer.
        dependencies: per layer, from a plan.
    """
    layers = len(times)
    loaded, loader, computer = [0.0] * layers, 0.0, 0.0
    begin = 1
    for layer in range(layers):
        if layer:
            computer = max(loaded[layer], computer) + times[layer].compute_seconds
        for ahead in range(begin, min(dependencies[layer], layers)):
            loader = max(loader, computer) + times[ahead].load_seconds
            loaded[ahead] = loader
        begin = max(begin, dependencies[layer])
    return computer


def check_limits(objects: Sequence[MemoryObject], layers: int, error: type[FlexnnError]) -> None:
    """Refuses what FlexNN would silently take for something else.

    Args:
        objects: allocations.
        layers: how many there are.
        error: what to raise.
    """
    if layers > _MAX_LAYERS:
        raise error(f"FlexNN counts {_MAX_LAYERS} layers at most, not {layers}")
    for kind in KINDS:
        count = sum(one.kind == kind for one in objects)
        if count > _MAX_OBJECTS:
            raise error(f"FlexNN counts {_MAX_OBJECTS} {kind}s at most, not {count}")
    for one in objects:
        if one.size_bytes > MAX_BYTES:
            raise error(f"FlexNN's sizes end at 2 GiB, a {one.kind} has {one.size_bytes:,} bytes")
