"""Shape rules of layers that keep every element and change only the axes: Reshape, Permute, Flatten, ..."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from param_tools.graph import Layer
from param_tools.schema import int_params, string_param
from param_tools.shapes.expression import evaluate_list
from param_tools.shapes.rule import AXIS_NAMES, Dims, Rule, int_array, require

__all__ = ["RULES"]

_UNSET = -233
# Permute's order_type -> the input axes that become w, h, d, c; ncnn's own enumeration
_ORDERS = {
    2: "wh hw",
    3: "whc hwc wch cwh hcw chw",
    4: (
        "whdc hwdc wdhc dwhc hdwc dhwc whcd hwcd wchd cwhd hcwd chwd "
        "wdch dwch wcdh cwdh dcwh cdwh hdcw dhcw hcdw chdw dchw cdhw"
    ),
}


def _reshape(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    source = dict(zip(AXIS_NAMES[len(inputs[0])], inputs[0], strict=True))
    stated = _stated_shape(layer, inputs)
    sizes = {axis: source.get(axis, 1) if size == 0 else size for axis, size in stated.items()}
    total = math.prod(inputs[0])
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) == 1:
        others = math.prod(size for size in sizes.values() if size != -1)
        sizes[free[0]] = total // others if others > 0 else 0
    dims = tuple(sizes.values())
    require(min(dims) > 0 and math.prod(dims) == total, f"{inputs[0]} has not the elements of {dims}")
    return [dims]


def _stated_shape(layer: Layer, inputs: Sequence[Dims]) -> dict[str, int]:
    """Axis -> size, outermost first; 0 keeps the input's, -1 takes what remains."""
    values = int_params(layer)
    require(values["input_batch_axis"] == values["output_batch_axis"] == 233, "it moves the batch axis")
    expression = string_param(layer, "shape_expr")
    if expression:
        sizes = evaluate_list(expression, inputs)
        require(1 <= len(sizes) <= 4, f"{len(sizes)} axes")
        return dict(zip(AXIS_NAMES[len(sizes)], reversed(sizes), strict=True))
    require(values["w"] != _UNSET, "it states no shape")
    # The first size left out, in this order, says how many axes there are.
    rank = next((rank for rank, axis in enumerate("hcd", 1) if values[axis] == _UNSET), 4)
    return {axis: values[axis] for axis in AXIS_NAMES[rank]}


def _permute(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    (dims,) = inputs
    if len(dims) == 1:
        return [dims]
    orders = _ORDERS[len(dims)].split()
    kind = int_params(layer)["order_type"]
    require(0 <= kind < len(orders), f"order {kind} of a blob with {len(dims)} axes")
    sizes = dict(zip(AXIS_NAMES[len(dims)], dims, strict=True))
    return [tuple(sizes[axis] for axis in reversed(orders[kind]))]


def _flatten(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    return [(math.prod(inputs[0]),)]


def _squeeze(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    (dims,) = inputs
    axes = int_array(layer, "axes")
    if axes:
        chosen = {axis + len(dims) if axis < 0 else axis for axis in axes}
    else:
        values = int_params(layer)
        chosen = {i for i, axis in enumerate(AXIS_NAMES[len(dims)]) if values[f"squeeze_{axis}"]}
    return [tuple(size for i, size in enumerate(dims) if size != 1 or i not in chosen) or (1,)]


def _expand_dims(layer: Layer, inputs: Sequence[Dims]) -> Sequence[Dims]:
    axes = int_array(layer, "axes")
    rank = len(inputs[0]) + len(axes)
    require(rank <= 4, f"{rank} axes")
    new = {axis + rank if axis < 0 else axis for axis in axes}
    require(len(new) == len(axes) and all(0 <= axis < rank for axis in new), f"axes {axes}")
    rest = iter(inputs[0])
    return [tuple(1 if axis in new else next(rest) for axis in range(rank))]


RULES: Mapping[str, Rule] = {
    "ExpandDims": _expand_dims,
    "Flatten": _flatten,
    "Permute": _permute,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
}
