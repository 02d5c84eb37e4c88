"""Layers that compute each element by itself, by rows: worthwhile between neighbours that are cut by rows."""

from __future__ import annotations

from collections.abc import Sequence

from param_tools.graph import Layer
from param_tools.schema import array_specs, int_params
from param_tools.shapes import BlobShape
from param_tools.slicing.rule import Axis, BlobTake, LayerSlice, find_axis, take_arrays

__all__ = ["APPROXIMATED", "ARITHMETIC", "PER_CHANNEL", "axes", "take"]

_EXACT_OPERATIONS = (0, 1, 2, 4, 5, 7)  # + - * max min, and - with operands swapped

ARITHMETIC = ("AbsVal", "Clip", "Dropout", "Eltwise", "HardSigmoid", "HardSwish", "Noop", "ReLU", "Shrink", "Threshold")
"""Types of a few exact operations per element."""

APPROXIMATED = (
    *("BinaryOp", "BNLL", "CELU", "ELU", "Erf", "Exp", "GELU", "Log", "Mish", "Power", "SELU", "Sigmoid", "Softplus"),
    *("Swish", "TanH", "UnaryOp"),
)
"""Types that ncnn computes by an approximation in lanes and by the C library beside them: cuts move some elements."""

PER_CHANNEL = ("BatchNorm", "Bias", "PReLU", "Scale")
"""Types with a weight per channel, shared by all rows of a blob with three axes."""


def axes(layer: Layer, inputs: Sequence[BlobShape] = ()) -> tuple[Axis, ...]:
    """`rows`, when all inputs are known to be of one shape with channels and rows."""
    if not inputs or len(set(inputs)) > 1 or len(inputs) != len(layer.inputs):
        return ()
    if inputs[0].dims != 3 or inputs[0].h < 2 or len(layer.outputs) != 1:
        return ()
    if layer.type in PER_CHANNEL and len(inputs) > 1:  # a Scale by a blob
        return ()
    exact = layer.type not in APPROXIMATED or _is_arithmetic(layer)
    return (Axis("rows", inputs[0].h, 1, exact, blob_axis="h"),)


def _is_arithmetic(layer: Layer) -> bool:
    return layer.type == "BinaryOp" and int_params(layer)["op_type"] in _EXACT_OPERATIONS


def take(layer: Layer, axis: str, begin: int, end: int, inputs: Sequence[BlobShape] = ()) -> LayerSlice:
    """The layer on rows [begin, end) of its inputs."""
    find_axis(layer, axes(layer, inputs), axis, begin, end)
    rows = tuple(BlobTake(i, "h", begin, end) for i in range(len(inputs)))
    arrays = take_arrays(array_specs(layer), {}, 0, 0)
    return LayerSlice(layer, arrays, axis, begin, end, rows)
