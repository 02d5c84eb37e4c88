"""The records of `param_tools.schema`: what a layer type, a parameter and a weight array are."""

from __future__ import annotations

import math
from dataclasses import dataclass

from param_tools.graph import Layer

__all__ = ["ArraySchema", "ArraySpec", "LayerSchema", "ParamSchema"]


@dataclass(frozen=True, slots=True)
class ParamSchema:
    """One parameter of a layer type.

    Attributes:
        id: the number in front of "=" in a .param file.
        name: ncnn's own member name.
        kind: "int", "float", "array" or "string".
        default: the default as an expression over the parameters before it; "" for arrays and strings.
    """

    id: int
    name: str
    kind: str
    default: str


@dataclass(frozen=True, slots=True)
class ArraySchema:
    """One weight array of a layer type, as expressions over its parameters.

    Attributes:
        name: "weight", "bias", "weight_scales", ...
        shape: comma-separated dimensions, outermost first; "?" is what remains of `count`.
        load: ncnn's load type: 0 a 4-byte tag says how it is stored, 1 plain float32, 3, 4, 6 and 8 bytes.
        when: the array exists only where this holds; "" is always.
        count: number of elements where the layer states it itself; "" is the product of `shape`.
        int8: true where the layer can use int8 elements; elsewhere ncnn would take them for floats.
    """

    name: str
    shape: str
    load: str = "1"
    when: str = ""
    count: str = ""
    int8: str = "False"


@dataclass(frozen=True, slots=True)
class LayerSchema:
    """A layer type: its parameters and, in .bin order, its weight arrays."""

    type: str
    params: tuple[ParamSchema, ...]
    arrays: tuple[ArraySchema, ...] = ()

    def param(self, name: str) -> ParamSchema:
        """The parameter called `name`; KeyError when the type has none."""
        for found in self.params:
            if found.name == name:
                return found
        raise KeyError(f"{self.type} has no parameter {name!r}")


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """A weight array that one particular layer calls for.

    Attributes:
        name: "weight", "bias", "weight_scales", ...
        dims: its shape, outermost first, C order.
        tagged: whether a 4-byte tag that says how it is stored precedes it (ncnn's load type 0).
        packed: whether it is untagged bytes (load types 3, 4, 6, 8); neither is plain float32 (1).
        int8: whether the layer can use it as int8; elsewhere stock ncnn reads past the end of such an array.
    """

    name: str
    dims: tuple[int, ...]
    tagged: bool
    packed: bool = False
    int8: bool = False

    def shape(self, layer: Layer) -> tuple[int, ...]:
        """The shape for `layer`, the layer this spec was made for."""
        return self.dims

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)
