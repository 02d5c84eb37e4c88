"""Parameters of a file's layer as ncnn's Python bindings take them."""

from __future__ import annotations

from param_tools.errors import UnsupportedLayerError
from param_tools.graph import Layer
from param_tools.schema import COMMON_PARAMS, describe

__all__ = ["typed_params"]


def typed_params(layer: Layer) -> tuple[tuple[int, int | float | tuple[int | float, ...]], ...]:
    """The layer's parameters with the type that ncnn reads each as.

    ncnn ignores a float where it wants an integer, so such a parameter is left out.
    """
    kinds = {param.id: param.kind for param in (*describe(layer).params, *COMMON_PARAMS)}
    typed: list[tuple[int, int | float | tuple[int | float, ...]]] = []
    for param_id, param in layer.params.items():
        kind, value = kinds.get(param_id), param.value
        if isinstance(value, str):
            if kind == "string" and value:
                raise UnsupportedLayerError(
                    f"layer {layer.name!r} ({layer.type}): the text parameter {param_id}={value!r} cannot be passed "
                    "through ncnn's Python bindings",
                    hint="export the model with fixed shapes",
                )
        elif isinstance(value, tuple):
            typed.append((param_id, value))
        elif kind == "float":
            typed.append((param_id, float(value)))
        elif isinstance(value, int):
            typed.append((param_id, value))
    return tuple(typed)
