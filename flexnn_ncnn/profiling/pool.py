"""Memory for blobs while a network is computed, like the executor's arena: in one piece, used again, in huge pages."""

from __future__ import annotations

import mmap
import weakref
from bisect import insort

from flexnn_ncnn.profiling.address_space import AddressSpace
from flexnn_ncnn.records.layout import OVERREAD_BYTES, BlobLayout, align_up
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.memory.blob_memory import Blob

__all__ = ["BlobPool"]

_ALIGNMENT_BYTES = 64


class BlobPool:
    """Gives every blob the first hole it fits into, for as long as something refers to the blob.

    Attributes:
        space: where the blobs lie.
    """

    def __init__(self) -> None:
        self.space = AddressSpace()
        self._used: list[tuple[int, int]] = []  # (begin, end), ascending

    def give_back(self) -> None:
        """Give the memory between blobs back."""
        begin = 0
        for used_begin, used_end in (*self._used, (self.space.memory.nbytes, 0)):
            self.space.give_back(begin, used_begin)
            begin = used_end

    def blob(self, layout: BlobLayout, allocator: native.ScratchAllocator | None = None) -> Blob:
        """A blob whose pages are in memory: a run must not pay for them, nor find all of them in a cache.

        Args:
            layout: of the blob.
            allocator: what layers that write to it allocate from, if anything.
        """
        size = align_up(layout.size_bytes + OVERREAD_BYTES, _ALIGNMENT_BYTES)
        begin = 0
        for used_begin, used_end in self._used:
            if used_begin - begin >= size:
                break
            begin = used_end
        place = begin, begin + size
        if place[1] > self.space.memory.nbytes:
            return Blob.alone(layout, allocator)
        insort(self._used, place)
        memory = self.space.memory[begin : begin + size]
        weakref.finalize(memory, self._used.remove, place)
        memory[:: mmap.PAGESIZE] = 0
        return Blob(memory, 0, layout, allocator)
