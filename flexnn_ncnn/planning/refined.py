"""A profile corrected by what a run of a schedule showed.

Workspace is measured on a large and on a small part. ncnn's matrix kernels choose their tiles by the number of outputs,
so that a part in between may need a little more than both.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import replace

from flexnn_ncnn.planning.choices import Choice, run_peak
from flexnn_ncnn.planning.planner import Schedule
from flexnn_ncnn.records.profile import KernelCost, LayerProfile, ModelProfile, Points

__all__ = ["refined"]


def refined(profile: ModelProfile, decided: Schedule, missing_bytes: Mapping[int, int]) -> ModelProfile:
    """The profile with the workspace of some parts as large as it was found to be.

    Args:
        profile: what the schedule was made for, without chains.
        decided: the schedule that ran.
        missing_bytes: by number of a step how much too small its scratch was; chains are left as they are.
    """
    changed: dict[object, tuple[KernelCost, ...]] = {}
    for step, missing in missing_bytes.items():
        layer, choice = decided.workload.profile.layers[step], decided.chosen[step]
        if choice is None or len(decided.workload.members[step]) > 1:
            continue
        key = _alike(layer)
        kernels = changed.get(key, layer.kernels)
        changed[key] = tuple(
            _grown(cost, choice, missing + _staging_bytes(cost, choice)) if cost.kernel == choice.kernel else cost
            for cost in kernels
        )

    def grown(layers: Iterable[LayerProfile]) -> tuple[LayerProfile, ...]:
        return tuple(replace(layer, kernels=changed.get(_alike(layer), layer.kernels)) for layer in layers)

    return replace(profile, layers=grown(profile.layers), expansions=tuple(map(grown, profile.expansions)))


def _staging_bytes(cost: KernelCost, choice: Choice) -> int:
    """What scratch has beyond the workspace that was measured because weights are read to it."""
    workspace_bytes = int(run_peak(cost, choice.part_units, choice.slab_rows))
    return max(0, choice.scratch_bytes - workspace_bytes) if choice.staged_bytes else 0


def _alike(layer: LayerProfile) -> object:
    """Equal for layers that differ in their weights alone."""
    return layer.type, layer.input_layouts, layer.output_layouts, layer.kernels


def _grown(cost: KernelCost, choice: Choice, missing: int) -> KernelCost:
    """The cost with one more point: by slabs the workspace is a share of the whole part's, and grows with it."""
    units, by_slabs = choice.part_units, run_peak(cost, choice.part_units, choice.slab_rows)
    whole = cost.run_peak_bytes.at(units)
    value = whole * (1.0 + missing / by_slabs) if by_slabs else float(missing)
    sizes, values = list(cost.run_peak_bytes.sizes), list(cost.run_peak_bytes.values)
    at = bisect_left(sizes, units)
    if at < len(sizes) and sizes[at] == units:
        values[at] = value
    else:
        sizes.insert(at, units)
        values.insert(at, value)
    return replace(cost, run_peak_bytes=Points(tuple(sizes), tuple(values)))
