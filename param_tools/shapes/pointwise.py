"""Shape rules of layers that keep their input's shape, broadcast, or pass blobs on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from param_tools.graph import Layer
from param_tools.schema import array_specs, int_params
from param_tools.shapes.rule import Dims, Rule, UnknownShapeError, require

__all__ = ["RULES"]

_SAME_AS_FIRST_INPUT = (
    "AbsVal BatchNorm Bias BNLL Cast CELU Clip CumulativeSum DeepCopy Dequantize Dropout ELU Erf Exp Flip GELU "
    "GroupNorm HardSigmoid HardSwish InstanceNorm LayerNorm Log LRN Mish MVN Normalize Power PReLU Quantize ReLU "
    "Requantize RMSNorm SELU Shrink ShuffleChannel Sigmoid Softmax Softplus Swish TanH Threshold UnaryOp "
    "CopyTo Eltwise RotaryEmbed Scale"  # these have further inputs
)


def _same(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    return [inputs[0]]


def _split(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    require(len(inputs) == 1, f"it has {len(inputs)} inputs, not one")
    return [inputs[0]] * len(layer.outputs)


def _noop(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    return list(inputs)


def _input(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    values = int_params(layer)
    dims = tuple(values[axis] for axis in "cdhw" if values[axis] != 0)
    # -1 and -233 stand for "any size" in exported files
    if not dims or min(dims) < 1 or values["w"] == 0:
        raise UnknownShapeError("the .param does not state the input's shape: give it")
    return [dims]


def _memory_data(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    specs = array_specs(layer)
    return [specs[0].dims if specs else (1,)]


def _binary_op(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    if int_params(layer)["with_scalar"]:
        return _same(layer, inputs)
    require(len(inputs) == 2, f"it has {len(inputs)} inputs, not two")
    a, b = _expanded(inputs[0], inputs[1]), _expanded(inputs[1], inputs[0])
    compatible = all(x == y or 1 in (x, y) for x, y in zip(a, b, strict=True))
    require(compatible, f"shapes {inputs[0]} and {inputs[1]} do not broadcast")
    return [tuple(map(max, a, b))]


def _expanded(dims: Dims, other: Dims) -> Dims:
    """`dims` with the axes ncnn adds to reach those of `other`: inner ones, but for a vector along w."""
    missing = len(other) - len(dims)
    if missing <= 0:
        return dims
    if len(dims) == 1 and dims[0] != other[0]:
        return (1,) * missing + dims
    return dims + (1,) * missing


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_SAME_AS_FIRST_INPUT.split(), _same),
    "BinaryOp": _binary_op,
    "Input": _input,
    "MemoryData": _memory_data,
    "Noop": _noop,
    "Split": _split,
}
