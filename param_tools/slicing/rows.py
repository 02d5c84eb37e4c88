"""Cutting by output rows: each slice reads the input rows its windows see, its halo included."""

from __future__ import annotations

from collections.abc import Sequence

from param_tools.graph import Layer
from param_tools.schema import array_specs, with_named_params
from param_tools.shapes import BlobShape
from param_tools.slicing.rule import Axis, BlobTake, LayerSlice, find_axis, take_arrays
from param_tools.slicing.window import Window

__all__ = ["rows_axis", "take_rows"]


def rows_axis(
    windows: tuple[Window, Window] | None, shapes: Sequence[BlobShape], granularity: int = 1
) -> tuple[Axis, ...]:
    """The axis `rows` of a layer with one input of known shape, as a tuple of one; empty when it cannot be cut so."""
    if windows is None or not shapes or shapes[0].dims != 3:
        return ()
    down = windows[1]
    if down.outputs < 2 or max(down.before, down.after) >= down.extent:  # a row of padding alone has no input to read
        return ()
    return (Axis("rows", windows[1].outputs, granularity, exact=True, blob_axis="h"),)


def take_rows(
    layer: Layer, windows: tuple[Window, Window], axes: tuple[Axis, ...], begin: int, end: int, **params: int
) -> LayerSlice:
    """Output rows [begin, end) of a layer whose window padding is explicit in its parameters.

    Args:
        layer: the whole layer.
        windows: its windows on the whole input.
        axes: the axes it has, to check the range.
        begin: first output row.
        end: output row after the last.
        params: further parameters of the slice by name.
    """
    find_axis(layer, axes, "rows", begin, end)
    across, down = windows
    first, last, above, below = down.part(begin, end)
    part = with_named_params(
        layer, pad_left=across.before, pad_right=across.after, pad_top=above, pad_bottom=below, **params
    )
    arrays = take_arrays(array_specs(layer), {}, 0, 0)
    return LayerSlice(part, arrays, "rows", begin, end, (BlobTake(0, "h", first, last),))
