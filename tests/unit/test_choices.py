"""The ways to run one layer, reckoned by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexnn_ncnn.planning.candidates import Row
from flexnn_ncnn.planning.choices import (
    CALL_BYTES,
    Choice,
    choices,
    cut_evenly,
    part_size,
    run_peak,
    staged,
    undominated,
)
from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.records.profile import LayerProfile, Linear, Points, SlabCost
from tests.unit.profiles import choice, cost, layer

SLABS = SlabCost(
    rows=32,
    granularity=4,
    run_peak_bytes=Points((4, 8, 16, 32), (300.0, 500.0, 900.0, 1700.0)),
    seconds_per_slab=Points((4, 32), (0.001, 0.001)),
)


def weighted(**fields: object) -> LayerProfile:
    plain = {"raw_bytes": 6400, "units": 64, "granularity": 16, "blob_axis": "c"}
    return layer("conv", "in", **{**plain, **fields})


def found(layer: LayerProfile, *, resident: bool) -> list[Choice]:
    return [one for one in choices(layer, 1e-6) if one.resident == resident]


@given(st.integers(1, 5000), st.integers(1, 50), st.sampled_from([1, 4, 16]))
def test_even_cuts_are_multiples_and_never_more_parts_than_asked_for(units: int, parts: int, granularity: int) -> None:
    size = cut_evenly(units, parts, granularity)
    assert 1 <= size <= units
    assert size == units or size % granularity == 0
    assert -(-units // size) <= parts


def test_channels_that_are_no_multiple_of_all_lanes_come_in_odd_granules() -> None:
    assert part_size(weighted(units=72, granularity=8), 2) == 40
    assert part_size(weighted(units=72, granularity=8), 3) == 24
    assert part_size(weighted(units=72, granularity=8, blob_axis="w"), 4) == 24


def test_streaming_pays_for_loading_and_reading() -> None:
    kernel = cost(load_seconds=0.002, compute_seconds=0.010, load_peak_bytes=700, kept_bytes=500)
    (whole,) = [one for one in found(weighted(kernels=(kernel,)), resident=False) if one.part_units == 64]
    assert whole.seconds == pytest.approx(0.012 + 6400e-6, abs=1e-4)
    assert (whole.kept_bytes, whole.heap_bytes, whole.raw_bytes) == (0, 700, 6400)


def test_a_resident_layer_pays_with_memory() -> None:
    kernel = cost(load_seconds=0.002, compute_seconds=0.010, kept_bytes=500, load_peak_bytes=800, run_peak_bytes=300)
    (whole,) = found(weighted(kernels=(kernel,), blob_axis=""), resident=True)
    assert whole.seconds == pytest.approx(0.010, abs=1e-4)
    assert (whole.kept_bytes, whole.heap_bytes, whole.raw_bytes, whole.scratch_bytes) == (500, 0, 0, 320)
    assert whole.load_bytes == 300 + 6400


def test_raw_weights_used_in_place_stay_with_a_resident_layer() -> None:
    (whole,) = found(weighted(kernels=(cost(reads_raw=True),), blob_axis=""), resident=True)
    assert (whole.kept_bytes, whole.load_bytes) == (6400, 0)


def test_more_slices_need_less_memory_and_more_time() -> None:
    kernel = cost(
        load_seconds=Linear(0.001, 1e-5), compute_seconds=Linear(0.001, 1e-4), load_peak_bytes=Linear(0.0, 100.0)
    )
    sliced = sorted(found(weighted(kernels=(kernel,)), resident=False), key=lambda one: one.part_units)
    assert [one.part_units for one in sliced] == [16, 32, 64]
    assert sorted(one.heap_bytes for one in sliced) == [one.heap_bytes for one in sliced]
    assert sorted((one.seconds for one in sliced), reverse=True) == [one.seconds for one in sliced]
    assert [one.raw_bytes for one in sliced] == [1600, 3200, 6400]


def test_slices_are_not_smaller_than_they_may_be() -> None:
    sizes = {one.part_units for one in choices(weighted(least_units=32, kernels=(cost(run_peak_bytes=9),)), 1e-6)}
    assert min(sizes) >= 32


def test_a_slice_that_cannot_be_written_in_place_needs_room_for_its_output() -> None:
    matrix = BlobLayout(dims=2, w=64, h=10, d=1, c=1, elemsize=4, elempack=1)
    columns = weighted(kernels=(cost(run_peak_bytes=100),), blob_axis="w", output_layouts=(matrix,))
    scratch = {one.part_units: one.scratch_bytes for one in choices(columns, 1e-6)}
    assert scratch[64] == 128
    assert scratch[32] == 64 + 64 + matrix.size_bytes // 2


def test_slabs_shrink_the_workspace() -> None:
    kernel = cost(run_peak_bytes=1700, compute_seconds=0.010, slabs=SLABS)
    made = [one for one in choices(weighted(kernels=(kernel,), blob_axis=""), 1e-6) if one.resident]
    assert {one.slab_rows for one in made} == {0, 4, 8, 16}
    by_rows = {one.slab_rows: one for one in made}
    assert run_peak(kernel, 64, 8) == pytest.approx(1700 * 500 / 1700)
    assert by_rows[8].scratch_bytes == 512, "rounded up to what an allocation is aligned to"
    assert by_rows[8].seconds - by_rows[0].seconds == pytest.approx(4 * 0.001, abs=1e-4)


def test_a_weightless_layer_is_just_there() -> None:
    (only,) = choices(layer("pool", "in", kernels=(cost(run_peak_bytes=50, compute_seconds=0.5),)), 1e-6)
    assert (only.resident, only.kept_bytes, only.raw_bytes, only.heap_bytes) == (True, 0, 0, 0)
    assert only.scratch_bytes == 64


def test_rows_of_an_embedding_are_never_kept() -> None:
    assert found(layer("words", "in", mode="gather", raw_bytes=100), resident=True) == []


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=8))
def test_only_what_is_worse_in_everything_is_dropped(facts: list[tuple[int, int, int]]) -> None:
    made = [choice(float(a), kept_bytes=b, heap_bytes=c, part_units=i) for i, (a, b, c) in enumerate(facts)]
    kept = undominated(made)
    assert kept
    for one in made:
        mine = (one.seconds, one.kept_bytes, one.heap_bytes)
        beaten = any(
            all(x <= y for x, y in zip(its, mine, strict=True)) and its != mine
            for its in ((other.seconds, other.kept_bytes, other.heap_bytes) for other in made)
        )
        assert (one in kept) is not beaten


def test_slices_and_slabs_take_what_they_need_to_be_called() -> None:
    by_slabs = cost(run_peak_bytes=1700, slabs=SLABS, compute_seconds=0.01)
    ways = choices(weighted(kernels=(by_slabs,)), 1e-6)
    calls = {-(-64 // one.part_units) * (-(-32 // one.slab_rows) if one.slab_rows else 1) for one in ways}
    assert len(calls) > 2
    for one in ways:
        count = -(-64 // one.part_units) * (-(-32 // one.slab_rows) if one.slab_rows else 1)
        assert one.objects_bytes == (count - 1) * CALL_BYTES


def test_weights_that_only_loading_reads_take_the_place_of_scratch() -> None:
    kernel = cost(kept_bytes=500, load_peak_bytes=700, run_peak_bytes=100_000)
    for raw_bytes, scratch_bytes in ((80_000, 100_032), (200_000, 200_512), (1_048_576, 1_049_088)):
        (whole,) = found(weighted(kernels=(kernel,), blob_axis="", raw_bytes=raw_bytes), resident=False)
        read_to = staged(whole)
        assert (read_to.raw_bytes, read_to.staged_bytes) == (0, raw_bytes)
        assert scratch_bytes - 64 <= read_to.scratch_bytes <= scratch_bytes
        assert replace(read_to, raw_bytes=raw_bytes, staged_bytes=0, scratch_bytes=whole.scratch_bytes) == whole
        assert staged(read_to) == read_to


@pytest.mark.parametrize("fields", [{"raw_bytes": 2_000_000}, {"raw_bytes": 60_000}, {"mode": "gather"}, {"raw": True}])
def test_other_weights_are_mapped(fields: dict[str, Any]) -> None:
    kernel = replace(cost(), reads_raw=fields.pop("raw", False))
    (whole,) = found(weighted(kernels=(kernel,), **{"blob_axis": "", "raw_bytes": 200_000, **fields}), resident=False)
    assert staged(whole) == whole
    resident = found(weighted(kernels=(kernel,), **{"blob_axis": "", "raw_bytes": 200_000, **fields}), resident=True)
    assert [staged(one) for one in resident] == resident


def test_weights_are_not_read_to_scratch_that_would_make_the_arena_larger() -> None:
    kernel = cost(kept_bytes=500, load_peak_bytes=700, run_peak_bytes=1000)
    (whole,) = found(weighted(kernels=(kernel,), blob_axis="", raw_bytes=200_000), resident=False)
    for hole_bytes, above_bytes, arena_bytes, fits in (
        (0, 100_000, 300_512, True),
        (0, 100_000, 300_000, False),
        (200_512, 300_000, 300_000, True),
        (200_000, 300_000, 300_000, False),
    ):
        (best,) = Row((whole,), hole_bytes, above_bytes).staged(arena_bytes).choices
        assert best == (staged(whole) if fits else whole)
