"""The planner: profile and budget to schedule, the same bytes out for the same bytes in."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from flexnn_ncnn.errors import BudgetError
from flexnn_ncnn.planning.arena import place
from flexnn_ncnn.planning.chains import ChainedProfile, chain_choices, chain_levels
from flexnn_ncnn.planning.choices import Choice, choices
from flexnn_ncnn.planning.problem import BlobProblem, blob_problem, live_bytes
from flexnn_ncnn.planning.residency import Selection, select, smallest
from flexnn_ncnn.profile import LayerProfile, ModelProfile

__all__ = ["Schedule", "Workload", "schedule", "smallest_budget", "stock_forecast", "workload"]

# What is kept free for the gaps that blocks of several sizes leave in the heap, which depend on where it begins.
_HEAP_SLACK = 1.2


@dataclass(frozen=True, slots=True)
class Workload:
    """What planning needs of a profile, the same for every budget.

    Attributes:
        profile: what was measured; layers joined to a chain are one layer.
        members: per layer of `profile` the measured layers it stands for.
        blobs: buffers and how steps use them.
        offsets: per buffer its place in the arena.
        arena_bytes: size of the arena.
        choices: per layer the ways to run it.
        chained: the same network with ever more layers joined to chains, for smaller arenas.
    """

    profile: ModelProfile
    members: tuple[tuple[LayerProfile, ...], ...]
    blobs: BlobProblem
    offsets: tuple[int, ...]
    arena_bytes: int
    choices: tuple[tuple[Choice, ...], ...]
    chained: tuple[Workload, ...] = ()


@dataclass(frozen=True, slots=True)
class Schedule:
    """What the planner decides.

    Attributes:
        workload: what it was decided for.
        budget_bytes: the budget.
        chosen: per layer its choice, None where no layer runs.
        predicted_peak_bytes: growth of the resident set over the idle process.
        predicted_seconds: one inference.
        kept_bytes: weights kept between inferences.
        heap_bytes: heap the largest layer needs beside them.
    """

    workload: Workload
    budget_bytes: int
    chosen: tuple[Choice | None, ...]
    predicted_peak_bytes: int
    predicted_seconds: float
    kept_bytes: int
    heap_bytes: int


def workload(profile: ModelProfile) -> Workload:
    """The part of planning that no budget changes."""
    plain, *chained = (_workload(level) for level in chain_levels(profile))
    return replace(plain, chained=tuple(level for level in chained if _can_run(level)))


def _can_run(work: Workload) -> bool:
    """Whether every chain can be run."""
    return all(found or len(members) == 1 for found, members in zip(work.choices, work.members, strict=True))


def _workload(level: ChainedProfile) -> Workload:
    profile = level.profile
    blobs = blob_problem(profile)
    offsets, arena_bytes = place(blobs.buffers)
    # layers that differ in their weights alone have the same choices
    known: dict[object, tuple[Choice, ...]] = {}
    found = []
    for layer, members in zip(profile.layers, level.members, strict=True):
        if len(members) > 1:
            found.append(chain_choices(members, profile.read_seconds_per_byte))
            continue
        cut = (layer.units, layer.granularity, layer.least_units, layer.blob_axis)
        key = (layer.mode, layer.raw_bytes, cut, layer.kernels)
        if key not in known:
            known[key] = choices(layer, profile.read_seconds_per_byte) if layer.kernels else ()
        found.append(known[key])
    return Workload(profile, level.members, blobs, offsets, arena_bytes, tuple(found))


def schedule(work: Workload, budget_bytes: int, base_bytes: int) -> Schedule:
    """The fastest schedule within a budget.

    Args:
        work: from `workload`.
        budget_bytes: what inference may hold beyond the idle process.
        base_bytes: the part of it that no choice changes: code pages, Python objects.

    Raises:
        BudgetError: no schedule fits; it says the smallest budget that does and what sets it.
    """
    found = [_fastest(level, budget_bytes, base_bytes) for level in (work, *work.chained)]
    fitting = [one for one in found if one is not None]
    if not fitting:
        least, culprit = smallest_budget(work, base_bytes)
        raise BudgetError(budget_bytes=budget_bytes, smallest_bytes=max(least, budget_bytes + 1), culprit=culprit)
    return min(fitting, key=lambda one: one.predicted_seconds)


def _fastest(work: Workload, budget_bytes: int, base_bytes: int) -> Schedule | None:
    """The fastest schedule of these layers as they are joined."""
    rows = [index for index, found in enumerate(work.choices) if found]
    memory = budget_bytes - base_bytes - work.arena_bytes
    selection = select(_with_slack(work, rows), memory, work.arena_bytes, _result_bytes(work.profile))
    return None if selection is None else _schedule(work, budget_bytes, base_bytes, rows, selection)


def _with_slack(work: Workload, rows: list[int]) -> list[tuple[Choice, ...]]:
    """The choices of layers, each with a larger heap."""
    known: dict[int, tuple[Choice, ...]] = {}
    for row in rows:
        found = work.choices[row]
        if id(found) not in known:
            known[id(found)] = tuple(replace(one, heap_bytes=math.ceil(one.heap_bytes * _HEAP_SLACK)) for one in found)
    return [known[id(work.choices[row])] for row in rows]


def smallest_budget(work: Workload, base_bytes: int) -> tuple[int, str]:
    """The least budget that works, and the layer that sets it."""
    least, culprit = min(map(_smallest, (work, *work.chained)), key=lambda one: one[0])
    return least + base_bytes, culprit


def _smallest(work: Workload) -> tuple[int, str]:
    rows = [index for index, found in enumerate(work.choices) if found]
    least, row = smallest(_with_slack(work, rows), _result_bytes(work.profile))
    weights_first = least > work.arena_bytes
    layer = work.profile.layers[rows[row] if weights_first and rows else _widest_step(work)]
    what = "weights and workspace" if weights_first else "blobs"
    return least + work.arena_bytes, f"layer {layer.name!r} ({layer.type}, {what})"


def stock_forecast(work: Workload, base_bytes: int) -> tuple[int, float]:
    """What stock ncnn should need and take with everything resident: bytes, and seconds of one inference.

    Rough for the bytes: stock's pools keep freed blobs of other sizes. A trial must tell.
    """
    kept = loading = workspace = seconds = 0.0
    for layer in work.profile.layers:
        if not layer.kernels:
            continue
        cost = layer.kernels[0]
        layer_kept = cost.kept_bytes.at(layer.units) + (layer.raw_bytes if cost.reads_raw else 0)
        loading = max(loading, layer.raw_bytes + cost.load_peak_bytes.at(layer.units) - layer_kept)
        workspace = max(workspace, cost.run_peak_bytes.at(layer.units))
        kept += layer_kept
        seconds += cost.compute_seconds.at(layer.units)
    return int(base_bytes + kept + max(loading, work.arena_bytes + workspace)), seconds


def _result_bytes(profile: ModelProfile) -> int:
    """The outputs as the caller gets them, in memory of their own."""
    layouts = {
        blob: layout
        for layer in profile.layers
        for blob, layout in zip(layer.outputs, layer.output_layouts, strict=True)
    }
    return sum(layouts[blob].size_bytes for blob in profile.outputs)


def _widest_step(work: Workload) -> int:
    live = live_bytes(work.blobs.buffers, len(work.profile.layers))
    return live.index(max(live))


def _schedule(work: Workload, budget_bytes: int, base_bytes: int, rows: list[int], selection: Selection) -> Schedule:
    chosen: list[Choice | None] = [None] * len(work.choices)
    for row, column in zip(rows, selection.chosen, strict=True):
        chosen[row] = work.choices[row][column]
    heap = max((choice.heap_bytes for choice in chosen if choice is not None), default=0)
    peak = base_bytes + work.arena_bytes + selection.kept_bytes + heap + selection.raw_bytes
    return Schedule(work, budget_bytes, tuple(chosen), peak, selection.seconds, selection.kept_bytes, heap)
