"""When each load begins and ends beside computing, and how long an inference takes in the long run.

Two timelines. Loads and computing take turns; or a thread loads ahead, where one can run beside computing: a load
begins when the one before it is done and the one `ahead` loads back was released, counted on from one inference to the
next, so the first weights of an inference come during the tail of the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flexnn_ncnn.records.plan import places_of

__all__ = [
    "HANDOVER_SECONDS",
    "SLOWED_SHARE",
    "Lanes",
    "Load",
    "Turn",
    "distances",
    "heap_bytes_of",
    "inference_seconds",
    "raw_bytes_of",
]

_INFERENCES = 3
# What a load that goes on beside computing costs that: they share caches and memory, which slows it for as long ...
SLOWED_SHARE = 0.15
# ... and one thread waits for the other, and for the interpreter lock.
HANDOVER_SECONDS = 100e-6


@dataclass(frozen=True, slots=True)
class Load:
    """Weights that are loaded together.

    Attributes:
        seconds: reading and transforming them.
        heap_bytes: heap that takes.
        raw_bytes: raw weights mapped meanwhile.
        stands: whether that is all it takes, and no layer is made.
        read_bytes: what is read for it.
    """

    seconds: float
    heap_bytes: int
    raw_bytes: int
    stands: bool = False
    read_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """One layer or slice computed.

    Attributes:
        seconds: computing it.
        load: what it needs loaded before, released after; None where it has no weights or they stay.
    """

    seconds: float
    load: Load | None = None

    @property
    def seconds_beside_load(self) -> float:
        """Computing it where its load went on beside computing."""
        assert self.load is not None
        return self.seconds + HANDOVER_SECONDS + SLOWED_SHARE * self.load.seconds


@dataclass(frozen=True, slots=True)
class Lanes:
    """Places for loads: so many loads are in memory at once.

    Attributes:
        large: places that any load fits.
        small: places for small ones.
        share: of the largest load, what is small.
    """

    large: int
    small: int = 0
    share: float = 0.0

    @property
    def depth(self) -> float:
        """How many times the largest load all places together hold."""
        return self.large + self.small * self.share


def distances(loads: Sequence[Load], lanes: Lanes) -> tuple[int, ...]:
    """How far ahead each load may go.

    Args:
        loads: of one inference, in order; they come around again and again.
        lanes: where they are put, each in the place of one before.

    Returns:
        Per load how many loads back the one lies whose place it takes; 1 is the one before.
    """
    heap_bytes = lanes.share * max((load.heap_bytes for load in loads), default=0)
    raw_bytes = lanes.share * max((load.raw_bytes for load in loads), default=0)
    counts, places = [0, 0], list[tuple[int, int]]()
    for load in loads:
        is_small = bool(lanes.small) and load.heap_bytes <= heap_bytes and load.raw_bytes <= raw_bytes
        places.append((is_small, counts[is_small] % (lanes.small if is_small else lanes.large)))
        counts[is_small] += 1
    last = {place: number - len(loads) for number, place in enumerate(places)}  # of the inference before
    found = []
    for number, place in enumerate(places):
        found.append(number - last[place])
        last[place] = number
    return tuple(found)


def heap_bytes_of(loads: Sequence[Load], ahead: Sequence[int]) -> int:
    """What all places come to hold: each as much as the loads that are put there need at most.

    Args:
        loads: of one inference.
        ahead: from `distances`.
    """
    most: dict[int, int] = {}
    for place, load in zip(places_of(ahead), loads, strict=True):
        most[place] = max(most.get(place, 0), load.heap_bytes)
    return sum(most.values())


def raw_bytes_of(loads: Sequence[Load], ahead: Sequence[int]) -> int:
    """Most raw weights that are mapped at once: of the load that begins, and of those before that are read in place.

    Args:
        loads: of one inference.
        ahead: from `distances`.
    """
    kept: dict[int, int] = {}
    most = 0
    for place, load in [*zip(places_of(ahead), loads, strict=True)] * 2:  # the second begins beside the first
        kept[place] = 0
        most = max(most, load.raw_bytes + sum(kept.values()))
        kept[place] = load.raw_bytes if load.stands else 0
    return most


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
            computed = max(computed, loaded) + turn.seconds_beside_load
            released.append(computed)
            number += 1
    return computed - begin
