"""The streamed layers of a plan: noted while its steps are compiled, then loaded in that order, over and over."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.records.plan import Part, Plan
from flexnn_ncnn.records.staging import SMALL_BYTES
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.cpu import load_elsewhere
from flexnn_ncnn.runtime.memory import heap
from flexnn_ncnn.runtime.trace import Trace
from flexnn_ncnn.runtime.weights.loader import Load, Loader, Place, SerialLoader, ThreadedLoader
from flexnn_ncnn.runtime.weights.staged_load import StagedLoad
from flexnn_ncnn.runtime.weights.streams import Stream, goes_past_cache, open_stream
from flexnn_ncnn.runtime.weights.weight_source import WeightSource, owned
from flexnn_ncnn.runtime.weights.window import Window

__all__ = ["LoadedParts", "StreamedLayer", "Streaming"]

Arrays = list[npt.NDArray[Any]]


# more does not fit into a heap that is not the process's first
_LARGEST_RESERVE_BYTES = heap.LARGEST_HEAP_BYTES // 2


class _SharedHeapError(Exception):
    """A thread that loads would share its heap."""


class LoadedParts:
    """Layers that are loaded together.

    Attributes:
        layers: in the order of the plan.
    """

    __slots__ = ("layers",)

    def __init__(self, layers: Sequence[native.LoadedLayer]) -> None:
        self.layers = layers

    def close(self) -> None:
        """Free the layers."""
        for layer in self.layers:
            layer.close()
        self.layers = ()


class _StandingParts(LoadedParts):
    """Layers that stay loaded while the pages of their weights come and go."""

    __slots__ = ()

    def close(self) -> None:
        """Nothing to do after an inference."""

    def end(self) -> None:
        """Free the layers."""
        super().close()


class Streaming:
    """Loads of one plan.

    Layers whose kernels read weights just as they lie in a file stay loaded: their weights are mapped once, and a load
    brings the pages in, a release lets them go.

    Args:
        plan: the plan; every streamed part of it is to be added, in the order of its steps.
        source: the .bin; closed after this.
        trace: told of every load.
        threaded: whether loads run ahead in a thread of their own; else they run when they are needed.
        room_bytes: how much page cache there may be for streamed weights; None for no limit.
        before: called before a load where nothing else is loaded then.
    """

    def __init__(
        self,
        plan: Plan,
        source: WeightSource,
        trace: Trace,
        threaded: bool,
        room_bytes: int | None = None,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self._plan, self._source, self._trace, self._threaded = plan, source, trace, threaded
        self._room_bytes, self._before = room_bytes, before
        self._may_stand = Window.is_possible() and not goes_past_cache(plan.page_cache, plan.streamed_bytes, room_bytes)
        self._windows: dict[int, Window] = {}
        self._staged: dict[int, StagedLoad] = {}
        self._standing: list[_StandingParts] = []
        self._loads: list[Load[LoadedParts]] = []
        self._sizes: list[int] = []
        self._one_at_a_time = True
        self._stream: Stream | None = None
        self._loader: Loader[LoadedParts] | None = None
        self._heaps: list[int] = []  # of threads that load

    def add(
        self,
        parts: Sequence[Part],
        makers: Sequence[Callable[[Arrays], native.LoadedLayer]],
        keeps_raw: bool,
        as_stored: bool,
        scratch: npt.NDArray[np.uint8] | None = None,
    ) -> int:
        """Note layers that are loaded together.

        Args:
            parts: their parts of the plan.
            makers: make each layer from its arrays.
            keeps_raw: whether any of them reads the arrays once it is loaded.
            as_stored: whether all of them do, and need no other memory for weights.
            scratch: memory to read the one part to that is loaded; None to map it.

        Returns:
            The load's number.
        """
        pieces = tuple(part.pieces for part in parts)
        standing = self._stand(parts, makers) if as_stored and self._may_stand else None
        if standing is None:
            self._loads.append(Load(pieces, _Build(self, tuple(makers), keeps_raw), keeps_raw, parts[0].ahead))
        else:
            self._loads.append(Load(pieces, lambda _: standing, True, parts[0].ahead))
        self._sizes.append(sum(piece.stored_bytes for layer in pieces for piece in layer))
        number = len(self._loads) - 1
        if scratch is not None and not self._threaded:
            self._staged[number] = StagedLoad(self._source, parts[0].pieces, scratch)
        return number

    def _stand(
        self, parts: Sequence[Part], makers: Sequence[Callable[[Arrays], native.LoadedLayer]]
    ) -> LoadedParts | None:
        """The next load's layers, there once and for all; None where they cannot be."""
        arrays = [self._source.standing(part.pieces) for part in parts]
        found = [layer for layer in arrays if layer is not None]
        if len(found) < len(arrays):
            return None
        window = self._windows[len(self._loads)] = Window(array for _, mapped in found for array in mapped)
        standing = _StandingParts([make(layer) for make, (layer, _) in zip(makers, found, strict=True)])
        self._standing.append(standing)
        window.empty()  # making them has looked into it
        return standing

    def start(self) -> None:
        """All are noted: begin to read ahead."""
        self._one_at_a_time = not self._threaded
        pieces = [load.pieces for load in self._loads]
        plan = self._plan
        self._stream = open_stream(
            self._source, pieces, plan.page_cache, plan.read_ahead_bytes, self._room_bytes, self._windows, self._staged
        )
        if self._threaded and len(self._windows) < len(self._loads):
            heap.let_threads_have_heaps()
            self._loader = ThreadedLoader(self._loads, self._stream, self._begin_thread)
        else:
            self._loader = SerialLoader(self._loads, self._stream)

    @property
    def lends_arrays(self) -> bool:
        """Whether small arrays, too, lie in memory that is used again once they are loaded."""
        assert self._stream is not None
        return self._stream.lends

    def make_room(self) -> None:
        """Before a load: where nothing else is loaded, have the room for it whole."""
        if self._one_at_a_time:
            self._before()

    def _begin_thread(self) -> Place:
        """Have a thread load in a heap of its own, in which loads take turns as in `heap.Reserve`.

        Raises:
            _SharedHeapError: the C library has none left: loads of several threads in one would leave holes.
        """
        load_elsewhere()
        if heap.allocator_name() != "glibc":
            return heap.Reserve(0)
        own, size_bytes = heap.own_heap(), self._plan.heap_bytes // 2  # as much as the largest load at least
        if not own or own in self._heaps:
            raise _SharedHeapError
        self._heaps.append(own)
        return heap.Reserve(size_bytes if size_bytes < _LARGEST_RESERVE_BYTES else 0, is_fresh=True)

    def acquire(self, load: int) -> LoadedParts:
        """Have a load ready; they are acquired in their order.

        Raises:
            ModelFormatError: the file is shorter than it was, or cannot be read.
            NcnnError: ncnn refuses a layer.
        """
        assert self._loader is not None
        begin = time.perf_counter()
        try:
            loaded = self._loader.acquire(load)
        except _SharedHeapError:
            self._load_in_turn()
            loaded = self._loader.acquire(load)
        self._trace.loaded(self._sizes[load], time.perf_counter() - begin)
        return loaded

    def _load_in_turn(self) -> None:
        """From now on load when a load is needed, in the caller's thread."""
        assert self._loader is not None
        assert self._stream is not None
        self._loader.close()
        self._loader, self._one_at_a_time = SerialLoader(self._loads, self._stream), True

    def release(self, load: int) -> None:
        """Free an acquired load."""
        assert self._loader is not None
        self._loader.release(load)

    def abort(self) -> None:
        """An inference ended early: free what is loaded, and let the next one begin anew."""
        if self._loader is not None:
            self._loader.abort()

    def close(self) -> None:
        """Free what is loaded and end all reading; closing twice is fine."""
        if self._loader is not None:
            self._loader.close()
            self._loader = None
        while self._standing:
            self._standing.pop().end()
        self._windows.clear()
        self._staged.clear()
        self._loads, self._before = [], lambda: None  # what knows how to make layers, and the executor
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class StreamedLayer:
    """Has the one layer of a load there while it calls what it is given with it; a small object, for there are many.

    Args:
        streaming: what loads it.
        load: the load's number.
    """

    __slots__ = ("_load", "_streaming")

    def __init__(self, streaming: Streaming, load: int) -> None:
        self._streaming, self._load = streaming, load

    def __call__(self, call: Callable[[native.LoadedLayer], None]) -> None:
        """Have it there, and free it."""
        call(self._streaming.acquire(self._load).layers[0])
        self._streaming.release(self._load)


class _Build:
    """Makes the layers of a load from their arrays; small, as `StreamedLayer`."""

    __slots__ = ("_keeps_raw", "_makers", "_streaming")

    def __init__(
        self, streaming: Streaming, makers: tuple[Callable[[Arrays], native.LoadedLayer], ...], keeps_raw: bool
    ) -> None:
        self._streaming, self._makers, self._keeps_raw = streaming, makers, keeps_raw

    def __call__(self, arrays: list[Arrays]) -> LoadedParts:
        self._streaming.make_room()
        if self._streaming.lends_arrays and not self._keeps_raw:
            arrays = [[_kept(array) for array in layer] for layer in arrays]
        return LoadedParts([make(layer) for make, layer in zip(self._makers, arrays, strict=True)])


def _kept(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Small weights are read in place by every kernel, long after what they were read to is used again."""
    return owned(array) if array.nbytes < SMALL_BYTES else array
