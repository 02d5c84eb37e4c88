"""The ways to run one layer: kernel, number of slices, resident or streamed, each with its time and memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flexnn_ncnn.profile import KernelCost, LayerProfile

__all__ = ["Choice", "choices", "cut_evenly"]

# Python's share of loading and calling one part
_PART_SECONDS = 12e-6


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to run a layer.

    Attributes:
        kernel: a name in `flexnn_ncnn.options.KERNELS`.
        part_units: output units of the largest part.
        resident: kept between inferences.
        seconds: its share of one inference.
        kept_bytes: held between inferences.
        heap_bytes: heap it needs while it runs; the heap keeps the largest of all layers.
        raw_bytes: raw weights mapped at once while streaming.
        load_bytes: what loading needs on top of `kept_bytes` before the first inference.
    """

    kernel: str
    part_units: int
    resident: bool
    seconds: float
    kept_bytes: int
    heap_bytes: int
    raw_bytes: int
    load_bytes: int


def choices(layer: LayerProfile, read_seconds_per_byte: float) -> tuple[Choice, ...]:
    """Every way to run `layer` that is not worse than another in all respects."""
    found = list(_all(layer, read_seconds_per_byte))
    return tuple(choice for choice in found if not any(_dominates(other, choice) for other in found))


def cut_evenly(units: int, parts: int, granularity: int) -> int:
    """Units of the largest of `parts` parts whose boundaries are multiples of `granularity`."""
    return min(units, -(-units // (parts * granularity)) * granularity)


def _all(layer: LayerProfile, read_seconds_per_byte: float) -> Iterator[Choice]:
    for part_units in _part_sizes(layer):
        for cost in layer.kernels:
            if layer.raw_bytes == 0:
                yield _weightless(layer, cost)
                continue
            yield _streamed(layer, cost, part_units, read_seconds_per_byte)
            if layer.mode != "gather":
                yield _resident(layer, cost, part_units)


def _part_sizes(layer: LayerProfile) -> list[int]:
    sizes = {layer.units}
    least = max(layer.granularity, layer.least_units)
    parts = 2
    while layer.blob_axis and parts * least <= layer.units:
        sizes.add(cut_evenly(layer.units, parts, layer.granularity))
        parts += max(1, parts // 3)
    return sorted(sizes, reverse=True)


def _weightless(layer: LayerProfile, cost: KernelCost) -> Choice:
    seconds = cost.compute_seconds.at(layer.units)
    return Choice(cost.kernel, layer.units, True, seconds, 0, int(cost.run_peak_bytes.at(layer.units)), 0, 0)


def _times(layer: LayerProfile, part_units: int) -> tuple[int, int]:
    return -(-layer.units // part_units), layer.units


def _streamed(layer: LayerProfile, cost: KernelCost, part_units: int, read_seconds_per_byte: float) -> Choice:
    parts, units = _times(layer, part_units)
    seconds = (
        parts * (cost.load_seconds.fixed + cost.compute_seconds.fixed + _PART_SECONDS)
        + units * (cost.load_seconds.per_unit + cost.compute_seconds.per_unit)
        + layer.raw_bytes * read_seconds_per_byte
    )
    heap = int(cost.stream_peak_bytes.at(part_units))
    raw = -(-layer.raw_bytes * part_units // units)
    return Choice(cost.kernel, part_units, False, seconds, 0, heap, raw, 0)


def _resident(layer: LayerProfile, cost: KernelCost, part_units: int) -> Choice:
    parts, units = _times(layer, part_units)
    seconds = parts * (cost.compute_seconds.fixed + _PART_SECONDS) + units * cost.compute_seconds.per_unit
    kept = parts * cost.kept_bytes.fixed + units * cost.kept_bytes.per_unit
    if cost.reads_raw:
        kept += layer.raw_bytes
    transient = cost.load_peak_bytes.at(part_units) - cost.kept_bytes.at(part_units)
    raw = 0 if cost.reads_raw else layer.raw_bytes * part_units / units
    heap = int(cost.run_peak_bytes.at(part_units))
    return Choice(cost.kernel, part_units, True, seconds, int(kept), heap, 0, int(max(0, transient) + raw))


def _dominates(one: Choice, other: Choice) -> bool:
    mine = (one.seconds, one.kept_bytes, one.heap_bytes, one.raw_bytes, one.load_bytes)
    its = (other.seconds, other.kept_bytes, other.heap_bytes, other.raw_bytes, other.load_bytes)
    return mine != its and all(a <= b for a, b in zip(mine, its, strict=True))
