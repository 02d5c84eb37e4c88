"""From a model file's layer to what ncnn is given: typed parameters and pieces of the .bin."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import replace

from flexnn_ncnn.planning.choices import UNLOADED_MODES, Choice
from flexnn_ncnn.planning.problem import StepBlobs
from flexnn_ncnn.planning.schedule import Schedule
from flexnn_ncnn.planning.simulate import Lanes, Load, distances
from flexnn_ncnn.preparing.load_peaks import with_load_peaks
from flexnn_ncnn.preparing.params import typed_params
from flexnn_ncnn.records.layout import WIDEST_ELEMPACK, BlobLayout
from flexnn_ncnn.records.plan import Part, Placement, Plan, Slab, Stage, Step, WeightPiece
from flexnn_ncnn.records.profile import LayerProfile, ModelProfile
from flexnn_ncnn.records.staging import staged_bytes
from param_tools.encoding import TABLE_ENTRIES, Encoding
from param_tools.expansion import expansion
from param_tools.graph import Layer
from param_tools.model_io import NcnnModel
from param_tools.schema import int_params
from param_tools.shapes import BlobShape
from param_tools.slicing.registry import axes, take
from param_tools.slicing.rule import ArrayTake, Axis
from param_tools.slicing.window import Window, convolution_windows, pooling_windows
from param_tools.weights import WeightArray

__all__ = [
    "assemble_plan",
    "layer_part",
    "layer_slabs",
    "slab_windows",
    "stock_plan",
    "streaming_axis",
    "unpadded",
]

# ids of pad_left, pad_top, pad_right, pad_bottom, and of a Pooling pad_mode, where 1 is none: what they become
_UNPADDED = {
    "Convolution": {4: 0, 14: 0, 15: 0, 16: 0},
    "ConvolutionDepthWise": {4: 0, 14: 0, 15: 0, 16: 0},
    "Pooling": {3: 0, 13: 0, 14: 0, 15: 0, 5: 1},
}
_PAD_VALUE_ID = 18  # of a convolution
# of the page cache, which is not ours: enough to keep storage busy while one layer computes
_CACHED_AHEAD_BYTES = 32_000_000
# those that the loads read to at once begin and end in
_SPARE_PAGES = 8
_LEAST_FLOAT = -3.4028234663852886e38  # pooling_x86.cpp: what padding is to a maximum
_ENCODINGS = {
    Encoding.FP32_UNTAGGED: "fp32",
    Encoding.FP32: "fp32",
    Encoding.FP32_RAW: "fp32",
    Encoding.FP16: "fp16",
    Encoding.BF16: "bf16",
    Encoding.INT8: "int8",
    Encoding.INT8_UNTAGGED: "int8",
    Encoding.TABLE: "table",
}


def streaming_axis(model: NcnnModel, index: int) -> Axis | None:
    """The axis a layer is cut along: every slice's weights are one run of bytes per array."""
    layer = model.model.layers[index]
    for axis in axes(layer):
        if axis.name == "channels" and axis.units != int_params(layer)["num_output"]:
            continue  # its units are groups of several channels, not values along the blob's axis
        if axis.name in ("outputs", "channels") and all(map(_is_contiguous, *_takes(model, index, axis))):
            return axis
    return None


def layer_slabs(layer: Layer, layout: BlobLayout, rows: int) -> tuple[Slab, ...]:
    """A layer with windows cut into slabs of `rows` output rows; none where it cannot be, or one would do.

    Args:
        layer: the layer.
        layout: of its input.
        rows: output rows of a slab.
    """
    windows = slab_windows(layer, layout)
    if windows is None or rows >= windows[1].outputs:
        return ()
    across, down = windows
    slabs = []
    for begin in range(0, down.outputs, rows):
        end = min(begin + rows, down.outputs)
        first, last, above, below = down.part(begin, end)
        slabs.append(Slab(begin, end, first, last, above, below, across.before, across.after))
    return tuple(slabs) if all(slab.first < slab.last for slab in slabs) else ()


