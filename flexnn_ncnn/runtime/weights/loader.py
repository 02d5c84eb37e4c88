"""Streamed layers, loaded when they are needed or, by threads of their own, as far ahead as the plan allows."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, Protocol, TypeVar

import numpy.typing as npt

from flexnn_ncnn.records.plan import WeightPiece, places_of
from flexnn_ncnn.runtime.memory.heap import Reserve, shrinking
from flexnn_ncnn.runtime.weights.streams import Stream

__all__ = ["Load", "Loader", "Place", "SerialLoader", "ThreadedLoader"]


class Closable(Protocol):
    """What a load makes."""

    def close(self) -> None:
        """Free it."""


class Place(Protocol):
    """Where a thread puts its loads, one after the other; `runtime.memory.heap.Reserve` is one."""

    def ensure_whole(self) -> None:
        """Make it as large as it was, before the next load."""

    def close(self) -> None:
        """Nothing is put there any more."""


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
    """Loads ahead in threads of its own, one load after the other; worth it where they run beside computing.

    A load begins when the one `ahead` loads back is released and takes its place: the same thread, which frees that one
    first. So a thread has one load at a time, in a heap of its own where the C library gives it one, and that heap is
    as large as the largest of its loads. What is loaded at once is what the plan counted.

    Args:
        loads: in the order they are needed in.
        stream: of the same loads; used by one thread at a time.
        on_start: called in each thread before all else; it gives what is called before each load there, and in the end.
    """

    def __init__(
        self,
        loads: Sequence[Load[Loaded]],
        stream: Stream,
        on_start: Callable[[], Place] = lambda: Reserve(0),
    ) -> None:
        self._loads, self._stream, self._on_start = loads, stream, on_start
        self._places = places_of([load.ahead for load in loads])
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._threads: list[threading.Thread] = []
        self._reset()
        if loads:
            self._start()

    @property
    def is_here(self) -> bool:
        """Whether this process began it: a fork has neither the threads nor a lock that they held."""
        return os.getpid() == self._owner

    def acquire(self, load: int) -> Loaded:
        """Wait until it is loaded."""
        if not self.is_here:
            self._threads, self._lock = [], threading.Lock()
            self._stream.abort()
        if not self._threads or self._acquired % len(self._loads) != load:
            self.abort()
            self._start()
        with self._lock:
            self._loaded.wait_for(lambda: self._acquired in self._ready or self._error is not None)
            if self._acquired in self._ready:
                self._acquired += 1
                return self._ready[self._acquired - 1]
            error = self._error
        self.abort()
        assert error is not None
        raise error

    def release(self, load: int) -> None:
        """Let an acquired load be freed; they are released in the order they were acquired in."""
        with self._lock:
            self._released += 1
            self._unused.append(load)
            self._wake_next()

    def abort(self) -> None:
        """Let the threads end and free all loads; the next `acquire` starts anew."""
        if self._threads:
            with self._lock:
                self._ending = True
                for turn in self._turns:
                    turn.notify()
            while self._threads:
                self._threads.pop().join()
            with shrinking():  # they are in heaps that no thread uses any more
                while self._ready:
                    self._ready.popitem()[1].close()
            self._stream.abort()

    def close(self) -> None:
        """End the threads and free all loads."""
        self.abort()

    def _reset(self) -> None:
        # loads are numbered on and on: number % len(loads) is the load
        self._next = self._acquired = self._released = 0
        self._ready: dict[int, Loaded] = {}  # from when they are loaded until they are freed
        self._unused: deque[int] = deque()  # loads whose arrays the stream may have back
        self._error: BaseException | None = None
        self._ending = False
        # one thread is woken at a time: each wants the interpreter lock, which computing needs now and then
        self._loaded = threading.Condition(self._lock)
        self._turns = [threading.Condition(self._lock) for _ in range(len(set(self._places)))]

    def _wake_next(self) -> None:
        """Wake the thread that the next load is of."""
        self._turns[self._places[self._next % len(self._loads)]].notify()

    def _start(self) -> None:
        self._reset()
        self._owner = os.getpid()
        _LOADERS.add(self)
        for own_place in sorted(set(self._places)):
            own = [load for load, found in enumerate(self._places) if found == own_place]
            thread = threading.Thread(target=self._work, args=(own,), name="flexnn-loader", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self, own: Sequence[int]) -> None:
        """Load what is this thread's, over and over, and free it."""
        try:
            place = self._on_start()
            if own[0] == 0:
                self._stream.read_ahead()
            self._load(own, place)
            place.close()
        except BaseException as error:
            with self._lock:
                self._error = error
                self._loaded.notify()

    def _load(self, own: Sequence[int], place: Place) -> None:
        last = -1
        for inference in count():
            for load in own:
                number = inference * len(self._loads) + load
                if not self._may_begin(number, last):
                    return
                with self._lock:
                    before = self._ready.pop(last, None)
                if before is not None:
                    before.close()
                    del before
                if not self._has_room(number):
                    return
                place.ensure_whole()
                loaded = _build(self._loads[load], self._stream, load)
                with self._lock:
                    self._ready[number] = loaded
                    self._next = number + 1
                    self._wake_next()
                    self._loaded.notify()
                del loaded
                last = number

    def _may_begin(self, number: int, last: int) -> bool:
        """Wait for a load's turn, from which on no other thread uses the stream, and for the release of the thread's
        last load; False when the thread is to end."""
        load = number % len(self._loads)
        released = max(last, number - self._loads[load].ahead)
        with self._lock:
            self._turns[self._places[load]].wait_for(
                lambda: self._ending or (self._next == number and self._released > released)
            )
            return not self._ending

    def _has_room(self, number: int) -> bool:
        """Wait until the stream can take a load, in its turn; False when the thread is to end."""
        turn = self._turns[self._places[number % len(self._loads)]]
        with self._lock:
            while not self._ending:
                while self._unused:
                    self._stream.release(self._unused.popleft())
                if self._stream.has_room():
                    return True
                turn.wait()
        return False


def _build(load: Load[Loaded], stream: Stream, number: int) -> Loaded:
    arrays = stream.fetch(number)
    loaded = load.build(arrays)
    if not load.keeps_raw:
        arrays.clear()
        stream.release(number)
    return loaded
