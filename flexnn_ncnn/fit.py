"""Whether inputs of some shape fit a network, found out before ncnn would read beyond a weight or a blob."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from flexnn_ncnn.errors import InputError
from param_tools.graph import Layer, Model
from param_tools.schema import array_specs
from param_tools.shapes import BlobShape, infer_shapes

__all__ = ["check_fit"]

# Layers that ncnn gives no shape of their own: where the rule of one finds no output, ncnn has none either.
_STRICT = ("Convolution", "Convolution1D", "ConvolutionDepthWise", "InnerProduct", "BinaryOp", "Embed", "Reshape")
_BY_GROUP = ("ConvolutionDepthWise", "DeconvolutionDepthWise")
_READS_SECOND_AXIS = ("Convolution", "Convolution1D", "Deconvolution", *_BY_GROUP)
_READS_FIRST_AXIS = ("BatchNorm", "Scale")
_GROUP = 7
_RESHAPE_EXPRESSION = 6


def check_fit(model: Model, inputs: Mapping[str, npt.NDArray[Any]]) -> None:
    """Proves that no layer is known to refuse what comes of inputs of these shapes.

    Args:
        model: the graph.
        inputs: an array per input blob.

    Raises:
        InputError: a layer reads another number of channels, or can make no output; it names the first such layer.
    """
    found = infer_shapes(model, {blob: BlobShape.from_numpy(array.shape) for blob, array in inputs.items()})
    for index in model.topological_order():
        layer = model.layers[index]
        shapes = [found[blob] for blob in layer.inputs]
        known = [shape.numpy_shape for shape in shapes if shape is not None]
        if not known or len(known) < len(shapes):
            continue
        reason = _wrong_channels(layer, known[0])
        if not reason and found[layer.outputs[0]] is None and _is_strict(layer, known):
            reason = found.reasons[layer.outputs[0]]
        if reason:
            given = ", ".join(f"{blob} {'x'.join(map(str, array.shape))}" for blob, array in inputs.items())
            batch = any(array.ndim == 4 and array.shape[0] == 1 for array in inputs.values())
            raise InputError(
                f"the network cannot take inputs of this shape ({given}): {reason}",
                hint="leave the batch dimension out" if batch else "",
            )


def _wrong_channels(layer: Layer, shape: tuple[int, ...]) -> str:
    wanted = None
    if layer.type in (*_READS_SECOND_AXIS, *_READS_FIRST_AXIS):
        weights = next(iter(array_specs(layer)), None)  # none where they come from a blob
        if weights is not None:
            wanted = weights.dims[0] if layer.type in _READS_FIRST_AXIS else weights.dims[1]
    if wanted is None:
        return ""
    if layer.type in _BY_GROUP:
        wanted *= max(1, layer.int_param(_GROUP, 1))
    if shape[0] == wanted:
        return ""
    return f"layer {layer.name!r} ({layer.type}) reads {wanted} channels, not {shape[0]}"


def _is_strict(layer: Layer, shapes: Sequence[tuple[int, ...]]) -> bool:
    if layer.type == "Reshape":
        return len(shapes) == 1 and _RESHAPE_EXPRESSION not in layer.params
    if layer.type == "BinaryOp":
        return len(shapes) == 2 and len(shapes[0]) == len(shapes[1])
    return layer.type in _STRICT and len(shapes) == 1
