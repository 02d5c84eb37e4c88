from __future__ import annotations

import pytest

from flexnn_ncnn.errors import BudgetError
from flexnn_ncnn.planning.planner import schedule
from flexnn_ncnn.scheduling.forecast import (
    fastest,
    layer_forecasts,
    memory_shares,
    smallest,
    sweep,
    sweep_budgets,
    time_shares,
)
from flexnn_ncnn.scheduling.memory_map import memory_map
from flexnn_ncnn.scheduling.profile_summary import summarise_profile
from tests.unit.small_profiles import BASE_BYTES, small_profile, small_workload

WORK = small_workload()
LEAST = smallest(WORK, BASE_BYTES).budget_bytes


@pytest.mark.parametrize("budget_bytes", [LEAST, 20_000, 30_000, 1_000_000])
def test_shares_add_up_to_what_the_planner_predicts(budget_bytes: int) -> None:
    decided = schedule(WORK, budget_bytes, BASE_BYTES)
    layers = layer_forecasts(decided)
    assert time_shares(layers).seconds == pytest.approx(decided.predicted_seconds)
    memory = memory_shares(decided, BASE_BYTES)
    assert memory.peak_bytes == decided.predicted_peak_bytes <= budget_bytes
    assert all(value >= 0 for value in (memory.arena_bytes, memory.heap_bytes, memory.mapped_bytes))
    assert memory.resident_bytes == sum(layer.kept_bytes for layer in layers)
    assert memory.heap_bytes == max(layer.heap_bytes for layer in layers)


def test_everything_resident_reads_and_transforms_nothing() -> None:
    time = time_shares(layer_forecasts(fastest(WORK, BASE_BYTES)))
    assert (time.read_seconds, time.transform_seconds) == (0.0, 0.0)
    assert time.compute_seconds == pytest.approx(0.010 + 0.001 + 0.003)


def test_streaming_reads_every_byte_and_transforms_every_unit() -> None:
    layers = layer_forecasts(schedule(WORK, LEAST, BASE_BYTES))
    assert [layer.streamed_bytes for layer in layers] == [10_000, 0, 1_000]
    assert layers[0].kernel == "sgemm"
    assert layers[0].slices == 10
    time = time_shares(layers)
    assert time.read_seconds == pytest.approx(11_000 * 1e-7)
    assert time.transform_seconds == pytest.approx(0.001)


def test_the_smallest_budget_works_and_one_byte_less_does_not() -> None:
    assert schedule(WORK, LEAST, BASE_BYTES).predicted_peak_bytes <= LEAST  # a fifth of the heap is kept free
    with pytest.raises(BudgetError):
        schedule(WORK, LEAST - 1, BASE_BYTES)


def test_an_automatic_sweep_spans_all_there_is_to_gain() -> None:
    budgets = sweep_budgets(WORK, BASE_BYTES, points=6)
    assert budgets[0] == LEAST
    assert list(budgets) == sorted(set(budgets))
    points = sweep(WORK, BASE_BYTES, budgets)
    assert all(point.feasible and point.predicted_peak_bytes <= point.budget_bytes for point in points)
    assert points[-1].predicted_seconds <= fastest(WORK, BASE_BYTES).predicted_seconds
    assert points[-1].streamed_bytes == 0 < points[0].streamed_bytes


def test_a_sweep_says_which_budgets_cannot_work() -> None:
    below, above = sweep(WORK, BASE_BYTES, [LEAST + 1, LEAST - 1, LEAST + 1])
    assert (below.budget_bytes, below.feasible) == (LEAST - 1, False)
    assert (above.budget_bytes, above.feasible) == (LEAST + 1, True)


def test_a_memory_map_has_every_blob_where_the_arena_has_it() -> None:
    decided = schedule(WORK, 20_000, BASE_BYTES)
    found = memory_map(decided, BASE_BYTES)
    assert found.layers == ("convolution1", "pooling2", "innerproduct3")
    blobs = [(one.blob, one.begin, one.end) for one in found.blobs if not one.is_scratch]
    assert blobs == [("b1", 0, 2), ("b2", 1, 3), ("b3", 2, 3)]
    assert [(one.begin, one.end) for one in found.blobs if one.is_scratch] == [(0, 1)]
    assert max(one.offset_bytes + one.size_bytes for one in found.blobs) == found.memory.arena_bytes
    assert max(found.heap_bytes) == found.memory.heap_bytes


def test_a_profile_is_summarised_by_ncnns_own_kernels() -> None:
    found = summarise_profile(small_profile())
    assert found.weights_bytes == 11_000
    assert found.read_bytes_per_second == pytest.approx(1e7)
    assert found.compute_seconds == pytest.approx(0.014)
    assert found.transform_seconds == pytest.approx(0.002)
    assert [layer.name for layer in found.dearest(2)] == ["convolution1", "innerproduct3"]
    assert [one.kept_bytes for one in found.layers[0].kernels] == [40_000, 10_000]
    assert found.layers[2].kernels[0].kept_bytes == 1_000  # in place
