"""Streamed layers, loaded when they are needed or, by a thread of their own, as far ahead as the plan allows."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy.typing as npt

from flexnn_ncnn.records.plan import WeightPiece
from flexnn_ncnn.runtime.weights.streams import Stream

__all__ = ["Load", "Loader", "SerialLoader", "ThreadedLoader"]


class Closable(Protocol):
    """What a load makes."""

    def close(self) -> None:
        """Free it."""


Loaded = TypeVar("Loaded", bound=Closable)
Loaded_co = TypeVar("Loaded_co", bound=Closable, covariant=True)


@dataclass(frozen=True, slots=True)
class Load(Generic[Loaded]):
    """What is loaded together, and how.

    Attributes:
        pieces: for each layer its pieces of the .bin.
        build: makes it from the arrays of each layer.
        keeps_raw: whether it uses the arrays as long as it lives, or just while it is built.
        ahead: how many loads back the one lies whose release makes room for this one, see `records.plan.Part`.
    """

    pieces: tuple[tuple[WeightPiece, ...], ...]
    build: Callable[[list[list[npt.NDArray[Any]]]], Loaded]
    keeps_raw: bool
    ahead: int = 1


class Loader(Protocol[Loaded_co]):
    """Loads in a fixed order, over and over; use it from one thread."""

    def acquire(self, load: int) -> Loaded_co:
        """Have a load ready. The order is the loads' own; after the last comes the first.

        Raises:
            ModelFormatError: the file is shorter than it was, or cannot be read.
        """

    def release(self, load: int) -> None:
        """Free an acquired load."""

    def abort(self) -> None:
        """Free all loads: an inference ended early, and the next `acquire` is of the first load."""

    def close(self) -> None:
        """Free all loads and end; the stream stays the caller's. Closing twice is fine."""


class SerialLoader(Generic[Loaded]):
    """Loads when asked, in the caller's thread; the stream reads ahead meanwhile.

    Args:
        loads: in the order they are needed in.
        stream: of the same loads.
    """

    def __init__(self, loads: Sequence[Load[Loaded]], stream: Stream) -> None:
        self._loads, self._stream = loads, stream
        self._acquired: dict[int, Loaded] = {}
        stream.read_ahead()

    def acquire(self, load: int) -> Loaded:
        """Load it now."""
        self._acquired[load] = loaded = _build(self._loads[load], self._stream, load)
        return loaded

    def release(self, load: int) -> None:
        """Free an acquired load."""
        self._acquired.pop(load).close()
        self._stream.release(load)

    def abort(self) -> None:
        """Free all loads."""
        while self._acquired:
            self._acquired.popitem()[1].close()
        self._stream.abort()

    def close(self) -> None:
        """Free all loads."""
        self.abort()


_LOADERS: weakref.WeakSet[ThreadedLoader[Any]] = weakref.WeakSet()


@atexit.register
def _end_threads() -> None:
    """A thread that comes back from ncnn when the interpreter is gone would end the process with SIGABRT."""
    for loader in list(_LOADERS):
        if loader.is_here:
            loader.close()


class ThreadedLoader(Generic[Loaded]):
    """Loads ahead in a thread of its own; worth it where ncnn's bindings let go of the interpreter lock.

    A load begins when the one `ahead` loads back is released, so what is loaded at once is what the plan counted.

    Args:
        loads: in the order they are needed in.
        stream: of the same loads; used by the thread alone.
        on_start: called in the thread before all else.
    """

    def __init__(
        self, loads: Sequence[Load[Loaded]], stream: Stream, on_start: Callable[[], None] = lambda: None
    ) -> None:
        self._loads, self._stream, self._on_start = loads, stream, on_start
        self._changed = threading.Condition()
        self._owner = os.getpid()
        self._thread: threading.Thread | None = None
        self._reset()
        if loads:
            self._start()

    @property
    def is_here(self) -> bool:
        """Whether this process began it: a fork has neither the thread nor a lock that it held."""
        return os.getpid() == self._owner

    def acquire(self, load: int) -> Loaded:
        """Wait until it is loaded."""
        if not self.is_here:
            self._thread, self._changed = None, threading.Condition()
            self._stream.abort()
        if self._thread is None or self._acquired % len(self._loads) != load:
            self.abort()
            self._start()
        with self._changed:
            self._changed.wait_for(lambda: self._acquired in self._ready or self._error is not None)
            if self._acquired in self._ready:
                loaded = self._ready[self._acquired]
                self._acquired += 1
                return loaded
            error = self._error
        self.abort()
        assert error is not None
        raise error

    def release(self, load: int) -> None:
        """Free an acquired load; they are released in the order they were acquired in."""
        with self._changed:
            loaded = self._ready.pop(self._released)
        loaded.close()
        with self._changed:
            self._unused.append(load)
            self._released += 1
            self._changed.notify_all()

    def abort(self) -> None:
        """Let the thread end and free all loads; the next `acquire` starts anew."""
        if self._thread is not None:
            with self._changed:
                self._ending = True
                self._changed.notify_all()
            self._thread.join()
            self._thread = None
            while self._ready:
                self._ready.popitem()[1].close()
            self._stream.abort()

    def close(self) -> None:
        """End the thread and free all loads."""
        self.abort()

    def _reset(self) -> None:
        # loads are numbered on and on: number % len(loads) is the load
        self._next = self._acquired = self._released = 0
        self._ready: dict[int, Loaded] = {}  # from when they are loaded until they are released
        self._unused: deque[int] = deque()  # loads whose arrays the stream may have back
        self._error: BaseException | None = None
        self._ending = False

    def _start(self) -> None:
        self._reset()
        self._owner = os.getpid()
        _LOADERS.add(self)
        self._thread = threading.Thread(target=self._work, name="flexnn-loader", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._on_start()
            self._stream.read_ahead()
            while self._may_load():
                load = self._next % len(self._loads)
                loaded = _build(self._loads[load], self._stream, load)
                with self._changed:
                    self._ready[self._next] = loaded
                    self._next += 1
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _may_load(self) -> bool:
        """Wait until the next load may begin; False when the thread is to end."""
        while True:
            while self._unused:
                self._stream.release(self._unused.popleft())
            with self._changed:
                self._changed.wait_for(lambda: self._ending or self._unused or self._in_window())
                if self._ending:
                    return False
                if self._unused:
                    continue
            if self._stream.has_room():
                return True
            with self._changed:
                self._changed.wait_for(lambda: self._ending or self._unused)

    def _in_window(self) -> bool:
        return self._released > self._next - self._loads[self._next % len(self._loads)].ahead


def _build(load: Load[Loaded], stream: Stream, number: int) -> Loaded:
    arrays = stream.fetch(number)
    loaded = load.build(arrays)
    if not load.keeps_raw:
        arrays.clear()
        stream.release(number)
    return loaded
