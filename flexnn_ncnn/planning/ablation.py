"""Plans with one thing taken away, and profiles that hide one from the planner, to see what it is worth.

Pure, and never for real work.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import replace

from flexnn_ncnn.records.layout import OVERREAD_BYTES, align_up
from flexnn_ncnn.records.plan import Placement, Plan
from flexnn_ncnn.records.profile import LayerProfile, ModelProfile

__all__ = ["first_fit", "without_kernel_choice", "without_memory_plan", "without_preloading", "without_slicing"]

_ALIGNMENT_BYTES = 64


def without_kernel_choice(profile: ModelProfile) -> ModelProfile:
    """The profile with ncnn's own kernel of each layer alone."""

    def own(layers: Iterable[LayerProfile]) -> tuple[LayerProfile, ...]:
        return tuple(replace(layer, kernels=layer.kernels[:1]) for layer in layers)

    return replace(profile, layers=own(profile.layers), expansions=tuple(map(own, profile.expansions)))


def without_slicing(profile: ModelProfile) -> ModelProfile:
    """The profile of layers that cannot be cut: neither their weights into slices nor their blobs into slabs of rows,
    so that there are no chains either, nor layers into what they do inside."""
    layers = (
        replace(
            layer,
            blob_axis="",
            window=None,
            kernels=tuple(replace(cost, slabs=None) for cost in layer.kernels),
        )
        for layer in profile.layers
    )
    return replace(profile, layers=tuple(layers), expansions=())


def without_preloading(plan: Plan) -> Plan:
    """The plan with every weight read and loaded when it is needed, and not before."""
    steps = tuple(replace(step, parts=tuple(replace(part, ahead=1) for part in step.parts)) for step in plan.steps)
    return replace(plan, steps=steps, read_ahead_bytes=0)


def without_memory_plan(plan: Plan) -> Plan:
    """The plan with memory taken as it is needed, as malloc gives it, and no budget kept.

    Blobs lie where a heap has the first hole for them when they come; no room is made for workspace, which layers then
    take from the C library, nor for loads, whose weights are mapped.
    """
    whole = [place for place in plan.placements if not place.within]
    offsets = dict(zip((place.blob for place in whole), first_fit(whole), strict=True))
    moved = {place.blob: offsets[place.blob] - place.offset_bytes for place in whole}
    placements = tuple(
        replace(place, offset_bytes=place.offset_bytes + moved[place.within or place.blob]) for place in plan.placements
    )
    arena_bytes = max((offsets[place.blob] + place.size_bytes for place in whole), default=0) + OVERREAD_BYTES
    peak_bytes = plan.predicted_peak_bytes - plan.arena_bytes + arena_bytes
    return replace(
        plan,
        steps=tuple(
            replace(step, scratch_offset_bytes=0, scratch_bytes=0, reads_to_scratch=False) for step in plan.steps
        ),
        placements=placements,
        arena_bytes=arena_bytes,
        heap_bytes=0,
        predicted_peak_bytes=peak_bytes,
        budget_bytes=max(plan.budget_bytes, peak_bytes),
    )


def first_fit(places: Sequence[Placement]) -> list[int]:
    """Where each would lie if it took the first hole there is when its time comes, knowing nothing of what follows."""
    offsets = [0] * len(places)
    held: list[tuple[int, int, int]] = []  # begin, end, last step but one
    for index in sorted(range(len(places)), key=lambda index: (places[index].begin, index)):
        place = places[index]
        held = [block for block in held if block[2] > place.begin]
        size, offset = align_up(place.size_bytes, _ALIGNMENT_BYTES), 0
        for begin, end, _ in held:
            if begin - offset >= size:
                break
            offset = end
        offsets[index] = offset
        insort(held, (offset, offset + size, place.end))
    return offsets
