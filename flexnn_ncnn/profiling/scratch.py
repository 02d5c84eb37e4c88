"""Where layers allocate while they are measured: as in a run, but with more room than any of them needs."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.runtime import native

__all__ = ["MeasuredScratch", "ScratchRegion"]

_MOST_BYTES = 1 << 34 if sys.maxsize > 1 << 32 else 1 << 28
_LEAST_BYTES = 1 << 24
# address space alone, whatever the system allows to be promised; not in every Python's mmap
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


@dataclass(slots=True)
class MeasuredScratch:
    """What was allocated within `ScratchRegion.watch`; filled in when that ends.

    Attributes:
        peak_bytes: the highest end of any block.
        events: +n for n bytes asked for, -n for their release, in order.
    """

    peak_bytes: int = 0
    events: tuple[int, ...] = ()


class ScratchRegion:
    """Address space for an allocator like the executor's; pages count from when they are touched, and then stay.

    Attributes:
        allocator: what to attach to an Option to compute with.
    """

    def __init__(self) -> None:
        self._memory = _address_space()
        self.allocator = native.ScratchAllocator(self._memory)
        self.allocator.use(0, self._memory.nbytes)

    @contextmanager
    def watch(self) -> Iterator[MeasuredScratch]:
        """Find out what layers allocate within the block, the region being empty when it begins."""
        found, events = MeasuredScratch(), list[int]()
        self.allocator.use(0, self._memory.nbytes)
        overflow_bytes = self.allocator.overflow_bytes
        self.allocator.events = events
        try:
            yield found
        finally:
            self.allocator.events = None
            beyond = self.allocator.overflow_bytes - overflow_bytes
            found.peak_bytes = self.allocator.peak_bytes + beyond
            found.events = tuple(events)


def _address_space() -> npt.NDArray[np.uint8]:
    """As much as the system gives, of which nothing is in memory yet."""
    size = _MOST_BYTES
    while True:
        try:
            pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
        except (OSError, ValueError, OverflowError):
            if size <= _LEAST_BYTES:
                raise
            size //= 2
            continue
        return np.frombuffer(pages, np.uint8)
