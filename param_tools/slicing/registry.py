"""Which rule cuts which layer type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

from param_tools.errors import UnsupportedLayerError
from param_tools.graph import Layer
from param_tools.shapes import BlobShape
from param_tools.slicing import (
    attention,
    conv,
    deconvolution,
    depthwise,
    embed,
    gemm,
    inner_product,
    pointwise,
    pooling,
)
from param_tools.slicing.rule import HINTS, Axis, LayerSlice

__all__ = ["RULES", "Rule", "axes", "take"]


class _Axes(Protocol):
    def __call__(self, layer: Layer, inputs: Sequence[BlobShape] = ...) -> tuple[Axis, ...]: ...


class _Take(Protocol):
    def __call__(
        self, layer: Layer, axis: str, begin: int, end: int, inputs: Sequence[BlobShape] = ...
    ) -> LayerSlice: ...


@dataclass(frozen=True, slots=True)
class Rule:
    """How one family of layers is cut."""

    axes: _Axes
    take: _Take


_CONV = Rule(conv.axes, conv.take)
_DEPTHWISE = Rule(depthwise.axes, depthwise.take)
_DECONVOLUTION = Rule(deconvolution.axes, deconvolution.take)
_POINTWISE = Rule(pointwise.axes, pointwise.take)

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "Convolution": _CONV,
        "Convolution1D": _CONV,
        "Convolution3D": _CONV,
        "ConvolutionDepthWise": _DEPTHWISE,
        "ConvolutionDepthWise1D": _DEPTHWISE,
        "ConvolutionDepthWise3D": _DEPTHWISE,
        "Deconvolution": _DECONVOLUTION,
        "Deconvolution1D": _DECONVOLUTION,
        "Deconvolution3D": _DECONVOLUTION,
        "DeconvolutionDepthWise": _DEPTHWISE,
        "DeconvolutionDepthWise1D": _DEPTHWISE,
        "DeconvolutionDepthWise3D": _DEPTHWISE,
        "DeformableConv2D": _CONV,
        "Embed": Rule(embed.axes, embed.take),
        "Gemm": Rule(gemm.axes, gemm.take),
        "InnerProduct": Rule(inner_product.axes, inner_product.take),
        "MultiHeadAttention": Rule(attention.axes, attention.take),
        "Pooling": Rule(pooling.axes, pooling.take),
        **dict.fromkeys([*pointwise.ARITHMETIC, *pointwise.APPROXIMATED, *pointwise.PER_CHANNEL], _POINTWISE),
    }
)
"""Layer type -> its rule; types without one cannot be cut."""


def axes(layer: Layer, inputs: Sequence[BlobShape] = ()) -> tuple[Axis, ...]:
    """The ways to cut `layer`, the best first; empty when there is none.

    Args:
        layer: the layer.
        inputs: the shapes of all its inputs where they are known; cutting by rows needs them.
    """
    rule = RULES.get(layer.type)
    return rule.axes(layer, inputs) if rule else ()


def take(layer: Layer, axis: str, begin: int, end: int, inputs: Sequence[BlobShape] = ()) -> LayerSlice:
    """Units [begin, end) of `layer` along the axis called `axis`; `inputs` as `axes` was given them.

    Raises:
        UnsupportedLayerError: the layer cannot be cut so.
        ValueError: an empty range, or one that leaves the axis.
    """
    rule = RULES.get(layer.type)
    if rule is None:
        raise UnsupportedLayerError(f"layer {layer.name!r}: no rule cuts the type {layer.type!r}")
    part = rule.take(layer, axis, begin, end, inputs)
    return replace(part, layer=part.layer.with_params({HINTS: None}))
