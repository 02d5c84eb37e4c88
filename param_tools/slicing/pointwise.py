"""Layers that compute each element by itself, by rows: worthwhile between neighbours that are cut by rows."""

from __future__ import annotations

from collections.abc import Sequence

from param_tools.graph import Layer
from param_tools.schema import array_specs
from param_tools.shapes import BlobShape
from param_tools.slicing.rule import Axis, BlobTake, LayerSlice, find_axis, take_arrays

__all__ = ["PER_CHANNEL", "PER_ELEMENT", "axes", "take"]

PER_ELEMENT = (
    *("AbsVal", "BinaryOp", "BNLL", "CELU", "Clip", "Dropout", "Eltwise", "ELU", "Erf", "Exp", "GELU", "HardSigmoid"),
    *("HardSwish", "Log", "Mish", "Noop", "Power", "ReLU", "SELU", "Shrink", "Sigmoid", "Softplus", "Swish", "TanH"),
    *("Threshold", "UnaryOp"),
)
"""Types without weights."""

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
    return (Axis("rows", inputs[0].h, 1, exact=True, blob_axis="h"),)


def take(layer: Layer, axis: str, begin: int, end: int, inputs: Sequence[BlobShape] = ()) -> LayerSlice:
    """The layer on rows [begin, end) of its inputs."""
    find_axis(layer, axes(layer, inputs), axis, begin, end)
    rows = tuple(BlobTake(i, "h", begin, end) for i in range(len(inputs)))
    arrays = take_arrays(array_specs(layer), {}, 0, 0)
    return LayerSlice(layer, arrays, axis, begin, end, rows)
