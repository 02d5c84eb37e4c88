"""What memory is worth: one price for every byte turns the choice for all layers into many small ones.

At a price, each layer takes what costs least within three limits, and each limit is moved to where layers and limits
together cost least. What that takes in seconds over what it takes in bytes is a corner of a convex hull; the price at
which everything fits belongs to the edge of the hull that crosses the memory there is. A line through a corner on each
side of that memory has a slope, which is the next price to try, until no corner lies below the line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from flexnn_ncnn.planning.candidates import FORBIDDEN_SECONDS, Candidates, Depths, Floats, Limits

__all__ = ["Prices", "Way", "allowed_cost", "bound_seconds", "descended", "priced_ways"]

# seconds for a byte: so much that only bytes count
_DEAREST = 1e-3
_STEPS = 14
_ROUNDS = 6
# of the time: a better bound is not worth looking for
_NEAR = 1e-3
# the limits that are moved, in order: which comes first decides which of several resting places is found
_ARENA_FIRST, _RAW_FIRST = (0, 1, 2), (2, 0, 1)


@dataclass(frozen=True, slots=True)
class Corner:
    """What costs least at some price.

    Attributes:
        limits: within which all layers take what costs least.
        seconds: of all layers.
        memory_bytes: limits and weights that stay.
    """

    limits: Limits
    seconds: float
    memory_bytes: float

    def cost(self, price: float) -> float:
        """Seconds, and memory at this price."""
        return self.seconds + price * self.memory_bytes


@dataclass(frozen=True, slots=True)
class Way:
    """Limits worth filling.

    Attributes:
        bound_seconds: no selection within them is faster.
        limits: these.
        spare_bytes: of the memory, what is left beside them and all the weights that stay.
    """

    bound_seconds: float
    limits: Limits
    spare_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Prices:
    """What the search for the price comes to.

    Attributes:
        price: at which everything fits, in seconds per byte.
        ways: limits met on the way to it, the most promising first.
    """

    price: float
    ways: tuple[Way, ...]


def priced_ways(
    candidates: Candidates, seconds: Floats, memory_bytes: float, depths: Depths, beat_seconds: float
) -> Prices | None:
    """The price at which everything fits, and the limits met on the way to it.

    Args:
        candidates: the layers.
        seconds: what each choice counts.
        memory_bytes: what is left for weights and limits.
        depths: how many loads may be in memory at once.
        beat_seconds: stop where nothing can be faster.

    Returns:
        None where nothing is as fast; no ways where nothing fits.
    """
    fast = _corner(candidates, seconds, 0.0, depths)
    if fast.seconds > beat_seconds:
        return None
    if fast.memory_bytes <= memory_bytes:
        return Prices(0.0, (Way(fast.seconds, fast.limits, memory_bytes - fast.memory_bytes),))
    small = _corner(candidates, seconds, _DEAREST, depths)
    if small.memory_bytes > memory_bytes:
        return Prices(_DEAREST, ())
    found = dict.fromkeys((small.limits, fast.limits))
    for _ in range(_STEPS):
        price = (small.seconds - fast.seconds) / (fast.memory_bytes - small.memory_bytes)
        corner = _corner(candidates, seconds, price, depths)
        bound = corner.cost(price) - price * memory_bytes
        if bound > beat_seconds:
            return None
        found[corner.limits] = None
        if small.cost(price) - corner.cost(price) <= _NEAR * bound:
            break
        if corner.memory_bytes <= memory_bytes:
            small = corner
        else:
            fast = corner
    cost = seconds + price * candidates.kept
    ways = [Way(bound_seconds(candidates, cost, limits, price, memory_bytes, depths), limits) for limits in found]
    return Prices(price, tuple(sorted(ways, key=lambda way: way.bound_seconds)))


def bound_seconds(
    candidates: Candidates, cost: Floats, limits: Limits, price: float, memory_bytes: float, depths: Depths
) -> float:
    """What no selection within limits is faster than."""
    least = np.where(candidates.fits(limits), cost, FORBIDDEN_SECONDS).min(axis=1)
    return float(least @ candidates.counts) + price * (limits.total(depths) - memory_bytes)


def _corner(candidates: Candidates, seconds: Floats, price: float, depths: Depths) -> Corner:
    """What costs least at a price."""
    cost = seconds + price * candidates.kept
    loosest = Limits(*(axis.levels[-1] for axis in candidates.axes))
    starts = (loosest, _ARENA_FIRST), (_with_loads_as_one(candidates, cost, price, depths), _RAW_FIRST)
    limits, _ = min((descended(candidates, cost, *start, price, depths) for start in starts), key=lambda way: way[1])
    chosen = np.where(candidates.fits(limits), cost, np.inf).argmin(axis=1)
    taken = candidates.rows, chosen
    memory_bytes = candidates.kept[taken] @ candidates.counts + limits.total(depths)
    return Corner(limits, float(seconds[taken] @ candidates.counts), float(memory_bytes))


def _with_loads_as_one(candidates: Candidates, cost: Floats, price: float, depths: Depths) -> Limits:
    """Where one limit for heap and mapped weights together, in place of two, costs least.

    Loads in smaller parts need less of both, so that one limit that waits for the other does not move.
    """
    loads = candidates.loads
    sums = loads.sums(np.where(candidates.exists, cost, FORBIDDEN_SECONDS), candidates.counts)
    at = int((sums + price * depths.heap * loads.levels).argmin())
    within = candidates.exists & (loads.needs <= loads.levels[at])
    taken = candidates.rows, np.where(within, cost, np.inf).argmin(axis=1)
    heap_bytes, raw_bytes = (float(needs[taken].max(initial=0.0)) for needs in (candidates.heap, candidates.raw))
    return Limits(candidates.axes[0].levels[-1], heap_bytes, max(raw_bytes, candidates.floor.raw_bytes))


def descended(
    candidates: Candidates, cost: Floats, limits: Limits, order: Sequence[int], price: float, depths: Depths
) -> tuple[Limits, float]:
    """Move one limit at a time, in this order, to where layers and limits together cost least, until none moves."""
    current = [limits.arena_bytes, limits.heap_bytes, limits.raw_bytes]
    moving = _moving(candidates, order)
    settled, layers_cost = 0, 0.0
    for number in islice(cycle(moving), _ROUNDS * len(moving)):
        axis = candidates.axes[number]
        sums = axis.sums(allowed_cost(candidates, cost, current, number), candidates.counts)
        at = int((sums + price * depths[number] * axis.levels).argmin())
        layers_cost = float(sums[at])
        settled = settled + 1 if axis.levels[at] == current[number] else 1
        current[number] = float(axis.levels[at])
        if settled == len(moving):
            break
    found = Limits(*current)
    return found, layers_cost + price * found.total(depths)


def _moving(candidates: Candidates, order: Sequence[int]) -> Sequence[int]:
    """The limits that can be elsewhere, in this order; one at least."""
    return [number for number in order if len(candidates.axes[number].levels) > 1] or order[:1]


def allowed_cost(candidates: Candidates, cost: Floats, limits: Sequence[float], number: int) -> Floats:
    """The cost of choices that keep the limits other than `number`."""
    one, other = (axis.needs <= limits[i] for i, axis in enumerate(candidates.axes) if i != number)
    return np.where(one & other & candidates.exists, cost, FORBIDDEN_SECONDS)
