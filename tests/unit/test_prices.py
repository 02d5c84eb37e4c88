"""The price of memory: limits met on the way to it, and bounds below all that they leave room for."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexnn_ncnn.planning.candidates import Depths, Limits
from flexnn_ncnn.planning.knapsack import packed
from flexnn_ncnn.planning.prices import priced_ways
from tests.examples import examples
from tests.unit.test_residency import Layers, candidates, layers, needed_bytes

DEPTHS = st.sampled_from([Depths(), Depths(heap=2, raw=2), Depths(heap=2.5, raw=2.5)])


def least_within(found: Layers, limits: Limits, memory: float, depths: Depths) -> float | None:
    """The least time of all selections within limits, loading left out."""
    room = memory - limits.total(depths)
    problem = candidates(found)
    rows = [
        [one for one, fits in zip(ways, problem.fits(limits)[row], strict=False) if fits]
        for ways, row in zip(found, problem.row_of, strict=True)
    ]
    fitting = [chosen for chosen in product(*rows) if sum(one.kept_bytes for one in chosen) <= room]
    return min((sum(one.seconds for one in chosen) for chosen in fitting), default=None)


@settings(max_examples=examples(100), deadline=None)
@given(layers(most=4), st.integers(0, 400), DEPTHS)
def test_no_selection_within_limits_beats_their_bound(found: Layers, memory: int, depths: Depths) -> None:
    problem = candidates(found)
    prices = priced_ways(problem, problem.seconds, memory, depths, np.inf)
    assert prices is not None
    for way in prices.ways:
        least = least_within(found, way.limits, memory, depths)
        assert least is None or way.bound_seconds <= least + 1e-9


@settings(max_examples=examples(60), deadline=None)
@given(layers(), st.integers(0, 400))
def test_the_most_promising_comes_first(found: Layers, memory: int) -> None:
    problem = candidates(found)
    prices = priced_ways(problem, problem.seconds, memory, Depths(), np.inf)
    assert prices is not None
    bounds = [way.bound_seconds for way in prices.ways]
    assert bounds == sorted(bounds)
    assert len({way.limits for way in prices.ways}) == len(bounds)


@settings(max_examples=examples(60), deadline=None)
@given(layers(), st.integers(0, 400))
def test_the_search_ends_where_nothing_can_be_faster(found: Layers, memory: int) -> None:
    problem = candidates(found)
    fastest = sum(min(one.seconds for one in ways) for ways in found)
    assert priced_ways(problem, problem.seconds, memory, Depths(), fastest * 0.99) is None


@settings(max_examples=examples(60), deadline=None)
@given(layers())
def test_memory_costs_nothing_where_there_is_plenty(found: Layers) -> None:
    problem = candidates(found)
    prices = priced_ways(problem, problem.seconds, 10_000, Depths(), np.inf)
    assert prices is not None
    assert prices.price == 0.0
    assert prices.ways[0].bound_seconds == pytest.approx(sum(min(one.seconds for one in ways) for ways in found))


@settings(max_examples=examples(100), deadline=None)
@given(layers(most=4), st.integers(0, 400))
def test_a_knapsack_fits_its_limits_or_says_that_none_is_faster(found: Layers, memory: int) -> None:
    problem = candidates(found)
    loosest = Limits(*(axis.levels[-1] for axis in problem.axes))
    one = packed(problem, problem.seconds, loosest, memory, Depths())
    if one is None:
        return
    value, selection = one
    assert needed_bytes(tuple(ways[at] for ways, at in zip(found, selection.chosen, strict=True))) <= memory
    assert packed(problem, problem.seconds, loosest, memory, Depths(), beat_seconds=value / 2) is None
