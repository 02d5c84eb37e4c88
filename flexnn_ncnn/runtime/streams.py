"""Streamed weights in the order they are needed in: through the system's page cache, or past it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy.typing as npt

from flexnn_ncnn.plan import WeightPiece
from flexnn_ncnn.runtime.direct_stream import DirectStream, largest_load_bytes
from flexnn_ncnn.runtime.page_cache import Range, ReadAhead
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
    source: WeightSource, loads: Sequence[Load], page_cache: str, read_ahead_bytes: int, room_bytes: int | None = None
) -> Stream:
    """A stream as a plan asks for it.

    Where memory is short, weights that are read once in each inference push each other out of the page cache, and
    whatever else is there: what is mapped then is read several times. Such weights are read past it, into as much
    memory as mapping them takes.

    Args:
        source: the .bin; closed after the stream.
        loads: in the order they are needed in.
        page_cache: "mmap" or "direct", see `flexnn_ncnn.plan.Plan`.
        read_ahead_bytes: of "mmap" how much is read beyond the load in use; of "direct" all memory to read to,
            0 for what the largest load takes.
        room_bytes: of "mmap" how much page cache there may be; None for no limit.
    """
    if page_cache == "direct":
        return DirectStream(source, loads, read_ahead_bytes or largest_load_bytes(loads))
    total_bytes = sum(piece.stored_bytes for load in loads for layer in load for piece in layer)
    if room_bytes is not None and total_bytes > room_bytes:
        return DirectStream(source, loads, largest_load_bytes(loads))
    return MappedStream(source, loads, read_ahead_bytes)


class MappedStream:
    """Loads mapped from the page cache.

    Args:
        source: the .bin.
        loads: in the order they are needed in.
        read_ahead_bytes: how much is read beyond the load in use.
    """

    def __init__(self, source: WeightSource, loads: Sequence[Load], read_ahead_bytes: int) -> None:
        self.note = ""
        self._source, self._loads = source, loads
        ranges = [[_range(source, piece) for layer in load for piece in layer] for load in loads]
        self._ahead = ReadAhead(ranges, read_ahead_bytes)

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
        """Nothing to do: mappings are gone when nobody has them any more."""

    def abort(self) -> None:
        """Nothing to do: reading ahead follows whatever is fetched."""

    def close(self) -> None:
        """Read no more; the source is the caller's."""
        self._ahead.close()


def _range(source: WeightSource, piece: WeightPiece) -> Range:
    file, begin = source.file_of(piece.offset_bytes)
    return Range(file.file_descriptor, begin, begin + piece.stored_bytes)
