"""Models of ncnn as ONNX graphs, weights in a file of their own, each at the begin of a page so that it can be mapped.

Layers of classic image networks and of vision transformers; a blob gets a batch dimension of 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from eval.peers.image_layers import IMAGE_LAYERS
from eval.peers.transformer_layers import TRANSFORMER_LAYERS
from eval.peers.writer import Arrays, Writer
from param_tools.errors import UnsupportedLayerError
from param_tools.graph import Layer
from param_tools.model_io import atomic_write, open_model

__all__ = ["write_onnx"]

_LAYERS = {**IMAGE_LAYERS, **TRANSFORMER_LAYERS}


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
            writer = Writer(weights.name)
            for layer, stored in zip(opened.model.layers, opened.weights.arrays, strict=True):
                _write(writer, layer, [opened.weights.read_float32(one) for one in stored])
            with atomic_write(weights, "wb") as file:
                for chunk in writer.data:
                    file.write(chunk)
            with atomic_write(graph, "wb") as file:
                file.write(writer.model(inputs, opened.model.output_blobs))
    return graph, weights


def _write(writer: Writer, layer: Layer, arrays: Arrays) -> None:
    if layer.type == "Split":
        writer.alias(layer)
    elif layer.type in _LAYERS:
        _LAYERS[layer.type](writer, layer, arrays)
    elif layer.type != "Input":
        raise UnsupportedLayerError(f"layers of type {layer.type} are not written as ONNX here")
