"""One walk through a network: how every layer runs, and what its kernels hold; each layer is computed on the way."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy.typing as npt

from flexnn_ncnn.errors import ProfileError
from flexnn_ncnn.preparing.assemble import layer_part
from flexnn_ncnn.profiling.bench import Bench
from flexnn_ncnn.profiling.blobs import LiveBlobs
from flexnn_ncnn.profiling.compute import Computed, compute_layer
from flexnn_ncnn.profiling.cutting import layer_axis, part_layouts, part_spans, small_part_units
from flexnn_ncnn.profiling.facts import KernelFacts, LayerFacts, PartMemory, Span
from flexnn_ncnn.profiling.kernels import candidate_kernels
from flexnn_ncnn.profiling.known import KnownLoads
from flexnn_ncnn.profiling.memory import Subject, measure_kernel
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
    """

    def __init__(self, bench: Bench, inputs: Mapping[str, npt.NDArray[Any]], loads: KnownLoads) -> None:
        self._loads, self._bench, self._model = loads, bench, bench.model
        graph = bench.model.model
        self._blobs = LiveBlobs(graph, inputs, bench)
        self._shapes = infer_shapes(graph, {blob: _shape_of(self._blobs.layout(blob)) for blob in graph.input_blobs})
        self._known: dict[Hashable, LayerFacts] = {}

    def layer(self, index: int) -> tuple[LayerFacts, Computed]:
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
        return facts, computed

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
        raw_bytes = sum(array.stored_bytes for array in arrays)
        axis = layer_axis(self._model, index, self._blobs.layout(layer.inputs[0]))
        spans: tuple[Span, ...] = ((0, 1),)
        small_units = 0
        if axis is not None:
            spans = part_spans(axis, raw_bytes, bench.limits.part_bytes)
            small_units = small_part_units(axis, spans[0][1])
        kernels = candidate_kernels(layer, self._blobs.layout(layer.inputs[0]), bench.options)
        encodings = tuple(array.encoding for array in arrays)
        inputs = tuple(map(self._blobs.layout, layer.inputs))
        alike = (layer.type, tuple(layer.params.items()), encodings, inputs, spans)
        if alike in self._known:
            return replace(self._known[alike], index=index, layer=layer)
        outputs, bottoms = self._outputs(index, layer, axis, spans[0], kernels[0])
        subject = Subject(index, layer, axis, outputs, tuple(mat for mat, _ in bottoms))
        self._known[alike] = LayerFacts(
            index=index,
            layer=layer,
            mode=outputs.mode,
            input_layouts=tuple(map(native.layout_of, subject.bottoms)),
            output_layouts=part_layouts(outputs.layouts, axis, axis.units if axis else 1),
            raw_bytes=raw_bytes,
            axis=axis,
            spans=spans,
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

    def _outputs(
        self, index: int, layer: Layer, axis: Axis | None, span: Span, kernel: str
    ) -> tuple[Outputs, list[tuple[native.Mat, Any]]]:
        """How a layer, or its part `span`, leaves its outputs, and its inputs as it wants them with their owners."""
        part = layer_part(self._model, index, axis, *span)
        params, option = native.make_params(part.params), self._bench.option(kernel)
        loaded = native.LoadedLayer(layer.type, params, self._bench.source.load(part.pieces), option, layer.name)
        bottoms = []
        for blob in layer.inputs:
            layout = native.wanted_layout(self._blobs.layout(blob), loaded, self._bench.options, kernel)
            bottoms.append(self._blobs.wanted(blob, layout))
        mats = [mat for mat, _ in bottoms]
        if part.reads[1]:
            mats = [native.channels_of(mats[0], *part.reads)]
        found = discover_outputs(layer.type, loaded, mats, [self._shapes.get(blob) for blob in layer.outputs])
        loaded.close()
        return found, bottoms


def _plain(
    index: int, layer: Layer, mode: str, inputs: Sequence[BlobLayout], outputs: Sequence[BlobLayout] = ()
) -> LayerFacts:
    """A layer that has no kernels of ncnn's."""
    return LayerFacts(index, layer, mode, tuple(inputs), tuple(outputs), 0, None, ((0, 1),), 0, (), index)


def _holding(held_bytes: int) -> KernelFacts:
    """A kernel that holds so much of the heap while it computes."""
    return KernelFacts("default", False, (PartMemory(1, 0, held_bytes, 0, held_bytes),))


def _shape_of(layout: BlobLayout) -> BlobShape:
    flat = layout.with_elempack(1)
    return BlobShape(flat.dims, flat.w, flat.h, flat.d, flat.c)
