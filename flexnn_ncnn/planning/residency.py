"""Which way to run each layer so that all together are fastest within the memory there is.

Four things compete for it. Weights kept between inferences add up; the arena, the heap that loading takes and the raw
weights mapped meanwhile are as large as whichever layer needs most. One price per byte for all of them (Lagrange)
turns the choice into many small ones: at a price, each layer takes what is cheapest within the limits of the three,
and each limit is moved to where all together is cheapest. The limits met on the way to the price at which everything
fits are few; for each of them what is left is a knapsack with several choices per layer, filled greedily.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flexnn_ncnn.planning.candidates import (
    FORBIDDEN_SECONDS,
    Candidates,
    Depths,
    Floats,
    Indices,
    Limits,
    Tightest,
    Weights,
)

__all__ = ["Selection", "select", "smallest"]

_PRICE_STEPS = 14
# the limits that are moved, in order: which comes first decides which of several resting places is found
_ARENA_FIRST, _HEAP_FIRST, _RAW_FIRST = (0, 1, 2), (1, 2, 0), (2, 1, 0)
_KNAPSACK_STEPS = 20
_PRICE_SPAN = 1e4
_ROUNDS = 6
_FILLED = 5
_HOPES = 4
_LOAD_STEPS = 64
_NEVER_BYTES = 2**62
ONCE = Depths()
PLAIN = Weights()


@dataclass(frozen=True, slots=True)
class Selection:
    """A choice for every layer.

    Attributes:
        chosen: per layer the index of its choice.
        seconds: time of one inference, loads and computing one after the other.
        kept_bytes: weights kept between inferences.
        arena_bytes: blobs and scratch.
        heap_bytes: largest heap of any layer.
        raw_bytes: most raw weights mapped at once.
    """

    chosen: tuple[int, ...]
    seconds: float
    kept_bytes: int
    arena_bytes: int
    heap_bytes: int
    raw_bytes: int


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
    tightest = _tightest(candidates, depths)
    if tightest.limits is None or tightest.memory_bytes > memory_bytes:
        return None
    seconds = candidates.weighted(weights)
    price, ways = _ways(candidates, seconds, memory_bytes, depths, beat_seconds)
    best: tuple[float, Selection] | None = None
    filled = 0
    for _, limits in sorted(ways, key=lambda way: way[0]):
        found = _packed(candidates, seconds, limits, memory_bytes, depths)
        if found is None:
            continue
        best = found if best is None else min(best, found, key=lambda one: one[0])
        filled += 1
        if filled == _FILLED:
            break
    if best is None:
        best = _packed(candidates, seconds, tightest.limits, memory_bytes, depths, tightest.spare_bytes)
    for _ in range(0 if best is None else _ROUNDS):
        assert best is not None
        better = _neighbour(candidates, seconds, best, price, memory_bytes, depths)
        if better is None:
            break
        best = better
    return None if best is None else best[1]


def _neighbour(
    candidates: Candidates,
    seconds: Floats,
    best: tuple[float, Selection],
    price: float,
    memory: float,
    depths: Depths,
) -> tuple[float, Selection] | None:
    """A faster selection with one of the three limits elsewhere, if bounds leave hope for one and it is there."""
    value, selection = best
    limits = (selection.arena_bytes, selection.heap_bytes, selection.raw_bytes)
    cost = seconds + price * candidates.kept
    hopes: list[tuple[float, Limits]] = []
    for number, axis in enumerate(candidates.axes):
        others = sum(limits[i] * depths[i] for i in range(3) if i != number)
        free = memory - others - axis.levels * depths[number]
        bounds = axis.sums(_allowed_cost(candidates, cost, limits, number), candidates.counts) - price * free
        for at in bounds.argsort(kind="stable")[:_HOPES]:
            if bounds[at] < value - 1e-12 and free[at] >= 0 and axis.levels[at] != limits[number]:
                moved = [float(axis.levels[at]) if i == number else float(limits[i]) for i in range(3)]
                hopes.append((float(bounds[at]), Limits(*moved)))
    for _, hope in sorted(hopes, key=lambda one: one[0])[:_HOPES]:
        found = _packed(candidates, seconds, hope, memory, depths)
        if found is not None and found[0] < value - 1e-12:
            return found
    return None


def _allowed_cost(candidates: Candidates, cost: Floats, limits: Sequence[float], number: int) -> Floats:
    """The cost of choices that keep the limits other than `number`."""
    allowed = candidates.exists.copy()
    for other, axis in enumerate(candidates.axes):
        if other != number:
            allowed &= axis.needs <= limits[other]
    return np.where(allowed, cost, FORBIDDEN_SECONDS * 1e9)


def smallest(candidates: Candidates, depths: Depths = ONCE) -> tuple[int, int, bool]:
    """The least memory any selection needs.

    Returns:
        It, the index of the layer that sets the largest part of it (-1 where there is none), and whether that part is
        weights: otherwise it is blobs and scratch.
    """
    tightest = _tightest(candidates, depths)
    limits = tightest.limits
    if limits is None:
        return _NEVER_BYTES, 0, True
    if not len(candidates.row_of):
        return 0, -1, False
    loads = limits.heap_bytes + limits.raw_bytes
    weights_first = loads > limits.arena_bytes
    within = candidates.within(limits, depths, tightest.spare_bytes)
    kept = np.where(within, candidates.kept, np.inf).min(axis=1)
    if kept.max() > max(loads, limits.arena_bytes):  # no smaller way to run it: its weights stay
        return int(np.ceil(tightest.memory_bytes)), int(kept[candidates.row_of].argmax()), True
    needs = candidates.heap + candidates.raw if weights_first else candidates.arena
    needed = np.where(within, needs, np.inf).min(axis=1)
    return int(np.ceil(tightest.memory_bytes)), int(needed[candidates.row_of].argmax()), weights_first


def _tightest(candidates: Candidates, depths: Depths) -> Tightest:
    """What the selection that needs least memory needs."""
    if depths in candidates.tightest:
        return candidates.tightest[depths]
    arena, heap, raw = candidates.axes
    best = Tightest(None, 0.0, np.inf)
    for level in heap.levels:
        start = Limits(arena.levels[-1], float(level), raw.levels[-1])
        ways = [_descended(candidates, candidates.kept, start, order, 1.0, depths) for order in ((0, 2), (2, 0))]
        limits, value = min(ways, key=lambda way: way[1])
        if value < min(best.memory_bytes, FORBIDDEN_SECONDS * 1e6):
            best = min(best, _with_loads(candidates, limits, depths), key=lambda one: one.memory_bytes)
    candidates.tightest[depths] = best
    return best


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


def _ways(
    candidates: Candidates, seconds: Floats, memory: float, depths: Depths, beat_seconds: float
) -> tuple[float, list[tuple[float, Limits]]]:
    """The price at which everything fits, and limits worth filling, each with a bound below the time of any selection
    within them.
    """
    loosest = Limits(*(axis.levels[-1] for axis in candidates.axes))
    found: dict[Limits, float] = {}
    # what a byte would cost if all the memory were worth all the time, and much less and more
    usual = max(1e-12, float(seconds.max(axis=1, initial=0.0) @ candidates.counts)) / max(1.0, memory)
    low, high = usual / _PRICE_SPAN, usual * _PRICE_SPAN
    limits = loosest
    starts: list[tuple[Limits, Sequence[int]]] = []
    if len(_moving(candidates, _HEAP_FIRST)) > 1:  # else all ways there are one
        starts = [(loosest, _HEAP_FIRST), (loosest, _RAW_FIRST)]
    for _ in range(_PRICE_STEPS):
        price = (low * high) ** 0.5
        cost = seconds + price * candidates.kept
        options = [_descended(candidates, cost, *way, price, depths) for way in (*starts, (limits, _ARENA_FIRST))]
        limits, value = min(options, key=lambda option: option[1])
        bound = value - price * memory
        if bound > beat_seconds:
            return price, []
        found[limits] = max(bound, found.get(limits, -np.inf))
        chosen = np.where(candidates.fits(limits), cost, np.inf).argmin(axis=1)
        needed = candidates.kept[candidates.rows, chosen] @ candidates.counts + limits.total(depths)
        if needed <= memory:
            high = price
        else:
            low = price
    tightest = _tightest(candidates, depths).limits
    if tightest is not None:
        found.setdefault(tightest, np.inf)
    return high, [(bound, limits) for limits, bound in found.items()]


def _descended(
    candidates: Candidates, cost: Floats, limits: Limits, order: Sequence[int], price: float, depths: Depths
) -> tuple[Limits, float]:
    """Move one limit at a time, in this order, to where layers and limits together cost least, until none moves."""
    weights = [price * depth for depth in depths]
    current = [limits.arena_bytes, limits.heap_bytes, limits.raw_bytes]
    value = np.inf
    moving = _moving(candidates, order)
    for _ in range(_ROUNDS if len(moving) > 1 else 1):
        before = value
        for number in moving:
            axis = candidates.axes[number]
            totals = axis.sums(_allowed_cost(candidates, cost, current, number), candidates.counts)
            totals = totals + weights[number] * axis.levels
            at = int(totals.argmin())
            current[number] = float(axis.levels[at])
            value = float(totals[at]) + sum(weights[i] * current[i] for i in range(3) if i != number)
        if value >= before - 1e-15:
            break
    return Limits(*current), value


def _moving(candidates: Candidates, order: Sequence[int]) -> Sequence[int]:
    """The limits that can be elsewhere, in this order; one at least."""
    return [number for number in order if len(candidates.axes[number].levels) > 1] or order[:1]


def _packed(
    candidates: Candidates, seconds: Floats, limits: Limits, memory: float, depths: Depths, spare: float = 0.0
) -> tuple[float, Selection] | None:
    """The knapsack within limits, again with the limits that it really reaches: what they leave goes to weights.

    Of the memory, `spare` is left at first, and loads of weights that stay may use it.
    """
    best: tuple[float, Selection] | None = None
    room = memory - limits.total(depths) - spare
    for _ in range(3):
        times = np.where(candidates.within(limits, depths, spare), seconds, np.inf)
        chosen = _priced(candidates, times, room)
        if chosen is None:
            break
        columns = _filled(candidates, times, chosen, room)
        value = float(seconds[candidates.row_of, columns].sum())
        selection = _selection(candidates, columns)
        loading = candidates.load[candidates.row_of, columns].max(initial=0.0)
        if selection.kept_bytes + loading > memory or (best is not None and value >= best[0] - 1e-12):
            break
        best = value, selection
        limits = Limits(selection.arena_bytes, selection.heap_bytes, selection.raw_bytes)
        room = memory - limits.total(depths)
        spare = room - selection.kept_bytes
    return best


def _priced(candidates: Candidates, seconds: Floats, memory: float) -> Indices | None:
    """Per row the best choice at the lowest price of a byte at which all kept bytes fit `memory`."""
    kept = np.where(np.isfinite(seconds), candidates.kept, np.inf)
    least = kept.min(axis=1)
    if memory < 0 or not np.isfinite(least).all() or least @ candidates.counts > memory:
        return None

    priced = np.where(np.isfinite(kept), kept, 0.0)

    def at(price: float) -> tuple[Indices, bool]:
        cheapest: Indices = (seconds + price * priced).argmin(axis=1)
        return cheapest, bool(kept[candidates.rows, cheapest] @ candidates.counts <= memory)

    chosen, fits = at(0.0)
    low, high = 1e-15, 1.0
    best: Indices = chosen if fits else kept.argmin(axis=1)
    for _ in range(0 if fits else _KNAPSACK_STEPS):
        middle = (low * high) ** 0.5
        cheapest, fits = at(middle)
        if fits:
            high, best = middle, cheapest
        else:
            low = middle
    return best


def _filled(candidates: Candidates, seconds: Floats, chosen: Indices, memory: float) -> Indices:
    """Per layer a choice: what the price left over is spent on the exchanges that save most time per byte."""
    kept = np.where(np.isfinite(seconds), candidates.kept, np.inf)
    # layers of a row differ only here: each may take its own step up
    result: Indices = chosen[candidates.row_of]
    left = memory - kept[candidates.row_of, result].sum()
    current = chosen.copy()
    waiting = candidates.counts.astype(int)
    while len(waiting):
        now = seconds[candidates.rows, current][:, None]
        more = kept - kept[candidates.rows, current][:, None]
        saved = np.where(np.isfinite(seconds), now - np.where(np.isfinite(seconds), seconds, 0.0), 0.0)
        gain = np.where((more <= left) & (saved > 1e-9), saved / np.maximum(more, 1.0), -np.inf)
        row, column = np.unravel_index(int(gain.argmax()), gain.shape)
        if gain[row, column] == -np.inf:
            return result
        affordable = waiting[row] if more[row, column] <= 0 else int(left // more[row, column])
        members = np.flatnonzero((candidates.row_of == row) & (result == current[row]))[:affordable]
        result[members] = column
        left -= more[row, column] * len(members)
        if len(members) == waiting[row]:
            current[row] = column
        else:  # the others of the row stay where they are
            seconds = seconds.copy()
            seconds[row] = np.where(np.arange(seconds.shape[1]) == current[row], seconds[row], np.inf)
            kept = np.where(np.isfinite(seconds), kept, np.inf)
    return result


def _selection(candidates: Candidates, columns: Indices) -> Selection:
    def take(matrix: Floats) -> Floats:
        taken: Floats = matrix[candidates.row_of, columns]
        return taken

    floor = candidates.floor
    return Selection(
        tuple(int(column) for column in columns),
        float(take(candidates.seconds).sum()),
        int(take(candidates.kept).sum()),
        int(max(floor.arena_bytes, take(candidates.arena).max(initial=0.0))),
        int(take(candidates.heap).max(initial=0.0)),
        int(max(floor.raw_bytes, take(candidates.raw).max(initial=0.0))),
    )
