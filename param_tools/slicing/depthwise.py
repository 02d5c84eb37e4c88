"""Grouped and depthwise convolutions by channel groups, with their input channels, or by output rows."""

from __future__ import annotations

from collections.abc import Sequence

from param_tools.graph import Layer
from param_tools.schema import array_specs, int_params, with_named_params
from param_tools.shapes import BlobShape
from param_tools.slicing.rows import convolution_rows, take_rows
from param_tools.slicing.rule import ArrayTake, Axis, BlobTake, LayerSlice, find_axis, interleaved_axis
from param_tools.slicing.window import convolution_windows

__all__ = ["axes", "take"]

_ONE_DIMENSIONAL = ("ConvolutionDepthWise1D", "DeconvolutionDepthWise1D")


def axes(layer: Layer, inputs: Sequence[BlobShape] = ()) -> tuple[Axis, ...]:
    """`channels`, whose units are the groups, and `rows` of a 2-D convolution whose input shape is known."""
    params = int_params(layer)
    if params.get("dynamic_weight") or len(layer.inputs) != 1:
        return ()
    groups, outputs = params["group"], params["num_output"]
    if groups < 1 or outputs % groups:
        return ()
    # single channels are computed in lanes; groups of several are convolutions of their own inside ncnn
    depthwise = outputs == groups and array_specs(layer)[0].dims[1] == 1
    found: tuple[Axis, ...] = ()
    if groups > 1:
        blob_axis = "h" if layer.type in _ONE_DIMENSIONAL else "c"
        found = (
            interleaved_axis("channels", groups, blob_axis)
            if depthwise
            else Axis("channels", groups, 1, exact=True, blob_axis=blob_axis),
        )
    if layer.type == "ConvolutionDepthWise" and inputs:
        found += convolution_rows(layer, inputs, outputs // groups, plain=depthwise)
    return found


def take(layer: Layer, axis: str, begin: int, end: int, inputs: Sequence[BlobShape] = ()) -> LayerSlice:
    """The convolution of groups or of output rows [begin, end)."""
    known = axes(layer, inputs)
    if axis == "rows" and inputs and (windows := convolution_windows(layer, inputs[0])):
        return take_rows(layer, windows, known, begin, end)
    blob_axis = find_axis(layer, known, axis, begin, end).blob_axis
    params, specs = int_params(layer), array_specs(layer)
    groups, group_outputs, group_inputs = end - begin, params["num_output"] // params["group"], specs[0].dims[1]
    per_group = {"weight": group_outputs, "bias": group_outputs, "weight_scales": 1}
    arrays = tuple(
        ArrayTake(i, 0, begin * per_group[spec.name], end * per_group[spec.name])
        if spec.name in per_group and spec.dims != (1,)
        else ArrayTake(i, 0, 0, spec.dims[0])
        for i, spec in enumerate(specs)
    )
    part = with_named_params(
        layer,
        num_output=groups * group_outputs,
        group=groups,
        weight_data_size=specs[0].count // params["group"] * groups,
    )
    channels = BlobTake(0, blob_axis, begin * group_inputs, end * group_inputs)
    return LayerSlice(part, arrays, axis, begin, end, (channels,))
