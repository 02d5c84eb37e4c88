"""Convolution and its 1-D, 3-D and deformable kin by output channels.

A slice is a convolution of its own as long as it stays on the whole's kernel: winograd, im2col + GEMM and the
direct kernels sum in different orders. ncnn chooses by the numbers of inputs and outputs
(`Convolution_x86::create_pipeline`, `Convolution_arm::create_pipeline`), hence `least_units`.
"""

from __future__ import annotations

from param_tools.graph import Layer
from param_tools.schema import array_specs, int_params, with_named_params
from param_tools.slicing.rule import LANES, Axis, LayerSlice, find_axis, take_arrays

__all__ = ["axes", "take"]

_BLOB_AXIS = {"Convolution1D": "h"}
_HINTS = 30
_PER_OUTPUT = {"weight": 0, "bias": 0, "weight_scales": 0}


def axes(layer: Layer) -> tuple[Axis, ...]:
    """`outputs`, unless the weights are an input blob."""
    params = int_params(layer)
    if params.get("dynamic_weight") or params["num_output"] <= 1:
        return ()
    return (
        Axis(
            "outputs",
            params["num_output"],
            LANES,
            exact=True,
            blob_axis=_BLOB_AXIS.get(layer.type, "c"),
            least_units=least_outputs(layer),
        ),
    )


def take(layer: Layer, axis: str, begin: int, end: int) -> LayerSlice:
    """The convolution of outputs [begin, end)."""
    find_axis(layer, axes(layer), axis, begin, end)
    specs = array_specs(layer)
    size = specs[0].count // specs[0].dims[0] * (end - begin)
    part = with_named_params(layer, num_output=end - begin, weight_data_size=size).with_params({_HINTS: None})
    return LayerSlice(part, take_arrays(specs, _PER_OUTPUT, begin, end), axis, begin, end)


def least_outputs(layer: Layer) -> int:
    """The fewest outputs of a slice that ncnn computes with the same kernel as the whole layer.

    The thresholds are those of x86 and arm64 together, so that one sliced file keeps its kernels on both.
    """
    params = int_params(layer)
    if layer.type != "Convolution":
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
