"""Which way to run each layer so that all together are fastest within the memory there is.

Four things compete for it. Weights kept between inferences add up; the arena, the heap that loading takes and the raw
weights mapped meanwhile are as large as whichever layer needs most. The limits of these three that are met on the way
to the price at which everything fits are few (`planning.prices`); for the most promising of them what is left is a
knapsack (`planning.knapsack`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flexnn_ncnn.planning.candidates import Candidates, Depths, Floats, Limits, Weights
from flexnn_ncnn.planning.knapsack import Selection, packed
from flexnn_ncnn.planning.prices import Way, allowed_cost, priced_ways
from flexnn_ncnn.planning.tightest import ONCE, least_bytes, tightest

__all__ = ["ONCE", "Selection", "select"]

_ROUNDS = 6
_HOPES = 8
# of the time: less is not worth looking for
_WORTH = 1e-6
PLAIN = Weights()

Found = tuple[float, Selection]


def select(
    candidates: Candidates,
    memory_bytes: float,
    *,
    depths: Depths = ONCE,
    weights: Weights = PLAIN,
    beat_seconds: float = np.inf,
) -> Selection | None:
    """The fastest selection that fits `memory_bytes`, or None.

    Args:
        candidates: the layers.
        memory_bytes: what is left for weights, blobs, scratch and loads.
        depths: how many loads may be in memory at once.
        weights: what counts how much.
        beat_seconds: stop early where nothing can be faster (in weighted time).
    """
    if least_bytes(candidates, depths) > memory_bytes:
        return None
    seconds = candidates.weighted(weights)
    prices = priced_ways(candidates, seconds, memory_bytes, depths, beat_seconds)
    if prices is None:
        return None
    best = _best(candidates, seconds, prices.ways, memory_bytes, depths)
    if best is None:
        least = tightest(candidates, depths)
        if least.limits is None or least.memory_bytes > memory_bytes:
            return None
        best = packed(candidates, seconds, least.limits, memory_bytes, depths, spare=least.spare_bytes)
    for _ in range(0 if best is None else _ROUNDS):
        assert best is not None
        better = _neighbour(candidates, seconds, best, prices.price, memory_bytes, depths)
        if better is None:
            break
        best = better
    return None if best is None else best[1]


def _best(
    candidates: Candidates, seconds: Floats, ways: Sequence[Way], memory_bytes: float, depths: Depths
) -> Found | None:
    """The best of what limits give, those left out whose bounds leave no hope."""
    best: Found | None = None
    for way in ways:
        if best is not None and way.bound_seconds >= best[0]:
            break
        beat_seconds = np.inf if best is None else best[0]
        found = packed(
            candidates, seconds, way.limits, memory_bytes, depths, spare=way.spare_bytes, beat_seconds=beat_seconds
        )
        best = found or best
    return best


def _neighbour(
    candidates: Candidates, seconds: Floats, best: Found, price: float, memory: float, depths: Depths
) -> Found | None:
    """A faster selection with one of the three limits elsewhere, if bounds leave hope for one and it is there."""
    value, selection = best
    enough = value * (1.0 - _WORTH)
    limits = (selection.arena_bytes, selection.heap_bytes, selection.raw_bytes)
    cost = seconds + price * candidates.kept
    hopes: list[tuple[float, Limits]] = []
    for number, axis in enumerate(candidates.axes):
        others = sum(limits[i] * depths[i] for i in range(3) if i != number)
        free = memory - others - axis.levels * depths[number]
        bounds = axis.sums(allowed_cost(candidates, cost, limits, number), candidates.counts) - price * free
        for at in bounds.argsort(kind="stable")[:_HOPES]:
            if bounds[at] < enough and free[at] >= 0 and axis.levels[at] != limits[number]:
                moved = [float(axis.levels[at]) if i == number else float(limits[i]) for i in range(3)]
                hopes.append((float(bounds[at]), Limits(*moved)))
    for _, hope in sorted(hopes, key=lambda one: one[0])[:_HOPES]:
        found = packed(candidates, seconds, hope, memory, depths, beat_seconds=enough)
        if found is not None:
            return found
    return None
