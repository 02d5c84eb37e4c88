"""Pooling by output rows."""

from __future__ import annotations

from collections.abc import Sequence

from param_tools.errors import UnsupportedLayerError
from param_tools.graph import Layer
from param_tools.shapes import BlobShape
from param_tools.slicing.rows import rows_axis, take_rows
from param_tools.slicing.rule import Axis, LayerSlice
from param_tools.slicing.window import pooling_windows

__all__ = ["axes", "take"]

_PAD_MODE_EXPLICIT = 1


def axes(layer: Layer, inputs: Sequence[BlobShape] = ()) -> tuple[Axis, ...]:
    """`rows`, when the input shape is known and the windows slide: global and adaptive ones do not."""
    return rows_axis(pooling_windows(layer, inputs[0]), inputs) if inputs else ()


def take(layer: Layer, axis: str, begin: int, end: int, inputs: Sequence[BlobShape] = ()) -> LayerSlice:
    """The pooling of output rows [begin, end)."""
    windows = pooling_windows(layer, inputs[0]) if inputs else None
    if windows is None:
        raise UnsupportedLayerError(f"layer {layer.name!r} ({layer.type}) cannot be cut along {axis!r}")
    return take_rows(layer, windows, axes(layer, inputs), begin, end, pad_mode=_PAD_MODE_EXPLICIT)
