"""How fast the storage behind a folder writes and reads."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

__all__ = ["StorageSpeed", "measure_storage"]

_SIZE_BYTES = 32 * 1024 * 1024
_PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class StorageSpeed:
    """What was measured with one file of some megabytes.

    Attributes:
        write_bytes_per_second: until the bytes are on the storage.
        read_bytes_per_second: front to back, in large pieces.
        from_storage: whether the system let go of the file before it was read; if not, this is memory's speed.
    """

    write_bytes_per_second: float
    read_bytes_per_second: float
    from_storage: bool


def measure_storage(folder: Path, size_bytes: int = 0) -> StorageSpeed:
    """Writes a file that vanishes by itself into `folder`, and reads it.

    Args:
        folder: where.
        size_bytes: of the file; 0 for 32 MiB.

    Raises:
        OSError: the folder cannot be written to, or is full.
    """
    piece = os.urandom(_PIECE_BYTES)  # zeros could be kept by their number alone
    with TemporaryFile(dir=folder, buffering=0) as file:
        begin = time.perf_counter()
        for _ in range((size_bytes or _SIZE_BYTES) // _PIECE_BYTES):
            file.write(piece)
        os.fsync(file.fileno())
        written = time.perf_counter() - begin
        from_storage = _drop_from_cache(file.fileno())
        file.seek(0)
        begin = time.perf_counter()
        count = 0
        while data := file.read(_PIECE_BYTES):
            count += len(data)
        seconds = time.perf_counter() - begin
    return StorageSpeed(count / max(written, 1e-9), count / max(seconds, 1e-9), from_storage)


def _drop_from_cache(descriptor: int) -> bool:
    """Ask the system to forget a file's pages; whether it did."""
    if not hasattr(os, "posix_fadvise"):
        return False
    with suppress(OSError):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)
    except BlockingIOError:  # it would have to be fetched
        return True
    except (OSError, AttributeError, NotImplementedError):  # nobody tells
        return True
    return False
