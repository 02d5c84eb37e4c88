from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from param_tools.slicing.policy import cuts


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((64, 16, 10, 640), ((0, 64),)),
        ((64, 16, 10, 639), ((0, 32), (32, 64))),
        ((64, 16, 10, 320), ((0, 32), (32, 64))),
        ((64, 16, 10, 319), ((0, 16), (16, 32), (32, 48), (48, 64))),
        ((64, 16, 10, 1), ((0, 16), (16, 32), (32, 48), (48, 64))),
        ((1000, 16, 4, 2000), ((0, 336), (336, 672), (672, 1000))),
        ((20, 16, 1, 1), ((0, 16), (16, 20))),
        ((20, 16, 1, 1, 9), ((0, 20),)),
        ((80, 16, 1, 1, 17), ((0, 32), (32, 80))),
        ((3, 1, 100, 1), ((0, 1), (1, 2), (2, 3))),
        ((5, 1, 0, 1), ((0, 5),)),
        ((8, 16, 100, 1), ((0, 8),)),
        ((1000, 8, 1, 500, 1, True), ((0, 328), (328, 656), (656, 1000))),
        ((24, 8, 1, 16, 1, True), ((0, 8), (8, 16), (16, 24))),
        ((40, 8, 1, 25, 1, True), ((0, 8), (8, 16), (16, 40))),
    ],
)
def test_cuts_are_as_few_and_as_even_as_the_limits_allow(
    arguments: tuple[Any, ...], expected: tuple[tuple[int, int], ...]
) -> None:
    assert cuts(*arguments) == expected


@pytest.mark.parametrize("arguments", [(0, 1, 1, 1), (1, 0, 1, 1), (1, 1, -1, 1), (1, 1, 1, 0), (1, 1, 1, 1, 0)])
def test_nonsense_is_refused(arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="cannot cut"):
        cuts(*arguments)


@given(
    units=st.integers(1, 5000),
    granularity=st.sampled_from([1, 2, 3, 8, 16]),
    unit_bytes=st.integers(0, 1000),
    max_bytes=st.integers(1, 10**6),
    least_units=st.integers(1, 200),
)
def test_cuts_cover_the_axis_and_keep_every_limit(
    units: int, granularity: int, unit_bytes: int, max_bytes: int, least_units: int
) -> None:
    ranges = cuts(units, granularity, unit_bytes, max_bytes, least_units)
    assert [begin for begin, _ in ranges] + [units] == [0] + [end for _, end in ranges]
    sizes = [end - begin for begin, end in ranges]
    assert min(sizes) > 0
    assert all(size % granularity == 0 for size in sizes[:-1])
    if len(ranges) > 1:
        assert min(sizes) >= least_units
    if least_units == 1:
        assert all(size * unit_bytes <= max_bytes or size <= granularity for size in sizes)


@given(half=st.integers(0, 500), unit_bytes=st.integers(1, 100), max_bytes=st.integers(1, 10**5))
def test_odd_cuts_hold_odd_numbers_of_granules(half: int, unit_bytes: int, max_bytes: int) -> None:
    units = (2 * half + 1) * 8
    ranges = cuts(units, 8, unit_bytes, max_bytes, odd=True)
    sizes = [end - begin for begin, end in ranges]
    assert sum(sizes) == units
    assert all(size % 16 == 8 for size in sizes)
    assert all(size * unit_bytes <= max_bytes or size == 8 for size in sizes)


def test_an_even_number_of_granules_has_no_odd_cuts() -> None:
    with pytest.raises(ValueError, match="cannot cut 32 units of 1 bytes at odd multiples of 8"):
        cuts(32, 8, 1, 8, odd=True)
