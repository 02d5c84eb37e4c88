"""Layers of image networks as ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from eval.peers.writer import Arrays, Writer
from param_tools.errors import UnsupportedLayerError
from param_tools.graph import Layer

__all__ = ["IMAGE_LAYERS"]

_BINARY = ("Add", "Sub", "Mul", "Div")
_POOLING = ("MaxPool", "AveragePool")
_ELTWISE = ("Mul", "Add", "Max")
_FULL_PADDING, _VALID_PADDING = 0, 1


def _convolution(writer: Writer, layer: Layer, arrays: Arrays) -> None:
    number, outputs = layer.int_param, layer.int_param(0)
    width = number(1)
    height = number(11, width)
    groups = number(7, 1) if layer.type == "ConvolutionDepthWise" else 1
    left = number(4)
    top = number(14, left)
    right, bottom = number(15, left), number(16, top)
    if min(left, top, right, bottom) < 0:
        raise UnsupportedLayerError(f"the padding of layer {layer.name!r} is not written as ONNX here")
    shape = (outputs, number(6) // (outputs * width * height), height, width)
    names = [writer.inputs(layer)[0], *_weights(writer, layer, [arrays[0].reshape(shape), *arrays[1:]])]
    _activated(
        writer,
        layer,
        lambda output: writer.node(
            "Conv",
            names,
            output,
            kernel_shape=[height, width],
            strides=[number(13, number(3, 1)), number(3, 1)],
            dilations=[number(12, number(2, 1)), number(2, 1)],
            pads=[top, left, bottom, right],
            group=groups,
        ),
    )


def _inner_product(writer: Writer, layer: Layer, arrays: Arrays) -> None:
    flat = writer.node("Flatten", writer.inputs(layer), f"{layer.outputs[0]}_flat", axis=1)
    outputs = layer.int_param(0)
    names = [flat, *_weights(writer, layer, [arrays[0].reshape(outputs, -1), *arrays[1:]])]
    _activated(writer, layer, lambda output: writer.node("Gemm", names, output, transB=1))


def _weights(writer: Writer, layer: Layer, arrays: Arrays) -> list[str]:
    return [writer.weight(f"{layer.name}_{number}", array) for number, array in enumerate(arrays)]


def _activated(writer: Writer, layer: Layer, write: Callable[[str], str]) -> None:
    """What `write` writes, with the layer's fused activation after it."""
    kind, output = layer.int_param(9), layer.outputs[0]
    values = layer.array_param(10)
    if kind == 0:
        write(output)
        return
    before = write(f"{output}_before")
    if kind == 1:
        writer.node("Relu", [before], output)
    elif kind == 2:
        writer.node("LeakyRelu", [before], output, alpha=float(values[0]))
    elif kind == 3:
        bounds = [writer.constant(f"{output}_{i}", np.array(one, np.float32)) for i, one in enumerate(values)]
        writer.node("Clip", [before, *bounds], output)
    else:
        raise UnsupportedLayerError(f"activation {kind} of layer {layer.name!r} is not written as ONNX here")


def _pooling(writer: Writer, layer: Layer, arrays: Arrays) -> None:
    number, output, inputs = layer.int_param, layer.outputs[0], writer.inputs(layer)
    kind = _POOLING[number(0)]
    if number(4):
        pooled = writer.node(f"Global{kind}", inputs, f"{output}_pooled")
        writer.node("Flatten", [pooled], output, axis=1)
        return
    if number(5) not in (_FULL_PADDING, _VALID_PADDING):
        raise UnsupportedLayerError(f"the padding of layer {layer.name!r} is not written as ONNX here")
    width, left = number(1), number(3)
    top = number(13, left)
    writer.node(
        kind,
        inputs,
        output,
        kernel_shape=[number(11, width), width],
        strides=[number(12, number(2, 1)), number(2, 1)],
        pads=[top, left, number(16, top), number(15, left)],
        ceil_mode=int(number(5) == _FULL_PADDING),
    )


def _binary(writer: Writer, layer: Layer, arrays: Arrays) -> None:
    kind, inputs = layer.int_param(0), writer.inputs(layer)
    if kind >= len(_BINARY) or layer.int_param(1):
        raise UnsupportedLayerError(f"what layer {layer.name!r} computes is not written as ONNX here")
    writer.node(_BINARY[kind], inputs, layer.outputs[0])


def _eltwise(writer: Writer, layer: Layer, arrays: Arrays) -> None:
    inputs, factors = writer.inputs(layer), layer.array_param(1)
    if factors:
        scales = [writer.constant(f"{layer.name}_{i}", np.array(one, np.float32)) for i, one in enumerate(factors)]
        inputs = [
            writer.node("Mul", [blob, scale], f"{layer.name}_scaled{i}")
            for i, (blob, scale) in enumerate(zip(inputs, scales, strict=True))
        ]
    writer.node(_ELTWISE[layer.int_param(0)], inputs, layer.outputs[0])


def _interp(writer: Writer, layer: Layer, arrays: Arrays) -> None:
    if layer.int_param(0) != 1:
        raise UnsupportedLayerError(f"how layer {layer.name!r} resizes is not written as ONNX here")
    scales = np.array([1, 1, layer.float_param(1, 1.0), layer.float_param(2, 1.0)], np.float32)
    inputs = [writer.inputs(layer)[0], "", writer.constant(f"{layer.name}_scales", scales)]
    writer.node(
        "Resize",
        inputs,
        layer.outputs[0],
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )


def _plain(kind: str, **attributes: Any) -> Callable[[Writer, Layer, Arrays], None]:
    def write(writer: Writer, layer: Layer, arrays: Arrays) -> None:
        writer.node(kind, writer.inputs(layer), layer.outputs[0], **attributes)

    return write


def _concat(writer: Writer, layer: Layer, arrays: Arrays) -> None:
    axis = layer.int_param(0)
    if axis < 0:
        raise UnsupportedLayerError(
            f"layer {layer.name!r} counts its axis from the end, which is not written as ONNX here"
        )
    writer.node("Concat", writer.inputs(layer), layer.outputs[0], axis=axis + 1)


IMAGE_LAYERS: dict[str, Callable[[Writer, Layer, Arrays], None]] = {
    "Convolution": _convolution,
    "ConvolutionDepthWise": _convolution,
    "InnerProduct": _inner_product,
    "Pooling": _pooling,
    "BinaryOp": _binary,
    "Eltwise": _eltwise,
    "Interp": _interp,
    "Concat": _concat,
    "ReLU": _plain("Relu"),
    "Flatten": _plain("Flatten", axis=1),
    "Softmax": _plain("Softmax", axis=1),
}
"""Layer type -> what writes it."""
