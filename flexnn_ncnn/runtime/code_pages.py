"""Pages of ncnn's code: those that ran once stay in the resident set, whichever plan it was for."""

from __future__ import annotations

import ctypes
import mmap
import os
from functools import cache
from typing import Any

__all__ = ["forget_code"]

_MAPS = "/proc/self/maps"


def forget_code() -> None:
    """Take ncnn's code out of the resident set; what runs again comes back from the page cache, a fault for 64 kB.

    Kernels of a plan before would count against the next one's budget, half a megabyte between stock ncnn's and those
    of a plan. Does nothing where the system has no such means.
    """
    madvise = _madvise()
    if madvise is None:
        return
    try:
        with open(_MAPS, encoding="utf-8", errors="replace") as maps:
            code = [line.split(maxsplit=5) for line in maps if " r-xp " in line]
    except OSError:
        return
    for span, _, _, _, _, *path in code:
        # executable and never written to, so the file has it all
        if path and os.path.basename(path[0]).startswith("ncnn."):
            begin, end = (int(text, 16) for text in span.split("-"))
            madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)


@cache
def _madvise() -> Any:
    try:
        return ctypes.CDLL(None).madvise
    except (OSError, TypeError, AttributeError):
        return None
