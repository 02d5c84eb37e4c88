"""Layer streaming as it is done without a planner: each layer loaded whole, computed and released."""

from __future__ import annotations

from flexnn_ncnn.planning.choices import Choice, whole_layer
from flexnn_ncnn.planning.planner import Schedule, Workload

__all__ = ["on_demand"]


def on_demand(work: Workload, base_bytes: int) -> Schedule:
    """Every layer as stock ncnn would compute it, none of its weights kept.

    Args:
        work: of a network whose layers are not joined to chains.
        base_bytes: code pages and Python objects.

    Returns:
        A schedule whose budget is what it needs.
    """
    chosen: list[Choice | None] = [
        whole_layer(layer, work.profile.read_seconds_per_byte) if layer.kernels else None
        for layer in work.profile.layers
    ]
    made = [choice for choice in chosen if choice is not None]
    offsets = tuple(gaps[-1][0] if choice else 0 for gaps, choice in zip(work.gaps, chosen, strict=True))
    tops = [offset + choice.scratch_bytes for offset, choice in zip(offsets, chosen, strict=True) if choice]
    arena_bytes = max([work.blob_bytes, *tops])
    heap_bytes = max((choice.heap_bytes for choice in made), default=0)
    raw_bytes = max((choice.raw_bytes for choice in made), default=0)
    peak_bytes = base_bytes + arena_bytes + heap_bytes + raw_bytes
    return Schedule(
        workload=work,
        budget_bytes=peak_bytes,
        chosen=tuple(chosen),
        scratch_offsets=offsets,
        arena_bytes=arena_bytes,
        predicted_peak_bytes=peak_bytes,
        predicted_seconds=sum(choice.seconds for choice in made),
        kept_bytes=0,
        heap_bytes=heap_bytes,
        raw_bytes=raw_bytes,
    )
