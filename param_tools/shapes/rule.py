"""What a shape rule is: a layer and its input shapes in, its output shapes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from param_tools.graph import Layer

__all__ = ["Dims", "Rule", "UnknownShapeError", "axis_of", "require"]

Dims = tuple[int, ...]  # outermost axis first, as numpy writes shapes
Rule = Callable[[Layer, Sequence[Dims]], Sequence[Dims | None]]  # None: an output only running the layer tells


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
