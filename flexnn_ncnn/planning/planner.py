"""The planner: profile and budget to schedule, the same bytes out for the same bytes in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from flexnn_ncnn.errors import BudgetError
from flexnn_ncnn.planning.arena import free_gaps, hole_and_end, place
from flexnn_ncnn.planning.candidates import Candidates, Depths, Row, Weights
from flexnn_ncnn.planning.chains import ChainedProfile, chain_choices, chain_levels
from flexnn_ncnn.planning.choices import Choice, choices
from flexnn_ncnn.planning.outcome import read_seconds, schedule_of_selection
from flexnn_ncnn.planning.overlapped import DOUBT, LOAD_WEIGHT, TWO, overlapped
from flexnn_ncnn.planning.problem import Buffer, blob_problem, live_bytes
from flexnn_ncnn.planning.releases import joint_rows
from flexnn_ncnn.planning.residency import select
from flexnn_ncnn.planning.schedule import Schedule, Workload, result_bytes
from flexnn_ncnn.planning.tightest import smallest
from flexnn_ncnn.records.capabilities import STOCK, Capabilities
from flexnn_ncnn.records.profile import ModelProfile
from flexnn_ncnn.records.storage import CACHED, Storage

__all__ = [
    "Schedule",
    "Workload",
    "schedule",
    "smallest_budget",
    "stock_forecast",
    "with_code_returned",
    "without_releases",
    "workload",
]


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


def with_code_returned(work: Workload, code_bytes: int) -> Workload:
    """The same where giving memory back takes so many bytes of code pages out of the resident set."""
    return replace(
        work, code_bytes=code_bytes, chained=tuple(replace(one, code_bytes=code_bytes) for one in work.chained)
    )


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
    rows = [Row(ways, *gap) for ways, gap in zip(found, map(hole_and_end, gaps), strict=True)]
    known_rows = {row: row if storage.is_direct else row.staged(arena_bytes) for row in rows}
    staged_rows = [known_rows[row] for row in rows]
    # memory to read to is never free for outputs
    result = 0 if storage.is_direct else result_bytes(profile)
    in_turn = Candidates([row for row in staged_rows if row.choices], arena_bytes, result)
    loads_beside = capabilities.loads_beside(profile.options.num_threads)
    is_another = loads_beside and not storage.is_direct
    return Workload(
        profile=profile,
        capabilities=capabilities,
        storage=storage,
        members=level.members,
        blobs=blobs,
        offsets=offsets,
        gaps=gaps,
        candidates=Candidates([row for row in rows if row.choices], arena_bytes, result) if is_another else in_turn,
        in_turn=in_turn,
        joint=None if storage.is_direct else _joint(profile, blobs.buffers, found),
        choices=tuple(found),
        staged=tuple(row.choices for row in staged_rows),
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
    levels = (work, *work.chained)
    found = _fastest([level for level in levels if not level.is_expanded], budget_bytes, base_bytes)
    if found is None or found.predicted_seconds > _WORTH_EXPANDING * work.least_seconds:
        expanded = [level for level in levels if level.is_expanded]
        other = _fastest(expanded, budget_bytes, base_bytes) if expanded else None
        if found is None or (other and other.predicted_seconds * _WORTH_EXPANDING < found.predicted_seconds):
            found = other
    if found is None:
        least, culprit = smallest_budget(work, base_bytes)
        raise BudgetError(budget_bytes=budget_bytes, smallest_bytes=max(least, budget_bytes + 1), culprit=culprit)
    return found


def _fastest(levels: Sequence[Workload], budget_bytes: int, base_bytes: int) -> Schedule | None:
    """The fastest schedule of some levels, whichever way it loads."""
    loads_beside = levels[0].capabilities.loads_beside(levels[0].profile.options.num_threads)
    if levels[0].storage.is_direct:
        ways = [False, True] if loads_beside else [False]
        best: Schedule | None = None
        for loads_so in ways:
            best = _beside_reading(levels, budget_bytes, base_bytes, loads_so, best)
        return best
    beside = overlapped(levels, budget_bytes, base_bytes) if loads_beside else None
    return _serial(levels, budget_bytes, base_bytes, beside)


def _serial(levels: Sequence[Workload], budget_bytes: int, base_bytes: int, beside: Schedule | None) -> Schedule | None:
    """The fastest schedule that loads and computes one after the other, or `beside` where none is faster than that."""
    best = beside
    for candidates, level in _kinds(levels):
        if candidates is level.joint and best is not None and not _worth_releasing(best):
            continue
        best = _faster(best, candidates, level, budget_bytes, base_bytes)
    if best is None or best is beside:
        return best
    level, joint = best.workload, best.workload.joint
    kind = level.in_turn if best.releases is None or joint is None else joint
    for share in _SMALLER:
        best = _faster(best, kind, level, budget_bytes, base_bytes, share)
    return best


def _faster(
    best: Schedule | None, candidates: Candidates, level: Workload, budget_bytes: int, base_bytes: int, share: float = 1
) -> Schedule | None:
    """The better one of a schedule and what is found for a share of the memory."""
    beat_seconds = best.predicted_seconds if best else math.inf
    memory_bytes = budget_bytes - _base_of(candidates, level, base_bytes)
    selection = select(candidates, share * memory_bytes, beat_seconds=beat_seconds)
    if selection is None or selection.seconds >= beat_seconds:
        return best
    one = schedule_of_selection(level, budget_bytes, base_bytes, selection, releasing=candidates is level.joint)
    return one if one.predicted_seconds < beat_seconds else best


def _kinds(levels: Sequence[Workload]) -> Iterator[tuple[Candidates, Workload]]:
    """Each level with arena and heap kept, and where possible with both given back within an inference."""
    for level in levels:
        yield level.in_turn, level
        if level.joint is not None:
            yield level.joint, level


def _base_of(candidates: Candidates, level: Workload, base_bytes: int) -> int:
    """The base of schedules of these candidates: steps that have memory given back before them need less."""
    return base_bytes - level.code_bytes if candidates is level.joint else base_bytes


def _worth_releasing(decided: Schedule) -> bool:
    """Whether what is held beside weights is enough of the budget to be worth giving back."""
    passing_bytes = decided.arena_bytes + decided.heap_bytes + decided.raw_bytes
    return passing_bytes > _RELEASED_SHARE * decided.budget_bytes


def _beside_reading(
    levels: Sequence[Workload], budget_bytes: int, base_bytes: int, beside: bool, best: Schedule | None
) -> Schedule | None:
    """The fastest schedule whose weights are read past the page cache beside all else, and loaded so if `beside`; or
    `best` where none is faster.

    An inference takes as long as computing or as reading, whichever is longer. The two are weighed against each other
    so that neither is: as in a duel, more weight for the one that takes longer. That is so where reads are spread
    evenly, or there is memory to read far ahead; else it is each layer that takes as long as the longer of both.
    """
    lanes, load_weight, doubt = (TWO, LOAD_WEIGHT, DOUBT) if beside else (None, 1.0, 1.0)

    def found(level: Workload, reading: float, read_depth: int = _READ_DEPTH) -> Schedule | None:
        # the longer of both is no shorter than both weighed
        beat_seconds = doubt * best.predicted_seconds if best else math.inf
        weights = Weights(load_weight, 1.0 - reading, reading / level.storage.bytes_per_second)
        return weighed(level, weights, read_depth, beat_seconds)

    def weighed(
        level: Workload, weights: Weights, read_depth: int = _READ_DEPTH, beat_seconds: float = math.inf
    ) -> Schedule | None:
        depths = Depths(heap=lanes.depth if lanes else 1, raw=read_depth)
        memory = budget_bytes - base_bytes - level.fixed_bytes
        selection = select(level.candidates, memory, depths=depths, weights=weights, beat_seconds=beat_seconds)
        if selection is None:
            return None
        return schedule_of_selection(level, budget_bytes, base_bytes, selection, depths, lanes=lanes)

    first: Schedule | None = None
    for level in levels:
        for reading in _FIRST_READING:
            one = found(level, reading)
            first, best = _faster_one(first, one), _faster_one(best, one)
    if best is None:  # without reading ahead, if need be
        return min(filter(None, (found(one, 0.5, 1) for one in levels)), key=_seconds, default=None)
    if first is None:
        return best
    low, high = _FIRST_READING
    for _ in range(_READING_STEPS):
        reading = (low + high) / 2
        one = found(first.workload, reading)
        if one is None:
            break
        best = _faster_one(best, one)
        if read_seconds(one) < _own_seconds(one):
            high = reading
        else:
            low = reading
    bytes_per_second = first.workload.storage.bytes_per_second
    return _faster_one(best, weighed(first.workload, Weights(load_weight, 1.0, 0.0, 1.0 / bytes_per_second)))


def _faster_one(best: Schedule | None, other: Schedule | None) -> Schedule | None:
    return min(filter(None, (best, other)), key=_seconds, default=None)


def _seconds(decided: Schedule) -> float:
    return decided.predicted_seconds


def _own_seconds(decided: Schedule) -> float:
    """Loading and computing, where nothing has to wait for storage."""
    return sum(choice.seconds for choice in decided.chosen if choice is not None)


def smallest_budget(work: Workload, base_bytes: int) -> tuple[int, str]:
    """The least budget that works, and the layer that sets it."""
    kinds = _kinds((work, *work.chained))
    least, culprit = min((_smallest(*kind, base_bytes) for kind in kinds), key=lambda one: one[0])
    return least + work.fixed_bytes, culprit


def _smallest(candidates: Candidates, work: Workload, base_bytes: int) -> tuple[int, str]:
    least, row, weights_first = smallest(candidates)
    rows = [index for index, found in enumerate(work.choices) if found]
    layer = work.profile.layers[rows[row] if rows and weights_first else _widest_step(work)]
    culprit = f"layer {layer.name!r} ({layer.type}, {'weights' if weights_first else 'blobs'})"
    return least + _base_of(candidates, work, base_bytes), culprit


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
