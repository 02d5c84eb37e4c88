"""What was measured of a model on a machine: the input of planning.

All sizes are bytes, all times seconds of one inference. A layer that can be sliced has its costs as linear
functions of the output units computed, measured on the whole and on a part.
"""

from __future__ import annotations

from dataclasses import dataclass

from flexnn_ncnn.layout import BlobLayout
from flexnn_ncnn.options import RunOptions

__all__ = ["FORMAT_VERSION", "KernelCost", "LayerProfile", "Linear", "ModelProfile", "RowWindow", "SlabCost"]

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Linear:
    """A cost as a function of the units computed: `fixed + per_unit * units`."""

    fixed: float
    per_unit: float

    def at(self, units: int) -> float:
        """The cost of `units` units."""
        return self.fixed + self.per_unit * units


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
        run_peak_bytes: workspace as a function of a slab's rows, for the part that was measured.
        seconds_per_slab: what every slab adds to the time of the whole.
    """

    rows: int
    granularity: int
    run_peak_bytes: Linear
    seconds_per_slab: float


@dataclass(frozen=True, slots=True)
class KernelCost:
    """What one way of computing a layer costs.

    Attributes:
        kernel: a name in `flexnn_ncnn.options.KERNELS`.
        reads_raw: the raw weights are used in place and must stay while the layer computes.
        load_seconds: transforming the weights; reading them is not in it.
        compute_seconds: the forward call.
        kept_bytes: transformed weights, held as long as the layer is loaded.
        load_peak_bytes: most of the heap in use while loading, raw weights not counted.
        run_peak_bytes: scratch in use while computing, as the highest end of any block: the workspace.
        run_heap_bytes: most of the heap in use while computing, beside what is kept.
        stream_peak_bytes: growth of a heap that keeps what is freed, over loading, computing and releasing.
        slabs: the same by slabs of rows, or None where that gains nothing.
    """

    kernel: str
    reads_raw: bool
    load_seconds: Linear
    compute_seconds: Linear
    kept_bytes: Linear
    load_peak_bytes: Linear
    run_peak_bytes: Linear
    stream_peak_bytes: Linear
    slabs: SlabCost | None
    run_heap_bytes: Linear = Linear(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """One layer as it runs.

    Attributes:
        index: its index in the model file.
        type: ncnn's layer type.
        name: for people; not unique.
        mode: how its outputs come to be, see `flexnn_ncnn.plan.Step`.
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
        kernels: the ways to compute it, ncnn's own choice first.
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
    kernels: tuple[KernelCost, ...]


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """Everything planning needs to know.

    Attributes:
        model_id: identity of the .param/.bin pair.
        machine: fingerprint of the machine it was measured on.
        options: what it was measured with.
        inputs: blob -> layout of what the caller feeds.
        outputs: blobs nobody reads.
        layers: in execution order, Input layers left out.
        read_seconds_per_byte: mapping weights that are in the page cache.
        base_bytes: code pages and Python objects of a run, beyond the idle process.
    """

    model_id: str
    machine: str
    options: RunOptions
    inputs: tuple[tuple[str, BlobLayout], ...]
    outputs: tuple[str, ...]
    layers: tuple[LayerProfile, ...]
    read_seconds_per_byte: float
    base_bytes: int
