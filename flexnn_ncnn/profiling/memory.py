"""What the parts of a layer hold with one kernel: transformed weights, heap and scratch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.preparing.assemble import layer_part, layer_slabs, unpadded
from flexnn_ncnn.profiling.bench import Bench, PartRun, own_arrays, run_into
from flexnn_ncnn.profiling.cutting import part_layouts, slab_granularity, slab_sizes
from flexnn_ncnn.profiling.facts import KernelFacts, PartMemory, SlabFacts, Span
from flexnn_ncnn.profiling.heap_use import HEAP_NOISE_BYTES, used_bytes
from flexnn_ncnn.profiling.outputs import Outputs
from flexnn_ncnn.records.plan import Slab
from flexnn_ncnn.records.profile import KernelCost
from flexnn_ncnn.records.staging import SMALL_BYTES
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.memory import heap, process_memory
from param_tools.graph import Layer
from param_tools.slicing.rule import Axis

__all__ = ["Subject", "measure_kernel"]

# shorter runs are timed twice
_LONG_RUN_SECONDS = 0.005
# Linux counts the resident set per processor and brings it together every now and then.
_MISCOUNTED_BYTES = 512 * 1024
_TRIES = 3
# repeated, it is no number in every format of floats: an input of 0 does not hide it, as it would any number
_NAN_BYTE = 0xFF


@dataclass(frozen=True, slots=True)
class Subject:
    """A layer that is tried.

    Attributes:
        index: its index in the model file.
        layer: the layer.
        axis: what it is cut along, or None.
        outputs: how it leaves its outputs.
        bottoms: its inputs as it wants them.
        slab_rows: output rows to compute at a time, 0 for all at once.
        need_bytes: what trying it may take, blobs that are alive left out.
    """

    index: int
    layer: Layer
    axis: Axis | None
    outputs: Outputs
    bottoms: tuple[native.Mat, ...]
    slab_rows: int = 0
    need_bytes: int = 0


def measure_kernel(
    bench: Bench, subject: Subject, kernel: str, whole: Span, small_units: int, known: KernelCost | None = None
) -> KernelFacts:
    """Try one kernel on a large and a small part of a layer, at once and by slabs.

    Args:
        bench: what measurements share.
        subject: the layer.
        kernel: a name in `flexnn_ncnn.records.options.KERNELS`.
        whole: the large part.
        small_units: units of the small one, 0 for none.
        known: what an earlier profile tells of loading it, which is not measured again.
    """
    large = _Trial(bench, subject, kernel, whole)
    found = large.measure(known)
    slabs = large.by_slabs(found)
    del large  # and its outputs
    parts, reads_raw = [found.memory], found.reads_raw is not False
    if small_units:
        small = _Trial(bench, subject, kernel, (whole[0], whole[0] + small_units)).measure(known)
        reads_raw |= small.reads_raw is True
        parts.insert(0, small.memory)
    granularity = slab_granularity(subject.layer, kernel)
    load_seconds = known.load_seconds if known else None
    return KernelFacts(kernel, reads_raw, tuple(parts), found.events, slabs, granularity, load_seconds)


@dataclass(frozen=True, slots=True)
class _Found:
    memory: PartMemory
    reads_raw: bool | None  # None where it has no large weights, or nothing tells
    events: tuple[int, ...]
    seconds: float  # of computing it


class _Trial:
    """One part of a layer with one kernel, writing to blobs of its own."""

    def __init__(self, bench: Bench, subject: Subject, kernel: str, span: Span) -> None:
        self._bench, self._subject, self._kernel, self._units = bench, subject, kernel, span[1] - span[0]
        part = layer_part(bench.model, subject.index, subject.axis, *span)
        self._slabs: tuple[Slab, ...] = ()
        if subject.slab_rows:
            self._slabs = layer_slabs(subject.layer, native.layout_of(subject.bottoms[0]), subject.slab_rows)
            part = unpadded(subject.layer.type, part)
        self._run = PartRun(bench, subject.layer, part, kernel)
        self._bottoms = subject.bottoms
        if part.reads[1]:
            self._bottoms = (self._run.read(subject.bottoms[0]),)
        layouts = part_layouts(subject.outputs.layouts, subject.axis, self._units)
        bench.make_room(subject.need_bytes)
        self._blobs = [bench.blob(layout, subject.layer) for layout in layouts]

    def measure(self, known: KernelCost | None) -> _Found:
        """Load once, compute twice, with every large allocation mapped alone.

        The raw weights are spoilt before the second time, to see whether they are still read.
        """
        if known is not None:
            return self._computed(known)
        room = self._bench.room
        arrays = own_arrays(self._bench, self._run.part)
        room.note_peak()
        if not process_memory.peak_can_restart():
            return self._without_peaks(arrays)
        with self._inputs_that_show(arrays), heap.return_freed_memory():
            before, idle = used_bytes(), process_memory.resident_bytes()
            room.restart_peak()
            with _nothing_collected():
                loaded = self._run.load(arrays)
                kept = max(0, used_bytes() - before)
            load_peak = process_memory.peak_bytes() - idle
            with self._bench.scratch.watch() as scratch:
                self._compute(loaded)
            right = self._spoil(arrays)
            run_heap, seconds = self._heap_growth(loaded, scratch.peak_bytes)
            loaded.close()
        memory = PartMemory(self._units, kept, max(kept, load_peak), scratch.peak_bytes, run_heap)
        return _Found(memory, self._differs(right), scratch.events, seconds)

    def _heap_growth(self, loaded: native.LoadedLayer, run_peak_bytes: int) -> tuple[int, float]:
        """What computing takes from the heap, measured again while it is no more than the kernel miscounts; seconds.

        Several times at once where slabs are to be compared with it.
        """
        timed = self._repeated if self._slab_sizes(run_peak_bytes) else self._seconds
        least, seconds = _MISCOUNTED_BYTES, 0.0
        for _ in range(_TRIES):
            heap.trim()  # what is free in the heap may be used, and freed, again
            begin = process_memory.resident_bytes()
            self._bench.room.restart_peak()
            seconds = timed(lambda: self._compute(loaded))
            growth = max(0, process_memory.peak_bytes() - begin)
            if growth >= _MISCOUNTED_BYTES:
                return growth, seconds
            least = min(least, growth)
            if least < HEAP_NOISE_BYTES:
                break
        return least, seconds

    def _computed(self, known: KernelCost) -> _Found:
        """Compute twice; what loading takes is known."""
        loaded = self._run.load(self._bench.source.load(self._run.part.pieces))
        with self._bench.scratch.watch() as scratch:
            self._compute(loaded)
        seconds = self._repeated(lambda: self._compute(loaded))
        loaded.close()
        kept, load_peak = known.kept_bytes.at(self._units), known.load_peak_bytes.at(self._units)
        memory = PartMemory(self._units, round(kept), round(load_peak), scratch.peak_bytes, 0)
        return _Found(memory, known.reads_raw, scratch.events, seconds)

    def by_slabs(self, found: _Found) -> tuple[SlabFacts, ...]:
        """The part by slabs of rows, where the workspace it was found to need is worth making smaller."""
        layer, cut, rows = self._subject.layer, self._run, self._subject.slab_rows
        # what was computed by slabs is known
        own = (SlabFacts(rows, found.memory.run_peak_bytes, 0.0),) if rows else ()
        sizes = self._slab_sizes(found.memory.run_peak_bytes)
        if not sizes:
            return own
        if not rows:
            cut = PartRun(self._bench, layer, unpadded(layer.type, self._run.part), self._kernel)
        loaded = cut.load(self._bench.source.load(cut.part.pieces))
        facts = tuple(self._slab_facts(cut, loaded, slabs, found.seconds) for slabs in sizes)
        loaded.close()
        return facts + own

    def _slab_sizes(self, run_peak_bytes: int) -> tuple[tuple[Slab, ...], ...]:
        """The slabs to try; fewer rows than it is computed by anyway."""
        subject = self._subject
        if subject.outputs.mode != "forward" or not self._bottoms:
            return ()
        sizes = slab_sizes(subject.layer, native.layout_of(self._bottoms[0]), self._kernel, run_peak_bytes)
        return tuple(slabs for slabs in sizes if not subject.slab_rows or slabs[0].end < subject.slab_rows)

    def _slab_facts(
        self, cut: PartRun, loaded: native.LoadedLayer, slabs: Sequence[Slab], whole_seconds: float
    ) -> SlabFacts:
        """From a slab in the middle; the first is tried, too, where it alone is copied for its padding."""
        rows, output_rows = slabs[0].end, slabs[-1].end
        middle = slabs[(len(slabs) - 1) // 2]
        bottom, top = self._subject.bottoms[0], self._blobs[0].mat
        with self._bench.scratch.watch() as scratch:
            if slabs[0].is_padded and not middle.is_padded:
                cut.by_slabs(loaded, slabs[:1], bottom, top)
            seconds = self._repeated(lambda: cut.by_slabs(loaded, [middle], bottom, top))
        extra = seconds * output_rows / rows - whole_seconds
        return SlabFacts(rows, scratch.peak_bytes, extra / len(slabs))

    def _compute(self, loaded: native.LoadedLayer) -> None:
        if self._slabs:
            self._run.by_slabs(loaded, self._slabs, self._subject.bottoms[0], self._blobs[0].mat)
        elif self._subject.outputs.mode == "alias":
            loaded.forward(self._bottoms[0], native.empty_mat())
        else:
            run_into(loaded, self._subject.outputs.mode, self._bottoms, self._blobs)

    def _seconds(self, call: Callable[[], None]) -> float:
        begin = self._bench.clock()
        call()
        return self._bench.clock() - begin

    def _repeated(self, call: Callable[[], None]) -> float:
        seconds = self._seconds(call)
        return seconds if seconds > _LONG_RUN_SECONDS else min(seconds, self._seconds(call))

    @contextmanager
    def _inputs_that_show(self, arrays: Sequence[npt.NDArray[Any]]) -> Iterator[None]:
        """Within the block, inputs that are all 0 are all 1: weights do not show in what is computed of 0.

        A picture of zeros is what many measure with. What Embed looks up stays as it is.
        """
        if self._subject.layer.type == "Embed" or not _large(arrays):
            yield
            return
        views = [native.array_view(mat) for mat in (*self._subject.bottoms, *self._bottoms)]
        hiding = [view for view in views if not view.any()]
        for view in hiding:
            view[...] = 1
        try:
            yield
        finally:
            for view in hiding:
                view[...] = 0

    def _spoil(self, arrays: Sequence[npt.NDArray[Any]]) -> list[int]:
        """Spoil large arrays; checksums of the outputs as they were before, if there is something to see in them.

        There is not where all of an input or of the outputs is 0: weights do not show in that.
        """
        large = _large(arrays)
        for array in large:
            array.view(np.uint8).fill(_NAN_BYTE)
        shows = large and any(blob.bytes().any() for blob in self._blobs)
        return self._checksums() if shows and all(native.array_view(mat).any() for mat in self._bottoms) else []

    def _differs(self, right: Sequence[int]) -> bool | None:
        """Whether the outputs are others than before."""
        return self._checksums() != right if right else None

    def _checksums(self) -> list[int]:
        return [crc32(blob.bytes().data) for blob in self._blobs]

    def _without_peaks(self, arrays: Sequence[npt.NDArray[Any]]) -> _Found:
        loaded = self._run.load(arrays)
        with self._inputs_that_show(arrays):
            with self._bench.scratch.watch() as scratch:
                self._compute(loaded)
            right = self._spoil(arrays)
            seconds = self._repeated(lambda: self._compute(loaded))
        loaded.close()
        memory = PartMemory(self._units, 0, 0, scratch.peak_bytes, 0)
        return _Found(memory, self._differs(right), scratch.events, seconds)


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Within the block nothing is freed that only the garbage collector finds: it would be taken off what is held."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _large(arrays: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """Those that not every kernel reads in place."""
    return [array for array in arrays if array.nbytes >= SMALL_BYTES]
