"""Deconvolution, 1-D to 3-D, by output channels. Its rows overlap in the output and are not cut."""

from __future__ import annotations

from collections.abc import Sequence

from param_tools.graph import Layer
from param_tools.schema import array_specs, int_params, with_named_params
from param_tools.shapes import BlobShape
from param_tools.slicing.rule import Axis, LayerSlice, find_axis, outputs_axis, take_arrays

__all__ = ["axes", "take"]

_PER_OUTPUT = {"weight": 0, "bias": 0}


def axes(layer: Layer, inputs: Sequence[BlobShape] = ()) -> tuple[Axis, ...]:
    """`outputs`, unless the weights are an input blob."""
    params = int_params(layer)
    if params.get("dynamic_weight") or len(layer.inputs) != 1 or params["num_output"] <= 1:
        return ()
    blob_axis = "h" if layer.type == "Deconvolution1D" else "c"
    return (outputs_axis(layer, blob_axis),)


def take(layer: Layer, axis: str, begin: int, end: int, inputs: Sequence[BlobShape] = ()) -> LayerSlice:
    """The deconvolution of outputs [begin, end)."""
    find_axis(layer, axes(layer), axis, begin, end)
    specs = array_specs(layer)
    size = specs[0].count // specs[0].dims[0] * (end - begin)
    part = with_named_params(layer, num_output=end - begin, weight_data_size=size)
    return LayerSlice(part, take_arrays(specs, _PER_OUTPUT, begin, end), axis, begin, end)
