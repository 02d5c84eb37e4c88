"""Which rule cuts which layer type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from param_tools.errors import UnsupportedLayerError
from param_tools.graph import Layer
from param_tools.slicing import conv, gemm, inner_product
from param_tools.slicing.rule import Axis, LayerSlice

__all__ = ["RULES", "Rule", "axes", "take"]


@dataclass(frozen=True, slots=True)
class Rule:
    """How one family of layers is cut."""

    axes: Callable[[Layer], tuple[Axis, ...]]
    take: Callable[[Layer, str, int, int], LayerSlice]


_CONV = Rule(conv.axes, conv.take)
RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "Convolution": _CONV,
        "Convolution1D": _CONV,
        "Convolution3D": _CONV,
        "DeformableConv2D": _CONV,
        "Gemm": Rule(gemm.axes, gemm.take),
        "InnerProduct": Rule(inner_product.axes, inner_product.take),
    }
)
"""Layer type -> its rule; types without one cannot be cut."""


def axes(layer: Layer) -> tuple[Axis, ...]:
    """The ways to cut `layer`, the best first; empty when there is none."""
    rule = RULES.get(layer.type)
    return rule.axes(layer) if rule else ()


def take(layer: Layer, axis: str, begin: int, end: int) -> LayerSlice:
    """Units [begin, end) of `layer` along the axis called `axis`.

    Raises:
        UnsupportedLayerError: the layer cannot be cut so.
        ValueError: an empty range, or one that leaves the axis.
    """
    rule = RULES.get(layer.type)
    if rule is None:
        raise UnsupportedLayerError(f"layer {layer.name!r}: no rule cuts the type {layer.type!r}")
    return rule.take(layer, axis, begin, end)
