"""Which way to run each layer so that all together are fastest within the memory there is.

Three things compete for it: weights kept between inferences (they add up), and the heap and the mapped raw weights
of whichever layer needs most (they do not). For every pair of limits on the latter two, what is left is a knapsack
with several choices per layer, solved by pricing bytes (Lagrange) and filling the rest greedily.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.planning.choices import Choice

__all__ = ["Selection", "select", "smallest"]

_HEAP_LEVELS, _RAW_LEVELS = 24, 16
_PRICE_STEPS = 28

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
    """All choices as padded matrices: one row per layer."""

    def __init__(self, layers: Sequence[Sequence[Choice]]) -> None:
        width = max(map(len, layers), default=1)

        def matrix(name: str) -> _Floats:
            rows = np.full((len(layers), width), np.inf)
            for row, found in zip(rows, layers, strict=True):
                row[: len(found)] = [getattr(choice, name) for choice in found]
            return rows

        self.seconds, self.kept = matrix("seconds"), matrix("kept_bytes")
        self.heap, self.raw, self.load = matrix("heap_bytes"), matrix("raw_bytes"), matrix("load_bytes")
        self.rows = np.arange(len(layers))

    def least_raw(self, floor: float) -> tuple[_Floats, _Floats]:
        """Every limit on the heap, ascending, and the least limit on raw weights that works with it."""
        heaps = np.unique(self.heap[np.isfinite(self.heap)])
        streamed = np.where(self.kept == 0, self.raw, np.inf)
        raws = [np.where(self.heap <= heap, streamed, np.inf).min(axis=1).max() for heap in heaps]
        return heaps, np.maximum(raws, floor)

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
    best: tuple[float, npt.NDArray[np.intp]] | None = None
    heaps, raws = table.least_raw(result_bytes)
    usable = heaps + raws <= memory_bytes
    for heap, least_raw in _thinned(np.stack([heaps, raws], axis=1)[usable], _HEAP_LEVELS):
        levels = np.unique(table.raw[np.isfinite(table.raw)])
        levels = levels[(levels > least_raw) & (levels <= memory_bytes - heap)]
        for raw in (least_raw, *_thinned(levels, _RAW_LEVELS)):
            seconds = table.within(heap, raw, heap + raw + arena_bytes)
            chosen = _knapsack(table, seconds, memory_bytes - heap - raw)
            if chosen is not None:
                total = float(seconds[table.rows, chosen].sum())
                if best is None or total < best[0] - 1e-12:
                    best = total, chosen
    return None if best is None else _selection(table, best[1], result_bytes)


def smallest(layers: Sequence[Sequence[Choice]], result_bytes: int) -> tuple[int, int]:
    """The least memory any selection needs, and the index of the layer that sets it."""
    if not layers:
        return 0, -1
    table = _Table(layers)
    heaps, raws = table.least_raw(result_bytes)
    total = np.where(table.kept == 0, table.heap + table.raw, np.inf)
    return int((heaps + raws).min()), int(total.min(axis=1).argmax())


def _thinned(values: _Floats, count: int) -> _Floats:
    """At most `count` of the values, evenly in rank, the first and the last among them."""
    if len(values) <= count:
        return values
    ranks: npt.NDArray[np.intp] = np.unique(np.linspace(0, len(values) - 1, count).round().astype(int))
    thinned: _Floats = values[ranks]
    return thinned


def _knapsack(table: _Table, seconds: _Floats, memory: float) -> npt.NDArray[np.intp] | None:
    """Per row the choice that is fastest in sum while the kept bytes fit `memory`."""
    usable = np.isfinite(seconds)
    kept = np.where(usable, table.kept, np.inf)
    least = np.where(usable, kept, np.inf).min(axis=1)
    if memory < 0 or not np.isfinite(least).all() or least.sum() > memory:
        return None

    def priced(price: float) -> npt.NDArray[np.intp]:
        cost = np.where(usable, seconds + price * np.where(usable, kept, 0), np.inf)
        cheapest: npt.NDArray[np.intp] = cost.argmin(axis=1)
        return cheapest

    chosen = priced(0.0)
    if kept[table.rows, chosen].sum() > memory:
        low, high = 1e-15, 1.0  # seconds per byte
        for _ in range(_PRICE_STEPS):
            middle = (low * high) ** 0.5
            if kept[table.rows, priced(middle)].sum() > memory:
                low = middle
            else:
                high = middle
        chosen = priced(high)
    _fill(table, seconds, kept, chosen, memory)
    return chosen


def _fill(table: _Table, seconds: _Floats, kept: _Floats, chosen: npt.NDArray[np.intp], memory: float) -> None:
    """Spend what the price left over on the exchanges that save most time per byte."""
    for _ in range(len(chosen)):
        left = memory - kept[table.rows, chosen].sum()
        more = kept - kept[table.rows, chosen][:, None]
        saved = np.where(np.isfinite(seconds), seconds[table.rows, chosen][:, None] - seconds, 0.0)
        gain = np.where((more <= left) & (saved > 1e-9), saved / np.maximum(more, 1.0), -np.inf)
        row, column = np.unravel_index(int(gain.argmax()), gain.shape)
        if gain[row, column] == -np.inf:
            return
        chosen[row] = column


def _selection(table: _Table, chosen: npt.NDArray[np.intp], result_bytes: int) -> Selection:
    def take(matrix: _Floats) -> _Floats:
        return matrix[table.rows, chosen]

    return Selection(
        tuple(int(i) for i in chosen),
        float(take(table.seconds).sum()),
        int(take(table.kept).sum()),
        int(take(table.heap).max()),
        max(int(take(table.raw).max()), result_bytes),
    )
