"""Weights that stay mapped while their pages come and go: a load without a copy, a layer or a mapping made anew."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.records.layout import OVERREAD_BYTES, align_up
from flexnn_ncnn.runtime.memory.pages import MADVISE
from flexnn_ncnn.runtime.memory.process_memory import peak_is_exact

__all__ = ["Window"]

_POPULATE_READ = 22  # MADV_POPULATE_READ of Linux 5.14
_DONTNEED = getattr(mmap, "MADV_DONTNEED", 4)


class Window:
    """The pages of some arrays over mappings of files.

    Args:
        arrays: over mappings that are nobody else's, as of `WeightSource.standing`.
    """

    __slots__ = ("_arrays", "_is_empty", "_spans")

    def __init__(self, arrays: Iterable[npt.NDArray[Any]]) -> None:
        self._arrays = tuple(arrays)
        self._spans = tuple(map(_pages, self._arrays))
        self._is_empty = False  # somebody may have looked into it

    @staticmethod
    def is_possible() -> bool:
        """Whether this system lets pages go: one that does not even tell a peak, an emulated one, may just say so."""
        return MADVISE is not None and peak_is_exact()

    def fill(self) -> None:
        """Have all pages in memory: mapped from the page cache, or read.

        Raises:
            OSError: one cannot be read.
        """
        self._is_empty = False
        for (begin, size_bytes), array in zip(self._spans, self._arrays, strict=True):
            if MADVISE(begin, size_bytes, _POPULATE_READ):
                if (number := ctypes.get_errno()) != errno.EINVAL:
                    raise OSError(number, os.strerror(number))
                np.bitwise_or.reduce(array.view(np.uint8)[:: mmap.PAGESIZE])  # an older kernel: touch every page

    def empty(self) -> None:
        """Have none of them; the page cache keeps them."""
        if self._is_empty:
            return
        for begin, size_bytes in self._spans:
            MADVISE(begin, size_bytes, _DONTNEED)
        self._is_empty = True


def _pages(array: npt.NDArray[Any]) -> tuple[int, int]:
    """Address and size of the pages that an array lies on, and what kernels read past its end."""
    begin = int(array.ctypes.data)
    first = begin // mmap.PAGESIZE * mmap.PAGESIZE
    last = align_up(begin + array.nbytes + OVERREAD_BYTES, mmap.PAGESIZE)
    return first, last - first
