"""The least that profiling a model needs, told before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from flexnn_ncnn.profiling.needs import need_of, shape_bytes
from flexnn_ncnn.profiling.room import MARGIN_BYTES
from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.runtime import native
from param_tools.model_io import NcnnModel
from param_tools.shapes import BlobShape, infer_shapes

__all__ = ["least_bound"]

# code that is not there before the first layer runs, the graph, and what is found out about every layer
_CODE_BYTES, _LAYER_BYTES = 2_500_000, 9_000


def least_bound(model: NcnnModel, inputs: Mapping[str, npt.NDArray[Any]], options: RunOptions) -> tuple[int, str]:
    """Bytes beyond the idle process that suffice to profile a model, and the layer that sets it.

    Args:
        model: its files.
        inputs: an array per input blob.
        options: how to compute.
    """
    graph = model.model
    fed = {blob: native.layout_of(native.mat_from_array(array)) for blob, array in inputs.items()}
    shapes = infer_shapes(graph, {blob: _shape_of(layout) for blob, layout in fed.items()})
    readers = {blob: len(found) for blob, found in graph.consumers.items()}
    live: dict[str, int] = {}
    least, culprit = 0, ""
    for index in graph.topological_order():
        layer = graph.layers[index]
        tops = {blob: _bytes_of(shapes.get(blob)) for blob in layer.outputs}
        needed = sum(tops.values())
        bottoms = [_layout_of(shapes.get(blob)) for blob in layer.inputs]
        if layer.type != "Embed" and bottoms and all(bottoms):
            known = [bottom for bottom in bottoms if bottom is not None]
            needed = need_of(model, index, known, needed, options).least_bytes()
        if sum(live.values()) + needed > least:
            least, culprit = sum(live.values()) + needed, f"profiling layer {layer.name!r} ({layer.type})"
        live |= tops
        for blob in layer.inputs:
            readers[blob] -= 1
            if not readers[blob]:
                live.pop(blob, None)
    return least + _CODE_BYTES + _LAYER_BYTES * len(graph.layers) + MARGIN_BYTES, culprit


def _bytes_of(shape: BlobShape | None) -> int:
    return shape_bytes(shape) if shape is not None else 0


def _layout_of(shape: BlobShape | None) -> BlobLayout | None:
    return None if shape is None else BlobLayout(shape.dims, shape.w, shape.h, shape.d, shape.c, 4, 1)


def _shape_of(layout: BlobLayout) -> BlobShape:
    flat = layout.with_elempack(1)
    return BlobShape(flat.dims, flat.w, flat.h, flat.d, flat.c)
