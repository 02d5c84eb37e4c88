"""From a profile and a budget to a schedule."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flexnn_ncnn.errors import BudgetError
from flexnn_ncnn.planning.planner import schedule, smallest_budget, stock_forecast, without_releases, workload
from flexnn_ncnn.records.capabilities import STOCK, Capabilities
from flexnn_ncnn.records.profile import LayerProfile, Linear, ModelProfile, RowWindow
from tests.examples import examples
from tests.unit.profiles import PLANE, cost, layer, model, split

BASE = 1000
BESIDE = replace(STOCK, cpus_beside=2)
WHEELS = st.sampled_from([STOCK, BESIDE])


def convolution(name: str, source: str, weights: int, *, seconds: float = 0.01) -> LayerProfile:
    """Streaming costs time, keeping costs twice the weights."""
    kernel = cost(
        load_seconds=Linear(0.001, weights * 1e-9),
        compute_seconds=Linear(0.0, seconds / 64),
        kept_bytes=Linear(0.0, 2 * weights / 64),
        load_peak_bytes=Linear(0.0, 2 * weights / 64),
        run_peak_bytes=100,
    )
    return layer(name, source, raw_bytes=weights, units=64, granularity=16, blob_axis="c", kernels=(kernel,))


def network(*weights: int) -> ModelProfile:
    names = ["in", *(f"c{i}" for i in range(len(weights)))]
    return model(*(convolution(names[i + 1], names[i], size) for i, size in enumerate(weights)))


def test_a_budget_that_holds_everything_keeps_everything() -> None:
    decided = schedule(workload(network(64_000, 128_000)), 10**9, BASE)
    assert all(choice is not None and choice.resident and choice.part_units == 64 for choice in decided.chosen)
    assert decided.kept_bytes == 2 * (64_000 + 128_000)


def test_a_schedule_keeps_its_budget_and_adds_up() -> None:
    work = workload(network(64_000, 128_000, 32_000))
    least, _ = smallest_budget(work, BASE)
    for budget in (least, 2 * least, 5 * least):
        decided = schedule(work, budget, BASE)
        made = [choice for choice in decided.chosen if choice is not None]
        assert decided.predicted_peak_bytes <= budget
        assert decided.kept_bytes == sum(choice.kept_bytes for choice in made)
        assert decided.heap_bytes == max(choice.heap_bytes for choice in made)
        assert decided.predicted_seconds == pytest.approx(sum(choice.seconds for choice in made))


@settings(max_examples=examples(50), deadline=None)
@given(st.lists(st.integers(1000, 500_000), min_size=1, max_size=6), st.floats(1, 20), WHEELS)
def test_the_smallest_budget_works_and_less_does_not(weights: list[int], factor: float, can: Capabilities) -> None:
    work = workload(network(*weights), can)
    least, culprit = smallest_budget(work, BASE)
    assert schedule(work, least, BASE).predicted_peak_bytes <= least
    with pytest.raises(BudgetError) as refusal:
        schedule(work, least - 1, BASE)
    assert refusal.value.smallest_bytes == least
    assert refusal.value.culprit == culprit
    assert schedule(work, int(least * factor), BASE).budget_bytes == int(least * factor)


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(st.integers(1000, 500_000), min_size=1, max_size=6), WHEELS)
@example([1000, 1001, 134_347, 215_807], STOCK)
def test_more_budget_is_hardly_slower(weights: list[int], can: Capabilities) -> None:
    work = workload(network(*weights), can)
    least, _ = smallest_budget(work, BASE)
    seconds = [schedule(work, least * n // 4, BASE).predicted_seconds for n in range(4, 30, 3)]
    assert all(later <= 1.1 * earlier for earlier, later in pairwise(seconds))


@settings(max_examples=examples(50), deadline=None)
@given(st.lists(st.integers(1000, 500_000), min_size=2, max_size=6), st.floats(1, 8))
def test_loads_beside_computing_are_chosen_where_they_are_faster_and_keep_the_budget(
    weights: list[int], factor: float
) -> None:
    profile = network(*weights)
    serial, beside = workload(profile), workload(profile, BESIDE)
    budget = int(smallest_budget(serial, BASE)[0] * factor)
    decided = schedule(beside, budget, BASE)
    assert decided.predicted_peak_bytes <= budget
    assert decided.predicted_seconds <= 1.001 * schedule(serial, budget, BASE).predicted_seconds
    assert decided == schedule(beside, budget, BASE)
    if decided.lanes is not None:
        made = [choice for choice in decided.chosen if choice is not None]
        streamed = [choice for choice in made if not choice.resident]
        assert max(choice.heap_bytes for choice in streamed) <= decided.heap_bytes
        assert decided.heap_bytes <= 3.5 * max(choice.heap_bytes for choice in made)


def test_loads_take_turns_where_no_cpu_is_to_spare() -> None:
    profile = network(300_000, 300_000, 300_000)
    budget = 3 * smallest_budget(workload(profile), BASE)[0]
    assert schedule(workload(profile, BESIDE), budget, BASE).lanes is not None
    for can in (STOCK, replace(STOCK, cpus_beside=1)):
        assert schedule(workload(profile, can), budget, BASE).lanes is None
    two_threads = replace(profile, options=replace(profile.options, num_threads=2))
    assert schedule(workload(two_threads, BESIDE), budget, BASE).lanes is None


def test_the_culprit_is_the_layer_that_needs_most() -> None:
    unsliced = replace(convolution("big", "c0", 900_000), blob_axis="", units=1, granularity=1)
    kernel = cost(load_peak_bytes=1_800_000, kept_bytes=1_800_000)
    profile = model(convolution("c0", "in", 1000), replace(unsliced, kernels=(kernel,)))
    least, culprit = smallest_budget(workload(profile), BASE)
    assert culprit.startswith("layer 'big' (Convolution")
    assert least >= 1_800_000, "kept, as streaming needs the same and the raw weights too"


def test_blobs_can_be_the_culprit() -> None:
    wide = replace(PLANE, w=1000)
    profile = model(
        layer("a", "in"), layer("wide", "a", output_layouts=(wide,)), layer("end", "wide", input_layouts=(wide,))
    )
    least, culprit = smallest_budget(workload(profile), BASE)
    assert culprit in ("layer 'wide' (Convolution, blobs)", "layer 'end' (Convolution, blobs)")
    assert least >= wide.size_bytes


def test_the_result_needs_memory_of_its_own() -> None:
    large = replace(PLANE, w=1000)
    work = workload(model(layer("end", "in", output_layouts=(large,))))
    assert smallest_budget(work, 0)[0] >= 2 * large.size_bytes


def test_a_split_runs_no_layer() -> None:
    work = workload(model(layer("a", "in"), split("a", "x y"), layer("b", "x y", mode="list")))
    assert schedule(work, 10**9, 0).chosen[1] is None


def test_the_same_profile_has_the_same_schedule() -> None:
    one, other = (schedule(workload(network(64_000, 128_000, 32_000)), 400_000, BASE) for _ in range(2))
    assert one == other


def test_chains_make_the_arena_smaller() -> None:
    wide = replace(PLANE, w=64, h=64)
    first = layer("a", "in", output_layouts=(wide,), window=RowWindow(3, 1, 64))
    second = layer("b", "a", input_layouts=(wide,), window=RowWindow(16, 16, 4))
    work = workload(model(first, second))
    assert work.chained
    assert work.chained[0].blob_bytes < wide.size_bytes < work.blob_bytes
    decided = schedule(work, smallest_budget(work, 0)[0], 0)
    assert [one.mode for one in decided.workload.profile.layers] == ["chain"]


def test_stock_keeps_the_weights_of_all_layers_and_takes_their_time() -> None:
    needed, seconds = stock_forecast(workload(network(64_000, 128_000)), BASE)
    assert seconds == pytest.approx(0.02)
    assert needed > BASE + 2 * (64_000 + 128_000)


def test_where_nobody_sees_what_is_given_back_schedules_do_without() -> None:
    work = without_releases(workload(network(64_000, 128_000, 32_000)))
    assert [level.joint for level in (work, *work.chained)] == [None] * (1 + len(work.chained))
    least, _ = smallest_budget(work, BASE)
    assert schedule(work, least, BASE).releases is None
