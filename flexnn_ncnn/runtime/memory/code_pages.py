"""Pages of ncnn's code: those that ran once stay in the resident set, whichever plan it was for."""

from __future__ import annotations

import mmap
import os
from functools import cache

from flexnn_ncnn.runtime.memory.pages import MADVISE

__all__ = ["forget_code"]

_MAPS = "/proc/self/maps"


def forget_code() -> None:
    """Take ncnn's code out of the resident set; what runs again comes back from the page cache, a fault for 64 kB.

    Kernels of a plan before would count against the next one's budget, half a megabyte between stock ncnn's and those
    of a plan; those of layers before against the next one's, up to three megabytes. It takes some 50 microseconds. Does
    nothing where the system has no such means.
    """
    for begin, size in _code() if MADVISE is not None else ():
        MADVISE(begin, size, mmap.MADV_DONTNEED)


@cache
def _code() -> tuple[tuple[int, int], ...]:
    """Where ncnn's code is mapped, address and size; it stays there."""
    try:
        with open(_MAPS, encoding="utf-8", errors="replace") as maps:
            code = [line.split(maxsplit=5) for line in maps if " r-xp " in line]
    except OSError:
        return ()
    # executable and never written to, so the file has it all
    spans = [span.split("-") for span, *_, path in code if os.path.basename(path).startswith("ncnn.")]
    return tuple((int(begin, 16), int(end, 16) - int(begin, 16)) for begin, end in spans)
