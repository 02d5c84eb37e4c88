"""The selection that needs least memory, however long it takes."""

from __future__ import annotations

import numpy as np

from flexnn_ncnn.planning.candidates import FORBIDDEN_SECONDS, Candidates, Depths, Limits, Tightest
from flexnn_ncnn.planning.prices import descended

__all__ = ["ONCE", "least_bytes", "smallest", "tightest"]

_LOAD_STEPS = 64
_NEVER_BYTES = 2**62
ONCE = Depths()


def smallest(candidates: Candidates, depths: Depths = ONCE) -> tuple[int, int, bool]:
    """The least memory any selection needs.

    Returns:
        It, the index of the layer that sets the largest part of it (-1 where there is none), and whether that part is
        weights: otherwise it is blobs and scratch.
    """
    found = tightest(candidates, depths)
    limits = found.limits
    if limits is None:
        return _NEVER_BYTES, 0, True
    if not len(candidates.row_of):
        return 0, -1, False
    loads = limits.heap_bytes + limits.raw_bytes
    weights_first = loads > limits.arena_bytes
    within = candidates.within(limits, depths, found.spare_bytes)
    kept = np.where(within, candidates.kept, np.inf).min(axis=1)
    if kept.max() > max(loads, limits.arena_bytes):  # no smaller way to run it: its weights stay
        return int(np.ceil(found.memory_bytes)), int(kept[candidates.row_of].argmax()), True
    needs = candidates.heap + candidates.raw if weights_first else candidates.arena
    needed = np.where(within, needs, np.inf).min(axis=1)
    return int(np.ceil(found.memory_bytes)), int(needed[candidates.row_of].argmax()), weights_first


def tightest(candidates: Candidates, depths: Depths) -> Tightest:
    """What the selection that needs least memory needs; found once."""
    if depths in candidates.tightest:
        return candidates.tightest[depths]
    arena, heap, raw = candidates.axes
    best = Tightest(None, 0.0, np.inf)
    besides = _least_besides_heap(candidates, depths)
    for level in heap.levels:
        if level < heap.least:
            continue
        if depths.heap * level + besides >= best.memory_bytes:
            break
        start = Limits(arena.levels[-1], float(level), raw.levels[-1])
        ways = [descended(candidates, candidates.kept, start, order, 1.0, depths) for order in ((0, 2), (2, 0))]
        limits, value = min(ways, key=lambda way: way[1])
        if value < min(best.memory_bytes, FORBIDDEN_SECONDS):
            best = min(best, _with_loads(candidates, limits, depths), key=lambda one: one.memory_bytes)
    candidates.tightest[depths] = best
    return best


def least_bytes(candidates: Candidates, depths: Depths) -> float:
    """What every selection needs at least: less than that is not worth a search."""
    return _least_besides_heap(candidates, depths) + depths.heap * candidates.axes[1].least


def _least_besides_heap(candidates: Candidates, depths: Depths) -> float:
    """What weights, arena and mapped weights together come to at least, however much heap there is."""
    arena, _, raw = candidates.axes
    kept = np.where(candidates.exists, candidates.kept, FORBIDDEN_SECONDS)
    by_arena = arena.sums(kept, candidates.counts) + depths.arena * arena.levels
    by_raw = raw.sums(kept, candidates.counts) + depths.raw * raw.levels
    return max(float(by_arena.min()) + depths.raw * raw.least, float(by_raw.min()) + depths.arena * arena.least)


def _with_loads(candidates: Candidates, limits: Limits, depths: Depths) -> Tightest:
    """The least memory within limits when loading weights that stay counts too, before there is anything else."""
    total = limits.total(depths)
    fits = candidates.fits(limits)
    excess = np.unique(np.append(0.0, np.maximum(0.0, candidates.load[fits] - total)))
    best = Tightest(None, 0.0, np.inf)
    for spare in excess[:_LOAD_STEPS]:
        kept = np.where(candidates.within(limits, depths, float(spare)), candidates.kept, np.inf).min(axis=1)
        needed = total + float(spare) + float(kept @ candidates.counts)
        if needed < best.memory_bytes:
            best = Tightest(limits, float(spare), needed)
    return best
