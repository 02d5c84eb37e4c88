"""What choices come to: memory, time, and where everything is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flexnn_ncnn.planning.arena import offset_in, taken_ranges
from flexnn_ncnn.planning.candidates import Depths
from flexnn_ncnn.planning.choices import UNLOADED_MODES, Choice, staged
from flexnn_ncnn.planning.reading import seconds_beside_reading
from flexnn_ncnn.planning.releases import StepNeed, releases
from flexnn_ncnn.planning.residency import ONCE, Selection
from flexnn_ncnn.planning.schedule import Schedule, Workload, result_bytes
from flexnn_ncnn.planning.simulate import Lanes, Load, Turn, distances, heap_bytes_of, inference_seconds, raw_bytes_of
from flexnn_ncnn.records.profile import LayerProfile

__all__ = ["read_seconds", "schedule_of", "schedule_of_selection"]


def schedule_of(
    work: Workload,
    chosen: Sequence[Choice | None],
    budget_bytes: int,
    base_bytes: int,
    depths: Depths = ONCE,
    *,
    lanes: Lanes | None = None,
    releasing: bool = False,
) -> Schedule:
    """What choices come to, made by whomever.

    Args:
        work: from `workload`, or one of its chained ones.
        chosen: a choice per layer, None where no layer runs.
        budget_bytes: what is noted as the budget; nothing is done to keep it.
        base_bytes: code pages and Python objects.
        depths: how many of the largest loads may be in memory at once; past the page cache as much is read to.
        lanes: where loads go that go on beside computing; None where both take turns.
        releasing: whether memory may be given back within an inference to keep the budget.
    """
    made = [choice for choice in chosen if choice is not None]
    offsets = tuple(
        offset_in(gaps, choice.scratch_bytes if choice else 0) for gaps, choice in zip(work.gaps, chosen, strict=True)
    )
    tops = [offset + choice.scratch_bytes for offset, choice in zip(offsets, chosen, strict=True) if choice]
    arena_bytes = max([work.blob_bytes, *tops])
    kept_bytes = sum(choice.kept_bytes for choice in made)
    heap_bytes = max((choice.heap_bytes for choice in made), default=0)
    least_raw_bytes = int(work.candidates.floor.raw_bytes)
    raw_bytes = int(depths.raw) * max([least_raw_bytes, *(choice.raw_bytes for choice in made)])
    turns = [
        turn
        for layer, choice in zip(work.profile.layers, chosen, strict=True)
        if choice
        for turn in _turns(layer, choice)
    ]
    loads = [turn.load for turn in turns if turn.load is not None]
    # nothing is left to a thread where all layers stand
    lanes = None if all(load.stands for load in loads) else lanes
    ahead = distances(loads, lanes) if lanes else ()
    if lanes:  # threads that load have a heap of their own, each
        heap_bytes = max((choice.heap_bytes for choice in made if choice.resident), default=0)
        heap_bytes += heap_bytes_of(loads, ahead)
        if not work.storage.is_direct:
            raw_bytes = max(least_raw_bytes, raw_bytes_of(loads, ahead))
    objects_bytes = sum(choice.objects_bytes for choice in made)
    held_bytes = arena_bytes + kept_bytes + objects_bytes + heap_bytes + raw_bytes + work.fixed_bytes
    decided = Schedule(
        workload=work,
        budget_bytes=budget_bytes,
        chosen=tuple(chosen),
        scratch_offsets=offsets,
        arena_bytes=arena_bytes,
        predicted_peak_bytes=base_bytes + held_bytes,
        predicted_seconds=inference_seconds(turns, ahead),
        kept_bytes=kept_bytes,
        heap_bytes=heap_bytes,
        raw_bytes=raw_bytes,
        lanes=lanes,
    )
    if releasing:
        return _releasing(decided, base_bytes)
    if not work.storage.is_direct or not loads:
        return decided
    sizes = [load.read_bytes for load in loads]
    seconds = seconds_beside_reading(turns, ahead, sizes, raw_bytes, work.storage.bytes_per_second)
    return replace(decided, predicted_seconds=max(seconds, read_seconds(decided)))


def schedule_of_selection(
    work: Workload,
    budget_bytes: int,
    base_bytes: int,
    selection: Selection,
    depths: Depths = ONCE,
    *,
    lanes: Lanes | None = None,
    releasing: bool = False,
) -> Schedule:
    """What a selection comes to; the other arguments as for `schedule_of`."""
    rows = [index for index, found in enumerate(work.choices) if found]
    chosen: list[Choice | None] = [None] * len(work.choices)
    takes_turns = lanes is None and not work.storage.is_direct
    for row, column in zip(rows, selection.chosen, strict=True):
        one = (work.staged if takes_turns else work.choices)[row][column]
        chosen[row] = staged(one) if releasing else one
    return schedule_of(work, chosen, budget_bytes, base_bytes, depths, lanes=lanes, releasing=releasing)


def read_seconds(decided: Schedule) -> float:
    """What reading streamed weights takes of storage, whatever else happens; 0 through the page cache."""
    storage = decided.workload.storage
    if not storage.is_direct:
        return 0.0
    layers = decided.workload.profile.layers
    loaded = [one for layer, one in zip(layers, decided.chosen, strict=True) if layer.mode not in UNLOADED_MODES]
    return sum(one.read_bytes for one in loaded if one is not None) / storage.bytes_per_second


def _releasing(decided: Schedule, base_bytes: int) -> Schedule:
    """The schedule with as much given back within an inference as its budget asks for."""
    work, last = decided.workload, len(decided.chosen) - 1
    result = result_bytes(work.profile)
    needs = []
    for step, (choice, gaps) in enumerate(zip(decided.chosen, work.gaps, strict=True)):
        used = taken_ranges(gaps)
        heap = raw = 0
        if choice is not None:
            begin, heap, raw = decided.scratch_offsets[step], choice.heap_bytes, choice.raw_bytes
            used = sorted([*used, (begin, begin + choice.scratch_bytes)]) if choice.scratch_bytes else used
        needs.append(StepNeed(tuple(used), heap, max(raw, result) if step == last else raw))
    kept_bytes = base_bytes + decided.kept_bytes + decided.objects_bytes
    found = releases(needs, decided.budget_bytes - kept_bytes, work.code_bytes)
    return replace(
        decided,
        predicted_peak_bytes=kept_bytes + found.held_bytes,
        predicted_seconds=decided.predicted_seconds + found.seconds,
        releases=found,
    )


def _turns(layer: LayerProfile, choice: Choice) -> list[Turn]:
    """A layer's slices, each with its share of time; as one where they stay, or are read without being loaded."""
    if choice.resident or layer.mode in UNLOADED_MODES:
        return [Turn(choice.seconds)]
    parts = -(-layer.units // choice.part_units)
    read_bytes = choice.read_bytes // parts
    load = Load(choice.load_seconds / parts, choice.heap_bytes, choice.raw_bytes, choice.stands, read_bytes)
    return [Turn((choice.seconds - choice.load_seconds) / parts, load)] * parts
