"""How fast a file is read past the page cache."""

from __future__ import annotations

import mmap
import os
import time

from flexnn_ncnn.records.plan import WeightPiece
from flexnn_ncnn.runtime.weights.direct_stream import DirectStream, largest_load_bytes
from flexnn_ncnn.runtime.weights.weight_source import WeightSource

__all__ = ["read_speed"]

_LOAD_BYTES = 4 * 1024 * 1024
_LOADS_AT_ONCE = 4
_LONGEST_SECONDS = 0.5
_FASTEST_BYTES_PER_SECOND = 1e11


def read_speed(path: str | os.PathLike[str]) -> float:
    """Bytes per second, as a run reads them, found out within half a second; where nothing can be found out, no limit.

    Raises:
        ModelFormatError: the file cannot be read.
    """
    source = WeightSource(path)
    loads = [
        ((WeightPiece(begin, min(_LOAD_BYTES, source.size_bytes - begin), "int8"),),)
        for begin in range(0, source.size_bytes, _LOAD_BYTES)
    ]
    stream = DirectStream(source, loads, _LOADS_AT_ONCE * largest_load_bytes(loads))
    try:
        done_bytes, seconds, begin = 0, 0.0, time.perf_counter()
        for number, ((piece,),) in enumerate(loads):
            stream.fetch(number)
            stream.release(number)
            done_bytes, seconds = done_bytes + piece.count, time.perf_counter() - begin
            if seconds > _LONGEST_SECONDS:
                break
    finally:
        stream.close()
        source.close()
    # less than some pages is too little to tell
    is_known = seconds > 0 and done_bytes > 16 * mmap.PAGESIZE
    return min(done_bytes / seconds, _FASTEST_BYTES_PER_SECOND) if is_known else _FASTEST_BYTES_PER_SECOND
