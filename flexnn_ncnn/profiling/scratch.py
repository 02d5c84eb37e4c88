"""Where layers allocate while they are measured: as in a run, but with more room than any of them needs."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flexnn_ncnn.profiling.address_space import AddressSpace
from flexnn_ncnn.runtime import native

__all__ = ["MeasuredScratch", "ScratchRegion"]


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
        space: where it allocates.
        allocator: what to attach to an Option to compute with.
    """

    def __init__(self) -> None:
        self.space = AddressSpace()
        self.allocator = native.ScratchAllocator(self.space.memory)
        self.allocator.use(0, self.space.memory.nbytes)

    def give_back(self) -> None:
        """Give its memory back, if nothing is in use."""
        if not self.allocator.blocks_in_use:
            self.space.give_back(0, self.space.memory.nbytes)

    def warm(self, size_bytes: int) -> None:
        """Have so much of it in memory, if nothing is in use."""
        if not self.allocator.blocks_in_use:
            self.space.memory[: min(size_bytes, self.space.memory.nbytes) : mmap.PAGESIZE] = 0

    @contextmanager
    def watch(self) -> Iterator[MeasuredScratch]:
        """Find out what layers allocate within the block, the region being empty when it begins."""
        found, events = MeasuredScratch(), list[int]()
        self.allocator.use(0, self.space.memory.nbytes)
        overflow_bytes = self.allocator.overflow_bytes
        self.allocator.events = events
        try:
            yield found
        finally:
            self.allocator.events = None
            beyond = self.allocator.overflow_bytes - overflow_bytes
            found.peak_bytes = self.allocator.peak_bytes + beyond
            found.events = tuple(events)
