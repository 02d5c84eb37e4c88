"""The fastest schedule whose loads go on beside computing.

How much of a load's time counts depends on how many loads hide behind computing, which depends on the choices; the
simulated inference decides between what several shares of it and several numbers of places give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flexnn_ncnn.planning.candidates import Depths, Limits, Weights
from flexnn_ncnn.planning.knapsack import Selection, packed
from flexnn_ncnn.planning.outcome import schedule_of_selection
from flexnn_ncnn.planning.residency import select
from flexnn_ncnn.planning.schedule import Schedule, Workload
from flexnn_ncnn.planning.simulate import SLOWED_SHARE, Lanes

__all__ = ["DOUBT", "LOAD_WEIGHT", "TWO", "overlapped"]

# beside computing: places for loads, and how much of a load's time counts
TWO, _AND_SMALL = Lanes(2), (Lanes(2, 2, 0.5), Lanes(2, 2, 0.25))
LOAD_WEIGHT = 0.3
# more of a load is counted than may count in the end
DOUBT = 1.1


@dataclass(frozen=True, slots=True)
class _Way:
    """How to search.

    Attributes:
        level: among whose choices.
        lanes: with so many places for loads.
        load_weight: what a second of loading counts.
    """

    level: Workload
    lanes: Lanes
    load_weight: float = LOAD_WEIGHT

    @property
    def depths(self) -> Depths:
        """How many loads are in memory at once."""
        return Depths(heap=self.lanes.depth, raw=self.lanes.depth)


@dataclass(frozen=True, slots=True)
class _Found:
    """A schedule, how it was found, and the limits it keeps."""

    schedule: Schedule
    way: _Way
    limits: Limits


def overlapped(levels: Sequence[Workload], budget_bytes: int, base_bytes: int) -> Schedule | None:
    """The fastest schedule of some levels.

    Args:
        levels: the network with ever more layers joined to chains.
        budget_bytes: what inference may hold beyond the idle process.
        base_bytes: the part of it that no choice changes.
    """

    def better(best: _Found | None, way: _Way, more_bytes: int = 0, limits: Limits | None = None) -> _Found | None:
        beat_seconds = DOUBT * best.schedule.predicted_seconds if best else math.inf
        selection = _selected(way, budget_bytes - base_bytes + more_bytes, limits, beat_seconds)
        if selection is None:
            return best
        made = schedule_of_selection(way.level, budget_bytes, base_bytes, selection, way.depths, lanes=way.lanes)
        if made.predicted_peak_bytes > budget_bytes:
            return best
        if best is not None and best.schedule.predicted_seconds <= made.predicted_seconds:
            return best
        return _Found(made, way, selection.limits)

    best: _Found | None = None
    for level in levels:
        best = better(best, _Way(level, TWO))
    if best is None:
        return None
    for lanes in _AND_SMALL:
        best = better(best, replace(best.way, lanes=lanes)) or best
    best = better(best, replace(best.way, load_weight=_counted(best.schedule))) or best
    # places are not all as large as the largest load: what that leaves can be used
    left_bytes = budget_bytes - best.schedule.predicted_peak_bytes
    for limits in (None, best.limits):
        best = better(best, best.way, left_bytes, limits) or best
    return best.schedule


def _selected(way: _Way, memory_bytes: int, limits: Limits | None, beat_seconds: float) -> Selection | None:
    """The best choices; within given limits, where there are any."""
    candidates, weights = way.level.candidates, Weights(way.load_weight)
    if limits is None:
        return select(candidates, memory_bytes, depths=way.depths, weights=weights, beat_seconds=beat_seconds)
    found = packed(candidates, candidates.weighted(weights), limits, memory_bytes, way.depths)
    return found[1] if found else None


def _counted(decided: Schedule) -> float:
    """How much of a second of loading counted in the end."""
    made = [choice for choice in decided.chosen if choice is not None]
    load_seconds = sum(choice.load_seconds for choice in made)
    if not load_seconds:
        return LOAD_WEIGHT
    hidden_seconds = sum(choice.seconds for choice in made) - decided.predicted_seconds
    return min(1.0, max(SLOWED_SHARE, 1.0 - hidden_seconds / load_seconds))
