"""Memory given back within an inference: the arena is largest where blobs are, the heap where weights are.

Kept, they are held together although no step needs both. Pages that a step does not use can be given back before it,
at the price of faulting them in again. A schedule that does so holds at most what its largest step needs, not the
sum of the largest arena and the largest loads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from flexnn_ncnn.planning.candidates import Row
from flexnn_ncnn.planning.choices import Choice, staged

__all__ = ["Releases", "StepNeed", "joint_rows", "releases"]

# pages of 4 KB, zeroed and faulted in one by one: 2.7 ms for 3.8 MB of squeezenet, in a virtual machine
_REFAULT_SECONDS_PER_BYTE = 7e-10
# code pages that go each time, of which the next layer faults in what it needs: 5.7 ms for 74 steps of mobilenetv2
_CODE_SECONDS = 8e-5
_INFERENCES = 3

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class StepNeed:
    """What one step uses.

    Attributes:
        arena: ranges of blobs and scratch, ascending, none overlapping another.
        heap_bytes: heap of its load.
        raw_bytes: mapped weights, or outputs handed over.
    """

    arena: Ranges
    heap_bytes: int
    raw_bytes: int


@dataclass(frozen=True, slots=True)
class Releases:
    """What is given back when.

    Attributes:
        arena_steps: before these, all of the arena that the step does not use.
        heap_steps: before these, all of the heap that is free.
        step_seconds: by step what faulting it in again takes of one inference.
        arena_bytes, heap_bytes, raw_bytes: what is held where most is.
        code_bytes: code pages of layers before that are not held there.
    """

    arena_steps: frozenset[int]
    heap_steps: frozenset[int]
    step_seconds: Mapping[int, float]
    arena_bytes: int
    heap_bytes: int
    raw_bytes: int
    code_bytes: int = 0

    @property
    def seconds(self) -> float:
        """What faulting memory in again takes of one inference."""
        return sum(self.step_seconds.values())

    @property
    def held_bytes(self) -> int:
        """What is held where most is, beside what is held whatever is given back."""
        return self.arena_bytes + self.heap_bytes + self.raw_bytes - self.code_bytes


def joint_rows(rows: Sequence[tuple[tuple[Choice, ...], int, bool]], result_bytes: int) -> list[Row]:
    """Rows for `Candidates` in which all memory of a step that is not kept counts as arena.

    Args:
        rows: per layer its choices, the bytes of the blobs that exist then, and whether it is the last.
        result_bytes: what the caller gets, made after the last.
    """

    def joint(choice: Choice, is_last: bool) -> Choice:
        choice = staged(choice)
        raw_bytes = max(choice.raw_bytes, result_bytes if is_last else 0)
        return replace(
            choice, scratch_bytes=choice.scratch_bytes + choice.heap_bytes + raw_bytes, heap_bytes=0, raw_bytes=0
        )

    known: dict[object, tuple[Choice, ...]] = {}
    found = []
    for choices, live_bytes, is_last in rows:
        key = (choices, is_last)
        if key not in known:
            known[key] = tuple(joint(choice, is_last) for choice in choices)
        found.append(Row(known[key], 0, live_bytes))
    return found


def releases(needs: Sequence[StepNeed], limit_bytes: int, code_bytes: int = 0) -> Releases:
    """Give back as little as keeps inferences within a limit, or as much as there is where nothing does.

    Args:
        needs: of the steps.
        limit_bytes: of arena, heap and mapped weights together, beside all code pages.
        code_bytes: code pages that are given back with any of it: a step before which nothing is has them all.
    """
    arena_steps: set[int] = set()
    heap_steps: set[int] = set()
    resident: Ranges = ()
    heap, held = 0, [(0, 0, 0, 0)]
    given_back: dict[int, int] = {}
    for _ in range(_INFERENCES):
        given_back, held = {}, []
        for step, need in enumerate(needs):
            grown, after = _union(resident, need.arena), max(heap, need.heap_bytes)
            arena_saves = _size(grown) - _size(need.arena)
            heap_saves = after - need.heap_bytes
            excess = _size(grown) + after + need.raw_bytes - limit_bytes
            ways = [(heap_saves, False, True), (arena_saves, True, False), (heap_saves + arena_saves, True, True)]
            ways = ways if arena_saves else ways[:1]
            enough = [way for way in ways if way[0] + code_bytes >= excess] or ways[-1:]
            if excess > 0:
                _, of_arena, of_heap = min(enough)
                arena_steps |= {step} if of_arena else set()
                heap_steps |= {step} if of_heap else set()
            if step in arena_steps:
                grown, given_back[step] = need.arena, arena_saves
            if step in heap_steps:
                after, given_back[step] = need.heap_bytes, given_back.get(step, 0) + heap_saves
            resident, heap = grown, after
            gone = code_bytes if step in arena_steps or step in heap_steps else 0
            held.append((_size(grown), after, need.raw_bytes, -gone))
    step_seconds = {step: size * _REFAULT_SECONDS_PER_BYTE + _CODE_SECONDS for step, size in given_back.items()}
    arena_bytes, heap_bytes, raw_bytes, less_bytes = max(held, key=sum)
    steps = frozenset(arena_steps), frozenset(heap_steps)
    return Releases(*steps, step_seconds, arena_bytes, heap_bytes, raw_bytes, -less_bytes)


def _union(one: Ranges, other: Ranges) -> Ranges:
    found: list[tuple[int, int]] = []
    for begin, end in sorted((*one, *other)):
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((begin, end))
    return tuple(found)


def _size(ranges: Iterable[tuple[int, int]]) -> int:
    return sum(end - begin for begin, end in ranges)
