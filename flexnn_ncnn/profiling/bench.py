"""Loading and computing parts of layers, as the executor does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.preparing.assemble import slab_padding
from flexnn_ncnn.profiling.facts import KernelFacts, ProfileLimits, Span
from flexnn_ncnn.profiling.pool import BlobPool
from flexnn_ncnn.profiling.room import Room
from flexnn_ncnn.profiling.scratch import ScratchRegion
from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.records.options import KERNELS, RunOptions
from flexnn_ncnn.records.plan import Part, Slab, WeightPiece
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.memory import heap, process_memory
from flexnn_ncnn.runtime.memory.blob_memory import LIST_MODES, Blob, output_mat
from flexnn_ncnn.runtime.memory.code_pages import forget_code
from flexnn_ncnn.runtime.slabs import forward_slabs, slab_views
from flexnn_ncnn.runtime.weights.weight_source import WeightSource
from param_tools.graph import Layer
from param_tools.model_io import NcnnModel

__all__ = ["Bench", "PartRun", "own_arrays", "run_into"]

_COPIED_AT_ONCE = 1 << 18  # values
# within less, what lies in a huge page beside what is used is worth giving back
_HUGE_FROM_BYTES = 32_000_000


class Bench:
    """What all measurements of a model share.

    Args:
        model: its files.
        options: how to compute.
        limits: what it may cost.

    Attributes:
        source: where the weights are.
        scratch: where layers allocate while they compute.
        pool: where blobs lie.
        room: memory that may be held.
        parts: those computed before, by index of the layer and output units.
        clock: of this thread, which other processes do not disturb; with several threads there is no such clock.
    """

    def __init__(self, model: NcnnModel, options: RunOptions, limits: ProfileLimits) -> None:
        self.model, self.options, self.limits = model, options, limits
        self.source = WeightSource(model.bin_path)
        self.scratch, self.pool = ScratchRegion(), BlobPool()
        self.clock = time.thread_time if options.num_threads == 1 else time.perf_counter
        self.room = Room(limits.bound_bytes, limits.idle_bytes or process_memory.resident_bytes())
        self.parts: dict[tuple[int, Span], Part] = {}
        self._weightless: dict[object, native.LoadedLayer] = {}
        self._options = {kernel: native.make_option(options, kernel) for kernel in KERNELS}
        self._run_options = {
            kernel: self.scratch.allocator.attach(native.make_option(options, kernel)) for kernel in KERNELS
        }

    def allocator(self, layer: Layer) -> native.ScratchAllocator | None:
        """What the layer allocates from while it computes; None is the heap."""
        calls_back = native.may_call_back(layer.type, self.options.num_threads)
        return self.scratch.allocator if calls_back else None

    def option(self, kernel: str) -> native.Option:
        """To load with."""
        return self._options[kernel]

    def run_option(self, kernel: str, layer: Layer) -> native.Option:
        """To compute with."""
        return (self._options if self.allocator(layer) is None else self._run_options)[kernel]

    def blob(self, layout: BlobLayout, layer: Layer) -> Blob:
        """A blob that `layer` writes to."""
        return self.pool.blob(layout, self.allocator(layer))

    def begin_timing(self) -> None:
        """From now on blobs and workspace lie in memory as they do in a run."""
        huge = not self.room.gave_back or (self.limits.bound_bytes or 0) >= _HUGE_FROM_BYTES
        self.pool.space.renew(huge=huge)
        self.scratch.space.renew(huge=huge)

    def make_room(self, need_bytes: int) -> None:
        """Give back what is free if there is no room for so much."""
        if self.room.left_bytes >= need_bytes:
            return
        self._give_back()
        self.room.gave_back = True
        if self.room.left_bytes < need_bytes:
            forget_code()

    def warm(self, run: PartRun, kernel: KernelFacts) -> None:
        """Have in memory what a part allocates, if it may have been given back: in a run it is there."""
        if not self.room.gave_back:
            return
        self.scratch.warm(kernel.scratch_bytes)
        if run.part.pieces:
            run.load(self.source.load(run.part.pieces)).close()
            heap.join_tiny_blocks()  # or the next load might not fit where this one was

    def _give_back(self) -> None:
        self.pool.give_back()
        self.scratch.give_back()
        heap.trim()

    def weightless(self, run: PartRun) -> native.LoadedLayer:
        """A part without weights, loaded when it is asked for first, and kept."""
        loaded = self._weightless.get(run.key)
        if loaded is None:
            loaded = self._weightless[run.key] = run.load(())
        return loaded

    def close(self) -> None:
        """Let go of layers and file."""
        for loaded in self._weightless.values():
            loaded.close()
        self._weightless = {}
        self._run_options = {}
        self.source.close()


class PartRun:
    """One part of a layer with one kernel, to be loaded and computed as often as it takes.

    Args:
        bench: what measurements share.
        layer: for its type and name.
        part: what to load.
        kernel: a name in `flexnn_ncnn.records.options.KERNELS`.

    Attributes:
        part: what to load.
        key: equal for the same part of the same layer.
    """

    def __init__(self, bench: Bench, layer: Layer, part: Part, kernel: str) -> None:
        self._layer, self._params = layer, native.make_params(part.params)
        self._option, self._run_option = bench.option(kernel), bench.run_option(kernel, layer)
        self.part, self.key = part, (layer.name, layer.type, kernel, part)

    def load(self, arrays: Sequence[npt.NDArray[Any]]) -> native.LoadedLayer:
        """The part loaded; to be closed."""
        return native.LoadedLayer(
            self._layer.type, self._params, arrays, self._option, self._layer.name, self._run_option
        )

    def by_slabs(self, loaded: native.LoadedLayer, slabs: Sequence[Slab], bottom: native.Mat, top: native.Mat) -> None:
        """Compute some slabs of rows; the part leaves padding to its caller."""
        views = slab_views(slabs, self.read(bottom), top)
        forward_slabs(loaded, views, slab_padding(self._layer), self._run_option)

    def read(self, bottom: native.Mat) -> native.Mat:
        """What the part reads of its layer's input."""
        return native.channels_of(bottom, *self.part.reads) if self.part.reads[1] else bottom


