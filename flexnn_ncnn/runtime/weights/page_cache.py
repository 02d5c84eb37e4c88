"""What the system caches of a file: having bytes there before they are needed, and letting go of them afterwards."""

from __future__ import annotations

import mmap
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import NamedTuple

__all__ = ["Range", "ReadAhead", "drop"]

_SPAN_BYTES = 2 * 1024 * 1024  # looked at as a whole: it is cached, or it is read
_LONGEST_READ_BYTES = 8 * 1024 * 1024  # in one call, as the thread need not have Python's interpreter lock meanwhile
_SCRATCH_BYTES = 64 * 1024
_NEARLY_ALL = 0.95
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)


class Range(NamedTuple):
    """Bytes of a file.

    Attributes:
        file_descriptor: of the file.
        begin, end: offsets, half-open.
    """

    file_descriptor: int
    begin: int
    end: int

    @property
    def size_bytes(self) -> int:
        """How many."""
        return self.end - self.begin

    def reaches(self, other: Range) -> bool:
        """Whether the other one begins in it, or follows it on the same page or the next: then both are read as one."""
        is_later = self.file_descriptor == other.file_descriptor and self.begin <= other.begin
        return is_later and other.begin - self.end < mmap.PAGESIZE

    def and_up_to(self, end: int) -> Range:
        """From its begin to `end`, or to its own if that is later."""
        return Range(self.file_descriptor, self.begin, max(end, self.end))


