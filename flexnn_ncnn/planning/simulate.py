"""When each load begins and ends beside computing, and how long an inference takes in the long run.

Two timelines. The stock wheel loads and computes one after the other. Where the bindings let go of the interpreter
lock, a thread loads ahead: a load begins when the one before it is done and the one `ahead` loads back was released,
counted on from one inference to the next, so the first weights of an inference come during the tail of the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Load", "Turn", "distances", "inference_seconds"]

_INFERENCES = 3


@dataclass(frozen=True, slots=True)
class Load:
    """Weights that are loaded together.

    Attributes:
        seconds: reading and transforming them.
        heap_bytes: heap that takes.
        raw_bytes: raw weights mapped meanwhile.
        stands: whether that is all it takes, and no layer is made.
    """

    seconds: float
    heap_bytes: int
    raw_bytes: int
    stands: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """One layer or slice computed.

    Attributes:
        seconds: computing it.
        load: what it needs loaded before, released after; None where it has no weights or they stay.
    """

    seconds: float
    load: Load | None = None


def distances(loads: Sequence[Load], heap_bytes: int, raw_bytes: int) -> tuple[int, ...]:
    """How far ahead each load may go.

    Args:
        loads: of one inference, in order; they come around again and again.
        heap_bytes: what the heap of all that are in memory at once may sum up to.
        raw_bytes: likewise their mapped weights.

    Returns:
        Per load how many loads back the one lies whose release makes room for it; 1 is the one before. No set of loads
        that are in memory at once exceeds the limits, provided none does alone.
    """
    found = []
    for number in range(len(loads)):
        heap = raw = distance = 0
        while distance < len(loads):
            one = loads[number - distance]
            heap, raw = heap + one.heap_bytes, raw + one.raw_bytes
            if heap > heap_bytes or raw > raw_bytes:
                break
            distance += 1
        found.append(max(1, distance))
    return tuple(found)


def inference_seconds(turns: Sequence[Turn], ahead: Sequence[int]) -> float:
    """One inference in a row of many.

    Args:
        turns: in order.
        ahead: per load, from `distances`; empty for loads and computing one after the other.
    """
    if not ahead:
        return sum(turn.seconds + (turn.load.seconds if turn.load else 0.0) for turn in turns)
    released: list[float] = []
    loaded = computed = begin = 0.0
    for _ in range(_INFERENCES):
        begin = computed
        number = 0
        for turn in turns:
            if turn.load is None:
                computed += turn.seconds
                continue
            freed = len(released) - ahead[number]
            room = released[freed] if freed >= 0 else 0.0
            loaded = max(loaded, room) + turn.load.seconds
            computed = max(computed, loaded) + turn.seconds
            released.append(computed)
            number += 1
    return computed - begin
