"""What a shape rule is: a layer and its input shapes in, its output shapes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from param_tools.graph import Layer
from param_tools.schema import array_param

__all__ = ["AXIS_NAMES", "Dims", "Rule", "UnknownShapeError", "axis_of", "int_array", "require"]

Dims = tuple[int, ...]  # outermost axis first, as numpy writes shapes
Rule = Callable[[Layer, Sequence[Dims]], Sequence[Dims | None]]  # None: an output only running the layer tells


AXIS_NAMES = {1: "w", 2: "hw", 3: "chw", 4: "cdhw"}  # of a blob with so many axes, outermost first


class UnknownShapeError(Exception):
    """Why the shape cannot be told without running the layer, or why no such blob can exist."""


def require(condition: bool, reason: str) -> None:
    """Raises `UnknownShapeError(reason)` unless `condition` holds."""
    if not condition:
        raise UnknownShapeError(reason)


def axis_of(dims: Dims, axis: int) -> int:
    """`axis` counted from the outermost one, negative ones from the end; a 1-D blob has only one."""
    if len(dims) == 1:
        return 0
    positive = axis + len(dims) if axis < 0 else axis
    require(0 <= positive < len(dims), f"axis {axis} of a blob with {len(dims)} axes")
    return positive


def int_array(layer: Layer, name: str) -> tuple[int, ...]:
    """The array parameter called `name`, which must hold integers."""
    values = array_param(layer, name)
    require(all(isinstance(value, int) for value in values), f"{name} are not integers: {values}")
    return tuple(int(value) for value in values)
