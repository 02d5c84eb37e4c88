"""Running one layer on its own: how it leaves its output, what it costs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flexnn_ncnn.errors import ProfileError
from flexnn_ncnn.layout import BlobLayout
from flexnn_ncnn.options import RunOptions
from flexnn_ncnn.plan import Part, Slab
from flexnn_ncnn.profile import KernelCost, Linear, SlabCost
from flexnn_ncnn.profiling.scratch import ScratchRegion
from flexnn_ncnn.runtime import heap, native, process_memory
from flexnn_ncnn.runtime.blob_memory import LIST_MODES, Blob, output_mat
from flexnn_ncnn.runtime.slabs import forward_slabs, slab_views
from flexnn_ncnn.runtime.weight_source import WeightSource
from param_tools.graph import Layer
from param_tools.shapes import BlobShape

__all__ = ["KernelBench", "LayerRun", "Measured", "discover_outputs", "slab_cost"]

_Clock = Callable[[], float]
# layers that compute each value from the values at its own place alone
_POINTWISE = ("BinaryOp", "Eltwise")
_SENTINEL = np.uint8(0xA5)
# a run this long is timed where it runs anyway, not once more
_LONG_RUN_SECONDS = 0.02


class LayerRun:
    """One part of a layer, loaded with one kernel; a context manager.

    Args:
        layer: for its type and name.
        part: what to load.
        kernel: a name in `flexnn_ncnn.options.KERNELS`.
        options: how to compute.
        source: where the weights are.
    """

    def __init__(self, layer: Layer, part: Part, kernel: str, options: RunOptions, source: WeightSource) -> None:
        option = native.make_option(options, kernel)
        arrays = source.load(part.pieces)
        self.layer_type = layer.type
        self.loaded = native.LoadedLayer(layer.type, native.make_params(part.params), arrays, option, layer.name)

    def outputs(self, mode: str, bottoms: Sequence[native.Mat], tops: Sequence[BlobLayout]) -> list[tuple[Any, Any]]:
        """Compute the layer.

        Returns:
            Per output a Mat and what owns its memory.
        """
        if mode == "alias":
            top = native.empty_mat()
            self.loaded.forward(bottoms[0], top)
            return [(top, bottoms[0])]
        blobs = [Blob.alone(layout) for layout in tops]
        run_into(self.loaded, mode, bottoms, blobs)
        return [(blob.mat, blob) for blob in blobs]

    def close(self) -> None:
        """Free the layer."""
        self.loaded.close()

    def __enter__(self) -> LayerRun:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def run_into(loaded: native.LoadedLayer, mode: str, bottoms: Sequence[native.Mat], blobs: Sequence[Blob]) -> None:
    """Compute a layer into blobs that are there already."""
    if mode == "overlay":
        loaded.forward_list(list(bottoms), [blobs[0].mat])
    elif mode in LIST_MODES:
        loaded.forward_list(list(bottoms), [output_mat(blob, mode) for blob in blobs])
    elif mode == "inplace":
        native.copy_blob(bottoms[0], blobs[0].mat)
        loaded.forward_inplace(blobs[0].mat)
    elif mode == "fresh":
        top = native.empty_mat()
        loaded.forward(bottoms[0], top)
        native.copy_blob(top, blobs[0].mat)
    else:
        loaded.forward(bottoms[0], blobs[0].mat)


def discover_outputs(
    run: LayerRun, bottoms: Sequence[native.Mat], shapes: Sequence[BlobShape | None]
) -> tuple[str, list[BlobLayout]]:
    """How a layer leaves its outputs, found by trying.

    Args:
        run: the loaded layer.
        bottoms: its inputs as it wants them.
        shapes: the outputs' shapes where they can be inferred.

    Returns:
        The mode (see `flexnn_ncnn.plan.Step`) and the layouts.

    Raises:
        ProfileError: several outputs or inputs, and no known layout fits.
    """
    loaded = run.loaded
    if not loaded.takes_one_blob or len(bottoms) != 1 or len(shapes) != 1:
        return _list_layouts(run.layer_type, loaded, bottoms, shapes)
    if loaded.works_in_place:
        return "inplace", [native.layout_of(bottoms[0])]
    top = native.empty_mat()
    loaded.forward(bottoms[0], top)
    layout = native.layout_of(top)
    if native.data_address(top) == native.data_address(bottoms[0]):
        return "alias", [layout]
    blob = Blob.alone(layout)
    address = native.data_address(blob.mat)
    loaded.forward(bottoms[0], blob.mat)
    written_in_place = native.data_address(blob.mat) == address
    return ("forward" if written_in_place else "fresh"), [layout]


def _list_layouts(
    layer_type: str, loaded: native.LoadedLayer, bottoms: Sequence[native.Mat], shapes: Sequence[BlobShape | None]
) -> tuple[str, list[BlobLayout]]:
    """The mode and the layouts in which a layer with several blobs writes to the outputs it is given.

    ncnn copies the list of outputs it is given, so one of another layout would be computed and lost: each candidate
    is filled with a pattern, and the right one has none of it left.
    """
    if any(shape is None for shape in shapes):
        raise ProfileError(
            f"layer {loaded.name!r}: the size of its outputs cannot be inferred",
            hint="layers with several blobs need a known output size",
        )
    lanes = sorted({native.layout_of(mat).lane_bytes for mat in bottoms} | {4}, reverse=True)
    packs = (*native.LANES, 1)
    for lane_bytes in lanes:
        for pack in packs:
            layouts = [_layout(shape, lane_bytes, pack) for shape in shapes if shape is not None]
            for mode in LIST_MODES:
                if _writes_to(loaded, mode, bottoms, layouts):
                    overlays = layer_type in _POINTWISE and _may_overlay(loaded, bottoms, layouts)
                    return ("overlay" if overlays else mode), layouts
    raise ProfileError(f"layer {loaded.name!r}: ncnn does not leave its outputs where it is told to")


def _may_overlay(loaded: native.LoadedLayer, bottoms: Sequence[native.Mat], tops: Sequence[BlobLayout]) -> bool:
    """Whether the output may take the memory of either input: all lie alike, and the values come out the same."""
    if len(tops) != 1 or any(native.layout_of(mat) != tops[0] for mat in bottoms):
        return False
    apart = Blob.alone(tops[0])
    run_into(loaded, "list", bottoms, [apart])
    for position in range(len(bottoms)):
        over = Blob.alone(tops[0])
        native.copy_blob(bottoms[position], over.mat)
        mats = [over.mat if i == position else mat for i, mat in enumerate(bottoms)]
        loaded.forward_list(mats, [over.mat])
        if not np.array_equal(native.array_view(over.mat), native.array_view(apart.mat)):
            return False
    return True


def _layout(shape: BlobShape, lane_bytes: int, most_elempack: int) -> BlobLayout:
    """The shape packed as far as it divides: Slice packs each of its outputs for itself."""
    flat = BlobLayout(shape.dims, shape.w, shape.h, shape.d, shape.c, lane_bytes, 1)
    packs = (pack for pack in native.LANES if pack <= most_elempack and flat.packed_extent % pack == 0)
    return flat.with_elempack(next(packs, 1))


def _writes_to(
    loaded: native.LoadedLayer, mode: str, bottoms: Sequence[native.Mat], layouts: Sequence[BlobLayout]
) -> bool:
    blobs = [Blob.alone(layout) for layout in layouts]
    for blob in blobs:
        blob.bytes().fill(_SENTINEL)
    run_into(loaded, mode, bottoms, blobs)
    # the pattern would have to be a computed value, everywhere in a row of 16 bytes, to be mistaken
    return all(not (blob.bytes()[:16] == _SENTINEL).all() for blob in blobs)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one part costs with one kernel; the fields are those of `flexnn_ncnn.profile.KernelCost`."""

    reads_raw: bool
    load_seconds: float
    compute_seconds: float
    kept_bytes: int = 0
    load_peak_bytes: int = 0
    run_peak_bytes: int = 0
    run_heap_bytes: int = 0
    stream_peak_bytes: int = 0

    def as_cost(
        self,
        kernel: str,
        units: int = 1,
        piece: Measured | None = None,
        piece_units: int = 0,
        slabs: SlabCost | None = None,
    ) -> KernelCost:
        """A cost through this measurement of `units` units and, if given, that of a smaller piece."""

        def line(name: str) -> Linear:
            whole = float(getattr(self, name))
            if piece is None:
                return Linear(0.0, whole / units) if units > 1 else Linear(whole, 0.0)
            slope = max(0.0, (whole - float(getattr(piece, name))) / (units - piece_units))
            slope = min(slope, whole / units)
            return Linear(whole - slope * units, slope)

        return KernelCost(
            kernel=kernel,
            reads_raw=self.reads_raw or (piece is not None and piece.reads_raw),
            load_seconds=line("load_seconds"),
            compute_seconds=line("compute_seconds"),
            kept_bytes=line("kept_bytes"),
            load_peak_bytes=line("load_peak_bytes"),
            run_peak_bytes=line("run_peak_bytes"),
            run_heap_bytes=line("run_heap_bytes"),
            stream_peak_bytes=line("stream_peak_bytes"),
            slabs=slabs,
        )


