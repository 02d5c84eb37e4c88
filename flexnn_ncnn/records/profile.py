"""What was measured of a model on a machine: the input of planning.

All sizes are bytes, all times seconds of one inference. A layer that can be sliced has its costs as functions of the
output units computed, measured on a large and on a small part.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.records.machine import Machine
from flexnn_ncnn.records.options import RunOptions

__all__ = [
    "FORMAT_VERSION",
    "KernelCost",
    "LayerProfile",
    "Linear",
    "ModelProfile",
    "Points",
    "RowWindow",
    "SlabCost",
    "StorageProfile",
]

FORMAT_VERSION = 4


@dataclass(frozen=True, slots=True)
class Linear:
    """A cost as a function of the units computed: `fixed + per_unit * units`."""

    fixed: float
    per_unit: float

    def at(self, units: int) -> float:
        """The cost of `units` units."""
        return self.fixed + self.per_unit * units


@dataclass(frozen=True, slots=True)
class Points:
    """A cost where it was measured, and on straight lines between and beyond; the least is never undercut.

    Attributes:
        sizes: ascending.
        values: the cost at each.
    """

    sizes: tuple[int, ...]
    values: tuple[float, ...]

    def at(self, size: int) -> float:
        """The cost at `size`."""
        after = bisect_left(self.sizes, size)
        if after == 0 or len(self.sizes) == 1:
            return self.values[0]
        after = min(after, len(self.sizes) - 1)
        (low, high), (value, other) = self.sizes[after - 1 : after + 1], self.values[after - 1 : after + 1]
        return other if size == high else value + (other - value) * (size - low) / (high - low)


@dataclass(frozen=True, slots=True)
class RowWindow:
    """The window of a layer as it slides down its input.

    Attributes:
        extent: input rows it spans.
        stride: input rows from one output row to the next.
        outputs: output rows.
    """

    extent: int
    stride: int
    outputs: int

    def reads(self, rows: int) -> int:
        """Input rows, padding among them, that `rows` output rows see."""
        return (rows - 1) * self.stride + self.extent


@dataclass(frozen=True, slots=True)
class SlabCost:
    """What computing a layer by slabs of output rows costs: a smaller workspace for some more time.

    Attributes:
        rows: output rows in all.
        granularity: slabs are cut at multiples of this many rows.
        run_peak_bytes: scratch as a function of a slab's rows, for the part that was measured.
        seconds_per_slab: what every slab adds to the time of the whole, as a function of its rows; below 0 where
            slabs, which fit into caches, are faster.
    """

    rows: int
    granularity: int
    run_peak_bytes: Points
    seconds_per_slab: Points


@dataclass(frozen=True, slots=True)
class KernelCost:
    """What one way of computing a layer costs.

    Attributes:
        kernel: a name in `flexnn_ncnn.records.options.KERNELS`.
        reads_raw: the raw weights are used in place and must stay while the layer computes.
        load_seconds: transforming the weights and letting go of them; of reading them, what goes beyond the model's
            `read_seconds_per_byte`.
        compute_seconds: the forward call.
        seconds_spread: how far samples of loading and computing lie apart: the distance of their quartiles over their
            median.
        kept_bytes: transformed weights, held as long as the layer is loaded.
        load_peak_bytes: most of the heap in use while loading, raw weights not counted.
        run_peak_bytes: scratch in use while computing, as the highest end of any block: the workspace.
        run_heap_bytes: most of the heap in use while computing, beside what is kept.
        events: what the large part allocates from scratch while it computes, in order: +n asks for n bytes, -n
            releases them.
        slabs: the same by slabs of rows, or None where that gains nothing.
    """

    kernel: str
    reads_raw: bool
    load_seconds: Linear
    compute_seconds: Linear
    seconds_spread: float
    kept_bytes: Linear
    load_peak_bytes: Linear
    run_peak_bytes: Points
    run_heap_bytes: Linear
    events: tuple[int, ...]
    slabs: SlabCost | None


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """One layer as it runs.

    Attributes:
        index: its index in the model file.
        type: ncnn's layer type.
        name: for people; not unique.
        mode: how its outputs come to be, see `flexnn_ncnn.records.plan.Step`.
        inputs: blobs it reads.
        outputs: blobs it writes.
        input_layouts: how it wants them.
        output_layouts: how it leaves them.
        raw_bytes: weights as they lie in the file; of an Embed, the rows in use.
        units: output units it can be cut into, 1 where it cannot be sliced.
        granularity: cuts lie at multiples of this.
        least_units: no slice computes fewer.
        blob_axis: the output's axis that units lie along, "" where it cannot be sliced.
        window: of a layer that can be computed by slabs of output rows, else None.
        convert_seconds: bringing its inputs into the layouts it wants.
        kernels: the ways to compute it, ncnn's own choice first.
        inner: its index in what layer `index` of the file expands to (`param_tools.expansion`), or 0 for that itself.
    """

    index: int
    type: str
    name: str
    mode: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    input_layouts: tuple[BlobLayout, ...]
    output_layouts: tuple[BlobLayout, ...]
    raw_bytes: int
    units: int
    granularity: int
    least_units: int
    blob_axis: str
    window: RowWindow | None
    convert_seconds: float
    kernels: tuple[KernelCost, ...]
    inner: int = 0


@dataclass(frozen=True, slots=True)
class StorageProfile:
    """Reading the model's own file, from begin to end.

    Attributes:
        cold_bytes_per_second: from the device; 0 where the system did not let go of what it caches.
        cold_latency_seconds: one page from the device.
        warm_bytes_per_second: from the page cache.
        warm_latency_seconds: one page from the page cache.
    """

    cold_bytes_per_second: float
    cold_latency_seconds: float
    warm_bytes_per_second: float
    warm_latency_seconds: float


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """Everything planning needs to know.

    Attributes:
        model_id: identity of the .param/.bin pair.
        machine: fingerprint of the machine it was measured on.
        machine_facts: that machine; None where only its fingerprint is known.
        options: what it was measured with.
        inputs: blob -> layout of what the caller feeds.
        outputs: blobs nobody reads.
        layers: in execution order, Input layers left out.
        read_seconds_per_byte: mapping weights that are in the page cache.
        storage: where the weights lie; None where that was not measured.
        base_bytes: code pages and Python objects of a run, beyond the idle process.
        expansions: the inner layers, in execution order, that compute what one of `layers` does.
        bound_bytes: what measuring was allowed to hold, where that made it cut layers finer than it would have: plans
            for larger budgets deserve another profile. 0 where it made no difference.
        peak_bytes: what measuring held at most, beyond the idle process.
    """

    model_id: str
    machine: str
    machine_facts: Machine | None
    options: RunOptions
    inputs: tuple[tuple[str, BlobLayout], ...]
    outputs: tuple[str, ...]
    layers: tuple[LayerProfile, ...]
    read_seconds_per_byte: float
    storage: StorageProfile | None
    base_bytes: int
    expansions: tuple[tuple[LayerProfile, ...], ...] = ()
    bound_bytes: int = 0
    peak_bytes: int = 0

    def serves(self, budget_bytes: int) -> bool:
        """Whether it tells as much as one made for this budget, 0 for any, would."""
        return not self.bound_bytes or 0 < budget_bytes <= self.bound_bytes
