"""The expressions of `param_tools.schema`: compiled once, evaluated over a layer's integer parameters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import CodeType
from typing import Any

__all__ = ["REST", "dimensions", "evaluate"]

REST = "?"
"""The dimension that takes what remains of a stated number of elements."""

_GLOBALS: dict[str, Any] = {"__builtins__": {}}


def evaluate(expression: str, values: Mapping[str, int]) -> Any:
    """The value of an expression: a number, a bool, or a float where it divides or takes roots."""
    code = _compiled(expression)
    if isinstance(code, str):
        return values[code]
    # The expressions are this package's own constants; only numbers from a file flow through them.
    return eval(code, _GLOBALS, values) if isinstance(code, CodeType) else code


@cache
def _compiled(expression: str) -> CodeType | str | int:
    """Most expressions are a number or a name, which need no evaluation."""
    text = expression.strip()
    if text.isidentifier() and text not in ("True", "False"):
        return text
    if text.lstrip("-").isdecimal():
        return int(text)
    return compile(text, f"<schema: {text}>", "eval") if text not in ("True", "False") else int(text == "True")


@cache
def dimensions(shape: str) -> tuple[str, ...]:
    """The dimensions of a shape, outermost first."""
    return tuple(part.strip() for part in shape.split(","))
