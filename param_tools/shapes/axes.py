"""Shape rules of layers that cut, join, repeat, resize or reduce axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from param_tools.graph import Layer
from param_tools.schema import float_param, int_params, string_param
from param_tools.shapes.expression import evaluate_list
from param_tools.shapes.rule import AXIS_NAMES, Dims, Rule, UnknownShapeError, axis_of, int_array, require

__all__ = ["RULES"]

_UNSET = -233


def _concat(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    require(bool(inputs), "it has no input")
    axis = axis_of(inputs[0], int_params(layer)["axis"])
    rest = {(*dims[:axis], *dims[axis + 1 :]) for dims in inputs}
    require(
        len({len(dims) for dims in inputs}) == len(rest) == 1, f"shapes {list(inputs)} do not fit along axis {axis}"
    )
    return [(*inputs[0][:axis], sum(dims[axis] for dims in inputs), *inputs[0][axis + 1 :])]


def _slice(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    require(len(inputs) == 1, f"it has {len(inputs)} inputs, not one")
    dims = inputs[0]
    axis = axis_of(dims, int_params(layer)["axis"])
    slices, indices = int_array(layer, "slices"), int_array(layer, "indices")
    count, size, begin = len(layer.outputs), dims[axis], 0
    require(
        len(indices) >= count - 1 if indices else len(slices) >= count, "it states fewer slices than it has outputs"
    )
    made = []
    for i in range(count):
        if indices:
            end = size if i == count - 1 else indices[i] + size if indices[i] < 0 else indices[i]
        else:
            end = begin + ((size - begin) // (count - i) if slices[i] == _UNSET else slices[i])
        require(begin < end <= size, f"slice {begin}..{end} of {size}")
        made.append((*dims[:axis], end - begin, *dims[axis + 1 :]))
        begin = end
    return made


def _crop(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    dims, values, names = inputs[0], int_params(layer), AXIS_NAMES[len(inputs[0])]
    expressions = [string_param(layer, f"{name}_expr") for name in ("starts", "ends", "axes")]
    if expressions[0] and expressions[1]:
        starts, ends, axes = (tuple(evaluate_list(text, inputs)) if text else () for text in expressions)
        return [_numpy_crop(dims, starts, ends, axes)]
    if len(inputs) > 1:
        require(values["woffset"] != _UNSET, "its second input's data say what to cut")
        reference = dict(zip(AXIS_NAMES[len(inputs[1])], inputs[1], strict=True))
        keeps_channels = len(dims) >= 3 and len(inputs[1]) != len(dims)
        sizes = {axis: reference.get(axis, 1) for axis in names}
        return [
            tuple(
                size if axis == "c" and keeps_channels else sizes[axis] for axis, size in zip(names, dims, strict=True)
            )
        ]
    starts, ends, axes = (int_array(layer, name) for name in ("starts", "ends", "axes"))
    if starts and ends:
        return [_numpy_crop(dims, starts, ends, axes)]
    made = []
    for axis, size in zip(names, dims, strict=True):
        left = size - values[f"{axis}offset"] - values[f"{axis}offset2"]
        wanted = values[f"out{axis}"]
        made.append(left if wanted == _UNSET else min(wanted, left))
    return [tuple(made)]


def _numpy_crop(dims: Dims, starts: Dims, ends: Dims, axes: Dims) -> Dims:
    made = list(dims)
    chosen = axes or tuple(range(len(dims)))
    require(len(starts) >= len(chosen) and len(ends) >= len(chosen), "it states fewer limits than axes")
    for axis, start, end in zip(chosen, starts, ends, strict=False):
        position = axis_of(dims, axis)
        size = dims[position]
        begin = 0 if start == _UNSET else start if start >= 0 else size + start
        stop = size if end == _UNSET else min(size, end if end > 0 else size + end)
        made[position] = stop - begin
    return tuple(made)


def _padding(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    (dims,) = inputs
    values = int_params(layer)
    # front and behind pad the channels of a 3-D blob, the depth of a 4-D one
    pairs = [("left", "right"), ("top", "bottom"), ("front", "behind")][: min(len(dims), 3)]
    sizes = list(dims)
    for position, pair in enumerate(pairs):
        pads = [values[side] for side in pair]
        require(min(pads) >= 0, f"paddings {pads}")
        sizes[-1 - position] += sum(pads)
    return [tuple(sizes)]


def _tile(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    (dims,) = inputs
    values, repeats = int_params(layer), int_array(layer, "repeats")
    if not repeats:
        axis = axis_of(dims, values["axis"])
        repeats = tuple(values["tiles"] if i == axis else 1 for i in range(len(dims)))
    require(len(repeats) <= 4, f"{len(repeats)} repeats")
    names = "dhw" if len(repeats) == 3 and len(dims) == 4 else AXIS_NAMES[len(repeats)]
    times = dict(zip(names, repeats, strict=True))
    sizes = dict(zip(AXIS_NAMES[len(dims)], dims, strict=True))
    return [tuple(sizes.get(axis, 1) * times.get(axis, 1) for axis in AXIS_NAMES[max(len(dims), len(repeats))])]


def _reduction(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    (dims,) = inputs
    values, axes = int_params(layer), int_array(layer, "axes")
    reduced = set(range(len(dims)))
    if not values["reduce_all"] and len(dims) > 1:
        reduced = {axis_of(dims, axis) for axis in axes}
    if values["keepdims"]:
        return [tuple(1 if axis in reduced else size for axis, size in enumerate(dims))]
    return [tuple(size for axis, size in enumerate(dims) if axis not in reduced) or (1,)]


def _glu(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    (dims,) = inputs
    axis = axis_of(dims, int_params(layer)["axis"])
    return [(*dims[:axis], dims[axis] // 2, *dims[axis + 1 :])]


def _interp(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    dims, values = inputs[0], int_params(layer)
    h, w = (1, 1) if len(dims) == 1 else dims[-2:]
    expression = string_param(layer, "size_expr")
    if expression:
        sizes = evaluate_list(expression, inputs)
        require(len(sizes) in (1, 2), f"{len(sizes)} sizes")
        w, h = sizes[0], sizes[1] if len(sizes) == 2 else h
    elif len(inputs) > 1:
        h, w = (1, *inputs[1])[-2:]
    elif values["output_width"] and values["output_height"]:
        h, w = values["output_height"], values["output_width"]
    else:
        h = _scaled(h, float_param(layer, "height_scale"))
        w = _scaled(w, float_param(layer, "width_scale"))
    if len(dims) == 1:
        return [(dims[0], h, w)]
    if len(dims) == 2:
        return [(dims[0], w)]
    require(len(dims) == 3, f"its input has the shape {dims}")
    return [(dims[0], h, w)]


def _scaled(size: int, scale: float) -> int:
    """The product as ncnn computes it: in float32, cut off."""
    with np.errstate(over="ignore"):
        product = float(np.float32(size) * np.float32(scale))
    require(0 <= product < 2**31, f"{size} times {scale}")
    return int(product)


def _pixel_shuffle(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    factor = int_params(layer)["upscale_factor"]
    require(len(inputs[0]) == 3 and factor > 0, f"its input has the shape {inputs[0]}")
    channels, h, w = inputs[0]
    return [(channels // (factor * factor), h * factor, w * factor)]


def _reorg(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    stride = int_params(layer)["stride"]
    require(len(inputs[0]) == 3 and stride > 0, f"its input has the shape {inputs[0]}")
    channels, h, w = inputs[0]
    return [(channels * stride * stride, h // stride, w // stride)]


def _grid_sample(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    require(len(inputs) == 2 and len(inputs[0]) == len(inputs[1]) >= 3, f"its inputs have the shapes {inputs}")
    image, grid = inputs
    spatial = grid[1:] if int_params(layer)["permute_fusion"] else grid[:-1]
    return [(image[0], *spatial)]


def _data_dependent(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    raise UnknownShapeError("the size of its output depends on the data: give it as a hint, or let it be measured")


RULES: Mapping[str, Rule] = {
    "Concat": _concat,
    "Crop": _crop,
    "GLU": _glu,
    "GridSample": _grid_sample,
    "Interp": _interp,
    "Padding": _padding,
    "PixelShuffle": _pixel_shuffle,
    "Reduction": _reduction,
    "Reorg": _reorg,
    "Slice": _slice,
    "Tile": _tile,
    **dict.fromkeys(
        ("DetectionOutput", "Proposal", "YoloDetectionOutput", "Yolov3DetectionOutput"),
        _data_dependent,
    ),
}
