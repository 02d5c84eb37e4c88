"""ncnn's shape expressions: "*(0w,2),0h" is twice the width of input 0, then its height."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence

from param_tools.shapes.rule import AXIS_NAMES, Dims, UnknownShapeError

__all__ = ["evaluate_list"]

_Number = int | float
_SIZE = re.compile(r"(\d)([whdc])\Z")
_INTEGER = re.compile(r"[+-]?\d{1,10}\Z")
_BINARY: Mapping[str, Callable[[_Number, _Number], _Number]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": lambda a, b: int(a / b) if isinstance(a, int) and isinstance(b, int) else math.floor(a / b),
    "/": operator.truediv,
    "max": max,
    "min": min,
}
_UNARY: Mapping[str, Callable[[_Number], _Number]] = {
    "abs": abs,
    "neg": operator.neg,
    "square": lambda a: a * a,
    "trunc": math.trunc,
    "ceil": math.ceil,
    "floor": math.floor,
}


def evaluate_list(text: str, inputs: Sequence[Dims]) -> list[int]:
    """The integers that a shape expression gives for inputs of these shapes.

    Raises:
        UnknownShapeError: an operation that only ncnn itself knows, or a malformed expression.
    """
    stack: list[_Number] = []
    for token in reversed([token for token in re.split(r"[(),]", text) if token]):
        try:
            stack.append(_apply(token, stack, inputs))
        except (ArithmeticError, IndexError, ValueError) as error:
            raise UnknownShapeError(f"the expression {text!r} cannot be evaluated: {error}") from error
    return [int(value) for value in reversed(stack)]


def _apply(token: str, stack: list[_Number], inputs: Sequence[Dims]) -> _Number:
    size = _SIZE.match(token)
    if size:
        dims = inputs[int(size[1])]
        return dict(zip(AXIS_NAMES[len(dims)], dims, strict=True)).get(size[2], 1)
    if token in _BINARY:
        first = stack.pop()
        return _BINARY[token](first, stack.pop())
    if token in _UNARY:
        return _UNARY[token](stack.pop())
    if _INTEGER.match(token):
        return int(token)
    raise ValueError(f"{token!r} is not supported")
