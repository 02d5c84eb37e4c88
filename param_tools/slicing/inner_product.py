"""InnerProduct by outputs: every output is a dot product of its own."""

from __future__ import annotations

from collections.abc import Sequence

from param_tools.graph import Layer
from param_tools.schema import array_specs, int_params, with_named_params
from param_tools.shapes import BlobShape
from param_tools.slicing.rule import Axis, LayerSlice, find_axis, interleaved_axis, take_arrays

__all__ = ["axes", "take"]

_PER_OUTPUT = {"weight": 0, "bias": 0, "weight_scales": 0}


def axes(layer: Layer, inputs: Sequence[BlobShape] = ()) -> tuple[Axis, ...]:
    """`outputs`."""
    outputs = int_params(layer)["num_output"]
    return (interleaved_axis("outputs", outputs, "w"),) if outputs > 1 else ()


def take(layer: Layer, axis: str, begin: int, end: int, inputs: Sequence[BlobShape] = ()) -> LayerSlice:
    """The layer of outputs [begin, end)."""
    find_axis(layer, axes(layer), axis, begin, end)
    specs = array_specs(layer)
    size = specs[0].dims[1] * (end - begin)
    part = with_named_params(layer, num_output=end - begin, weight_data_size=size)
    return LayerSlice(part, take_arrays(specs, _PER_OUTPUT, begin, end), axis, begin, end)