def slab_windows(layer: Layer, layout: BlobLayout) -> tuple[Window, Window] | None:
    """How the windows of a layer slide over its input, or None for a layer that is not computed by slabs."""
    if layout.dims != 3 or len(layer.inputs) != 1:
        return None
    params = int_params(layer)
    if layer.type == "Convolution" and (params["dilation_w"], params["dilation_h"]) != (1, 1):
        return None  # with packing off ncnn takes them apart, and crashes on fewer rows than the dilation
    if layer.type == "ConvolutionDepthWise" and params["group"] != params["num_output"]:
        return None  # ncnn computes groups on their own, and takes their channels to lie as in a blob of a slab's size
    flat = layout.with_elempack(1)
    shape = BlobShape(3, flat.w, flat.h, 1, flat.c)
    if layer.type in ("Convolution", "ConvolutionDepthWise"):
        return convolution_windows(layer, shape)
    # an average may leave padding out of its count, a maximum cannot tell it from small values
    if layer.type == "Pooling" and int_params(layer)["pooling_type"] == 0:
        return pooling_windows(layer, shape)
    return None


def unpadded(layer_type: str, part: Part) -> Part:
    """A part of a layer with windows that leaves padding to its caller."""
    replaced = _UNPADDED[layer_type]
    params = tuple((param_id, value) for param_id, value in part.params if param_id not in replaced)
    extra = tuple((param_id, value) for param_id, value in replaced.items() if value)
    return replace(part, params=params + extra)


def slab_padding(layer: Layer) -> float:
    """The value that padding is filled with."""
    return _LEAST_FLOAT if layer.type == "Pooling" else layer.float_param(_PAD_VALUE_ID)


def layer_part(model: NcnnModel, index: int, axis: Axis | None = None, begin: int = 0, end: int = 1) -> Part:
    """A layer as a whole (no axis), or its units [begin, end) along `axis`.

    Raises:
        UnsupportedLayerError: a parameter that ncnn's Python bindings cannot pass on.
    """
    layer = model.model.layers[index]
    arrays = model.weights.arrays[index]
    if axis is None or (begin, end) == (0, axis.units):
        pieces = tuple(_piece(array) for array in arrays)
        return Part(0, axis.units if axis else 1, (0, 0), typed_params(layer), pieces)
    part = take(layer, axis.name, begin, end)
    pieces = tuple(_piece(arrays[taken.array_index], taken) for taken in part.arrays)
    reads = next(((taken.begin, taken.end) for taken in part.inputs), (0, 0))
    return Part(begin, end, reads, typed_params(part.layer), pieces)


def _takes(model: NcnnModel, index: int, axis: Axis) -> tuple[list[WeightArray], list[ArrayTake]]:
    taken = take(model.model.layers[index], axis.name, 0, 1).arrays
    return [model.weights.arrays[index][one.array_index] for one in taken], list(taken)


def _is_contiguous(array: WeightArray, taken: ArrayTake) -> bool:
    return all(extent == 1 for extent in array.shape[: taken.axis])


def _piece(array: WeightArray, taken: ArrayTake | None = None) -> WeightPiece:
    encoding = _ENCODINGS[array.encoding]
    table = array.offset_bytes if encoding == "table" else -1
    begin = array.offset_bytes + (TABLE_ENTRIES * 4 if encoding == "table" else 0)
    if taken is None:
        return WeightPiece(begin, array.count, encoding, table)
    per_index = array.count // array.shape[taken.axis]
    skipped = WeightPiece(0, taken.begin * per_index, encoding).stored_bytes
    return WeightPiece(begin + skipped, (taken.end - taken.begin) * per_index, encoding, table)


