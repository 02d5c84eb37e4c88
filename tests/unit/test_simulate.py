"""Loads beside computing: memory is never exceeded, and time is what the two timelines say."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexnn_ncnn.planning.simulate import Load, Turn, distances, inference_seconds
from tests.examples import examples

loads = st.lists(
    st.builds(Load, st.floats(0, 1), st.integers(0, 50), st.integers(0, 50)),
    min_size=1,
    max_size=12,
)


@given(loads, st.integers(50, 200), st.integers(50, 200))
def test_loads_in_memory_at_once_fit(found: list[Load], heap_bytes: int, raw_bytes: int) -> None:
    ahead = distances(found, heap_bytes, raw_bytes)
    for number, distance in enumerate(ahead):
        assert 1 <= distance <= len(found)
        alive = [found[number - back] for back in range(distance)]
        assert sum(one.heap_bytes for one in alive) <= heap_bytes
        assert sum(one.raw_bytes for one in alive) <= raw_bytes
        if distance < len(found):
            one_more = [*alive, found[number - distance]]
            over = (
                sum(one.heap_bytes for one in one_more) > heap_bytes or sum(o.raw_bytes for o in one_more) > raw_bytes
            )
            assert over, "as far ahead as memory allows"


@settings(max_examples=examples(100))
@given(loads, st.lists(st.floats(0, 1), min_size=12, max_size=12), st.integers(50, 500))
def test_an_inference_takes_as_long_as_its_slower_side_and_no_longer_than_both(
    found: list[Load], seconds: list[float], room: int
) -> None:
    turns = [Turn(time, load) for time, load in zip(seconds, found, strict=False)]
    computing, loading = sum(turn.seconds for turn in turns), sum(load.seconds for load in found)
    serial = inference_seconds(turns, ())
    assert serial == pytest.approx(computing + loading)
    overlapped = inference_seconds(turns, distances(found, room, room))
    assert max(computing, loading) - 1e-9 <= overlapped <= serial + 1e-9


def test_one_load_at_a_time_is_serial() -> None:
    turns = [Turn(1.0, Load(0.5, 1, 1)), Turn(2.0), Turn(1.0, Load(0.25, 1, 1))]
    assert inference_seconds(turns, (1, 1)) == pytest.approx(4.0 + 0.5), "the second load runs beside the turn without"


def test_loads_hide_behind_computing_where_there_is_room() -> None:
    turns = [Turn(1.0, Load(0.5, 1, 1))] * 4
    assert inference_seconds(turns, (2, 2, 2, 2)) == pytest.approx(4.0)
    assert inference_seconds(turns, (1, 1, 1, 1)) == pytest.approx(6.0)


def test_more_room_is_never_slower() -> None:
    turns = [Turn(0.1 * (i % 3), Load(0.07 * (i % 4), 10, 10)) for i in range(9)]
    found = [turn.load for turn in turns if turn.load]
    times = [inference_seconds(turns, distances(found, room, room)) for room in (10, 20, 40, 80)]
    assert times == sorted(times, reverse=True)
