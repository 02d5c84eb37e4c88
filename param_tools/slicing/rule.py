"""What every slicing rule speaks: axes a layer can be cut along, and one part of a layer.

A rule only describes: which parameters the part has and which part of each weight array it reads. A runtime
uses that on views of the original .bin; `param_tools.slicing.rewrite` uses it to write a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from param_tools.errors import UnsupportedLayerError
from param_tools.graph import Layer
from param_tools.schema import COMMON_PARAMS, ArraySpec, array_specs, int_params

__all__ = [
    "HINTS",
    "LANES",
    "ArrayTake",
    "Axis",
    "BlobTake",
    "LayerSlice",
    "find_axis",
    "has_approximate_activation",
    "interleaved_axis",
    "outputs_axis",
    "take_arrays",
    "taken_view",
]

HINTS = next(param.id for param in COMMON_PARAMS if param.name == "top_shape_hints")
"""Parameter id of the shapes a layer's outputs are said to have; those of a slice are others, so it has none."""

LANES = 16
"""Channels that ncnn's widest kernels (AVX-512) interleave; a multiple of the 8 and 4 of all others."""


@dataclass(frozen=True, slots=True)
class ArrayTake:
    """The part [begin, end) along `axis` of one weight array of the original layer.

    Attributes:
        array_index: position in `schema.array_specs(original)`.
        axis: the array's dimension that is cut; the part is contiguous in the file when it is 0.
        begin: first index taken.
        end: index after the last; equal to `begin` when the slice gets zeros of the array's whole shape instead,
            as with a bias that only the first of several summed slices adds.
    """

    array_index: int
    axis: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class BlobTake:
    """The part [begin, end) of an input blob that a slice reads.

    Attributes:
        input_index: position in `Layer.inputs`.
        blob_axis: "c", "h" or "w".
        begin: first index read.
        end: index after the last.
    """

    input_index: int
    blob_axis: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class LayerSlice:
    """One slice of a layer.

    Attributes:
        layer: the original with the parameters of the slice; its name and blobs are the original's.
        arrays: one per array of `layer`, in its .bin order.
        axis: name of the `Axis` that was cut.
        begin: first unit of the axis that the slice computes.
        end: unit after the last.
        inputs: the parts of input blobs it reads; blobs not named are read whole.
    """

    layer: Layer
    arrays: tuple[ArrayTake, ...]
    axis: str
    begin: int
    end: int
    inputs: tuple[BlobTake, ...] = ()


@dataclass(frozen=True, slots=True)
class Axis:
    """A way to cut a layer.

    Attributes:
        name: "outputs", "channels", "columns", "heads", "m" or "rows".
        units: how many units there are to distribute.
        granularity: cut at multiples of this to keep the bits of the whole; 1 is anywhere.
        exact: whether slices cut so are bit-identical to the whole.
        blob_axis: dimension of the output along which the parts lie: "c", "h" or "w"; "sum" when each slice gives
            the whole output's shape and the output is their sum.
        least_units: a slice of fewer units may get another kernel than the whole, and so other rounding.
        odd: slices must hold an odd number of granules to keep the bits: ncnn interleaves as many outputs as divide
            their number, and of 1000 that is 8, but of 496 it is 16.
    """

    name: str
    units: int
    granularity: int
    exact: bool
    blob_axis: str
    least_units: int = 1
    odd: bool = False


def interleaved_axis(name: str, units: int, blob_axis: str) -> Axis:
    """An axis of units that ncnn computes in lanes, with kernels that round differently for 16, 8, 4 and single ones.

    Slices keep the kernel when the same power of two divides their units. Below 8 that depends on options, so such
    slices are not claimed to be exact.
    """
    if units % LANES == 0 or units % (LANES // 2):
        return Axis(name, units, LANES, units % LANES == 0, blob_axis)
    return Axis(name, units, LANES // 2, True, blob_axis, odd=True)


def has_approximate_activation(layer: Layer) -> bool:
    """Whether it ends in an activation whose bits depend on how many elements a lane holds."""
    return int_params(layer)["activation_type"] in (4, 5)


def outputs_axis(layer: Layer, blob_axis: str) -> Axis:
    """The axis `outputs` of a convolution, which sums every output by itself, whatever its neighbours in a lane.

    Sigmoid (4) and mish (5) are the exception: ncnn approximates them in lanes and calls the C library beside them.
    """
    units = int_params(layer)["num_output"]
    exact = units % LANES == 0 or not has_approximate_activation(layer)
    return Axis("outputs", units, LANES, exact, blob_axis)


def find_axis(layer: Layer, axes: tuple[Axis, ...], name: str, begin: int, end: int) -> Axis:
    """The axis called `name`, with [begin, end) checked against it.

    Raises:
        UnsupportedLayerError: the layer cannot be cut along it.
        ValueError: an empty range, or one that leaves the axis.
    """
    for axis in axes:
        if axis.name == name:
            if not 0 <= begin < end <= axis.units:
                raise ValueError(f"layer {layer.name!r} has {axis.units} {name}, not [{begin}, {end})")
            return axis
    known = ", ".join(axis.name for axis in axes) or "nothing"
    raise UnsupportedLayerError(f"layer {layer.name!r} ({layer.type}) can be cut along {known}, not along {name!r}")


def take_arrays(specs: tuple[ArraySpec, ...], cut: Mapping[str, int], begin: int, end: int) -> tuple[ArrayTake, ...]:
    """Takes [begin, end) of the arrays named in `cut` (name -> dimension) and the whole of the others."""
    return tuple(
        ArrayTake(i, cut[spec.name], begin, end) if spec.name in cut else ArrayTake(i, 0, 0, spec.dims[0])
        for i, spec in enumerate(specs)
    )


def taken_view(layer: Layer, take: ArrayTake, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The part of `values` that `take` names, without a copy; `values` is array `take.array_index` of `layer`."""
    shaped = values.reshape(array_specs(layer)[take.array_index].dims)
    return shaped[(slice(None),) * take.axis + (slice(take.begin, take.end),)]
