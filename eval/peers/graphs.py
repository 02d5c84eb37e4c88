"""Models of ncnn as ONNX graphs, weights in a file of their own, each at the begin of a page so that it can be mapped.

Layers of classic image networks and of vision transformers; a blob gets a batch dimension of 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from param_tools.errors import FlexnnError, UnsupportedLayerError
from param_tools.graph import Layer
from param_tools.model_io import atomic_write, open_model

__all__ = ["write_onnx"]

_PAGE_BYTES = 4096
_OPSET = 17
_BINARY = ("Add", "Sub", "Mul", "Div")
_POOLING = ("MaxPool", "AveragePool")
_ELTWISE = ("Mul", "Add", "Max")
_FULL_PADDING, _VALID_PADDING = 0, 1


def write_onnx(
    param_path: Path, bin_path: Path, inputs: Mapping[str, tuple[int, ...]], folder: Path
) -> tuple[Path, Path]:
    """The ONNX graph of a model and its weights, unless they are there.

    Args:
        param_path, bin_path: the model.
        inputs: blob -> shape, without a batch dimension.
        folder: where they go.

    Raises:
        FlexnnError: a layer that there is no ONNX form of here, or the files cannot be read.
    """
    graph, weights = folder / "model.onnx", folder / "model.onnx.data"
    if not graph.exists():
        with open_model(param_path, bin_path) as opened:
            writer = _Writer(weights.name)
            arrays = [[opened.weights.read_float32(one) for one in found] for found in opened.weights.arrays]
            for layer, found in zip(opened.model.layers, arrays, strict=True):
                writer.add(layer, found)
            with atomic_write(weights, "wb") as file:
                for chunk in writer.data:
                    file.write(chunk)
            with atomic_write(graph, "wb") as file:
                file.write(writer.model(inputs, opened.model.output_blobs))
    return graph, weights


class _Writer:
    """Nodes and weights so far."""

    def __init__(self, weights_name: str) -> None:
        import onnx

        self._onnx, self._weights_name = onnx, weights_name
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._size_bytes = 0
        self._aliases: dict[str, str] = {}
        self.data: list[bytes] = []

    def add(self, layer: Layer, arrays: list[npt.NDArray[np.float32]]) -> None:
        """One more layer."""
        if layer.type == "Input":
            return
        if layer.type == "Split":
            self._aliases |= dict.fromkeys(layer.outputs, self.inputs(layer)[0])
            return
        write = _LAYERS.get(layer.type)
        if write is None:
            raise UnsupportedLayerError(f"layers of type {layer.type} are not written as ONNX here")
        write(self, layer, arrays)

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """One more node; returns its output."""
        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, [output], name=name, **attributes))
        return output

    def weight(self, name: str, array: npt.NDArray[Any]) -> str:
        """One more array of weights, in the file; returns its name."""
        tensor = self._onnx.TensorProto(name=name, data_type=self._onnx.TensorProto.FLOAT, dims=array.shape)
        tensor.data_location = self._onnx.TensorProto.EXTERNAL
        data = np.ascontiguousarray(array, "<f4").tobytes()
        for key, value in (("location", self._weights_name), ("offset", self._size_bytes), ("length", len(data))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
        padding = bytes(-len(data) % _PAGE_BYTES)
        self.data += [data, padding]
        self._size_bytes += len(data) + len(padding)
        self._weights.append(tensor)
        return name

    def constant(self, name: str, array: npt.NDArray[Any]) -> str:
        """A small array, in the graph itself; returns its name."""
        self._weights.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def model(self, inputs: Mapping[str, tuple[int, ...]], outputs: tuple[str, ...]) -> bytes:
        """All of it."""
        helper, kind = self._onnx.helper, self._onnx.TensorProto.FLOAT
        fed = [helper.make_tensor_value_info(name, kind, [1, *shape]) for name, shape in inputs.items()]
        names = [self._aliases.get(name, name) for name in outputs]
        given = [helper.make_tensor_value_info(name, kind, None) for name in names]
        graph = helper.make_graph(self._nodes, "model", fed, given, self._weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
        data: bytes = made.SerializeToString()
        return data

    def inputs(self, layer: Layer) -> list[str]:
        """What a layer reads, by the names of those that write it."""
        return [self._aliases.get(name, name) for name in layer.inputs]


Arrays = list[npt.NDArray[np.float32]]


def _convolution(writer: _Writer, layer: Layer, arrays: Arrays) -> None:
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


def _inner_product(writer: _Writer, layer: Layer, arrays: Arrays) -> None:
    flat = writer.node("Flatten", writer.inputs(layer), f"{layer.outputs[0]}_flat", axis=1)
    outputs = layer.int_param(0)
    names = [flat, *_weights(writer, layer, [arrays[0].reshape(outputs, -1), *arrays[1:]])]
    _activated(writer, layer, lambda output: writer.node("Gemm", names, output, transB=1))


def _weights(writer: _Writer, layer: Layer, arrays: Arrays) -> list[str]:
    return [writer.weight(f"{layer.name}_{number}", array) for number, array in enumerate(arrays)]


def _activated(writer: _Writer, layer: Layer, write: Callable[[str], str]) -> None:
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


def _pooling(writer: _Writer, layer: Layer, arrays: Arrays) -> None:
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


def _binary(writer: _Writer, layer: Layer, arrays: Arrays) -> None:
    kind, inputs = layer.int_param(0), writer.inputs(layer)
    if kind >= len(_BINARY) or layer.int_param(1):
        raise UnsupportedLayerError(f"what layer {layer.name!r} computes is not written as ONNX here")
    writer.node(_BINARY[kind], inputs, layer.outputs[0])


def _eltwise(writer: _Writer, layer: Layer, arrays: Arrays) -> None:
    inputs, factors = writer.inputs(layer), layer.array_param(1)
    if factors:
        scales = [writer.constant(f"{layer.name}_{i}", np.array(one, np.float32)) for i, one in enumerate(factors)]
        inputs = [
            writer.node("Mul", [blob, scale], f"{layer.name}_scaled{i}")
            for i, (blob, scale) in enumerate(zip(inputs, scales, strict=True))
        ]
    writer.node(_ELTWISE[layer.int_param(0)], inputs, layer.outputs[0])


def _interp(writer: _Writer, layer: Layer, arrays: Arrays) -> None:
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


def _plain(kind: str, **attributes: Any) -> Callable[[_Writer, Layer, Arrays], None]:
    def write(writer: _Writer, layer: Layer, arrays: Arrays) -> None:
        writer.node(kind, writer.inputs(layer), layer.outputs[0], **attributes)

    return write


def _concat(writer: _Writer, layer: Layer, arrays: Arrays) -> None:
    axis = layer.int_param(0)
    if axis < 0:
        raise FlexnnError(f"layer {layer.name!r} counts its axis from the end, which is not written as ONNX here")
    writer.node("Concat", writer.inputs(layer), layer.outputs[0], axis=axis + 1)


_LAYERS: dict[str, Callable[[_Writer, Layer, Arrays], None]] = {
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
