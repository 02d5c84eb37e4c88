"""Networks small enough to plan and try within a second, written by param_tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from param_tools.encoding import Encoding
from param_tools.graph import Layer, Model
from param_tools.model_io import write_model
from param_tools.schema import LAYERS, array_specs
from param_tools.weights import StoredArray

__all__ = ["classifier", "layer", "lookup", "two_ways", "upscaler", "write"]


def layer(kind: str, name: str, inputs: str, outputs: str, **params: float | tuple[float, ...]) -> Layer:
    """A layer; blobs are separated by spaces and parameters called p0, p1, ..."""
    made = Layer(kind, name, tuple(inputs.split()), tuple(outputs.split()))
    return made.with_params({int(key[1:]): value for key, value in params.items()})


def write(layers: Sequence[Layer], param_path: Path) -> Path:
    """The layers with random weights beside it; returns the .param's path."""
    draw = np.random.default_rng(7)
    arrays = [
        StoredArray(
            draw.standard_normal(spec.count).astype(np.float32) * 0.1,
            Encoding.FP32 if spec.tagged else Encoding.FP32_UNTAGGED,
        )
        for one in layers
        if one.type in LAYERS
        for spec in array_specs(one)
    ]
    write_model(Model(tuple(layers)), arrays, param_path, param_path.with_suffix(".bin"))
    return param_path


def classifier(folder: Path, *, sized: bool = True, softmax: bool = True) -> Path:
    """3xHxW -> 10 scores: convolution, pooling, fully connected; 32x32 where the .param says the size."""
    size = {"p0": 32, "p1": 32, "p2": 3} if sized else {}
    layers = [
        layer("Input", "data", "", "in0", **size),
        layer("Convolution", "conv", "in0", "1", p0=32, p1=3, p4=1, p5=1, p6=32 * 3 * 9, p9=1),
        layer("Pooling", "pool", "1", "2", p0=0, p4=1),
        layer("InnerProduct", "fc", "2", "3" if softmax else "out0", p0=10, p1=1, p2=320),
    ]
    if softmax:
        layers.append(layer("Softmax", "prob", "3", "out0"))
    return write(layers, folder / "classifier.param")


def two_ways(folder: Path) -> Path:
    """Two vectors of 64 in, their sum and product out."""
    layers = [
        layer("Input", "a", "", "left", p0=64),
        layer("Input", "b", "", "right", p0=64),
        layer("Split", "s0", "left", "l0 l1"),
        layer("Split", "s1", "right", "r0 r1"),
        layer("BinaryOp", "add", "l0 r0", "sum", p0=0),
        layer("BinaryOp", "mul", "l1 r1", "product", p0=2),
    ]
    return write(layers, folder / "two.param")


def lookup(folder: Path) -> Path:
    """5 ids below 50 in, a row of 8 each out."""
    layers = [
        layer("Input", "ids", "", "in0", p0=5),
        layer("Embed", "table", "in0", "out0", p0=8, p1=50, p3=400),
    ]
    return write(layers, folder / "lookup.param")


def upscaler(folder: Path) -> Path:
    """3x16x16 -> 3x32x32."""
    layers = [
        layer("Input", "data", "", "in0", p0=16, p1=16, p2=3),
        layer("Convolution", "conv", "in0", "1", p0=12, p1=3, p4=1, p6=12 * 3 * 9),
        layer("PixelShuffle", "up", "1", "out0", p0=2),
    ]
    return write(layers, folder / "upscaler.param")


def fully_connected(folder: Path) -> Path:
    """3x32x32, or as many values -> 1000 through 9 MB of weights; called model.param."""
    layers = [
        layer("Input", "data", "", "in0"),
        layer("Convolution", "conv", "in0", "1", p0=32, p1=3, p4=1, p5=1, p6=864, p9=1),
        layer("Pooling", "pool", "1", "2", p0=0, p1=2, p2=2),
        layer("InnerProduct", "fc0", "2", "3", p0=128, p1=1, p2=128 * 8192, p9=1),
        layer("InnerProduct", "fc1", "3", "4", p0=1024, p1=1, p2=128 * 1024, p9=1),
        layer("InnerProduct", "fc2", "4", "out0", p0=1000, p1=1, p2=1024 * 1000),
    ]
    return write(layers, folder / "model.param")


def convolutions(folder: Path, count: int = 6) -> Path:
    """3x16x16 -> 256x16x16 through `count` convolutions of 2.4 MB, four times that as winograd transforms them."""
    layers = [
        layer("Input", "data", "", "in0", p0=16, p1=16, p2=3),
        layer("Convolution", "first", "in0", "0", p0=256, p1=3, p4=1, p6=256 * 3 * 9),
    ]
    for i in range(count):
        output = str(i + 1) if i + 1 < count else "out0"
        layers.append(layer("Convolution", f"conv{i}", str(i), output, p0=256, p1=3, p4=1, p6=256 * 256 * 9, p9=1))
    return write(layers, folder / "convolutions.param")
