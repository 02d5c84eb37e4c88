"""Streamed weights in the order they are needed in: through the system's page cache, or past it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy.typing as npt

from flexnn_ncnn.plan import WeightPiece
from flexnn_ncnn.runtime.direct_stream import DirectStream
from flexnn_ncnn.runtime.page_cache import Range, ReadAhead, drop
from flexnn_ncnn.runtime.weight_source import WeightSource

__all__ = ["Load", "MappedStream", "Stream", "open_stream"]

Load = Sequence[Sequence[WeightPiece]]
"""What is loaded together: for each layer its pieces."""


class Stream(Protocol):
    """Loads in a fixed cyclic order, each fetched, then released; for one thread.

    Attributes:
        note: why it does not do what was asked for, or "".
    """

    note: str

    def read_ahead(self) -> None:
        """Begin to read what comes next, as far as there is room."""

    def has_room(self) -> bool:
        """Whether the next load can be fetched beside those that were not released."""

    def fetch(self, load: int) -> list[list[npt.NDArray[Any]]]:
        """The arrays of a load, per layer as ncnn takes them, valid until its release.

        Raises:
            ModelFormatError: the file is shorter than it was, or cannot be read.
        """

    def release(self, load: int) -> None:
        """The load's arrays are not used any more; releasing twice is fine."""

    def abort(self) -> None:
        """Everything is released at once; the next fetch may be of any load, and the order goes on from there."""

    def close(self) -> None:
        """Wait for what is being read and end; closing twice is fine."""


def open_stream(
    source: WeightSource, loads: Sequence[Load], page_cache: str, read_ahead_bytes: int, cached_bytes: int | None = None
) -> Stream:
    """A stream as a plan asks for it.

    Args:
        source: the .bin; closed after the stream.
        loads: in the order they are needed in.
        page_cache: "mmap" or "direct", see `flexnn_ncnn.plan.Plan`.
        read_ahead_bytes: of "mmap" how much is asked for beyond the load in use; of "direct" all memory to read to.
        cached_bytes: of "mmap" how much of the streamed weights may stay in the page cache; None for no limit.
    """
    if page_cache == "direct":
        return DirectStream(source, loads, read_ahead_bytes)
    return MappedStream(source, loads, read_ahead_bytes, cached_bytes)


class MappedStream:
    """Loads mapped from the page cache.

    Where memory is short, what is read once more in each inference must not push out what stays: only the first
    loads that fit are left to the page cache, the others are dropped from it as soon as they are released.

    Args:
        source: the .bin.
        loads: in the order they are needed in.
        read_ahead_bytes: how much is asked for beyond the load in use.
        cached_bytes: how much may stay in the page cache; None for no limit.
    """

    def __init__(
        self, source: WeightSource, loads: Sequence[Load], read_ahead_bytes: int, cached_bytes: int | None = None
    ) -> None:
        self.note = ""
        self._source, self._loads = source, loads
        self._ranges = [
            [Range(piece.offset_bytes, piece.offset_bytes + piece.stored_bytes) for layer in load for piece in layer]
            for load in loads
        ]
        self._ahead = ReadAhead(source.file_descriptor, self._ranges, read_ahead_bytes)
        self._dropped = frozenset() if cached_bytes is None else _beyond(self._ranges, cached_bytes)

    def read_ahead(self) -> None:
        """Begin to read what comes next, as far as there is room."""
        self._ahead.begin()

    def has_room(self) -> bool:
        """Always: who loads decides how much is loaded."""
        return True

    def fetch(self, load: int) -> list[list[npt.NDArray[Any]]]:
        """The arrays of a load, per layer as ncnn takes them; they stay valid.

        Raises:
            ModelFormatError: the file is shorter than it was, or cannot be read.
        """
        self._ahead.need(load)
        return [self._source.load(layer) for layer in self._loads[load]]

    def release(self, load: int) -> None:
        """The load's arrays are gone: what they were mapped from may go too."""
        if load in self._dropped:
            for part in self._ranges[load]:
                drop(self._source.file_descriptor, part)

    def abort(self) -> None:
        """Nothing to do: reading ahead follows whatever is fetched."""

    def close(self) -> None:
        """Read no more; the source is the caller's."""
        self._ahead.close()


def _beyond(ranges: Sequence[Sequence[Range]], kept_bytes: int) -> frozenset[int]:
    """The loads after those whose sizes add up to at most `kept_bytes`."""
    found, total_bytes = set(), 0
    for load, parts in enumerate(ranges):
        total_bytes += sum(part.end - part.begin for part in parts)
        if total_bytes > kept_bytes:
            found.add(load)
    return frozenset(found)
