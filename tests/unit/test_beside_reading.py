"""Schedules whose weights are read past the page cache: computing and reading weighed against each other."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexnn_ncnn.errors import BudgetError, UsageError
from flexnn_ncnn.planning.outcome import read_seconds
from flexnn_ncnn.planning.planner import Schedule, Workload, schedule, smallest_budget, workload
from flexnn_ncnn.records.capabilities import STOCK
from flexnn_ncnn.records.profile import LayerProfile, Linear, ModelProfile
from flexnn_ncnn.records.storage import Storage, checked_page_cache
from tests.examples import examples
from tests.unit.profiles import cost, layer, model

BASE = 1000
WEIGHTS = 100_000


def convolution(name: str, source: str, weights: int) -> LayerProfile:
    """One kernel computes twice as fast, and keeps three times the weights; the other keeps them as they are."""
    fast = cost(
        load_seconds=Linear(0.0, 0.004 / 64),
        compute_seconds=Linear(0.0, 0.010 / 64),
        kept_bytes=Linear(0.0, 3 * weights / 64),
        load_peak_bytes=Linear(0.0, 3 * weights / 64),
    )
    small = cost("sgemm", compute_seconds=Linear(0.0, 0.020 / 64), reads_raw=True)
    kernels = (fast, small)
    return layer(name, source, raw_bytes=weights, units=64, granularity=16, blob_axis="c", kernels=kernels)


def network(*weights: int) -> ModelProfile:
    names = ["in", *(f"c{i}" for i in range(len(weights)))]
    return model(*(convolution(names[i + 1], names[i], size) for i, size in enumerate(weights)))


def work_for(bytes_per_second: float, *weights: int) -> Workload:
    return workload(network(*(weights or [WEIGHTS] * 8)), STOCK, Storage("direct", bytes_per_second))


def streamed_bytes(decided: Schedule) -> int:
    return sum(choice.read_bytes for choice in decided.chosen if choice is not None)


@pytest.mark.parametrize("factor", [1.0, 1.5, 2.0, 4.0])
def test_a_schedule_keeps_its_budget_and_takes_as_long_as_the_longer_of_both(factor: float) -> None:
    for speed in (1e6, 1e8, 1e10):
        work = work_for(speed)
        budget = int(factor * smallest_budget(work, BASE)[0])
        decided = schedule(work, budget, BASE)
        made = [choice for choice in decided.chosen if choice is not None]
        assert decided.predicted_peak_bytes <= budget
        assert read_seconds(decided) == pytest.approx(streamed_bytes(decided) / speed)
        assert decided.predicted_seconds == pytest.approx(max(sum(one.seconds for one in made), read_seconds(decided)))


def test_slow_storage_has_as_many_bytes_kept_as_fit_and_fast_storage_what_computes_fast() -> None:
    budget = smallest_budget(work_for(1.0), BASE)[0] + 9 * WEIGHTS // 2
    slow, fast = (schedule(work_for(speed), budget, BASE) for speed in (1e6, 1e12))
    assert streamed_bytes(slow) == 4 * WEIGHTS
    assert streamed_bytes(fast) > streamed_bytes(slow)
    assert fast.predicted_seconds < sum(choice.seconds for choice in slow.chosen if choice is not None)


def test_in_between_both_take_about_as_long() -> None:
    work = work_for(3e6, *range(10_000, 200_000, 8_000))
    decided = schedule(work, smallest_budget(work, BASE)[0] + 14 * WEIGHTS, BASE)
    computing = sum(choice.seconds for choice in decided.chosen if choice is not None)
    assert read_seconds(decided) == pytest.approx(computing, rel=0.15)


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(st.integers(1000, 500_000), min_size=1, max_size=8), st.floats(1e4, 1e12), st.floats(1.0, 8.0))
def test_the_smallest_budget_works_and_less_does_not(weights: list[int], speed: float, factor: float) -> None:
    work = work_for(speed, *weights)
    least, _ = smallest_budget(work, BASE)
    assert schedule(work, int(least * factor), BASE).predicted_peak_bytes <= least * factor
    with pytest.raises(BudgetError):
        schedule(work, least - 1, BASE)


def test_more_memory_is_hardly_ever_slower() -> None:
    work = work_for(5e6)
    least, _ = smallest_budget(work, BASE)
    seconds = [schedule(work, least + extra * WEIGHTS // 2, BASE).predicted_seconds for extra in range(12)]
    assert all(later <= earlier * 1.1 for earlier, later in pairwise(seconds))
    assert seconds[-1] < 0.8 * seconds[0]


def test_there_are_two_ways_to_read() -> None:
    assert checked_page_cache("direct") == "direct"
    with pytest.raises(UsageError, match="'odirect' is no way to read"):
        checked_page_cache("odirect")