class ReadAhead:
    """Reads what comes next of files into the page cache while the caller computes.

    A thread reads it in large parts and throws it away. Asking the kernel to do so alone (posix_fadvise) takes the
    caller's time and leaves the file in small pages, which cost ten times as much to map; and who touches a mapping
    that is not cached waits with the interpreter lock held, which the thread needs for its next read. What is cached
    already is not read, and finding out takes a microsecond for every few megabytes.

    Told to read some of a file the kernel reads megabytes beyond, which is right where nearly all of it is wanted. Else
    it is told to read no more than it is asked for, since what is in between stays in memory and would be read in vain,
    and push something else out: that leaves small pages, too, whose mapping costs less than that.

    Args:
        loads: the ranges of each load, in the cyclic order they are needed in; their files are closed after this.
        window_bytes: how much is read beyond the load that is needed now; 0 for nothing at all.
    """

    def __init__(self, loads: Sequence[Sequence[Range]], window_bytes: int) -> None:
        spans = [list(_spans(ranges)) for ranges in loads]
        self._spans = [span for load in spans for span in load]
        self._firsts = [0, *accumulate(len(load) for load in spans)]  # the first span of each load
        self._before = [0, *accumulate(span.size_bytes for span in self._spans)]  # bytes of a cycle before each span
        self._window_bytes = min(window_bytes, self._before[-1])
        self._looked_at = 0  # spans, counted on from one cycle to the next
        self._cycle, self._load = -1, len(loads)
        self._all_cached = False  # so far in this cycle
        self._longest_bytes = max(_SPAN_BYTES, min(_LONGEST_READ_BYTES, self._window_bytes // 2))
        self._byte = [bytearray(1)]
        if self._window_bytes:
            _read_exactly(self._spans)
        self._thread: threading.Thread | None = None  # from the first span on that is not cached
        self._start()

    def begin(self) -> None:
        """Read what comes first."""
        if self._cycle < 0:
            self._look_up_to(self._window_bytes, len(self._spans))

    def need(self, load: int) -> None:
        """Wait until the load is cached, while what follows it within the window is being read."""
        if not self._window_bytes:
            return
        if self._thread is not None and not self._thread.is_alive():  # a fork has no threads
            self._start()
        begins_anew, self._load = load <= self._load, load
        self._cycle += begins_anew
        self._all_cached |= begins_anew
        first, after = self._firsts[load : load + 2]
        begin = self._cycle * len(self._spans)
        # what was cached at the end of an inference may be gone by the next
        looks_again = begins_anew and not self._unread
        self._looked_at = begin + first if looks_again else max(self._looked_at, begin + first)
        end_bytes = self._cycle * self._before[-1] + self._before[after]
        # where all is cached the next cycle's begin is, too, or is looked at again when it comes
        beyond = 0 if self._all_cached else first
        self._look_up_to(end_bytes + self._window_bytes, begin + len(self._spans) + beyond)
        if self._unread:
            with self._changed:
                self._urgent = True
                self._changed.wait_for(lambda: not self._unread or self._unread[0][0] >= begin + after)
                self._urgent = False

    def close(self) -> None:
        """Read no more; closing twice is fine."""
        if self._thread is not None:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            self._thread.join()
            self._thread = None

    def _start(self) -> None:
        self._changed = threading.Condition()
        self._unread: deque[tuple[int, Range]] = deque()  # numbered spans, until they are read
        self._closed = self._urgent = False
        self._thread = None

    def _look_up_to(self, limit_bytes: int, limit_spans: int) -> None:
        """Look at spans that begin before either limit, both counted from the first cycle's begin."""
        while self._looked_at < limit_spans:
            cycle, span = divmod(self._looked_at, len(self._spans))
            if cycle * self._before[-1] + self._before[span] >= limit_bytes:
                return
            found = self._spans[span]
            if not self._is_cached(found):
                self._all_cached = False
                self._read(self._looked_at, found)
            self._looked_at += 1

    def _is_cached(self, span: Range) -> bool:
        middle = (span.begin + span.end) // 2  # its ends may lie on pages of its neighbours
        try:
            return bool(_NOWAIT) and os.preadv(span.file_descriptor, self._byte, middle, _NOWAIT) == 1
        except OSError:  # not there, or a file system that does not tell
            return False

    def _read(self, number: int, span: Range) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="flexnn-read-ahead", daemon=True)
            self._thread.start()
        with self._changed:
            self._unread.append((number, span))
            self._changed.notify_all()

    def _work(self) -> None:
        scratch = memoryview(bytearray(_SCRATCH_BYTES))
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._unread)
                if self._closed:
                    return
                count, whole = self._first_unread()
            count_full, rest = divmod(whole.size_bytes, _SCRATCH_BYTES)
            buffers = [scratch] * count_full + [scratch[:rest]]
            with suppress(OSError):  # whoever maps it will find out
                os.preadv(whole.file_descriptor, buffers, whole.begin)
            with self._changed:
                for _ in range(count):
                    self._unread.popleft()
                self._changed.notify_all()

    def _first_unread(self) -> tuple[int, Range]:
        """How many of the next spans to read in one call, just one if somebody waits for it, and their whole."""
        if self._urgent:
            return 1, self._unread[0][1]
        count, whole = 0, self._unread[0][1]
        for _, span in self._unread:
            if count and not (whole.reaches(span) and span.end - whole.begin <= self._longest_bytes):
                break
            count, whole = count + 1, whole.and_up_to(span.end)
        return count, whole


def _read_exactly(spans: Sequence[Range]) -> None:
    """Have the system read no more of each file than it is told, unless nearly all that lies between is wanted."""
    if not hasattr(os, "posix_fadvise"):
        return
    for descriptor in {span.file_descriptor for span in spans}:
        found = {span for span in spans if span.file_descriptor == descriptor}
        extent_bytes = max(span.end for span in found) - min(span.begin for span in found)
        if sum(span.size_bytes for span in found) < _NEARLY_ALL * extent_bytes:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)


def drop(part: Range) -> None:
    """Let the system forget a part of a file; pages that are mapped stay."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(part.file_descriptor, part.begin, part.size_bytes, os.POSIX_FADV_DONTNEED)


def _spans(ranges: Sequence[Range]) -> Iterator[Range]:
    """The ranges in pieces, those that follow each other as one."""
    merged: list[Range] = []
    for part in ranges:
        if merged and merged[-1].reaches(part):
            merged[-1] = merged[-1].and_up_to(part.end)
        else:
            merged.append(part)
    for part in merged:
        for begin in range(part.begin, part.end, _SPAN_BYTES):
            yield Range(part.file_descriptor, begin, min(begin + _SPAN_BYTES, part.end))
