"""The planner: profile and budget to schedule, the same bytes out for the same bytes in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from flexnn_ncnn.errors import BudgetError
from flexnn_ncnn.planning.arena import free_gaps, hole_and_end, offset_in, place, taken_ranges
from flexnn_ncnn.planning.candidates import Candidates, Depths, Row, Weights
from flexnn_ncnn.planning.chains import ChainedProfile, chain_choices, chain_levels
from flexnn_ncnn.planning.choices import Choice, choices
from flexnn_ncnn.planning.problem import Buffer, blob_problem, live_bytes
from flexnn_ncnn.planning.releases import StepNeed, joint_rows, releases
from flexnn_ncnn.planning.residency import ONCE, Selection, select, smallest
from flexnn_ncnn.planning.schedule import Schedule, Workload, result_bytes
from flexnn_ncnn.planning.simulate import Load, Turn, distances, inference_seconds
from flexnn_ncnn.records.capabilities import STOCK, Capabilities
from flexnn_ncnn.records.profile import LayerProfile, ModelProfile
from flexnn_ncnn.records.storage import CACHED, Storage

__all__ = [
    "UNLOADED_MODES",
    "Schedule",
    "Workload",
    "read_seconds",
    "schedule",
    "schedule_of",
    "smallest_budget",
    "stock_forecast",
    "without_releases",
    "workload",
]


# (how many of the largest loads may be in memory at once, how much of a load's time counts)
_FIRST_OVERLAP = (2, 0.2)
_OVERLAPS = ((2, 1.0), (2, 0.5), (2, 0.05), (3, 0.2), (1, 1.0))
# past the page cache one load is used while the next is read
_READ_DEPTH = 2
# processor time of that, whatever the storage
_DIRECT_SECONDS_PER_BYTE = 2e-11
# what reading counts of the whole time at first: little, and all but a little
_FIRST_READING = (0.02, 0.98)
_READING_STEPS = 4
# the search is not exhaustive, and now and then does better with less
_SMALLER = (0.9, 0.8, 0.6)
# a layer as it is answers to the bit as stock ncnn: what it does inside takes its place where that is so much faster
_WORTH_EXPANDING = 1.03
# of the budget: less than that is not worth giving back and faulting in again
_RELEASED_SHARE = 0.25

# weights of such layers are read where they are needed: rows of an embedding, a constant
UNLOADED_MODES = ("gather", "constant")


def workload(profile: ModelProfile, capabilities: Capabilities = STOCK, storage: Storage = CACHED) -> Workload:
    """The part of planning that no budget changes.

    Args:
        profile: what was measured.
        capabilities: of the ncnn that will run.
        storage: where streamed weights come from.
    """
    plain, *chained = (_workload(level, capabilities, storage) for level in chain_levels(profile))
    return replace(plain, chained=tuple(chained))


def without_releases(work: Workload) -> Workload:
    """The same for schedules that give no memory back within an inference."""
    return replace(work, joint=None, chained=tuple(replace(level, joint=None) for level in work.chained))


def _workload(level: ChainedProfile, capabilities: Capabilities, storage: Storage) -> Workload:
    profile = level.profile
    read_seconds_per_byte = _DIRECT_SECONDS_PER_BYTE if storage.is_direct else profile.read_seconds_per_byte
    blobs = blob_problem(profile)
    offsets, arena_bytes = place(blobs.buffers)
    # layers that differ in their weights alone have the same choices
    known: dict[object, tuple[Choice, ...]] = {}
    found = []
    for layer, members in zip(profile.layers, level.members, strict=True):
        if len(members) > 1:
            found.append(chain_choices(members, read_seconds_per_byte))
            continue
        cut = (layer.units, layer.granularity, layer.least_units, layer.blob_axis, layer.output_layouts)
        key = (layer.type, layer.mode, layer.raw_bytes, cut, layer.kernels)
        if key not in known:
            known[key] = (
                choices(layer, read_seconds_per_byte, capabilities.saves_transformed_weights, storage.is_direct)
                if layer.kernels
                else ()
            )
        found.append(known[key])
    gaps = free_gaps(blobs.buffers, offsets, len(profile.layers))
    rows = [Row(ways, *gap) for ways, gap in zip(found, map(hole_and_end, gaps), strict=True) if ways]
    # memory to read to is never free for outputs
    candidates = Candidates(rows, arena_bytes, 0 if storage.is_direct else result_bytes(profile))
    joint = None if storage.is_direct or capabilities.releases_gil else _joint(profile, blobs.buffers, found)
    return Workload(
        profile, capabilities, storage, level.members, blobs, offsets, gaps, candidates, joint, tuple(found)
    )


def _joint(profile: ModelProfile, buffers: Sequence[Buffer], found: Sequence[tuple[Choice, ...]]) -> Candidates:
    """The choices for schedules that give memory back."""
    live, result, last = live_bytes(buffers, len(found)), result_bytes(profile), len(found) - 1
    rows = joint_rows([(ways, live[step], step == last) for step, ways in enumerate(found) if ways], result)
    return Candidates(rows, max([*live, live[-1] + result]), 0)


def schedule(work: Workload, budget_bytes: int, base_bytes: int) -> Schedule:
    """The fastest schedule within a budget.

    Args:
        work: from `workload`.
        budget_bytes: what inference may hold beyond the idle process.
        base_bytes: the part of it that no choice changes: code pages, Python objects.

    Raises:
        BudgetError: no schedule fits; it says the smallest budget that does and what sets it.
    """
    find = _overlapped if work.capabilities.releases_gil else _serial
    find = _beside_reading if work.storage.is_direct else find
    levels = (work, *work.chained)
    found = find([level for level in levels if not level.is_expanded], budget_bytes, base_bytes)
    if found is None or found.predicted_seconds > _WORTH_EXPANDING * work.least_seconds:
        expanded = [level for level in levels if level.is_expanded]
        other = find(expanded, budget_bytes, base_bytes) if expanded else None
        if found is None or (other and other.predicted_seconds * _WORTH_EXPANDING < found.predicted_seconds):
            found = other
    if found is None:
        least, culprit = smallest_budget(work, base_bytes)
        raise BudgetError(budget_bytes=budget_bytes, smallest_bytes=max(least, budget_bytes + 1), culprit=culprit)
    return found


def _serial(levels: Sequence[Workload], budget_bytes: int, base_bytes: int) -> Schedule | None:
    """The fastest schedule that loads and computes one after the other."""
    best: Schedule | None = None
    for candidates, level in _kinds(levels):
        if candidates is level.joint and best is not None and not _worth_releasing(best):
            continue
        best = _faster(best, candidates, level, budget_bytes, base_bytes)
    if best is None:
        return None
    level, joint = best.workload, best.workload.joint
    kind = level.candidates if best.releases is None or joint is None else joint
    for share in _SMALLER:
        best = _faster(best, kind, level, budget_bytes, base_bytes, share)
    return best


def _faster(
    best: Schedule | None, candidates: Candidates, level: Workload, budget_bytes: int, base_bytes: int, share: float = 1
) -> Schedule | None:
    """The better one of a schedule and what is found for a share of the memory."""
    beat_seconds = best.predicted_seconds if best else math.inf
    selection = select(candidates, share * (budget_bytes - base_bytes), beat_seconds=beat_seconds)
    if selection is None or selection.seconds >= beat_seconds:
        return best
    one = _schedule(level, budget_bytes, base_bytes, selection, releasing=candidates is level.joint)
    return one if one.predicted_seconds < beat_seconds else best


def _kinds(levels: Sequence[Workload]) -> Iterator[tuple[Candidates, Workload]]:
    """Each level with arena and heap kept, and where possible with both given back within an inference."""
    for level in levels:
        yield level.candidates, level
        if level.joint is not None:
            yield level.joint, level


def _worth_releasing(decided: Schedule) -> bool:
    """Whether what is held beside weights is enough of the budget to be worth giving back."""
    passing_bytes = decided.arena_bytes + decided.heap_bytes + decided.raw_bytes
    return passing_bytes > _RELEASED_SHARE * decided.budget_bytes


def _overlapped(levels: Sequence[Workload], budget_bytes: int, base_bytes: int) -> Schedule | None:
    """The fastest schedule whose loads go on beside computing.

    How much of a load's time counts depends on how many loads hide behind computing, which depends on the choices: a
    few weights are tried on the most promising levels, and the simulated inference decides.
    """

    def found(level: Workload, depth: int, load_weight: float) -> Schedule | None:
        memory, depths = budget_bytes - base_bytes, Depths(heap=depth, raw=depth)
        selection = select(level.candidates, memory, depths=depths, weights=Weights(load_weight))
        return None if selection is None else _schedule(level, budget_bytes, base_bytes, selection, depths)

    first = [(one, level) for level in levels if (one := found(level, *_FIRST_OVERLAP)) is not None]
    first.sort(key=lambda pair: pair[0].predicted_seconds)
    promising = [level for _, level in first[:2]] or list(levels)
    tried = [found(level, *overlap) for level in promising for overlap in _OVERLAPS]
    made = [one for one in (*(one for one, _ in first), *tried) if one is not None]
    return min(made, key=lambda one: one.predicted_seconds, default=None)


def _beside_reading(levels: Sequence[Workload], budget_bytes: int, base_bytes: int) -> Schedule | None:
    """The fastest schedule whose weights are read past the page cache beside all else.

    An inference takes as long as computing or as reading, whichever is longer. The two are weighed against each other
    so that neither is: as in a duel, more weight for the one that takes longer.
    """
    threaded = levels[0].capabilities.releases_gil
    depth, load_weight = _FIRST_OVERLAP if threaded else (1, 1.0)

    def found(level: Workload, reading: float, read_depth: int = _READ_DEPTH) -> Schedule | None:
        depths = Depths(heap=depth, raw=read_depth)
        weights = Weights(load_weight, 1.0 - reading, reading / level.storage.bytes_per_second)
        memory = budget_bytes - base_bytes - level.fixed_bytes
        selection = select(level.candidates, memory, depths=depths, weights=weights)
        return None if selection is None else _schedule(level, budget_bytes, base_bytes, selection, depths)

    first = [(one, level) for level in levels for reading in _FIRST_READING if (one := found(level, reading))]
    if not first:  # without reading ahead, if need be
        return min(filter(None, (found(one, 0.5, 1) for one in levels)), key=_seconds, default=None)
    best, level = min(first, key=lambda pair: pair[0].predicted_seconds)
    low, high = _FIRST_READING
    for _ in range(_READING_STEPS):
        reading = (low + high) / 2
        one = found(level, reading)
        if one is None:
            break
        best = min(best, one, key=_seconds)
        if read_seconds(one) < one.predicted_seconds:
            high = reading
        else:
            low = reading
    return best


def _seconds(decided: Schedule) -> float:
    return decided.predicted_seconds


def read_seconds(decided: Schedule) -> float:
    """What reading streamed weights takes of storage, whatever else happens; 0 through the page cache."""
    storage = decided.workload.storage
    if not storage.is_direct:
        return 0.0
    layers = decided.workload.profile.layers
    loaded = [one for layer, one in zip(layers, decided.chosen, strict=True) if layer.mode not in UNLOADED_MODES]
    return sum(one.read_bytes for one in loaded if one is not None) / storage.bytes_per_second


def smallest_budget(work: Workload, base_bytes: int) -> tuple[int, str]:
    """The least budget that works, and the layer that sets it."""
    least, culprit = min((_smallest(*kind) for kind in _kinds((work, *work.chained))), key=lambda one: one[0])
    return least + work.fixed_bytes + base_bytes, culprit


def _smallest(candidates: Candidates, work: Workload) -> tuple[int, str]:
    least, row, weights_first = smallest(candidates)
    rows = [index for index, found in enumerate(work.choices) if found]
    layer = work.profile.layers[rows[row] if rows and weights_first else _widest_step(work)]
    return least, f"layer {layer.name!r} ({layer.type}, {'weights' if weights_first else 'blobs'})"


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
    return int(base_bytes + kept + max(loading, work.blob_bytes + workspace)), seconds


def _widest_step(work: Workload) -> int:
    """The step with most blobs, and of those with as much the one with most scratch at least."""
    live = live_bytes(work.blobs.buffers, len(work.profile.layers))
    scratch = [min((choice.scratch_bytes for choice in ways), default=0) for ways in work.choices]
    return max(range(len(live)), key=lambda step: (live[step] + scratch[step], -step))


def _schedule(
    work: Workload,
    budget_bytes: int,
    base_bytes: int,
    selection: Selection,
    depths: Depths = ONCE,
    *,
    releasing: bool = False,
) -> Schedule:
    rows = [index for index, found in enumerate(work.choices) if found]
    chosen: list[Choice | None] = [None] * len(work.choices)
    for row, column in zip(rows, selection.chosen, strict=True):
        chosen[row] = work.choices[row][column]
    return schedule_of(work, chosen, budget_bytes, base_bytes, depths, releasing=releasing)


def schedule_of(
    work: Workload,
    chosen: Sequence[Choice | None],
    budget_bytes: int,
    base_bytes: int,
    depths: Depths = ONCE,
    *,
    releasing: bool = False,
) -> Schedule:
    """What choices come to, made by whomever.

    Args:
        work: from `workload`, or one of its chained ones.
        chosen: a choice per layer, None where no layer runs.
        budget_bytes: what is noted as the budget; nothing is done to keep it.
        base_bytes: code pages and Python objects.
        depths: how many of the largest loads may be in memory at once, where loads run beside computing.
        releasing: whether memory may be given back within an inference to keep the budget.
    """
    made = [choice for choice in chosen if choice is not None]
    offsets = tuple(
        offset_in(gaps, choice.scratch_bytes if choice else 0) for gaps, choice in zip(work.gaps, chosen, strict=True)
    )
    tops = [offset + choice.scratch_bytes for offset, choice in zip(offsets, chosen, strict=True) if choice]
    arena_bytes = max([work.blob_bytes, *tops])
    kept_bytes = sum(choice.kept_bytes for choice in made)
    heap_bytes = depths.heap * max((choice.heap_bytes for choice in made), default=0)
    least_raw_bytes = int(work.candidates.floor.raw_bytes)
    raw_bytes = depths.raw * max([least_raw_bytes, *(choice.raw_bytes for choice in made)])
    turns = [
        turn
        for layer, choice in zip(work.profile.layers, chosen, strict=True)
        if choice
        for turn in _turns(layer, choice)
    ]
    loads = [turn.load for turn in turns if turn.load is not None]
    # nothing is left to a thread where all layers stand
    threaded = work.capabilities.releases_gil and not all(turn.load.stands for turn in turns if turn.load)
    ahead = distances(loads, heap_bytes, raw_bytes) if threaded else ()
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
    )
    if releasing:
        return _releasing(decided, base_bytes)
    return replace(decided, predicted_seconds=max(decided.predicted_seconds, read_seconds(decided)))


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
    found = releases(needs, decided.budget_bytes - kept_bytes)
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
    load = Load(choice.load_seconds / parts, choice.heap_bytes, choice.raw_bytes, choice.stands)
    return [Turn((choice.seconds - choice.load_seconds) / parts, load)] * parts
