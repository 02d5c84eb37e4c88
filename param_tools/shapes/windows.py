"""Shape rules of layers that slide a window: convolutions, poolings, fold and unfold.

Blobs are (channels, spatial...) with one spatial axis for the 1D types, two, or three.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from param_tools.graph import Layer
from param_tools.schema import int_params
from param_tools.shapes.rule import Dims, Rule, require

__all__ = ["RULES"]

_SAME = (-233, -234)  # pad values that stand for SAME_UPPER and SAME_LOWER
_SIDES = {"d": ("pad_front", "pad_behind"), "h": ("pad_top", "pad_bottom"), "w": ("pad_left", "pad_right")}


@dataclass(frozen=True, slots=True)
class _Window:
    """The window of a layer along one spatial axis."""

    extent: int  # of the kernel, dilation included
    stride: int
    before: int
    after: int

    @property
    def pads(self) -> tuple[int, int]:
        return self.before, self.after


def _windows(values: Mapping[str, int], axes: str, kernel: Sequence[int] | None = None) -> list[_Window]:
    found = []
    for position, axis in enumerate(axes):
        size = kernel[position] if kernel else values[f"kernel_{axis}"]
        stride = values[f"stride_{axis}"]
        require(size > 0 and stride > 0, f"kernel {size} with stride {stride}")
        extent = values.get(f"dilation_{axis}", 1) * (size - 1) + 1
        found.append(_Window(extent, stride, *(values[side] for side in _SIDES[axis])))
    return found


def _all_pads(windows: Sequence[_Window]) -> list[int]:
    return [pad for window in windows for pad in window.pads]


def _slide(size: int, window: _Window, pads: int, *, ceil: bool = False) -> int:
    room = size + pads - window.extent
    require(room >= 0, f"a window of {window.extent} does not fit the padded input of {size + pads}")
    return (math.ceil(room / window.stride) if ceil else room // window.stride) + 1


def _convolved(spatial: Dims, windows: Sequence[_Window]) -> Dims:
    pads = _all_pads(windows)
    if pads[0] in _SAME and len(set(pads)) == 1:
        return _same_sized(spatial, windows)
    padded = max(pads) > 0
    require(min(pads) >= 0 or not padded, f"paddings {pads}")
    return tuple(
        _slide(size, window, sum(window.pads) if padded else 0) for size, window in zip(spatial, windows, strict=True)
    )


def _same_sized(spatial: Dims, windows: Sequence[_Window]) -> Dims:
    """Output of SAME padding; ncnn corrupts memory where one axis needs padding and another too little of it."""
    made = tuple(-(-size // window.stride) for size, window in zip(spatial, windows, strict=True))
    missing = [
        (out - 1) * window.stride + window.extent - size
        for out, size, window in zip(made, spatial, windows, strict=True)
    ]
    require(max(missing) <= 0 or min(missing) >= 0, "SAME padding of a stride larger than the kernel along one axis")
    return made


def _convolution(axes: str) -> Rule:
    def rule(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
        values = int_params(layer)
        outputs, kernel = values["num_output"], None
        if values.get("dynamic_weight"):
            require(len(inputs) > 1 and len(inputs[1]) == len(axes) + 2, "its weights are no blob of full rank")
            outputs, kernel = inputs[1][0], inputs[1][2:]
        if len(inputs[0]) == 1 and not kernel and values["kernel_w"] == values.get("kernel_h", 0) == 1:
            return [(outputs,)]  # ncnn runs a 1x1 convolution of a vector as an InnerProduct
        require(len(inputs[0]) == len(axes) + 1, f"its input has the shape {inputs[0]}")
        return [(outputs, *_convolved(inputs[0][1:], _windows(values, axes, kernel)))]

    return rule


def _deconvolution(axes: str) -> Rule:
    def rule(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
        values = int_params(layer)
        require(not values.get("dynamic_weight"), "its weights come from a blob")
        require(len(inputs[0]) == len(axes) + 1, f"its input has the shape {inputs[0]}")
        windows = _windows(values, axes)
        extra = {"w": "output_pad_right", "h": "output_pad_bottom", "d": "output_pad_behind"}
        full = tuple(
            (size - 1) * window.stride + window.extent + values[extra[axis]]
            for size, window, axis in zip(inputs[0][1:], windows, axes, strict=True)
        )
        return [(values["num_output"], *_cut(full, windows, tuple(values[f"output_{axis}"] for axis in axes)))]

    return rule


def _cut(full: Dims, windows: Sequence[_Window], stated: Dims) -> Dims:
    pads = _all_pads(windows)
    if max(pads) > 0:
        require(min(pads) >= 0, f"paddings {pads}")
        return tuple(size - sum(window.pads) for size, window in zip(full, windows, strict=True))
    if min(stated) > 0:
        require(any(pad in _SAME for pad in pads), "it states an output size but no SAME padding")
        require(all(map(operator.le, stated, full)), f"it states an output of {stated} but makes {full}")
        return stated
    return full


def _pooling(axes: str) -> Rule:
    def rule(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
        values = int_params(layer)
        require(len(inputs) == 1 and len(inputs[0]) == len(axes) + 1, f"its input has the shape {inputs}")
        channels, *spatial = inputs[0]
        if values["global_pooling"]:
            return [(channels,)]
        if values["adaptive_pooling"]:
            wanted = [values[f"out_{axis}"] for axis in axes]
            require(wanted[0] != -233 or len(axes) > 1, "Pooling1D cannot keep its input's size")
            return [(channels, *(size if out == -233 else out for out, size in zip(wanted, spatial, strict=True)))]
        windows = _windows(values, axes)
        if values["pad_mode"] in (2, 3):  # SAME_UPPER, SAME_LOWER
            return [(channels, *_same_sized(tuple(spatial), windows))]
        full = values["pad_mode"] == 0  # ncnn pads the end so that the last window is whole
        sizes = (
            _slide(size, window, sum(window.pads), ceil=full) for size, window in zip(spatial, windows, strict=True)
        )
        return [(channels, *sizes)]

    return rule


def _deformable(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    values = int_params(layer)
    require(len(inputs) in (2, 3) and len(inputs[0]) == 3, f"its inputs have the shapes {inputs}")
    sizes = (
        _slide(size, window, sum(window.pads))
        for size, window in zip(inputs[0][1:], _windows(values, "hw"), strict=True)
    )
    return [(values["num_output"], *sizes)]


def _unfold(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    values = int_params(layer)
    require(len(inputs[0]) == 3, f"its input has the shape {inputs[0]}")
    positions = math.prod(_convolved(inputs[0][1:], _windows(values, "hw")))
    return [(inputs[0][0] * values["kernel_h"] * values["kernel_w"], positions)]


def _fold(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    values = int_params(layer)
    require(len(inputs[0]) == 2, f"its input has the shape {inputs[0]}")
    window = values["kernel_h"] * values["kernel_w"]
    require(window > 0 and inputs[0][0] % window == 0, f"{inputs[0][0]} rows are no multiple of the window's {window}")
    return [(inputs[0][0] // window, values["output_h"], values["output_w"])]


def _pooled_regions(channels: Callable[[Mapping[str, int], Dims], int]) -> Rule:
    def rule(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
        values = int_params(layer)
        return [(channels(values, inputs[0]), values["pooled_height"], values["pooled_width"])]

    return rule


RULES: Mapping[str, Rule] = {
    **{
        f"Convolution{kind}{suffix}": _convolution(axes)
        for kind in ("", "DepthWise")
        for suffix, axes in (("1D", "w"), ("", "hw"), ("3D", "dhw"))
    },
    **{
        f"Deconvolution{kind}{suffix}": _deconvolution(axes)
        for kind in ("", "DepthWise")
        for suffix, axes in (("1D", "w"), ("", "hw"), ("3D", "dhw"))
    },
    "Pooling1D": _pooling("w"),
    "Pooling": _pooling("hw"),
    "Pooling3D": _pooling("dhw"),
    "DeformableConv2D": _deformable,
    "Fold": _fold,
    "Unfold": _unfold,
    "ROIAlign": _pooled_regions(lambda values, dims: dims[0]),
    "ROIPooling": _pooled_regions(lambda values, dims: dims[0]),
    "PSROIPooling": _pooled_regions(lambda values, dims: values["output_dim"]),
}
