"""An ONNX graph as it is written: nodes, and weights for a file of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from param_tools.graph import Layer

__all__ = ["Arrays", "Writer"]

Arrays = list[npt.NDArray[np.float32]]

_PAGE_BYTES = 4096
_OPSET = 17


class Writer:
    """Nodes and weights so far."""

    def __init__(self, weights_name: str) -> None:
        import onnx

        self._onnx, self._weights_name = onnx, weights_name
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._size_bytes = 0
        self._aliases: dict[str, str] = {}
        self.data: list[bytes] = []

    def alias(self, layer: Layer) -> None:
        """The outputs of a layer that are its input under other names."""
        self._aliases |= dict.fromkeys(layer.outputs, self.inputs(layer)[0])

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
