"""Memory that a plan gives back within an inference: before steps that use other memory than those before."""

from __future__ import annotations

import mmap
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.records.layout import OVERREAD_BYTES
from flexnn_ncnn.records.plan import Plan
from flexnn_ncnn.runtime.memory import heap
from flexnn_ncnn.runtime.memory.code_pages import forget_code
from flexnn_ncnn.runtime.memory.pages import anonymous_pages, release_pages

__all__ = ["arena_pages", "free_ranges", "returning"]


def arena_pages(plan: Plan) -> npt.NDArray[np.uint8]:
    """Memory for the arena of a plan."""
    in_parts = any(step.returns_arena for step in plan.steps)
    return anonymous_pages(plan.arena_bytes + OVERREAD_BYTES, huge=not in_parts)


def free_ranges(plan: Plan, number: int) -> tuple[tuple[int, int], ...]:
    """The parts of the arena, in bytes, that step `number` neither reads nor writes, nor any later one reads."""
    step = plan.steps[number]
    used = [
        (place.offset_bytes, place.offset_bytes + place.size_bytes + OVERREAD_BYTES)
        for place in plan.placements
        if place.begin <= number < place.end
    ]
    used.append((step.scratch_offset_bytes, step.scratch_offset_bytes + step.scratch_bytes))
    found, free_from = [], 0
    for begin, end in sorted(used):
        if begin > free_from:
            found.append((free_from, begin))
        free_from = max(free_from, end)
    return (*found, (free_from, plan.arena_bytes)) if free_from < plan.arena_bytes else tuple(found)


def returning(plan: Plan, number: int, arena: npt.NDArray[np.uint8]) -> Callable[[], None] | None:
    """What gives memory back before step `number`; None where it gives nothing."""
    step = plan.steps[number]
    ranges = free_ranges(plan, number) if step.returns_arena else ()
    if not ranges and not step.returns_heap:
        return None

    def give_back() -> None:
        for begin, end in ranges:
            release_pages(arena, begin, end, mmap.PAGESIZE)
        if step.returns_heap:
            heap.trim()
        forget_code()  # of the layers before

    return give_back
