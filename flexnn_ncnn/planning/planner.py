"""The planner: profile and budget to schedule, the same bytes out for the same bytes in."""

from __future__ import annotations

from dataclasses import dataclass

from flexnn_ncnn.errors import BudgetError
from flexnn_ncnn.planning.arena import place
from flexnn_ncnn.planning.choices import Choice, choices
from flexnn_ncnn.planning.problem import BlobProblem, blob_problem, live_bytes
from flexnn_ncnn.planning.residency import Selection, select, smallest
from flexnn_ncnn.profile import ModelProfile

__all__ = ["Schedule", "Workload", "schedule", "smallest_budget", "workload"]


@dataclass(frozen=True, slots=True)
class Workload:
    """What planning needs of a profile, the same for every budget.

    Attributes:
        profile: what was measured.
        blobs: buffers and how steps use them.
        offsets: per buffer its place in the arena.
        arena_bytes: size of the arena.
        choices: per layer the ways to run it.
    """

    profile: ModelProfile
    blobs: BlobProblem
    offsets: tuple[int, ...]
    arena_bytes: int
    choices: tuple[tuple[Choice, ...], ...]


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
    blobs = blob_problem(profile)
    offsets, arena_bytes = place(blobs.buffers)
    # layers that differ in their weights alone have the same choices
    known: dict[object, tuple[Choice, ...]] = {}
    found = []
    for layer in profile.layers:
        key = (layer.mode, layer.raw_bytes, layer.units, layer.granularity, layer.least_units, layer.kernels)
        if key not in known:
            known[key] = choices(layer, profile.read_seconds_per_byte) if layer.kernels else ()
        found.append(known[key])
    return Workload(profile, blobs, offsets, arena_bytes, tuple(found))


def schedule(work: Workload, budget_bytes: int, base_bytes: int) -> Schedule:
    """The fastest schedule within a budget.

    Args:
        work: from `workload`.
        budget_bytes: what inference may hold beyond the idle process.
        base_bytes: the part of it that no choice changes: code pages, Python objects.

    Raises:
        BudgetError: no schedule fits; it says the smallest budget that does and what sets it.
    """
    rows = [index for index, found in enumerate(work.choices) if found]
    memory = budget_bytes - base_bytes - work.arena_bytes
    selection = select([work.choices[i] for i in rows], memory, work.arena_bytes, _result_bytes(work.profile))
    if selection is None:
        least, culprit = smallest_budget(work, base_bytes)
        raise BudgetError(budget_bytes=budget_bytes, smallest_bytes=max(least, budget_bytes + 1), culprit=culprit)
    return _schedule(work, budget_bytes, base_bytes, rows, selection)


def smallest_budget(work: Workload, base_bytes: int) -> tuple[int, str]:
    """The least budget that works, and the layer that sets it."""
    rows = [index for index, found in enumerate(work.choices) if found]
    least, row = smallest([work.choices[i] for i in rows], _result_bytes(work.profile))
    weights_first = least > work.arena_bytes
    layer = work.profile.layers[rows[row] if weights_first and rows else _widest_step(work)]
    what = "weights and workspace" if weights_first else "blobs"
    return least + work.arena_bytes + base_bytes, f"layer {layer.name!r} ({layer.type}, {what})"


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
    peak = base_bytes + work.arena_bytes + selection.kept_bytes + selection.heap_bytes + selection.raw_bytes
    return Schedule(
        work, budget_bytes, tuple(chosen), peak, selection.seconds, selection.kept_bytes, selection.heap_bytes
    )
