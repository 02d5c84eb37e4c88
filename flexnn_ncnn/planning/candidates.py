"""All ways to run all layers as matrices, and the limits that they are compared by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.planning.choices import Choice, staged

__all__ = [
    "FORBIDDEN_SECONDS",
    "Axis",
    "Candidates",
    "Depths",
    "Floats",
    "Indices",
    "Limits",
    "Row",
    "Tightest",
    "Weights",
]

# far more than any price makes of bytes
FORBIDDEN_SECONDS = 1e18
_MOST_LEVELS = 64
_COLUMNS = (
    "seconds",
    "load_seconds",
    "kept_bytes",
    "objects_bytes",
    "heap_bytes",
    "raw_bytes",
    "load_bytes",
    "read_bytes",
)

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Row:
    """One layer.

    Attributes:
        choices: the ways to run it.
        hole_bytes: the largest part of the arena between blobs that is free while it runs.
        above_bytes: where the last blob ends that exists then: scratch that fits no hole begins there.
    """

    choices: tuple[Choice, ...]
    hole_bytes: int = 0
    above_bytes: int = 0

    def arena_bytes(self, choice: Choice) -> int:
        """How large the arena must be for a choice."""
        fits = choice.scratch_bytes <= self.hole_bytes
        return self.above_bytes + (0 if fits else choice.scratch_bytes)

    def staged(self, arena_bytes: int) -> Row:
        """The same with weights read to the scratch, where an arena of `arena_bytes` or what there is has room."""

        def best(choice: Choice) -> Choice:
            read_to = staged(choice)
            return read_to if self.arena_bytes(read_to) <= max(arena_bytes, self.arena_bytes(choice)) else choice

        return replace(self, choices=tuple(map(best, self.choices)))


@dataclass(frozen=True, slots=True)
class Limits:
    """What no layer may exceed, in bytes.

    Attributes:
        arena_bytes: blobs and scratch.
        heap_bytes: heap that loading takes.
        raw_bytes: raw weights mapped at once.
    """

    arena_bytes: float
    heap_bytes: float
    raw_bytes: float

    def total(self, depths: Depths) -> float:
        """Memory they stand for when so many are there at once."""
        return depths.arena * self.arena_bytes + depths.heap * self.heap_bytes + depths.raw * self.raw_bytes


class Depths(NamedTuple):
    """How many times each limit is in memory at once.

    Attributes:
        arena: once.
        heap: loads.
        raw: raw weights of loads.
    """

    arena: float = 1
    heap: float = 1
    raw: float = 1


class Tightest(NamedTuple):
    """What the selection that needs least memory needs.

    Attributes:
        limits: its limits; None where no selection exists.
        spare_bytes: what loading the weights that stay needs beyond the limits.
        memory_bytes: limits, that and the weights that stay together.
    """

    limits: Limits | None
    spare_bytes: float
    memory_bytes: float


class Weights(NamedTuple):
    """What counts how much.

    Attributes:
        load: a second of loading, less than 1 where loads happen beside computing.
        seconds: a second of loading, so counted, and of computing.
        seconds_per_read_byte: a byte read in each inference, where reading happens beside both.
        least_seconds_per_read_byte: the same where no layer takes less than what it reads.
    """

    load: float = 1.0
    seconds: float = 1.0
    seconds_per_read_byte: float = 0.0
    least_seconds_per_read_byte: float = 0.0


class Candidates:
    """All choices as padded matrices, one row for all layers that are alike; the same for every budget.

    Args:
        rows: the layers.
        arena_bytes: what blobs alone take.
        result_bytes: what the caller gets, made when no raw weights are mapped any more.
    """

    def __init__(self, rows: Sequence[Row], arena_bytes: int, result_bytes: int) -> None:
        self.floor = Limits(float(arena_bytes), 0.0, float(result_bytes))
        groups: dict[Row, int] = {}
        self.row_of = np.array([groups.setdefault(row, len(groups)) for row in rows], dtype=np.intp)
        self.counts = np.bincount(self.row_of, minlength=len(groups)).astype(np.float64)
        width = max((len(row.choices) for row in groups), default=1)
        self.exists = np.zeros((len(groups), width), dtype=bool)
        columns = {name: np.zeros(self.exists.shape) for name in _COLUMNS}
        self.arena = np.zeros(self.exists.shape)
        for number, row in enumerate(groups):
            used = slice(0, len(row.choices))
            self.exists[number, used] = True
            self.arena[number, used] = [max(arena_bytes, row.arena_bytes(choice)) for choice in row.choices]
            for name, values in columns.items():
                values[number, used] = [getattr(choice, name) for choice in row.choices]
        self.seconds, self.load_seconds = columns["seconds"], columns["load_seconds"]
        self.kept = columns["kept_bytes"] + columns["objects_bytes"]
        self.heap, self.raw, self.load = (columns[n] for n in ("heap_bytes", "raw_bytes", "load_bytes"))
        self.read = columns["read_bytes"]
        self.rows = np.arange(len(self.exists))
        # per number of loads at once: found once
        self.tightest: dict[Depths, Tightest] = {}
        self.axes = (
            Axis(self.arena, self.exists, self.floor.arena_bytes),
            Axis(self.heap, self.exists, self.floor.heap_bytes),
            Axis(self.raw, self.exists, self.floor.raw_bytes),
        )
        self.loads = Axis(self.heap + self.raw, self.exists, self.floor.heap_bytes + self.floor.raw_bytes)

    def fits(self, limits: Limits) -> npt.NDArray[np.bool_]:
        """The choices inside the limits."""
        small = (self.arena <= limits.arena_bytes) & (self.heap <= limits.heap_bytes) & (self.raw <= limits.raw_bytes)
        allowed: npt.NDArray[np.bool_] = self.exists & small
        return allowed

    def within(self, limits: Limits, depths: Depths, spare_bytes: float = 0.0) -> npt.NDArray[np.bool_]:
        """Those that can be loaded too: resident weights are, when only they and the spare are in use."""
        return self.fits(limits) & (self.load <= limits.total(depths) + spare_bytes)

    def weighted(self, weights: Weights) -> Floats:
        """What choices cost in seconds."""
        seconds: Floats = self.seconds - (1.0 - weights.load) * self.load_seconds
        weighted: Floats = weights.seconds * seconds + weights.seconds_per_read_byte * self.read
        return np.maximum(weighted, weights.least_seconds_per_read_byte * self.read)


class Axis:
    """One limit: its levels, and every row's choices in the order in which it lets them in."""

    def __init__(self, needs: Floats, exists: npt.NDArray[np.bool_], floor: float) -> None:
        every = np.unique(np.append(needs[exists], floor))
        every = every[every >= floor]
        ranks = np.unique(np.linspace(0, len(every) - 1, _MOST_LEVELS).round().astype(int))
        self.needs, self.levels = needs, every[ranks]
        # what every selection needs
        self.least = max(floor, float(np.where(exists, needs, np.inf).min(axis=1).max(initial=0.0)))
        order = np.where(exists, needs, np.inf).argsort(axis=1, kind="stable")
        ordered = np.take_along_axis(np.where(exists, needs, np.inf), order, axis=1)
        rows, width = needs.shape
        # in the flattened matrix
        self._order = order + np.arange(rows)[:, None] * width
        # per row and level the last choice let in, after one column for none
        self._last = np.zeros((rows, len(self.levels)), dtype=np.intp)
        for number, row in enumerate(ordered):
            self._last[number] = np.searchsorted(row, self.levels, side="right") + number * (width + 1)
        self._least = np.full((rows, width + 1), FORBIDDEN_SECONDS)

    def sums(self, cost: Floats, counts: Floats) -> Floats:
        """Per level the sum over all layers of the least cost that the level lets in."""
        np.minimum.accumulate(cost.ravel().take(self._order), axis=1, out=self._least[:, 1:])
        total: Floats = counts @ self._least.ravel().take(self._last)
        return total
