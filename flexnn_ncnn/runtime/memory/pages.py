"""Memory of our own, in huge pages where the system has them; what to tell the system about any pages."""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MADVISE", "anonymous_pages", "mapped_pages", "release_pages"]

SMALLEST_RELEASE_BYTES = 1024 * 1024
_HUGE_PAGE_SIZE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")


_Address, _Size, _Int = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


def _system_call(names: tuple[str, ...], result: Any, *arguments: Any) -> Any:
    """A function of the C library, called without the interpreter lock; None where there is none of these names."""
    for name in names:
        try:
            call = getattr(ctypes.CDLL(None, use_errno=True), name)
        except (OSError, TypeError, AttributeError):
            continue
        call.restype, call.argtypes = result, arguments
        return call
    return None


MADVISE = _system_call(("madvise",), _Int, _Address, _Size, _Int)
"""The system's madvise(address, size, advice), for pages that are no Python mmap; None where there is none."""

# the first is where an offset may be too small otherwise
_MMAP = _system_call(("mmap64", "mmap"), _Address, _Address, _Size, _Int, _Int, _Int, ctypes.c_longlong)
_MUNMAP = _system_call(("munmap",), _Int, _Address, _Size)
_MAP_FAILED = ctypes.c_void_p(-1).value


class _Mapping:
    """Pages of a file, unmapped when nobody has them any more."""

    __slots__ = ("_address", "_size_bytes")

    def __init__(self, address: int, size_bytes: int) -> None:
        self._address, self._size_bytes = address, size_bytes

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"data": (self._address, True), "shape": (self._size_bytes,), "typestr": "|u1", "version": 3}

    def __del__(self) -> None:
        _MUNMAP(self._address, self._size_bytes)


def mapped_pages(file_descriptor: int, begin_bytes: int, size_bytes: int) -> npt.NDArray[np.uint8] | None:
    """A part of a file, to be read in place; no page of it is in memory before it is touched.

    Unlike Python's mmap it holds no file descriptor, of which a process has few.

    Args:
        file_descriptor: of the file; it may be closed afterwards.
        begin_bytes: a multiple of a page.
        size_bytes: at least one; what lies on pages after the file's end must not be touched.

    Returns:
        The bytes, read-only; or None where the system has no such means, or no room for one more.
    """
    if _MMAP is None or _MUNMAP is None:
        return None
    address = _MMAP(None, size_bytes, mmap.PROT_READ, mmap.MAP_SHARED, file_descriptor, begin_bytes)
    return None if address in (None, _MAP_FAILED) else np.asarray(_Mapping(address, size_bytes))


def anonymous_pages(size_bytes: int, *, huge: bool = True) -> npt.NDArray[np.uint8]:
    """Zeroed memory that begins at a page, counted in the resident set as it is touched.

    Huge pages within it are asked for: a device reads into one of 2 MiB in one go, where it is told every small page
    by itself, which halves the speed of fast storage and costs five times the processor time. No more is held than
    asked for. At least one more byte than `size_bytes`, to the end of a page, can be read.

    Args:
        size_bytes: how much.
        huge: whether to ask for huge pages; not for memory that is given back in parts, which would come back as one.

    Raises:
        MemoryError: there is no more.
    """
    page_bytes = _huge_page_bytes() if huge else 0
    # address space to begin at a huge page; not touched, not held
    spare = page_bytes if size_bytes >= page_bytes else 0
    try:
        pages = mmap.mmap(-1, size_bytes + spare + mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"the system has no {size_bytes} bytes") from error
    whole = np.frombuffer(pages, np.uint8)
    begin = -int(whole.ctypes.data) % page_bytes if spare else 0
    if spare:
        with suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE, begin, size_bytes // page_bytes * page_bytes)
    return whole[begin : begin + size_bytes]


def release_pages(
    memory: npt.NDArray[np.uint8], begin_bytes: int, end_bytes: int, least_bytes: int = SMALLEST_RELEASE_BYTES
) -> None:
    """Give the pages that lie whole within a range back to the system; they read as zeros afterwards.

    Args:
        memory: from `anonymous_pages`.
        begin_bytes, end_bytes: the range; what lies outside `memory` is left alone.
        least_bytes: a smaller range is left alone, too: not worth faulting its pages in again.
    """
    if end_bytes - begin_bytes < least_bytes or begin_bytes < 0 or end_bytes > memory.nbytes:
        return
    pages = memory.base
    while not isinstance(pages, mmap.mmap):
        pages = pages.obj if isinstance(pages, memoryview) else pages.base  # type: ignore[union-attr]
    shift = int(memory.ctypes.data) - int(np.frombuffer(pages, np.uint8).ctypes.data)
    begin = -(-(begin_bytes + shift) // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (end_bytes + shift) // mmap.PAGESIZE * mmap.PAGESIZE
    if begin < end and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED, begin, end - begin)


@cache
def _huge_page_bytes() -> int:
    """0 where there are none."""
    try:
        return int(_HUGE_PAGE_SIZE.read_text()) if hasattr(mmap, "MADV_HUGEPAGE") else 0
    except (OSError, ValueError):
        return 0
