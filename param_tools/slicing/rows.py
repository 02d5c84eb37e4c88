"""Cutting by output rows: each slice reads the input rows its windows see, its halo included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from param_tools.graph import Layer
from param_tools.schema import array_specs, int_params, with_named_params
from param_tools.shapes import BlobShape
from param_tools.slicing.rule import Axis, BlobTake, LayerSlice, find_axis, has_approximate_activation, take_arrays
from param_tools.slicing.window import Window, convolution_windows

__all__ = ["convolution_rows", "may_be_winograd", "rows_axis", "take_rows"]

_WINOGRAD_ROWS = 12  # its tiles are 2, 4 or 6 rows
_ROW_PAIR = 2  # depthwise kernels compute two rows at a time


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


def convolution_rows(
    layer: Layer, shapes: Sequence[BlobShape], group_outputs: int, *, plain: bool = False
) -> tuple[Axis, ...]:
    """The axis `rows` of a 2-D convolution; its bits depend on what computes it.

    Winograd computes tiles of rows, so cuts lie between tiles. Outputs that do not fill lanes of 4 are summed in an
    order that the number of pixels decides, and so are some activations. With packing off, ncnn computes a dilated
    convolution as dilation^2 dense ones and needs a row for each.

    Args:
        layer: a Convolution or ConvolutionDepthWise.
        shapes: the shape of its input.
        group_outputs: outputs of one group.
        plain: true for a depthwise convolution, which sums pixel by pixel.
    """
    params = int_params(layer)
    by_pixel = plain or params["int8_scale_term"] > 0
    granularity = _ROW_PAIR if plain else 1
    if may_be_winograd(params) and not by_pixel:
        granularity = _WINOGRAD_ROWS * params["dilation_h"]
    found = rows_axis(convolution_windows(layer, shapes[0]), shapes, granularity)
    exact = (by_pixel or group_outputs % 4 == 0) and not has_approximate_activation(layer)
    return tuple(replace(axis, exact=exact, least_units=params["dilation_h"]) for axis in found)


def may_be_winograd(params: Mapping[str, int]) -> bool:
    """Whether it is a 3x3 convolution of stride 1; a dilated one becomes dense ones when packing is off."""
    square = params["kernel_w"] == params["kernel_h"] == 3 and params["stride_w"] == params["stride_h"] == 1
    return square and params["dilation_w"] == params["dilation_h"]


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
