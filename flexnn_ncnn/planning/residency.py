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
from flexnn_ncnn.planning.prices import Way, allowed_cost, bound_seconds, priced_ways
from flexnn_ncnn.planning.tightest import ONCE, least_bytes, tightest

__all__ = ["ONCE", "Selection", "select"]

_ROUNDS = 6
_HOPES = 12
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
    """A faster selection with limits elsewhere, if bounds leave hope for one and it is there."""
    value, selection = best
    enough = value * (1.0 - _WORTH)
    cost = seconds + price * candidates.kept
    for elsewhere in (_one_moved, _several_raised):
        hopes = elsewhere(candidates, cost, selection, price, memory, depths)
        for way in sorted(hopes, key=lambda way: way.bound_seconds)[:_HOPES]:
            if way.bound_seconds >= enough:
                break
            found = packed(candidates, seconds, way.limits, memory, depths, beat_seconds=enough)
            if found is not None:
                return found
    return None


def _one_moved(
    candidates: Candidates, cost: Floats, selection: Selection, price: float, memory: float, depths: Depths
) -> list[Way]:
    """One of the three limits elsewhere."""
    limits = (selection.arena_bytes, selection.heap_bytes, selection.raw_bytes)
    ways: list[Way] = []
    for number, axis in enumerate(candidates.axes):
        others = sum(limits[i] * depths[i] for i in range(3) if i != number)
        free = memory - others - axis.levels * depths[number]
        bounds = axis.sums(allowed_cost(candidates, cost, limits, number), candidates.counts) - price * free
        for at in bounds.argsort(kind="stable")[:_HOPES]:
            if free[at] >= 0 and axis.levels[at] != limits[number]:
                moved = [float(axis.levels[at]) if i == number else float(limits[i]) for i in range(3)]
                ways.append(Way(float(bounds[at]), Limits(*moved)))
    return ways


def _several_raised(
    candidates: Candidates, cost: Floats, selection: Selection, price: float, memory: float, depths: Depths
) -> list[Way]:
    """As many limits raised together as the one choice needs that saves most: more heap often maps more weights too."""
    limits = (selection.arena_bytes, selection.heap_bytes, selection.raw_bytes)
    now = np.full(len(cost), -np.inf)
    np.maximum.at(now, candidates.row_of, cost[candidates.row_of, selection.chosen])
    raised = [np.maximum(axis.needs, limit) for axis, limit in zip(candidates.axes, limits, strict=True)]
    totals: Floats = np.tensordot(depths, raised, axes=1)
    saved = now[:, None] - cost - price * (totals - selection.limits.total(depths))
    saved[~candidates.exists | candidates.fits(selection.limits) | (totals > memory)] = -np.inf
    if not np.isfinite(saved).any():
        return []
    most = int(saved.argmax())
    reached = Limits(*(float(needs.flat[most]) for needs in raised))
    return [Way(bound_seconds(candidates, cost, reached, price, memory, depths), reached)]
