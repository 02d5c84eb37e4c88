"""Computing one layer as the executor would with nothing resident, and how long that takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flexnn_ncnn.preparing.assemble import layer_part, layer_slabs, unpadded
from flexnn_ncnn.profiling.bench import Bench, PartRun, run_into
from flexnn_ncnn.profiling.blobs import LiveBlobs
from flexnn_ncnn.profiling.facts import KernelFacts, LayerFacts, Sample, Span
from flexnn_ncnn.records.plan import Slab
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.gather import gathered_rows
from flexnn_ncnn.runtime.memory.blob_memory import PartTarget

__all__ = ["Computed", "compute_layer", "skip_layer"]


@dataclass(frozen=True, slots=True)
class Computed:
    """How long one layer took.

    Attributes:
        samples: one for every part that was loaded and computed; none where nothing is computed.
        convert_seconds: bringing the inputs into the layouts the layer wants.
    """

    samples: tuple[Sample, ...] = ()
    convert_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.convert_seconds + sum(one.seconds for one in self.samples)


def compute_layer(bench: Bench, facts: LayerFacts, number: int, blobs: LiveBlobs, *, timed: bool = False) -> Computed:
    """Compute a layer from and to `blobs`.

    Args:
        bench: what measurements share.
        facts: the layer.
        number: of the kernel; counted on from the first again where there are fewer.
        blobs: those that are alive.
        timed: compute a small part before, too, where the layer can be cut, and have all memory as it is in a run.
    """
    if facts.mode == "gather":
        return Computed((_gathered(bench, facts, blobs),))
    if facts.mode == "constant":
        return Computed((_constant(bench, facts, blobs),))
    if not facts.kernels:  # it hands over what it is given
        source = facts.layer.inputs[0]
        for name in facts.layer.outputs:
            blobs.put(name, blobs[source], blobs.owner(source))
        return Computed()
    kernel = facts.kernels[number % len(facts.kernels)]
    inputs = list(zip(facts.layer.inputs, facts.input_layouts, strict=True))
    copied_bytes = sum(layout.size_bytes for name, layout in inputs if layout != blobs.layout(name))
    bench.make_room(facts.part_bytes(kernel) + facts.output_bytes + copied_bytes)
    begin = bench.clock()
    bottoms = [blobs.wanted(name, layout) for name, layout in inputs]
    convert_seconds = bench.clock() - begin
    mats = [mat for mat, _ in bottoms]
    if facts.axis is not None:
        return Computed(tuple(_parts(bench, facts, kernel, mats[0], blobs, timed)), convert_seconds)
    run = _part_run(bench, facts, kernel, (0, 1))
    if timed:
        bench.warm(run, kernel)
    if facts.mode == "alias":
        top = native.empty_mat()
        sample = _timed(bench, run, kernel, 1, lambda loaded: loaded.forward(mats[0], top))
        blobs.put(facts.layer.outputs[0], top, bottoms)
        return Computed((sample,), convert_seconds)
    if facts.mode in ("inplace", "overlay"):
        tops = [blobs.to_overwrite(facts.layer, bottoms[0], bench.allocator(facts.layer))]
        mats[0] = tops[0].mat
    else:
        tops = [bench.blob(layout, facts.layer) for layout in facts.output_layouts]
    slabs = _slabs(facts, mats)

    def compute(loaded: native.LoadedLayer) -> None:
        if slabs:
            run.by_slabs(loaded, slabs, mats[0], tops[0].mat)
        else:
            run_into(loaded, facts.mode, mats, tops)

    sample = _timed(bench, run, kernel, 1, compute)
    for name, blob in zip(facts.layer.outputs, tops, strict=True):
        blobs.put(name, blob.mat, blob)
    return Computed((sample,), convert_seconds)


def skip_layer(bench: Bench, facts: LayerFacts, blobs: LiveBlobs) -> None:
    """Leave a layer that has kernels out: its outputs are what lies in memory, numbers of blobs before."""
    bench.make_room(facts.output_bytes)
    for name, layout in zip(facts.layer.outputs, facts.output_layouts, strict=True):
        blob = bench.blob(layout, facts.layer)
        blobs.put(name, blob.mat, blob)


def _parts(
    bench: Bench, facts: LayerFacts, kernel: KernelFacts, bottom: native.Mat, blobs: LiveBlobs, timed: bool
) -> Sequence[Sample]:
    """Every part of a layer that can be cut, straight into the parts of its output."""
    assert facts.axis is not None
    samples, slabs = [], _slabs(facts, [bottom])
    whole = bench.blob(facts.output_layouts[0], facts.layer)
    small_spans = [(0, facts.small_units)] if timed and facts.small_units else []
    for begin, end in (*small_spans, *facts.spans):
        run = _part_run(bench, facts, kernel, (begin, end))
        bench.make_room(facts.part_bytes(kernel))
        if timed:
            bench.warm(run, kernel)
        if end - begin == facts.axis.units and not slabs:
            samples.append(_timed(bench, run, kernel, end, lambda loaded: loaded.forward(bottom, whole.mat)))
            break
        target = whole.part(facts.axis.blob_axis, begin, end)

        def compute(loaded: native.LoadedLayer, run: PartRun = run, target: PartTarget = target) -> None:
            top = target.mat
            if slabs:
                run.by_slabs(loaded, slabs, bottom, top)
            else:
                loaded.forward(run.read(bottom), top)
            target.store(top)

        samples.append(_timed(bench, run, kernel, end - begin, compute))
    blobs.put(facts.layer.outputs[0], whole.mat, whole)
    return samples


def _part_run(bench: Bench, facts: LayerFacts, kernel: KernelFacts, span: Span) -> PartRun:
    """A part as it is measured: by slabs it leaves padding to its caller."""
    key = facts.index, span
    if key not in bench.parts:
        part = layer_part(bench.model, facts.index, facts.axis, *span)
        bench.parts[key] = unpadded(facts.layer.type, part) if facts.slab_rows else part
    return PartRun(bench, facts.layer, bench.parts[key], kernel.kernel)


def _slabs(facts: LayerFacts, bottoms: Sequence[native.Mat]) -> tuple[Slab, ...]:
    return layer_slabs(facts.layer, native.layout_of(bottoms[0]), facts.slab_rows) if facts.slab_rows else ()


def _timed(
    bench: Bench, run: PartRun, kernel: KernelFacts, units: int, compute: Callable[[native.LoadedLayer], None]
) -> Sample:
    clock = bench.clock
    if not run.part.pieces:  # what has no weights is loaded once and kept
        loaded = bench.weightless(run)
        begin = clock()
        compute(loaded)
        return Sample(units, 0, 0.0, 0.0, clock() - begin)
    begin = clock()
    arrays = bench.source.load(run.part.pieces)
    read = clock()
    loaded = run.load(arrays)
    del arrays
    if not kernel.reads_raw:
        loaded.release_raw()
    ready = clock()
    compute(loaded)
    computed = clock()
    loaded.close()
    end = clock()
    read_bytes = sum(piece.stored_bytes for piece in run.part.pieces)
    return Sample(units, read_bytes, read - begin, ready - read + end - computed, computed - ready)


def _constant(bench: Bench, facts: LayerFacts, blobs: LiveBlobs) -> Sample:
    (piece,) = layer_part(bench.model, facts.index).pieces
    blob = bench.pool.blob(facts.output_layouts[0])
    begin = bench.clock()
    native.fill_blob(blob.mat, bench.source.load([piece])[0])
    seconds = bench.clock() - begin
    blobs.put(facts.layer.outputs[0], blob.mat, blob)
    return Sample(1, 0, 0.0, 0.0, seconds)


def _gathered(bench: Bench, facts: LayerFacts, blobs: LiveBlobs) -> Sample:
    layer, clock = facts.layer, bench.clock
    ids = native.mat_to_array(blobs[layer.inputs[0]])
    begin = clock()
    rows, params, renumbered = gathered_rows(bench.source, layer_part(bench.model, facts.index), ids)
    option = bench.option("default")
    loaded = native.LoadedLayer(layer.type, native.make_params(params), rows, option, layer.name)
    top = native.empty_mat()
    loaded.forward(native.mat_from_array(renumbered), top)
    loaded.close()
    seconds = clock() - begin
    blobs.put(layer.outputs[0], top, None)
    return Sample(1, sum(row.nbytes for row in rows), 0.0, 0.0, seconds)
