"""Gemm by columns of its result (`outputs`, constant B) or by rows (`m`, constant A)."""

from __future__ import annotations

from collections.abc import Sequence

from param_tools.graph import Layer
from param_tools.schema import array_specs, int_params, with_named_params
from param_tools.shapes import BlobShape
from param_tools.slicing.rule import LANES, Axis, LayerSlice, find_axis, take_arrays

__all__ = ["axes", "take"]

_C_WITH_M = (1, 2, 3)  # constant_broadcast_type_C: 0 is one value, 1 and 2 are M, 3 is M x N, 4 is N
_C_WITH_N = (3, 4)
_BLOCKED = 400  # quantize_term from here on: B is packed along K, a row per output


def axes(layer: Layer, inputs: Sequence[BlobShape] = ()) -> tuple[Axis, ...]:
    """`outputs` (N) when B is constant, `m` when A is; exact at multiples of the widest tile.

    None when C is an input blob, which would have to be cut too.
    """
    params = int_params(layer)
    constant_operands = bool(params["constantA"]) + bool(params["constantB"])
    if constant_operands != 1 or len(layer.inputs) != 1 or params["output_elempack"] > 1:
        return ()
    name, units = ("outputs", params["constantN"]) if params["constantB"] else ("m", params["constantM"])
    inner = (name == "outputs") != bool(params["output_transpose"])
    blob_axis = "w" if inner else "c" if params["output_N1M"] else "h"
    return (Axis(name, units, LANES, exact=True, blob_axis=blob_axis),) if units > 1 else ()


def take(layer: Layer, axis: str, begin: int, end: int, inputs: Sequence[BlobShape] = ()) -> LayerSlice:
    """The Gemm of columns or rows [begin, end)."""
    find_axis(layer, axes(layer), axis, begin, end)
    params = int_params(layer)
    cut: dict[str, int] = {}
    if axis == "outputs":
        cut["b"] = 0 if params["transB"] or params["quantize_term"] >= _BLOCKED else 1
        cut["b_block_scales"] = 0
        if params["constant_broadcast_type_C"] in _C_WITH_N:
            cut["c"] = 1
        part = with_named_params(layer, constantN=end - begin)
    else:
        cut["a"] = 1 if params["transA"] else 0
        cut["a_scales"] = 0
        if params["constant_broadcast_type_C"] in _C_WITH_M:
            cut["c"] = 0
        part = with_named_params(layer, constantM=end - begin)
    return LayerSlice(part, take_arrays(array_specs(layer), cut, begin, end), axis, begin, end)
