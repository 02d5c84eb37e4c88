"""How fast the model's own file is read, from the device and from the page cache."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from flexnn_ncnn.records.layout import align_up
from flexnn_ncnn.records.profile import StorageProfile

__all__ = ["measure_storage"]

_SAMPLE_BYTES = 64 * 1024 * 1024
_REQUEST_BYTES = 1024 * 1024
_LATENCY_READS = 9
# slower storage is told after this long
_MOST_SECONDS = 0.25
_DIRECT = getattr(os, "O_DIRECT", 0)


def measure_storage(path: str | os.PathLike[str]) -> StorageProfile | None:
    """Read a sample of a file, sequentially in large requests and page by page here and there.

    Cold reads go past the page cache (O_DIRECT), which stays as it is: nothing has to be dropped from it, and nothing
    that lies there can be mistaken for the device. A network file system or a hypervisor may cache on its own.

    Args:
        path: the file, which lies in the page cache: read through before.

    Returns:
        None for a file that holds no page.

    Raises:
        OSError: it cannot be read.
    """
    size = os.stat(path).st_size // mmap.PAGESIZE * mmap.PAGESIZE
    if size == 0:
        return None
    pages = mmap.mmap(-1, _REQUEST_BYTES)  # O_DIRECT wants memory that begins at a page
    buffer = np.frombuffer(pages, np.uint8)
    buffer.fill(0)
    warm = _rates(os.fspath(path), os.O_RDONLY, size, buffer)
    cold = _rates(os.fspath(path), os.O_RDONLY | _DIRECT, size, buffer) if _DIRECT else None
    if warm is None:
        return None
    return StorageProfile(*(cold or (0.0, 0.0)), *warm)


def _rates(path: str, flags: int, size: int, buffer: Any) -> tuple[float, float] | None:
    """Bytes per second of a sequential read, and seconds of a page; None where the file system refuses such reads."""
    try:
        descriptor = os.open(path, flags)
    except OSError:
        return None
    try:
        offsets = range(0, min(size, _SAMPLE_BYTES), _REQUEST_BYTES)
        read_bytes, seconds = _read_until(descriptor, offsets, buffer, _MOST_SECONDS)
        step = align_up(max(1, size // _LATENCY_READS), mmap.PAGESIZE)
        page = buffer[: mmap.PAGESIZE]
        latencies = [_read_until(descriptor, [offset], page, 0.0)[1] for offset in range(0, size, step)]
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return read_bytes / max(seconds, 1e-9), median(latencies)


def _read_until(descriptor: int, offsets: Sequence[int], buffer: Any, most_seconds: float) -> tuple[int, float]:
    """Read at these offsets until the time is up, once at least; the bytes, and the seconds they took."""
    read_bytes = 0
    begin = time.perf_counter()
    for offset in offsets:
        read_bytes += os.preadv(descriptor, [buffer], offset)
        if time.perf_counter() - begin > most_seconds:
            break
    return read_bytes, time.perf_counter() - begin
