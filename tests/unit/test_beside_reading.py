"""Schedules whose weights are read past the page cache: computing and reading weighed against each other."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexnn_ncnn.errors import BudgetError, UsageError
from flexnn_ncnn.planning.outcome import read_seconds
from flexnn_ncnn.planning.planner import Schedule, Workload, schedule, smallest_budget, workload
from flexnn_ncnn.planning.reading import seconds_beside_reading
from flexnn_ncnn.planning.simulate import Lanes, Load, Turn, distances, inference_seconds
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
        own_seconds = sum(one.seconds for one in made)
        longer_seconds = max(own_seconds, read_seconds(decided))
        assert longer_seconds <= decided.predicted_seconds * (1 + 1e-6)
        assert decided.predicted_seconds <= (own_seconds + read_seconds(decided)) * (1 + 1e-6)


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


LOADS = st.lists(
    st.tuples(st.floats(0.001, 1), st.floats(0, 1), st.integers(1, 50), st.booleans()), min_size=1, max_size=8
)


@given(LOADS, st.integers(50, 500))
def test_reading_is_waited_for_where_nothing_hides_it(found: list[tuple[float, float, int, bool]], memory: int) -> None:
    turns = [Turn(seconds, Load(loading, 0, size, stands)) for seconds, loading, size, stands in found]
    sizes = [size for *_, size, _ in found]
    own, read = inference_seconds(turns, ()), sum(sizes) / 100.0
    seconds = seconds_beside_reading(turns, (), sizes, memory, 100.0)
    assert max(own, read) - 1e-6 <= seconds <= own + read + 1e-6
    assert seconds_beside_reading(turns, (), sizes, memory, 1e15) == pytest.approx(own)
    for ahead in ((), distances([turn.load for turn in turns if turn.load], Lanes(2))):
        several = seconds_beside_reading(turns, ahead, sizes, sum(sizes), 1e15)
        assert several == pytest.approx(inference_seconds(turns, ahead))


def test_reads_hide_behind_what_is_computed_meanwhile_as_far_as_there_is_memory() -> None:
    late = [Turn(1.0), *[Turn(0.0, Load(0.0, 0, 10, True))] * 10]
    spread = [turn for _ in range(10) for turn in (Turn(0.1), Turn(0.0, Load(0.0, 0, 10, True)))]
    sizes = [10] * 10
    assert seconds_beside_reading(late, (), sizes, 10, 100.0) == pytest.approx(1.0 + 0.9)
    assert seconds_beside_reading(late, (), sizes, 50, 100.0) == pytest.approx(1.0 + 0.5)
    assert seconds_beside_reading(late, (), sizes, 100, 100.0) == pytest.approx(1.0)
    assert seconds_beside_reading(spread, (), sizes, 20, 100.0) == pytest.approx(1.0)


def test_what_takes_long_to_read_stays_rather_than_what_is_read_while_others_compute() -> None:
    made = cost(
        load_seconds=Linear(0.0, 0.004 / 64),
        compute_seconds=Linear(0.0, 0.010 / 64),
        kept_bytes=Linear(0.0, WEIGHTS / 64),
        load_peak_bytes=Linear(0.0, WEIGHTS / 64),
    )
    in_place = cost(compute_seconds=Linear(0.0, 0.001 / 64), reads_raw=True)
    cut = {"units": 64, "granularity": 16, "blob_axis": "c"}
    names = ["in", *(f"c{i}" for i in range(8)), "fc"]
    small = [layer(name, source, raw_bytes=WEIGHTS, kernels=(made,), **cut) for source, name in pairwise(names[:-1])]
    large = layer("fc", names[-2], raw_bytes=8 * WEIGHTS, kernels=(in_place,), **cut)
    largest = layer("last", "fc", raw_bytes=40 * WEIGHTS, kernels=(in_place,), **cut)
    work = workload(model(*small, large, largest), STOCK, Storage("direct", 1e7))
    decided = schedule(work, smallest_budget(work, BASE)[0] + 18 * WEIGHTS, BASE)
    resident = [choice is not None and choice.resident for choice in decided.chosen]
    assert resident[-2:] == [True, False]
    assert sum(resident[:-2]) < 4


def test_there_are_two_ways_to_read() -> None:
    assert checked_page_cache("direct") == "direct"
    with pytest.raises(UsageError, match="'odirect' is no way to read"):
        checked_page_cache("odirect")
