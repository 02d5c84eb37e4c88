"""Plans with one thing taken away."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexnn_ncnn.planning.ablation import (
    first_fit,
    without_kernel_choice,
    without_memory_plan,
    without_preloading,
    without_slicing,
)
from flexnn_ncnn.planning.on_demand import on_demand
from flexnn_ncnn.planning.planner import schedule, smallest_budget, workload
from flexnn_ncnn.planning.validate import validate_plan
from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.records.plan import Placement
from tests.unit import plans
from tests.unit.small_profiles import BASE_BYTES, small_profile


def place(begin: int, end: int, size_bytes: int) -> Placement:
    return Placement(f"b{begin}", BlobLayout(1, size_bytes // 4, 1, 1, 1, 4, 1), 0, begin, end)


def test_without_preloading_every_load_waits_until_it_is_needed() -> None:
    plan = plans.good_plan()
    steps = tuple(replace(step, parts=tuple(replace(part, ahead=3) for part in step.parts)) for step in plan.steps)
    ahead = replace(plan, steps=steps, read_ahead_bytes=1_000_000)
    assert without_preloading(ahead) == plan
    assert without_preloading(plan) == plan


def test_without_a_memory_plan_nothing_is_reserved_and_the_plan_keeps_its_rules() -> None:
    plan = plans.good_plan()
    found = without_memory_plan(plan)
    validate_plan(found)
    assert (found.heap_bytes, {step.scratch_bytes for step in found.steps}) == (0, {0})
    assert [place.blob for place in found.placements] == [place.blob for place in plan.placements]
    assert found.budget_bytes >= found.predicted_peak_bytes


def test_what_lies_within_another_blob_moves_with_it() -> None:
    plan = plans.good_plan()
    found = {place.blob: place for place in without_memory_plan(plan).placements}
    before = {place.blob: place for place in plan.placements}
    inner = [place for place in plan.placements if place.within]
    assert inner
    for place in inner:
        distance = place.offset_bytes - before[place.within].offset_bytes
        assert found[place.blob].offset_bytes - found[place.within].offset_bytes == distance


@pytest.mark.parametrize(
    ("places", "offsets"),
    [
        ([place(0, 2, 64), place(1, 3, 64), place(2, 4, 64)], [0, 64, 0]),
        # the hole that is left is too small, where a plan would have swapped the two
        ([place(0, 2, 64), place(1, 3, 64), place(2, 4, 128)], [0, 64, 128]),
        ([place(0, 1, 100), place(1, 2, 100)], [0, 0]),
        ([], []),
    ],
)
def test_first_fit(places: list[Placement], offsets: list[int]) -> None:
    assert first_fit(places) == offsets


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 6), st.integers(1, 300)), max_size=20))
def test_what_exists_at_once_never_overlaps(rows: list[tuple[int, int, int]]) -> None:
    places = [place(begin, begin + steps, size * 4) for begin, steps, size in rows]
    offsets = first_fit(places)
    for i, (one, at) in enumerate(zip(places, offsets, strict=True)):
        assert at % 64 == 0
        for other, there in zip(places[:i], offsets[:i], strict=True):
            at_once = one.begin < other.end and other.begin < one.end
            apart = at + one.size_bytes <= there or there + other.size_bytes <= at
            assert apart or not at_once


def test_on_demand_every_layer_is_whole_as_stock_has_it_and_none_stays() -> None:
    work = workload(small_profile())
    found = on_demand(work, BASE_BYTES)
    layers = work.profile.layers
    for layer, choice in zip(layers, found.chosen, strict=True):
        assert choice is not None
        assert (choice.kernel, choice.part_units, choice.slab_rows) == (layer.kernels[0].kernel, layer.units, 0)
        assert choice.resident == (layer.raw_bytes == 0)
    assert found.kept_bytes == 0
    largest = max(layer.kernels[0].load_peak_bytes.at(layer.units) for layer in layers)
    assert found.predicted_peak_bytes >= BASE_BYTES + work.blob_bytes + largest


def test_without_kernel_choice_every_layer_has_ncnns_own() -> None:
    found = without_kernel_choice(small_profile())
    assert {len(layer.kernels) for layer in found.layers} == {1}
    whole, narrowed = workload(small_profile()), workload(found)
    least, least_narrowed = (smallest_budget(work, BASE_BYTES)[0] for work in (whole, narrowed))
    assert least < least_narrowed
    assert schedule(narrowed, least_narrowed, BASE_BYTES).predicted_seconds > 0


def test_without_slicing_no_layer_has_parts() -> None:
    profile = small_profile()
    sliced = replace(profile, layers=tuple(replace(one, units=64, blob_axis="c") for one in profile.layers))
    for choices in workload(without_slicing(sliced)).choices:
        assert {(one.part_units, one.slab_rows) for one in choices} == {(64, 0)}
    assert any(one.part_units < 64 for choices in workload(sliced).choices for one in choices)
    assert workload(without_slicing(sliced)).chained == ()
