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
    of a plan; those of layers before against the next one's, up to three megabytes. It takes some 50 microseconds. Does
    nothing where the system has no such means.
    """
    madvise = _madvise()
    for begin, size in _code() if madvise is not None else ():
        madvise(begin, size, mmap.MADV_DONTNEED)


@cache
def _code() -> tuple[tuple[ctypes.c_void_p, ctypes.c_size_t], ...]:
    """Where ncnn's code is mapped, address and size; it stays there."""
    try:
        with open(_MAPS, encoding="utf-8", errors="replace") as maps:
            code = [line.split(maxsplit=5) for line in maps if " r-xp " in line]
    except OSError:
        return ()
    # executable and never written to, so the file has it all
    spans = [span.split("-") for span, *_, path in code if os.path.basename(path).startswith("ncnn.")]
    return tuple(
        (ctypes.c_void_p(int(begin, 16)), ctypes.c_size_t(int(end, 16) - int(begin, 16))) for begin, end in spans
    )


@cache
def _madvise() -> Any:
    try:
        return ctypes.CDLL(None).madvise
    except (OSError, TypeError, AttributeError):
        return None
