"""A profile's records, what must hold of them, and how measurements become figures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flexnn_ncnn.errors import ProfileError
from flexnn_ncnn.profiling.fit import lasting, line, spread
from flexnn_ncnn.records.machine import this_machine
from flexnn_ncnn.records.plan import MODES
from flexnn_ncnn.records.profile import LayerProfile, Linear, ModelProfile, Points, RowWindow, SlabCost
from flexnn_ncnn.records.profile_check import check_profile
from tests.unit import profiles

costs = st.floats(0, 1e12)


@pytest.mark.parametrize(
    ("size", "value"), [(1, 10.0), (4, 10.0), (6, 15.0), (8, 20.0), (12, 16.0), (16, 12.0), (20, 8.0)]
)
def test_points_are_met_and_joined_by_lines(size: int, value: float) -> None:
    assert Points((4, 8, 16), (10.0, 20.0, 12.0)).at(size) == value


def test_one_point_is_a_constant() -> None:
    assert {Points((7,), (3.0,)).at(size) for size in (1, 7, 9)} == {3.0}


@given(st.integers(1, 1000), costs, st.integers(1001, 5000), costs)
@example(1, 0.0, 1001, 15.7)  # rounded, 1001 units cost more than the whole
def test_a_line_meets_the_large_part_and_is_never_below_0(few: int, less: float, many: int, more: float) -> None:
    found = line(few, less, many, more)
    assert min(found.fixed, found.per_unit) >= 0
    assert found.at(many) == pytest.approx(more)
    if less <= more and less / few >= more / many:
        assert found.at(few) == pytest.approx(less, rel=1e-6, abs=1e-9 * more)


def test_a_single_measurement_is_shared_out_to_the_units() -> None:
    assert line(8, 4.0, 8, 4.0) == Linear(0.0, 0.5)
    assert line(1, 4.0, 1, 4.0) == Linear(4.0, 0.0)


def test_a_pass_in_which_the_machine_was_busy_does_not_count() -> None:
    assert lasting([[4.0, 1.9, 2.0], [2.1, 2.2, 9.0], [4.0, 4.0, 4.0]]) == 2.0


def test_spread_is_the_distance_of_the_quartiles() -> None:
    assert spread([1.0]) == 0.0
    assert spread([2.0, 2.0, 2.0]) == 0.0
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2.0 / 3.0)


# What must hold


SLABS = SlabCost(4, 2, Points((2, 4), (1.5, 2.0)), Points((2, 4), (-1e-6, 0.0)))
GOOD = profiles.layer("conv", "in", raw_bytes=64, units=64, granularity=16, blob_axis="c", window=RowWindow(3, 1, 4))


def kernel(**fields: Any) -> LayerProfile:
    return replace(GOOD, kernels=(replace(profiles.cost(kept_bytes=9, slabs=SLABS), **fields),))


def slabs(**fields: Any) -> LayerProfile:
    return kernel(slabs=replace(SLABS, **fields))


BAD_LAYERS: dict[str, LayerProfile] = {
    "cannot run as 'chain'": replace(GOOD, mode="chain"),
    "cannot run as 'sideways'": replace(GOOD, mode="sideways"),
    "cannot be counted": replace(GOOD, granularity=0),
    "odd cost": replace(GOOD, raw_bytes=-1),
    "is cut along 'd'": replace(GOOD, blob_axis="d"),
    "no outputs, or two": replace(GOOD, outputs=("a", "a"), output_layouts=(profiles.PLANE,) * 2, blob_axis=""),
    "several outputs": replace(GOOD, outputs=("a", "b"), output_layouts=(profiles.PLANE,) * 2),
    "lacks an output's layout": replace(GOOD, output_layouts=()),
    "lacks an input's layout": replace(GOOD, input_layouts=()),
    "blob of no values": replace(GOOD, input_layouts=(replace(profiles.PLANE, w=0),)),
    "lanes of no bytes": replace(GOOD, input_layouts=(replace(profiles.PLANE, elempack=3),)),
    "a blob too large": replace(GOOD, input_layouts=(replace(profiles.PLANE, w=1 << 40, h=1 << 40),)),
    "a window of no rows": replace(GOOD, window=RowWindow(0, 1, 4)),
    "has no kernel": replace(GOOD, kernels=()),
    "a kernel twice": replace(GOOD, kernels=(profiles.cost(), profiles.cost())),
    "slabs but no window": replace(kernel(), window=None),
    "reads a blob that nothing writes": replace(GOOD, inputs=("nowhere",)),
    "writes a blob that is there": replace(GOOD, outputs=("in",)),
    "kernel 'magic', is not known": kernel(kernel="magic"),
    "kernel 'default', has an odd cost": kernel(load_seconds=Linear(-1.0, 2.0)),
    "an odd spread": kernel(seconds_spread=-0.1),
    "releases too much": kernel(events=(64, -65)),
    "sizes that do not ascend": kernel(run_peak_bytes=Points((2, 2), (1.0, 1.0))),
    "default', has sizes that do not": kernel(run_peak_bytes=Points((), ())),
    "slabs of no rows": slabs(granularity=0),
    "lacks the cost of the whole": slabs(run_peak_bytes=Points((2,), (1.0,))),
}


def model_of(layer: LayerProfile) -> ModelProfile:
    return profiles.model(layer)


def test_a_good_profile_passes() -> None:
    check_profile(model_of(kernel()))
    check_profile(profiles.model(GOOD, profiles.split("conv", "a b")))


@pytest.mark.parametrize("complaint", BAD_LAYERS)
def test_a_bad_layer_is_named(complaint: str) -> None:
    with pytest.raises(ProfileError, match=complaint) as caught:
        check_profile(model_of(BAD_LAYERS[complaint]))
    assert "'conv'" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"machine_facts": this_machine("1")}, "not that of its fingerprint"),
        ({"read_seconds_per_byte": -1.0}, "odd read rate"),
        ({"read_seconds_per_byte": float("inf")}, "odd read rate"),
        ({"base_bytes": -1}, "odd size"),
        ({"outputs": ("nothing",)}, "output that no layer writes"),
        ({"inputs": (("in", profiles.PLANE),) * 2}, "two inputs of one name"),
    ],
)
def test_a_bad_model_is_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ProfileError, match=complaint):
        check_profile(replace(model_of(GOOD), **fields))


def test_every_mode_but_those_of_plans_can_be_profiled() -> None:
    for mode in set(MODES) - {"chain", "join"}:
        check_profile(model_of(replace(GOOD, mode=mode)))
