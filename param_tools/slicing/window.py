"""Which input rows a range of output rows of a sliding window needs, with ncnn's ways of padding."""

from __future__ import annotations

from dataclasses import dataclass

from param_tools.graph import Layer
from param_tools.schema import int_params
from param_tools.shapes import BlobShape

__all__ = ["Window", "convolution_windows", "pooling_windows"]

SAME_UPPER, SAME_LOWER = -233, -234  # pad_left of a Convolution
_POOL_FULL, _POOL_VALID, _POOL_SAME_UPPER, _POOL_SAME_LOWER = range(4)  # pad_mode of a Pooling


@dataclass(frozen=True, slots=True)
class Window:
    """A window sliding along one axis.

    Attributes:
        extent: input elements it spans, dilation included.
        stride: input elements between two of its positions.
        before: padding in front of the input.
        after: padding behind it.
        inputs: elements of the input.
    """

    extent: int
    stride: int
    before: int
    after: int
    inputs: int

    @property
    def outputs(self) -> int:
        """Positions of the window; 0 or less when the input is too small."""
        return (self.inputs + self.before + self.after - self.extent) // self.stride + 1

    def part(self, begin: int, end: int) -> tuple[int, int, int, int]:
        """For positions [begin, end): the input range [first, last) they see, and the padding before and after it."""
        first = begin * self.stride - self.before
        last = (end - 1) * self.stride - self.before + self.extent
        first_real, last_real = min(max(first, 0), self.inputs), max(min(last, self.inputs), 0)
        return first_real, last_real, first_real - first, last - last_real


def convolution_windows(layer: Layer, shape: BlobShape) -> tuple[Window, Window] | None:
    """The horizontal and the vertical window of a 2-D convolution, or None for padding no explicit one equals."""
    p = int_params(layer)
    if min(p["dilation_w"], p["dilation_h"]) < 1:
        return None
    return _windows(
        shape,
        (p["dilation_w"] * (p["kernel_w"] - 1) + 1, p["dilation_h"] * (p["kernel_h"] - 1) + 1),
        (p["stride_w"], p["stride_h"]),
        (p["pad_left"], p["pad_right"], p["pad_top"], p["pad_bottom"]),
    )


def pooling_windows(layer: Layer, shape: BlobShape) -> tuple[Window, Window] | None:
    """The horizontal and the vertical window of a Pooling, or None when it has none or of another padding."""
    p = int_params(layer)
    if p["global_pooling"] or p["adaptive_pooling"] or min(p["stride_w"], p["stride_h"]) < 1:
        return None
    pads = (p["pad_left"], p["pad_right"], p["pad_top"], p["pad_bottom"])
    strides = (p["stride_w"], p["stride_h"])
    if p["pad_mode"] in (_POOL_SAME_UPPER, _POOL_SAME_LOWER):
        # an average that leaves padding out counts this kind of padding in: no explicit padding is like it
        if p["pooling_type"] == 1 and not p["avgpool_count_include_pad"]:
            return None
        pads = (SAME_UPPER if p["pad_mode"] == _POOL_SAME_UPPER else SAME_LOWER,) * 4
    elif p["pad_mode"] == _POOL_FULL:  # ncnn pads behind until the last window is full
        left, right, top, bottom = pads
        pads = (
            left,
            right + -(shape.w + left + right - p["kernel_w"]) % strides[0],
            top,
            bottom + -(shape.h + top + bottom - p["kernel_h"]) % strides[1],
        )
    return _windows(shape, (p["kernel_w"], p["kernel_h"]), strides, pads)


def _windows(
    shape: BlobShape, extents: tuple[int, int], strides: tuple[int, int], pads: tuple[int, int, int, int]
) -> tuple[Window, Window] | None:
    if min(*extents, *strides) < 1:
        return None
    sizes = (shape.w, shape.h)
    if set(pads) in ({SAME_UPPER}, {SAME_LOWER}):
        totals = [
            extent + (size - 1) // stride * stride - size
            for size, extent, stride in zip(sizes, extents, strides, strict=True)
        ]
        if max(totals) <= 0:
            totals = [0, 0]
        if min(totals) < 0:
            return None
        smaller = [total // 2 for total in totals]
        larger = [total - total // 2 for total in totals]
        before, after = (smaller, larger) if pads[0] == SAME_UPPER else (larger, smaller)
    elif min(pads) < 0:
        return None
    else:
        before, after = [pads[0], pads[2]], [pads[1], pads[3]]
    across, down = (Window(extents[i], strides[i], before[i], after[i], sizes[i]) for i in range(2))
    return (across, down) if min(across.outputs, down.outputs) >= 1 else None
