"""The graph of RRDBNet (Real-ESRGAN x4plus): 999 layers, with a Split per shared blob as ncnn's converters write it."""

from __future__ import annotations

from collections import Counter

from param_tools.graph import Layer, Model, ParamValue
from param_tools.schema import LAYERS

__all__ = ["rrdb_model"]


class _Builder:
    def __init__(self) -> None:
        self.layers: list[Layer] = []

    def add(self, layer_type: str, *inputs: str, **params: object) -> str:
        """Appends a layer; returns its output blob."""
        blob = str(len(self.layers))
        values = {LAYERS[layer_type].param(name).id: ParamValue(value) for name, value in params.items()}  # type: ignore[arg-type]
        self.layers.append(Layer(layer_type, f"{layer_type}_{blob}", inputs, (blob,), values))
        return blob

    def conv(self, blob: str, channels: int, outputs: int, *, leaky: bool = True) -> str:
        activation = {"activation_type": 2, "activation_params": (0.2,)} if leaky else {}
        size = {"num_output": outputs, "weight_data_size": outputs * channels * 9}
        return self.add("Convolution", blob, kernel_w=3, pad_left=1, bias_term=1, **size, **activation)

    def residual(self, blob: str, source: str) -> str:
        return self.add("Eltwise", blob, source, op_type=1, coeffs=(0.2, 1.0))

    def dense_block(self, source: str, features: int, growth: int) -> str:
        parts = [source, self.conv(source, features, growth)]
        for step in (1, 2, 3):
            joined = self.add("Concat", *parts)
            parts.append(self.conv(joined, features + step * growth, growth))
        last = self.conv(self.add("Concat", *parts), features + 4 * growth, features, leaky=False)
        return self.residual(last, source)


def rrdb_model(blocks: int = 23, features: int = 64, growth: int = 32) -> Model:
    """The whole graph; input "0" is an RGB image, the last blob four times as large."""
    build = _Builder()
    first = blob = build.conv(build.add("Input"), 3, features, leaky=False)
    for _ in range(blocks):
        source = blob
        for _ in range(3):
            blob = build.dense_block(blob, features, growth)
        blob = build.residual(blob, source)
    blob = build.add("BinaryOp", first, build.conv(blob, features, features, leaky=False))
    for _ in range(2):
        blob = build.add("Interp", blob, resize_type=1, height_scale=2.0, width_scale=2.0)
        blob = build.conv(blob, features, features)
    build.conv(build.conv(blob, features, features), features, 3, leaky=False)
    return Model(tuple(_split_shared(build.layers)))


def _split_shared(layers: list[Layer]) -> list[Layer]:
    uses = Counter(blob for layer in layers for blob in layer.inputs)
    left = dict(uses)
    made = []
    for layer in layers:
        inputs = []
        for blob in layer.inputs:
            left[blob] -= 1
            inputs.append(f"{blob}_splitncnn_{left[blob]}" if uses[blob] > 1 else blob)
        made.append(Layer(layer.type, layer.name, tuple(inputs), layer.outputs, layer.params))
        (blob,) = layer.outputs
        if uses[blob] > 1:
            copies = tuple(f"{blob}_splitncnn_{i}" for i in range(uses[blob]))
            made.append(Layer("Split", f"splitncnn_{blob}", (blob,), copies))
    return made
