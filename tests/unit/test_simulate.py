"""Loads beside computing: memory is never exceeded, and time is what the two timelines say."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexnn_ncnn.planning.simulate import (
    HANDOVER_SECONDS,
    SLOWED_SHARE,
    Lanes,
    Load,
    Turn,
    distances,
    heap_bytes_of,
    inference_seconds,
    raw_bytes_of,
)
from flexnn_ncnn.records.plan import places_of
from tests.examples import examples

loads = st.lists(
    st.builds(Load, st.floats(0, 1), st.integers(0, 50), st.integers(0, 50), st.booleans()),
    min_size=1,
    max_size=12,
)


def beside(load_seconds: float, count: int) -> float:
    """What loads cost the computing beside them."""
    return HANDOVER_SECONDS * count + SLOWED_SHARE * load_seconds


LANES = st.builds(Lanes, st.integers(1, 3), st.integers(0, 3), st.sampled_from([0.125, 0.25, 0.5]))


@given(loads, LANES)
def test_loads_in_memory_at_once_fit_their_places(found: list[Load], lanes: Lanes) -> None:
    ahead = distances(found, lanes)
    places, most = places_of(ahead), max(max(one.heap_bytes, one.raw_bytes) for one in found)
    there: dict[int, Load] = {}
    for number in range(3 * len(found)):
        one = found[number % len(found)]
        distance, place = ahead[number % len(found)], places[number % len(found)]
        assert 1 <= distance <= len(found)
        taken = there.get(place)
        assert number < len(found) or taken is found[(number - distance) % len(found)]
        there[place] = one
        assert len(there) <= lanes.large + lanes.small
        assert sum(other.heap_bytes for other in there.values()) <= heap_bytes_of(found, ahead)
        read_in_place = sum(other.raw_bytes for other in there.values() if other.stands and other is not one)
        assert one.raw_bytes + read_in_place <= raw_bytes_of(found, ahead)
    assert heap_bytes_of(found, ahead) <= lanes.depth * most
    assert raw_bytes_of(found, ahead) <= lanes.depth * most


def test_places_hold_their_largest_loads() -> None:
    found = [Load(0, heap_bytes, 0) for heap_bytes in (7, 3, 4, 9)]
    assert heap_bytes_of(found, distances(found, Lanes(2))) == 16
    assert heap_bytes_of(found, distances(found, Lanes(1, 1, 0.5))) == 13
    assert heap_bytes_of([], ()) == 0


def test_raw_weights_are_mapped_while_a_layer_is_made_or_as_long_as_it_reads_them() -> None:
    made = [Load(0, 0, raw_bytes) for raw_bytes in (7, 3, 4, 9)]
    read = [Load(0, 0, raw_bytes, stands=True) for raw_bytes in (7, 3, 4, 9)]
    assert raw_bytes_of(made, distances(made, Lanes(2))) == 9
    assert raw_bytes_of(read, distances(read, Lanes(2))) == 16, "the first of the next inference beside the last"
    assert raw_bytes_of([], ()) == 0


@settings(max_examples=examples(100))
@given(loads, st.lists(st.floats(0, 1), min_size=12, max_size=12), LANES)
def test_an_inference_takes_as_long_as_its_slower_side_and_no_longer_than_both(
    found: list[Load], seconds: list[float], lanes: Lanes
) -> None:
    turns = [Turn(time, load) for time, load in zip(seconds, found, strict=False)]
    computing, loading = sum(turn.seconds for turn in turns), sum(load.seconds for load in found)
    serial = inference_seconds(turns, ())
    assert serial == pytest.approx(computing + loading)
    overlapped = inference_seconds(turns, distances(found, lanes))
    slower = beside(loading, len(found))
    assert max(computing + slower, loading) - 1e-9 <= overlapped <= serial + slower + 1e-9


def test_one_load_at_a_time_is_serial() -> None:
    turns = [Turn(1.0, Load(0.5, 1, 1)), Turn(2.0), Turn(1.0, Load(0.25, 1, 1))]
    assert inference_seconds(turns, (1, 1)) == pytest.approx(4.5 + beside(0.75, 2)), (
        "the second load runs beside the turn without"
    )


def test_loads_hide_behind_computing_where_there_is_room() -> None:
    turns = [Turn(1.0, Load(0.5, 1, 1))] * 4
    assert inference_seconds(turns, (2, 2, 2, 2)) == pytest.approx(4.0 + beside(2.0, 4))
    assert inference_seconds(turns, (1, 1, 1, 1)) == pytest.approx(6.0 + beside(2.0, 4))


def test_more_room_is_never_slower() -> None:
    turns = [Turn(0.1 * (i % 3), Load(0.07 * (i % 4), 10, 10)) for i in range(9)]
    found = [turn.load for turn in turns if turn.load]
    times = [inference_seconds(turns, distances(found, Lanes(count))) for count in (1, 2, 4, 8)]
    assert times == sorted(times, reverse=True)