def slab_cost(whole: Measured, cut: Measured, slabs: Sequence[Slab], granularity: int) -> SlabCost:
    """What slabs cost, from one measurement without and one with them.

    Args:
        whole: computed at once.
        cut: computed by `slabs`.
        slabs: all but the last of the same number of rows.
        granularity: slabs may be cut at multiples of this many rows.
    """
    rows, slab_rows = slabs[-1].end, slabs[0].end
    slope = max(0.0, (whole.run_peak_bytes - cut.run_peak_bytes) / (rows - slab_rows))
    slope = min(slope, whole.run_peak_bytes / rows)
    extra = max(0.0, cut.compute_seconds - whole.compute_seconds) / len(slabs)
    return SlabCost(rows, granularity, Linear(whole.run_peak_bytes - slope * rows, slope), extra)


class KernelBench:
    """Measures the kernels of one layer on fixed inputs.

    Args:
        layer: the layer.
        options: how to compute.
        source: where its weights are.
        mode: how it leaves its outputs.
        bottoms: its inputs as it wants them.
        scratch: where it allocates while it computes.
    """

    def __init__(
        self,
        layer: Layer,
        options: RunOptions,
        source: WeightSource,
        mode: str,
        bottoms: Sequence[native.Mat],
        scratch: ScratchRegion,
    ) -> None:
        self._layer, self._options, self._source, self.mode = layer, options, source, mode
        self._bottoms, self._scratch = bottoms, scratch
        self._allocator = scratch.allocator if native.may_call_back(layer.type, options.num_threads) else None
        # Time of this thread is not disturbed by other processes; with several threads there is no such clock.
        self._clock = time.thread_time if options.num_threads == 1 else time.perf_counter
        self.inputs = tuple(native.layout_of(mat) for mat in bottoms)

    def measure(self, part: Part, kernel: str, rounds: int, tops: Sequence[BlobLayout]) -> Measured:
        """Time and memory of one part with one kernel."""
        trial = self._trial(part, kernel, tops, ())
        reads_raw, first_seconds = self._first_run(part, trial)
        times = (math.inf, first_seconds)
        if first_seconds < _LONG_RUN_SECONDS or not process_memory.peak_can_restart():
            times = _timed(trial, rounds, self._clock)
        return self._measured(trial, reads_raw, times)

    def measure_like(
        self, known: Measured, part: Part, kernel: str, tops: Sequence[BlobLayout], slabs: Sequence[Slab] = ()
    ) -> Measured:
        """The same for a smaller part, or by slabs of rows, of what was measured as a whole: in fewer runs."""
        trial = self._trial(part, kernel, tops, slabs)
        times = (math.inf, math.inf)
        if known.compute_seconds < _LONG_RUN_SECONDS or not process_memory.peak_can_restart():
            times = _timed(trial, 1, self._clock)
        return self._measured(trial, known.reads_raw, times)

    def _trial(self, part: Part, kernel: str, tops: Sequence[BlobLayout], slabs: Sequence[Slab]) -> _Trial:
        option, run_option = (native.make_option(self._options, kernel) for _ in range(2))
        if self._allocator is not None:
            self._allocator.attach(run_option)
        params = native.make_params(part.params)
        bottoms = self._bottoms
        if part.reads[1]:
            bottoms = [native.channels_of(bottoms[0], *part.reads)]
        # copies of our own: in memory before anything is counted
        arrays = [np.array(array) for array in self._source.load(part.pieces)]
        blobs = [Blob.alone(layout, self._allocator) for layout in tops]
        for blob in blobs:
            blob.bytes().fill(0)

        def load(arrays: Sequence[Any] = arrays) -> native.LoadedLayer:
            return native.LoadedLayer(self._layer.type, params, arrays, option, self._layer.name, run_option)

        def run(loaded: native.LoadedLayer) -> None:
            if slabs:
                forward_slabs(loaded, slab_views(slabs, bottoms[0], blobs[0].mat), 0.0, run_option)
            elif self.mode == "alias":
                loaded.forward(bottoms[0], native.empty_mat())
            else:
                run_into(loaded, self.mode, bottoms, blobs)

        return _Trial(load, run, blobs)

    def _measured(self, trial: _Trial, reads_raw: bool, times: tuple[float, float]) -> Measured:
        if not process_memory.peak_can_restart():
            return Measured(reads_raw, *times)
        with self._scratch.watch() as scratch:
            (kept, load_peak, run_heap, stream_peak), last_times = _memory(trial, self._clock)
        times = min(times[0], last_times[0]), min(times[1], last_times[1])
        return Measured(reads_raw, *times, kept, load_peak, scratch.peak_bytes, run_heap, stream_peak)

    def _first_run(self, part: Part, trial: _Trial) -> tuple[bool, float]:
        """Warm the heap and find out whether the kernel still reads its large raw weights once loaded.

        They are copied, and the copies spoilt after loading to see whether the output changes.

        Returns:
            The answer, and the seconds of the last run.
        """
        arrays = [np.array(array) for array in self._source.load(part.pieces)]
        loaded = trial.load(arrays)
        trial.run(loaded)
        large = [array for array in arrays if array.nbytes >= native.RAW_KEPT_BELOW_BYTES]
        right = [blob.bytes().copy() for blob in trial.blobs] if large else []
        for array in large:
            array.view(np.uint8).fill(0x7F)
        begin = self._clock()
        trial.run(loaded)
        seconds = self._clock() - begin
        loaded.close()
        same = all(np.array_equal(blob.bytes(), kept) for blob, kept in zip(trial.blobs, right, strict=False))
        return not (large and trial.blobs and same), seconds


