"""Layers of vision transformers as ONNX; blobs of two dimensions are sequences, after a batch dimension."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np
import numpy.typing as npt

from eval.peers.writer import Arrays, Writer
from param_tools.errors import UnsupportedLayerError
from param_tools.graph import Layer

__all__ = ["TRANSFORMER_LAYERS"]

_TRANSPOSED = 1
_ROW_OF_C = 4
_AXES, _STARTS, _ENDS = 11, 9, 10


def _product(
    writer: Writer, blob: str, matrix: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], output: str
) -> str:
    """`blob` times the transpose of a matrix (outputs, inputs), plus a bias."""
    weight = writer.weight(f"{output}_weight", matrix.T)
    product = writer.node("MatMul", [blob, weight], f"{output}_product")
    return writer.node("Add", [product, writer.weight(f"{output}_bias", bias)], output)


def _attention(writer: Writer, layer: Layer, arrays: Arrays) -> None:
    """Heads side by side: (1, sequence, width) as (1, heads, sequence, width / heads) and back."""
    width, heads = layer.int_param(0), layer.int_param(1)
    inputs, name = writer.inputs(layer), layer.name
    if len(inputs) > 3 or layer.int_param(5) or layer.int_param(7):
        raise UnsupportedLayerError(f"the mask or cache of layer {name!r} is not written as ONNX here")
    sources = inputs if len(inputs) == 3 else [inputs[0], inputs[-1], inputs[-1]]
    split = writer.constant(f"{name}_split", np.array([0, 0, heads, width // heads], np.int64))
    orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])  # keys transposed
    parts = []
    for number, (source, order, part) in enumerate(zip(sources, orders, "qkv", strict=True)):
        matrix, bias = arrays[2 * number].reshape(width, -1), arrays[2 * number + 1]
        made = _product(writer, source, matrix, bias, f"{name}_{part}")
        made = writer.node("Reshape", [made, split], f"{name}_{part}_heads")
        parts.append(writer.node("Transpose", [made], f"{name}_{part}_turned", perm=order))
    scale = np.array(layer.float_param(6, 1 / sqrt(width // heads)), np.float32)
    scores = writer.node("MatMul", parts[:2], f"{name}_scores")
    scores = writer.node("Mul", [scores, writer.constant(f"{name}_scale", scale)], f"{name}_scaled")
    shares = writer.node("Softmax", [scores], f"{name}_shares", axis=-1)
    mixed = writer.node("MatMul", [shares, parts[2]], f"{name}_mixed")
    turned = writer.node("Transpose", [mixed], f"{name}_back", perm=[0, 2, 1, 3])
    joined = writer.constant(f"{name}_joined", np.array([0, 0, width], np.int64))
    flat = writer.node("Reshape", [turned, joined], f"{name}_flat")
    _product(writer, flat, arrays[6].reshape(-1, width), arrays[7], layer.outputs[0])


def _gemm(writer: Writer, layer: Layer, arrays: Arrays) -> None:
    number = layer.int_param
    constants = (number(4), number(5), number(6))
    if number(2) or number(3) != _TRANSPOSED or constants != (0, 1, 1) or number(10) != _ROW_OF_C:
        raise UnsupportedLayerError(f"the operands of layer {layer.name!r} are not written as ONNX here")
    matrix, bias = arrays
    _product(writer, writer.inputs(layer)[0], matrix.reshape(number(8), number(9)), bias.reshape(-1), layer.outputs[0])


def _normalization(writer: Writer, layer: Layer, arrays: Arrays) -> None:
    if not layer.int_param(2, 1):
        raise UnsupportedLayerError(f"layer {layer.name!r}, without weights, is not written as ONNX here")
    names = [writer.weight(f"{layer.name}_{number}", array) for number, array in enumerate(arrays)]
    epsilon = layer.float_param(1, 0.001)
    inputs = [writer.inputs(layer)[0], *names]
    writer.node("LayerNormalization", inputs, layer.outputs[0], axis=-1, epsilon=epsilon)


def _gelu(writer: Writer, layer: Layer, arrays: Arrays) -> None:
    if layer.int_param(0):
        raise UnsupportedLayerError(f"the approximation of layer {layer.name!r} is not written as ONNX here")
    (blob,), name = writer.inputs(layer), layer.name

    def number(what: str, value: float) -> str:
        return writer.constant(f"{name}_{what}", np.array(value, np.float32))

    inner = writer.node("Mul", [blob, number("root", sqrt(0.5))], f"{name}_inner")
    erf = writer.node("Erf", [inner], f"{name}_erf")
    share = writer.node("Add", [erf, number("one", 1.0)], f"{name}_share")
    half = writer.node("Mul", [blob, number("half", 0.5)], f"{name}_halved")
    writer.node("Mul", [half, share], layer.outputs[0])


def _memory(writer: Writer, layer: Layer, arrays: Arrays) -> None:
    extents = [layer.int_param(key) for key in (2, 1, 0) if layer.int_param(key)]
    writer.weight(layer.outputs[0], arrays[0].reshape(1, *extents))


def _reshape(writer: Writer, layer: Layer, arrays: Arrays) -> None:
    missing = -233
    extents = [layer.int_param(key, missing) for key in (2, 1, 0)]
    shape = writer.constant(f"{layer.name}_shape", np.array([0, *(one for one in extents if one != missing)], np.int64))
    writer.node("Reshape", [*writer.inputs(layer), shape], layer.outputs[0])


def _permute(writer: Writer, layer: Layer, arrays: Arrays) -> None:
    if layer.int_param(0) != 1:
        raise UnsupportedLayerError(f"the order of layer {layer.name!r} is not written as ONNX here")
    writer.node("Transpose", writer.inputs(layer), layer.outputs[0], perm=[0, 2, 1])


def _crop(writer: Writer, layer: Layer, arrays: Arrays) -> None:
    starts, ends, axes = (layer.array_param(key) for key in (_STARTS, _ENDS, _AXES))
    if not axes:
        raise UnsupportedLayerError(f"what layer {layer.name!r} cuts out is not written as ONNX here")
    named = (("starts", starts), ("ends", ends), ("axes", [one + 1 for one in axes]))
    given = [writer.constant(f"{layer.name}_{what}", np.array(values, np.int64)) for what, values in named]
    writer.node("Slice", [*writer.inputs(layer), *given], layer.outputs[0])


def _squeeze(writer: Writer, layer: Layer, arrays: Arrays) -> None:
    axes = np.array([one + 1 for one in layer.array_param(3)], np.int64)
    writer.node("Squeeze", [*writer.inputs(layer), writer.constant(f"{layer.name}_axes", axes)], layer.outputs[0])


TRANSFORMER_LAYERS: dict[str, Callable[[Writer, Layer, Arrays], None]] = {
    "MultiHeadAttention": _attention,
    "Gemm": _gemm,
    "LayerNorm": _normalization,
    "GELU": _gelu,
    "MemoryData": _memory,
    "Reshape": _reshape,
    "Permute": _permute,
    "Crop": _crop,
    "Squeeze": _squeeze,
}
"""Layer type -> what writes it."""
