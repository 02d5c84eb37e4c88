"""Which layers are worth cutting, along which axis, and into what parts to measure them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from flexnn_ncnn.preparing.assemble import layer_slabs, slab_windows, streaming_axis
from flexnn_ncnn.profiling.facts import Span
from flexnn_ncnn.records.layout import WIDEST_ELEMPACK, BlobLayout, align_up
from flexnn_ncnn.records.plan import Slab
from param_tools.graph import Layer
from param_tools.model_io import NcnnModel
from param_tools.schema import int_params
from param_tools.slicing.policy import cuts
from param_tools.slicing.rows import may_be_winograd
from param_tools.slicing.rule import Axis

__all__ = [
    "SLAB_COUNTS",
    "layer_axis",
    "part_layouts",
    "part_spans",
    "slab_granularity",
    "slab_sizes",
    "small_part_units",
]

SLAB_COUNTS = (2, 4, 8, 16)
"""Into how many slabs of rows a layer is tried to be cut."""

# a layer whose weights are fewer is not worth slicing
_SLICE_FROM_BYTES = 64 * 1024
_CUT_CHANNELS_FROM_BYTES = 512 * 1024
# a workspace that is less is not worth computing by slabs of rows
_SLABS_FROM_BYTES = 200 * 1024
_LEAST_OUTPUTS = 32
# winograd computes tiles of 2, 4 or 6 rows
_WINOGRAD_ROWS = 12
# a small part is this much of a large one
_SMALL_PART = 8


def layer_axis(model: NcnnModel, index: int, bottom: BlobLayout) -> Axis | None:
    """What a layer is cut along, or None where that is not worth measuring.

    Args:
        model: its files.
        index: of the layer.
        bottom: layout of its first input as it is.
    """
    axis = streaming_axis(model, index)
    if axis is None:
        return None
    # More only matters to the last bit: Arm's winograd takes other tiles from 128 outputs on.
    axis = replace(axis, least_units=min(axis.least_units, _LEAST_OUTPUTS))
    if axis.blob_axis == "c":  # slices that are packed like the whole
        granularity = math.gcd(axis.units, WIDEST_ELEMPACK)
        axis = replace(axis, granularity=granularity, odd=axis.units % WIDEST_ELEMPACK != 0)
    if axis.name == "channels":
        # few weights, but a padded copy of the whole input as workspace
        return axis if bottom.dims == 3 and bottom.size_bytes >= _CUT_CHANNELS_FROM_BYTES else None
    # InnerProduct makes a matrix of a matrix, with its outputs as columns
    of_matrix = model.model.layers[index].type == "InnerProduct" and bottom.dims == 2
    weight_bytes = sum(array.stored_bytes for array in model.weights.arrays[index])
    return axis if weight_bytes >= _SLICE_FROM_BYTES and not of_matrix else None


def part_spans(axis: Axis, raw_bytes: int, part_bytes: int) -> tuple[Span, ...]:
    """As few parts as possible that hold no more raw weights than `part_bytes`."""
    unit_bytes = max(1, raw_bytes // axis.units)
    return cuts(axis.units, axis.granularity, unit_bytes, part_bytes, axis.least_units, axis.odd)


def small_part_units(axis: Axis, units: int) -> int:
    """Units of a part that is small beside one of `units` units; 0 where there is none."""
    granules = max(axis.least_units, units // _SMALL_PART) // axis.granularity
    if axis.odd and granules % 2 == 0:
        granules -= 1
    small = granules * axis.granularity
    return small if 0 < small < units else 0


def part_layouts(whole: Sequence[BlobLayout], axis: Axis | None, units: int) -> tuple[BlobLayout, ...]:
    """Layouts of a part's outputs: packed as the whole ones, or as far as the part's units can be."""
    if axis is None:
        return tuple(whole)
    flat = replace(whole[0].with_elempack(1), **{axis.blob_axis: units})
    return (flat.with_elempack(math.gcd(flat.packed_extent, whole[0].elempack)),)


def slab_granularity(layer: Layer, kernel: str) -> int:
    """Slabs of rows are cut at multiples of this many."""
    winograd = layer.type == "Convolution" and kernel != "sgemm" and may_be_winograd(int_params(layer))
    return _WINOGRAD_ROWS if winograd else 1


def slab_sizes(layer: Layer, bottom: BlobLayout, kernel: str, run_peak_bytes: int) -> tuple[tuple[Slab, ...], ...]:
    """Ways to cut a layer into slabs of rows that may be worth it, from the fewest rows to the most.

    Args:
        layer: the layer.
        bottom: layout of its input as it wants it.
        kernel: a name in `flexnn_ncnn.records.options.KERNELS`.
        run_peak_bytes: its workspace if computed at once.
    """
    windows = slab_windows(layer, bottom)
    if windows is None or run_peak_bytes < _SLABS_FROM_BYTES:
        return ()
    granularity = slab_granularity(layer, kernel)
    sizes = {align_up(-(-windows[1].outputs // count), granularity) for count in SLAB_COUNTS}
    found = (layer_slabs(layer, bottom, rows) for rows in sorted(sizes))
    return tuple(slabs for slabs in found if slabs)
