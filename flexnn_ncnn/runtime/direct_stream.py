"""Streamed weights past the page cache: read ahead into memory of a fixed size, and counted nowhere else."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.errors import PlanError
from flexnn_ncnn.plan import WeightPiece
from flexnn_ncnn.runtime.disk_reads import Read, Reads, open_reads, read_now
from flexnn_ncnn.runtime.page_cache import Range, drop
from flexnn_ncnn.runtime.pages import anonymous_pages
from flexnn_ncnn.runtime.weight_source import WeightSource, decoded
from flexnn_ncnn.staging import extents_of, position_of, staged_bytes
from param_tools.errors import ModelFormatError

__all__ = ["DirectStream", "largest_load_bytes"]

_O_DIRECT = getattr(os, "O_DIRECT", 0)
_READ_BYTES = 4 * 1024 * 1024  # of one read: large enough for any device, small enough to keep several busy

Load = Sequence[Sequence[WeightPiece]]


def largest_load_bytes(loads: Sequence[Load]) -> int:
    """Memory to read to that is enough for each load alone."""
    return max((staged_bytes(list(chain.from_iterable(load)), mmap.PAGESIZE) for load in loads), default=0)


class DirectStream:
    """Loads in a fixed cyclic order, the next ones being read while the caller computes.

    Its memory is used from begin to end and from the begin again. A load begins to be read when no load that was not
    released lies where it will, so what is held never exceeds the memory, whatever the caller does.

    Args:
        source: the .bin.
        loads: for each load the pieces of each layer that is loaded with it.
        size_bytes: the memory; the largest load fits.

    Attributes:
        note: why the page cache is used after all, or "".

    Raises:
        ModelFormatError: the file cannot be read, is too short or was replaced.
        PlanError: a load does not fit into the memory.
    """

    def __init__(self, source: WeightSource, loads: Sequence[Load], size_bytes: int) -> None:
        self._source, self._loads = source, loads
        if (largest_bytes := largest_load_bytes(loads)) > size_bytes:
            raise PlanError(
                f"the plan reads to {size_bytes} bytes of memory, less than the {largest_bytes} of its largest load",
                hint="plan again",
            )
        pieces = [list(chain.from_iterable(load)) for load in loads]
        for piece in chain.from_iterable(pieces):
            source.check(piece)
        self._extents = [extents_of(flat, mmap.PAGESIZE) for flat in pieces]
        self._sizes = [staged_bytes(flat, mmap.PAGESIZE) for flat in pieces]
        self._memory = anonymous_pages(size_bytes)
        self._descriptor, self.note = _open_again(source)
        self._owner = os.getpid()
        self._reads: Reads = open_reads(self._descriptor, direct=not self.note)
        # loads are numbered on and on: number % len(loads) is the load
        self._next_read = self._next_fetch = 0
        self._read_to = 0  # where in the memory the next load goes, if there is room up to the end
        self._live: dict[int, tuple[int, int]] = {}  # number -> the memory it has, until it is released
        self._pending: dict[int, int] = {}  # number -> its reads under way
        self._failed: dict[int, ModelFormatError] = {}
        self._fetched: dict[int, int] = {}  # load -> its number, until it is released
        self._aborted = False

    def read_ahead(self) -> None:
        """Begin to read what there is room for, at most a whole inference ahead."""
        if not self._loads:
            return
        while self._next_read < self._next_fetch + len(self._loads):
            number, load = self._next_read, self._next_read % len(self._loads)
            size = self._sizes[load]
            begin = self._read_to if self._read_to + size <= self._memory.nbytes else 0
            if any(begin < end and first < begin + size for first, end in self._live.values()):
                return
            reads = self._reads_of(number, load, begin)
            self._live[number], self._pending[number] = (begin, begin + size), len(reads)
            self._read_to = begin + size
            self._next_read += 1
            self._reads.submit(reads)

    def has_room(self) -> bool:
        """Whether the next load can be fetched beside those that were not released."""
        self.read_ahead()
        return self._next_fetch in self._live

    def fetch(self, load: int) -> list[list[npt.NDArray[Any]]]:
        """The arrays of a load, per layer as ncnn takes them, valid until its release.

        Raises:
            ModelFormatError: the file is shorter than it was, or cannot be read.
        """
        if self._aborted or self._next_fetch % len(self._loads) != load or os.getpid() != self._owner:
            self._restart(load)
        if not self.has_room():
            raise PlanError("loads that were not released leave no room for the next one")
        number = self._next_fetch
        while self._pending[number]:
            self._take_ended()
        del self._pending[number]
        if number in self._failed:
            self._aborted = True
            raise self._failed[number]
        self._next_fetch += 1
        self._fetched[load] = number
        begin, extents = self._live[number][0], self._extents[load]

        def stored(offset_bytes: int, size_bytes: int) -> npt.NDArray[np.uint8]:
            at = begin + position_of(offset_bytes, extents)
            return self._memory[at : at + size_bytes]

        return [[decoded(piece, stored) for piece in layer] for layer in self._loads[load]]

    def release(self, load: int) -> None:
        """Let the load's memory be read over; releasing twice is fine."""
        number = self._fetched.pop(load, None)
        if number is not None:
            del self._live[number]
            if self.note:
                self._forget(load)
            self.read_ahead()

    def abort(self) -> None:
        """Everything is released, and what was read ahead may be wrong: the next fetch begins anew."""
        self._aborted = True

    def close(self) -> None:
        """Wait for what is being read and close the file; closing twice is fine."""
        if self._descriptor >= 0:
            self._reads.close()
            os.close(self._descriptor)
            self._descriptor = -1

    def _restart(self, load: int) -> None:
        """Begin anew; right whatever happened before, an interrupt within any line here or a fork included."""
        self._reads.close()
        self._reads, self._owner = open_reads(self._descriptor, direct=not self.note), os.getpid()
        self._live, self._pending, self._failed, self._fetched = {}, {}, {}, {}
        self._next_read = self._next_fetch = load
        self._read_to = 0
        self._aborted = False

    def _reads_of(self, number: int, load: int, begin: int) -> list[Read]:
        found = []
        for extent in self._extents[load]:
            at = begin + extent.at_bytes
            for done in range(0, extent.size_bytes, _READ_BYTES):
                target = self._memory[at + done : at + min(done + _READ_BYTES, extent.size_bytes)]
                found.append(Read(extent.offset_bytes + done, target, number))
        return found

    def _take_ended(self) -> None:
        for read, count in self._reads.wait():
            self._pending[read.tag] -= 1
            wanted = min(read.target.nbytes, self._source.size_bytes - read.offset_bytes)
            if 0 <= count < wanted:
                count = read_now(self._descriptor, read)
            if count < 0:
                self._failed[read.tag] = self._error(f"cannot be read: {os.strerror(-count)}", read.offset_bytes)
            elif count < wanted:
                self._failed[read.tag] = self._error("became shorter while it was read", read.offset_bytes + count)

    def _error(self, message: str, offset_bytes: int) -> ModelFormatError:
        return ModelFormatError(message, path=self._source.path, offset_bytes=offset_bytes)

    def _forget(self, load: int) -> None:
        for extent in self._extents[load]:
            drop(self._descriptor, Range(extent.offset_bytes, extent.end_bytes))


def _open_again(source: WeightSource) -> tuple[int, str]:
    """A descriptor for reads past the page cache, or for any others; and why so."""
    if not _O_DIRECT:
        return _opened(source, 0), "this system reads through the page cache only"
    try:
        descriptor = _opened(source, _O_DIRECT)
        if read_now(descriptor, Read(0, anonymous_pages(mmap.PAGESIZE), 0)) != -errno.EINVAL:
            return descriptor, ""
        os.close(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise ModelFormatError(f"cannot be read: {error.strerror}", path=source.path) from error
    return _opened(source, 0), f"the file system of {source.path} reads through the page cache only"


def _opened(source: WeightSource, flags: int) -> int:
    descriptor = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC | flags)
    if not os.path.samestat(os.fstat(descriptor), os.fstat(source.file_descriptor)):
        os.close(descriptor)
        raise ModelFormatError("was replaced while it was opened", path=source.path, hint="open it again")
    return descriptor
