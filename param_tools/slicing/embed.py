"""Embed by columns: each slice looks up some of the elements of every word."""

from __future__ import annotations

from collections.abc import Sequence

from param_tools.graph import Layer
from param_tools.schema import array_specs, int_params, with_named_params
from param_tools.shapes import BlobShape
from param_tools.slicing.rule import Axis, LayerSlice, find_axis, take_arrays

__all__ = ["axes", "take"]


def axes(layer: Layer, inputs: Sequence[BlobShape] = ()) -> tuple[Axis, ...]:
    """`columns`; exact at any cut, as nothing is summed."""
    columns = int_params(layer)["num_output"]
    return (Axis("columns", columns, 1, exact=True, blob_axis="w"),) if columns > 1 else ()


def take(layer: Layer, axis: str, begin: int, end: int, inputs: Sequence[BlobShape] = ()) -> LayerSlice:
    """The lookup of columns [begin, end)."""
    find_axis(layer, axes(layer), axis, begin, end)
    specs = array_specs(layer)
    part = with_named_params(layer, num_output=end - begin, weight_data_size=specs[0].dims[0] * (end - begin))
    return LayerSlice(part, take_arrays(specs, {"weight": 1, "bias": 0}, begin, end), axis, begin, end)
