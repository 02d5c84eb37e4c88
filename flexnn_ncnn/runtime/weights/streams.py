"""Streamed weights in the order they are needed in: through the system's page cache, or past it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

import numpy.typing as npt

from flexnn_ncnn.records.layout import OVERREAD_BYTES
from flexnn_ncnn.records.plan import WeightPiece
from flexnn_ncnn.runtime.weights.direct_stream import DirectStream, largest_load_bytes
from flexnn_ncnn.runtime.weights.page_cache import Range, ReadAhead
from flexnn_ncnn.runtime.weights.staged_load import StagedLoad
from flexnn_ncnn.runtime.weights.weight_source import WeightSource
from flexnn_ncnn.runtime.weights.window import Window
from param_tools.errors import ModelFormatError

__all__ = ["Load", "MappedStream", "Stream", "goes_past_cache", "open_stream"]

Load = Sequence[Sequence[WeightPiece]]
"""What is loaded together: for each layer its pieces."""


class Stream(Protocol):
    """Loads in a fixed cyclic order, each fetched, then released; for one thread.

    Attributes:
        note: why it does not do what was asked for, or "".
        lends: whether small arrays, too, lie in memory that is used again once they are released.
    """

    note: str
    lends: bool

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


def goes_past_cache(page_cache: str, total_bytes: int, room_bytes: int | None) -> bool:
    """Whether weights are read past the page cache.

    Where memory is short, weights that are read once in each inference push each other out of the page cache, and
    whatever else is there: what is mapped then is read several times. Such weights are read past it, into as much
    memory as mapping them takes.

    Args:
        page_cache: "mmap" or "direct", see `flexnn_ncnn.records.plan.Plan`.
        total_bytes: what is streamed in each inference.
        room_bytes: how much page cache there may be; None for no limit.
    """
    return page_cache == "direct" or (room_bytes is not None and total_bytes > room_bytes)


def open_stream(
    source: WeightSource,
    loads: Sequence[Load],
    page_cache: str,
    read_ahead_bytes: int,
    room_bytes: int | None = None,
    windows: Mapping[int, Window] | None = None,
    staged: Mapping[int, StagedLoad] | None = None,
) -> Stream:
    """A stream as a plan asks for it.

    Args:
        source: the .bin; closed after the stream.
        loads: in the order they are needed in.
        page_cache: "mmap" or "direct", see `flexnn_ncnn.records.plan.Plan`.
        read_ahead_bytes: of "mmap" how much is read beyond the load in use; of "direct" all memory to read to,
            0 for what the largest load takes.
        room_bytes: of "mmap" how much page cache there may be; None for no limit.
        windows: loads that are mapped already and get their pages alone; none where weights go past the page cache.
        staged: loads that are read to memory of the plan, if they do not.
    """
    if page_cache == "direct":
        return DirectStream(source, loads, read_ahead_bytes or largest_load_bytes(loads))
    total_bytes = sum(piece.stored_bytes for load in loads for layer in load for piece in layer)
    if goes_past_cache(page_cache, total_bytes, room_bytes):
        mapped = [load for number, load in enumerate(loads) if number not in (staged or ())]
        if (size_bytes := largest_load_bytes(loads)) <= largest_load_bytes(mapped):  # what the plan has memory for
            return DirectStream(source, loads, size_bytes)
    return MappedStream(source, loads, read_ahead_bytes, windows, staged)


class MappedStream:
    """Loads mapped from the page cache.

    Args:
        source: the .bin.
        loads: in the order they are needed in.
        read_ahead_bytes: how much is read beyond the load in use.
        windows: loads that are mapped already and get their pages alone.
        staged: loads of one part that are read.
    """

    lends = False

    def __init__(
        self,
        source: WeightSource,
        loads: Sequence[Load],
        read_ahead_bytes: int,
        windows: Mapping[int, Window] | None = None,
        staged: Mapping[int, StagedLoad] | None = None,
    ) -> None:
        self.note = ""
        self._source, self._loads, self._windows = source, loads, dict(windows or {})
        self._staged = dict(staged or {})
        self._mapped: dict[int, list[list[npt.NDArray[Any] | None]]] = {}
        for number in range(len(loads)) if Window.is_possible() else ():
            if number not in self._windows and number not in self._staged:
                self._stand(number)
        self._ends = [source.ends_of(chain.from_iterable(load)) for load in loads]
        ranges = [[_range(source, piece) for layer in load for piece in layer] for load in loads]
        self._ahead = ReadAhead(ranges, read_ahead_bytes)

    def read_ahead(self) -> None:
        """Begin to read what comes next, as far as there is room."""
        self._ahead.begin()

    def has_room(self) -> bool:
        """Always: who loads decides how much is loaded."""
        return True

    def fetch(self, load: int) -> list[list[npt.NDArray[Any]]]:
        """The arrays of a load, per layer as ncnn takes them, none of one with a window; they stay valid.

        Raises:
            ModelFormatError: the file is shorter than it was, or cannot be read.
        """
        self._ahead.need(load)
        if load in self._staged:
            return [self._staged[load].fetch()]
        if load in self._windows:
            for file, end_bytes in self._ends[load].items():
                file.check_again(end_bytes)
            try:
                self._windows[load].fill()
            except OSError as error:
                raise ModelFormatError(f"cannot be read: {error.strerror}", path=self._source.path) from error
        if load in self._mapped:
            return list(map(self._source.completed, self._loads[load], self._mapped[load]))
        return [] if load in self._windows else [self._source.load(layer) for layer in self._loads[load]]

    def release(self, load: int) -> None:
        """Empty its window; other mappings are gone when nobody has them any more."""
        if load in self._windows:
            self._windows[load].empty()

    def _stand(self, load: int) -> None:
        """Map what is large once and for all; a load then brings its pages in, and a release lets them go."""
        arrays = [self._source.mapped(layer) for layer in self._loads[load]]
        mapped = [one for layer in arrays for one in layer if one is not None]
        if mapped:
            self._mapped[load], self._windows[load] = arrays, Window(mapped)

    def abort(self) -> None:
        """Empty all windows; reading ahead follows whatever is fetched."""
        for window in self._windows.values():
            window.empty()

    def close(self) -> None:
        """Read no more; the source is the caller's."""
        self._ahead.close()


def _range(source: WeightSource, piece: WeightPiece) -> Range:
    """What is mapped of a file: one page that is not cached would have the system read megabytes around it."""
    file, begin = source.file_of(piece.offset_bytes)
    return Range(file.file_descriptor, begin, min(begin + piece.stored_bytes + OVERREAD_BYTES, file.size_bytes))
