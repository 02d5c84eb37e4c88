"""Memory of our own, in huge pages where the system has them."""

from __future__ import annotations

import mmap
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["anonymous_pages"]

_HUGE_PAGE_SIZE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")


def anonymous_pages(size_bytes: int) -> npt.NDArray[np.uint8]:
    """Zeroed memory that begins at a page, counted in the resident set as it is touched.

    Huge pages within it are asked for: a device reads into one of 2 MiB in one go, where it is told every small page
    by itself, which halves the speed of fast storage and costs five times the processor time. No more is held than
    asked for. At least one more byte than `size_bytes`, to the end of a page, can be read.
    """
    huge = _huge_page_bytes()
    spare = huge if size_bytes >= huge else 0  # address space to begin at a huge page; not touched, not held
    pages = mmap.mmap(-1, size_bytes + spare + mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = np.frombuffer(pages, np.uint8)
    begin = -int(whole.ctypes.data) % huge if spare else 0
    if spare:
        with suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE, begin, size_bytes // huge * huge)
    return whole[begin : begin + size_bytes]


@cache
def _huge_page_bytes() -> int:
    """0 where there are none."""
    try:
        return int(_HUGE_PAGE_SIZE.read_text()) if hasattr(mmap, "MADV_HUGEPAGE") else 0
    except (OSError, ValueError):
        return 0
