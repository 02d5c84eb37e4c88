"""Offsets for buffers in one arena (two-dimensional packing: steps by bytes)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flexnn_ncnn.planning.problem import Buffer, live_bytes

__all__ = ["free_gaps", "hole_and_end", "offset_in", "place", "taken_ranges"]

_Order = Callable[[Buffer], tuple[int, ...]]

# Greedy placement is as good as the order it takes; these between them meet the lower bound on most networks.
_ORDERS: tuple[_Order, ...] = (
    lambda b: (-b.size_bytes, b.begin),
    lambda b: (-(b.end - b.begin), -b.size_bytes, b.begin),
    lambda b: (-b.size_bytes * (b.end - b.begin), b.begin),
    lambda b: (b.begin, -b.size_bytes),
)
# orders tried for each of them until one does
_TRIES = 8


def place(buffers: Sequence[Buffer]) -> tuple[tuple[int, ...], int]:
    """Give every buffer an offset so that no two that exist at once overlap.

    Args:
        buffers: sizes are multiples of the alignment.

    Returns:
        Offsets in the order of `buffers`, and the arena's size in bytes. Deterministic.
    """
    if not buffers:
        return (), 0
    least = max(live_bytes(buffers, max(buffer.end for buffer in buffers)))
    best: tuple[tuple[int, ...], int] = (), -1
    for key in _ORDERS:
        order = _by(key, buffers)
        for _ in range(_TRIES):
            offsets, size = _placed(buffers, order)
            if best[1] < 0 or size < best[1]:
                best = offsets, size
            if size == least:
                return best
            # the buffer that ends last comes first, and finds room where others have less to lose
            _, highest = max((offset + buffers[i].size_bytes, i) for i, offset in enumerate(offsets))
            if highest == order[0]:
                break
            order.remove(highest)
            order.insert(0, highest)
    return best


def free_gaps(buffers: Sequence[Buffer], offsets: Sequence[int], steps: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Per step the byte ranges that no buffer has, in order; the last is open, told as (begin, begin)."""
    live: list[list[tuple[int, int]]] = [[] for _ in range(steps)]
    for buffer, offset in zip(buffers, offsets, strict=True):
        for step in range(buffer.begin, min(buffer.end, steps)):
            live[step].append((offset, offset + buffer.size_bytes))
    return tuple(_gaps(sorted(taken)) for taken in live)


def taken_ranges(gaps: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """What lies between the gaps of a step: its buffers, neighbours joined."""
    begins = [0, *(end for _, end in gaps[:-1])]
    return [(begin, end) for begin, (end, _) in zip(begins, gaps, strict=True) if end > begin]


def _gaps(taken: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    gaps, free_from = [], 0
    for begin, end in taken:
        if begin > free_from:
            gaps.append((free_from, begin))
        free_from = max(free_from, end)
    return (*gaps, (free_from, free_from))


def _by(key: _Order, buffers: Sequence[Buffer]) -> list[int]:
    return sorted(range(len(buffers)), key=lambda index: (*key(buffers[index]), index))


def _placed(buffers: Sequence[Buffer], order: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Each in turn where it fits best: offsets, and the size of all."""
    offsets = [0] * len(buffers)
    placed: list[int] = []
    size = 0
    for index in order:
        buffer = buffers[index]
        taken = sorted(
            (offsets[other], offsets[other] + buffers[other].size_bytes)
            for other in placed
            if buffers[other].begin < buffer.end and buffer.begin < buffers[other].end
        )
        offsets[index] = _best_gap(taken, buffer.size_bytes)
        size = max(size, offsets[index] + buffer.size_bytes)
        placed.append(index)
    return tuple(offsets), size


def _best_gap(taken: Sequence[tuple[int, int]], size: int) -> int:
    """The smallest hole that fits, or the end."""
    best_offset, best_slack, free_from = -1, -1, 0
    for begin, end in taken:
        slack = begin - free_from - size
        if slack >= 0 and (best_offset < 0 or slack < best_slack):
            best_offset, best_slack = free_from, slack
        free_from = max(free_from, end)
    return best_offset if best_offset >= 0 else free_from


def hole_and_end(gaps: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """The largest hole between blobs, and where the last blob ends."""
    *holes, (last, _) = gaps
    return max((end - begin for begin, end in holes), default=0), last


def offset_in(gaps: tuple[tuple[int, int], ...], size_bytes: int) -> int:
    """Where so much scratch lies: in the smallest hole that fits, or after the last blob."""
    *holes, (last, _) = gaps
    fitting = [(end - begin, begin) for begin, end in holes if end - begin >= size_bytes]
    return min(fitting)[1] if fitting and size_bytes else last if size_bytes else 0
