"""Shape rules of layers that multiply matrices: InnerProduct, Gemm, MatMul, attention, Embed, recurrent ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from param_tools.graph import Layer
from param_tools.schema import int_params
from param_tools.shapes.rule import Dims, Rule, require

__all__ = ["RULES"]


def _inner_product(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    values = int_params(layer)
    outputs = values["num_output"]
    require(outputs > 0, f"{outputs} outputs")
    width = values["weight_data_size"] // outputs
    if len(inputs[0]) == 2 and inputs[0][1] == width:
        return [(inputs[0][0], outputs)]
    require(math.prod(inputs[0]) == width, f"its input has the shape {inputs[0]}, its weights {width} columns")
    return [(outputs,)]


def _gemm(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    values = int_params(layer)
    blobs = list(inputs)
    require(len(blobs) >= (not values["constantA"]) + (not values["constantB"]), f"it has only {len(blobs)} inputs")
    rows = values["constantM"] if values["constantA"] else _extent(blobs.pop(0), outer=not values["transA"])
    columns = values["constantN"] if values["constantB"] else _extent(blobs.pop(0), outer=bool(values["transB"]))
    outer, inner = (columns, rows) if values["output_transpose"] else (rows, columns)
    return [(outer, 1, inner) if values["output_N1M"] else (outer, inner)]


def _extent(dims: Dims, *, outer: bool) -> int:
    """Extent of a matrix operand along its outer or inner axis; a 3-D one is (rows, 1, columns)."""
    if not outer:
        return dims[-1]
    return dims[0] if len(dims) == 3 else dims[-2] if len(dims) == 2 else 1


def _mat_mul(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    require(len(inputs) == 2, f"it has {len(inputs)} inputs, not two")
    a, b = inputs
    transposed = int_params(layer)["transB"]
    if len(a) == len(b) == 1:
        return [(1,)]
    if len(b) == 1:
        return [(*a[:-2], a[-2])]
    columns = b[-2] if transposed else b[-1]
    if len(a) == 1:
        return [(*b[:-2], columns)]
    rank = max(len(a), len(b))
    batches = [_batch(dims, rank) for dims in inputs]
    compatible = all(x == y or 1 in (x, y) for x, y in zip(*batches, strict=True))
    require(compatible, f"shapes {a} and {b} do not broadcast")
    return [(*map(max, *batches), a[-2], columns)] if rank > 2 else [(a[-2], columns)]


def _batch(dims: Dims, rank: int) -> Dims:
    return (1,) * (rank - len(dims)) + dims[:-2]


def _attention(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims | None]:
    values = int_params(layer)
    require(values["embed_dim"] > 0, "embed_dim is 0")
    require(bool(inputs) and len(inputs[0]) == 2, f"its inputs have the shapes {inputs}")
    made = (inputs[0][0], values["weight_data_size"] // values["embed_dim"])
    return [made, *[None] * (len(layer.outputs) - 1)]  # the others are the grown key and value caches


def _sdpa(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims | None]:
    require(len(inputs) >= 3 and all(len(dims) == 3 for dims in inputs[:3]), f"its inputs have the shapes {inputs}")
    query, _, value = inputs[:3]
    return [(query[0], query[1], value[2]), *[None] * (len(layer.outputs) - 1)]


def _embed(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    require(len(inputs[0]) == 1, f"its input has the shape {inputs[0]}")
    return [(inputs[0][0], int_params(layer)["num_output"])]


def _recurrent(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    values = int_params(layer)
    require(len(inputs[0]) == 2, f"its input has the shape {inputs[0]}")
    directions = 2 if values["direction"] == 2 else 1
    outputs = values["num_output"]
    states = [(directions, outputs), (directions, values.get("hidden_size", outputs))]
    return [(inputs[0][0], outputs * directions), *states[: len(layer.outputs) - 1]]


RULES: Mapping[str, Rule] = {
    "Embed": _embed,
    "Gemm": _gemm,
    "GRU": _recurrent,
    "InnerProduct": _inner_product,
    "LSTM": _recurrent,
    "MatMul": _mat_mul,
    "MultiHeadAttention": _attention,
    "RNN": _recurrent,
    "SDPA": _sdpa,
}
