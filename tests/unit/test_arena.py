"""Offsets in one arena: never an overlap, near the lower bound, the same every time."""

from __future__ import annotations

from itertools import combinations, permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from flexnn_ncnn.planning.arena import place
from flexnn_ncnn.planning.problem import Buffer, live_bytes
from tests.examples import examples
from tests.unit.profiles import buffer

STEPS = 12


@st.composite
def buffers(draw: st.DrawFn, most: int = 20) -> list[Buffer]:
    found = []
    for number in range(draw(st.integers(0, most))):
        begin = draw(st.integers(0, STEPS - 1))
        end = draw(st.integers(begin + 1, STEPS))
        found.append(buffer(64 * draw(st.integers(1, 20)), begin, end, f"b{number}"))
    return found


def overlaps(found: list[Buffer], offsets: tuple[int, ...]) -> list[tuple[str, str]]:
    return [
        (one.blob, other.blob)
        for (one, a), (other, b) in combinations(zip(found, offsets, strict=True), 2)
        if one.begin < other.end and other.begin < one.end and a < b + other.size_bytes and b < a + one.size_bytes
    ]


@settings(max_examples=examples(60), deadline=None)
@given(buffers())
def test_buffers_that_exist_at_once_never_overlap(found: list[Buffer]) -> None:
    offsets, size = place(found)
    assert overlaps(found, offsets) == []
    assert all(offset >= 0 and offset % 64 == 0 for offset in offsets)
    assert size == max((o + b.size_bytes for o, b in zip(offsets, found, strict=True)), default=0)
    assert size >= max(live_bytes(found, STEPS))


@settings(max_examples=examples(60), deadline=None)
@given(buffers())
def test_the_same_buffers_get_the_same_places(found: list[Buffer]) -> None:
    assert place(found) == place(list(found))


def smallest_arena(found: list[Buffer]) -> int:
    """The best that any order of placing each buffer as low as it goes achieves; one of them is the optimum."""
    best = sum(one.size_bytes for one in found)
    for order in permutations(found):
        placed: list[tuple[int, Buffer]] = []
        for one in order:
            at_once = [(o, b) for o, b in placed if b.begin < one.end and one.begin < b.end]
            for offset in [0, *sorted(o + b.size_bytes for o, b in at_once)]:
                if all(offset + one.size_bytes <= o or o + b.size_bytes <= offset for o, b in at_once):
                    placed.append((offset, one))
                    break
        best = min(best, max((o + b.size_bytes for o, b in placed), default=0))
    return best


@settings(max_examples=examples(60), deadline=None)
@given(buffers(5))
def test_few_buffers_are_placed_nearly_as_well_as_they_can_be(found: list[Buffer]) -> None:
    assert place(found)[1] <= 1.1 * smallest_arena(found)


def test_a_chain_of_layers_takes_its_widest_step() -> None:
    sizes = [640, 1280, 320, 1920, 64]
    found = [buffer(size, step, min(step + 2, len(sizes))) for step, size in enumerate(sizes)]
    assert place(found)[1] == max(live_bytes(found, len(sizes))) == 1920 + 320


def test_nothing_takes_nothing() -> None:
    assert place([]) == ((), 0)