def run_into(loaded: native.LoadedLayer, mode: str, bottoms: Sequence[native.Mat], blobs: Sequence[Blob]) -> None:
    """Compute a layer into blobs that are there already.

    Args:
        loaded: the layer.
        mode: see `flexnn_ncnn.records.plan.Step`; one in which it writes to memory.
        bottoms: its inputs; of a layer that works in place it may be the output's own Mat.
        blobs: its outputs.
    """
    if mode == "overlay":
        loaded.forward_list(list(bottoms), [blobs[0].mat])
    elif mode in LIST_MODES:
        loaded.forward_list(list(bottoms), [output_mat(blob, mode) for blob in blobs])
    elif mode == "inplace":
        if bottoms[0] is not blobs[0].mat:
            native.copy_blob(bottoms[0], blobs[0].mat)
        loaded.forward_inplace(blobs[0].mat)
    elif mode == "fresh":
        top = native.empty_mat()
        loaded.forward(bottoms[0], top)
        native.copy_blob(top, blobs[0].mat)
    else:
        loaded.forward(bottoms[0], blobs[0].mat)


def own_arrays(bench: Bench, part: Part) -> list[npt.NDArray[Any]]:
    """A part's weights in memory of our own, so that loading it faults nothing in; no second copy is held meanwhile."""
    return [_own_array(bench.source, piece) for piece in part.pieces]


def _own_array(source: WeightSource, piece: WeightPiece) -> npt.NDArray[Any]:
    if piece.count <= _COPIED_AT_ONCE:
        return np.array(source.load([piece])[0])
    array = np.empty(piece.count, np.int8 if piece.encoding == "int8" else np.float32)
    for begin in range(0, piece.count, _COPIED_AT_ONCE):
        count = min(_COPIED_AT_ONCE, piece.count - begin)
        before = replace(piece, count=begin).stored_bytes
        array[begin : begin + count] = source.load(
            [replace(piece, offset_bytes=piece.offset_bytes + before, count=count)]
        )[0]
    return array
