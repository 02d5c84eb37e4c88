"""How much of the C library's heap is in use: to the byte where glibc tells it."""

from __future__ import annotations

import ctypes

from flexnn_ncnn.runtime.memory import process_memory

__all__ = ["HEAP_NOISE_BYTES", "used_bytes"]

HEAP_NOISE_BYTES = 128 * 1024
"""Less is what the kernel miscounts, and not worth planning for."""


class _MallInfo(ctypes.Structure):
    """struct mallinfo2 of glibc's malloc.h, since 2.33."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def _mallinfo() -> ctypes._NamedFuncPointer | None:
    try:
        function = getattr(ctypes.CDLL(None), "mallinfo2", None)
    except (OSError, TypeError):
        return None
    if function is not None:
        function.restype, function.argtypes = _MallInfo, []
    return function


_MALLINFO = _mallinfo()


def used_bytes() -> int:
    """Bytes of all blocks that are allocated; the resident set where the C library does not tell, which is rougher."""
    if _MALLINFO is None:
        return process_memory.resident_bytes()
    found = _MALLINFO()
    return int(found.uordblks + found.hblkhd)