def assemble_plan(model: NcnnModel, decided: Schedule) -> Plan:
    """The schedule with everything a run needs from the model's files."""
    work = decided.workload
    profile = work.profile
    steps = tuple(
        replace(
            _step(model, layer, choice, blobs) if len(members) == 1 else _chain(model, layer, members, choice, blobs),
            scratch_offset_bytes=offset,
            scratch_bytes=choice.scratch_bytes if choice else 0,
            reads_to_scratch=choice is not None and choice.staged_bytes > 0,
        )
        for layer, members, choice, blobs, offset in zip(
            profile.layers, work.members, decided.chosen, work.blobs.steps, decided.scratch_offsets, strict=True
        )
    )
    if decided.releases is not None:
        of_arena, of_heap = decided.releases.arena_steps, decided.releases.heap_steps
        steps = tuple(
            replace(step, returns_arena=i in of_arena, returns_heap=i in of_heap) for i, step in enumerate(steps)
        )
    steps = tuple(
        _transformed(step) if choice is not None and choice.transformed else step
        for step, choice in zip(steps, decided.chosen, strict=True)
    )
    if decided.lanes is not None:
        steps = _ahead(steps, decided, decided.lanes)
    placements = tuple(
        Placement(buffer.blob, buffer.layout, offset, buffer.begin, buffer.end)
        for buffer, offset in zip(work.blobs.buffers, work.offsets, strict=True)
    )
    begins = {placement.blob: placement.offset_bytes for placement in placements}
    placements += tuple(
        Placement(one.blob, one.layout, begins[one.parent] + one.offset_bytes, one.begin, one.end, one.parent)
        for one in work.blobs.nested
    )
    return Plan(
        model_id=profile.model_id,
        machine=profile.machine,
        budget_bytes=decided.budget_bytes,
        options=profile.options,
        vehicle="layers",
        inputs=profile.inputs,
        outputs=profile.outputs,
        steps=with_load_peaks(steps, decided.chosen),
        placements=placements,
        arena_bytes=decided.arena_bytes,
        heap_bytes=decided.heap_bytes,
        predicted_peak_bytes=decided.predicted_peak_bytes,
        predicted_seconds=decided.predicted_seconds,
        resident_bytes=decided.kept_bytes,
        page_cache=work.storage.page_cache,
        read_ahead_bytes=_read_to_bytes(steps, decided) if work.storage.is_direct else _CACHED_AHEAD_BYTES,
    )


def _transformed(step: Step) -> Step:
    """The step with parts whose first array is to be stored as the kernel wants it; of attention all four, if alike."""
    matrices = {piece.count for part in step.parts for piece in part.pieces[::2]}
    if step.type == "MultiHeadAttention" and (len(matrices) > 1 or len(step.parts[0].pieces) != 8):
        return step
    return replace(step, parts=tuple(replace(part, transformed_count=part.pieces[0].count) for part in step.parts))


def _read_to_bytes(steps: Sequence[Step], decided: Schedule) -> int:
    """Memory to read past the page cache to: what was planned, and the pages that loads begin and end in."""
    loads = [
        [piece for part in parts for piece in part.pieces]
        for step in steps
        if not step.resident and step.mode not in UNLOADED_MODES
        for parts in ([step.parts] if step.stages else [(part,) for part in step.parts])
    ]
    largest_bytes = max((staged_bytes(load, mmap.PAGESIZE) for load in loads), default=0)
    return max(decided.raw_bytes + _SPARE_PAGES * mmap.PAGESIZE, largest_bytes) if loads else 0


def _ahead(steps: Sequence[Step], decided: Schedule, lanes: Lanes) -> tuple[Step, ...]:
    """The steps with their loads as far ahead as there are places for them."""
    sizes: list[Load] = []
    numbers: dict[int, list[int]] = {}
    for step, choice in enumerate(decided.chosen):
        if choice is None or choice.resident or steps[step].mode in UNLOADED_MODES:
            continue
        count = 1 if steps[step].stages else len(steps[step].parts)
        numbers[step] = list(range(len(sizes), len(sizes) + count))
        sizes += [Load(0.0, choice.heap_bytes, choice.raw_bytes)] * count
    ahead = distances(sizes, lanes)

    def told(step: Step, loads: Sequence[int]) -> Step:
        # all stages of a chain are one load
        spread = loads if len(loads) == len(step.parts) else [loads[0]] * len(step.parts)
        return replace(
            step, parts=tuple(replace(part, ahead=ahead[n]) for part, n in zip(step.parts, spread, strict=True))
        )

    return tuple(told(step, numbers[i]) if i in numbers else step for i, step in enumerate(steps))


def stock_plan(profile: ModelProfile, budget_bytes: int, predicted_peak_bytes: int, predicted_seconds: float) -> Plan:
    """The plan of a budget that holds everything: stock ncnn, nothing streamed."""
    return Plan(
        model_id=profile.model_id,
        machine=profile.machine,
        budget_bytes=budget_bytes,
        options=profile.options,
        vehicle="net",
        inputs=profile.inputs,
        outputs=profile.outputs,
        steps=(),
        placements=(),
        arena_bytes=0,
        heap_bytes=0,
        predicted_peak_bytes=predicted_peak_bytes,
        predicted_seconds=predicted_seconds,
        resident_bytes=sum(layer.raw_bytes for layer in profile.layers),
    )


