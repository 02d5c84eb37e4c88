"""A choice for every layer within limits: a knapsack with several choices per layer, filled greedily."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flexnn_ncnn.planning.candidates import Candidates, Depths, Floats, Indices, Limits

__all__ = ["Selection", "packed"]

_STEPS = 20
_TIMES = 3
# seconds for a byte: so much that only bytes count, and seconds where these are equal
_DEAREST = 1.0


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

    @property
    def limits(self) -> Limits:
        """What it really needs."""
        return Limits(self.arena_bytes, self.heap_bytes, self.raw_bytes)


def packed(
    candidates: Candidates,
    seconds: Floats,
    limits: Limits,
    memory: float,
    depths: Depths,
    *,
    spare: float = 0.0,
    beat_seconds: float = np.inf,
) -> tuple[float, Selection] | None:
    """The knapsack within limits, again with the limits that it really reaches: what they leave goes to weights.

    Args:
        candidates: the layers.
        seconds: what each choice counts.
        limits: what no layer may exceed.
        memory: for weights and limits.
        depths: how many loads may be in memory at once.
        spare: of the memory, what is left at first, for loads of weights that stay.
        beat_seconds: stop where nothing can be faster.

    Returns:
        What it counts, and the selection; None where none fits, or none is as fast as that.
    """
    best: tuple[float, Selection] | None = None
    room = memory - limits.total(depths) - spare
    for _ in range(_TIMES):
        times = np.where(candidates.within(limits, depths, spare), seconds, np.inf)
        chosen = _priced(candidates, times, room, beat_seconds)
        if chosen is None:
            break
        columns = _filled(candidates, times, chosen, room)
        value = float(seconds[candidates.row_of, columns].sum())
        selection = _selection(candidates, columns)
        loading = candidates.load[candidates.row_of, columns].max(initial=0.0)
        if selection.kept_bytes + loading > memory or value >= beat_seconds - 1e-12:
            break
        best = value, selection
        beat_seconds = value
        limits = selection.limits
        room = memory - limits.total(depths)
        spare = room - selection.kept_bytes
    return best


def _priced(candidates: Candidates, seconds: Floats, memory: float, beat_seconds: float) -> Indices | None:
    """Per row the best choice at the lowest price of a byte at which all kept bytes fit `memory`; the price is found as
    in `planning.prices`."""
    if memory < 0 or not np.isfinite(seconds).any(axis=1).all():
        return None

    def at(price: float) -> tuple[Indices, float, float]:
        """What is best, its seconds and its bytes."""
        cheapest: Indices = (seconds + price * candidates.kept).argmin(axis=1)
        taken = candidates.rows, cheapest
        return cheapest, float(seconds[taken] @ candidates.counts), float(candidates.kept[taken] @ candidates.counts)

    fast = at(0.0)
    if fast[1] >= beat_seconds:
        return None
    if fast[2] <= memory:
        return fast[0]
    small = at(_DEAREST)
    if small[2] > memory:
        return None
    for _ in range(_STEPS):
        price = (small[1] - fast[1]) / (fast[2] - small[2])
        found = at(price)
        if found[1] + price * (found[2] - memory) >= beat_seconds:
            return None
        if found[1] + price * found[2] >= (small[1] + price * small[2]) * (1 - 1e-9):
            break
        if found[2] <= memory:
            small = found
        else:
            fast = found
    return small[0]


def _filled(candidates: Candidates, seconds: Floats, chosen: Indices, memory: float) -> Indices:
    """Per layer a choice: what the price left over is spent on the exchanges that save most time per byte."""
    kept = candidates.kept
    # layers of a row differ only here: each may take its own step up
    result: Indices = chosen[candidates.row_of]
    left = memory - kept[candidates.row_of, result].sum()
    current = chosen.copy()
    waiting = candidates.counts.astype(int)
    more, gains = _exchanges(seconds, kept, seconds[candidates.rows, current], kept[candidates.rows, current])
    while len(waiting):
        gain = np.where(more <= left, gains, -np.inf)
        row, column = np.unravel_index(int(gain.argmax()), gain.shape)
        if gain[row, column] == -np.inf:
            break
        affordable = waiting[row] if more[row, column] <= 0 else int(left // more[row, column])
        members = np.flatnonzero((candidates.row_of == row) & (result == current[row]))[:affordable]
        result[members] = column
        left -= more[row, column] * len(members)
        if len(members) == waiting[row]:
            current[row] = column
            one = slice(row, row + 1)
            more[one], gains[one] = _exchanges(seconds[one], kept[one], seconds[row, column], kept[row, column])
        else:  # the others of the row stay where they are
            gains[row] = -np.inf
    return result


def _exchanges(seconds: Floats, kept: Floats, seconds_now: Floats, kept_now: Floats) -> tuple[Floats, Floats]:
    """For each choice the bytes it takes more than what is chosen now, and the seconds that it saves for each."""
    more = kept - np.reshape(kept_now, (-1, 1))
    saved = np.reshape(seconds_now, (-1, 1)) - seconds
    return more, np.where(saved > 1e-9, saved / np.maximum(more, 1.0), -np.inf)


def _selection(candidates: Candidates, columns: Indices) -> Selection:
    def take(matrix: Floats) -> Floats:
        taken: Floats = matrix[candidates.row_of, columns]
        return taken

    floor = candidates.floor
    return Selection(
        tuple(columns.tolist()),
        float(take(candidates.seconds).sum()),
        int(take(candidates.kept).sum()),
        int(max(floor.arena_bytes, take(candidates.arena).max(initial=0.0))),
        int(take(candidates.heap).max(initial=0.0)),
        int(max(floor.raw_bytes, take(candidates.raw).max(initial=0.0))),
    )
