"""The ways to run one layer: kernel, number of slices, resident or streamed, each with its time and memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flexnn_ncnn.records.layout import OVERREAD_BYTES, WIDEST_ELEMPACK, align_up, part_view
from flexnn_ncnn.records.profile import KernelCost, LayerProfile, SlabCost
from flexnn_ncnn.records.staging import SMALL_BYTES

__all__ = [
    "CALL_BYTES",
    "SLAB_SECONDS",
    "TRANSFORMED_TYPES",
    "UNLOADED_MODES",
    "Choice",
    "choices",
    "cut_evenly",
    "objects_bytes",
    "part_size",
    "run_peak",
    "staged",
    "undominated",
    "whole_layer",
]

# Python's share of loading and calling one part
_PART_SECONDS = 12e-6
# and its share of one slab
SLAB_SECONDS = 15e-6
_SCRATCH_ALIGNMENT_BYTES = 64
# layers whose transformed weights ncnn can take from a file (patches/)
TRANSFORMED_TYPES = ("Convolution", "InnerProduct", "Gemm", "MultiHeadAttention")
# weights of such layers are read where they are needed: rows of an embedding, a constant
UNLOADED_MODES = ("gather", "constant")
# modes in which a layer computes from all its weights
_ONE_LAYER = ("forward", "list")
# smaller arrays are read, not mapped, and gain nothing
_TRANSFORMED_FROM_BYTES = 64 * 1024
# what is around transformed weights: header and pages
_IMAGE_BYTES = 12 * 1024
# what mapping them takes of what mapping a .bin anew does, which makes the mapping, too
_HUGE_PAGE_BYTES, _SMALL_SHARE, _HUGE_SHARE = 2 * 1024 * 1024, 0.5, 0.1
# what is kept of a layer that stands, beside a bias for each unit
_STANDING_BYTES, _BIAS_BYTES = 6_000, 4
# larger ones do not lie in a processor's cache when they are transformed, and mapping takes no copy
_STAGED_UP_TO_BYTES = 1024 * 1024
# what may be read past the end of each array of a layer, and up to where the next one begins
_STAGING_BYTES = 4 * (OVERREAD_BYTES + 64)
# what the runtime keeps of each slice and slab beyond a layer's first: its place in the plan, and views of blobs
CALL_BYTES = 2_000


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to run a layer.

    Attributes:
        kernel: a name in `flexnn_ncnn.records.options.KERNELS`.
        part_units: output units of the largest part.
        slab_rows: output rows computed at once, 0 for all.
        resident: kept between inferences.
        seconds: its share of one inference, loads and computing one after the other.
        load_seconds: the loads' part of that.
        kept_bytes: held between inferences.
        heap_bytes: heap that a load takes, and what a layer allocates there while it computes.
        raw_bytes: raw weights mapped at once while streaming.
        scratch_bytes: what it allocates from the arena while it computes.
        load_bytes: what loading needs on top of `kept_bytes` before the first inference.
        read_bytes: what is read from files in each inference.
        transformed: what is read is what the kernel makes of the weights, so that nothing is left to be made.
        objects_bytes: what slices and slabs take to be called one by one.
        stands: streamed, but read in place by the kernel: the layer stays, and the pages of its weights come and go.
        may_stage: streamed, and nobody reads the raw weights once the layer is loaded: see `staged`.
        staged_bytes: of the scratch what raw weights are read to; they are not mapped then.
    """

    kernel: str
    part_units: int
    slab_rows: int
    resident: bool
    seconds: float
    load_seconds: float
    kept_bytes: int
    heap_bytes: int
    raw_bytes: int
    scratch_bytes: int
    load_bytes: int
    read_bytes: int = 0
    transformed: bool = False
    objects_bytes: int = 0
    stands: bool = False
    may_stage: bool = False
    staged_bytes: int = 0


def staged(choice: Choice) -> Choice:
    """The choice with weights read to its scratch, if it may: while they are loaded nothing else is there.

    That takes no memory for raw weights where the scratch is as large, and half the time of mapping them: what lies in
    the processor's cache need not be read from memory again.
    """
    if not choice.may_stage or not choice.raw_bytes:
        return choice
    scratch_bytes = max(choice.scratch_bytes, align_up(choice.raw_bytes + _STAGING_BYTES, _SCRATCH_ALIGNMENT_BYTES))
    return replace(choice, scratch_bytes=scratch_bytes, raw_bytes=0, staged_bytes=choice.raw_bytes)


def objects_bytes(parts: int, slabs: int) -> int:
    """What the runtime keeps to call so many slices, each in so many slabs (0 or 1 is at once)."""
    return (parts * max(1, slabs) - 1) * CALL_BYTES


def choices(
    layer: LayerProfile, read_seconds_per_byte: float, transformed: bool = False, reads_count: bool = False
) -> tuple[Choice, ...]:
    """Every way to run `layer` that is not worse than another in all respects.

    Args:
        layer: what was measured.
        read_seconds_per_byte: what reading takes of the time to load.
        transformed: whether weights may be stored as kernels want them.
        reads_count: whether it matters how much is read, beside the time that takes.
    """
    found = list(_all(layer, read_seconds_per_byte))
    if transformed:
        found += [kept for one in found if (kept := _transformed(layer, one, read_seconds_per_byte)) is not None]
    return undominated(list(dict.fromkeys(found)), reads_count)


