"""Which way to run each layer so that all together are fastest within the memory there is.

Three things compete for it: weights kept between inferences (they add up), and the heap and the mapped raw weights
of whichever layer needs most (they do not). For every pair of limits on the latter two, what is left is a knapsack
with several choices per layer, solved by pricing bytes (Lagrange) and filling the rest greedily.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.planning.choices import Choice

__all__ = ["Selection", "select", "smallest"]

_HEAP_LEVELS, _RAW_LEVELS = 24, 16
_PRICE_STEPS = 28
_NEVER_BYTES = 2**62
_FILLED = 6
_TIGHTENED = 4

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Selection:
    """A choice for every layer.

    Attributes:
        chosen: per layer the index of its choice.
        seconds: time of one inference.
        kept_bytes: weights kept between inferences.
        heap_bytes: largest heap of any layer.
        raw_bytes: most raw weights mapped at once.
    """

    chosen: tuple[int, ...]
    seconds: float
    kept_bytes: int
    heap_bytes: int
    raw_bytes: int


class _Table:
    """All choices as padded matrices, one row for all layers with the same choices."""

    def __init__(self, layers: Sequence[Sequence[Choice]]) -> None:
        groups: dict[tuple[Choice, ...], int] = {}
        self.row_of = np.array([groups.setdefault(tuple(found), len(groups)) for found in layers])
        self.counts = np.bincount(self.row_of).astype(np.float64)
        width = max(map(len, groups))

        def matrix(name: str) -> _Floats:
            rows = np.full((len(groups), width), np.inf)
            for row, found in zip(rows, groups, strict=True):
                row[: len(found)] = [getattr(choice, name) for choice in found]
            return rows

        self.seconds, self.kept = matrix("seconds"), matrix("kept_bytes")
        self.heap, self.raw, self.load = matrix("heap_bytes"), matrix("raw_bytes"), matrix("load_bytes")
        self.rows = np.arange(len(groups))

    def least_raw(self, floor: float) -> tuple[_Floats, _Floats]:
        """Every limit on the heap, ascending, and the least limit on raw weights that works with it."""
        heaps = np.unique(self.heap[np.isfinite(self.heap)])
        streamed = np.where(self.kept == 0, self.raw, np.inf)
        least = np.full(len(heaps), floor)
        for heap, raw in zip(self.heap, streamed, strict=True):
            order = heap.argsort(kind="stable")
            best = np.concatenate([[np.inf], np.minimum.accumulate(raw[order])])
            least = np.maximum(least, best[np.searchsorted(heap[order], heaps, side="right")])
        return heaps, least

    def within(self, heap: float, raw: float, load: float) -> _Floats:
        """Times of the choices inside the limits, infinite for the others."""
        return np.where((self.heap <= heap) & (self.raw <= raw) & (self.load <= load), self.seconds, np.inf)


def select(
    layers: Sequence[Sequence[Choice]], memory_bytes: int, arena_bytes: int, result_bytes: int
) -> Selection | None:
    """The fastest selection whose kept weights, heap and raw weights fit `memory_bytes`, or None.

    Args:
        layers: per layer its choices.
        memory_bytes: what is left for weights and heap beside the arena.
        arena_bytes: the arena is not in use while resident weights are loaded, so loading may use as much.
        result_bytes: what the caller gets, made when no raw weights are mapped any more.
    """
    if not layers:
        return Selection((), 0.0, 0, 0, 0) if memory_bytes >= 0 else None
    table = _Table(layers)
    priced: list[tuple[float, int, _Floats, npt.NDArray[np.intp], float]] = []
    for heap, raw in _limits(table, memory_bytes, result_bytes):
        seconds = table.within(heap, raw, heap + raw + arena_bytes)
        chosen = _priced(table, seconds, memory_bytes - heap - raw)
        if chosen is not None:
            total = float(seconds[table.rows, chosen] @ table.counts)
            priced.append((total, len(priced), seconds, chosen, memory_bytes - heap - raw))
    # what the price leaves over is worth little: only the best are worth filling
    best: Selection | None = None
    for _, _, seconds, chosen, memory in sorted(priced, key=lambda one: one[:2])[:_FILLED]:
        found = _selection(table, _filled(table, seconds, chosen, memory), result_bytes)
        for _ in range(_TIGHTENED):
            tighter = _tightened(table, found, memory_bytes, arena_bytes, result_bytes)
            if tighter is None or tighter.seconds >= found.seconds - 1e-12:
                break
            found = tighter
        if best is None or found.seconds < best.seconds - 1e-12:
            best = found
    return best


def _tightened(
    table: _Table, found: Selection, memory_bytes: int, arena_bytes: int, result_bytes: int
) -> Selection | None:
    """The selection again with the limits that it really reaches: what they leave over goes to weights."""
    heap, raw = found.heap_bytes, found.raw_bytes
    memory = memory_bytes - heap - raw
    seconds = table.within(heap, raw, heap + raw + arena_bytes)
    chosen = _priced(table, seconds, memory)
    return None if chosen is None else _selection(table, _filled(table, seconds, chosen, memory), result_bytes)


def smallest(layers: Sequence[Sequence[Choice]], result_bytes: int) -> tuple[int, int]:
    """The least memory any selection needs, and the index of the layer that sets it."""
    if not layers:
        return 0, -1
    table = _Table(layers)
    heaps, raws = table.least_raw(result_bytes)
    needed = np.where(table.kept == 0, table.heap + table.raw, np.inf).min(axis=1)
    least = (heaps + raws).min()
    return int(least) if np.isfinite(least) else _NEVER_BYTES, int(needed[table.row_of].argmax())


def _limits(table: _Table, memory: float, floor: float) -> Iterator[tuple[float, float]]:
    """Pairs of limits on heap and raw weights worth trying; the tightest is always among them."""
    heaps, raws = table.least_raw(floor)
    usable = heaps + raws <= memory
    pairs = np.stack([heaps, raws], axis=1)[usable]
    if not len(pairs):
        return
    tightest = pairs[pairs.sum(axis=1).argmin()]
    levels = np.unique(table.raw[np.isfinite(table.raw)])
    for heap, least in (tightest, *_thinned(pairs, _HEAP_LEVELS)):
        yield heap, least
        for raw in _thinned(levels[(levels > least) & (levels <= memory - heap)], _RAW_LEVELS):
            yield heap, raw


def _thinned(values: _Floats, count: int) -> _Floats:
    """At most `count` of the values, evenly in rank, the first and the last among them."""
    if len(values) <= count:
        return values
    ranks: npt.NDArray[np.intp] = np.unique(np.linspace(0, len(values) - 1, count).round().astype(int))
    thinned: _Floats = values[ranks]
    return thinned


def _priced(table: _Table, seconds: _Floats, memory: float) -> npt.NDArray[np.intp] | None:
    """Per row the best choice at the lowest price of a byte at which all kept bytes fit `memory`."""
    kept = np.where(np.isfinite(seconds), table.kept, np.inf)
    least = kept.min(axis=1)
    if memory < 0 or not np.isfinite(least).all() or least @ table.counts > memory:
        return None

    def at(price: float) -> tuple[npt.NDArray[np.intp], bool]:
        cheapest: npt.NDArray[np.intp] = (seconds + price * kept).argmin(axis=1)
        return cheapest, bool(kept[table.rows, cheapest] @ table.counts <= memory)

    chosen, fits = at(0.0 if np.isfinite(kept).all() else 1e-300)
    low, high = 1e-15, 1.0  # seconds per byte
    for _ in range(0 if fits else _PRICE_STEPS):
        middle = (low * high) ** 0.5
        cheapest, fits = at(middle)
        if fits:
            high, chosen = middle, cheapest
        else:
            low = middle
    if not fits and kept[table.rows, chosen] @ table.counts > memory:
        chosen = kept.argmin(axis=1)
    return chosen


def _filled(table: _Table, seconds: _Floats, chosen: npt.NDArray[np.intp], memory: float) -> npt.NDArray[np.intp]:
    """Per layer a choice: what the price left over is spent on the exchanges that save most time per byte."""
    kept = np.where(np.isfinite(seconds), table.kept, np.inf)
    # layers of a row differ only here: each may take its own step up
    result: npt.NDArray[np.intp] = chosen[table.row_of]
    left = memory - kept[table.row_of, result].sum()
    current = chosen.copy()
    waiting = table.counts.astype(int)
    while True:
        more = kept - kept[table.rows, current][:, None]
        saved = np.where(np.isfinite(seconds), seconds[table.rows, current][:, None] - seconds, 0.0)
        gain = np.where((more <= left) & (saved > 1e-9), saved / np.maximum(more, 1.0), -np.inf)
        row, column = np.unravel_index(int(gain.argmax()), gain.shape)
        if gain[row, column] == -np.inf:
            return result
        affordable = waiting[row] if more[row, column] <= 0 else int(left // more[row, column])
        members = np.flatnonzero((table.row_of == row) & (result == current[row]))[:affordable]
        result[members] = column
        left -= more[row, column] * len(members)
        if len(members) == waiting[row]:
            current[row] = column
        else:  # the others of the row stay where they are
            seconds = seconds.copy()
            seconds[row] = np.where(np.arange(seconds.shape[1]) == current[row], seconds[row], np.inf)
            kept = np.where(np.isfinite(seconds), kept, np.inf)


def _selection(table: _Table, chosen: npt.NDArray[np.intp], result_bytes: int) -> Selection:
    def take(matrix: _Floats) -> _Floats:
        taken: _Floats = matrix[table.row_of, chosen]
        return taken

    return Selection(
        tuple(int(i) for i in chosen),
        float(take(table.seconds).sum()),
        int(take(table.kept).sum()),
        int(take(table.heap).max()),
        max(int(take(table.raw).max()), result_bytes),
    )
