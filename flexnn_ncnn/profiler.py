"""Measure a model layer by layer on this machine, holding one layer's weights at a time.

The walk computes the network once, slice by slice where a layer is large, and measures every kernel worth having on
the way: time by calls on a warm heap, memory by the growth of the resident set with every allocation mapped alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt

from flexnn_ncnn.assemble import layer_part, layer_slabs, slab_windows, streaming_axis, unpadded
from flexnn_ncnn.errors import InputError, ProfileError
from flexnn_ncnn.kernel_candidates import candidate_kernels
from flexnn_ncnn.layer_bench import KernelBench, LayerRun, Measured, discover_outputs, slab_cost
from flexnn_ncnn.layout import BlobLayout, align_up
from flexnn_ncnn.options import RunOptions
from flexnn_ncnn.plan import Part
from flexnn_ncnn.profile import KernelCost, LayerProfile, Linear, ModelProfile, RowWindow, SlabCost
from flexnn_ncnn.profiling.scratch import ScratchRegion
from flexnn_ncnn.runtime import heap, native, process_memory
from flexnn_ncnn.runtime.blob_memory import Blob
from flexnn_ncnn.runtime.gather import gathered_rows
from flexnn_ncnn.runtime.weight_source import WeightSource
from param_tools.graph import Layer
from param_tools.model_io import NcnnModel
from param_tools.schema import int_params
from param_tools.shapes import BlobShape, infer_shapes
from param_tools.slicing.policy import cuts
from param_tools.slicing.rows import may_be_winograd
from param_tools.slicing.rule import Axis

__all__ = ["ProfileLimits", "profile_model"]

Progress = Callable[[int, int], None]

# a layer whose weights are fewer is not worth slicing
_SLICE_FROM_BYTES = 64 * 1024
_CUT_CHANNELS_FROM_BYTES = 512 * 1024
# a workspace that is less is not worth computing by slabs of rows
_SLABS_FROM_BYTES = 200 * 1024
_SLABS_MEASURED = 4
_LEAST_OUTPUTS = 32
# ncnn's widest packing
_LANES = 16
# winograd computes tiles of 2, 4 or 6 rows
_WINOGRAD_ROWS = 12


@dataclass(frozen=True, slots=True)
class ProfileLimits:
    """What profiling may cost.

    Attributes:
        part_bytes: most raw weights held at once where a layer can be sliced.
        rounds: timed repetitions; the fastest counts.
    """

    part_bytes: int = 16_000_000
    rounds: int = 2


def profile_model(
    model: NcnnModel,
    model_id: str,
    machine: str,
    inputs: Mapping[str, npt.NDArray[Any]],
    options: RunOptions,
    limits: ProfileLimits | None = None,
    progress: Progress | None = None,
) -> ModelProfile:
    """Profile `model` on `inputs`.

    Args:
        model: the opened files.
        model_id: their identity, kept in the profile.
        machine: fingerprint of this machine, kept in the profile.
        inputs: an array per input blob, float32 or int32, outermost dimension first.
        options: how to compute.
        limits: what it may cost.
        progress: called with (layers done, layers in all).

    Raises:
        InputError: an input is missing or has a shape that the network cannot take.
        ProfileError: a layer cannot be run on its own.
    """
    heap.keep_freed_memory()
    before = process_memory.resident_bytes()
    walk = _Walk(model, inputs, options, limits or ProfileLimits())
    order = [i for i in model.model.topological_order() if model.model.layers[i].type != "Input"]
    layers = []
    for done, index in enumerate(order):
        layers.append(walk.layer(index))
        if progress:
            progress(done + 1, len(order))
    read_rate = walk.read_seconds_per_byte()
    walk.close()
    heap.trim()
    return ModelProfile(
        model_id=model_id,
        machine=machine,
        options=options,
        inputs=tuple((blob, native.layout_of(native.mat_from_array(array))) for blob, array in inputs.items()),
        outputs=tuple(blob for blob in model.model.output_blobs if blob not in inputs),
        layers=tuple(layers),
        read_seconds_per_byte=read_rate,
        base_bytes=max(0, process_memory.resident_bytes() - before),
    )


class _Walk:
    """The state of one profiling walk: the blobs that are alive, and the weights."""

    def __init__(
        self, model: NcnnModel, inputs: Mapping[str, npt.NDArray[Any]], options: RunOptions, limits: ProfileLimits
    ) -> None:
        self._model, self._options, self._limits = model, options, limits
        self._source = WeightSource(model.bin_path)
        self._source.read_through()
        self._scratch = ScratchRegion()
        self._inputs = inputs  # the Mats below borrow their memory
        self._mats: dict[str, native.Mat] = {}
        self._owners: dict[str, Any] = {}
        self._costs: dict[object, KernelCost] = {}
        self._readers = {blob: len(readers) for blob, readers in model.model.consumers.items()}
        for blob in model.model.input_blobs:
            if blob not in inputs:
                raise InputError(f"no input is given for blob {blob!r}")
            self._mats[blob] = native.mat_from_array(inputs[blob])
        self._shapes = infer_shapes(
            model.model, {blob: _shape_of(native.layout_of(mat)) for blob, mat in self._mats.items()}
        )

    def layer(self, index: int) -> LayerProfile:
        """Measure one layer, and compute it for those that follow."""
        layer = self._model.model.layers[index]
        special = {"Split": self._split, "MemoryData": self._constant, "Embed": self._gather}
        found = special.get(layer.type, self._computed)(index, layer)
        for blob in layer.inputs:
            self._readers[blob] -= 1
            if not self._readers[blob]:
                self._mats.pop(blob)
                self._owners.pop(blob, None)
        return found

    def read_seconds_per_byte(self) -> float:
        """Time to map weights that are in the page cache."""
        weighted = [i for i, arrays in enumerate(self._model.weights.arrays) if arrays]
        pieces = [piece for index in weighted for piece in layer_part(self._model, index).pieces]
        if not pieces:
            return 0.0
        largest = max(pieces, key=lambda piece: piece.stored_bytes)
        sample = replace(largest, count=min(largest.count, self._limits.part_bytes // 4))
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            self._source.load([sample])
            times.append(time.perf_counter() - begin)
        return min(times) / max(1, sample.stored_bytes)

    def close(self) -> None:
        """Let go of blobs and file."""
        self._mats.clear()
        self._owners.clear()
        self._source.close()

    def _split(self, index: int, layer: Layer) -> LayerProfile:
        (source,) = layer.inputs
        for blob in layer.outputs:
            self._mats[blob], self._owners[blob] = self._mats[source], self._owners.get(source)
        return self._record(index, "alias", [native.layout_of(self._mats[source])], 0, ())

    def _constant(self, index: int, layer: Layer) -> LayerProfile:
        (piece,) = layer_part(self._model, index).pieces
        shape = self._shapes[layer.outputs[0]]
        if shape is None:
            raise ProfileError(f"layer {layer.name!r}: the size of its constant is not stated")
        blob = Blob.alone(BlobLayout(shape.dims, shape.w, shape.h, shape.d, shape.c, 4, 1))
        begin = time.perf_counter()
        native.fill_blob(blob.mat, self._source.load([piece])[0])
        cost = _flat_cost(time.perf_counter() - begin, 0)
        self._keep(layer.outputs[0], blob)
        return self._record(index, "constant", [], 0, (cost,))

    def _gather(self, index: int, layer: Layer) -> LayerProfile:
        ids = native.mat_to_array(self._mats[layer.inputs[0]])
        begin = time.perf_counter()
        rows, params, renumbered = gathered_rows(self._source, layer_part(self._model, index), ids)
        option = native.make_option(self._options)
        loaded = native.LoadedLayer(layer.type, native.make_params(params), rows, option, layer.name)
        top = native.empty_mat()
        loaded.forward(native.mat_from_array(renumbered), top)
        seconds = time.perf_counter() - begin
        blob = Blob.alone(native.layout_of(top))
        native.copy_blob(top, blob.mat)
        loaded.close()
        self._keep(layer.outputs[0], blob)
        rows_bytes = sum(row.nbytes for row in rows)
        wanted = [native.layout_of(native.mat_from_array(renumbered))]
        # the rows as read, joined, and once more while a new output is made
        return self._record(index, "gather", wanted, rows_bytes, (_flat_cost(seconds, 3 * rows_bytes),))

    def _computed(self, index: int, layer: Layer) -> LayerProfile:
        axis = self._axis(index)
        raw_bytes = sum(array.stored_bytes for array in self._model.weights.arrays[index])
        spans: Sequence[tuple[int, int]] = [(0, 1)]
        if axis is not None:
            unit_bytes = max(1, raw_bytes // axis.units)
            spans = cuts(axis.units, axis.granularity, unit_bytes, self._limits.part_bytes, axis.least_units, axis.odd)
        kernels = candidate_kernels(layer, self._options)
        parts = [layer_part(self._model, index, axis, begin, end) for begin, end in spans]
        with LayerRun(layer, parts[0], kernels[0], self._options, self._source) as run:
            bottoms = [self._as_wanted(blob, run.loaded, kernels[0]) for blob in layer.inputs]
            mats = [mat for mat, _ in bottoms]
            first = [native.channels_of(mats[0], *parts[0].reads)] if parts[0].reads[1] else mats
            mode, tops = discover_outputs(run, first, [self._shapes.get(blob) for blob in layer.outputs])
        bench = KernelBench(layer, self._options, self._source, mode, mats, self._scratch)
        costs = tuple(self._cost(bench, index, axis, spans[0], kernel, tops) for kernel in kernels)
        self._compute(layer, mode, kernels[0], axis, parts, bottoms, tops)
        return self._record(index, mode, [native.layout_of(mat) for mat in mats], raw_bytes, costs, axis)

    def _cost(
        self,
        bench: KernelBench,
        index: int,
        axis: Axis | None,
        span: tuple[int, int],
        kernel: str,
        tops: Sequence[BlobLayout],
    ) -> KernelCost:
        """The cost of `kernel` as a line through the first part and, where it can be cut, half of it.

        Layers that differ in their weights alone cost the same and are measured once.
        """
        layer = self._model.model.layers[index]
        encodings = tuple(array.encoding for array in self._model.weights.arrays[index])
        key = (layer.type, tuple(layer.params.items()), encodings, bench.inputs, tuple(tops), span, kernel)
        if key not in self._costs:
            self._costs[key] = self._measured_cost(bench, index, axis, span, kernel, tops)
        return self._costs[key]

    def _measured_cost(
        self,
        bench: KernelBench,
        index: int,
        axis: Axis | None,
        span: tuple[int, int],
        kernel: str,
        tops: Sequence[BlobLayout],
    ) -> KernelCost:
        rounds = self._limits.rounds
        part = layer_part(self._model, index, axis, *span)
        whole = bench.measure(part, kernel, rounds, tops)
        slabs = self._slab_cost(bench, index, part, kernel, tops, whole)
        if axis is None:
            return whole.as_cost(kernel, slabs=slabs)
        units = span[1] - span[0]
        half = max(axis.least_units, units // 2) // axis.granularity * axis.granularity
        if axis.odd and half // axis.granularity % 2 == 0:
            half -= axis.granularity
        if not 0 < half < units:
            return whole.as_cost(kernel, units, slabs=slabs)
        half_part = layer_part(self._model, index, axis, span[0], span[0] + half)
        piece = bench.measure_like(whole, half_part, kernel, [_extent(tops[0], axis.blob_axis, half)])
        return whole.as_cost(kernel, units, piece, half, slabs)

    def _slab_cost(
        self, bench: KernelBench, index: int, part: Part, kernel: str, tops: Sequence[BlobLayout], whole: Measured
    ) -> SlabCost | None:
        """What slabs of rows would cost, where the workspace is worth making smaller."""
        layer = self._model.model.layers[index]
        windows = slab_windows(layer, bench.inputs[0]) if bench.mode == "forward" and bench.inputs else None
        if windows is None or whole.run_peak_bytes < _SLABS_FROM_BYTES:
            return None
        winograd = layer.type == "Convolution" and kernel != "sgemm" and may_be_winograd(int_params(layer))
        granularity = _WINOGRAD_ROWS if winograd else 1
        rows = align_up(-(-windows[1].outputs // _SLABS_MEASURED), granularity)
        slabs = layer_slabs(layer, bench.inputs[0], rows)
        if not slabs:
            return None
        cut = bench.measure_like(whole, unpadded(layer.type, part), kernel, tops, slabs)
        return slab_cost(whole, cut, slabs, granularity)

    def _compute(
        self,
        layer: Layer,
        mode: str,
        kernel: str,
        axis: Axis | None,
        parts: Sequence[Part],
        bottoms: Sequence[tuple[native.Mat, Any]],
        tops: Sequence[BlobLayout],
    ) -> None:
        """Compute the layer for those that follow."""
        mats = [mat for mat, _ in bottoms]
        if axis is None:
            with LayerRun(layer, parts[0], kernel, self._options, self._source) as run:
                found = run.outputs(mode, mats, tops)
            for blob, (mat, owner) in zip(layer.outputs, found, strict=True):
                self._mats[blob], self._owners[blob] = mat, (owner, bottoms)
            return
        whole = Blob.alone(_extent(tops[0], axis.blob_axis, axis.units))
        for part in parts:
            with LayerRun(layer, part, kernel, self._options, self._source) as run:
                target = whole.part(axis.blob_axis, part.begin, part.end)
                top = target.mat
                run.loaded.forward(native.channels_of(mats[0], *part.reads) if part.reads[1] else mats[0], top)
                target.store(top)
        self._keep(layer.outputs[0], whole)

    def _axis(self, index: int) -> Axis | None:
        axis = streaming_axis(self._model, index)
        if axis is None:
            return None
        # More only matters to the last bit: Arm's winograd takes other tiles from 128 outputs on.
        axis = replace(axis, least_units=min(axis.least_units, _LEAST_OUTPUTS))
        if axis.blob_axis == "c":  # slices that are packed like the whole
            axis = replace(axis, granularity=math.gcd(axis.units, _LANES), odd=axis.units % _LANES != 0)
        layer = self._model.model.layers[index]
        bottom = native.layout_of(self._mats[layer.inputs[0]])
        weight_bytes = sum(array.stored_bytes for array in self._model.weights.arrays[index])
        if axis.name == "channels":
            # few weights, but a padded copy of the whole input as workspace
            return axis if bottom.dims == 3 and bottom.size_bytes >= _CUT_CHANNELS_FROM_BYTES else None
        # InnerProduct makes a matrix of a matrix, with its outputs as columns
        of_matrix = layer.type == "InnerProduct" and bottom.dims == 2
        return axis if weight_bytes >= _SLICE_FROM_BYTES and not of_matrix else None

    def _as_wanted(self, blob: str, loaded: native.LoadedLayer, kernel: str) -> tuple[native.Mat, Any]:
        """The blob as the layer wants it, and what keeps its memory alive."""
        mat = self._mats[blob]
        have = native.layout_of(mat)
        wanted = native.wanted_layout(have, loaded, self._options, kernel)
        if wanted == have:
            return mat, self._owners.get(blob)
        copy = Blob.alone(wanted)
        native.convert(mat, copy.mat, native.make_option(self._options))
        return copy.mat, copy

    def _keep(self, name: str, blob: Blob) -> None:
        self._mats[name], self._owners[name] = blob.mat, blob

    def _record(
        self,
        index: int,
        mode: str,
        input_layouts: Sequence[BlobLayout],
        raw_bytes: int,
        costs: tuple[KernelCost, ...],
        axis: Axis | None = None,
    ) -> LayerProfile:
        layer = self._model.model.layers[index]
        return LayerProfile(
            index=index,
            type=layer.type,
            name=layer.name,
            mode=mode,
            inputs=layer.inputs,
            outputs=layer.outputs,
            input_layouts=tuple(input_layouts),
            output_layouts=tuple(native.layout_of(self._mats[blob]) for blob in layer.outputs),
            raw_bytes=raw_bytes,
            units=axis.units if axis else 1,
            granularity=axis.granularity if axis else 1,
            least_units=axis.least_units if axis else 1,
            blob_axis=axis.blob_axis if axis else "",
            window=_row_window(layer, input_layouts) if mode == "forward" else None,
            kernels=costs,
        )


def _shape_of(layout: BlobLayout) -> BlobShape:
    flat = layout.with_elempack(1)
    return BlobShape(flat.dims, flat.w, flat.h, flat.d, flat.c)


def _row_window(layer: Layer, bottoms: Sequence[BlobLayout]) -> RowWindow | None:
    windows = slab_windows(layer, bottoms[0]) if bottoms else None
    return None if windows is None else RowWindow(windows[1].extent, windows[1].stride, windows[1].outputs)


def _extent(layout: BlobLayout, axis: str, units: int) -> BlobLayout:
    """`layout` with `units` values along `axis`, packed as far as they can be."""
    flat = replace(layout.with_elempack(1), **{axis: units})
    return flat.with_elempack(math.gcd(flat.packed_extent, layout.elempack))


def _flat_cost(seconds: float, held_bytes: int) -> KernelCost:
    nothing, held = Linear(0.0, 0.0), Linear(float(held_bytes), 0.0)
    return KernelCost("default", False, nothing, Linear(seconds, 0.0), nothing, held, nothing, held, None, held)
