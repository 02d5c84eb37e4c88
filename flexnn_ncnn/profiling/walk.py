"""One walk through a network: how every layer runs, and what its kernels hold; each layer is computed on the way."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy.typing as npt

from flexnn_ncnn.errors import ProfileError
from flexnn_ncnn.preparing.assemble import layer_part, layer_slabs, slab_padding, slab_windows, unpadded
from flexnn_ncnn.profiling.bench import Bench
from flexnn_ncnn.profiling.blobs import LiveBlobs
from flexnn_ncnn.profiling.compute import Computed, compute_layer
from flexnn_ncnn.profiling.cutting import part_layouts, small_part_units
from flexnn_ncnn.profiling.facts import KernelFacts, LayerFacts, PartMemory, Span
from flexnn_ncnn.profiling.known import KnownLoads
from flexnn_ncnn.profiling.memory import Subject, measure_kernel
from flexnn_ncnn.profiling.needs import Need, need_of, shape_bytes
from flexnn_ncnn.profiling.outputs import Outputs, discover_outputs
from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.runtime import native
from param_tools.graph import Layer
from param_tools.shapes import BlobShape, infer_shapes
from param_tools.slicing.rule import Axis

__all__ = ["Walk"]

# layers that hand over what they are given
_PASSING_ON = ("Split", "Noop")


class Walk:
    """Finds out about one layer after the other, in execution order.

    Args:
        bench: what measurements share.
        inputs: an array per input blob.
        loads: what is known of loading the layers.

    Raises:
        InputError: an input is missing or has a shape that the network cannot take.

    Attributes:
        is_limited: whether a layer was cut finer than it would be if there were no bound.
    """

    def __init__(self, bench: Bench, inputs: Mapping[str, npt.NDArray[Any]], loads: KnownLoads) -> None:
        self._loads, self._bench, self._model = loads, bench, bench.model
        self.is_limited = False
        graph = bench.model.model
        self._blobs = LiveBlobs(graph, inputs, bench)
        self._shapes = infer_shapes(graph, {blob: _shape_of(self._blobs.layout(blob)) for blob in graph.input_blobs})
        self._known: dict[Hashable, LayerFacts] = {}

    def layer(self, index: int) -> LayerFacts:
        """Try a layer, and compute it for those that follow.

        Raises:
            ProfileError: it cannot be run on its own.
        """
        layer = self._model.model.layers[index]
        if layer.type in _PASSING_ON:
            facts = self._passing_on(index, layer)
        elif layer.type == "MemoryData":
            facts = self._constant(index, layer)
        elif layer.type == "Embed":
            count = math.prod(self._blobs.layout(layer.inputs[0]).numpy_shape)
            facts = _plain(index, layer, "gather", [BlobLayout(1, count, 1, 1, 1, 4, 1)])
        else:
            facts = self._computed(index, layer)
        computed = compute_layer(self._bench, facts, 0, self._blobs)
        if facts.mode == "gather":
            facts = self._gathered(facts, computed)
        self._blobs.passed(layer)
        return facts

    def _passing_on(self, index: int, layer: Layer) -> LayerFacts:
        if len(layer.inputs) != 1:
            raise ProfileError(f"layer {layer.name!r}: a {layer.type} of {len(layer.inputs)} blobs cannot be run")
        layout = self._blobs.layout(layer.inputs[0])
        return _plain(index, layer, "alias", [layout], [layout] * len(layer.outputs))

    def _constant(self, index: int, layer: Layer) -> LayerFacts:
        shape = self._shapes[layer.outputs[0]]
        if shape is None:
            raise ProfileError(f"layer {layer.name!r}: the size of its constant is not stated")
        layout = BlobLayout(shape.dims, shape.w, shape.h, shape.d, shape.c, 4, 1)
        return replace(_plain(index, layer, "constant", [], [layout]), kernels=(_holding(0),))

    def _gathered(self, facts: LayerFacts, computed: Computed) -> LayerFacts:
        rows_bytes = computed.samples[0].read_bytes
        return replace(
            facts,
            output_layouts=(self._blobs.layout(facts.layer.outputs[0]),),
            raw_bytes=rows_bytes,
            # the rows as read, joined, and once more while a new output is made
            kernels=(_holding(3 * rows_bytes),),
        )

    def _computed(self, index: int, layer: Layer) -> LayerFacts:
        bench, arrays = self._bench, self._model.weights.arrays[index]
        need = self._need(index, layer)
        raw_bytes, axis, kernels = need.raw_bytes, need.axis, need.kernels
        spans, slab_rows = self._subdivided(need)
        small_units = small_part_units(axis, spans[0][1]) if axis else 0
        encodings = tuple(array.encoding for array in arrays)
        alike = (layer.type, tuple(layer.params.items()), encodings, need.bottoms, spans, slab_rows)
        if alike in self._known:
            return replace(self._known[alike], index=index, layer=layer)
        outputs, bottoms = self._outputs(index, layer, axis, _first(small_units, spans), kernels[0], slab_rows)
        mats = tuple(mat for mat, _ in bottoms)
        subject = Subject(index, layer, axis, outputs, mats, slab_rows, need.bytes_of(spans, slab_rows))
        self._known[alike] = LayerFacts(
            index=index,
            layer=layer,
            mode=outputs.mode,
            input_layouts=tuple(map(native.layout_of, subject.bottoms)),
            output_layouts=part_layouts(outputs.layouts, axis, axis.units if axis else 1),
            raw_bytes=raw_bytes,
            axis=axis,
            spans=spans,
            slab_rows=slab_rows,
            small_units=small_units,
            kernels=tuple(
                measure_kernel(
                    bench, subject, kernel, spans[0], small_units, self._loads.of(layer, raw_bytes, axis, kernel)
                )
                for kernel in kernels
            ),
            alike=alike,
        )
        return self._known[alike]

    def _need(self, index: int, layer: Layer) -> Need:
        bottoms = [self._blobs.layout(blob) for blob in layer.inputs]
        tops = [self._shapes.get(blob) for blob in layer.outputs]
        # of a size that only computing tells it is a guess
        guess = sum(layout.size_bytes for layout in bottoms)
        output_bytes = sum(shape_bytes(top) for top in tops if top is not None) if all(tops) else guess
        return need_of(self._model, index, bottoms, output_bytes, self._bench.options)

    def _subdivided(self, need: Need) -> tuple[tuple[Span, ...], int]:
        """Parts and rows at a time to measure a layer by: as large as limits and room allow."""
        part_bytes, room = self._bench.limits.part_bytes, self._bench.room
        spans, whole_bytes = need.spans(part_bytes), need.bytes_of(need.spans(part_bytes), 0)
        if room.is_bounded:
            self._bench.make_room(whole_bytes)
        if room.left_bytes >= whole_bytes:
            return spans, 0
        found = need.cut(room.left_bytes, part_bytes)
        self.is_limited |= found != (spans, 0)
        return found

    def _outputs(
        self, index: int, layer: Layer, axis: Axis | None, span: Span, kernel: str, slab_rows: int
    ) -> tuple[Outputs, list[tuple[native.Mat, Any]]]:
        """How a layer, or its part `span`, leaves its outputs, and its inputs as it wants them with their owners."""
        part = layer_part(self._model, index, axis, *span)
        if slab_rows:
            part = unpadded(layer.type, part)
        params, option = native.make_params(part.params), self._bench.option(kernel)
        loaded = native.LoadedLayer(layer.type, params, self._bench.source.load(part.pieces), option, layer.name)
        bottoms = []
        for blob in layer.inputs:
            layout = native.wanted_layout(self._blobs.layout(blob), loaded, self._bench.options, kernel)
            bottoms.append(self._blobs.wanted(blob, layout))
        mats = [mat for mat, _ in bottoms]
        if part.reads[1]:
            mats = [native.channels_of(mats[0], *part.reads)]
        if slab_rows:
            found = _outputs_by_slabs(layer, loaded, mats[0], slab_rows, option)
        else:
            found = discover_outputs(layer.type, loaded, mats, [self._shapes.get(blob) for blob in layer.outputs])
        loaded.close()
        return found, bottoms


def _outputs_by_slabs(
    layer: Layer, loaded: native.LoadedLayer, bottom: native.Mat, slab_rows: int, option: native.Option
) -> Outputs:
    """The outputs of a layer loaded without padding, from one slab of its rows."""
    windows, (slab, *_) = (
        slab_windows(layer, native.layout_of(bottom)),
        layer_slabs(layer, native.layout_of(bottom), slab_rows),
    )
    assert windows is not None
    rows = native.rows_of(bottom, slab.first, slab.last)
    # without their padding these may be fewer than a window has, of which ncnn computes nothing
    rows = native.padded(rows, slab.above, slab.below, slab.left, slab.right, slab_padding(layer), option)
    found = discover_outputs(layer.type, loaded, [rows], [None])
    across, down = windows
    return Outputs(found.mode, tuple(replace(one, w=across.outputs, h=down.outputs) for one in found.layouts))


def _first(small_units: int, spans: Sequence[Span]) -> Span:
    """A part that tells how the layer leaves its outputs: a small one, where there is one."""
    return (0, small_units) if small_units else spans[0]


def _plain(
    index: int, layer: Layer, mode: str, inputs: Sequence[BlobLayout], outputs: Sequence[BlobLayout] = ()
) -> LayerFacts:
    """A layer that has no kernels of ncnn's."""
    return LayerFacts(index, layer, mode, tuple(inputs), tuple(outputs), 0, None, ((0, 1),), 0, 0, (), index)


def _holding(held_bytes: int) -> KernelFacts:
    """A kernel that holds so much of the heap while it computes."""
    return KernelFacts("default", False, (PartMemory(1, 0, held_bytes, 0, held_bytes),))


def _shape_of(layout: BlobLayout) -> BlobShape:
    flat = layout.with_elempack(1)
    return BlobShape(flat.dims, flat.w, flat.h, flat.d, flat.c)