def whole_layer(layer: LayerProfile, read_seconds_per_byte: float) -> Choice:
    """`layer` as stock ncnn computes it, loaded for each inference."""
    cost = layer.kernels[0]
    if layer.raw_bytes == 0:
        return _weightless(layer, cost, 0)
    return _streamed(layer, cost, layer.units, 0, read_seconds_per_byte)


def cut_evenly(units: int, parts: int, granularity: int) -> int:
    """Units of the largest of `parts` parts whose boundaries are multiples of `granularity`."""
    return min(units, -(-units // (parts * granularity)) * granularity)


def part_size(layer: LayerProfile, parts: int) -> int:
    """Output units of one of `parts` slices of a layer.

    Channels that are no multiple of all lanes come in an odd number of granules: ncnn packs a slice by what divides
    its own channels, and that must be what divides the whole layer's, or every slice is packed anew.
    """
    size = cut_evenly(layer.units, parts, layer.granularity)
    if layer.blob_axis == "c" and layer.granularity < WIDEST_ELEMPACK and size // layer.granularity % 2 == 0:
        size += layer.granularity
    return min(layer.units, size)


def _all(layer: LayerProfile, read_seconds_per_byte: float) -> Iterator[Choice]:
    for cost in layer.kernels:
        if layer.raw_bytes == 0:
            yield from (_weightless(layer, cost, slab_rows) for slab_rows in _slab_sizes(cost.slabs))
            continue
        for part_units in _part_sizes(layer):
            for slab_rows in _slab_sizes(cost.slabs):
                yield _streamed(layer, cost, part_units, slab_rows, read_seconds_per_byte)
                if layer.mode != "gather":
                    yield _resident(layer, cost, part_units, slab_rows)


def _part_sizes(layer: LayerProfile) -> list[int]:
    sizes = {layer.units}
    least = max(layer.granularity, layer.least_units)
    parts = 2
    while layer.blob_axis and parts * least <= layer.units:
        sizes.add(part_size(layer, parts))
        parts += max(1, parts // 3)
    return sorted(sizes, reverse=True)


def _slab_sizes(slabs: SlabCost | None) -> list[int]:
    """Rows of a slab worth trying; 0 is all at once."""
    if slabs is None:
        return [0]
    return [0, *(rows for rows in slabs.run_peak_bytes.sizes if rows < slabs.rows)]


def _slab_count(cost: KernelCost, slab_rows: int) -> int:
    return -(-cost.slabs.rows // slab_rows) if slab_rows and cost.slabs is not None else 1


def _weightless(layer: LayerProfile, cost: KernelCost, slab_rows: int) -> Choice:
    return Choice(
        kernel=cost.kernel,
        part_units=layer.units,
        slab_rows=slab_rows,
        resident=True,
        seconds=_compute_seconds(layer, cost, layer.units, slab_rows),
        load_seconds=0.0,
        kept_bytes=0,
        heap_bytes=int(cost.run_heap_bytes.at(layer.units)),
        raw_bytes=0,
        scratch_bytes=_scratch_bytes(layer, cost, layer.units, slab_rows),
        load_bytes=0,
        objects_bytes=objects_bytes(1, _slab_count(cost, slab_rows)),
    )


def run_peak(cost: KernelCost, part_units: int, slab_rows: int) -> float:
    """Scratch of a part computed by slabs: that of the measured part shrinks with rows as measured."""
    whole = cost.run_peak_bytes.at(part_units)
    if not slab_rows or cost.slabs is None:
        return whole
    return whole * cost.slabs.run_peak_bytes.at(slab_rows) / max(1.0, cost.slabs.run_peak_bytes.at(cost.slabs.rows))


def _scratch_bytes(layer: LayerProfile, cost: KernelCost, part_units: int, slab_rows: int) -> int:
    """What a part allocates while it computes; where it cannot write into its place, its output too."""
    size = run_peak(cost, part_units, slab_rows)
    if part_units < layer.units:
        whole = layer.output_layouts[0]
        if part_view(whole, layer.blob_axis, 0, part_units) is None:
            size += -(-whole.size_bytes * part_units // layer.units)
    return align_up(max(0, int(size)), _SCRATCH_ALIGNMENT_BYTES)  # beyond what was measured, lines may fall below 0


def _compute_seconds(layer: LayerProfile, cost: KernelCost, part_units: int, slab_rows: int) -> float:
    parts = -(-layer.units // part_units)
    seconds = parts * (cost.compute_seconds.fixed + _PART_SECONDS) + layer.units * cost.compute_seconds.per_unit
    seconds += layer.convert_seconds
    if slab_rows and cost.slabs is not None:
        count = _slab_count(cost, slab_rows)
        seconds += count * (cost.slabs.seconds_per_slab.at(slab_rows) + parts * SLAB_SECONDS)
    return seconds


def _streamed(
    layer: LayerProfile, cost: KernelCost, part_units: int, slab_rows: int, read_seconds_per_byte: float
) -> Choice:
    parts = -(-layer.units // part_units)
    load_seconds = (
        parts * cost.load_seconds.fixed
        + layer.units * cost.load_seconds.per_unit
        + layer.raw_bytes * read_seconds_per_byte
    )
    computing = cost.kept_bytes.at(part_units) + cost.run_heap_bytes.at(part_units)
    raw_bytes = -(-layer.raw_bytes * part_units // layer.units)
    return Choice(
        kernel=cost.kernel,
        part_units=part_units,
        slab_rows=slab_rows,
        resident=False,
        seconds=_compute_seconds(layer, cost, part_units, slab_rows) + load_seconds,
        load_seconds=load_seconds,
        kept_bytes=0,
        heap_bytes=int(max(cost.load_peak_bytes.at(part_units), computing)),
        raw_bytes=raw_bytes,
        scratch_bytes=_scratch_bytes(layer, cost, part_units, slab_rows),
        load_bytes=0,
        read_bytes=layer.raw_bytes,
        objects_bytes=objects_bytes(parts, _slab_count(cost, slab_rows)),
        stands=cost.reads_raw,
        may_stage=layer.mode not in UNLOADED_MODES and not cost.reads_raw and _is_staged_size(raw_bytes),
    )


def _is_staged_size(raw_bytes: int) -> bool:
    return SMALL_BYTES <= raw_bytes <= _STAGED_UP_TO_BYTES


def _resident(layer: LayerProfile, cost: KernelCost, part_units: int, slab_rows: int) -> Choice:
    parts = -(-layer.units // part_units)
    kept = parts * cost.kept_bytes.fixed + layer.units * cost.kept_bytes.per_unit
    if cost.reads_raw:
        kept += layer.raw_bytes
    transient = cost.load_peak_bytes.at(part_units) - cost.kept_bytes.at(part_units)
    raw = 0 if cost.reads_raw else layer.raw_bytes * part_units / layer.units
    return Choice(
        kernel=cost.kernel,
        part_units=part_units,
        slab_rows=slab_rows,
        resident=True,
        seconds=_compute_seconds(layer, cost, part_units, slab_rows),
        load_seconds=0.0,
        kept_bytes=int(kept),
        heap_bytes=int(cost.run_heap_bytes.at(part_units)),
        raw_bytes=0,
        scratch_bytes=_scratch_bytes(layer, cost, part_units, slab_rows),
        load_bytes=int(max(0, transient) + raw),
        objects_bytes=objects_bytes(parts, _slab_count(cost, slab_rows)),
    )


def _transformed(layer: LayerProfile, streamed: Choice, read_seconds_per_byte: float) -> Choice | None:
    """The same with the weights stored as the kernel wants them, or None where that is nothing else."""
    cost = next(cost for cost in layer.kernels if cost.kernel == streamed.kernel)
    if streamed.resident or layer.type not in TRANSFORMED_TYPES or layer.mode not in _ONE_LAYER or cost.reads_raw:
        return None
    parts = -(-layer.units // streamed.part_units)
    part_bytes = int(cost.kept_bytes.at(streamed.part_units)) + _IMAGE_BYTES
    if part_bytes < _TRANSFORMED_FROM_BYTES:
        return None
    load_seconds = parts * (_PART_SECONDS + _image_seconds(part_bytes, read_seconds_per_byte))
    return replace(
        streamed,
        seconds=streamed.seconds - streamed.load_seconds + load_seconds,
        load_seconds=load_seconds,
        heap_bytes=int(cost.run_heap_bytes.at(streamed.part_units)),
        raw_bytes=part_bytes,
        read_bytes=parts * part_bytes,
        transformed=True,
        objects_bytes=streamed.objects_bytes + parts * _STANDING_BYTES + _BIAS_BYTES * layer.units,
        stands=True,
        may_stage=False,
    )


def _image_seconds(size_bytes: int, read_seconds_per_byte: float) -> float:
    """Having the pages of an image, which begins where huge pages do, in memory and letting go of them."""
    small_bytes = size_bytes % _HUGE_PAGE_BYTES
    return read_seconds_per_byte * (_SMALL_SHARE * small_bytes + _HUGE_SHARE * (size_bytes - small_bytes))


def undominated(found: Sequence[Choice], reads_count: bool = False) -> tuple[Choice, ...]:
    """Those that no other beats or equals in everything while beating it in something.

    Args:
        found: of one layer.
        reads_count: whether reading less is something.
    """
    facts = np.array(
        [
            (c.seconds, c.kept_bytes + c.objects_bytes, c.heap_bytes, c.raw_bytes, c.scratch_bytes, c.load_bytes)
            + ((c.read_bytes,) if reads_count else ())
            for c in found
        ]
    )
    at_least = (facts[:, None, :] <= facts[None, :, :]).all(axis=2)
    better = (facts[:, None, :] < facts[None, :, :]).any(axis=2)
    beaten = np.any(at_least & better, axis=0)
    return tuple(found[int(i)] for i in np.flatnonzero(~beaten))
