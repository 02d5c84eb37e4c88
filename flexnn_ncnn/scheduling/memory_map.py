"""What lies where in memory during which step: a schedule as rectangles, to be drawn."""

from __future__ import annotations

from dataclasses import dataclass

from flexnn_ncnn.planning.planner import Schedule
from flexnn_ncnn.scheduling.forecast import MemoryShares, layer_forecasts, memory_shares

__all__ = ["MapBlob", "MemoryMap", "memory_map"]


@dataclass(frozen=True, slots=True)
class MapBlob:
    """A placement in the arena.

    Attributes:
        blob: its name; "name@step" for a copy in another layout.
        is_copy: whether it is such a copy.
        begin, end: the steps it exists in, half-open.
        offset_bytes: from the arena's begin.
        size_bytes: bytes it takes.
        is_scratch: whether it is no blob but what a layer allocates from while it computes.
    """

    blob: str
    is_copy: bool
    begin: int
    end: int
    offset_bytes: int
    size_bytes: int
    is_scratch: bool = False


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """All memory of one inference.

    Attributes:
        budget_bytes: the budget.
        memory: what the peak is made of.
        layers: name of the layer of each step.
        blobs: the arena's contents.
        heap_bytes: per step the heap it needs.
        mapped_bytes: per step the raw weights mapped.
    """

    budget_bytes: int
    memory: MemoryShares
    layers: tuple[str, ...]
    blobs: tuple[MapBlob, ...]
    heap_bytes: tuple[int, ...]
    mapped_bytes: tuple[int, ...]


def memory_map(decided: Schedule, base_bytes: int) -> MemoryMap:
    """The memory of a schedule.

    Args:
        decided: a schedule.
        base_bytes: what it was made with.
    """
    work = decided.workload
    layers = layer_forecasts(decided)
    return MemoryMap(
        budget_bytes=decided.budget_bytes,
        memory=memory_shares(decided, base_bytes),
        layers=tuple(layer.name for layer in layers),
        blobs=(
            *(
                MapBlob(buffer.blob, "@" in buffer.blob, buffer.begin, buffer.end, offset, buffer.size_bytes)
                for buffer, offset in zip(work.blobs.buffers, work.offsets, strict=True)
            ),
            *(
                MapBlob("", False, step, step + 1, offset, choice.scratch_bytes, True)
                for step, (choice, offset) in enumerate(zip(decided.chosen, decided.scratch_offsets, strict=True))
                if choice is not None and choice.scratch_bytes
            ),
        ),
        heap_bytes=tuple(layer.heap_bytes for layer in layers),
        mapped_bytes=tuple(layer.mapped_bytes for layer in layers),
    )
