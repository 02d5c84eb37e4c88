"""How many slices, and where: bytes to cuts. Pure: no files, no clock, no environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from param_tools.graph import Layer, Model
from param_tools.schema import LAYERS, int_params
from param_tools.shapes import BlobShape
from param_tools.slicing.cut import Cut, file_axes
from param_tools.slicing.rule import Axis

__all__ = ["WeightLimits", "cut_axis", "cuts", "load_factor", "plan_cuts"]

_FULLY_CONNECTED = ("Embed", "Gemm", "InnerProduct", "MultiHeadAttention")


def cuts(
    units: int, granularity: int, unit_bytes: int, max_bytes: int, least_units: int = 1, odd: bool = False
) -> tuple[tuple[int, int], ...]:
    """Distributes units over as few slices of at most `max_bytes` as possible, evenly.

    Args:
        units: how many there are.
        granularity: cuts lie at multiples of this.
        unit_bytes: bytes of one unit.
        max_bytes: bytes a slice should not exceed; one granule, or `least_units`, may.
        least_units: no slice is smaller, except the only one.
        odd: every slice holds an odd number of granules; `units` must be an odd number of them.

    Returns:
        Half-open ranges that cover [0, units) in order, none empty; all but the last are multiples of
        `granularity`, and the last is smaller than a granule only when `units` forces it.

    Raises:
        ValueError: units, granularity, max_bytes or least_units below 1, negative unit_bytes, or `odd` with an even
            number of granules.
    """
    granules = -(-units // granularity) if granularity > 0 else 0
    if min(units, granularity, max_bytes, least_units) < 1 or unit_bytes < 0 or (odd and granules % 2 == 0):
        raise ValueError(
            f"cannot cut {units} units of {unit_bytes} bytes at {'odd ' if odd else ''}multiples of {granularity} "
            f"into slices of {max_bytes} bytes and {least_units} units"
        )
    if units * unit_bytes <= max_bytes:
        return ((0, units),)
    least_granules = -(-least_units // granularity)
    most_granules = max(max_bytes // (unit_bytes * granularity), least_granules, 1)
    count, step = -(-granules // most_granules), 1
    if odd:
        # an odd number of odd slices: one granule each, the others in pairs
        count, step = -(-granules // (most_granules - 1 + most_granules % 2)) | 1, 2
    while True:
        ranges = _spread(units, granularity, count, granules, step)
        if count == 1 or min(end - begin for begin, end in ranges) >= min(least_units, units):
            return ranges
        count -= step


def _spread(units: int, granularity: int, count: int, granules: int, step: int) -> tuple[tuple[int, int], ...]:
    """`count` ranges of nearly equal numbers of granules, equal ones modulo `step`."""
    spare = (granules - count) // step
    ends = [min(granularity * (i + 1 + step * (spare * (i + 1) // count)), units) for i in range(count)]
    return tuple(zip([0, *ends[:-1]], ends, strict=True))


def cut_axis(axis: Axis, weights_bytes: int, max_bytes: int) -> tuple[tuple[int, int], ...]:
    """The ranges that bring slices along `axis` to `max_bytes` of the layer's `weights_bytes`, as far as it can."""
    unit_bytes = -(-weights_bytes // axis.units)
    return cuts(axis.units, axis.granularity, unit_bytes, max_bytes, axis.least_units, axis.odd)


@dataclass(frozen=True, slots=True)
class WeightLimits:
    """Bytes of weights a layer may have; None is no limit. Weights count as ncnn holds them: fp32, or int8.

    Attributes:
        conv_bytes: for convolutions and deconvolutions of all kinds.
        fc_bytes: for InnerProduct, Gemm, MultiHeadAttention and Embed.
        load_bytes: for any layer, counting what it takes to load: the weights and ncnn's transformed copy.
    """

    conv_bytes: int | None = None
    fc_bytes: int | None = None
    load_bytes: int | None = None

    def of_layer(self, layer: Layer) -> int | None:
        """The limit for `layer`; None for a type ncnn does not have, whose weights nobody can see."""
        if layer.type not in LAYERS:
            return None
        kind = (
            self.fc_bytes if layer.type in _FULLY_CONNECTED else self.conv_bytes if "onvolution" in layer.type else None
        )
        load = None if self.load_bytes is None else max(int(self.load_bytes / load_factor(layer)), 1)
        limits = [limit for limit in (kind, load) if limit is not None]
        return min(limits) if limits else None


def load_factor(layer: Layer) -> float:
    """Bytes at the peak of loading `layer`, as a multiple of its raw weights: at most that, with ncnn's defaults.

    Winograd weights are 16/9, 36/9 or 64/9 as many as the raw ones, int8 ones of 4 bytes each, and im2col + GEMM makes
    a second copy on the way.
    """
    if layer.type in ("Embed", "MemoryData"):
        return 1.0
    if "onvolution" not in layer.type:
        return 2.0
    params = int_params(layer)
    kernel, pixels = params["kernel_w"], params["kernel_w"] * params.get("kernel_h", 1) * params.get("kernel_d", 1)
    if layer.type == "Convolution" and pixels == 9 and kernel == 3 and params["stride_w"] == params["stride_h"] == 1:
        inputs = params["weight_data_size"] // max(9 * params["num_output"], 1)
        if params["int8_scale_term"]:
            return 1 + 4 * 36 / 9
        return 1 + (64 if max(inputs, params["num_output"]) <= 128 else 36) / 9
    return 2.0 if pixels == 1 or "DepthWise" in layer.type else 3.0


def plan_cuts(
    model: Model,
    weights_bytes: Sequence[int],
    limits: WeightLimits,
    *,
    exact_only: bool = False,
    shapes: Mapping[str, BlobShape] | None = None,
) -> tuple[Cut, ...]:
    """Cuts every layer whose weights exceed the limits.

    Rows are left alone: slices of rows would each need all the weights.

    Args:
        model: the layers.
        weights_bytes: per layer, the bytes of its weights in memory.
        limits: what a slice may have.
        exact_only: cut only where slices are bit-identical to the whole.
        shapes: blob -> shape, as far as known; attention with a mask cannot be cut without.
    """
    found = []
    for index, layer in enumerate(model.layers):
        limit = limits.of_layer(layer)
        if limit is None or weights_bytes[index] <= limit:
            continue
        usable = [
            axis for axis in file_axes(model, index, shapes) if axis.name != "rows" and (axis.exact or not exact_only)
        ]
        if usable:
            ranges = cut_axis(usable[0], weights_bytes[index], limit)
            if len(ranges) > 1:
                found.append(Cut(index, usable[0].name, ranges))
    return tuple(found)
