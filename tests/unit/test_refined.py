"""Profiles corrected by what a run showed."""

from __future__ import annotations

from dataclasses import replace

from flexnn_ncnn.planning.choices import run_peak
from flexnn_ncnn.planning.outcome import schedule_of
from flexnn_ncnn.planning.planner import Schedule, workload
from flexnn_ncnn.planning.refined import refined
from flexnn_ncnn.records.profile import ModelProfile, Points, SlabCost
from tests.unit.profiles import cost, layer, model

SLABS = SlabCost(32, 4, Points((8, 32), (500.0, 2000.0)), Points((8, 32), (0.0, 0.0)))
CUT = {"raw_bytes": 6400, "units": 64, "granularity": 16, "blob_axis": "c"}


def network() -> ModelProfile:
    kernel = cost(run_peak_bytes=Points((16, 64), (1000.0, 2000.0)), slabs=SLABS, compute_seconds=0.01)
    alike = layer("a", "in", kernels=(kernel, replace(kernel, kernel="sgemm")), **CUT)
    other = cost(run_peak_bytes=Points((16, 64), (1000.0, 2000.0)), compute_seconds=0.02)
    return model(alike, replace(alike, inputs=("a",), outputs=("b",)), layer("c", "b", kernels=(other,), **CUT))


def decided(part_units: int, slab_rows: int) -> Schedule:
    work = workload(network())
    first = next(
        one
        for one in work.choices[0]
        if (one.kernel, one.part_units, one.slab_rows) == ("default", part_units, slab_rows)
    )
    return schedule_of(work, [first, work.choices[1][0], work.choices[2][0]], 10**6, 0)


def test_a_part_in_between_needs_what_it_was_found_to_need() -> None:
    found = refined(network(), decided(32, 0), {0: 600})
    before, after = network().layers[0].kernels[0], found.layers[0].kernels[0]
    assert run_peak(after, 32, 0) == run_peak(before, 32, 0) + 600
    assert [run_peak(after, units, 0) for units in (16, 64)] == [1000.0, 2000.0]
    assert found.layers[0].kernels[1] == network().layers[0].kernels[1], "another kernel"
    assert found.layers[1].kernels == found.layers[0].kernels, "layers that differ in their weights alone"
    assert found.layers[2] == network().layers[2]


def test_by_slabs_it_is_the_slab_that_grows() -> None:
    found = refined(network(), decided(64, 8), {0: 250})
    assert run_peak(found.layers[0].kernels[0], 64, 8) == run_peak(network().layers[0].kernels[0], 64, 8) + 250


def test_nothing_missing_changes_nothing() -> None:
    assert refined(network(), decided(32, 0), {}) == network()


def test_scratch_that_weights_were_read_to_is_not_workspace() -> None:
    plain = decided(32, 0)
    (first, *others) = plain.chosen
    assert first is not None
    wider = replace(first, scratch_bytes=first.scratch_bytes + 4000, staged_bytes=5000)
    found = refined(network(), replace(plain, chosen=(wider, *others)), {0: 600})
    before, after = network().layers[0].kernels[0], found.layers[0].kernels[0]
    needed = wider.scratch_bytes + 600
    assert needed - 64 <= run_peak(after, 32, 0) < needed + 1
    assert run_peak(before, 32, 0) < first.scratch_bytes
