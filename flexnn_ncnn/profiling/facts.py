"""What profiling finds out on its way: records of the model's layers, and of the parts and kernels tried."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.records.profile import Linear
from param_tools.graph import Layer
from param_tools.slicing.rule import Axis

__all__ = ["KernelFacts", "LayerFacts", "PartMemory", "ProfileLimits", "Sample", "SlabFacts", "Span"]

Span = tuple[int, int]
"""Output units, half-open."""


@dataclass(frozen=True, slots=True)
class ProfileLimits:
    """What profiling may cost.

    Attributes:
        part_bytes: most raw weights held at once where a layer can be sliced.
        timing_seconds: no further round of timing begins when this was spent on them.
        least_rounds, most_rounds: how often every kernel is timed; no more often than tells something new.
        bound_bytes: what profiling may hold beyond the idle process; None for as much as it takes.
        idle_bytes: resident set of the idle process; 0 for that when profiling begins.
    """

    part_bytes: int = 16_000_000
    timing_seconds: float = 0.75
    least_rounds: int = 2
    most_rounds: int = 5
    bound_bytes: int | None = None
    idle_bytes: int = 0


@dataclass(frozen=True, slots=True)
class PartMemory:
    """What a part of a layer holds with one kernel, in bytes; as in `flexnn_ncnn.records.profile.KernelCost`.

    Attributes:
        units: output units it computes.
    """

    units: int
    kept_bytes: int
    load_peak_bytes: int
    run_peak_bytes: int
    run_heap_bytes: int


@dataclass(frozen=True, slots=True)
class SlabFacts:
    """A part computed by slabs of output rows.

    Attributes:
        rows: of a slab.
        run_peak_bytes: scratch in use by the slab that needs most.
        seconds_per_slab: what computing takes more than the part at once, for each slab; below 0 where slabs, which
            fit into caches, are faster.
    """

    rows: int
    run_peak_bytes: int
    seconds_per_slab: float


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """One way to compute a layer, as far as it does not change from call to call.

    Attributes:
        kernel: a name in `flexnn_ncnn.records.options.KERNELS`.
        reads_raw: the raw weights are used after loading.
        parts: parts that were tried, from the smallest to the largest.
        events: what the largest allocates and releases while it computes, see `flexnn_ncnn.records.profile.KernelCost`.
        slabs: from the fewest rows to the most; none where they gain nothing.
        slab_granularity: slabs are cut at multiples of this many rows.
        load_seconds: where an earlier profile tells it.
    """

    kernel: str
    reads_raw: bool
    parts: tuple[PartMemory, ...]
    events: tuple[int, ...] = ()
    slabs: tuple[SlabFacts, ...] = ()
    slab_granularity: int = 1
    load_seconds: Linear | None = None

    @property
    def heap_bytes(self) -> int:
        """Most of the heap that a part takes."""
        return max((max(part.load_peak_bytes, part.kept_bytes + part.run_heap_bytes) for part in self.parts), default=0)

    @property
    def scratch_bytes(self) -> int:
        """Most workspace of a part as it is measured, by slabs or at once."""
        return max((part.run_peak_bytes for part in self.parts), default=0)


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """One layer as it runs.

    Attributes:
        index: its index in the model file.
        layer: the layer.
        mode: how its outputs come to be, see `flexnn_ncnn.records.plan.Step`.
        input_layouts: how it wants its inputs.
        output_layouts: how it leaves its outputs.
        raw_bytes: weights as they lie in the file.
        axis: what it is cut along, or None.
        spans: the parts it is measured in: as large as the limits allow.
        slab_rows: output rows it is measured by at a time, 0 for all at once.
        small_units: units of a small part, to tell what does not depend on them; 0 where it is not cut.
        kernels: the ways to compute it, ncnn's own choice first; none where nothing is computed.
        alike: equal for layers that differ in their weights alone.
    """

    index: int
    layer: Layer
    mode: str
    input_layouts: tuple[BlobLayout, ...]
    output_layouts: tuple[BlobLayout, ...]
    raw_bytes: int
    axis: Axis | None
    spans: tuple[Span, ...]
    slab_rows: int
    small_units: int
    kernels: tuple[KernelFacts, ...]
    alike: Hashable

    @property
    def part_units(self) -> int:
        """Units of the largest part."""
        return self.spans[0][1] - self.spans[0][0]

    @property
    def output_bytes(self) -> int:
        """All of its outputs."""
        return sum(layout.size_bytes for layout in self.output_layouts)

    def part_bytes(self, kernel: KernelFacts) -> int:
        """What a part of it takes to load and compute, blobs left out.

        The heap grows by more than a layer takes where what others left in it does not fit.
        """
        raw_bytes = self.raw_bytes * self.part_units // self.axis.units if self.axis else self.raw_bytes
        return kernel.scratch_bytes + kernel.heap_bytes * 5 // 4 + raw_bytes


@dataclass(frozen=True, slots=True)
class Sample:
    """One part loaded and computed once, in seconds.

    Attributes:
        units: output units it computed.
        read_bytes: weights read for it.
        read: getting them from the file.
        transform: making of them what the kernel wants, and letting go of it afterwards.
        compute: the forward call.
    """

    units: int
    read_bytes: int
    read: float
    transform: float
    compute: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.read + self.transform + self.compute
