"""Convolution by output channels or by output rows; its 1-D, 3-D and deformable kin by output channels.

A slice is a convolution of its own as long as it stays on the whole's kernel: winograd, im2col + GEMM and the
direct kernels sum in different orders. ncnn chooses by the numbers of inputs and outputs
(`Convolution_x86::create_pipeline`, `Convolution_arm::create_pipeline`), hence `least_units`. Sums of int8 weights
are integers, and exact in any kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from param_tools.graph import Layer
from param_tools.schema import array_specs, int_params, with_named_params
from param_tools.shapes import BlobShape
from param_tools.slicing.rows import convolution_rows, may_be_winograd, take_rows
from param_tools.slicing.rule import HINTS, Axis, LayerSlice, find_axis, outputs_axis, take_arrays
from param_tools.slicing.window import convolution_windows

__all__ = ["axes", "least_outputs", "take"]

_BLOB_AXIS = {"Convolution1D": "h"}
_PER_OUTPUT = {"weight": 0, "bias": 0, "weight_scales": 0}


def axes(layer: Layer, inputs: Sequence[BlobShape] = ()) -> tuple[Axis, ...]:
    """`outputs` unless the weights are an input blob, and `rows` of a Convolution whose input shape is known."""
    params = int_params(layer)
    if params.get("dynamic_weight"):
        return ()
    exact = not _hinted_winograd(layer, params)
    found: tuple[Axis, ...] = ()
    if params["num_output"] > 1:
        axis = outputs_axis(layer, _BLOB_AXIS.get(layer.type, "c"))
        found = (replace(axis, exact=axis.exact and exact, least_units=least_outputs(layer)),)
    if layer.type == "Convolution" and inputs:
        rows = convolution_rows(layer, inputs, params["num_output"])
        found += tuple(replace(axis, exact=axis.exact and exact) for axis in rows)
    return found


def take(layer: Layer, axis: str, begin: int, end: int, inputs: Sequence[BlobShape] = ()) -> LayerSlice:
    """The convolution of outputs or of output rows [begin, end)."""
    known = axes(layer, inputs)
    if axis == "rows" and inputs and (windows := convolution_windows(layer, inputs[0])):
        return take_rows(layer, windows, known, begin, end)
    find_axis(layer, known, axis, begin, end)
    specs = array_specs(layer)
    size = specs[0].count // specs[0].dims[0] * (end - begin)
    part = with_named_params(layer, num_output=end - begin, weight_data_size=size)
    return LayerSlice(part, take_arrays(specs, _PER_OUTPUT, begin, end), axis, begin, end)


def least_outputs(layer: Layer) -> int:
    """The fewest outputs of a slice that ncnn computes with the same kernel as the whole layer.

    The thresholds are those of x86 and arm64 together, so that one sliced file keeps its kernels on both.
    """
    params = int_params(layer)
    if layer.type != "Convolution" or params["int8_scale_term"]:
        return 1
    outputs, kernel, stride = params["num_output"], params["kernel_w"], params["stride_w"]
    inputs = array_specs(layer)[0].dims[1]
    square = kernel == params["kernel_h"] and stride == params["stride_h"]
    if not square or kernel == 1:
        thresholds = [(inputs <= 16 and kernel * params["kernel_h"] > 1, 17)]
    elif (kernel, stride) == (3, 1):
        # winograd 63 up to 32 x 32 (x86) or 128 x 128 (arm), 43 over that, 23 or none with very few
        thresholds = [(True, 16), (inputs <= 16, 17), (inputs <= 32, 33), (inputs <= 128, 129)]
    else:
        # GEMM over 16; arm has direct kernels for few outputs of 3x3 and 5x5 with stride 2
        thresholds = [(inputs <= 16, 17), ((kernel, stride) == (3, 2), 32), ((kernel, stride) == (5, 2), 44)]
    return max((least for holds, least in thresholds if holds and outputs >= least), default=1)


def _hinted_winograd(layer: Layer, params: Mapping[str, int]) -> bool:
    """Whether shape hints choose the kernel, by a table of ncnn's that a slice would look up elsewhere."""
    return (
        layer.type == "Convolution"
        and HINTS in layer.params
        and may_be_winograd(params)
        and not params["int8_scale_term"]
    )
