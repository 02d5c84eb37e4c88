"""What can be cut in a file that stock ncnn runs, and the records of what was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from param_tools.graph import Model
from param_tools.schema import int_params
from param_tools.shapes import BlobShape
from param_tools.slicing.registry import axes
from param_tools.slicing.rule import HINTS, ArrayTake, Axis

__all__ = ["Cut", "CutLayer", "SlicedModel", "Source", "file_axes", "known_shapes", "quantises_output"]

_CUTS_INPUTS = ("channels", "rows", "heads")
_KEEPS_INT8 = (
    "Concat",
    "Crop",
    "Dropout",
    "Flatten",
    "Noop",
    "Padding",
    "Permute",
    "Pooling",
    "ReLU",
    "Reshape",
    "Slice",
    "Split",
)
_INT8_CONVOLUTIONS = ("Convolution", "ConvolutionDepthWise")
_REQUANTISES = 100  # int8_scale_term over this: the output is int8


@dataclass(frozen=True, slots=True)
class Cut:
    """What to do with one layer.

    Attributes:
        layer_index: its index in the model.
        axis: name of one of its axes.
        ranges: half-open ranges of units that cover the axis in order.
    """

    layer_index: int
    axis: str
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a weight array of the sliced model comes from.

    Attributes:
        layer_index: index of the layer in the original model.
        take: the part of its array.
    """

    layer_index: int
    take: ArrayTake


@dataclass(frozen=True, slots=True)
class CutLayer:
    """A cut that was made.

    Attributes:
        cut: what was asked for.
        exact: whether the slices are bit-identical to the whole.
        slices: indices of the slices in the sliced model, in the order of the ranges.
    """

    cut: Cut
    exact: bool
    slices: tuple[int, ...]


@dataclass(frozen=True)
class SlicedModel:
    """The result of `apply_cuts`.

    Attributes:
        model: the new layers, in execution order.
        sources: per layer, one per weight array in .bin order.
        cut_layers: the cuts, in the original's order.
    """

    model: Model
    sources: tuple[tuple[Source, ...], ...]
    cut_layers: tuple[CutLayer, ...]


def known_shapes(model: Model, layer_index: int, shapes: Mapping[str, BlobShape]) -> tuple[BlobShape, ...]:
    """The shapes of all inputs of a layer, or none when one is unknown."""
    blobs = model.layers[layer_index].inputs
    return tuple(shapes[blob] for blob in blobs) if all(blob in shapes for blob in blobs) else ()


def file_axes(model: Model, layer_index: int, shapes: Mapping[str, BlobShape] | None = None) -> tuple[Axis, ...]:
    """The ways to cut a layer of a file, the best first: those of `registry.axes` that standard layers can join.

    ncnn's Slice, Crop and Concat corrupt blobs of int8, so nothing that is cut may come in as int8. Shape hints choose
    the kernel, also those of the layer's inputs, which a slice does not see.

    Args:
        model: the whole model.
        layer_index: the layer.
        shapes: blob -> shape, as far as known.
    """
    layer = model.layers[layer_index]
    if len(layer.outputs) != 1:
        return ()
    if any(HINTS in model.layers[model.producers[blob]].params for blob in layer.inputs):
        layer = layer.with_params({HINTS: ()})
    found = axes(layer, known_shapes(model, layer_index, shapes or {}))
    if any(_is_int8(model, blob) for blob in layer.inputs):
        return tuple(axis for axis in found if axis.name not in _CUTS_INPUTS)
    return found


def quantises_output(model: Model, layer_index: int) -> bool:
    """Whether the layer's output is int8."""
    layer = model.layers[layer_index]
    if layer.type in _INT8_CONVOLUTIONS:
        return int_params(layer)["int8_scale_term"] > _REQUANTISES
    return layer.type in ("Quantize", "Requantize")


def _is_int8(model: Model, blob: str) -> bool:
    """Whether `blob` may hold int8: some layer before it, with none between that computes, says so."""
    pending, seen = [blob], {blob}
    while pending:
        index = model.producers[pending.pop()]
        if quantises_output(model, index):
            return True
        if model.layers[index].type in _KEEPS_INT8:
            new = set(model.layers[index].inputs) - seen
            seen |= new
            pending.extend(new)
    return False
