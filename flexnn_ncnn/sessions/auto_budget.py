"""`budget="auto"`: the budget that the memory of this moment allows, shrinking at once and growing with patience."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from flexnn_ncnn.runtime.memory.memory_limits import MemoryState

__all__ = ["AutoBudget", "Situation", "budget_for", "level_at_most", "levels_below", "reserve_bytes"]

# Kept free for whatever else runs until the next look: a part of the limit, within bounds.
_RESERVED_PART, _LEAST_RESERVE_BYTES, _MOST_RESERVE_BYTES = 16, 4_000_000, 256_000_000
# Pressure makes the reserve larger, by its own size for every so many percent.
_DOUBLING_PERCENT, _MOST_PERCENT = 20.0, 60.0
# A budget grows when there is this much more than it needs, has been for a while, and nobody waits for memory.
_SPARE_FACTOR, _SETTLED_SECONDS, _CALM_PERCENT = 1.15, 10.0, 5.0
# Budgets are of few sizes, so that plans are found in the cache: five in each decade (Renard's numbers).
_LEVELS = (1_000_000, 1_600_000, 2_500_000, 4_000_000, 6_300_000)
_LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Situation:
    """What a decision depends on.

    Attributes:
        budget_bytes: the budget in force, 0 before the first.
        held_bytes: what is held between inferences because of it.
        memory: what the system leaves beside that.
        settled_seconds: since the budget last changed.
        needs_no_more: whether all weights are resident already.
        smallest_bytes: the smallest budget that works, where a refusal told it, else 0.
    """

    budget_bytes: int
    held_bytes: int
    memory: MemoryState
    settled_seconds: float = 0.0
    needs_no_more: bool = False
    smallest_bytes: int = 0


def budget_for(situation: Situation) -> int:
    """The budget to change to; the one in force where it is to stay.

    Never below the smallest budget that works, once one is in force: less memory than that cannot be had anyway.
    """
    memory, budget, smallest = situation.memory, situation.budget_bytes, situation.smallest_bytes
    room = situation.held_bytes + memory.available_bytes - reserve_bytes(memory)
    level = max(1, level_at_most(room))
    if not budget:
        return smallest if level < smallest <= room else level
    if room < budget:
        return min(max(level, smallest), budget)
    grown = level_at_most(int(room / _SPARE_FACTOR))
    calm = memory.pressure_percent < _CALM_PERCENT and situation.settled_seconds >= _SETTLED_SECONDS
    return grown if grown > budget and calm and not situation.needs_no_more else budget


def reserve_bytes(memory: MemoryState) -> int:
    """What is to stay free."""
    base = min(max(memory.limit_bytes // _RESERVED_PART, _LEAST_RESERVE_BYTES), _MOST_RESERVE_BYTES)
    return int(base * (1 + min(memory.pressure_percent, _MOST_PERCENT) / _DOUBLING_PERCENT))


def level_at_most(room_bytes: int) -> int:
    """The largest level within `room_bytes`, 0 below the smallest."""
    if room_bytes < _LEVELS[0]:
        return 0
    scale = 1
    while _LEVELS[0] * scale * 10 <= room_bytes:
        scale *= 10
    return max(level * scale for level in _LEVELS if level * scale <= room_bytes)


def levels_below(budget_bytes: int, count: int) -> list[int]:
    """The next `count` levels below a budget, downwards; fewer where there are no more."""
    found: list[int] = []
    while len(found) < count and (level := level_at_most(budget_bytes - 1)):
        found.append(level)
        budget_bytes = level
    return found


class AutoBudget:
    """Looks at the system now and then and says which budget to have.

    Args:
        read: tells the memory there is, None where the system does not.
        clock: seconds that only grow.

    Attributes:
        smallest_bytes: the smallest budget that works, once a refusal told it.
        spare_bytes: what was left at the last look beside the reserve.
    """

    def __init__(self, read: Callable[[], MemoryState | None], clock: Callable[[], float] = time.monotonic) -> None:
        self._read, self._clock = read, clock
        self.smallest_bytes = self.spare_bytes = 0
        self._looked = self._changed = float("-inf")
        self._budget_bytes = 0

    def wanted(self, budget_bytes: int, held_bytes: int, needs_no_more: bool) -> int:
        """The budget to have now; looks at the system at most every half second, else keeps `budget_bytes`.

        Args:
            budget_bytes: the budget in force, 0 before the first.
            held_bytes: what is held between inferences because of it.
            needs_no_more: whether all weights are resident already.
        """
        now = self._clock()
        if budget_bytes != self._budget_bytes:
            self._budget_bytes, self._changed = budget_bytes, now
        if budget_bytes and now - self._looked < _LOOK_SECONDS:
            return budget_bytes
        self._looked = now
        memory = self._read()
        if memory is None:
            return budget_bytes
        self.spare_bytes = memory.available_bytes - reserve_bytes(memory)
        settled = now - self._changed
        return budget_for(Situation(budget_bytes, held_bytes, memory, settled, needs_no_more, self.smallest_bytes))

    def postpone(self) -> None:
        """Grow no sooner than if the budget had changed now."""
        self._changed = self._clock()
