"""A file that is hashed on its way to disk, so that it need not be read again to be proved."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol

__all__ = ["ByteSink", "HashingFile"]


class ByteSink(Protocol):
    """What weights are written to."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Appends `data`."""
        ...


class HashingFile:
    """A new binary file that knows the SHA-256 of what was written to it.

    Attributes:
        written_bytes: its size so far.
    """

    def __init__(self, path: Path, progress: Callable[[int], None] | None = None) -> None:
        self._file = path.open("wb")
        self._hash = hashlib.sha256()
        self._progress = progress
        self.written_bytes = 0

    def write(self, data: bytes | memoryview, /) -> int:
        """Appends `data` and reports the size so far."""
        count = self._file.write(data)
        self._hash.update(data)
        self.written_bytes += count
        if self._progress is not None:
            self._progress(self.written_bytes)
        return count

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of everything written."""
        return self._hash.hexdigest()

    def __enter__(self) -> HashingFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
