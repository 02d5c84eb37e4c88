"""Address space for more than is ever needed: only what is touched is in memory."""

from __future__ import annotations

import mmap
import sys
from contextlib import suppress

import numpy as np

from flexnn_ncnn.records.layout import align_up

__all__ = ["AddressSpace"]

_MOST_BYTES = 1 << 34 if sys.maxsize > 1 << 32 else 1 << 28
_LEAST_BYTES = 1 << 24
# address space alone, whatever the system allows to be promised; not in every Python's mmap
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class AddressSpace:
    """As much as the system gives.

    Attributes:
        memory: all of it, as bytes; zeros until it is written.
    """

    def __init__(self) -> None:
        self._pages = _mapped()
        self.memory = np.frombuffer(self._pages, np.uint8)

    def renew(self, *, huge: bool = True) -> None:
        """Give all pages back, and ask for huge ones from now on if wanted, as the executor's arena has them."""
        with suppress(OSError, AttributeError):
            self._pages.madvise(mmap.MADV_DONTNEED)
            if huge:
                self._pages.madvise(mmap.MADV_HUGEPAGE)

    def give_back(self, begin_bytes: int, end_bytes: int) -> None:
        """Give the pages that lie whole within a range back; they are zeros then."""
        begin = align_up(begin_bytes, mmap.PAGESIZE)
        size = min(end_bytes, self.memory.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - begin
        if size > 0:
            with suppress(OSError, AttributeError):
                self._pages.madvise(mmap.MADV_DONTNEED, begin, size)


def _mapped() -> mmap.mmap:
    size = _MOST_BYTES
    while True:
        try:
            return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
        except (OSError, ValueError, OverflowError):
            if size <= _LEAST_BYTES:
                raise
            size //= 2
