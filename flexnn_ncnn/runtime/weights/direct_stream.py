"""Streamed weights past the page cache: read ahead into memory of a fixed size, and counted nowhere else."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.errors import PlanError
from flexnn_ncnn.records.plan import WeightPiece
from flexnn_ncnn.records.staging import extents_of, position_of, staged_bytes
from flexnn_ncnn.runtime.memory.pages import anonymous_pages
from flexnn_ncnn.runtime.weights.disk_reads import Read, Reads, open_reads, read_now
from flexnn_ncnn.runtime.weights.page_cache import Range, drop
from flexnn_ncnn.runtime.weights.weight_source import WeightSource, decoded
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

    lends = True

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
        files = {source.file_of(extent.offset_bytes)[0] for extents in self._extents for extent in extents}
        self._files, self.note = _open_again(files)
        self._owner = os.getpid()
        self._reads: Reads = open_reads(direct=not self.note)
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
        self._reads.close()
        _close(self._files)

    def _restart(self, load: int) -> None:
        """Begin anew; right whatever happened before, an interrupt within any line here or a fork included."""
        self._reads.close()
        self._reads, self._owner = open_reads(direct=not self.note), os.getpid()
        self._live, self._pending, self._failed, self._fetched = {}, {}, {}, {}
        self._next_read = self._next_fetch = load
        self._read_to = 0
        self._aborted = False

    def _reads_of(self, number: int, load: int, begin: int) -> list[Read]:
        found = []
        for extent in self._extents[load]:
            at = begin + extent.at_bytes
            file, offset_bytes = self._source.file_of(extent.offset_bytes)
            for done in range(0, extent.size_bytes, _READ_BYTES):
                target = self._memory[at + done : at + min(done + _READ_BYTES, extent.size_bytes)]
                found.append(Read(self._files[file], offset_bytes + done, target, number))
        return found

    def _take_ended(self) -> None:
        for read, count in self._reads.wait():
            self._pending[read.tag] -= 1
            file = next(file for file, descriptor in self._files.items() if descriptor == read.file_descriptor)
            wanted = min(read.target.nbytes, file.size_bytes - read.offset_bytes)
            if 0 <= count < wanted:
                count = read_now(read)
            if count < 0:
                problem = f"cannot be read: {os.strerror(-count)}"
            elif count < wanted:
                problem = "became shorter while it was read"
            else:
                continue
            self._failed[read.tag] = ModelFormatError(problem, path=file.path, offset_bytes=read.offset_bytes)

    def _forget(self, load: int) -> None:
        for extent in self._extents[load]:
            file, begin = self._source.file_of(extent.offset_bytes)
            drop(Range(self._files[file], begin, begin + extent.size_bytes))


def _open_again(files: Iterable[WeightSource]) -> tuple[dict[WeightSource, int], str]:
    """Descriptors for reads past the page cache, or for any others; and why so."""
    found: dict[WeightSource, int] = {}
    note = "" if _O_DIRECT else "this system reads through the page cache only"
    for file in files if not note else ():
        try:
            found[file] = _opened(file, _O_DIRECT)
            problem = -read_now(Read(found[file], 0, anonymous_pages(mmap.PAGESIZE), 0))
        except OSError as error:
            problem = error.errno or errno.EIO
        if problem == errno.EINVAL:
            note = f"the file system of {file.path} reads through the page cache only"
            break
        if problem > 0:
            _close(found)
            raise ModelFormatError(f"cannot be read: {os.strerror(problem)}", path=file.path)
    if note:
        _close(found)
        found.update((file, _opened(file, 0)) for file in files)
    return found, note


def _close(files: dict[WeightSource, int]) -> None:
    while files:
        os.close(files.popitem()[1])


def _opened(source: WeightSource, flags: int) -> int:
    descriptor = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC | flags)
    if not os.path.samestat(os.fstat(descriptor), os.fstat(source.file_descriptor)):
        os.close(descriptor)
        raise ModelFormatError("was replaced while it was opened", path=source.path, hint="open it again")
    return descriptor