@dataclass(frozen=True, slots=True)
class _Trial:
    """One part with one kernel, ready to be loaded and run as often as it takes."""

    load: Callable[..., native.LoadedLayer]
    run: Callable[[native.LoadedLayer], None]
    blobs: Sequence[Blob]


def _timed(trial: _Trial, rounds: int, clock: _Clock) -> tuple[float, float]:
    """Least seconds of loading and of running."""
    loads, runs = [], []
    for _ in range(rounds):
        begin = clock()
        loaded = trial.load()
        middle = clock()
        trial.run(loaded)
        end = clock()
        loaded.close()
        loads.append(middle - begin)
        runs.append(end - middle)
    return min(loads), min(runs)


def _memory(trial: _Trial, clock: _Clock) -> tuple[tuple[int, int, int, int], tuple[float, float]]:
    """Bytes kept, and at most in use while loading, while running, and over both on a heap that keeps.

    Returns:
        Those four, and the seconds of loading and running in the last round.
    """
    with heap.return_freed_memory():
        idle = process_memory.resident_bytes()
        process_memory.reset_peak()
        loaded = trial.load()
        load_peak = process_memory.peak_bytes()
        heap.trim()  # what was free in the heap before may have been used, and freed, again
        kept = process_memory.resident_bytes()
        process_memory.reset_peak()
        trial.run(loaded)
        run_peak = process_memory.peak_bytes()
        loaded.close()
    heap.trim()
    before = process_memory.resident_bytes()
    process_memory.reset_peak()
    seconds = _timed(trial, 1, clock)
    stream_peak = process_memory.peak_bytes()
    grown = (kept - idle, load_peak - idle, run_peak - kept, stream_peak - before)
    return (max(0, grown[0]), max(0, grown[1]), max(0, grown[2]), max(0, grown[3])), seconds
