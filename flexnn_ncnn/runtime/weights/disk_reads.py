"""Reads that go on while the caller computes: by the kernel itself, or by threads where it cannot.

A thread that reads has to get hold of Python's interpreter lock for each next read, and stock ncnn keeps it while it
computes. The kernel's own queue (Linux AIO: io_submit, io_getevents) needs nobody until the data is there.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import queue
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["KernelReads", "Read", "Reads", "ThreadReads", "open_reads", "read_now"]

_QUEUE_LENGTH = 64
_THREADS = 2
# linux/aio_abi.h and the tables of system calls: io_setup, io_destroy, io_getevents, io_submit
_CALLS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2), "riscv64": (0, 1, 4, 2)}
_PREAD = 0


class Read(NamedTuple):
    """Bytes of a file to be read into memory; for a file opened with O_DIRECT all three whole pages.

    Attributes:
        file_descriptor: of the file; stays the caller's.
        offset_bytes: in the file.
        target: where they go, as many as it has room for.
        tag: whatever the caller wants to know it by.
    """

    file_descriptor: int
    offset_bytes: int
    target: npt.NDArray[np.uint8]
    tag: int


class Reads(Protocol):
    """Reads under way; for one thread."""

    def submit(self, reads: Iterable[Read]) -> None:
        """Begin them, in this order."""

    def wait(self) -> list[tuple[Read, int]]:
        """Wait until some have ended: each with the bytes read, fewer at the file's end, or a negative errno."""

    def close(self) -> None:
        """Wait for what is under way and end; closing twice is fine."""


def open_reads(direct: bool) -> Reads:
    """The best way to read there is here.

    Args:
        direct: whether files are opened with O_DIRECT. The kernel's queue waits for each read of any others.
    """
    if direct:
        try:
            return KernelReads()
        except OSError:
            pass  # not built in, or forbidden: some containers do
    return ThreadReads()


class _Request(ctypes.Structure):
    """struct iocb, as little-endian machines have it."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("file_descriptor", ctypes.c_uint32),
        ("address", ctypes.c_uint64),
        ("size_bytes", ctypes.c_uint64),
        ("offset_bytes", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("event_descriptor", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """struct io_event."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    )


class KernelReads:
    """Reads of files opened with O_DIRECT in the kernel's own queue.

    Raises:
        OSError: this machine's kernel has none for us.
    """

    def __init__(self) -> None:
        calls = _CALLS.get(platform.machine())
        if calls is None or ctypes.sizeof(ctypes.c_void_p) != 8 or os.uname().sysname != "Linux":
            raise OSError(errno.ENOSYS, "no asynchronous reads known for this machine")
        self._setup, self._destroy, self._getevents, self._submit = calls
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._syscall.restype = ctypes.c_long
        self._context = ctypes.c_ulong(0)
        self._call(self._setup, _QUEUE_LENGTH, ctypes.byref(self._context))
        self._events = (_Event * _QUEUE_LENGTH)()
        self._waiting: deque[Read] = deque()
        self._running: dict[int, Read] = {}
        self._refused: list[tuple[Read, int]] = []
        self._free = list(range(_QUEUE_LENGTH))

    def submit(self, reads: Iterable[Read]) -> None:
        """Begin them, in this order."""
        self._waiting.extend(reads)
        self._begin_waiting()

    def wait(self) -> list[tuple[Read, int]]:
        """Wait until some have ended: each with the bytes read, fewer at the file's end, or a negative errno."""
        if self._refused:
            refused, self._refused = self._refused, []
            return refused
        try:
            count = self._call(self._getevents, self._context, 1, _QUEUE_LENGTH, self._events, None)
        except InterruptedError:
            return []  # Python runs the signal's handler on the way back
        ended = []
        for event in self._events[:count]:
            ended.append((self._running.pop(event.data), event.result))
            self._free.append(event.data)
        self._begin_waiting()
        return ended

    def close(self) -> None:
        """Wait for what is under way and end; closing twice is fine."""
        if self._context.value:
            context, self._context = self._context, ctypes.c_ulong(0)
            with suppress(OSError):  # a fork has no such queue
                self._call(self._destroy, context)
            self._running.clear()
            self._waiting.clear()

    def __del__(self) -> None:
        if getattr(self, "_context", None) is not None:
            self.close()

    def _begin_waiting(self) -> None:
        while self._waiting and self._free:
            read, number = self._waiting[0], self._free[-1]
            request = _Request(
                data=number,
                opcode=_PREAD,
                file_descriptor=read.file_descriptor,
                address=read.target.ctypes.data,
                size_bytes=read.target.nbytes,
                offset_bytes=read.offset_bytes,
            )
            try:
                self._call(self._submit, self._context, 1, ctypes.byref(ctypes.pointer(request)))
            except OSError as error:
                if error.errno == errno.EAGAIN and self._running:
                    return  # the kernel is short of requests: more when some have ended
                self._refused.append((self._waiting.popleft(), -(error.errno or errno.EIO)))
            else:
                self._running[self._free.pop()] = self._waiting.popleft()

    def _call(self, number: int, *arguments: object) -> int:
        wide = (ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
        result = int(self._syscall(ctypes.c_long(number), *wide))
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result


class ThreadReads:
    """Reads by threads."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[Read | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[tuple[Read, int]] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"flexnn-read-{i}") for i in range(_THREADS)]
        for thread in self._threads:
            thread.daemon = True  # a process that ends does not wait for a slow disk
            thread.start()

    def submit(self, reads: Iterable[Read]) -> None:
        """Begin them, in this order."""
        for read in reads:
            self._asked.put(read)

    def wait(self) -> list[tuple[Read, int]]:
        """Wait until some have ended: each with the bytes read, fewer at the file's end, or a negative errno."""
        return [self._ended.get()]

    def close(self) -> None:
        """Wait for what is under way and end; closing twice is fine."""
        for _ in self._threads:
            self._asked.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _work(self) -> None:
        while (read := self._asked.get()) is not None:
            self._ended.put((read, read_now(read)))


def read_now(read: Read) -> int:
    """Read and wait for it: the bytes read, fewer only at the file's end, or a negative errno."""
    done, size = 0, read.target.nbytes
    while done < size:
        rest: Any = read.target[done:]
        try:
            count = os.preadv(read.file_descriptor, [rest], read.offset_bytes + done)
        except OSError as error:
            return -(error.errno or errno.EIO)
        if count == 0:
            break
        done += count
        if done % 512:  # the file's end, and no place to go on from with O_DIRECT
            break
    return done
