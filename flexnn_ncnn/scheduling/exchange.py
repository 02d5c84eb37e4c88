"""Our profiles and schedules as FlexNN's records, and its profiles as ours.

docs/formats/flexnn-text.md says what is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from flexnn_ncnn.errors import PlanError, ProfileError
from flexnn_ncnn.interop.records import (
    KINDS,
    OVERREAD_BYTES,
    FlexnnPlan,
    FlexnnProfile,
    LayerTime,
    MemoryObject,
    PlacedObject,
    layer_dependencies,
)
from flexnn_ncnn.planning.planner import Schedule
from flexnn_ncnn.planning.problem import ALIGNMENT_BYTES, blob_problem
from flexnn_ncnn.records.layout import BlobLayout, align_up
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.records.profile import KernelCost, LayerProfile, Linear, ModelProfile, Points

__all__ = ["from_flexnn_profile", "to_flexnn_plan", "to_flexnn_profile"]

_NOTHING = Linear(0.0, 0.0)


def to_flexnn_profile(profile: ModelProfile) -> FlexnnProfile:
    """A profile as FlexNN would have measured it: every layer whole, by ncnn's own choice of kernel.

    Raises:
        ProfileError: the layers do not run in the order of the .param file, which FlexNN takes for granted.
    """
    indices = [layer.index for layer in profile.layers]
    _check_order(indices)
    objects = [
        MemoryObject("blob", indices[buffer.begin], indices[buffer.end - 1] + 1, buffer.layout.size_bytes)
        for buffer in blob_problem(profile).buffers
    ]
    times = [LayerTime(0.0, 0.0)] * (max(indices, default=-1) + 1)
    for layer in profile.layers:
        objects += _own_objects(layer)
        times[layer.index] = _own_time(layer, profile.read_seconds_per_byte)
    objects = [
        MemoryObject(one.kind, one.begin, one.end, one.size_bytes + OVERREAD_BYTES) for one in objects if one.size_bytes
    ]
    objects.sort(key=lambda one: (one.begin, KINDS.index(one.kind)))
    return FlexnnProfile(tuple(objects), tuple(times))


def to_flexnn_plan(decided: Schedule) -> FlexnnPlan:
    """A schedule as a layout of FlexNN's one buffer.

    From its begin: blobs as in the arena, workspace, raw weights while they are mapped, resident weights. Nothing is
    loaded ahead, as in ours.

    Raises:
        PlanError: the layers do not run in the order of the .param file, or what a layer does inside runs as layers of
            its own, of which FlexNN's files have none.
    """
    inside = dict.fromkeys(layer.index for layer in decided.workload.profile.layers if layer.inner)
    if inside:
        raise PlanError(
            f"this plan runs what attention does inside as layers of their own ({len(inside)} times), which FlexNN's "
            "files have no place for",
            hint="give a larger --budget, at which attention runs whole, or have FlexNN's planner plan what 'flexnn "
            "profile --export-flexnn' writes",
        )
    members = decided.workload.members
    first, last = [one[0].index for one in members], [one[-1].index for one in members]
    _check_order([index for pair in zip(first, last, strict=True) for index in sorted(set(pair))], PlanError)
    placed = [
        PlacedObject(
            MemoryObject("blob", first[buffer.begin], last[buffer.end - 1] + 1, buffer.size_bytes),
            first[buffer.begin],
            offset,
        )
        for buffer, offset in zip(decided.workload.blobs.buffers, decided.workload.offsets, strict=True)
    ]
    workspace = _aligned(decided.arena_bytes)
    mapped = workspace + _aligned(decided.heap_bytes)
    free = mapped + max((_aligned(one.raw_bytes) for one in decided.chosen if one), default=0)
    persistent = []
    for step, choice in enumerate(decided.chosen):
        if choice is None:
            continue
        for kind, size, offset in (
            ("workspace", choice.scratch_bytes, decided.scratch_offsets[step]),
            ("workspace", choice.heap_bytes, workspace),
            ("weight", choice.raw_bytes, mapped),
            ("weight", choice.kept_bytes, free),
        ):
            if size:
                memory = MemoryObject(kind, first[step], last[step] + 1, size)
                placed.append(PlacedObject(memory, first[step], offset))
        if choice.kept_bytes:
            persistent.append(free)
            free += _aligned(choice.kept_bytes)
    placed.sort(key=lambda one: (one.loads_at, KINDS.index(one.memory.kind)))
    return FlexnnPlan(tuple(placed), tuple(persistent), layer_dependencies(placed, max(last, default=-1) + 1))


def from_flexnn_profile(found: FlexnnProfile, name: str = "FlexNN") -> ModelProfile:
    """FlexNN's profile for our planner: each layer can be resident or streamed, nothing can be cut or run otherwise.

    Args:
        found: the profile.
        name: stands for the model's identity.
    """
    layers = tuple(_layer(found, index, name) for index in range(len(found.times)))
    return ModelProfile(
        model_id=name,
        machine="",
        machine_facts=None,
        options=RunOptions(),
        inputs=(),
        outputs=(),
        layers=layers,
        read_seconds_per_byte=0.0,
        storage=None,
        base_bytes=0,
    )


def _check_order(indices: Sequence[int], error: type[PlanError] | type[ProfileError] = ProfileError) -> None:
    if any(after <= before for before, after in pairwise(indices)):
        raise error("the layers do not run one by one in the order of the .param file, as FlexNN's would")


def _aligned(size: int) -> int:
    return align_up(size, ALIGNMENT_BYTES)


def _own_objects(layer: LayerProfile) -> Iterator[MemoryObject]:
    """Weights and workspace of a layer that is loaded, computed and released."""
    span = layer.index, layer.index + 1
    yield MemoryObject("weight", *span, layer.raw_bytes)
    if layer.kernels:
        cost = layer.kernels[0]
        kept = cost.kept_bytes.at(layer.units)
        yield MemoryObject("weight", *span, round(kept))
        allocated = [size for size in cost.events if size > 0]
        yield from (MemoryObject("workspace", *span, size) for size in allocated)
        loading = cost.load_peak_bytes.at(layer.units) - kept
        computing = sum(allocated) + cost.run_heap_bytes.at(layer.units)
        yield MemoryObject("workspace", *span, round(max(loading, computing) - sum(allocated)))


def _own_time(layer: LayerProfile, read_seconds_per_byte: float) -> LayerTime:
    read = layer.raw_bytes * read_seconds_per_byte
    if not layer.kernels:
        return LayerTime(read, 0.0)
    cost = layer.kernels[0]
    return LayerTime(read + cost.load_seconds.at(layer.units), cost.compute_seconds.at(layer.units))


def _layer(found: FlexnnProfile, index: int, name: str) -> LayerProfile:
    own = [one for one in found.objects if one.begin == index]
    blobs = [(number, one) for number, one in enumerate(found.objects) if one.kind == "blob"]
    # a layer that works in place allocates none; ours name one each
    outputs = [(number, one) for number, one in blobs if one.begin == index]
    outputs = outputs or [(len(found.objects) + index, MemoryObject("blob", index, index + 1, 0))]
    inputs = [(number, one) for number, one in blobs if one.end - 1 == index and one.begin < index]
    weights = sum(one.size_bytes for one in own if one.kind == "weight")
    workspaces = [one.size_bytes for one in own if one.kind == "workspace"]
    time = found.times[index]
    kernel = KernelCost(
        kernel="default",
        reads_raw=True,
        load_seconds=Linear(time.load_seconds, 0.0),
        compute_seconds=Linear(time.compute_seconds, 0.0),
        seconds_spread=0.0,
        kept_bytes=_NOTHING,
        load_peak_bytes=_NOTHING,
        run_peak_bytes=Points((1,), (float(sum(workspaces)),)),
        run_heap_bytes=_NOTHING,
        events=tuple(workspaces),
        slabs=None,
    )
    return LayerProfile(
        index=index,
        type="FlexNN",
        name=f"{name}:{index}",
        mode="forward",
        inputs=tuple(f"blob{number}" for number, _ in inputs),
        outputs=tuple(f"blob{number}" for number, _ in outputs),
        input_layouts=tuple(_bytes(one) for _, one in inputs),
        output_layouts=tuple(_bytes(one) for _, one in outputs),
        raw_bytes=weights,
        units=1,
        granularity=1,
        least_units=1,
        blob_axis="",
        window=None,
        convert_seconds=0.0,
        kernels=(kernel,),
    )


def _bytes(one: MemoryObject) -> BlobLayout:
    """So many bytes as a blob; what kernels may read past its end is added again when it is placed."""
    return BlobLayout(dims=1, w=max(1, one.size_bytes - OVERREAD_BYTES), h=1, d=1, c=1, elemsize=1, elempack=1)