def _files(model: NcnnModel, layer: LayerProfile) -> tuple[NcnnModel, int]:
    """The model that a profiled layer is of, and its index there."""
    return (expansion(model, layer.index), layer.inner) if layer.inner else (model, layer.index)


def _step(model: NcnnModel, layer: LayerProfile, choice: Choice | None, blobs: StepBlobs) -> Step:
    files, index = _files(model, layer)
    kernel = choice.kernel if choice else "default"
    cost = next((cost for cost in layer.kernels if cost.kernel == kernel), None)
    parts = _parts(files, index, layer, choice) if choice and blobs.mode != "join" else ()
    slabs = _slabs(files.model.layers[index], layer, choice)
    return Step(
        layer_index=layer.index,
        type=layer.type,
        name=layer.name,
        mode=blobs.mode,
        kernel=kernel,
        resident=choice.resident if choice else True,
        reads_raw=cost.reads_raw if cost else True,
        inputs=layer.inputs,
        sources=blobs.sources,
        outputs=layer.outputs,
        blob_axis=layer.blob_axis,
        parts=tuple(unpadded(layer.type, part) for part in parts) if slabs else parts,
        slabs=slabs,
        overwrites=blobs.overwrites,
        pad_value=slab_padding(files.model.layers[index]) if slabs else 0.0,
    )


def _chain(
    model: NcnnModel,
    layer: LayerProfile,
    members: tuple[LayerProfile, ...],
    choice: Choice | None,
    blobs: StepBlobs,
) -> Step:
    """Layers joined to a chain: for every slab of the last one's rows, the rows that each before it computes."""
    assert choice is not None
    windows = []
    for member in members:
        found = slab_windows(model.model.layers[member.index], member.input_layouts[0])
        assert found is not None
        windows.append(found)
    slabs: list[list[Slab]] = [[] for _ in members]
    rows = windows[-1][1].outputs
    for begin in range(0, rows, choice.slab_rows):
        span = begin, min(begin + choice.slab_rows, rows)
        for stage in reversed(range(len(members))):
            across, down = windows[stage]
            first, last, above, below = down.part(*span)
            slabs[stage].append(Slab(*span, first, last, above, below, across.before, across.after))
            span = first, last
    stages = tuple(
        Stage(
            member.type,
            member.name,
            choice.kernel,
            member.kernels[0].reads_raw,
            slab_padding(model.model.layers[member.index]),
            tuple(slabs[stage]),
        )
        for stage, member in enumerate(members)
    )
    return Step(
        layer_index=layer.index,
        type=layer.type,
        name=layer.name,
        mode=blobs.mode,
        kernel=choice.kernel,
        resident=choice.resident,
        reads_raw=True,
        inputs=layer.inputs,
        sources=blobs.sources,
        outputs=layer.outputs,
        blob_axis="",
        parts=tuple(unpadded(member.type, layer_part(model, member.index)) for member in members),
        slabs=(),
        pad_value=0.0,
        stages=stages,
    )


def _slabs(layer: Layer, profiled: LayerProfile, choice: Choice | None) -> tuple[Slab, ...]:
    if choice is None or not choice.slab_rows:
        return ()
    return layer_slabs(layer, profiled.input_layouts[0], choice.slab_rows)


def _parts(model: NcnnModel, index: int, layer: LayerProfile, choice: Choice) -> tuple[Part, ...]:
    if not layer.blob_axis or choice.part_units >= layer.units:
        return (layer_part(model, index),)
    axis = streaming_axis(model, index)
    ends = [*range(choice.part_units, layer.units, choice.part_units), layer.units]
    last = (ends[-1] - ends[-2]) // layer.granularity
    if layer.blob_axis == "c" and layer.granularity < WIDEST_ELEMPACK and last % 2 == 0:
        # slices of an odd number of granules are packed like the whole: a depthwise slice that is packed otherwise
        # than its input writes outside its memory
        ends.insert(-1, layer.units - layer.granularity)
    return tuple(layer_part(model, index, axis, begin, end) for begin, end in zip([0, *ends], ends, strict=False))
