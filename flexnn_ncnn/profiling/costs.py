"""From what was tried and timed to a profile's records."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flexnn_ncnn.preparing.assemble import slab_windows
from flexnn_ncnn.profiling.facts import KernelFacts, LayerFacts, PartMemory, Sample
from flexnn_ncnn.profiling.fit import lasting, line, spread
from flexnn_ncnn.profiling.heap_use import HEAP_NOISE_BYTES
from flexnn_ncnn.profiling.timing import Timings
from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.records.profile import KernelCost, LayerProfile, Linear, Points, RowWindow, SlabCost
from param_tools.graph import Layer

__all__ = ["layer_profile", "read_seconds_per_byte"]

# slabs that seem to save more of a layer's time were measured when the machine did something else before, or after
_MOST_SAVED = 0.2


def read_seconds_per_byte(samples: Sequence[Sample]) -> float:
    """What getting weights takes, all reads taken together; what small ones take more is counted as transforming."""
    read_bytes = sum(sample.read_bytes for sample in samples)
    return sum(sample.read for sample in samples) / read_bytes if read_bytes else 0.0


def layer_profile(facts: LayerFacts, timings: Timings, read_rate: float) -> LayerProfile:
    """One layer's record.

    Args:
        facts: what was tried.
        timings: what was timed.
        read_rate: seconds per byte of weights that are counted apart.
    """
    axis, layer = facts.axis, facts.layer
    return LayerProfile(
        index=facts.index,
        type=layer.type,
        name=layer.name,
        mode=facts.mode,
        inputs=layer.inputs,
        outputs=layer.outputs,
        input_layouts=facts.input_layouts,
        output_layouts=facts.output_layouts,
        raw_bytes=facts.raw_bytes,
        units=axis.units if axis else 1,
        granularity=axis.granularity if axis else 1,
        least_units=axis.least_units if axis else 1,
        blob_axis=axis.blob_axis if axis else "",
        window=_row_window(layer, facts.input_layouts) if facts.mode == "forward" else None,
        convert_seconds=timings.convert_seconds(facts),
        kernels=tuple(_kernel_cost(facts, kernel, timings, read_rate) for kernel in facts.kernels),
    )


def _kernel_cost(facts: LayerFacts, kernel: KernelFacts, timings: Timings, read_rate: float) -> KernelCost:
    small, large = kernel.parts[0], kernel.parts[-1]
    samples = {units: timings.of(facts, kernel.kernel, units) for units in {small.units, large.units}}

    def seconds(of_sample: Callable[[Sample], float]) -> Linear:
        values = {
            units: lasting([[of_sample(sample) for sample in one_pass] for one_pass in passes])
            for units, passes in samples.items()
        }
        return line(small.units, values[small.units], large.units, values[large.units])

    def held(of_part: Callable[[PartMemory], int]) -> Linear:
        return line(small.units, of_part(small), large.units, of_part(large))

    def heap(part: PartMemory) -> int:
        return part.run_heap_bytes if part.run_heap_bytes >= HEAP_NOISE_BYTES else 0

    compute_seconds = seconds(lambda one: one.compute)
    return KernelCost(
        kernel=kernel.kernel,
        reads_raw=kernel.reads_raw,
        load_seconds=kernel.load_seconds
        or seconds(lambda one: max(0.0, one.read + one.transform - one.read_bytes * read_rate)),
        compute_seconds=compute_seconds,
        seconds_spread=spread([one.transform + one.compute for found in samples[large.units] for one in found]),
        kept_bytes=held(lambda part: part.kept_bytes),
        load_peak_bytes=held(lambda part: part.load_peak_bytes),
        run_peak_bytes=Points(
            tuple(part.units for part in kernel.parts), tuple(_run_peak(facts, part) for part in kernel.parts)
        ),
        run_heap_bytes=held(heap),
        events=kernel.events,
        slabs=_slab_cost(kernel, facts, compute_seconds.at(large.units)),
    )


def _slab_cost(kernel: KernelFacts, facts: LayerFacts, whole_seconds: float) -> SlabCost | None:
    """Of slabs and, as the largest of them, of all rows at once, which take `whole_seconds`."""
    if not kernel.slabs:
        return None
    window = _row_window(facts.layer, facts.input_layouts)
    assert window is not None
    sizes = (*(slab.rows for slab in kernel.slabs), window.outputs)
    peaks = (*(float(slab.run_peak_bytes) for slab in kernel.slabs), _run_peak(facts, kernel.parts[-1]))
    least = -_MOST_SAVED * whole_seconds / window.outputs  # for a row
    seconds = (*(max(slab.seconds_per_slab, least * slab.rows) for slab in kernel.slabs), 0.0)
    return SlabCost(window.outputs, kernel.slab_granularity, Points(sizes, peaks), Points(sizes, seconds))


def _run_peak(facts: LayerFacts, part: PartMemory) -> float:
    """Workspace of a part at once: rather too much where it was seen by slabs of rows alone."""
    window = _row_window(facts.layer, facts.input_layouts) if facts.slab_rows else None
    return part.run_peak_bytes * (window.outputs / facts.slab_rows if window else 1.0)


def _row_window(layer: Layer, bottoms: Sequence[BlobLayout]) -> RowWindow | None:
    windows = slab_windows(layer, bottoms[0]) if bottoms else None
    return None if windows is None else RowWindow(windows[1].extent, windows[1].stride, windows[1].outputs)
